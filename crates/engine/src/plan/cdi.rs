//! Devices of the Container Device Interface: files on the host say what a container needs for each of them.
//!
//! # Source
//! The Container Device Interface specification, 0.3 to 1.0: `vendor/class=name`, JSON or YAML files in `/etc/cdi` and `/var/run/cdi`, of which
//! a later folder goes before an earlier one.

use crate::error::{EngineError, ErrorClass, Result, chain};
use crate::model::DriverRequest;
use oci_spec::runtime::{
    HookBuilder, LinuxDeviceBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType, MountBuilder, Spec,
};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Devices that requests for processors of graphics mean.
const GPU: &str = "nvidia.com/gpu";
/// Files longer than this are none.
const LONGEST: u64 = 4 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    kind: String,
    devices: Vec<Device>,
    container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Device {
    name: String,
    container_edits: Edits,
}

/// What is changed about a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: String,
    host_path: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    host_path: String,
    container_path: String,
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hook {
    hook_name: String,
    path: String,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<i64>,
}

/// True for `vendor/class=name`.
pub(crate) fn is_qualified(name: &str) -> bool {
    name.split_once('=').is_some_and(|(kind, device)| {
        kind.split_once('/')
            .is_some_and(|(vendor, class)| !vendor.is_empty() && !class.is_empty() && !class.contains('/'))
            && !device.is_empty()
    })
}

/// The qualified names of all devices that files tell of.
pub(crate) fn known(folders: &[PathBuf]) -> Vec<String> {
    let of =
        |file: &File| file.devices.iter().map(|device| format!("{}={}", file.kind, device.name)).collect::<Vec<_>>();
    let all: BTreeSet<String> = read(folders).iter().flat_map(of).collect();
    all.into_iter().collect()
}

/// What the devices of requests need.
///
/// # Errors
/// [`ErrorClass::Invalid`] for a device that no file names, or a file of one that makes no sense.
pub(crate) fn resolve(requests: &[DriverRequest], folders: &[PathBuf]) -> Result<Vec<Edits>> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    let files = read(folders);
    let mut edits = Vec::new();
    let mut seen = Vec::new();
    let mut missing = Vec::new();
    for name in names(requests, &files)? {
        match find(&files, &name) {
            Some((place, file, device)) => {
                if !seen.contains(&place) {
                    seen.push(place);
                    edits.push(file.container_edits.clone());
                }
                edits.push(device.container_edits.clone());
            }
            None => missing.push(name),
        }
    }
    if missing.is_empty() {
        return Ok(edits);
    }
    let text = format!("CDI device injection failed: unresolvable CDI devices {}", missing.join(", "));
    Err(EngineError::new(ErrorClass::Invalid, text))
}

/// The qualified names that requests mean.
fn names(requests: &[DriverRequest], files: &[File]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for request in requests {
        let of_gpu = request.driver == "nvidia"
            || (request.driver.is_empty()
                && request.capabilities.iter().any(|all| all.iter().any(|one| one == "gpu" || one == "nvidia")));
        if request.driver == "cdi" {
            if let Some(bad) = request.ids.iter().find(|name| !is_qualified(name)) {
                return Err(EngineError::invalid(format!("{bad:?} is no CDI device; it is written VENDOR/CLASS=NAME")));
            }
            names.extend(request.ids.iter().cloned());
        } else if of_gpu && files.iter().any(|file| file.kind == GPU) {
            let of = |name: &str| format!("{GPU}={name}");
            match (request.ids.as_slice(), request.count) {
                ([], ..0) => names.push(of("all")),
                ([], count) => names.extend((0..count).map(|number| of(&number.to_string()))),
                (ids, _) => names.extend(ids.iter().map(|id| of(id))),
            }
        } else {
            return Err(EngineError::new(
                ErrorClass::Unsupported,
                format!(
                    "could not select device driver {:?} with capabilities: {:?}; make a CDI file for the devices, as by: nvidia-ctk cdi generate",
                    request.driver, request.capabilities
                ),
            ));
        }
    }
    Ok(names)
}

fn find<'a>(files: &'a [File], name: &str) -> Option<(usize, &'a File, &'a Device)> {
    let (kind, device) = name.split_once('=')?;
    let of_kind = files.iter().enumerate().filter(|(_, file)| file.kind == kind);
    of_kind.rev().find_map(|(at, file)| Some((at, file, file.devices.iter().find(|one| one.name == device)?)))
}

