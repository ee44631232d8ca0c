//! A configuration is looked at before anything is made, so that what is wrong with it is told by the name of its field.
//!
//! Also reads what other runtimes take and the plain structures refuse ([`lenient`]): empty lists written as `null`, capabilities
//! that nobody knows.

mod shape;

use crate::error::{Doing, Result, SetupError};
use crate::init::{memory, names};
use control::FailureKind;
use oci_spec::runtime::{
    Linux, LinuxDeviceType, LinuxIdMapping, LinuxNamespaceType, LinuxSchedulerPolicy, LinuxSeccompAction, Process, Spec,
};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use serde_json::Value;
use std::ffi::OsString;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path};
use sys::mount_options;

/// Reads a configuration; with it come words about what was left out.
///
/// # Errors
/// [`FailureKind::Invalid`] for text that is no configuration, with line and column.
pub fn parse(text: &[u8]) -> Result<(Box<Spec>, Vec<String>)> {
    objects(text, "")?;
    match boxed(text) {
        Ok(spec) => Ok((spec, Vec::new())),
        Err(error) => lenient(text).ok_or_else(|| SetupError::invalid(format!("config.json: {error}"))),
    }
}

/// The structure is four kilobytes: in one place from here on, it is not moved from frame to frame, each of which would touch new pages.
#[inline(never)]
fn boxed(text: &[u8]) -> serde_json::Result<Box<Spec>> {
    serde_json::from_slice(text).map(Box::new)
}

/// Sees to it that no list stands where a configuration, or the part of it that `within` names, has an object.
pub(crate) fn objects(text: &[u8], within: &str) -> Result<()> {
    match shape::odd_list(text, within) {
        Some(place) => Err(SetupError::invalid(format!("{place}: is a list, and must be an object"))),
        None => Ok(()),
    }
}

/// Reads a configuration that the plain structures refuse and that other runtimes take; with it come words about what was left out.
/// `None` for what is wrong all the same.
#[must_use]
pub fn lenient(text: &[u8]) -> Option<(Box<Spec>, Vec<String>)> {
    let mut value: Value = serde_json::from_slice(text).ok()?;
    let mut warnings = Vec::new();
    drop_nulls(&mut value);
    value.get_mut("process").into_iter().for_each(|process| complete_process(process, &mut warnings));
    Some((serde_json::from_value(value).map(Box::new).ok()?, warnings))
}

/// As [`lenient`], for the process part of a configuration alone.
pub(crate) fn lenient_process(text: &[u8]) -> Option<(Process, Vec<String>)> {
    let mut value: Value = serde_json::from_slice(text).ok()?;
    let mut warnings = Vec::new();
    drop_nulls(&mut value);
    complete_process(&mut value, &mut warnings);
    Some((serde_json::from_value(value).ok()?, warnings))
}

fn complete_process(process: &mut Value, warnings: &mut Vec<String>) {
    let Some(process) = process.as_object_mut() else { return };
    process.entry("user").or_insert_with(|| serde_json::json!({"uid": 0, "gid": 0}));
    process.get_mut("capabilities").into_iter().for_each(|sets| known_capabilities(sets, warnings));
    let flags = process.get_mut("scheduler").and_then(|scheduler| scheduler.get_mut("flags"));
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        if flag == "SCHED_FLAG_DL_OVERRUN" {
            // the name that the structure has for it
            *flag = "SCHED_FLAG_D_L_OVERRUN".into();
        }
    }
}

/// `null` stands for what is not there.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(all) => all.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn known_capabilities(sets: &mut Value, warnings: &mut Vec<String>) {
    for set in sets.as_object_mut().into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
        set.retain(|name| {
            let Some(name) = name.as_str() else { return true };
            let known = oci::caps::parse(name).is_ok_and(|found| found != "ALL");
            let text = format!("ignoring unknown or unavailable capability {name:?}");
            if !known && !warnings.contains(&text) {
                warnings.push(text);
            }
            known
        });
    }
}

