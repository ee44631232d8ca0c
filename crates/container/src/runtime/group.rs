//! The control group of a container.

use crate::create::cgroups;
use crate::error::{Doing, Result};
use cgroup::Group;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, Spec};
use std::borrow::Cow;
use std::path::PathBuf;

/// The group's path in the hierarchies: the configuration's, which is taken from the top, or the id.
pub(crate) fn path<'a>(spec: &'a Spec, id: &str) -> Cow<'a, str> {
    let asked =
        spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref()).map(|path| path.to_string_lossy());
    match asked.filter(|path| !path.is_empty()) {
        Some(path) if path.starts_with('/') => path,
        Some(path) => Cow::Owned(format!("/{path}")),
        None => Cow::Owned(format!("/{id}")),
    }
}

/// Devices that every container may use, and the making of any: kind, major, minor, access.
static DEVICES: [(LinuxDeviceType, Option<i64>, Option<i64>, &str); 10] = [
    (LinuxDeviceType::C, None, None, "m"),
    (LinuxDeviceType::B, None, None, "m"),
    (LinuxDeviceType::C, Some(1), Some(3), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(5), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(7), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(8), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(9), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(0), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(2), "rwm"),
    (LinuxDeviceType::C, Some(136), None, "rwm"),
];

/// The configuration's resources, with the devices that the specification has in every container: all others are denied, unless the
/// configuration says otherwise.
pub(crate) fn resources(spec: &Spec) -> LinuxResources {
    let asked = spec.linux().as_ref().and_then(|linux| linux.resources().clone());
    let mut resources = asked.unwrap_or_else(|| {
        let mut nothing = LinuxResources::default();
        nothing.set_devices(None);
        nothing
    });
    let rule = |kind, major, minor, access: &str, allow| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow).set_typ(Some(kind)).set_major(major).set_minor(minor).set_access(Some(access.to_owned()));
        rule
    };
    let mut rules = resources.devices().clone().unwrap_or_default();
    if rules.is_empty() {
        rules.push(rule(LinuxDeviceType::A, None, None, "rwm", false));
    }
    rules.extend(DEVICES.iter().map(|(kind, major, minor, access)| rule(*kind, *major, *minor, access, true)));
    resources.set_devices(Some(rules));
    resources
}

/// The group of a recorded path.
pub(crate) fn open(path: &str) -> Result<Group> {
    cgroups()?.open(path).doing(|| "cannot open the control group")
}

/// The file that tells whether a group is frozen.
pub(crate) fn freezer(group: &Group) -> Option<PathBuf> {
    let host = cgroups().ok()?;
    let at = host.hierarchies().position(|(_, names)| names.iter().any(|name| name == "freezer"));
    match at {
        Some(at) => group.dirs().get(at).map(|dir| dir.join("freezer.state")),
        None => group.dirs().first().map(|dir| dir.join("cgroup.freeze")),
    }
}