/// All files of the folders, in the order of folders and names; those that make no sense are told of and left out.
fn read(folders: &[PathBuf]) -> Vec<File> {
    let mut all = Vec::new();
    for folder in folders {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            match read_one(&path) {
                Some(Ok(file)) => all.push(file),
                Some(Err(why)) => tracing::warn!(path = %path.display(), why, "a CDI file is left out"),
                None => {}
            }
        }
    }
    all
}

fn read_one(path: &Path) -> Option<std::result::Result<File, String>> {
    let kind = path.extension()?.to_str()?;
    if !["json", "yaml", "yml"].contains(&kind) {
        return None;
    }
    let read = || {
        if path.metadata().map_err(|error| error.to_string())?.len() > LONGEST {
            return Err("it is too long".to_owned());
        }
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        if kind == "json" {
            return serde_json::from_str(&text).map_err(|error| error.to_string());
        }
        let documents = compose::yaml::parse(&text, &path.display().to_string()).map_err(|error| chain(&error))?;
        let first = documents.first().ok_or("it is empty")?;
        serde_json::from_value(json(first)).map_err(|error| error.to_string())
    };
    Some(read())
}

fn json(node: &compose::node::Node) -> serde_json::Value {
    use compose::node::Value;
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(on) => (*on).into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(list) => list.iter().map(json).collect(),
        Value::Map(map) => {
            map.iter().map(|(key, value)| (key.clone(), json(value))).collect::<serde_json::Map<_, _>>().into()
        }
    }
}

/// Changes a configuration.
///
/// # Errors
/// [`ErrorClass::Invalid`] for a device node that is not there.
pub(crate) fn apply(edits: &[Edits], spec: &mut Spec) -> Result<()> {
    let mut hooks: BTreeMap<String, Vec<oci_spec::runtime::Hook>> = BTreeMap::new();
    for edit in edits {
        if let Some(process) = spec.process_mut() {
            let mut env = process.env().clone().unwrap_or_default();
            for variable in &edit.env {
                let name = variable.split('=').next();
                env.retain(|have| have.split('=').next() != name);
                env.push(variable.clone());
            }
            process.set_env(Some(env));
            let mut user = process.user().clone();
            let mut groups = user.additional_gids().clone().unwrap_or_default();
            groups.extend(edit.additional_gids.iter().filter(|gid| **gid != 0));
            user.set_additional_gids(Some(groups));
            process.set_user(user);
        }
        for node in &edit.device_nodes {
            device(node, spec)?;
        }
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for mount in &edit.mounts {
            let bind = || vec!["rbind".to_owned(), "rprivate".to_owned()];
            let options = if mount.options.is_empty() { bind() } else { mount.options.clone() };
            let kind = mount.kind.clone().unwrap_or_else(|| "bind".to_owned());
            let built = MountBuilder::default()
                .destination(&mount.container_path)
                .source(&mount.host_path)
                .typ(kind)
                .options(options);
            mounts.push(built.build().map_err(|error| EngineError::internal("cannot plan a CDI mount", &error))?);
        }
        spec.set_mounts(Some(mounts));
        for hook in &edit.hooks {
            let mut built = HookBuilder::default().path(&hook.path).args(hook.args.clone()).env(hook.env.clone());
            if let Some(timeout) = hook.timeout {
                built = built.timeout(timeout);
            }
            let built = built.build().map_err(|error| EngineError::internal("cannot plan a CDI hook", &error))?;
            hooks.entry(hook.hook_name.clone()).or_default().push(built);
        }
    }
    if !hooks.is_empty() {
        let mut all = spec.hooks().clone().unwrap_or_default();
        let mut take = |name: &str| hooks.remove(name);
        all.set_prestart(take("prestart"))
            .set_create_runtime(take("createRuntime"))
            .set_create_container(take("createContainer"))
            .set_start_container(take("startContainer"));
        spec.set_hooks(Some(all));
    }
    Ok(())
}

