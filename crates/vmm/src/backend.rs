//! Which hypervisor runs a machine: tried, not read off flags.

use std::sync::Arc;

use control::machine::{BackendChoice, MachineSpec, SoftTier, SoftTime};
use hv::clock::TimeSource;
use hv::cpu_model::CpuModel;
use hv::kvm::KvmVm;
use hv::{Backend, Bus, Exit, Memory, Vm, VmError};
use rustix::time::{ClockId, clock_gettime};
use softcpu::{Choices, SoftVm, Tier};
use vm_memory::{Bytes, GuestAddress};

/// Instructions of the probe's loop.
const STEPS: u16 = 2_000;
/// More than this for an instruction of the guest's kernel means that it is emulated one by one.
const SLOW_NS: u64 = 100;

/// What trying KVM showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// Guests run at the processor's speed.
    Fast,
    /// The guest's kernel is emulated, at so many nanoseconds an instruction.
    Emulated(u64),
    /// It can't be used: why.
    Unusable(String),
}

struct Finish(hv::Kicker);

impl Bus for Finish {
    fn mmio_read(&self, _gpa: u64, _bytes: &mut [u8]) {}

    fn mmio_write(&self, _gpa: u64, _bytes: &[u8]) {}

    fn pio_in(&self, _port: u16, _bytes: &mut [u8]) {}

    fn pio_out(&self, _port: u16, _bytes: &[u8]) {
        self.0.kick();
    }
}

fn thread_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Runs a loop of two instructions in real mode until it says that it is done, and gives the nanoseconds it took.
fn time_loop(vm: &dyn Vm, steps: u16) -> Result<u64, VmError> {
    let [low, high] = steps.to_le_bytes();
    // mov cx, steps; dec cx; jnz -3; out 0x80, al; hlt
    let code = [0xb9, low, high, 0x49, 0x75, 0xfd, 0xe6, 0x80, 0xf4];
    let wrote = vm.memory().ram().write_slice(&code, GuestAddress(0x1000));
    wrote.map_err(|_| VmError::State("the probe's memory is too small".to_owned()))?;
    let mut vcpu = vm.create_vcpu(0)?;
    let mut state = vcpu.state()?;
    (state.sregs.cs.selector, state.sregs.cs.base, state.regs.rip) = (0, 0, 0x1000);
    vcpu.set_state(&state)?;
    let finish = Finish(vcpu.kicker());
    let before = thread_ns();
    let exit = vcpu.run(&finish).map_err(|error| VmError::Host { what: "running a guest", source: error.source })?;
    match exit {
        Exit::Kicked => Ok(thread_ns() - before),
        other => Err(VmError::State(format!("a guest of four instructions ended with {other:?}"))),
    }
}

/// Runs a tiny guest on KVM and measures its speed.
pub fn probe_kvm() -> Kvm {
    let memory = match Memory::new(64 << 10) {
        Ok(memory) => memory,
        Err(error) => return Kvm::Unusable(error.to_string()),
    };
    let timed = KvmVm::new(memory, &CpuModel::v2(1)).and_then(|vm| time_loop(&vm, STEPS));
    match timed {
        Ok(ns) => match ns / (2 * u64::from(STEPS)) {
            fast if fast < SLOW_NS => Kvm::Fast,
            slow => Kvm::Emulated(slow),
        },
        Err(VmError::Host { what, source }) => Kvm::Unusable(format!("{what}: {source}")),
        Err(error) => Kvm::Unusable(error.to_string()),
    }
}

/// What `insula doctor` tells of virtual machines, as JSON: the backend that is used, and what trying KVM showed.
pub fn report() -> String {
    let (backend, found) = match probe_kvm() {
        Kvm::Fast => (Backend::Kvm, "guests run on KVM at the processor's speed".to_owned()),
        Kvm::Emulated(ns) => (
            Backend::Soft,
            format!("KVM emulates the guest's kernel, {ns} ns an instruction; the software CPU is faster"),
        ),
        Kvm::Unusable(why) => (Backend::Soft, format!("the software CPU runs guests, for KVM is not usable: {why}")),
    };
    serde_json::json!({ "backend": backend, "found": found }).to_string()
}

/// The hypervisor for a choice.
pub fn choose(choice: BackendChoice) -> Backend {
    match choice {
        BackendChoice::Kvm => Backend::Kvm,
        BackendChoice::Soft => Backend::Soft,
        BackendChoice::Auto if probe_kvm() == Kvm::Fast => Backend::Kvm,
        BackendChoice::Auto => Backend::Soft,
    }
}

fn choices(spec: &MachineSpec) -> Choices {
    let tier = match spec.soft_tier {
        SoftTier::Block => Tier::Translate,
        SoftTier::Interp => Tier::Interpret,
    };
    let time = match spec.soft_time {
        SoftTime::Host => TimeSource::Host,
        SoftTime::Instructions => TimeSource::Instructions,
    };
    Choices { tier, time }
}

/// Makes a machine in a hypervisor.
pub(crate) fn create(
    backend: Backend,
    memory: Memory,
    model: &CpuModel,
    spec: &MachineSpec,
) -> Result<Arc<dyn Vm>, VmError> {
    match backend {
        Backend::Kvm => Ok(Arc::new(KvmVm::new(memory, model)?)),
        Backend::Soft => Ok(Arc::new(SoftVm::with(memory, model.clone(), spec.cpus, choices(spec))?)),
    }
}