/// Looks a configuration over.
///
/// # Errors
/// [`FailureKind::Invalid`] for what is wrong in itself, [`FailureKind::Unsupported`] for what this host lacks; the text
/// starts with the field's name.
pub fn check(spec: &Spec) -> Result<()> {
    let linux = spec.linux().as_ref().ok_or_else(|| SetupError::invalid("linux: is missing"))?;
    namespaces(spec, linux)?;
    mappings(linux)?;
    names::check_sysctls(spec)?;
    mounts(spec)?;
    devices(linux)?;
    if let Some(word) = linux.rootfs_propagation().as_deref().filter(|word| !word.is_empty())
        && mount_options::propagation(word).is_none()
    {
        return Err(SetupError::invalid(format!("linux.rootfsPropagation: {word:?} is no kind of propagation")));
    }
    let protected = linux.masked_paths().iter().chain(linux.readonly_paths()).flatten().next().is_some();
    if protected && !has(linux, LinuxNamespaceType::Mount) {
        let text = "linux.maskedPaths, linux.readonlyPaths: need a mount namespace of the container's own";
        return Err(SetupError::invalid(text));
    }
    if let Some(policy) = linux.memory_policy() {
        memory::check(policy)?;
    }
    if let Some(flag) = linux.personality().as_ref().and_then(|asked| asked.flags().as_ref()?.first()) {
        return Err(SetupError::invalid(format!("linux.personality.flags: {flag:?}: no flags are defined")));
    }
    if linux.mount_label().as_deref().is_some_and(|label| !label.is_empty()) && !selinux() {
        return Err(SetupError::unsupported("linux.mountLabel: SELinux is not enabled on this host"));
    }
    seccomp(linux)?;
    net_devices(linux)?;
    spec.process().as_ref().map_or(Ok(()), process)
}

fn has(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    linux.namespaces().iter().flatten().any(|one| one.typ() == kind)
}

/// Whether a namespace is new, in place of joined.
fn is_new(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    let path = |path: &Path| path.as_os_str().is_empty();
    linux.namespaces().iter().flatten().any(|one| one.typ() == kind && one.path().as_deref().is_none_or(path))
}

fn namespaces(spec: &Spec, linux: &Linux) -> Result<()> {
    let mut seen = Vec::new();
    for one in linux.namespaces().iter().flatten() {
        if seen.contains(&one.typ()) {
            return Err(SetupError::invalid(format!("linux.namespaces: duplicated namespace {:?}", one.typ())));
        }
        seen.push(one.typ());
    }
    let named = [("hostname", spec.hostname()), ("domainname", spec.domainname())];
    for (field, name) in named {
        if name.as_deref().is_some_and(|name| !name.is_empty()) && !has(linux, LinuxNamespaceType::Uts) {
            return Err(SetupError::invalid(format!("{field}: cannot be set without a private UTS namespace")));
        }
    }
    let offsets = linux.time_offsets().as_ref().filter(|all| !all.is_empty());
    for clock in offsets.iter().flat_map(|all| all.keys()) {
        if !is_new(linux, LinuxNamespaceType::Time) {
            return Err(SetupError::invalid("linux.timeOffsets: need a new time namespace"));
        }
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(SetupError::invalid(format!("linux.timeOffsets: {clock:?} is neither monotonic nor boottime")));
        }
    }
    Ok(())
}

fn mappings(linux: &Linux) -> Result<()> {
    let both = [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())];
    for (field, mappings) in both {
        let mappings = mappings.as_deref().unwrap_or_default();
        if mappings.is_empty() && is_new(linux, LinuxNamespaceType::User) {
            return Err(SetupError::invalid(format!("{field}: a new user namespace needs them")));
        }
        if !mappings.is_empty() && !has(linux, LinuxNamespaceType::User) {
            return Err(SetupError::invalid(format!("{field}: mean nothing without a user namespace")));
        }
        ranges(field, mappings)?;
    }
    Ok(())
}

fn ranges(field: &str, mappings: &[LinuxIdMapping]) -> Result<()> {
    for (at, one) in mappings.iter().enumerate() {
        let end = |from: u32| from.checked_add(one.size());
        if one.size() == 0 || end(one.container_id()).is_none() || end(one.host_id()).is_none() {
            return Err(SetupError::invalid(format!("{field}[{at}]: {} ids are no range", one.size())));
        }
        let overlaps = |other: &LinuxIdMapping| {
            let meet = |a: u32, b: u32| a < b.saturating_add(other.size()) && b < a.saturating_add(one.size());
            meet(one.container_id(), other.container_id()) || meet(one.host_id(), other.host_id())
        };
        if mappings.iter().take(at).any(overlaps) {
            return Err(SetupError::invalid(format!("{field}[{at}]: overlaps an earlier range")));
        }
    }
    Ok(())
}

