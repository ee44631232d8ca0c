//! Hashes that tell whether a container, network or volume is still what the file says: those of docker compose, so that what
//! one has made the other leaves alone.
//!
//! # Source
//! docker compose v2: the SHA-256 of the JSON of the settings, without those that do not make another container.

use sha2::{Digest as _, Sha256};

use crate::node::{Map, Node, Value};
use crate::schema;
use crate::shape::{Always, Record, Type};
use crate::{emit, merge};

/// What does not make another container.
const APART: &[&str] = &["build", "pull_policy", "scale"];

/// A service's hash.
#[must_use]
pub fn service(node: &Node) -> String {
    let mut node = settings(node);
    if let Some(map) = node.as_map_mut() {
        map.retain(|name, _| !["depends_on", "profiles"].contains(&name));
    }
    digest(&as_go(node, &Type::Record(&schema::SERVICE)))
}

/// Whether a container with this hash is what the service says, whichever version of docker compose has made it.
///
/// Up to 2.26 at least, profiles and what a service depends on counted, files' modes were numbers, and a network's priority came first.
#[must_use]
pub fn is_of_service(hash: &str, node: &Node) -> bool {
    hash == service(node) || hash == service_before(node)
}

fn service_before(node: &Node) -> String {
    let mut node = as_go(settings(node), &Type::Record(&schema::SERVICE));
    let Some(map) = node.as_map_mut() else { return String::new() };
    for section in ["configs", "secrets"] {
        let Some(Value::List(files)) = map.get_mut(section).map(|files| &mut files.value) else { continue };
        files.iter_mut().filter_map(Node::as_map_mut).filter_map(|file| file.get_mut("mode")).for_each(number);
    }
    if let Some(networks) = map.get_mut("networks").and_then(Node::as_map_mut) {
        for (_, network) in networks.iter_mut() {
            let Some(network) = network.as_map_mut() else { continue };
            network.sort_by_rank(|name| usize::from(name != "priority"));
        }
    }
    digest(&node)
}

/// An octal text as the number that it says.
fn number(mode: &mut Node) {
    if let Value::Text(text) = &mode.value
        && let Ok(number) = i64::from_str_radix(text, 8)
    {
        mode.value = Value::Int(number);
    }
}

/// What of a service decides about its containers.
fn settings(node: &Node) -> Node {
    let mut node = node.clone();
    if let Some(map) = node.as_map_mut() {
        map.retain(|name, _| !APART.contains(&name));
        if let Some(deploy) = map.get_mut("deploy").and_then(Node::as_map_mut) {
            deploy.remove("replicas");
        }
    }
    node
}

/// A network's hash.
#[must_use]
pub fn network(node: &Node) -> String {
    digest(&as_go(node.clone(), &schema::NETWORK_TYPE))
}

/// A volume's hash; one whose driver is not named has the local one.
#[must_use]
pub fn volume(node: &Node) -> String {
    let mut node = node.clone();
    let local = node.text("local");
    if let Some(map) = node.as_map_mut()
        && map.get("driver").is_none()
    {
        map.insert("driver", local);
    }
    digest(&as_go(node, &schema::VOLUME_TYPE))
}

fn digest(node: &Node) -> String {
    hex::encode(Sha256::digest(emit::compact(node)))
}

/// The tree as Go's encoder shows it: in the order of the fields, without users' own names, without what says nothing, and
/// with what it shows even so.
#[must_use]
pub(crate) fn as_go(mut node: Node, kind: &Type) -> Node {
    fill(&mut node, kind);
    merge::order(&mut node, kind);
    node
}

/// The project's tree as JSON shows it.
#[must_use]
pub fn shown(mut root: Node) -> Node {
    if let Some(map) = root.as_map_mut() {
        for (section, kind) in [
            ("services", &Type::Record(&schema::SERVICE)),
            ("networks", &schema::NETWORK_TYPE),
            ("volumes", &schema::VOLUME_TYPE),
            ("secrets", &schema::OBJECT_TYPE),
            ("configs", &schema::OBJECT_TYPE),
        ] {
            let Some(nodes) = map.get_mut(section).and_then(Node::as_map_mut) else { continue };
            for (_, node) in nodes.iter_mut() {
                fill(node, kind);
                merge::order(node, kind);
            }
        }
        map.sort_by_rank(|_| 0);
    }
    root
}

fn fill(node: &mut Node, kind: &Type) {
    match kind {
        Type::Optional(inner) | Type::Finished(inner, _) | Type::Short(_, inner) | Type::IntOr(inner) => {
            fill(node, inner)
        }
        Type::Record(record) => fill_record(node, record),
        Type::Map(inner) | Type::Names(_, inner) => {
            if let Some(map) = node.as_map_mut() {
                map.iter_mut().for_each(|(_, node)| fill(node, inner));
            }
        }
        Type::List(inner) | Type::Shorts(_, inner) | Type::OneOrMany(inner) => {
            if let Value::List(list) = &mut node.value {
                list.iter_mut().for_each(|node| fill(node, inner));
            }
        }
        _ => {}
    }
}

fn fill_record(node: &mut Node, record: &Record) {
    let place = node.place.clone();
    let Some(map) = node.as_map_mut() else { return };
    map.retain(|name, node| !name.starts_with("x-") && !says_nothing(node, record, name));
    for (name, node) in map.iter_mut() {
        if let Some((_, kind)) = record.fields.iter().find(|(field, _)| field == name) {
            fill(node, kind);
        }
    }
    if let Some((path, number)) = unnamed(record) {
        let renamed = [(path, "Path"), (number, "Weight"), (number, "Rate")];
        for (name, go) in renamed.into_iter().filter(|(name, go)| name.eq_ignore_ascii_case(go)) {
            if let Some(node) = map.remove(name) {
                map.insert(go, node);
            }
        }
    }
    for (name, always) in record.json_always {
        if map.get(name).is_none() {
            let value = match always {
                Always::Null => Value::Null,
                Always::Empty => Value::Map(Map::default()),
                Always::Hook => Node::new(Value::Null, &place).map([("command", Value::Null)]).value,
            };
            map.insert(*name, Node::new(value, &place));
        }
    }
}

/// The two fields of a block device's limit, for which docker compose sets no names, so that Go's own are shown.
fn unnamed(record: &Record) -> Option<(&'static str, &'static str)> {
    match record.fields {
        [("path", _), (number @ ("rate" | "weight"), _)] => Some(("path", number)),
        _ => None,
    }
}

/// What Go's encoder leaves out. Pointers to values are shown even when the value says nothing.
fn says_nothing(node: &Node, record: &Record, name: &str) -> bool {
    let pointer = [
        "init",
        "attach",
        "replicas",
        "scale",
        "max_attempts",
        "retries",
        "command",
        "entrypoint",
        "bind",
        "volume",
        "tmpfs",
        "image",
        "enable_ipv4",
        "enable_ipv6",
        "deploy",
        "logging",
        "healthcheck",
        "build",
        "develop",
        "limits",
        "reservations",
        "parallelism",
        "create_host_path",
    ];
    if pointer.contains(&name) || record.json_always.iter().any(|(always, _)| *always == name) {
        return false;
    }
    match &node.value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Float(value) => *value == 0.0,
        Value::Text(text) => text.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
    }
}
