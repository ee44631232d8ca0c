//! What follows from other settings, and contradictions between them.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::dotenv::{self, Format};
use crate::load::Loaded;
use crate::node::{FileError, Map, Node, Place, Value};
use crate::order;
use crate::project::{Project, Service};

/// Fills in the default network, the networks' and volumes' full names, and the order that links and shared namespaces ask for.
pub(crate) fn fill(loaded: &mut Loaded) -> Result<(), FileError> {
    let name = loaded.name.clone();
    let Some(root) = loaded.root.as_map_mut() else { return Ok(()) };
    let mut default_used = false;
    if let Some(services) = root.get_mut("services").and_then(Node::as_map_mut) {
        for (service, node) in services.iter_mut() {
            default_used |= fill_service(service, node);
        }
    }
    let empty = || Node::new(Value::Map(Map::default()), &Place::nowhere());
    if default_used {
        if root.get("networks").is_none() {
            root.insert("networks", empty());
        }
        if let Some(networks) = root.get_mut("networks").and_then(Node::as_map_mut)
            && networks.get("default").is_none()
        {
            networks.insert("default", empty());
        }
    }
    for section in ["networks", "volumes", "secrets", "configs"] {
        let Some(map) = root.get_mut(section).and_then(Node::as_map_mut) else { continue };
        for (key, node) in map.iter_mut() {
            if node.value == Value::Null {
                node.value = Value::Map(Map::default());
            }
            if node.get("name").is_none() {
                let full = if node.is_on("external") { key.clone() } else { format!("{name}_{key}") };
                let full = node.text(full);
                if let Some(map) = node.as_map_mut() {
                    map.insert("name", full);
                }
            }
        }
    }
    Ok(())
}

/// True if the service is on the default network.
fn fill_service(name: &str, node: &mut Node) -> bool {
    let mut before: Vec<(String, bool)> = Vec::new();
    let list = |field: &str| node.get(field).map(Node::elements).unwrap_or_default();
    for link in list("links").iter().filter_map(Node::as_text) {
        before.push((link.split(':').next().unwrap_or_default().to_owned(), true));
    }
    for mode in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        if let Some(other) = node.text_of(mode).and_then(|mode| mode.strip_prefix("service:")) {
            before.push((other.to_owned(), true));
        }
    }
    for from in list("volumes_from").iter().filter_map(Node::as_text) {
        if !from.starts_with("container:") {
            before.push((from.split(':').next().unwrap_or_default().to_owned(), false));
        }
    }
    before.retain(|(other, _)| other != name);
    let place = node.place.clone();
    let on_default = node.get("network_mode").is_none()
        && node.get("provider").is_none()
        && node.get("networks").and_then(Node::as_map).is_none_or(Map::is_empty);
    let Some(map) = node.as_map_mut() else { return false };
    for field in ["command", "deploy", "develop", "entrypoint"] {
        if map.get(field).is_some_and(|node| node.value == Value::Null) {
            map.remove(field);
        }
    }
    // it is in the specification, and says nothing that a pull policy does not
    map.remove("pull_refresh_after");
    for (other, restart) in before {
        if map.get("depends_on").is_none() {
            map.insert("depends_on", Node::new(Value::Map(Map::default()), &place));
        }
        let at = Node::new(Value::Null, &place);
        let mut long = at.map([("condition", Value::Text("service_started".to_owned()))]);
        if let Some(long) = long.as_map_mut() {
            if restart {
                long.insert("restart", Node::new(Value::Bool(true), &place));
            }
            long.insert("required", Node::new(Value::Bool(true), &place));
        }
        if let Some(depends) = map.get_mut("depends_on").and_then(Node::as_map_mut)
            && depends.get(&other).is_none()
        {
            depends.insert(other, long);
        }
    }
    if on_default {
        let default = Map::from_iter([("default".to_owned(), Node::new(Value::Null, &place))]);
        map.insert("networks", Node::new(Value::Map(default), &place));
    }
    let mut on_default = on_default;
    if let Some(networks) = map.get("networks").and_then(Node::as_map) {
        on_default |= networks.get("default").is_some();
    }
    on_default
}

/// Looks for names of what is not there and for settings that contradict each other.
pub(crate) fn check(project: &Project) -> Result<(), FileError> {
    for service in project.services.values() {
        check_names(project, service)?;
        check_limits(service)?;
    }
    for (section, objects) in [("secrets", &project.secrets), ("configs", &project.configs)] {
        for (name, object) in objects {
            let spec = &object.spec;
            let sources = [spec.file.is_some(), spec.environment.is_some(), spec.content.is_some(), spec.external];
            if sources.into_iter().filter(|given| *given).count() != 1 && spec.driver.is_none() {
                let why = "needs one of \"file\", \"environment\", \"content\" and \"external\"";
                return Err(FileError::at(&object.node, &format!("{section}.{name}"), why));
            }
        }
    }
    order::check(&project.services)
}