fn mounts(spec: &Spec) -> Result<()> {
    for (at, mount) in spec.mounts().iter().flatten().enumerate() {
        let field = || format!("mounts[{at}] on {}", mount.destination().display());
        if mount.destination().as_os_str().is_empty() {
            return Err(SetupError::invalid(format!("mounts[{at}].destination: is empty")));
        }
        let pairs = [("uidMappings", mount.uid_mappings()), ("gidMappings", mount.gid_mappings())];
        for (name, mappings) in pairs {
            ranges(&format!("{}.{name}", field()), mappings.as_deref().unwrap_or_default())?;
        }
        if mount.uid_mappings().is_some() != mount.gid_mappings().is_some() {
            return Err(SetupError::invalid(format!(
                "{}: invalid mount: uidMappings and gidMappings go together",
                field()
            )));
        }
    }
    Ok(())
}

fn devices(linux: &Linux) -> Result<()> {
    for device in linux.devices().iter().flatten() {
        let field = || format!("linux.devices: {}", device.path().display());
        let plain = device.path().is_absolute()
            && device.path().components().all(|part| part != Component::ParentDir)
            && device.path().file_name().is_some();
        if !plain {
            return Err(SetupError::invalid(format!("{}: is no absolute path of a file", field())));
        }
        let numbered = |number: i64| u32::try_from(number).is_ok();
        match device.typ() {
            LinuxDeviceType::A => return Err(SetupError::invalid(format!("{}: type a is for rules only", field()))),
            LinuxDeviceType::P => {}
            _ if !numbered(device.major()) || !numbered(device.minor()) => {
                return Err(SetupError::invalid(format!("{}: major and minor are no device's number", field())));
            }
            _ => {}
        }
    }
    Ok(())
}

fn seccomp(linux: &Linux) -> Result<()> {
    let Some(seccomp) = linux.seccomp() else { return Ok(()) };
    let notifies = |action| action == LinuxSeccompAction::ScmpActNotify;
    if notifies(seccomp.default_action()) {
        return Err(SetupError::invalid("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default"));
    }
    let calls = || seccomp.syscalls().iter().flatten().filter(|call| notifies(call.action()));
    if calls().any(|call| call.names().iter().any(|name| name == "write")) {
        return Err(SetupError::invalid(
            "linux.seccomp.syscalls: SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ));
    }
    let path = seccomp.listener_path().as_ref().filter(|path| !path.as_os_str().is_empty());
    if calls().next().is_some() && path.is_none() {
        return Err(SetupError::invalid("linux.seccomp.listenerPath: SCMP_ACT_NOTIFY needs it"));
    }
    if path.is_none() && seccomp.listener_metadata().as_deref().is_some_and(|text| !text.is_empty()) {
        return Err(SetupError::invalid("linux.seccomp.listenerMetadata: means nothing without listenerPath"));
    }
    Ok(())
}

fn net_devices(linux: &Linux) -> Result<()> {
    let Some(all) = linux.net_devices().as_ref().filter(|all| !all.is_empty()) else { return Ok(()) };
    if !has(linux, LinuxNamespaceType::Network) {
        return Err(SetupError::invalid("linux.netDevices: need a network namespace of the container's own"));
    }
    let fits = |name: &str| {
        let strange = |letter: char| letter == '/' || letter == ':' || letter.is_whitespace();
        !name.is_empty() && name.len() < 16 && name != "." && name != ".." && !name.contains(strange)
    };
    let mut names = Vec::new();
    for (host, device) in all {
        let inside = device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(host);
        if !fits(host) || !fits(inside) {
            return Err(SetupError::invalid(format!("linux.netDevices: {host:?} as {inside:?} is no interface name")));
        }
        if names.contains(&inside) {
            return Err(SetupError::invalid(format!("linux.netDevices: two would be called {inside:?}")));
        }
        names.push(inside);
    }
    Ok(())
}

/// Looks over what a process is to be, the first or a later one.
///
/// # Errors
/// As [`check`].
pub fn process(process: &Process) -> Result<()> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(SetupError::invalid("process.args: no command is given; args must not be empty"));
    }
    if !process.cwd().is_absolute() {
        let text = format!("process.cwd: {:?}: Cwd must be an absolute path", process.cwd().display());
        return Err(SetupError::invalid(text));
    }
    let variables = process.env().iter().flatten();
    if let Some(odd) = variables.into_iter().find(|text| text.contains('\0') || text.find('=').is_none_or(|at| at == 0))
    {
        return Err(SetupError::invalid(format!("process.env: invalid environment variable: {odd:?}")));
    }
    let mut seen = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        if seen.contains(&limit.typ()) {
            return Err(SetupError::invalid(format!("process.rlimits: {} is there twice", limit.typ())));
        }
        if limit.soft() > limit.hard() {
            let text =
                format!("process.rlimits: {}: soft {} is above hard {}", limit.typ(), limit.soft(), limit.hard());
            return Err(SetupError::invalid(text));
        }
        seen.push(limit.typ());
    }
    if let Some(adjustment) = process.oom_score_adj().filter(|one| !(-1000..=1000).contains(one)) {
        return Err(SetupError::invalid(format!("process.oomScoreAdj: {adjustment} is not in -1000 to 1000")));
    }
    schedule(process)?;
    labels(process)
}

