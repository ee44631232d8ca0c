//! `spec`: a configuration to begin with.

use super::flags::{Command, Flag, Order, Parsed};
use super::{Context, Failure, Outcome};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::Path;

static FLAGS: [Flag; 2] = [
    Flag::value("bundle", "the folder that it is written to (default: the working folder)").letter('b'),
    Flag::switch("rootless", "for a user without privileges"),
];

pub(super) static COMMAND: Command = Command {
    name: "spec",
    usage: "[FLAGS]",
    about: "write a config.json to begin with",
    flags: &[&FLAGS],
    order: Order::Mixed,
    arguments: (0, 0),
    failure_code: 1,
    run,
};

const TEMPLATE: &str = include_str!("spec.json");

fn run(_: &Context, parsed: &Parsed) -> Outcome {
    let folder = parsed.value("bundle").filter(|folder| !folder.is_empty()).unwrap_or(".");
    let path = Path::new(folder).join("config.json");
    let text = if parsed.on("rootless") {
        rootless(groups(), (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()))
    } else {
        privileged(groups())
    };
    let text = text.map_err(|error| Failure::new(error.to_string()))?;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::new("File config.json exists. Remove it first"),
        _ => Failure::new(format!("{}: {error}", path.display())),
    })?;
    Ok(0)
}

/// What is mounted where control groups belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Groups {
    /// Version 2 alone.
    Unified,
    /// Version 1, with or without version 2 beside it.
    ByController,
}

fn groups() -> Groups {
    match rustix::fs::statfs("/sys/fs/cgroup") {
        Ok(found) if found.f_type == libc::CGROUP2_SUPER_MAGIC => Groups::Unified,
        _ => Groups::ByController,
    }
}

/// The template for root. As with runc, a container sees only its own control groups where there is one tree of them; with
/// version 1 that is for whoever edits the file to add, and a namespace that is there twice would be refused.
fn privileged(groups: Groups) -> serde_json::Result<String> {
    if groups == Groups::Unified {
        return Ok(TEMPLATE.to_owned());
    }
    let mut spec: Value = serde_json::from_str(TEMPLATE)?;
    if let Some(namespaces) = spec.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut) {
        namespaces.retain(|one| one["type"] != "cgroup");
    }
    serde_json::to_string_pretty(&spec)
}

/// The template for somebody who may only map the own ids and has no control groups.
fn rootless(groups: Groups, (uid, gid): (u32, u32)) -> serde_json::Result<String> {
    let mut spec: Value = serde_json::from_str(&privileged(groups)?)?;
    if let Some(linux) = spec.get_mut("linux").and_then(Value::as_object_mut) {
        linux.remove("resources");
        linux.insert("uidMappings".to_owned(), json!([{"containerID": 0, "hostID": uid, "size": 1}]));
        linux.insert("gidMappings".to_owned(), json!([{"containerID": 0, "hostID": gid, "size": 1}]));
        if let Some(namespaces) = linux.get_mut("namespaces").and_then(Value::as_array_mut) {
            namespaces.retain(|one| one["type"] != "network");
            namespaces.push(json!({"type": "user"}));
        }
    }
    let mounts = spec.get_mut("mounts").and_then(Value::as_array_mut);
    for mount in mounts.into_iter().flatten() {
        if mount["destination"] == "/sys" {
            *mount = json!({"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
        } else if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
            options.retain(|option| {
                !option.as_str().is_some_and(|text| text.starts_with("gid=") || text.starts_with("uid="))
            });
        }
    }
    serde_json::to_string_pretty(&spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Spec;

    #[test]
    fn both_templates_are_configurations() {
        let namespaces = |text: &str| {
            let spec: Spec = serde_json::from_str(text).unwrap();
            spec.linux().as_ref().unwrap().namespaces().as_ref().unwrap().len()
        };
        assert_eq!(namespaces(&privileged(Groups::Unified).unwrap()), 6);
        assert_eq!(namespaces(&privileged(Groups::ByController).unwrap()), 5, "all but that of control groups");
        let own: Spec = serde_json::from_str(&rootless(Groups::ByController, (1000, 100)).unwrap()).unwrap();
        let linux = own.linux().as_ref().unwrap();
        assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 1000);
        assert!(linux.resources().is_none());
        assert!(!serde_json::to_string(&own).unwrap().contains("gid=5"));
    }
}
