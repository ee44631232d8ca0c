//! Facts about the host, read once.

use crate::plan::Host;
use std::fs::read_to_string;
use std::path::Path;

pub(crate) fn facts() -> Host {
    let bounding = status_mask("CapBnd:");
    let may_hand_on = |(bit, name): (usize, &&'static str)| (bounding >> bit & 1 == 1).then_some(*name);
    Host {
        cpus: std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1)),
        apparmor: read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y')),
        selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        capabilities: oci::caps::ALL.iter().enumerate().filter_map(may_hand_on).collect(),
    }
}

fn status_mask(field: &str) -> u64 {
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

pub(crate) fn os_name() -> String {
    let text = read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

pub(crate) fn memory_bytes() -> u64 {
    let text = read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) * 1024
}

pub(crate) fn security(host: &Host) -> Vec<&'static str> {
    let mut list = Vec::new();
    if Path::new("/proc/sys/kernel/seccomp").exists() {
        list.push("seccomp");
    }
    if host.apparmor {
        list.push("apparmor");
    }
    if host.selinux {
        list.push("selinux");
    }
    if Path::new("/proc/self/ns/cgroup").exists() {
        list.push("cgroupns");
    }
    list
}
