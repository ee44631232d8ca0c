//! What is checked of a specification before anything is made.

use std::collections::BTreeSet;
use std::path::PathBuf;

use control::machine::{BackendChoice, MAX_CPUS, MachineSpec, NetSpec, SoftTime};
use hv::memory::MAX_RAM;
use virtio::device::net::MOST_PAIRS;

/// The least memory with which a Linux kernel comes up.
const LEAST_MEMORY: u64 = 16 << 20;
const MIB: u64 = 1 << 20;

/// Why a specification makes no machine.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// The number of processors.
    #[error("{0} processors: give 1 to {MAX_CPUS}")]
    Cpus(u32),
    /// The amount of memory.
    #[error("{0} bytes of memory: give whole MiB, from 16 MiB to {most} GiB", most = MAX_RAM >> 30)]
    Memory(u64),
    /// More memory than the host has.
    #[error("{wanted} MiB of memory, and the host has {host} MiB")]
    HostMemory {
        /// Asked for.
        wanted: u64,
        /// The host's whole memory.
        host: u64,
    },
    /// More devices than the bus has places.
    #[error("{0} devices: a machine with its devices on pages has room for {1}; use the PCI bus")]
    Devices(usize, usize),
    /// A file that would be written by two disks.
    #[error("the disk {} is given twice, and is not read-only", .0.display())]
    DiskTwice(PathBuf),
    /// There is no such tap.
    #[error("no tap {0:?} here; make it with: ip tuntap add {0} mode tap")]
    Tap(String),
    /// The guest has not so much.
    #[error("the guest can't lack {wanted} bytes: it has {memory}")]
    Balloon {
        /// Asked for.
        wanted: u64,
        /// The machine's memory.
        memory: u64,
    },
    /// No link of the host can have this name.
    #[error("{0:?} is no name of a tap: give 1 to 15 bytes, without \"/\" and spaces")]
    TapName(String),
    /// A card's queues.
    #[error("{0} pairs of queues: give 1 to {MOST_PAIRS} for a tap, and 1 for a network without one")]
    Queues(u16),
    /// Nobody listens on port 0.
    #[error("the guest's port 0 is no port to forward to: give 1 to 65535")]
    Port,
    /// The guest could not tell them apart.
    #[error("two shared folders have the tag {0:?}: give each its own")]
    Tag(String),
    /// One clock can't count the instructions of several processors.
    #[error("time from instructions is for one processor, and the machine has {0}")]
    Time(u32),
    /// A guest's address for sockets.
    #[error("the guest's address for sockets is {0}: give a number from 3 to 4294967294")]
    Cid(u32),
    /// A wish that only the software CPU can fulfil.
    #[error("soft_tier and soft_time are the software CPU's: leave them out, or the backend kvm")]
    SoftOnly,
    /// A hardware address.
    #[error("\"{0}\" is no hardware address of a card: write six pairs of hexadecimal digits, the first one even")]
    Mac(String),
}

pub(crate) fn check(spec: &MachineSpec) -> Result<(), SpecError> {
    if spec.cpus == 0 || spec.cpus > MAX_CPUS {
        return Err(SpecError::Cpus(spec.cpus));
    }
    if spec.memory < LEAST_MEMORY || !spec.memory.is_multiple_of(MIB) || spec.memory > MAX_RAM {
        return Err(SpecError::Memory(spec.memory));
    }
    if let Some(cid) = spec.vsock.as_ref().map(|vsock| vsock.cid).filter(|cid| !(3..u32::MAX).contains(cid)) {
        return Err(SpecError::Cid(cid));
    }
    if wants_soft(spec) && spec.backend == BackendChoice::Kvm {
        return Err(SpecError::SoftOnly);
    }
    if spec.soft_time == SoftTime::Instructions && spec.cpus > 1 {
        return Err(SpecError::Time(spec.cpus));
    }
    spec.nets.iter().try_for_each(check_card)?;
    let mut tags = BTreeSet::new();
    if let Some(share) = spec.shares.iter().find(|share| !tags.insert(&share.tag)) {
        return Err(SpecError::Tag(share.tag.clone()));
    }
    let system = rustix::system::sysinfo();
    let host = system.totalram.saturating_mul(system.mem_unit.into());
    if spec.memory > host {
        return Err(SpecError::HostMemory { wanted: spec.memory / MIB, host: host / MIB });
    }
    Ok(())
}

