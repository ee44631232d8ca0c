//! `insula compose config` and `version`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use compose::load::Variables;
use compose::node::{Map, Node, Place, Value};
use compose::project::Dependencies;
use compose::{Project, create, emit, hash};

use super::COMMON;
use super::resource::find;
use super::stack;
use crate::client::{Client, encode};
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table};

pub(super) static COMMAND: Command = Command {
    name: "config",
    aliases: &["convert"],
    usage: "[OPTIONS] [SERVICE...]",
    about: "Check the Compose files and show what they say, merged and in full",
    flags: &[
        COMMON,
        &[
            Flag::switch("environment", "The variables that the files are read with"),
            Flag::value("format", "FORM", "yaml or json"),
            Flag::value("hash", "SERVICE", "Services' hashes; * for all"),
            Flag::switch("images", "Images' names only"),
            Flag::switch("lock-image-digests", "A file to be laid over, with images' digests"),
            Flag::switch("models", "Models only, as their registry names them"),
            Flag::switch("networks", "Networks' names only"),
            Flag::switch("no-consistency", "Do not look for contradictions"),
            Flag::switch("no-env-resolution", "Leave env files as they are named"),
            Flag::switch("no-interpolate", "Leave variables as they are"),
            Flag::switch("no-normalize", "Fill nothing in"),
            Flag::switch("no-path-resolution", "Accepted; paths are shown whole"),
            Flag::value("output", "FILE", "Write to a file").short('o'),
            Flag::switch("profiles", "Profiles' names only"),
            Flag::switch("quiet", "Check only").short('q'),
            Flag::switch("resolve-image-digests", "Show images with their digests"),
            Flag::switch("services", "Services' names only"),
            Flag::switch("variables", "The variables that the files use"),
            Flag::switch("volumes", "Volumes' names only"),
        ],
    ],
    arguments: (0, Command::MANY),
    action: Action::Run(config),
    ..Command::BLANK
};

pub(super) static VERSION: Command = Command {
    name: "version",
    usage: "[OPTIONS]",
    about: "Show the version of docker compose whose behaviour this is",
    flags: &[
        COMMON,
        &[Flag::value("format", "FORM", "pretty or json").short('f'), Flag::switch("short", "The number only")],
    ],
    action: Action::Run(version),
    ..Command::BLANK
};

fn version(_: &Context, given: &Parsed) -> Outcome {
    let number = create::VERSION;
    match (given.on("short"), given.value("format")) {
        (true, _) => output::line(number),
        (false, Some("json")) => output::line(&format!("{{\"version\":\"v{number}\"}}")),
        _ => output::line(&format!("Insula {}: as Docker Compose version v{number}", env!("CARGO_PKG_VERSION"))),
    }
    Ok(0)
}

fn config(context: &Context, given: &Parsed) -> Outcome {
    if !matches!(given.value("format"), None | Some("yaml" | "json")) {
        return Err(Failure::new(format!(
            "bad value {:?} for --format: give yaml or json",
            given.value("format").unwrap_or_default()
        )));
    }
    let mut options = stack::options(given)?;
    if given.on("no-interpolate") || given.on("no-normalize") {
        options.variables = if given.on("no-interpolate") { Variables::Kept } else { Variables::Replaced };
        let mut loaded = stack::load(&options)?;
        if !given.on("no-normalize") {
            loaded.fill()?;
        }
        let mut root = loaded.root;
        let name = Node::new(Value::Text(loaded.name), &Place::nowhere());
        if let Some(map) = root.as_map_mut()
            && map.get("name").is_none()
        {
            map.insert("name", name);
        }
        if let Some(map) = root.as_map_mut() {
            *map = in_order(map);
        }
        return show(given, &root);
    }
    let loaded = stack::load(&options)?;
    if given.on("environment") {
        let lines: String = loaded.environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        return write(given, &lines);
    }
    if given.on("profiles") {
        let services = loaded.root.get("services").and_then(Node::as_map).cloned().unwrap_or_default();
        let profiles =
            services.iter().flat_map(|(_, service)| service.get("profiles").map(Node::elements).unwrap_or_default());
        let profiles: BTreeSet<&str> = profiles.filter_map(Node::as_text).collect();
        return lines(given, profiles.into_iter().map(str::to_owned));
    }
    if given.on("variables") {
        return variables(given, &loaded.variables);
    }
    let mut project = project(given, &options)?;
    if given.on("resolve-image-digests") || given.on("lock-image-digests") {
        digests(context, &mut project)?;
    }
    if given.on("lock-image-digests") {
        return show(given, &locked(&project));
    }
    listed(given, &project)
}

fn project(given: &Parsed, options: &compose::Options) -> Result<Project, Failure> {
    // names need no env files
    let names_only = ["services", "networks", "volumes", "models"].iter().any(|what| given.on(what));
    let whole = !given.on("no-env-resolution") && !names_only;
    let mut project = if whole {
        stack::project(given, &given.arguments)?
    } else {
        Project::new(stack::load(options)?, &given.arguments)?
    };
    project.select(&given.arguments, Dependencies::Included)?;
    if !given.on("all-resources") {
        project.drop_unused();
    }
    if whole {
        stack::names_are_unique(&project)?;
        stack::resolve(&mut project)?;
        project.without_label_files();
    }
    Ok(project)
}