fn device(node: &Node, spec: &mut Spec) -> Result<()> {
    let host = node.host_path.as_deref().unwrap_or(&node.path);
    let found =
        std::fs::metadata(host).map_err(|error| EngineError::invalid(format!("CDI device node {host}: {error}")))?;
    let kind = match node.kind.as_deref() {
        Some("b") => LinuxDeviceType::B,
        Some("p") => LinuxDeviceType::P,
        Some("c" | "u") => LinuxDeviceType::C,
        _ if found.file_type().is_block_device() => LinuxDeviceType::B,
        _ if found.file_type().is_char_device() => LinuxDeviceType::C,
        _ => return Err(EngineError::invalid(format!("CDI device node {host} is no device"))),
    };
    let major = node.major.unwrap_or_else(|| rustix::fs::major(found.rdev()).into());
    let minor = node.minor.unwrap_or_else(|| rustix::fs::minor(found.rdev()).into());
    let internal = |error| EngineError::internal("cannot plan a CDI device", &error);
    let built = LinuxDeviceBuilder::default()
        .path(&node.path)
        .typ(kind)
        .major(major)
        .minor(minor)
        .file_mode(node.file_mode.unwrap_or(found.mode() & 0o7777))
        .uid(node.uid.unwrap_or_else(|| found.uid()))
        .gid(node.gid.unwrap_or_else(|| found.gid()))
        .build()
        .map_err(internal)?;
    let access = node.permissions.clone().unwrap_or_else(|| "rwm".to_owned());
    let rule = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(kind)
        .major(major)
        .minor(minor)
        .access(access)
        .build()
        .map_err(internal)?;
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|have| have.path() != built.path());
    devices.push(built);
    linux.set_devices(Some(devices));
    if let Some(resources) = linux.resources_mut() {
        let mut rules = resources.devices().clone().unwrap_or_default();
        rules.push(rule);
        resources.set_devices(Some(rules));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(driver: &str, ids: &[&str]) -> DriverRequest {
        let ids = ids.iter().map(ToString::to_string).collect();
        DriverRequest { driver: driver.to_owned(), ids, ..DriverRequest::default() }
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let yaml = "cdiVersion: 0.5.0\nkind: acme.com/null\ncontainerEdits:\n  env: [ALL=1]\ndevices:\n- name: one\n  containerEdits:\n    env: [ONE=1]\n    deviceNodes:\n    - path: /dev/acme\n      hostPath: /dev/null\n      permissions: rw\n    mounts:\n    - {hostPath: /etc, containerPath: /acme, options: [ro, rbind]}\n    hooks:\n    - {hookName: createContainer, path: /bin/true, args: [touch, x]}\n";
        std::fs::write(folder.path().join("acme.yaml"), yaml).unwrap();
        let json =
            r#"{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[{"name":"all"},{"name":"0"},{"name":"1"}]}"#;
        std::fs::write(folder.path().join("gpu.json"), json).unwrap();
        std::fs::write(folder.path().join("broken.json"), "{").unwrap();
        folder
    }

    #[test]
    fn edits_of_file_and_device_are_applied() {
        let folder = folder();
        let folders = [folder.path().to_owned()];
        let edits = resolve(&[request("cdi", &["acme.com/null=one"])], &folders).unwrap();
        let mut spec = Spec::default();
        apply(&edits, &mut spec).unwrap();
        let env = spec.process().as_ref().unwrap().env().clone().unwrap();
        assert!(env.contains(&"ALL=1".to_owned()) && env.contains(&"ONE=1".to_owned()), "{env:?}");
        let linux = spec.linux().as_ref().unwrap();
        let device = linux.devices().as_ref().unwrap().last().unwrap();
        assert_eq!((device.path().as_path(), device.major(), device.minor()), (Path::new("/dev/acme"), 1, 3));
        assert_eq!(spec.mounts().as_ref().unwrap().last().unwrap().destination(), Path::new("/acme"));
        assert_eq!(spec.hooks().as_ref().unwrap().create_container().as_ref().unwrap().len(), 1);
    }

    #[test]
    fn requests_for_graphics_mean_devices() {
        let folder = folder();
        let files = read(&[folder.path().to_owned()]);
        let gpu =
            |count, ids: &[&str]| DriverRequest { count, capabilities: vec![vec!["gpu".into()]], ..request("", ids) };
        let of = |request| names(&[request], &files).unwrap();
        assert_eq!(of(gpu(-1, &[])), ["nvidia.com/gpu=all"]);
        assert_eq!(of(gpu(2, &[])), ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]);
        assert_eq!(of(gpu(0, &["1"])), ["nvidia.com/gpu=1"]);
        let none = names(&[gpu(-1, &[])], &[]).unwrap_err();
        assert!(none.to_string().contains("could not select device driver"), "{none}");
    }

    #[test]
    fn unknown_devices_are_named() {
        let folder = folder();
        let error = resolve(&[request("cdi", &["acme.com/null=two"])], &[folder.path().to_owned()]).unwrap_err();
        assert!(error.to_string().ends_with("unresolvable CDI devices acme.com/null=two"), "{error}");
        assert!(resolve(&[request("cdi", &["two"])], &[]).is_err());
        assert!(is_qualified("a/b=c") && !is_qualified("/dev/null") && !is_qualified("a=b"));
    }
}
