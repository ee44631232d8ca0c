//! The control group of a container.

use crate::error::{Doing, Result};
use cgroup::{Group, Host, Place, Rights};
use oci_spec::runtime::{LinuxResources, Spec};
use std::path::PathBuf;

/// Where a container's group belongs, and the group that will be there.
pub(crate) struct Planned {
    pub(crate) host: Host,
    pub(crate) group: Group,
    place: Place,
}

/// Looks where the group of a configuration belongs.
pub(crate) fn plan(spec: &Spec, id: &str, rights: Rights) -> Result<Planned> {
    let host = Host::glance().doing(|| "cannot look at the control groups")?;
    let asked = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
    let asked = asked.map(|path| path.to_string_lossy());
    let place = host.place(asked.as_deref(), id).doing(|| "linux.cgroupsPath")?.with_rights(rights);
    Ok(Planned { group: host.group_at(&place), host, place })
}

/// Makes the group; returns it with words about what had to be left out.
pub(crate) fn make(planned: &Planned, spec: &Spec) -> Result<(Group, Vec<String>)> {
    let asked = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let mut nothing = LinuxResources::default();
    nothing.set_devices(None);
    let made = planned.host.create_at(&planned.place, asked.unwrap_or(&nothing));
    let (group, applied) = made.doing(|| "cannot make the control group")?;
    Ok((group, applied.warnings))
}

/// The file that tells whether a group is frozen.
pub(crate) fn freezer(group: &Group) -> Option<PathBuf> {
    let dirs = group.controller_dirs();
    let version_2 = || dirs.get("").map(|dir| dir.join("cgroup.freeze"));
    dirs.get("freezer").map(|dir| dir.join("freezer.state")).or_else(version_2)
}
