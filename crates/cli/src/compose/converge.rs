//! Containers brought to what the file says: made, made anew where they differ, removed where there are too many.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::sync::Mutex;

use compose::create::{self, Container, Found, Which, label};
use compose::hash;
use compose::project::Service;
use serde_json::{Value, json};

use super::plugin::{self, Lent, Task};
use super::stack::{Kind, Member, Mode, Stack};
use super::{socket, tar};
use crate::client::{Client, Query, encode};
use crate::failure::{During as _, Failure};
use crate::table;

/// Which containers are made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recreate {
    /// Those that are not what the file says.
    Diverged,
    /// All.
    Force,
    /// None.
    Never,
}

/// What becomes of volumes without a name when a container is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anonymous {
    Kept,
    Renewed,
}

/// How containers are brought to what the file says.
pub(super) struct Rules {
    /// For the services that were named.
    pub(super) recreate: Recreate,
    /// For the services that those need.
    pub(super) recreate_others: Recreate,
    /// The services that were named; empty for all.
    pub(super) named: Vec<String>,
    pub(super) anonymous: Anonymous,
    /// How long containers have to stop, in seconds.
    pub(super) timeout: Option<i64>,
    /// The images' ids by service.
    pub(super) images: BTreeMap<String, String>,
    /// The networks' ids by their full names.
    pub(super) networks: BTreeMap<String, String>,
    /// Variables of what is no container.
    pub(super) lent: Lent,
}

/// Services in groups, each of which needs only what is in those before.
pub(super) fn waves(stack: &Stack) -> Vec<Vec<&Service>> {
    let services = &stack.project.services;
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut left = compose::order::sorted(services);
    let mut waves = Vec::new();
    while !left.is_empty() {
        let ready = |name: &&str| {
            let needs = services.get(*name).map(|service| service.spec.depends_on.keys().collect::<Vec<_>>());
            needs.into_iter().flatten().all(|name| !services.contains_key(name) || done.contains(name.as_str()))
        };
        let (now, later): (Vec<&str>, Vec<&str>) = left.iter().partition(|name| ready(name));
        // a circle is refused when files are read
        let now = if now.is_empty() { later.clone() } else { now };
        left = later.into_iter().filter(|name| !now.contains(name)).collect();
        done.extend(&now);
        waves.push(now.into_iter().filter_map(|name| services.get(name)).collect());
    }
    waves
}