fn check_names(project: &Project, service: &Service) -> Result<(), FileError> {
    let (spec, name) = (&service.spec, &service.name);
    let fail = |field: &str, why: String| {
        let at = service.node.get(field).unwrap_or(&service.node);
        Err(FileError::at(at, &format!("services.{name}.{field}"), why))
    };
    for (other, dependency) in &spec.depends_on {
        if project.services.contains_key(other) || !dependency.required {
            continue;
        }
        if let Some(disabled) = project.disabled.get(other) {
            let profiles = disabled.spec.profiles.join(" or ");
            return fail(
                "depends_on",
                format!("the service {other:?} is in no active profile; activate one with: --profile {profiles}"),
            );
        }
        return fail("depends_on", format!("there is no service {other:?}; add it, or take it out here"));
    }
    for network in spec.networks.keys() {
        if !project.networks.contains_key(network) {
            return fail("networks", format!("there is no network {network:?}; add it under \"networks\" at the top"));
        }
    }
    for mount in spec.volumes.iter().filter(|mount| mount.kind == "volume") {
        if let Some(source) = mount.source.as_ref().filter(|source| !project.volumes.contains_key(*source)) {
            return fail("volumes", format!("there is no volume {source:?}; add it under \"volumes\" at the top"));
        }
    }
    let built = spec.build.iter().flat_map(|build| build.secrets.iter());
    for reference in spec.secrets.iter().chain(built) {
        if !project.secrets.contains_key(&reference.source) {
            return fail(
                "secrets",
                format!("there is no secret {:?}; add it under \"secrets\" at the top", reference.source),
            );
        }
    }
    for reference in &spec.configs {
        if !project.configs.contains_key(&reference.source) {
            return fail(
                "configs",
                format!("there is no config {:?}; add it under \"configs\" at the top", reference.source),
            );
        }
    }
    if let Some(model) = spec.models.keys().find(|name| !project.models.contains_key(*name)) {
        return fail("models", format!("there is no model {model:?}; add it under \"models\" at the top"));
    }
    if let Some(first) = spec.healthcheck.as_ref().and_then(|health| health.test.first())
        && !["NONE", "CMD", "CMD-SHELL"].contains(&first.as_str())
    {
        return fail(
            "healthcheck",
            format!("its \"test\" begins with {first:?}; a list begins with CMD, CMD-SHELL or NONE"),
        );
    }
    if spec.image.is_none() && spec.build.is_none() && spec.provider.is_none() {
        return fail("image", "says neither \"image\" nor \"build\"; give one of them".to_owned());
    }
    if spec.network_mode.is_some() && !spec.networks.is_empty() {
        return fail("network_mode", "does not go with \"networks\"; give one of them".to_owned());
    }
    Ok(())
}

fn check_limits(service: &Service) -> Result<(), FileError> {
    let (spec, name) = (&service.spec, &service.name);
    let fail = |field: &str, why: String| {
        let at = service.node.get(field).unwrap_or(&service.node);
        Err(FileError::at(at, &format!("services.{name}.{field}"), why))
    };
    let twice = |other: &str| format!("says something else than \"{other}\"; give one of them");
    if let Some(deploy) = &spec.deploy {
        if let (Some(scale), Some(replicas)) = (spec.scale, deploy.replicas)
            && scale != replicas
        {
            return fail("scale", twice("deploy.replicas"));
        }
        if let Some(limits) = &deploy.resources.limits {
            let differ = |a: Option<i64>, b: Option<i64>| matches!((a, b), (Some(a), Some(b)) if a != b);
            if differ(spec.mem_limit, limits.memory) {
                return fail("mem_limit", twice("deploy.resources.limits.memory"));
            }
            if differ(spec.pids_limit, limits.pids) {
                return fail("pids_limit", twice("deploy.resources.limits.pids"));
            }
            if let (Some(one), Some(other)) = (spec.cpus, limits.cpus)
                && one.to_bits() != other.to_bits()
            {
                return fail("cpus", twice("deploy.resources.limits.cpus"));
            }
        }
    }
    if let Some(container) = &spec.container_name {
        let sound = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
        let led = container.starts_with(|first: char| first.is_ascii_alphanumeric());
        if container.len() < 2 || !led || !container.chars().all(sound) {
            return fail(
                "container_name",
                format!("bad name {container:?}: give letters, digits, \"_\", \".\" and \"-\", at least two"),
            );
        }
        if service.scale() > 1 {
            return fail(
                "container_name",
                "one name cannot be shared by several containers; take it out, or scale to 1".to_owned(),
            );
        }
    }
    let check_policy = |policy: &str| {
        let (kind, times) = policy.split_once(':').map_or((policy, None), |(kind, times)| (kind, Some(times)));
        let times_sound = times.is_none_or(|times| kind == "on-failure" && times.parse::<u32>().is_ok());
        ["no", "always", "on-failure", "unless-stopped", ""].contains(&kind) && times_sound
    };
    if let Some(policy) = spec.restart.as_deref().filter(|policy| !check_policy(policy)) {
        return fail(
            "restart",
            format!("bad policy {policy:?}: give no, always, on-failure[:TIMES] or unless-stopped"),
        );
    }
    if let Some(policy) = &spec.pull_policy {
        let known = ["always", "never", "build", "if_not_present", "missing", "refresh", "daily", "weekly"];
        let spaced = policy.strip_prefix("every_").is_some_and(|span| crate::unit::span(span).is_ok());
        if !known.contains(&policy.as_str()) && !spaced {
            return fail("pull_policy", format!("bad policy {policy:?}: give {} or every_SPAN", known.join(", ")));
        }
    }
    if spec.healthcheck.as_ref().is_some_and(|health| health.disable && !health.test.is_empty()) {
        return fail("healthcheck", "is disabled and has a test; give one of them".to_owned());
    }
    Ok(())
}

