//! The short forms of the Compose specification, and what long forms leave out.

use std::net::IpAddr;
use std::path::Path;

use crate::node::{Node, Value};
use crate::shape::{Shaper, clean, is_address};
use crate::unit;

type Long = Result<Vec<Node>, String>;

fn text_of(node: &Node) -> Result<String, String> {
    node.scalar().ok_or_else(|| format!("must be a text or a map, not {}", node.kind()))
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub(crate) fn include(node: &Node, _: &Shaper<'_>) -> Long {
    Ok(vec![node.map([("path", Value::Text(text_of(node)?))])])
}

pub(crate) fn build(node: &Node, _: &Shaper<'_>) -> Long {
    Ok(vec![node.map([("context", Value::Text(text_of(node)?))])])
}

pub(crate) fn extends(node: &Node, _: &Shaper<'_>) -> Long {
    Ok(vec![node.map([("service", Value::Text(text_of(node)?))])])
}

pub(crate) fn env_file(node: &Node, _: &Shaper<'_>) -> Long {
    Ok(vec![node.map([("path", Value::Text(text_of(node)?))])])
}

pub(crate) fn object(node: &Node, _: &Shaper<'_>) -> Long {
    Ok(vec![node.map([("source", Value::Text(text_of(node)?))])])
}

/// An option of a provider, of which there may be several by one name.
pub(crate) fn option(node: &Node, _: &Shaper<'_>) -> Long {
    Ok(vec![Node::new(Value::List(vec![node.text(text_of(node)?)]), &node.place)])
}

/// What has no value is empty.
pub(crate) fn finish_words(node: &mut Node, _: &Shaper<'_>) -> Result<(), String> {
    for (_, value) in node.as_map_mut().into_iter().flat_map(|map| map.iter_mut()) {
        if value.value == Value::Null {
            value.value = text("");
        }
    }
    Ok(())
}

/// All devices, unless they are named or counted.
pub(crate) fn finish_request(node: &mut Node, _: &Shaper<'_>) -> Result<(), String> {
    match (node.get("count").is_some(), node.get("device_ids").is_some()) {
        (true, true) => return Err("has both \"count\" and \"device_ids\"; give one of them".to_owned()),
        (false, false) => default(node, "count", Value::Int(-1)),
        _ => {}
    }
    Ok(())
}

pub(crate) fn finish_trigger(node: &mut Node, _: &Shaper<'_>) -> Result<(), String> {
    let action = node.text_of("action").unwrap_or_default();
    if action.starts_with("sync") && node.text_of("target").is_none_or(str::is_empty) {
        return Err(format!("has the action {action:?} and needs \"target\", a path in the container"));
    }
    Ok(())
}

/// Where secrets are, unless their target is a whole path.
pub(crate) const SECRETS: &str = "/run/secrets/";

pub(crate) fn finish_secret(node: &mut Node, _: &Shaper<'_>) -> Result<(), String> {
    let target = format!("{SECRETS}{}", node.text_of("source").unwrap_or_default());
    default(node, "target", Value::Text(target));
    Ok(())
}

pub(crate) fn gpu(node: &Node, _: &Shaper<'_>) -> Long {
    match node.as_text() {
        Some("all") => Ok(vec![node.map([("count", Value::Int(-1))])]),
        _ => Err("must be \"all\", or a list of devices".to_owned()),
    }
}

pub(crate) fn nothing(node: &Node) -> Node {
    Node::new(Value::Null, &node.place)
}

pub(crate) fn dependency(node: &Node) -> Node {
    node.map([("condition", text("service_started")), ("required", Value::Bool(true))])
}

pub(crate) fn finish_dependency(node: &mut Node, _: &Shaper<'_>) -> Result<(), String> {
    default(node, "required", Value::Bool(true));
    Ok(())
}

/// Sets what is not said.
fn default(node: &mut Node, name: &str, value: Value) {
    let filled = Node::new(value, &node.place);
    if let Some(map) = node.as_map_mut()
        && map.get(name).is_none()
    {
        map.insert(name, filled);
    }
}

pub(crate) fn device(node: &Node, _: &Shaper<'_>) -> Long {
    let whole = text_of(node)?;
    let parts: Vec<&str> = whole.split(':').collect();
    let (source, target, permissions) = match parts.as_slice() {
        [one] => (*one, *one, "rwm"),
        [source, target] => (*source, *target, "rwm"),
        [source, target, permissions] => (*source, *target, *permissions),
        _ => return Err(format!("must be HOST[:CONTAINER[:PERMISSIONS]], not {whole:?}")),
    };
    Ok(vec![node.map([("source", text(source)), ("target", text(target)), ("permissions", text(permissions))])])
}

pub(crate) fn finish_device(node: &mut Node, _: &Shaper<'_>) -> Result<(), String> {
    let source = node.text_of("source").unwrap_or_default().to_owned();
    default(node, "target", Value::Text(source));
    Ok(())
}

pub(crate) fn finish_build(node: &mut Node, shaper: &Shaper<'_>) -> Result<(), String> {
    default(node, "context", Value::Text(shaper.absolute(".")));
    if node.get("dockerfile_inline").is_some() {
        if node.get("dockerfile").is_some() {
            return Err("has both \"dockerfile\" and \"dockerfile_inline\"; give one of them".to_owned());
        }
        return Ok(());
    }
    default(node, "dockerfile", text("Dockerfile"));
    Ok(())
}

pub(crate) fn finish_ssh(node: &mut Node, _: &Shaper<'_>) -> Result<(), String> {
    let Some(map) = node.as_map() else { return Ok(()) };
    let keys = map.iter().map(|(id, value)| match value.scalar() {
        Some(path) if !path.is_empty() => value.text(format!("{id}={path}")),
        _ => value.text(id.as_str()),
    });
    node.value = Value::List(keys.collect());
    Ok(())
}

pub(crate) fn finish_contexts(node: &mut Node, shaper: &Shaper<'_>) -> Result<(), String> {
    let Some(map) = node.as_map_mut() else { return Ok(()) };
    for (name, value) in map.iter_mut() {
        let given = value.as_text().ok_or_else(|| format!("the context {name:?} has no path"))?;
        if !is_address(given) && !given.starts_with("docker-image:") {
            value.value = Value::Text(shaper.absolute(given));
        }
    }
    Ok(())
}

/// `external: {name: x}`, an older form of `external: true` and `name: x`.
pub(crate) fn finish_external(node: &mut Node, _: &Shaper<'_>) -> Result<(), String> {
    let Some(external) = node.get("external").cloned() else { return Ok(()) };
    let flag = match &external.value {
        Value::Bool(flag) => *flag,
        Value::Null => false,
        Value::Text(word) => unit::truth(word).map_err(|why| format!("external {why}"))?,
        Value::Map(_) => true,
        _ => return Err(format!("external must be true or false, not {}", external.kind())),
    };
    let name = external.get("name").cloned();
    if let Some(map) = node.as_map_mut() {
        map.remove("external");
        if flag {
            map.insert("external", Node::new(Value::Bool(true), &external.place));
            if let Some(name) = name {
                map.insert("name", name);
            }
            let other = map.iter().map(|(name, _)| name.as_str());
            let mut other = other.filter(|name| !["external", "name"].contains(name) && !name.starts_with("x-"));
            if let Some(other) = other.next() {
                return Err(format!("is external, so {other:?} cannot be set; remove one of them"));
            }
        }
    }
    Ok(())
}

/// As for others; a folder that the local driver is to mount is relative to the file.
pub(crate) fn finish_volume(node: &mut Node, shaper: &Shaper<'_>) -> Result<(), String> {
    finish_external(node, shaper)?;
    let Some(options) = node.as_map_mut().and_then(|map| map.get_mut("driver_opts")) else { return Ok(()) };
    let bind = options.text_of("o").is_some_and(|words| words.split(',').any(|word| word == "bind" || word == "rbind"));
    if let (true, Some(device)) = (bind, options.as_map_mut().and_then(|map| map.get_mut("device")))
        && let Some(path) = device.as_text()
    {
        device.value = Value::Text(shaper.absolute(path));
    }
    Ok(())
}

/// Whether a mount's source is a path and not a volume's name.
fn is_path(source: &str) -> bool {
    source.starts_with(['.', '/', '~'])
}

pub(crate) fn volume(node: &Node, shaper: &Shaper<'_>) -> Long {
    let whole = text_of(node)?;
    let parts: Vec<&str> = whole.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(format!("must be [SOURCE:]TARGET[:OPTIONS], not {whole:?}")),
    };
    if target.is_empty() || (source.is_empty() && parts.len() > 1) {
        return Err(format!("must be [SOURCE:]TARGET[:OPTIONS], not {whole:?}"));
    }
    let bind = is_path(source);
    let mut long = node.map([("type", text(if bind { "bind" } else { "volume" }))]);
    let mut detail = node.map([]);
    let mut set = |name: &str, value: Value| {
        if let Some(map) = long.as_map_mut() {
            map.insert(name, Node::new(value, &node.place));
        }
    };
    if !source.is_empty() {
        set("source", Value::Text(if bind { shaper.absolute(source) } else { source.to_owned() }));
    }
    set("target", Value::Text(clean(Path::new(target)).display().to_string()));
    let mut add = |name: &str, value: Value| {
        if let Some(map) = detail.as_map_mut() {
            map.insert(name, Node::new(value, &node.place));
        }
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => set("read_only", Value::Bool(true)),
            "rw" => {}
            "z" | "Z" if bind => add("selinux", text(option)),
            "nocopy" if !bind => add("nocopy", Value::Bool(true)),
            "cached" | "delegated" | "consistent" => set("consistency", text(option)),
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" if bind => {
                add("propagation", text(option))
            }
            // what other engines know is no reason to refuse the file, and docker compose does not
            _ => {}
        }
    }
    if bind {
        add("create_host_path", Value::Bool(true));
    }
    if let Some(map) = long.as_map_mut() {
        map.insert(if bind { "bind" } else { "volume" }, detail);
    }
    Ok(vec![long])
}