/// Brings all services' containers to what the file says; the names of those services of which one was made anew.
pub(super) fn services(stack: &Stack, rules: &Rules) -> Result<BTreeSet<String>, Failure> {
    let mut present: BTreeMap<String, Vec<Member>> = BTreeMap::new();
    for member in stack.members(Kind::Service)? {
        present.entry(member.service.clone()).or_default().push(member);
    }
    let present = Mutex::new(present);
    let renewed = Mutex::new(BTreeSet::new());
    for wave in waves(stack) {
        stack.each(&wave, |service| {
            if let Some(provider) = &service.spec.provider {
                return plugin::provide(stack, service, provider, Task::Up, &rules.lent);
            }
            let before = lock(&present).clone();
            let (now, anew) = one(stack, &rules.lent.with(service)?, rules, &before)?;
            lock(&present).insert(service.name.clone(), now);
            if anew {
                lock(&renewed).insert(service.name.clone());
            }
            Ok(())
        })?;
    }
    Ok(renewed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Brings one service's containers to what the file says.
fn one(
    stack: &Stack,
    service: &Service,
    rules: &Rules,
    present: &BTreeMap<String, Vec<Member>>,
) -> Result<(Vec<Member>, bool), Failure> {
    let mut found = found_of(present, rules.images.get(&service.name).cloned().unwrap_or_default());
    let service = create::resolved(service, &found);
    let scale = service.scale();
    let mut members = present.get(&service.name).cloned().unwrap_or_default();
    let named = rules.named.is_empty() || rules.named.contains(&service.name);
    let recreate = if named { rules.recreate } else { rules.recreate_others };
    // what is too many is what the file says otherwise, and then the last ones
    members.sort_by_key(|member| (differs(stack, &service, member, rules, recreate), member.number));
    let surplus = members.split_off(scale.min(members.len()));
    stack.each(&surplus, |member| {
        stop(stack, member, rules.timeout)?;
        remove(stack, member, Anonymous::Kept)
    })?;
    let diverged = |member: &Member| differs(stack, &service, member, rules, recreate);
    if members.iter().any(diverged) {
        stop_dependents(stack, &service.name, rules.timeout)?;
    }
    let kept = stack.each(&members, |member| {
        if !diverged(member) {
            if member.is_running() {
                stack.board.done("Container", &member.name, "Running");
            }
            return Ok((member.clone(), false));
        }
        let mut found = found.clone();
        found.volumes =
            if rules.anonymous == Anonymous::Kept { left_volumes(stack, &service, member)? } else { BTreeMap::new() };
        Ok((anew(stack, &service, member, &found, rules)?, true))
    })?;
    let renewed = kept.iter().any(|(_, renewed)| *renewed);
    let mut members: Vec<Member> = kept.into_iter().map(|(member, _)| member).collect();
    let first = members.iter().map(|member| member.number).max().unwrap_or(0);
    let numbers: Vec<usize> = (first + 1..=first + scale.saturating_sub(members.len())).collect();
    found.volumes.clear();
    let made = stack.each(&numbers, |number| {
        let container = container(stack, &service, &Which::Number(*number), &found)?;
        stack.board.working("Container", &container.name, "Creating");
        let id = make(stack, &service, &container, &container.name)
            .inspect_err(|_| stack.board.failed("Container", &container.name, "Error"))?;
        stack.board.done("Container", &container.name, "Created");
        Ok(made(&service, container, id, *number))
    })?;
    members.extend(made);
    Ok((members, renewed))
}

/// A container as the list would have it.
fn made(service: &Service, container: Container, id: String, number: usize) -> Member {
    Member {
        id,
        name: container.name,
        service: service.name.clone(),
        number,
        one_off: false,
        state: "created".to_owned(),
        listed: Value::Null,
    }
}

fn found_of(present: &BTreeMap<String, Vec<Member>>, image: String) -> Found {
    let services = present.iter().map(|(name, members)| {
        (name.clone(), members.iter().map(|member| (member.id.clone(), member.name.clone())).collect())
    });
    Found { image, services: services.collect(), volumes: BTreeMap::new() }
}

/// What other services' containers are, for one of this service.
pub(super) fn found(stack: &Stack, image: String) -> Result<Found, Failure> {
    let mut present: BTreeMap<String, Vec<Member>> = BTreeMap::new();
    for member in stack.members(Kind::Service)? {
        present.entry(member.service.clone()).or_default().push(member);
    }
    Ok(found_of(&present, image))
}

/// Whether a container has to be made anew.
fn differs(stack: &Stack, service: &Service, member: &Member, rules: &Rules, recreate: Recreate) -> bool {
    match recreate {
        Recreate::Never => return false,
        Recreate::Force => return true,
        Recreate::Diverged => {}
    }
    if !hash::is_of_service(member.label(label::HASH), &service.node) {
        return true;
    }
    let image = rules.images.get(&service.name).map(String::as_str).unwrap_or_default();
    if !image.is_empty() && !member.label(label::IMAGE).is_empty() && member.label(label::IMAGE) != image {
        return true;
    }
    if lacks_volume(stack, service, member) {
        return true;
    }
    // one that stands joins networks by their names when it starts
    if !member.is_running() {
        return false;
    }
    // a network that it is not in, or one of the same name that is not the same network
    let Some(joined) = member.listed.pointer("/NetworkSettings/Networks").and_then(Value::as_object) else {
        return false;
    };
    let wanted = service.networks().into_iter().filter_map(|(key, _)| stack.project.networks.get(key));
    wanted.map(|resource| resource.spec.name.as_str()).any(|name| {
        let id = joined.get(name).map(|endpoint| table::text(endpoint, "/NetworkID"));
        let known = rules.networks.get(name).map(String::as_str).unwrap_or_default();
        id.is_none_or(|id| !known.is_empty() && !id.is_empty() && known != id)
    })
}

/// Whether a volume that the service has a name for is not in the container: the name may mean another volume now.
fn lacks_volume(stack: &Stack, service: &Service, member: &Member) -> bool {
    let has = |name: &str| {
        let mounts = table::elements(&member.listed, "/Mounts").iter();
        mounts.filter(|mount| table::text(mount, "/Type") == "volume").any(|mount| table::text(mount, "/Name") == name)
    };
    let named = service.spec.volumes.iter().filter(|mount| mount.kind == "volume");
    let volumes = named.filter_map(|mount| stack.project.volumes.get(mount.source.as_deref()?));
    volumes.into_iter().any(|volume| !has(&volume.spec.name))
}

/// Stops the containers of services that are to be started again when this one's are made anew.
fn stop_dependents(stack: &Stack, name: &str, timeout: Option<i64>) -> Result<(), Failure> {
    let depends = |other: &&Service| other.spec.depends_on.get(name).is_some_and(|dependency| dependency.restart);
    let names: Vec<String> =
        stack.project.services.values().filter(depends).map(|service| service.name.clone()).collect();
    if names.is_empty() {
        return Ok(());
    }
    super::down::stop_services(stack, &names, timeout)
}

/// The volumes without a name that a container has.
fn left_volumes(stack: &Stack, service: &Service, member: &Member) -> Result<BTreeMap<String, String>, Failure> {
    let container = stack.client().get(&format!("/containers/{}/json", member.id))?;
    let taken = |target: &str| {
        let named = service
            .spec
            .volumes
            .iter()
            .any(|mount| mount.target == target && (mount.source.is_some() || mount.kind != "volume"));
        named || service.spec.tmpfs.iter().any(|text| text.split(':').next() == Some(target))
    };
    let mounts = table::elements(&container, "/Mounts").iter();
    let volumes = mounts
        .filter(|mount| table::text(mount, "/Type") == "volume")
        .map(|mount| (table::text(mount, "/Destination").to_owned(), table::text(mount, "/Name").to_owned()));
    Ok(volumes.filter(|(target, _)| !taken(target)).collect())
}

/// A container as it is to be made.
pub(super) fn container(stack: &Stack, service: &Service, which: &Which, found: &Found) -> Result<Container, Failure> {
    let mut container = create::container(&stack.project, service, which, found).map_err(Failure::new)?;
    socket::mount(stack, service, &mut container);
    Ok(container)
}

/// Makes a container, joins its networks, and puts its secrets and configs in.
pub(super) fn make(stack: &Stack, service: &Service, container: &Container, name: &str) -> Result<String, Failure> {
    if stack.mode == Mode::DryRun {
        return Ok(format!("dry-run-{name}"));
    }
    let mut client = stack.client();
    let query = Query::default().with("name", name).with_some("platform", container.platform.as_deref());
    let answer = client.post_json(&query.behind("/containers/create"), &container.body)?;
    for warning in table::elements(&answer, "/Warnings").iter().filter_map(Value::as_str) {
        crate::output::note(&format!("warning: {name}: {warning}"));
    }
    let id = table::text(&answer, "/Id").to_owned();
    furnish(stack, &mut client, service, container, &id).inspect_err(|_| {
        // half of a container is of no use, and its name would be in the way
        let _ = client_remove(stack, &id);
    })?;
    Ok(id)
}

fn client_remove(stack: &Stack, id: &str) -> Result<Value, Failure> {
    stack.client().call("DELETE", &format!("/containers/{id}?force=1&v=1"), None)
}

fn furnish(
    stack: &Stack,
    client: &mut Client,
    service: &Service,
    container: &Container,
    id: &str,
) -> Result<(), Failure> {
    for (network, endpoint) in &container.networks {
        let body = json!({"Container": id, "EndpointConfig": endpoint});
        client
            .post_json(&format!("/networks/{}/connect", encode(network)), &body)
            .during(|| format!("cannot join the network {network}"))?;
    }
    let files = create::injected(&stack.project, service).map_err(Failure::new)?;
    for file in files.into_iter().chain(socket::credentials(stack, service)) {
        let entry = tar::Entry {
            path: file.path.trim_start_matches('/'),
            content: file.content.as_bytes(),
            mode: file.mode,
            owner: file.owner,
        };
        let bytes = tar::archive(&[entry])?;
        let target = Query::default().with("path", "/").behind(&format!("/containers/{id}/archive"));
        client
            .put(&target, &mut Cursor::new(bytes))
            .during(|| format!("cannot put {} into the container", file.path))?;
    }
    Ok(())
}

/// Makes a container anew in the place of another.
fn anew(stack: &Stack, service: &Service, old: &Member, found: &Found, rules: &Rules) -> Result<Member, Failure> {
    stack.board.working("Container", &old.name, "Recreate");
    let mut container = container(stack, service, &Which::Number(old.number), found)?;
    if let Some(labels) = container.body.get_mut("Labels").and_then(Value::as_object_mut) {
        labels.insert(label::REPLACE.to_owned(), json!(old.name));
    }
    let short: String = old.id.chars().take(12).collect();
    let id = make(stack, service, &container, &format!("{short}_{}", container.name))
        .inspect_err(|_| stack.board.failed("Container", &old.name, "Error"))?;
    if stack.mode == Mode::Real {
        let mut client = stack.client();
        if old.is_running() || old.state == "paused" || old.state == "restarting" {
            pre_stop(stack, service, old)?;
            client.post(&stop_target(&old.id, rules.timeout)).during(|| format!("cannot stop {}", old.name))?;
        }
        let volumes = if rules.anonymous == Anonymous::Renewed { "?force=1&v=1" } else { "?force=1" };
        client
            .call("DELETE", &format!("/containers/{}{volumes}", old.id), None)
            .during(|| format!("cannot remove {}", old.name))?;
        if rules.anonymous == Anonymous::Renewed {
            forget_volumes(stack, old);
        }
        let target = Query::default().with("name", &container.name).behind(&format!("/containers/{id}/rename"));
        client.post(&target).during(|| format!("cannot rename a container to {}", container.name))?;
    }
    stack.board.done("Container", &old.name, "Recreated");
    Ok(made(service, container, id, old.number))
}

fn stop_target(id: &str, timeout: Option<i64>) -> String {
    let query = Query::default().with_some("t", timeout.map(|timeout| timeout.to_string()).as_deref());
    query.behind(&format!("/containers/{id}/stop"))
}

/// Runs what is to run before a container stops. One that fails keeps it from stopping, but not where the container has gone or
/// stands already.
pub(super) fn pre_stop(stack: &Stack, service: &Service, member: &Member) -> Result<(), Failure> {
    for hook in service.spec.pre_stop.iter().filter(|_| member.is_running()) {
        match super::exec::hook(stack, member, hook) {
            Err(failure) if !matches!(failure.status(), Some(404 | 409)) => {
                return Err(failure.during(&format!("pre_stop of {}", member.name)));
            }
            Ok(said) => stack.board.hook(&member.short_name(&stack.project.name), &said),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Stops a container; one that stands already is told of as well.
pub(super) fn stop(stack: &Stack, member: &Member, timeout: Option<i64>) -> Result<(), Failure> {
    stack.board.working("Container", &member.name, "Stopping");
    if stack.mode == Mode::Real {
        if let Some(service) = stack.project.services.get(&member.service) {
            pre_stop(stack, service, member)?;
        }
        match stack.client().post(&stop_target(&member.id, timeout)) {
            // it may have gone in between, by itself or by somebody else's hand
            Err(failure) if failure.status() != Some(404) => {
                stack.board.failed("Container", &member.name, "Error while Stopping");
                return Err(failure);
            }
            _ => {}
        }
    }
    stack.board.done("Container", &member.name, "Stopped");
    Ok(())
}

/// Removes a container.
pub(super) fn remove(stack: &Stack, member: &Member, anonymous: Anonymous) -> Result<(), Failure> {
    stack.board.working("Container", &member.name, "Removing");
    if stack.mode == Mode::Real {
        let volumes = if anonymous == Anonymous::Renewed { "&v=1" } else { "" };
        match stack.client().call("DELETE", &format!("/containers/{}?force=1{volumes}", member.id), None) {
            Err(failure) if failure.status() != Some(404) && failure.status() != Some(409) => {
                stack.board.failed("Container", &member.name, "Error while Removing");
                return Err(failure);
            }
            _ => {}
        }
        if anonymous == Anonymous::Renewed {
            forget_volumes(stack, member);
        }
    }
    stack.board.done("Container", &member.name, "Removed");
    Ok(())
}

/// Removes the volumes without a name that a container has had from the one before it: to the daemon they have names.
fn forget_volumes(stack: &Stack, member: &Member) {
    for mount in table::elements(&member.listed, "/Mounts") {
        let name = table::text(mount, "/Name");
        let nameless = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if nameless && table::text(mount, "/Type") == "volume" {
            // it went with the container, or another one has it
            let _ = stack.client().call("DELETE", &format!("/volumes/{name}"), None);
        }
    }
}