fn schedule(process: &Process) -> Result<()> {
    if let Some(priority) = process.io_priority().map(|one| one.priority()).filter(|one| !(0..=7).contains(one)) {
        return Err(SetupError::invalid(format!("process.ioPriority.priority: {priority} is not in 0 to 7")));
    }
    if let Some(affinity) = process.exec_cpu_affinity() {
        let both = [("initial", affinity.initial()), ("final", affinity.cpu_affinity_final())];
        for (name, text) in both {
            if text.as_deref().is_some_and(|text| memory::list(text).is_none()) {
                return Err(SetupError::invalid(format!("process.execCPUAffinity.{name}: is no list such as 0-3,7")));
            }
        }
    }
    let Some(asked) = process.scheduler() else { return Ok(()) };
    let wrong = |text: &str| Err(SetupError::invalid(format!("process.scheduler: {text}")));
    if asked.nice().is_some_and(|nice| !(-20..=19).contains(&nice)) {
        return wrong("nice is not in -20 to 19");
    }
    let real_time = matches!(asked.policy(), LinuxSchedulerPolicy::SchedFifo | LinuxSchedulerPolicy::SchedRr);
    if asked.priority().is_some_and(|priority| priority != 0) && !real_time {
        return wrong("priority is for SCHED_FIFO and SCHED_RR");
    }
    let timed =
        [asked.runtime(), asked.deadline(), asked.period()].into_iter().any(|time| time.is_some_and(|time| time > 0));
    if timed && *asked.policy() != LinuxSchedulerPolicy::SchedDeadline {
        return wrong("runtime, deadline and period are for SCHED_DEADLINE");
    }
    Ok(())
}

fn labels(process: &Process) -> Result<()> {
    let asked = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if asked(process.selinux_label()) && !selinux() {
        let text = "process.selinuxLabel: is given, but SELinux is not enabled on this host";
        return Err(SetupError::unsupported(text));
    }
    let confines = process.apparmor_profile().as_deref().is_some_and(|name| !name.is_empty() && name != "unconfined");
    if confines && !crate::process::apparmor() {
        let text = "process.apparmorProfile: is given, but AppArmor is not enabled on this host";
        return Err(SetupError::unsupported(text));
    }
    Ok(())
}

fn selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// The root file system's folder of a bundle.
///
/// # Errors
/// [`FailureKind::NotFound`] where it is missing, [`FailureKind::Invalid`] where it is no folder.
pub fn root(spec: &Spec, bundle: &Path) -> Result<std::path::PathBuf> {
    let root = spec.root().as_ref().ok_or_else(|| SetupError::invalid("root: is missing"))?;
    if root.path().as_os_str().is_empty() {
        return Err(SetupError::invalid("root.path: is empty"));
    }
    let path = bundle.join(root.path());
    let what = || format!("root.path: {}", path.display());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let direct = ResolveFlags::NO_SYMLINKS;
    if is_plain(&path)
        && let Ok(folder) = openat2(CWD, &path, flags, Mode::empty(), direct)
    {
        sys::process::close_later(folder);
        return Ok(path);
    }
    let folder = rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => SetupError::new(FailureKind::NotFound, format!("{}: {errno}", what())),
        Errno::NOTDIR => SetupError::invalid(format!("{}: not a directory", what())),
        _ => SetupError::new(FailureKind::Internal, format!("{}: {errno}", what())),
    })?;
    // where it leads to, links followed
    let found = rustix::fs::readlink(format!("/proc/self/fd/{}", folder.as_raw_fd()), Vec::new()).doing(what)?;
    sys::process::close_later(folder);
    Ok(std::path::PathBuf::from(OsString::from_vec(found.into_bytes())))
}

/// Whether a path has only names in it from the root on, so that it is a folder's one name if no link is among them.
fn is_plain(path: &Path) -> bool {
    let names = |bytes: &[u8]| bytes.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."));
    path.as_os_str().as_bytes().strip_prefix(b"/").is_some_and(names)
}

#[cfg(test)]
mod tests;
