//! Tests that run vCPUs of `/dev/kvm`, with guests of a few instructions.

use std::sync::Mutex;
use std::time::Duration;

use hv::cpu_model::CpuModel;
use hv::kvm::KvmVm;
use hv::state::{MpState, Segment, Table};
use hv::vm::Logging;
use hv::{Bus, Exit, Level, Memory, Vcpu, Vm, VmError};
use vm_memory::{Bytes, GuestAddress};

/// A bus that writes everything down.
#[derive(Default)]
struct Seen(Mutex<Vec<(u64, Vec<u8>)>>);

impl Seen {
    fn take(&self) -> Vec<(u64, Vec<u8>)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Bus for Seen {
    fn mmio_read(&self, gpa: u64, bytes: &mut [u8]) {
        bytes.fill(gpa as u8);
    }

    fn mmio_write(&self, gpa: u64, bytes: &[u8]) {
        self.0.lock().unwrap().push((gpa, bytes.to_vec()));
    }

    fn pio_in(&self, port: u16, bytes: &mut [u8]) {
        bytes.fill(port as u8);
    }

    fn pio_out(&self, port: u16, bytes: &[u8]) {
        self.0.lock().unwrap().push((port.into(), bytes.to_vec()));
    }
}

/// A machine of 512 KiB with `code` at 0x1000, about to execute it in real mode; `None` without KVM.
fn machine(code: &[u8]) -> Option<(KvmVm, Box<dyn Vcpu>)> {
    let vm = match KvmVm::new(Memory::new(1 << 19).unwrap(), &CpuModel::v2(1)) {
        Err(VmError::Absent(why)) => {
            println!("skipped: {why}");
            return None;
        }
        vm => vm.unwrap(),
    };
    vm.memory().ram().write_slice(code, GuestAddress(0x1000)).unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let mut state = vcpu.state().unwrap();
    state.sregs.cs.selector = 0;
    state.sregs.cs.base = 0;
    state.regs.rip = 0x1000;
    state.regs.rsp = 0x8000;
    vcpu.set_state(&state).unwrap();
    Some((vm, vcpu))
}

#[test]
fn accesses_reach_the_bus_an_element_at_a_time() {
    // mov dx, 0x1234; in al, dx; out dx, ax; mov cx, 2; mov si, 0x1000; rep outsb
    let code = [
        0xba, 0x34, 0x12, 0xec, 0xef, 0xb9, 2, 0, 0xbe, 0, 0x10, 0xf3, 0x6e, // ports
        0xb8, 0, 0xf0, 0x8e, 0xd8, 0xa2, 0, 0, // mov ax, 0xf000; mov ds, ax; mov [0], al
        0xea, 0, 0, 0, 0, // jmp 0:0, where a string of zeroes is harmless
    ];
    let Some((vm, mut vcpu)) = machine(&code) else { return };
    // At 0: hlt; jmp -3.
    vm.memory().ram().write_slice(&[0xf4, 0xeb, 0xfd], GuestAddress(0)).unwrap();
    let seen = Seen::default();
    let kicker = vcpu.kicker();
    let kick = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        kicker.kick();
    });
    assert_eq!(vcpu.run(&seen).unwrap(), Exit::Kicked);
    kick.join().unwrap();
    let accesses = seen.take();
    assert_eq!(accesses[0].0, 0x1234);
    assert_eq!(accesses[0].1[0], 0x34);
    // What lies above RAM is the bus's.
    assert_eq!(accesses[1..], [(0x1234, vec![0xba]), (0x1234, vec![0x34]), (0xf0000, vec![0])]);
}

#[test]
fn kicks_that_come_early_are_kept_and_count_once() {
    let Some((_vm, mut vcpu)) = machine(&[0xf4, 0xeb, 0xfd]) else { return };
    let kicker = vcpu.kicker();
    kicker.kick();
    kicker.clone().kick();
    let seen = Seen::default();
    assert_eq!(vcpu.run(&seen).unwrap(), Exit::Kicked);
    let late = std::thread::spawn(move || kicker.kick());
    assert_eq!(vcpu.run(&seen).unwrap(), Exit::Kicked);
    late.join().unwrap();
}

#[test]
fn triple_faults_are_resets() {
    // ud2, in protected mode without a single entry for exceptions.
    let Some((_vm, mut vcpu)) = machine(&[0x0f, 0x0b]) else { return };
    let mut state = vcpu.state().unwrap();
    let flat = |access| Segment { base: 0, limit: u32::MAX, selector: 8, access };
    state.sregs.cr0 |= 1;
    state.sregs.cs = flat(0xc09b);
    (state.sregs.ds, state.sregs.es, state.sregs.ss) = (flat(0xc093), flat(0xc093), flat(0xc093));
    state.sregs.idt = Table { base: 0, limit: 0 };
    vcpu.set_state(&state).unwrap();
    assert_eq!(vcpu.run(&Seen::default()).unwrap(), Exit::Reset);
}

