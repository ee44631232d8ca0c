//! One vCPU in KVM.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use kvm_bindings::{Msrs, Xsave, kvm_msr_entry, kvm_run, kvm_xcrs, kvm_xsave};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use super::{convert, host};
use crate::bus::Bus;
use crate::cpu_model::MSRS;
use crate::memory::Memory;
use crate::state::{Msr, VcpuState, XSAVE_MIN};
use crate::vcpu::{Exit, Kick, Kicker, RunError, Vcpu};
use crate::vm::VmError;

/// How a vCPU's thread is reached. KVM_RUN returns at once while the byte `immediate_exit` is set; the signal makes one
/// that is under way return.
struct Reach {
    asked: AtomicBool,
    inside: Mutex<Inside>,
}

struct Inside {
    /// The thread that is in KVM_RUN, or about to be.
    thread: Option<libc::pid_t>,
    /// `immediate_exit` in the page shared with KVM; null once the vCPU is gone.
    immediate_exit: *mut u8,
}

// SAFETY: the pointer is only used under the lock and names a byte that is accessed atomically.
unsafe impl Send for Inside {}

extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// The signal that interrupts KVM_RUN; its handler does nothing.
fn kick_signal() -> libc::c_int {
    static HANDLER: Once = Once::new();
    let signal = SIGRTMIN();
    HANDLER.call_once(|| {
        // It can only fail for a number that is no signal's.
        let _ = register_signal_handler(signal, nothing);
    });
    signal
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inside {
    fn set_immediate_exit(&self, value: u8) {
        if !self.immediate_exit.is_null() {
            // SAFETY: it points into the shared page as long as it is not null, and KVM reads it as one byte.
            unsafe { AtomicU8::from_ptr(self.immediate_exit) }.store(value, Ordering::SeqCst);
        }
    }
}

impl Kick for Reach {
    fn kick(&self) {
        self.asked.store(true, Ordering::SeqCst);
        let inside = lock(&self.inside);
        inside.set_immediate_exit(1);
        if let Some(thread) = inside.thread {
            let (process, signal) = (std::process::id(), kick_signal());
            // SAFETY: it sends a signal that has a handler to a thread of this process.
            unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
        }
    }
}

pub(super) struct KvmVcpu {
    index: u32,
    vcpu: VcpuFd,
    run: *const kvm_run,
    reach: Arc<Reach>,
    /// The guest's memory has to be there as long as KVM can run it.
    _memory: Memory,
}

// SAFETY: the page behind `run` belongs to `vcpu`, which moves along; only the thread that has the vCPU reads it.
unsafe impl Send for KvmVcpu {}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        lock(&self.reach.inside).immediate_exit = ptr::null_mut();
    }
}

/// What one return of KVM_RUN means.
enum Step {
    Again,
    Interrupted,
    Exit(Exit),
}

impl KvmVcpu {
    pub(super) fn new(mut vcpu: VcpuFd, index: u32, memory: Memory) -> Result<Self, VmError> {
        kick_signal();
        let run: *mut kvm_run = vcpu.get_kvm_run();
        // SAFETY: the page is mapped as long as the vCPU is there; only the address is taken.
        let immediate_exit = unsafe { &raw mut (*run).immediate_exit };
        let inside = Mutex::new(Inside { thread: None, immediate_exit });
        let reach = Arc::new(Reach { asked: AtomicBool::new(false), inside });
        Ok(Self { index, vcpu, run, reach, _memory: memory })
    }

    /// Bytes of one element of the port access that KVM just told of.
    fn io_size(run: *const kvm_run) -> usize {
        // SAFETY: the page is mapped, and KVM does not write to it outside KVM_RUN.
        let exit = unsafe { &(*run).__bindgen_anon_1 };
        // SAFETY: any bytes are valid integers.
        let io = unsafe { exit.io };
        usize::from(io.size.max(1))
    }

