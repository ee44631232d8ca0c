//! Docker's profile files, as `--security-opt seccomp=FILE` takes them.
//!
//! Such a file is a superset of the specification's structure: rules may be for certain capabilities, architectures and
//! kernels only. Here those conditions are decided, and what is left is the specification's structure.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;

use super::SeccompError;

/// What a profile's conditions are decided by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileHost {
    /// The processor's name in the image specification, such as `amd64`.
    pub arch: String,
    /// The kernel's major and minor version.
    pub kernel: (u32, u32),
}

impl ProfileHost {
    /// This machine, as far as `/proc` tells; an unreadable version counts as old.
    #[must_use]
    pub fn current() -> Self {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self { arch: crate::platform::Platform::host().architecture, kernel: version(&release).unwrap_or((0, 0)) }
    }
}

/// The leading `MAJOR.MINOR` of a kernel version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    flags: Vec<LinuxSeccompFilterFlag>,
    listener_path: Option<std::path::PathBuf>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Call>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: usize,
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// Reads a profile for a container with the capabilities `caps` on this machine.
///
/// # Errors
/// When the text is no JSON of Docker's form or contradicts itself.
pub fn parse_docker_profile<S: AsRef<str>>(json: &str, caps: &[S]) -> Result<LinuxSeccomp, SeccompError> {
    parse_docker_profile_for(json, caps, &ProfileHost::current())
}

/// Reads a profile for a container with the capabilities `caps` on `host`.
///
/// # Errors
/// When the text is no JSON of Docker's form or contradicts itself.
pub fn parse_docker_profile_for<S: AsRef<str>>(
    json: &str,
    caps: &[S],
    host: &ProfileHost,
) -> Result<LinuxSeccomp, SeccompError> {
    let profile: Profile = serde_json::from_str(json).map_err(|source| SeccompError::Json { source })?;
    if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
        return Err(SeccompError::Ambiguous { first: "architectures", second: "archMap" });
    }
    let native = match host.arch.as_str() {
        "amd64" => "SCMP_ARCH_X86_64",
        "arm64" => "SCMP_ARCH_AARCH64",
        "386" => "SCMP_ARCH_X86",
        "arm" => "SCMP_ARCH_ARM",
        _ => "SCMP_ARCH_NATIVE",
    };
    let mut names = profile.architectures;
    for map in profile.arch_map {
        if map.architecture == native {
            names.push(map.architecture);
            names.extend(map.sub_architectures.unwrap_or_default());
        }
    }
    let mut syscalls = Vec::new();
    for call in profile.syscalls.unwrap_or_default() {
        let call_names = match (call.name.is_empty(), call.names) {
            (true, names) => names.unwrap_or_default(),
            (false, Some(names)) if !names.is_empty() => {
                return Err(SeccompError::Ambiguous { first: "name", second: "names" });
            }
            (false, _) => vec![call.name],
        };
        let holds = |condition: Option<Condition>, empty| Condition::holds(condition, empty, caps, host);
        if !holds(call.includes, Empty::Holds)? || holds(call.excludes, Empty::Fails)? {
            continue;
        }
        let args =
            call.args.unwrap_or_default().into_iter().map(|arg| argument(arg.index, arg.op, arg.value, arg.value_two));
        syscalls.push(rule(call_names, call.action, call.errno_ret, args.collect()));
    }
    let mut seccomp = LinuxSeccomp::default();
    // Names of architectures that this program has no word for belong to other machines.
    let archs: Vec<Arch> =
        names.iter().filter_map(|name| serde_json::from_value(serde_json::Value::String(name.clone())).ok()).collect();
    seccomp
        .set_default_action(profile.default_action)
        .set_default_errno_ret(profile.default_errno_ret)
        .set_architectures((!archs.is_empty()).then_some(archs))
        .set_flags((!profile.flags.is_empty()).then_some(profile.flags))
        .set_listener_path(profile.listener_path)
        .set_listener_metadata(profile.listener_metadata)
        .set_syscalls(Some(syscalls));
    Ok(seccomp)
}

/// What a condition without content means.
#[derive(Clone, Copy)]
enum Empty {
    Holds,
    Fails,
}

impl Condition {
    /// For `includes` every part has to hold; for `excludes` any part is enough.
    fn holds<S: AsRef<str>>(
        condition: Option<Self>,
        empty: Empty,
        caps: &[S],
        host: &ProfileHost,
    ) -> Result<bool, SeccompError> {
        let Self { caps: wanted, arches, min_kernel } = condition.unwrap_or_default();
        let has = |name: &String| caps.iter().any(|own| own.as_ref() == name);
        let mut parts = Vec::new();
        if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
            parts.push(match empty {
                Empty::Holds => wanted.iter().all(has),
                Empty::Fails => wanted.iter().any(has),
            });
        }
        if let Some(arches) = arches.filter(|arches| !arches.is_empty()) {
            parts.push(arches.contains(&host.arch));
        }
        if let Some(text) = min_kernel.filter(|text| !text.is_empty()) {
            let wanted = version(&text).ok_or(SeccompError::KernelVersion { text })?;
            parts.push(host.kernel >= wanted);
        }
        Ok(match empty {
            Empty::Holds => parts.iter().all(|part| *part),
            Empty::Fails => parts.iter().any(|part| *part),
        })
    }
}

/// One rule in the specification's structure.
pub(crate) fn rule(
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    args: Vec<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut call = LinuxSyscall::default();
    call.set_names(names).set_action(action).set_errno_ret(errno).set_args((!args.is_empty()).then_some(args));
    call
}

/// One test in the specification's structure.
pub(crate) fn argument(index: usize, op: LinuxSeccompOperator, value: u64, second: Option<u64>) -> LinuxSeccompArg {
    let mut builder = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    if let Some(second) = second {
        builder = builder.value_two(second);
    }
    // Every field has a default, so there is nothing that building could miss.
    builder.build().unwrap_or_default()
}
