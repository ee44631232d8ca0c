//! Device nodes of a container and the rules that let it use them.

use crate::error::{EngineError, Result};
use crate::model::{ContainerSpec, DeviceRequest};
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What every container may use: making nodes of any number, the harmless character devices, terminals.
/// type, major, minor (-1 for any), permissions.
pub(crate) const DEFAULT_RULES: &[(LinuxDeviceType, i64, i64, &str)] = &[
    (LinuxDeviceType::C, -1, -1, "m"),
    (LinuxDeviceType::B, -1, -1, "m"),
    (LinuxDeviceType::C, 1, 3, "rwm"),
    (LinuxDeviceType::C, 1, 5, "rwm"),
    (LinuxDeviceType::C, 1, 7, "rwm"),
    (LinuxDeviceType::C, 1, 8, "rwm"),
    (LinuxDeviceType::C, 1, 9, "rwm"),
    (LinuxDeviceType::C, 5, 0, "rwm"),
    (LinuxDeviceType::C, 5, 1, "rwm"),
    (LinuxDeviceType::C, 5, 2, "rwm"),
    (LinuxDeviceType::C, 136, -1, "rwm"),
];

/// The nodes to make and the rules of the devices cgroup.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`] for a device that does not exist or a rule that is none.
pub(crate) fn plan(spec: &ContainerSpec) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>)> {
    let mut nodes = Vec::new();
    if spec.privileged {
        collect(Path::new("/dev"), Path::new("/dev"), &mut nodes);
        let everything = rule(true, LinuxDeviceType::A, -1, -1, "rwm");
        return Ok((nodes, vec![everything]));
    }
    let mut rules = vec![rule(false, LinuxDeviceType::A, -1, -1, "rwm")];
    rules.extend(DEFAULT_RULES.iter().map(|(kind, major, minor, access)| rule(true, *kind, *major, *minor, access)));
    for request in &spec.devices {
        let first = nodes.len();
        requested(request, &mut nodes)?;
        let access = &request.permissions;
        rules.extend(nodes[first..].iter().map(|node| rule(true, node.typ(), node.major(), node.minor(), access)));
    }
    for line in &spec.device_cgroup_rules {
        rules.push(parse_rule(line)?);
    }
    Ok((nodes, rules))
}

fn rule(allow: bool, kind: LinuxDeviceType, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).access(access.to_owned());
    if major >= 0 {
        rule = rule.major(major);
    }
    if minor >= 0 {
        rule = rule.minor(minor);
    }
    rule.build().unwrap_or_default()
}

fn requested(request: &DeviceRequest, nodes: &mut Vec<LinuxDevice>) -> Result<()> {
    let bad = |why: &str| EngineError::invalid(format!("--device {}: {why}", request.host));
    if request.permissions.is_empty() || !request.permissions.bytes().all(|byte| b"rwm".contains(&byte)) {
        return Err(bad("the permissions may only be any of r, w and m"));
    }
    let host = std::fs::canonicalize(&request.host)
        .map_err(|error| bad(&format!("error gathering device information while adding custom device: {error}")))?;
    if host.is_dir() {
        let before = nodes.len();
        collect(&host, Path::new(&request.container), nodes);
        if nodes.len() == before {
            return Err(bad(&format!("{:?}: not a device node, and no device is in this folder", request.host)));
        }
        return Ok(());
    }
    let node = node(&host, PathBuf::from(&request.container)).ok_or_else(|| bad("not a device node"))?;
    nodes.push(node);
    Ok(())
}

/// All devices below a folder, less the terminals and mount points that a container has of its own.
fn collect(folder: &Path, shown: &Path, nodes: &mut Vec<LinuxDevice>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let own = ["pts", "shm", "fd", "mqueue", "console", "ptmx", ".lxc", ".lxd-mounts", ".udev"];
        if own.iter().any(|skip| name.as_encoded_bytes() == skip.as_bytes()) {
            continue;
        }
        let Ok(kind) = entry.file_type() else { continue };
        let target = shown.join(&name);
        if kind.is_dir() {
            collect(&entry.path(), &target, nodes);
        } else if let Some(node) = node(&entry.path(), target) {
            nodes.push(node);
        }
    }
}

fn node(host: &Path, shown: PathBuf) -> Option<LinuxDevice> {
    let meta = std::fs::symlink_metadata(host).ok()?;
    let kind = if meta.file_type().is_char_device() {
        LinuxDeviceType::C
    } else if meta.file_type().is_block_device() {
        LinuxDeviceType::B
    } else {
        return None;
    };
    let number = meta.rdev();
    LinuxDeviceBuilder::default()
        .path(shown)
        .typ(kind)
        .major(i64::from(rustix::fs::major(number)))
        .minor(i64::from(rustix::fs::minor(number)))
        .file_mode(meta.mode() & 0o7777)
        .uid(meta.uid())
        .gid(meta.gid())
        .build()
        .ok()
}

/// `c 42:* rmw`, as the kernel's devices cgroup has it.
fn parse_rule(line: &str) -> Result<LinuxDeviceCgroup> {
    let bad = || EngineError::invalid(format!("--device-cgroup-rule {line:?}: give it as `c 42:* rmw`"));
    let [kind, numbers, access] = line.split_whitespace().collect::<Vec<_>>()[..] else { return Err(bad()) };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(bad()),
    };
    let number = |text: &str| if text == "*" { Ok(-1) } else { text.parse::<u32>().map(i64::from).map_err(|_| bad()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    if access.is_empty() || !access.bytes().all(|byte| b"rwm".contains(&byte)) {
        return Err(bad());
    }
    Ok(rule(true, kind, number(major)?, number(minor)?, access))
}

/// A block device's numbers, for rate limits.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`] if it is none.
pub(crate) fn block_numbers(path: &str, flag: &str) -> Result<(i64, i64)> {
    let meta = std::fs::metadata(path).map_err(|error| EngineError::invalid(format!("{flag} {path}: {error}")))?;
    if !meta.file_type().is_block_device() {
        return Err(EngineError::invalid(format!("{flag} {path}: not a block device; lsblk lists them")));
    }
    let number = meta.rdev();
    Ok((i64::from(rustix::fs::major(number)), i64::from(rustix::fs::minor(number))))
}
