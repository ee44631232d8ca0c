//! One virtual processor.

use std::sync::Arc;

use crate::bus::Bus;
use crate::state::{Msr, VcpuState};
use crate::vm::VmError;

/// Why a vCPU came back from running the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// Somebody called [`Kicker::kick`]. The vCPU's state is whole and can be read, and `run` can be called again.
    Kicked,
    /// The processor shut down (triple fault): the machine is to be reset.
    Reset,
    /// The backend gave up on this guest; the text says at what.
    Failed(String),
}

/// The backend itself failed: nothing the guest did.
#[derive(Debug, thiserror::Error)]
#[error("running vcpu {index}")]
pub struct RunError {
    /// Which vCPU.
    pub index: u32,
    /// What the system said.
    pub source: std::io::Error,
}

/// How a backend interrupts one of its vCPUs from another thread.
pub trait Kick: Send + Sync {
    /// Makes the current or, if there is none, the next [`Vcpu::run`] return [`Exit::Kicked`] soon.
    fn kick(&self);
}

/// Interrupts a vCPU from any thread. Clones kick the same one.
#[derive(Clone)]
pub struct Kicker(Arc<dyn Kick>);

impl Kicker {
    /// A kicker over a backend's own.
    pub fn new(kick: Arc<dyn Kick>) -> Self {
        Self(kick)
    }

    /// Makes the current or, if there is none, the next [`Vcpu::run`] return [`Exit::Kicked`] soon. Kicks don't add up.
    pub fn kick(&self) {
        self.0.kick();
    }
}

impl std::fmt::Debug for Kicker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kicker")
    }
}

/// One virtual processor. Its thread is the one that calls [`Self::run`]; it may be moved to it after it was made.
///
/// A halted processor stays inside `run`, without using the host's, until an interrupt, its timer or a kick. A
/// processor that waits for the start-up IPI (every one but the first, at first) does too.
pub trait Vcpu: Send {
    /// Its number, which is also its local APIC's id.
    fn index(&self) -> u32;

    /// Runs the guest until there is something that the backend does not settle by itself or through `bus`.
    ///
    /// # Errors
    /// The backend's own failure; the guest can't cause it.
    fn run(&mut self, bus: &dyn Bus) -> Result<Exit, RunError>;

    /// Interrupts this vCPU from other threads.
    fn kicker(&self) -> Kicker;

    /// The whole architectural state. Call it between runs.
    ///
    /// # Errors
    /// The backend refuses to tell.
    fn state(&mut self) -> Result<VcpuState, VmError>;

    /// Replaces the whole architectural state. Call it between runs.
    ///
    /// # Errors
    /// The state has something that this backend can't hold: which, is in the error.
    fn set_state(&mut self, state: &VcpuState) -> Result<(), VmError>;

    /// Sets single model-specific registers, in order.
    ///
    /// # Errors
    /// [`VmError::Msr`] names the one that the backend does not take.
    fn set_msrs(&mut self, msrs: &[Msr]) -> Result<(), VmError>;

    /// Guest instructions executed so far, if the backend counts them.
    fn instructions(&self) -> Option<u64> {
        None
    }
}