pub(crate) fn finish_mount(node: &mut Node, shaper: &Shaper<'_>) -> Result<(), String> {
    let kind = node.text_of("type").unwrap_or_default().to_owned();
    if node.text_of("target").is_none_or(str::is_empty) {
        return Err("needs \"target\", a path in the container".to_owned());
    }
    if kind == "bind" {
        let Some(source) = node.text_of("source").filter(|source| !source.is_empty()) else {
            return Err("is a bind mount and needs \"source\", a path of the host".to_owned());
        };
        let source = node.text(shaper.absolute(source));
        if let Some(map) = node.as_map_mut() {
            map.insert("source", source);
        }
    }
    if matches!(kind.as_str(), "npipe" | "cluster") {
        return Err(format!("mounts of type {kind:?} exist on other systems only; use bind, volume, tmpfs or image"));
    }
    Ok(())
}

/// `first-last` as numbers.
fn range(text: &str, what: &str) -> Result<(u16, u16), String> {
    let bad = || format!("bad {what} port {text:?}: give 1 to 65535, or a range as in 3000-3005");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (first, last) = (number(first).ok_or_else(bad)?, number(last).ok_or_else(bad)?);
    if first > last { Err(bad()) } else { Ok((first, last)) }
}

pub(crate) fn port(node: &Node, _: &Shaper<'_>) -> Long {
    let whole = text_of(node)?;
    let (spec, protocol) = whole.split_once('/').unwrap_or((&whole, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(format!("bad protocol {protocol:?} in {whole:?}: give tcp, udp or sctp"));
    }
    let (rest, container) = spec.rsplit_once(':').map_or((None, spec), |(rest, container)| (Some(rest), container));
    let (address, host) = match rest {
        None => ("", ""),
        Some(rest) => rest.rsplit_once(':').unwrap_or(("", rest)),
    };
    let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(format!("bad address {address:?} in {whole:?}: give an address as in 127.0.0.1"));
    }
    if container.is_empty() {
        return Err(format!("{whole:?} names no container port; give [[ADDRESS:]HOST:]CONTAINER[/PROTOCOL]"));
    }
    let (first, last) = range(container, "container")?;
    if first == 0 {
        return Err(format!("bad container port in {whole:?}: there is no port 0"));
    }
    let published = if host.is_empty() { None } else { Some(range(host, "host")?) };
    let mut long = Vec::new();
    for target in first..=last {
        let published = match published {
            None => None,
            Some((begin, end)) if first == last => Some(if begin == end { begin.to_string() } else { host.to_owned() }),
            Some((begin, end)) if end - begin == last - first => Some((begin + (target - first)).to_string()),
            Some(_) => return Err(format!("the ranges in {whole:?} differ in length; make them equal")),
        };
        let mut one = node.map([("mode", text("ingress"))]);
        if let Some(map) = one.as_map_mut() {
            let mut set = |name: &str, value: Value| map.insert(name, Node::new(value, &node.place));
            if !address.is_empty() {
                set("host_ip", text(address));
            }
            set("target", Value::Int(target.into()));
            if let Some(published) = published {
                set("published", Value::Text(published));
            }
            set("protocol", Value::Text(protocol.clone()));
        }
        long.push(one);
    }
    Ok(long)
}

pub(crate) fn finish_port(node: &mut Node, _: &Shaper<'_>) -> Result<(), String> {
    default(node, "mode", text("ingress"));
    default(node, "protocol", text("tcp"));
    match node.get("target").map(|target| &target.value) {
        Some(Value::Int(1..=65535)) => {}
        _ => return Err("needs \"target\", a port of the container from 1 to 65535".to_owned()),
    }
    if let Some(published) = node.text_of("published") {
        range(published, "host")?;
    }
    match node.text_of("protocol") {
        Some("tcp" | "udp" | "sctp") => Ok(()),
        other => Err(format!("bad protocol {:?}: give tcp, udp or sctp", other.unwrap_or_default())),
    }
}