fn check_card(net: &NetSpec) -> Result<(), SpecError> {
    let named =
        |name: &String| (1..16).contains(&name.len()) && !name.contains(|c: char| c == '/' || c.is_whitespace());
    if let Some(name) = net.tap.as_ref().filter(|name| !named(name)) {
        return Err(SpecError::TapName(name.clone()));
    }
    let most = if net.tap.is_some() { MOST_PAIRS } else { 1 };
    if net.queues == 0 || net.queues > most {
        return Err(SpecError::Queues(net.queues));
    }
    if net.forwards.iter().any(|forward| forward.guest_port == 0) { Err(SpecError::Port) } else { Ok(()) }
}

/// Whether it asks for what only the software CPU has.
pub(super) fn wants_soft(spec: &MachineSpec) -> bool {
    (spec.soft_tier, spec.soft_time) != Default::default()
}

/// The hardware address of card number `index`: as given, or a locally administered one.
pub(crate) fn mac(given: Option<&str>, index: usize) -> Result<[u8; 6], SpecError> {
    let Some(text) = given else { return Ok([2, b'i', b'n', b's', 0, index as u8]) };
    let bad = || SpecError::Mac(text.to_owned());
    let parts: Vec<_> = text.split(':').collect();
    let mut mac = [0; 6];
    if parts.len() != mac.len() {
        return Err(bad());
    }
    for (byte, part) in mac.iter_mut().zip(parts) {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| digits).ok_or_else(bad)?;
    }
    if mac[0] & 1 != 0 { Err(bad()) } else { Ok(mac) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_strictly() {
        assert_eq!(mac(Some("52:54:00:12:34:fF"), 0), Ok([0x52, 0x54, 0, 0x12, 0x34, 0xff]));
        assert_eq!(mac(None, 3).map(|mac| mac[5]), Ok(3));
        for bad in
            ["", "52:54:00:12:34", "53:54:00:12:34:56", "52:54:00:12:34:5", "52:54:00:12:34:+5", "52-54-00-12-34-56"]
        {
            assert_eq!(mac(Some(bad), 0), Err(SpecError::Mac(bad.to_owned())));
        }
    }

    #[test]
    fn impossible_machines_are_refused() {
        let spec = |change: fn(&mut MachineSpec)| {
            let mut spec: MachineSpec = serde_json::from_str(r#"{"kernel": "k"}"#).unwrap();
            change(&mut spec);
            check(&spec)
        };
        assert_eq!(spec(|_| ()), Ok(()));
        assert_eq!(spec(|spec| spec.cpus = 0), Err(SpecError::Cpus(0)));
        assert_eq!(spec(|spec| spec.cpus = 65), Err(SpecError::Cpus(65)));
        assert_eq!(spec(|spec| spec.memory = MIB), Err(SpecError::Memory(MIB)));
        assert_eq!(spec(|spec| spec.memory += 1), Err(SpecError::Memory((256 << 20) + 1)));
        assert!(matches!(spec(|spec| spec.memory = 512 << 30), Err(SpecError::HostMemory { .. })));
        let time = |spec: &mut MachineSpec| (spec.soft_time, spec.cpus) = (SoftTime::Instructions, 2);
        assert_eq!(spec(time), Err(SpecError::Time(2)));
    }

    #[test]
    fn impossible_devices_are_refused() {
        let spec = |devices: serde_json::Value| {
            let mut spec = serde_json::json!({ "kernel": "k" });
            spec.as_object_mut().unwrap().extend(devices.as_object().unwrap().clone());
            check(&serde_json::from_value(spec).unwrap())
        };
        let nets = |net: serde_json::Value| spec(serde_json::json!({ "nets": [net] }));
        assert_eq!(nets(serde_json::json!({ "tap": "tap0", "queues": 2 })), Ok(()));
        for name in ["", "a/b", "a b", "a-name-of-16-byt"] {
            assert_eq!(nets(serde_json::json!({ "tap": name })), Err(SpecError::TapName(name.to_owned())));
        }
        assert_eq!(nets(serde_json::json!({ "queues": 0 })), Err(SpecError::Queues(0)));
        assert_eq!(nets(serde_json::json!({ "queues": 2 })), Err(SpecError::Queues(2)));
        assert_eq!(nets(serde_json::json!({ "tap": "t", "queues": 17 })), Err(SpecError::Queues(17)));
        let forward = serde_json::json!([{ "host": "127.0.0.1:80", "guest_port": 0 }]);
        assert_eq!(nets(serde_json::json!({ "forwards": forward })), Err(SpecError::Port));
        let share = |tag: &str| serde_json::json!({ "path": "/", "tag": tag });
        assert_eq!(spec(serde_json::json!({ "shares": [share("a"), share("b")] })), Ok(()));
        assert_eq!(
            spec(serde_json::json!({ "shares": [share("a"), share("a")] })),
            Err(SpecError::Tag("a".to_owned()))
        );
    }
}
