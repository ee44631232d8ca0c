//! The kernel's numbers of what configurations name: limits and capabilities.

use oci_spec::runtime::{Capabilities, Capability, PosixRlimitType};
use rustix::process::Resource;

/// A limit, and its name.
pub(super) fn resource(kind: PosixRlimitType) -> (Resource, &'static str) {
    match kind {
        PosixRlimitType::RlimitAs => (Resource::As, "as"),
        PosixRlimitType::RlimitCore => (Resource::Core, "core"),
        PosixRlimitType::RlimitCpu => (Resource::Cpu, "cpu"),
        PosixRlimitType::RlimitData => (Resource::Data, "data"),
        PosixRlimitType::RlimitFsize => (Resource::Fsize, "fsize"),
        PosixRlimitType::RlimitLocks => (Resource::Locks, "locks"),
        PosixRlimitType::RlimitMemlock => (Resource::Memlock, "memlock"),
        PosixRlimitType::RlimitMsgqueue => (Resource::Msgqueue, "msgqueue"),
        PosixRlimitType::RlimitNice => (Resource::Nice, "nice"),
        PosixRlimitType::RlimitNofile => (Resource::Nofile, "nofile"),
        PosixRlimitType::RlimitNproc => (Resource::Nproc, "nproc"),
        PosixRlimitType::RlimitRss => (Resource::Rss, "rss"),
        PosixRlimitType::RlimitRtprio => (Resource::Rtprio, "rtprio"),
        PosixRlimitType::RlimitRttime => (Resource::Rttime, "rttime"),
        PosixRlimitType::RlimitSigpending => (Resource::Sigpending, "sigpending"),
        PosixRlimitType::RlimitStack => (Resource::Stack, "stack"),
    }
}

/// The kernel's number of each capability, as bits.
pub(super) fn mask(asked: Option<&Capabilities>) -> u64 {
    asked.into_iter().flatten().fold(0, |mask, capability| mask | 1 << number(*capability))
}

fn number(capability: Capability) -> u32 {
    ORDER.iter().position(|have| *have == capability).and_then(|at| u32::try_from(at).ok()).unwrap_or(63)
}

/// In the order of linux/capability.h.
const ORDER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_the_kernels_numbers() {
        assert_eq!(number(Capability::Chown), 0);
        assert_eq!(number(Capability::SysAdmin), 21);
        assert_eq!(number(Capability::AuditRead), 37);
        assert_eq!(number(Capability::CheckpointRestore), 40);
    }
}