#[test]
fn interrupt_lines_wake_a_halted_vcpu() {
    // sti; hlt; hang. Vector 0x20 (entry at 0x80) is at 0x2000: out 0x10, al; hlt
    let Some((vm, mut vcpu)) = machine(&[0xfb, 0xf4, 0xeb, 0xfd]) else { return };
    vm.memory().ram().write_slice(&[0xe6, 0x10, 0xf4], GuestAddress(0x2000)).unwrap();
    vm.memory().ram().write_obj(0x2000u32, GuestAddress(0x80)).unwrap();
    let mut state = vm.irqchip().unwrap();
    state.pics[0].irq_base = 0x20;
    vm.set_irqchip(&state).unwrap();
    vm.set_irq_line(0, Level::High).unwrap();
    assert!(matches!(vm.set_irq_line(24, Level::High), Err(VmError::Line(24))));
    struct First(Mutex<u32>, hv::Kicker);
    impl Bus for First {
        fn mmio_read(&self, _: u64, _: &mut [u8]) {}
        fn mmio_write(&self, _: u64, _: &[u8]) {}
        fn pio_in(&self, _: u16, _: &mut [u8]) {}
        fn pio_out(&self, _: u16, _: &[u8]) {
            *self.0.lock().unwrap() += 1;
            self.1.kick();
        }
    }
    let bus = First(Mutex::new(0), vcpu.kicker());
    assert_eq!(vcpu.run(&bus).unwrap(), Exit::Kicked);
    assert_eq!(*bus.0.lock().unwrap(), 1);
}

#[test]
fn states_go_round() {
    let Some((vm, mut vcpu)) = machine(&[0xf4]) else { return };
    let mut state = vcpu.state().unwrap();
    state.regs.r15 = 0x0123_4567_89ab_cdef;
    state.sregs.cr2 = 0x1000;
    state.xsave[160..176].copy_from_slice(&[7; 16]);
    state.debug.dr[0] = 0x4000;
    vcpu.set_state(&state).unwrap();
    let mut again = vcpu.state().unwrap();
    let of = |state: &hv::VcpuState, index| state.msrs.iter().find(|msr| msr.index == index).map(|msr| msr.value);
    assert!(of(&again, 0x10) >= of(&state, 0x10) && of(&state, 0x10).is_some());
    again.msrs.clone_from(&state.msrs);
    assert_eq!(again, state);
    // As text and back.
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<hv::VcpuState>(&text).unwrap(), state);
    let mut chips = vm.irqchip().unwrap();
    chips.ioapic.redirection[5] = 0x8000 | 0x41;
    vm.set_irqchip(&chips).unwrap();
    assert_eq!(vm.irqchip().unwrap().ioapic, chips.ioapic);
    let mut second = vm.create_vcpu(1).unwrap();
    assert_eq!(second.state().unwrap().mp_state, MpState::Uninitialized);
    assert!(vm.create_vcpu(1).is_err());
}

#[test]
fn pages_that_the_guest_writes_are_logged() {
    // mov [0x3000], al; out 0x10, al; mov [0x5000], al; out 0x10, al; hlt
    let code = [0xa2, 0, 0x30, 0xe6, 0x10, 0xa2, 0, 0x50, 0xe6, 0x10, 0xf4];
    let Some((vm, mut vcpu)) = machine(&code) else { return };
    vm.take_dirty().unwrap();
    vm.log_dirty(Logging::On).unwrap();
    struct Kicking(hv::Kicker);
    impl Bus for Kicking {
        fn mmio_read(&self, _: u64, _: &mut [u8]) {}
        fn mmio_write(&self, _: u64, _: &[u8]) {}
        fn pio_in(&self, _: u16, _: &mut [u8]) {}
        fn pio_out(&self, _: u16, _: &[u8]) {
            self.0.kick();
        }
    }
    let bus = Kicking(vcpu.kicker());
    assert_eq!(vcpu.run(&bus).unwrap(), Exit::Kicked);
    assert_eq!(vm.take_dirty().unwrap()[0][0] & !0b10, 1 << 3);
    assert_eq!(vcpu.run(&bus).unwrap(), Exit::Kicked);
    vm.memory().ram().write_obj(1u8, GuestAddress(0x6000)).unwrap();
    assert_eq!(vm.take_dirty().unwrap()[0][0] & !0b10, 1 << 5 | 1 << 6);
    vm.log_dirty(Logging::Off).unwrap();
}

#[test]
fn the_clock_goes_on_from_where_it_is_set() {
    let Some((vm, _vcpu)) = machine(&[0xf4]) else { return };
    let clock = hv::clock::ClockState { ns: 7_000_000_000, tsc: 0, tsc_khz: 0 };
    vm.set_clock(clock).unwrap();
    let now = vm.clock().unwrap().ns;
    assert!((7_000_000_000..60_000_000_000).contains(&now), "{now}");
}