/// Reads a service's env and label files, and takes variables without a value from the user's.
pub(crate) fn environment(
    service: &mut Service,
    user: &BTreeMap<String, String>,
    read: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<(), FileError> {
    let own = service.spec.environment.clone();
    let mut whole: BTreeMap<String, Option<String>> = BTreeMap::new();
    let path = format!("services.{}.env_file", service.name);
    let at = |service: &Service, field: &str| service.node.get(field).cloned().unwrap_or_else(|| service.node.clone());
    for file in &service.spec.env_file {
        let node = at(service, "env_file");
        let format = match file.format.as_deref() {
            None | Some("") => Format::Full,
            Some("raw") => Format::Raw,
            Some(other) => {
                return Err(FileError::at(&node, &path, format!("bad format {other:?}: give raw, or leave it out")));
            }
        };
        let text = match read(Path::new(&file.path)) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && file.required == Some(false) => continue,
            Err(error) => {
                let why = format!("cannot read {}: {error}; make the file, or say \"required: false\"", file.path);
                return Err(FileError::at(&node, &path, why));
            }
        };
        let lookup = |name: &str| {
            own.get(name)
                .cloned()
                .flatten()
                .or_else(|| user.get(name).cloned())
                .or_else(|| whole.get(name).cloned().flatten())
        };
        let read = dotenv::parse(&text, format, &lookup);
        let read = read.map_err(|why| FileError::file(Path::new(&file.path), why.to_string()))?;
        // a name without a value is the user's variable, or nothing at all
        let known = read.into_iter().filter_map(|(name, value)| {
            let value = value.or_else(|| user.get(&name).cloned())?;
            Some((name, Some(value)))
        });
        whole.extend(known.collect::<Vec<_>>());
    }
    for (name, value) in own {
        let value = value.or_else(|| user.get(&name).cloned());
        whole.insert(name, value);
    }
    build_arguments(service, user);
    let mut labels = BTreeMap::new();
    for file in &service.spec.label_file {
        let node = at(service, "label_file");
        let path = format!("services.{}.label_file", service.name);
        let text = read(Path::new(file))
            .map_err(|error| FileError::at(&node, &path, format!("cannot read {file}: {error}")))?;
        let read = dotenv::parse(&text, Format::Full, &|name| user.get(name).cloned());
        let read = read.map_err(|why| FileError::file(Path::new(file), why.to_string()))?;
        labels.extend(read.into_iter().map(|(name, value)| (name, Some(value.unwrap_or_default()))));
    }
    labels.extend(
        std::mem::take(&mut service.spec.labels)
            .into_iter()
            .map(|(name, value)| (name, Some(value.unwrap_or_default()))),
    );
    set_pairs(&mut service.node, "environment", &whole);
    set_pairs(&mut service.node, "labels", &labels);
    if let Some(map) = service.node.as_map_mut() {
        // the names of label files count when docker compose compares containers with the file
        map.remove("env_file");
    }
    *service = Service::new(&service.name, service.node.clone())?;
    Ok(())
}

/// Takes arguments of the build without a value from the user's variables.
fn build_arguments(service: &mut Service, user: &BTreeMap<String, String>) {
    let build = service.node.as_map_mut().and_then(|map| map.get_mut("build")).and_then(Node::as_map_mut);
    let Some(build) = build else { return };
    let Some(args) = build.get_mut("args").and_then(Node::as_map_mut) else { return };
    for (name, value) in args.iter_mut().filter(|(_, value)| value.value == Value::Null) {
        value.value = user.get(name).cloned().map_or(Value::Null, Value::Text);
    }
    args.retain(|_, value| value.value != Value::Null);
    if args.is_empty() {
        build.remove("args");
    }
}

fn set_pairs(node: &mut Node, field: &str, pairs: &BTreeMap<String, Option<String>>) {
    let place = node.place.clone();
    let Some(map) = node.as_map_mut() else { return };
    if pairs.is_empty() {
        return;
    }
    let pairs = pairs.iter().map(|(name, value)| {
        let value = value.clone().map_or(Value::Null, Value::Text);
        (name.clone(), Node::new(value, &place))
    });
    map.insert(field, Node::new(Value::Map(pairs.collect()), &place));
}