    fn step(&mut self, bus: &dyn Bus) -> Result<Step, RunError> {
        let (index, run) = (self.index, self.run);
        let exit = match self.vcpu.run() {
            Ok(exit) => exit,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => return Ok(Step::Interrupted),
            Err(error) => return Err(RunError { index, source: error.into() }),
        };
        match exit {
            VcpuExit::IoIn(port, bytes) => {
                bytes.chunks_mut(Self::io_size(run)).for_each(|element| bus.pio_in(port, element));
            }
            VcpuExit::IoOut(port, bytes) => {
                bytes.chunks(Self::io_size(run)).for_each(|element| bus.pio_out(port, element));
            }
            VcpuExit::MmioRead(gpa, bytes) => bus.mmio_read(gpa, bytes),
            VcpuExit::MmioWrite(gpa, bytes) => bus.mmio_write(gpa, bytes),
            // With the controllers in the kernel a halt stays there.
            VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen => {}
            VcpuExit::Shutdown | VcpuExit::SystemEvent(..) => return Ok(Step::Exit(Exit::Reset)),
            VcpuExit::FailEntry(reason, _) => {
                return Ok(Step::Exit(Exit::Failed(format!("the processor refused to enter the guest: {reason:#x}"))));
            }
            VcpuExit::InternalError => {
                return Ok(Step::Exit(Exit::Failed("KVM could not emulate an instruction".to_owned())));
            }
            other => return Ok(Step::Exit(Exit::Failed(format!("unexpected exit of KVM: {other:?}")))),
        }
        Ok(Step::Again)
    }

    fn msrs(&self) -> Result<Vec<Msr>, VmError> {
        let mut found = Vec::new();
        let mut rest = MSRS;
        // KVM stops at the first one that this host or this guest does not have.
        while !rest.is_empty() {
            let entries: Vec<_> =
                rest.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
            let mut msrs = Msrs::from_entries(&entries).map_err(|_| VmError::Lacks("room for MSRs"))?;
            let count = self.vcpu.get_msrs(&mut msrs).map_err(host("KVM_GET_MSRS"))?.min(rest.len());
            found.extend(msrs.as_slice()[..count].iter().map(|msr| Msr { index: msr.index, value: msr.data }));
            rest = rest.get(count + 1..).unwrap_or(&[]);
        }
        Ok(found)
    }

    fn xsave(&self) -> Result<Vec<u8>, VmError> {
        let area = self.vcpu.get_xsave().map_err(host("KVM_GET_XSAVE"))?;
        let mut bytes: Vec<u8> = area.region.iter().flat_map(|word| word.to_le_bytes()).collect();
        // The model has no more than x87 and SSE: the rest of the area is empty.
        bytes.truncate(XSAVE_MIN);
        Ok(bytes)
    }

    fn set_xsave(&self, bytes: &[u8]) -> Result<(), VmError> {
        let mut area = kvm_xsave::default();
        if bytes.len() < XSAVE_MIN || bytes.len() > size_of_val(&area.region) {
            return Err(VmError::State(format!("a vector state of {} bytes", bytes.len())));
        }
        for (word, bytes) in area.region.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        // x87 and SSE are there, whatever the header says: without them KVM would take their initial state.
        area.region[128] |= 3;
        let mut xsave = Xsave::new(0).map_err(|_| VmError::Lacks("room for vector state"))?;
        // SAFETY: nothing but the plain area is written.
        unsafe { xsave.as_mut_fam_struct() }.xsave = area;
        // SAFETY: the model has no state that KVM keeps beyond the first 4096 bytes, which are given.
        unsafe { self.vcpu.set_xsave2(&xsave) }.map_err(host("KVM_SET_XSAVE"))
    }
}

impl Vcpu for KvmVcpu {
    fn index(&self) -> u32 {
        self.index
    }

