//! The virtio devices of a specification.

use std::fs::OpenOptions;
use std::sync::Arc;

use control::machine::{BalloonSpec, DiskFormat, DiskSpec, LimitSpec, MachineSpec, NetSpec, ShareSpec, VsockSpec};
use hv::memory::{Backing as Region, HIGH_RAM, Range, RegionKind, Sharing as RegionSharing};
use virtio::device::balloon::{Balloon, Pressure, Pump};
use virtio::device::block::{Access, Backing, Block, Cache, Disk, Qcow2, Raw};
use virtio::device::entropy::Entropy;
use virtio::device::fs::{Fs, Sharing};
use virtio::device::net::user::{Forward, HostAccess, Protocol, UserSettings};
use virtio::device::net::{Net, TapBackend};
use virtio::device::pmem::Pmem;
use virtio::device::vsock::{FIRST_GUEST_CID, Vsock};
use virtio::device::{Device, balloon, block, net};
use virtio::limit::{Limit, Rate};

use super::MachineError;
use super::specification;

/// Persistent memory lies at multiples of this, the guest's largest pages.
const PMEM_STEP: u64 = 1 << 30;
/// The guest's driver takes whole sections of memory only.
const PMEM_UNIT: u64 = 2 << 20;

pub(super) fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(device: &str) -> impl Fn(E) -> MachineError {
    let device = device.to_owned();
    move |source| MachineError::Device { device: device.clone(), source: source.into() }
}

type Made = Result<Box<dyn Device>, MachineError>;

fn limit(spec: LimitSpec) -> Limit {
    let rate = |per_second| Rate { per_second, burst: 0 };
    Limit { bytes: rate(spec.bytes), operations: rate(spec.operations) }
}

fn disk(number: usize, spec: &DiskSpec, cpus: u32) -> Made {
    let name = format!("disk{number}");
    let access = if spec.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let cache = if spec.direct { Cache::Direct } else { Cache::Host };
    let backing = if spec.backing { Backing::Opened } else { Backing::Refused };
    let disk: Box<dyn Disk> = match spec.format {
        DiskFormat::Raw => Box::new(Raw::open(&spec.path, access, cache).map_err(failed(&name))?),
        DiskFormat::Qcow2 => Box::new(Qcow2::open(&spec.path, access, cache, backing).map_err(failed(&name))?),
    };
    let queues = u16::try_from(cpus.min(8)).unwrap_or(1);
    let settings = block::Settings { id: name.clone(), queues, limit: limit(spec.limit) };
    Ok(Box::new(Block::new(disk, settings).map_err(failed(&name))?))
}

fn card(number: usize, spec: &NetSpec) -> Made {
    let name = format!("net{number}");
    let settings = net::Settings {
        mac: specification::mac(spec.mac.as_deref(), number)?,
        mtu: None,
        receive_limit: limit(spec.limit),
        transmit_limit: limit(spec.limit),
    };
    let net = match &spec.tap {
        Some(tap) => {
            let backend = TapBackend::open(tap, spec.queues).map_err(failed(&name))?;
            Net::new(Box::new(backend), settings).map_err(failed(&name))?
        }
        None => {
            let forwards = spec.forwards.iter().map(|forward| Forward {
                protocol: if forward.udp { Protocol::Udp } else { Protocol::Tcp },
                host: forward.host,
                guest_port: forward.guest_port,
            });
            let network = UserSettings {
                forwards: forwards.collect(),
                host_access: if spec.host_loopback { HostAccess::Loopback } else { HostAccess::None },
                ..UserSettings::default()
            };
            Net::in_user_network(settings, &network).map_err(failed(&name))?
        }
    };
    Ok(Box::new(net))
}

fn vsock(spec: &VsockSpec) -> Made {
    let cid = u64::from(spec.cid);
    if cid < FIRST_GUEST_CID || spec.cid == u32::MAX {
        return Err(failed("vsock")(format!("{cid} is no address for a guest: give 3 to 4294967294")));
    }
    Ok(Box::new(Vsock::new(cid, &spec.path).map_err(failed("vsock"))?))
}

fn share(spec: &ShareSpec) -> Made {
    let sharing = if spec.read_only { Sharing::ReadOnly } else { Sharing::ReadWrite };
    Ok(Box::new(Fs::new(&spec.tag, &spec.path, sharing).map_err(failed("share"))?))
}

fn balloon(spec: BalloonSpec) -> Result<(Box<dyn Device>, Pump), MachineError> {
    let pressure = if spec.keep { Pressure::Keep } else { Pressure::Deflate };
    let settings = balloon::Settings { target: spec.target, pressure };
    let (balloon, pump) = Balloon::new(settings).map_err(failed("balloon"))?;
    Ok((Box::new(balloon), pump))
}

/// Devices, and the host's hand on those that have one.
pub(super) struct Devices {
    /// In the order in which the guest finds them.
    pub(super) all: Vec<Box<dyn Device>>,
    /// Of the balloon.
    pub(super) pump: Option<Pump>,
}

/// Every virtio device of the specification.
pub(super) fn all(spec: &MachineSpec, persistent: &[Region]) -> Result<Devices, MachineError> {
    let mut devices: Vec<Box<dyn Device>> = Vec::new();
    let mut pump = None;
    for (number, disk_spec) in spec.disks.iter().enumerate() {
        devices.push(disk(number, disk_spec, spec.cpus)?);
    }
    for (number, card_spec) in spec.nets.iter().enumerate() {
        devices.push(card(number, card_spec)?);
    }
    for share_spec in &spec.shares {
        devices.push(share(share_spec)?);
    }
    for Region { range, file, .. } in persistent {
        devices.push(Box::new(Pmem::new(Arc::clone(file), range.gpa, range.size)));
    }
    if let Some(vsock_spec) = &spec.vsock {
        devices.push(vsock(vsock_spec)?);
    }
    if let Some(balloon_spec) = spec.balloon {
        let (device, hand) = balloon(balloon_spec)?;
        devices.push(device);
        pump = Some(hand);
    }
    devices.push(Box::new(Entropy::new(Limit::default()).map_err(failed("entropy"))?));
    Ok(Devices { all: devices, pump })
}

/// The files of the persistent memory, each with its place above the RAM.
pub(super) fn persistent(spec: &MachineSpec) -> Result<Vec<Region>, MachineError> {
    let mut gpa = (HIGH_RAM + spec.memory).next_multiple_of(PMEM_STEP);
    let mut regions = Vec::with_capacity(spec.pmems.len());
    for (number, pmem) in spec.pmems.iter().enumerate() {
        let name = format!("pmem{number}");
        let file = OpenOptions::new().read(true).write(!pmem.read_only).open(&pmem.path).map_err(failed(&name))?;
        let size = file.metadata().map_err(failed(&name))?.len();
        if size == 0 || !size.is_multiple_of(PMEM_UNIT) {
            let why = format!("{} has {size} bytes, not a multiple of 2 MiB", pmem.path.display());
            return Err(failed(&name)(why));
        }
        let sharing = if pmem.read_only { RegionSharing::Private } else { RegionSharing::Shared };
        let range = Range { gpa, size, offset: 0, kind: RegionKind::Pmem };
        regions.push(Region { range, file: Arc::new(file), sharing });
        gpa = (gpa + size).next_multiple_of(PMEM_STEP);
    }
    Ok(regions)
}

/// The same files for the memory that they become part of.
pub(super) fn regions(persistent: &[Region]) -> Vec<Region> {
    let copy =
        |region: &Region| Region { range: region.range, file: Arc::clone(&region.file), sharing: region.sharing };
    persistent.iter().map(copy).collect()
}
