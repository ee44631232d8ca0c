//! What a later file says on top of an earlier one, both in their long form.
//!
//! Maps are merged name by name, lists are joined, and everything else is replaced. Commands and health checks are replaced
//! whole; an element of a list that has an identity (a port, a mount's target, …) takes the earlier one's place.

use crate::interpolate::join;
use crate::node::{FileError, Map, Mark, Node, Value};
use crate::shape::{Record, Type};

/// Merges `over` into `base`; both have the form `kind`.
///
/// # Errors
/// Nothing at present but what a node's own place is needed for.
pub(crate) fn merge(base: Node, over: Node, kind: &Type, path: &str) -> Result<Node, FileError> {
    if over.mark == Mark::Override {
        return Ok(Node { mark: base.mark, ..over });
    }
    let name = path.rsplit('.').next().unwrap_or(path);
    match (kind, &base.value, &over.value) {
        // naming something says nothing about it
        (Type::Optional(_) | Type::Words, _, Value::Null) => Ok(base),
        (Type::Optional(inner) | Type::Finished(inner, _) | Type::Short(_, inner), ..) => merge(base, over, inner, path),
        (Type::Record(record), Value::Map(_), Value::Map(_)) => {
            if name == "logging" && differ(&base, &over, "driver") {
                return Ok(over);
            }
            merge_maps(base, over, path, &|name| field(record, name))
        }
        (Type::Map(inner) | Type::Names(_, inner), Value::Map(_), Value::Map(_)) => {
            merge_maps(base, over, path, &|_| Some(inner))
        }
        (Type::Pairs | Type::Options, Value::Map(_), Value::Map(_)) => merge_maps(base, over, path, &|_| None),
        (Type::List(_) | Type::Shorts(..) | Type::OneOrMany(_) | Type::Hosts, Value::List(_), Value::List(_))
        // what was pairs and has become a list
        | (Type::Pairs, Value::List(_), Value::List(_)) => Ok(join_lists(base, over, name)),
        // of unknown form: what users keep below names of their own
        (Type::Any, Value::Map(_), Value::Map(_)) => merge_maps(base, over, path, &|_| Some(&Type::Any)),
        (Type::Any, Value::List(_), Value::List(_)) => Ok(join_lists(base, over, "")),
        _ => Ok(over),
    }
}

fn field<'a>(record: &'a Record, name: &str) -> Option<&'a Type> {
    if name.starts_with("x-") {
        return Some(&Type::Any);
    }
    record.fields.iter().find(|(field, _)| *field == name).map(|(_, kind)| kind)
}

fn differ(base: &Node, over: &Node, name: &str) -> bool {
    matches!((base.text_of(name), over.text_of(name)), (Some(base), Some(over)) if base != over)
}

fn merge_maps<'a>(
    base: Node,
    over: Node,
    path: &str,
    kind_of: &dyn Fn(&str) -> Option<&'a Type>,
) -> Result<Node, FileError> {
    let place = over.place.clone();
    let (Value::Map(mut base), Value::Map(over)) = (base.value, over.value) else {
        return Ok(Node::new(Value::Null, &place));
    };
    for (name, node) in over {
        if node.mark == Mark::Reset {
            base.remove(&name);
            continue;
        }
        let merged = match (base.remove_in_place(&name), kind_of(&name)) {
            (Some(old), Some(kind)) => merge(old, node, kind, &join(path, &name))?,
            (_, _) => node,
        };
        base.insert(name, merged);
    }
    Ok(Node::new(Value::Map(base), &place))
}

impl Map {
    /// Takes a value out and leaves nothing at its place.
    fn remove_in_place(&mut self, name: &str) -> Option<Node> {
        let node = self.get_mut(name)?;
        let place = node.place.clone();
        Some(std::mem::replace(node, Node::new(Value::Null, &place)))
    }
}

fn join_lists(base: Node, over: Node, name: &str) -> Node {
    let place = over.place.clone();
    let (Value::List(mut joined), Value::List(over)) = (base.value, over.value) else {
        return Node::new(Value::Null, &place);
    };
    joined.extend(over.into_iter().filter(|node| node.mark != Mark::Reset));
    Node::new(Value::List(unique(joined, name)), &place)
}

/// Leaves one of the elements that are the same by their identity: the last one, at the first one's place.
pub(crate) fn unique(list: Vec<Node>, name: &str) -> Vec<Node> {
    let mut kept: Vec<(Option<String>, Node)> = Vec::new();
    for node in list {
        let identity = identity(&node, name);
        match kept.iter_mut().find(|(known, _)| known.is_some() && *known == identity) {
            Some((_, old)) => *old = node,
            None => kept.push((identity, node)),
        }
    }
    kept.into_iter().map(|(_, node)| node).collect()
}

/// What makes an element the same as another; `None` if nothing does.
fn identity(node: &Node, name: &str) -> Option<String> {
    if let Some(text) = node.as_text() {
        return Some(text.to_owned());
    }
    let part = |name: &str| node.get(name).and_then(Node::scalar).unwrap_or_default();
    match name {
        "ports" => Some(format!("{}:{}:{}/{}", part("host_ip"), part("published"), part("target"), part("protocol"))),
        "volumes" | "devices" => Some(part("target")),
        "secrets" | "configs" => {
            let target = part("target");
            Some(if target.is_empty() { part("source") } else { target })
        }
        "env_file" => Some(part("path")),
        "config" => Some(part("subnet")),
        _ => None,
    }
}

/// Takes out what is marked to be reset, wherever nothing was there to reset.
pub(crate) fn settle(node: &mut Node) {
    node.mark = Mark::Merge;
    match &mut node.value {
        Value::Map(map) => {
            map.retain(|_, node| node.mark != Mark::Reset);
            map.iter_mut().for_each(|(_, node)| settle(node));
        }
        Value::List(list) => {
            list.retain(|node| node.mark != Mark::Reset);
            list.iter_mut().for_each(settle);
        }
        _ => {}
    }
}

/// Puts names into the order in which docker compose shows them.
pub(crate) fn order(node: &mut Node, kind: &Type) {
    match (kind, &mut node.value) {
        (Type::Optional(inner) | Type::Finished(inner, _) | Type::Short(_, inner) | Type::IntOr(inner), _) => {
            order(node, inner);
        }
        (Type::Record(record), Value::Map(map)) => {
            let last = record.fields.len();
            map.sort_by_rank(|name| record.fields.iter().position(|(field, _)| *field == name).unwrap_or(last));
            for (name, node) in map.iter_mut() {
                if let Some(kind) = field(record, name) {
                    order(node, kind);
                }
            }
        }
        (Type::Map(inner) | Type::Names(_, inner), Value::Map(map)) => {
            map.sort_by_rank(|_| 0);
            map.iter_mut().for_each(|(_, node)| order(node, inner));
        }
        (Type::List(inner) | Type::Shorts(_, inner) | Type::OneOrMany(inner), Value::List(list)) => {
            list.iter_mut().for_each(|node| order(node, inner));
        }
        // docker compose keeps them as a map
        (Type::Hosts, Value::List(list)) => list.sort_by(|a, b| a.as_text().cmp(&b.as_text())),
        (_, Value::Map(map)) => {
            map.sort_by_rank(|_| 0);
            map.iter_mut().for_each(|(_, node)| order(node, &Type::Any));
        }
        (_, Value::List(list)) => list.iter_mut().for_each(|node| order(node, &Type::Any)),
        _ => {}
    }
}