    fn run(&mut self, bus: &dyn Bus) -> Result<Exit, RunError> {
        // SAFETY: it only returns the calling thread's number.
        let thread = unsafe { libc::gettid() };
        lock(&self.reach.inside).thread = Some(thread);
        let result = loop {
            match self.step(bus) {
                Ok(Step::Again) => {}
                // A kick goes through KVM_RUN, which first finishes the access that was under way.
                Ok(Step::Interrupted) => {
                    lock(&self.reach.inside).set_immediate_exit(0);
                    if self.reach.asked.swap(false, Ordering::SeqCst) {
                        break Ok(Exit::Kicked);
                    }
                }
                Ok(Step::Exit(exit)) => break Ok(exit),
                Err(error) => break Err(error),
            }
        };
        lock(&self.reach.inside).thread = None;
        result
    }

    fn kicker(&self) -> Kicker {
        Kicker::new(Arc::clone(&self.reach) as Arc<dyn Kick>)
    }

    fn state(&mut self) -> Result<VcpuState, VmError> {
        let vcpu = &self.vcpu;
        // The waiting state first: KVM settles INIT and start-up IPIs when it is asked for.
        let mp_state = vcpu.get_mp_state().map_err(host("KVM_GET_MP_STATE"))?;
        Ok(VcpuState {
            mp_state: convert::mp_state(mp_state),
            regs: convert::regs(&vcpu.get_regs().map_err(host("KVM_GET_REGS"))?),
            sregs: convert::sregs(&vcpu.get_sregs().map_err(host("KVM_GET_SREGS"))?),
            xsave: self.xsave()?,
            xcr0: vcpu.get_xcrs().map_or(1, |xcrs| xcrs.xcrs[0].value),
            msrs: self.msrs()?,
            lapic: convert::lapic(&vcpu.get_lapic().map_err(host("KVM_GET_LAPIC"))?),
            events: convert::events(&vcpu.get_vcpu_events().map_err(host("KVM_GET_VCPU_EVENTS"))?),
            debug: convert::debug(&vcpu.get_debug_regs().map_err(host("KVM_GET_DEBUGREGS"))?),
        })
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<(), VmError> {
        let vcpu = &self.vcpu;
        vcpu.set_mp_state(convert::to_mp_state(state.mp_state)).map_err(host("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&convert::to_regs(&state.regs)).map_err(host("KVM_SET_REGS"))?;
        vcpu.set_sregs(&convert::to_sregs(&state.sregs)).map_err(host("KVM_SET_SREGS"))?;
        self.set_xsave(&state.xsave)?;
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = state.xcr0;
        vcpu.set_xcrs(&xcrs).map_err(host("KVM_SET_XCRS"))?;
        vcpu.set_debug_regs(&convert::to_debug(&state.debug)).map_err(host("KVM_SET_DEBUGREGS"))?;
        // The deadline is taken only when the local APIC's timer is in that mode.
        vcpu.set_lapic(&convert::to_lapic(&state.lapic)?).map_err(host("KVM_SET_LAPIC"))?;
        self.set_msrs(&state.msrs)?;
        self.vcpu.set_vcpu_events(&convert::to_events(&state.events)).map_err(host("KVM_SET_VCPU_EVENTS"))
    }

    fn set_msrs(&mut self, msrs: &[Msr]) -> Result<(), VmError> {
        let mut rest = msrs;
        while !rest.is_empty() {
            let entry = |msr: &Msr| kvm_msr_entry { index: msr.index, data: msr.value, ..Default::default() };
            let entries: Vec<_> = rest.iter().map(entry).collect();
            let list = Msrs::from_entries(&entries).map_err(|_| VmError::Lacks("room for MSRs"))?;
            let count = self.vcpu.set_msrs(&list).map_err(host("KVM_SET_MSRS"))?.min(rest.len());
            // Of what the host does not have, zero is no loss.
            match rest.get(count) {
                Some(Msr { index, value }) if *value != 0 => return Err(VmError::Msr { index: *index, value: *value }),
                _ => rest = rest.get(count + 1..).unwrap_or(&[]),
            }
        }
        Ok(())
    }
}
