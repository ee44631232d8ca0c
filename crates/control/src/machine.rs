//! What a virtual machine is to be: the body of `insula-vmm`'s configuration request, kept beside the machine.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What is to run the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// KVM where it runs guests at speed, else the software CPU.
    #[default]
    Auto,
    /// `/dev/kvm`.
    Kvm,
    /// The software CPU.
    Soft,
}

/// How the software CPU runs code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SoftTier {
    /// Translated block by block, after the interpreter has shown that it is worth it.
    #[default]
    Block,
    /// By the interpreter alone: slower, and the judge of the other.
    Interp,
}

/// Where a guest's time comes from on the software CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SoftTime {
    /// The host's clock.
    #[default]
    Host,
    /// The guest's instructions, one a nanosecond: a guest without input from outside runs the same way always. For one
    /// processor.
    Instructions,
}

/// How the guest's kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootProtocol {
    /// By the 64-bit Linux boot protocol.
    #[default]
    Linux,
    /// By the PVH entry point that an ELF kernel's note names.
    Pvh,
}

/// What happens when the guest resets the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReset {
    /// It boots again.
    #[default]
    Restart,
    /// The machine ends, as after power off.
    Stop,
}

/// What carries the virtio devices to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceBus {
    /// A page of registers each.
    #[default]
    Mmio,
    /// Functions of a PCI bus, with MSI-X.
    Pci,
}

/// Which of its devices is the machine's console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleDevice {
    /// The serial port, `ttyS0`.
    #[default]
    Serial,
    /// A virtio console, `hvc0`, which knows its terminal's size. What comes from the serial port is shown, too.
    Virtio,
}

/// How a disk's file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// Byte for byte. The default: what a guest has written is never taken for a header.
    #[default]
    Raw,
    /// A qcow2 image.
    Qcow2,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// The file or block device.
    pub path: PathBuf,
    /// The guest may not write.
    #[serde(default)]
    pub read_only: bool,
    /// How it is read.
    #[serde(default)]
    pub format: DiskFormat,
    /// A qcow2 image may open the images that it names below itself. One from somebody else could name any file.
    #[serde(default)]
    pub backing: bool,
    /// The host's page cache is left out.
    #[serde(default)]
    pub direct: bool,
    /// What the guest may do in a second.
    #[serde(default)]
    pub limit: LimitSpec,
}

/// A rate limit; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSpec {
    /// Bytes a second.
    #[serde(default)]
    pub bytes: u64,
    /// Operations, or packets, a second.
    #[serde(default)]
    pub operations: u64,
}

/// A port of the host that leads to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardSpec {
    /// Datagrams rather than streams.
    #[serde(default)]
    pub udp: bool,
    /// Where the host listens.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest_port: u16,
}

/// A file that the guest sees as persistent memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PmemSpec {
    /// The file, a multiple of 2 MiB long.
    pub path: PathBuf,
    /// The guest's writes do not reach the file.
    #[serde(default)]
    pub read_only: bool,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetSpec {
    /// The host's end: a tap of this name. Without one the card is in a network of its own, from which connections go
    /// out through the host's sockets.
    #[serde(default)]
    pub tap: Option<String>,
    /// Pairs of queues of a tap that has several.
    #[serde(default = "one_pair")]
    pub queues: u16,
    /// Ports of the host that lead to the guest, in a network of its own.
    #[serde(default)]
    pub forwards: Vec<ForwardSpec>,
    /// The gateway of a network of its own leads to the host's loopback.
    #[serde(default)]
    pub host_loopback: bool,
    /// What may pass in a second, each way.
    #[serde(default)]
    pub limit: LimitSpec,
    /// The hardware address, `02:…` made from the card's number if there is none.
    #[serde(default)]
    pub mac: Option<String>,
}

/// Sockets between guest and host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockSpec {
    /// The guest's number, 3 or more.
    pub cid: u32,
    /// The host's end: a unix socket that is made there.
    pub path: PathBuf,
}

/// A folder of the host's in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareSpec {
    /// The folder.
    pub path: PathBuf,
    /// The name by which the guest mounts it.
    pub tag: String,
    /// The guest may not write.
    #[serde(default)]
    pub read_only: bool,
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSpec {
    /// The guest's kernel: ELF or bzImage, also compressed with zstd.
    pub kernel: PathBuf,
    /// Its first file system, if any.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// Its command line.
    #[serde(default = "default_cmdline")]
    pub cmdline: String,
    /// Processors, 1 to 64.
    #[serde(default = "one")]
    pub cpus: u32,
    /// Memory in bytes, whole MiB.
    #[serde(default = "default_memory")]
    pub memory: u64,
    /// What runs it.
    #[serde(default)]
    pub backend: BackendChoice,
    /// How the software CPU runs it.
    #[serde(default)]
    pub soft_tier: SoftTier,
    /// Where its time comes from on the software CPU.
    #[serde(default)]
    pub soft_time: SoftTime,
    /// How it is entered.
    #[serde(default)]
    pub boot: BootProtocol,
    /// What a reset does.
    #[serde(default)]
    pub on_reset: OnReset,
    /// What carries its devices.
    #[serde(default)]
    pub bus: DeviceBus,
    /// Where its console is.
    #[serde(default)]
    pub console: ConsoleDevice,
    /// Its disks, in the order in which it names them.
    #[serde(default)]
    pub disks: Vec<DiskSpec>,
    /// Its network cards, in the same way.
    #[serde(default)]
    pub nets: Vec<NetSpec>,
    /// Its sockets to the host.
    #[serde(default)]
    pub vsock: Option<VsockSpec>,
    /// Folders that it shares.
    #[serde(default)]
    pub shares: Vec<ShareSpec>,
    /// Its persistent memory.
    #[serde(default)]
    pub pmems: Vec<PmemSpec>,
    /// Whether it has a balloon.
    #[serde(default)]
    pub balloon: bool,
    /// Whether the pages that it writes are noted, for snapshots of only those.
    #[serde(default)]
    pub track_dirty: bool,
    /// Whether it has the ports by which a guest that is a test asks what the machine is, and ends it with a code.
    #[serde(default)]
    pub test_devices: bool,
}

/// The command line of a machine for which none is given.
pub const DEFAULT_CMDLINE: &str = "console=ttyS0 panic=-1";
/// Bytes of memory of a machine for which none are given.
pub const DEFAULT_MEMORY: u64 = 256 << 20;
/// The most processors of a machine.
pub const MAX_CPUS: u32 = 64;

fn default_cmdline() -> String {
    DEFAULT_CMDLINE.to_owned()
}

fn default_memory() -> u64 {
    DEFAULT_MEMORY
}

fn one_pair() -> u16 {
    1
}

fn one() -> u32 {
    1
}
