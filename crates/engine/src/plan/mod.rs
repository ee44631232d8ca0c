//! From what a user asked for to the OCI runtime configuration: pure translation with checks.
//!
//! One file per group of fields. Nothing here changes the host; the few facts about it that matter come in [`Host`].
//! What could not be honoured becomes an error that names the flag, or a warning where Docker only warns.

pub(crate) mod capabilities;
pub(crate) mod cdi;
pub(crate) mod devices;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod process;
pub(crate) mod resources;
pub(crate) mod security;
#[cfg(test)]
mod tests;
pub(crate) mod user;

use crate::config::Paths;
use crate::error::Result;
use crate::model::{Container, ContainerSpec, NetworkMode};
use oci_spec::runtime::{Linux, RootBuilder, Spec};
use std::collections::HashMap;
use std::path::PathBuf;

/// Facts about the host that decide what is possible.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// CPUs that are online.
    pub(crate) cpus: u32,
    /// AppArmor is switched on.
    pub(crate) apparmor: bool,
    /// SELinux is switched on.
    pub(crate) selinux: bool,
    /// Capabilities that the daemon itself may hand on, in the kernel's order.
    pub(crate) capabilities: Vec<&'static str>,
}

/// What the plan needs beside the container's record.
pub(crate) struct Surroundings<'a> {
    pub(crate) host: &'a Host,
    pub(crate) paths: &'a Paths,
    /// The container's cgroup path.
    pub(crate) cgroup: String,
    /// Who the process is.
    pub(crate) user: user::User,
    /// Namespaces of other containers to join.
    pub(crate) joins: namespaces::Joins,
    /// What devices of the Container Device Interface need.
    pub(crate) devices: Vec<cdi::Edits>,
}

/// Checks that need no image and no other container, so that `create` fails early; returns warnings.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`], naming the flag and its value.
pub(crate) fn check(spec: &ContainerSpec, host: &Host) -> Result<Vec<String>> {
    let mut warnings = resources::check(&spec.resources, host)?;
    if matches!(spec.network, NetworkMode::Host) && !spec.publish.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    capabilities::effective(spec, host)?;
    crate::logs::check(&spec.log)?;
    spec.health.as_ref().map_or(Ok(()), crate::health::check)?;
    mounts::check(spec)?;
    namespaces::check(spec)?;
    process::check(spec)?;
    security::check(spec, host)?;
    Ok(warnings)
}

/// The OCI configuration of a container.
///
/// # Errors
/// As [`check`], and if a device does not exist.
pub(crate) fn oci(container: &Container, around: &Surroundings<'_>) -> Result<Spec> {
    let asked = &container.spec;
    let mut linux = Linux::default();
    let (nodes, rules) = devices::plan(asked)?;
    linux
        .set_namespaces(Some(namespaces::plan(container, around)))
        .set_resources(Some(resources::plan(&asked.resources, rules)?))
        .set_devices(Some(nodes))
        .set_cgroups_path(Some(PathBuf::from(&around.cgroup)))
        .set_seccomp(None)
        .set_intel_rdt(None)
        .set_masked_paths(Some(security::masked(asked)))
        .set_readonly_paths(Some(security::readonly(asked)))
        .set_rootfs_propagation(mounts::root_propagation(asked))
        .set_sysctl(if asked.sysctls.is_empty() { None } else { Some(asked.sysctls.clone().into_iter().collect()) });
    if let Some(ids) = container.ids {
        linux.set_uid_mappings(Some(namespaces::mapping(ids.first_uid, ids.count)));
        linux.set_gid_mappings(Some(namespaces::mapping(ids.first_gid, ids.count)));
    }
    let mut root = RootBuilder::default().path("rootfs").build().unwrap_or_default();
    root.set_readonly(Some(asked.read_only_root));
    let mut spec = Spec::default();
    spec.set_root(Some(root))
        .set_hostname(namespaces::hostname(container))
        .set_domainname(asked.domainname.clone())
        .set_process(Some(process::plan(container, around)?))
        .set_mounts(Some(mounts::plan(container, around)))
        .set_linux(Some(linux));
    if !asked.annotations.is_empty() {
        spec.set_annotations(Some(asked.annotations.clone().into_iter().collect::<HashMap<_, _>>()));
    }
    cdi::apply(&around.devices, &mut spec)?;
    Ok(spec)
}
