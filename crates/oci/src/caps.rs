//! Capabilities: their names and numbers, Docker's default set, and `--cap-add` and `--cap-drop`.

use std::collections::BTreeSet;

/// A capability name that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability {name:?}; the names are those of capabilities(7), with or without CAP_, or ALL")]
pub struct CapabilityError {
    /// The name as given.
    pub name: String,
}

/// Every capability, at its number.
///
/// # Source
/// capabilities(7), Linux `include/uapi/linux/capability.h`.
pub const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has when nobody says otherwise: Docker's fourteen, in the order of their numbers.
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

/// The number of a capability, by its full name.
#[must_use]
pub fn number(name: &str) -> Option<u8> {
    ALL.iter().position(|known| *known == name).and_then(|at| u8::try_from(at).ok())
}

/// The name of a capability, by its number.
#[must_use]
pub fn name(number: u8) -> Option<&'static str> {
    ALL.get(usize::from(number)).copied()
}

/// The set as a bit mask, as the kernel and `/proc/PID/status` have it; names that nobody knows are left out.
pub fn mask<'a>(names: impl IntoIterator<Item = &'a str>) -> u64 {
    names.into_iter().filter_map(number).fold(0, |mask, number| mask | (1 << number))
}

/// The names in a bit mask, in the order of their numbers.
#[must_use]
pub fn names(mask: u64) -> Vec<&'static str> {
    ALL.iter().enumerate().filter(|(number, _)| mask & (1 << number) != 0).map(|(_, name)| *name).collect()
}

/// A name as people write it, such as `net_admin`, as the kernel has it; `ALL` stays `ALL`.
///
/// # Errors
/// When there is no such capability.
pub fn parse(text: &str) -> Result<&'static str, CapabilityError> {
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" {
        return Ok("ALL");
    }
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    ALL.iter().copied().find(|known| *known == full).ok_or_else(|| CapabilityError { name: text.to_owned() })
}

/// The set after `--cap-add` and `--cap-drop`, in the order of the capabilities' numbers; `all` are those that can be given here.
///
/// As Docker has it: adding `ALL` starts from everything and takes away what is dropped by name, whatever else is said; dropping `ALL` leaves what
/// is added by name; and otherwise a name that is both dropped and added is added.
///
/// # Errors
/// When a name is unknown.
pub fn adjust(
    base: &[&'static str],
    all: &[&'static str],
    (add, drop): (&[String], &[String]),
) -> Result<Vec<&'static str>, CapabilityError> {
    let parse_all = |names: &[String]| names.iter().map(|name| parse(name)).collect::<Result<BTreeSet<_>, _>>();
    let (add, drop) = (parse_all(add)?, parse_all(drop)?);
    let keeps = |name: &&'static str| match (add.contains("ALL"), drop.contains("ALL")) {
        (true, _) => all.contains(name) && !drop.contains(*name),
        (false, true) => add.contains(*name),
        (false, false) => add.contains(*name) || (base.contains(name) && !drop.contains(*name)),
    };
    Ok(ALL.iter().copied().filter(keeps).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_has_dockers_mask() {
        assert_eq!(mask(DEFAULT), 0xa804_25fb);
        assert_eq!(names(0xa804_25fb), DEFAULT);
        assert_eq!((number("CAP_SYS_ADMIN"), name(40)), (Some(21), Some("CAP_CHECKPOINT_RESTORE")));
        assert_eq!(name(41), None);
    }

    #[test]
    fn add_and_drop_follow_docker() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let check = |add: &[&str], drop: &[&str]| adjust(&DEFAULT, &ALL, (&list(add), &list(drop))).unwrap();
        assert_eq!(check(&[], &[]), DEFAULT);
        assert!(check(&["net_admin"], &[]).contains(&"CAP_NET_ADMIN"));
        assert!(!check(&[], &["Chown"]).contains(&"CAP_CHOWN"));
        assert_eq!(check(&["CAP_CHOWN"], &["ALL"]), ["CAP_CHOWN"]);
        assert_eq!(check(&["ALL"], &["SYS_ADMIN"]).len(), 40);
        assert_eq!(check(&["ALL"], &["ALL"]).len(), 41);
        assert!(check(&["CHOWN"], &["CHOWN"]).contains(&"CAP_CHOWN"));
        assert_eq!(adjust(&DEFAULT, &ALL[..3], (&list(&["all"]), &[])).unwrap().len(), 3);
        let error = adjust(&DEFAULT, &ALL, (&list(&["flying"]), &[])).unwrap_err();
        assert!(error.to_string().contains("flying"));
    }
}