/// The tree's sections as docker compose shows them where it makes no model of them.
fn in_order(map: &Map) -> Map {
    let mut entries: Vec<(String, Node)> = map.iter().map(|(name, node)| (name.clone(), node.clone())).collect();
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    entries.into_iter().collect()
}

/// What of the project was asked for.
fn listed(given: &Parsed, project: &Project) -> Outcome {
    if given.on("quiet") {
        return Ok(0);
    }
    if given.on("services") {
        return lines(given, compose::order::sorted(&project.services).into_iter().map(str::to_owned));
    }
    if given.on("networks") {
        return lines(given, project.networks.keys().cloned());
    }
    if given.on("volumes") {
        return lines(given, project.volumes.keys().cloned());
    }
    if given.on("models") {
        return lines(given, project.models.values().map(|resource| resource.spec.model.clone()));
    }
    if given.on("images") {
        return lines(given, project.services.values().map(|service| service.image(project)));
    }
    if let Some(names) = given.value("hash") {
        let wanted: Vec<&str> = names.split(',').collect();
        if let Some(other) = wanted.iter().find(|name| **name != "*" && !project.services.contains_key(**name)) {
            return Err(Failure::new(format!("no such service: {other}")));
        }
        let services = project
            .services
            .values()
            .filter(|service| wanted.contains(&"*") || wanted.contains(&service.name.as_str()));
        return lines(given, services.map(|service| format!("{} {}", service.name, hash::service(&service.node))));
    }
    show(given, &emit::escaped(&project.tree()))
}

fn show(given: &Parsed, tree: &Node) -> Outcome {
    match given.value("format") {
        Some("json") => write(given, &format!("{}\n", emit::pretty(&hash::shown(tree.clone())))),
        _ => write(given, &emit::yaml(tree)),
    }
}

fn lines(given: &Parsed, lines: impl Iterator<Item = String>) -> Outcome {
    write(given, &lines.map(|line| format!("{line}\n")).collect::<String>())
}

fn write(given: &Parsed, text: &str) -> Outcome {
    if given.on("quiet") {
        return Ok(0);
    }
    match given.value("output") {
        Some(file) => fs::write(file, text).during(|| format!("cannot write {file:?}"))?,
        None => output::print(text),
    }
    Ok(0)
}

fn variables(given: &Parsed, variables: &BTreeMap<String, compose::interpolate::Variable>) -> Outcome {
    match given.value("format") {
        Some("json") => {
            let all = variables.iter().map(|(name, variable)| {
                let (default_value, presence_value) = (&variable.default, &variable.alternate);
                (name, VariableShown { name, default_value, presence_value, required: variable.required })
            });
            return write(given, &format!("{}\n", indented(&all.collect::<BTreeMap<_, _>>())?));
        }
        Some("yaml") => {
            let quoted = |text: &str| serde_json::Value::from(text).to_string();
            let all = variables.iter().map(|(name, variable)| {
                let (default, alternate) = (quoted(&variable.default), quoted(&variable.alternate));
                let required = variable.required;
                format!("{name}:\n    name: {name}\n    defaultvalue: {default}\n    presencevalue: {alternate}\n    required: {required}\n")
            });
            return write(given, &all.collect::<String>());
        }
        _ => {}
    }
    let mut rows = vec![["NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE"].map(str::to_owned).to_vec()];
    rows.extend(variables.iter().map(|(name, variable)| {
        vec![name.clone(), variable.required.to_string(), variable.default.clone(), variable.alternate.clone()]
    }));
    write(given, &table::align(&rows))
}

/// A variable as docker compose's JSON has it, in its order.
#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct VariableShown<'a> {
    name: &'a str,
    default_value: &'a str,
    presence_value: &'a str,
    required: bool,
}

/// JSON with steps of four blanks.
fn indented(value: &impl serde::Serialize) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Puts the digests of the daemon's images behind their names.
fn digests(context: &Context, project: &mut Project) -> Result<(), Failure> {
    let mut client = Client::new(context);
    for service in project.services.values_mut() {
        let Some(name) = service.spec.image.clone().filter(|name| !name.contains('@')) else { continue };
        let image = find(&mut client, &format!("/images/{}/json", encode(&name)))?;
        let digests = image.as_ref().map(|image| table::elements(image, "/RepoDigests")).unwrap_or_default();
        let digest = digests.iter().filter_map(serde_json::Value::as_str).find_map(|digest| digest.split_once('@'));
        let Some((_, digest)) = digest else {
            return Err(Failure::new(format!(
                "no digest is known of {name:?}; pull or push it first: insula compose pull"
            )));
        };
        let mut node = service.node.clone();
        let pinned = node.text(format!("{name}@{digest}"));
        if let Some(map) = node.as_map_mut() {
            map.insert("image", pinned);
        }
        *service = compose::project::Service::new(&service.name, node)?;
    }
    Ok(())
}

fn locked(project: &Project) -> Node {
    let place = Place::nowhere();
    let services: Map = project
        .services
        .iter()
        .filter_map(|(name, service)| {
            let image = service.node.get("image")?.clone();
            let only: Map = [("image".to_owned(), image)].into_iter().collect();
            Some((name.clone(), Node::new(Value::Map(only), &place)))
        })
        .collect();
    let root: Map = [("services".to_owned(), Node::new(Value::Map(services), &place))].into_iter().collect();
    Node::new(Value::Map(root), &place)
}
