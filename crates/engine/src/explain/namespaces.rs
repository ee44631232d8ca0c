//! Namespaces and their inodes.

use super::{DEFAULT, Row, Subject};
use crate::model::{CgroupMode, IpcMode, NetworkMode, PidMode, UserMode, UtsMode};

/// The kernel's eight, by their names in `/proc/PID/ns`.
const ALL: &[&str] = &["mnt", "pid", "net", "uts", "ipc", "user", "cgroup", "time"];

/// The namespaces of a process and their inode numbers, as far as they can be read.
pub(crate) fn namespaces_of(pid: i32) -> Vec<(String, u64)> {
    let inode = |name: &str| {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/{name}")).ok()?;
        link.to_str()?.split_once('[')?.1.strip_suffix(']')?.parse().ok()
    };
    ALL.iter().filter_map(|name| Some(((*name).to_owned(), inode(name)?))).collect()
}

pub(super) fn rows(subject: &Subject<'_>) -> Vec<Row> {
    let host = namespaces_of(i32::try_from(std::process::id()).unwrap_or(1));
    let recorded = || subject.container.runtime.as_ref().map(|run| run.namespaces.clone()).unwrap_or_default();
    let own = match subject.live {
        Some(pid) => namespaces_of(pid),
        None => recorded(),
    };
    let find = |list: &[(String, u64)], name: &str| list.iter().find(|(have, _)| have == name).map(|(_, inode)| *inode);
    let row = |name: &&str| {
        let value = match (find(&own, name), find(&host, name)) {
            (Some(own), Some(host)) if own == host => format!("{name}:[{own}] (the host's)"),
            (Some(own), _) => format!("{name}:[{own}]"),
            (None, Some(host)) if subject.container.runtime.is_some() => format!("{name}:[{host}] (the host's)"),
            (None, _) => "not started yet".to_owned(),
        };
        Row::new(*name, value, because(subject, name))
    };
    ALL.iter().map(row).collect()
}

fn because(subject: &Subject<'_>, name: &str) -> String {
    let spec = &subject.container.spec;
    let modes = &spec.namespaces;
    match name {
        "pid" => match &modes.pid {
            PidMode::Private => DEFAULT.into(),
            PidMode::Host => "--pid host".into(),
            PidMode::Container(who) => format!("--pid container:{who}"),
        },
        "ipc" => match &modes.ipc {
            IpcMode::Private => DEFAULT.into(),
            IpcMode::Shareable => "--ipc shareable".into(),
            IpcMode::None => "--ipc none".into(),
            IpcMode::Host => "--ipc host".into(),
            IpcMode::Container(who) => format!("--ipc container:{who}"),
        },
        "net" => match &spec.network {
            NetworkMode::None => "--network none".into(),
            NetworkMode::Networks(name) if name == crate::model::DEFAULT_NETWORK => "--network bridge (default)".into(),
            NetworkMode::Networks(name) => format!("--network {name}"),
            NetworkMode::Host => "--network host".into(),
            NetworkMode::Container(who) => format!("--network container:{who}"),
        },
        "uts" if modes.uts == UtsMode::Host => "--uts host".into(),
        "cgroup" if modes.cgroup == CgroupMode::Host => "--cgroupns host".into(),
        "user" => match (&modes.user, subject.container.ids) {
            (UserMode::Auto, Some(ids)) => format!("--userns auto (0 is {} on the host)", ids.first_uid),
            (UserMode::Default, Some(ids)) => format!("daemon --userns-remap (0 is {} on the host)", ids.first_uid),
            (UserMode::Host, _) => "--userns host".into(),
            _ => DEFAULT.into(),
        },
        _ => DEFAULT.into(),
    }
}
