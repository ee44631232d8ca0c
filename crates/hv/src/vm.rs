//! A machine's part in a backend: interrupts, clock, dirty pages, and its vCPUs.

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::clock::ClockState;
use crate::cpu_model::CpuModel;
use crate::memory::{Memory, MemoryError};
use crate::state::IrqchipState;
use crate::vcpu::Vcpu;

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The processor, through `/dev/kvm`.
    Kvm,
    /// The software CPU.
    Soft,
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Soft => "soft",
        })
    }
}

/// Level of an interrupt line. An edge is [`Level::High`] followed by [`Level::Low`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Not asserted.
    Low,
    /// Asserted.
    High,
}

/// A message-signalled interrupt, as a device writes it (SDM volume 3, "Message Signalled Interrupts").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Msi {
    /// Where the message goes: `0xfee0_0000` and the destination's APIC id in bits 12 to 19.
    pub address: u64,
    /// Vector, delivery mode, trigger mode.
    pub data: u32,
}

/// A guest write that is to ring an eventfd in place of calling the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Doorbell {
    /// Guest-physical address of the write; its width may be any.
    pub gpa: u64,
    /// Ring only when a write of four bytes has this value; otherwise whatever the value.
    pub value: Option<u32>,
}

/// Why a backend refused.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// An operation of the host's failed.
    #[error("{what}")]
    Host {
        /// What was tried, in the backend's words.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no usable `/dev/kvm`.
    #[error("no KVM here: {0}")]
    Absent(String),
    /// The host's KVM lacks something that this program needs.
    #[error("this host's KVM has no {0}; use --backend soft")]
    Lacks(&'static str),
    /// A processor feature of the machine is not to be had here.
    #[error("this host's processor can't give the guest: {0}")]
    Features(String),
    /// A model-specific register was not taken.
    #[error("msr {index:#x} does not take the value {value:#x}")]
    Msr {
        /// Its number.
        index: u32,
        /// The value.
        value: u64,
    },
    /// A state to be set makes no sense.
    #[error("{0}")]
    State(String),
    /// An interrupt line that no controller has.
    #[error("no interrupt line {0}")]
    Line(u32),
    /// The guest's memory.
    #[error("guest memory")]
    Memory(#[source] MemoryError),
}

/// One machine in a backend. Everything can be called from any thread.
pub trait Vm: Send + Sync {
    /// Which backend this is.
    fn backend(&self) -> Backend;

    /// The machine's memory.
    fn memory(&self) -> &Memory;

    /// What the guest sees by CPUID, as this host can give it.
    fn cpu_model(&self) -> &CpuModel;

    /// What the backend counts about its own work, by name; nothing if it counts nothing.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Makes vCPU number `index`, in the state after power-on: the first one runs at the reset vector, the others wait
    /// for the start-up IPI. Each index may be made once.
    ///
    /// # Errors
    /// The backend refuses, or the index is taken.
    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, VmError>;

    /// Sets an interrupt line: IOAPIC input `gsi`, and for 0 to 15 the PIC's input too.
    ///
    /// # Errors
    /// [`VmError::Line`] if there is no such line.
    fn set_irq_line(&self, gsi: u32, level: Level) -> Result<(), VmError>;

    /// Sends a message-signalled interrupt.
    ///
    /// # Errors
    /// The message names no possible destination.
    fn signal_msi(&self, msi: Msi) -> Result<(), VmError>;

    /// Each write to `event` is an interrupt: a pulse on the line if `gsi` is one, or the message that
    /// [`Self::set_msi_route`] gave it.
    ///
    /// # Errors
    /// The backend refuses.
    fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), VmError>;

    /// Ends [`Self::register_irqfd`].
    ///
    /// # Errors
    /// It was not registered.
    fn unregister_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), VmError>;

    /// What an eventfd on number `gsi` (24 or more: behind the IOAPIC's lines) sends; `None` frees the number.
    ///
    /// # Errors
    /// The number is a line's, or the backend has no room.
    fn set_msi_route(&self, gsi: u32, msi: Option<Msi>) -> Result<(), VmError>;

    /// From now on guest writes at `bell` ring `event` and don't reach the bus.
    ///
    /// # Errors
    /// The backend refuses, or there is one already.
    fn register_ioeventfd(&self, event: &EventFd, bell: Doorbell) -> Result<(), VmError>;

    /// Ends [`Self::register_ioeventfd`].
    ///
    /// # Errors
    /// It was not registered.
    fn unregister_ioeventfd(&self, event: &EventFd, bell: Doorbell) -> Result<(), VmError>;

    /// The interrupt controllers and the timer that belong to no vCPU. Call it while no vCPU runs.
    ///
    /// # Errors
    /// The backend refuses to tell.
    fn irqchip(&self) -> Result<IrqchipState, VmError>;

    /// Replaces [`Self::irqchip`].
    ///
    /// # Errors
    /// The state makes no sense.
    fn set_irqchip(&self, state: &IrqchipState) -> Result<(), VmError>;

    /// The guest's time, now.
    ///
    /// # Errors
    /// The backend refuses to tell.
    fn clock(&self) -> Result<ClockState, VmError>;

    /// Sets the guest's time; it goes on from there. After a pause, with the value from its begin, the guest sees no gap.
    /// Call it while no vCPU runs. On KVM the TSC is the vCPUs' own: set it with [`Vcpu::set_msrs`] as well.
    ///
    /// # Errors
    /// The backend refuses.
    fn set_clock(&self, clock: ClockState) -> Result<(), VmError>;

    /// Starts or stops logging which pages vCPUs write; devices' writes are always logged.
    ///
    /// # Errors
    /// The backend refuses.
    fn log_dirty(&self, logging: Logging) -> Result<(), VmError>;

    /// Pages written since the last call, by vCPUs (while logging) and devices, and forgets them: one bitmap a region of
    /// [`Memory::regions`], a bit a page of [`crate::memory::PAGE_SIZE`].
    ///
    /// # Errors
    /// The backend refuses.
    fn take_dirty(&self) -> Result<Vec<Vec<u64>>, VmError>;
}

/// Whether vCPUs' writes are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logging {
    /// They are.
    On,
    /// They are not: writes cost nothing extra.
    Off,
}
