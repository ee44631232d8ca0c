//! Seccomp, masked paths, security modules.

use super::Host;
use crate::error::{EngineError, Result};
use crate::model::{ContainerSpec, SeccompChoice};
use oci_spec::runtime::Arch;

const HOST_ARCH: Arch = if cfg!(target_arch = "aarch64") { Arch::ScmpArchAarch64 } else { Arch::ScmpArchX86_64 };

/// Paths that tell a container about the host or let it disturb it.
pub(crate) const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that a container may read and not write.
pub(crate) const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Checks profiles.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`] for a profile that cannot be read, [`crate::ErrorClass::Unsupported`] for a security
/// module that this host lacks.
pub(crate) fn check(spec: &ContainerSpec, host: &Host) -> Result<()> {
    if let SeccompChoice::Profile(json) = &spec.security.seccomp {
        oci::seccomp::parse_docker_profile::<&str>(json, &[]).map_err(|error| {
            EngineError::because(crate::ErrorClass::Invalid, "--security-opt seccomp: not a seccomp profile", &error)
        })?;
    }
    match spec.security.apparmor.as_deref() {
        Some(profile) if profile != "unconfined" && !profile.is_empty() && !host.apparmor => Err(EngineError::new(
            crate::ErrorClass::Invalid,
            format!("--security-opt apparmor={profile}: AppArmor is not enabled on this host; leave the option out"),
        )),
        _ if spec.security.selinux.iter().any(|option| option != "disable") && !host.selinux => Err(EngineError::new(
            crate::ErrorClass::Invalid,
            "--security-opt label=…: SELinux is not enabled on this host; leave the option out",
        )),
        _ => Ok(()),
    }
}

/// The AppArmor profile to set.
pub(crate) fn apparmor(spec: &ContainerSpec, host: &Host) -> Option<String> {
    let profile = spec.security.apparmor.clone()?;
    (host.apparmor && !profile.is_empty()).then_some(profile)
}

/// The SELinux label to set: the options' parts over the usual container label.
pub(crate) fn selinux(spec: &ContainerSpec) -> Option<String> {
    let options = &spec.security.selinux;
    if options.is_empty() || options.iter().any(|option| option == "disable") {
        return None;
    }
    let part = |name: &str, usual: &str| {
        let found = options.iter().rev().find_map(|option| option.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap_or(usual).to_owned()
    };
    Some(format!(
        "{}:{}:{}:{}",
        part("user", "system_u"),
        part("role", "system_r"),
        part("type", "container_t"),
        part("level", "s0")
    ))
}

/// The paths in a container that nobody may look at.
#[must_use]
pub fn masked(spec: &ContainerSpec) -> Vec<String> {
    list(spec, spec.masked_paths.as_ref(), MASKED)
}

/// The paths in a container that nobody may change.
#[must_use]
pub fn readonly(spec: &ContainerSpec) -> Vec<String> {
    list(spec, spec.readonly_paths.as_ref(), READ_ONLY)
}

fn list(spec: &ContainerSpec, own: Option<&Vec<String>>, usual: &[&str]) -> Vec<String> {
    match own {
        Some(own) => own.clone(),
        None if spec.privileged => Vec::new(),
        None => usual.iter().map(|&path| path.to_owned()).collect(),
    }
}

/// The profile that a choice stands for, for a set of capabilities.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`] for a profile that cannot be understood.
pub(crate) fn profile(choice: &SeccompChoice, capabilities: &[&str]) -> Result<oci_spec::runtime::LinuxSeccomp> {
    match choice {
        SeccompChoice::Profile(json) => oci::seccomp::parse_docker_profile(json, capabilities).map_err(|error| {
            EngineError::because(crate::ErrorClass::Invalid, "cannot read the seccomp profile", &error)
        }),
        SeccompChoice::Default | SeccompChoice::Unconfined => {
            Ok(oci::seccomp::default_profile(capabilities, HOST_ARCH))
        }
    }
}

/// Compiles a profile for a set of capabilities.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`] for a profile that cannot be compiled.
pub(crate) fn compile(choice: &SeccompChoice, capabilities: &[&str]) -> Result<control::SeccompProgram> {
    let program = oci::seccomp::compile(&profile(choice, capabilities)?).map_err(|error| {
        EngineError::because(crate::ErrorClass::Invalid, "cannot compile the seccomp profile", &error)
    })?;
    Ok(control::SeccompProgram { flags: program.flags, instructions: program.packed() })
}
