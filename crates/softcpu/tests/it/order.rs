//! The order of a guest's accesses as another thread sees it: devices look at rings while the driver writes them.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use hv::cpu_model::CpuModel;
use hv::state::{MpState, Segment};
use hv::{Exit, Memory, Vm};
use softcpu::{Choices, SoftVm};
use vm_memory::{Bytes, GuestAddress};

use crate::machine::TIERS;
use crate::storm::Noise;

const CODE: u64 = 0x1000;
const ROUNDS: u32 = 200_000;
/// Where two threads share one processor of the host, a round takes a turn of it.
const LONGEST: Duration = Duration::from_secs(3);

/// Words in lines of their own: what each side writes before it looks at the other's, what the guest saw there, and whose turn it is.
const GUESTS: u64 = 0x3000;
const HOSTS: u64 = 0x3040;
const SEEN: u64 = 0x3080;
const DONE: u64 = 0x30c0;
const GO: u64 = 0x3100;

/// For each round that begins: writes its number, does an access elsewhere that is locked and changes nothing, and looks at the other side's word.
#[rustfmt::skip]
const PROGRAM: &[u8] = &[
    0xbb, 0x00, 0x30, 0x00, 0x00,             // mov ebx, 0x3000
    0xbc, 0xf0, 0x2f, 0x00, 0x00,             // mov esp, 0x2ff0
    0x31, 0xc9,                               // xor ecx, ecx
    0x41,                                     // round: inc ecx
    0x39, 0x8b, 0x00, 0x01, 0x00, 0x00,       // wait: cmp [ebx + 0x100], ecx
    0x75, 0xf8,                               // jne wait
    0x89, 0x0b,                               // mov [ebx], ecx
    0xf0, 0x83, 0x04, 0x24, 0x00,             // lock add dword [esp], 0
    0x8b, 0x53, 0x40,                         // mov edx, [ebx + 0x40]
    0x89, 0x93, 0x80, 0x00, 0x00, 0x00,       // mov [ebx + 0x80], edx
    0x89, 0x8b, 0xc0, 0x00, 0x00, 0x00,       // mov [ebx + 0xc0], ecx
    0xeb, 0xdf,                               // jmp round
];

fn load(memory: &Memory, at: u64) -> u32 {
    memory.ram().load(GuestAddress(at), Ordering::Acquire).unwrap()
}

fn store(memory: &Memory, at: u64, value: u32) {
    memory.ram().store(value, GuestAddress(at), Ordering::Release).unwrap();
}

/// The device's side of all rounds; in how many neither saw the other.
fn rounds(memory: &Memory) -> u32 {
    let (begun, mut missed, mut delay) = (Instant::now(), 0, 0_u32);
    for round in 1..=ROUNDS {
        store(memory, GO, round);
        (0..delay).for_each(|turn| {
            black_box(turn);
        });
        store(memory, HOSTS, round);
        fence(Ordering::SeqCst);
        let seen = load(memory, GUESTS);
        while load(memory, DONE) != round {
            spin_loop();
            if begun.elapsed() > LONGEST {
                return missed;
            }
        }
        match (seen == round, load(memory, SEEN) == round) {
            (false, false) => missed += 1,
            // Whoever was first waits a little longer next time, so that the two meet.
            (false, true) => delay += 1,
            (true, false) => delay = delay.saturating_sub(1),
            (true, true) => {}
        }
    }
    missed
}

/// A driver says where it wants to be woken, has a barrier, and looks whether it is needed before it sleeps; the device does the same the other
/// way round. Where the barrier is none, both sleep.
#[test]
fn a_barrier_is_one_also_for_a_single_processor() {
    for tier in TIERS {
        let memory = Memory::new(1 << 20).unwrap();
        memory.ram().write_slice(PROGRAM, GuestAddress(CODE)).unwrap();
        let vm = SoftVm::with(memory.clone(), CpuModel::v2(1), 1, Choices { tier, ..Choices::default() }).unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        let flat = |selector, access| Segment { base: 0, limit: u32::MAX, selector, access };
        let mut state = vcpu.state().unwrap();
        (state.regs.rip, state.regs.rflags, state.sregs.cr0) = (CODE, 2, 0x11);
        let segments = &mut state.sregs;
        segments.cs = flat(0x10, 0xc09b);
        for segment in [&mut segments.ds, &mut segments.es, &mut segments.ss, &mut segments.fs, &mut segments.gs] {
            *segment = flat(0x18, 0xc093);
        }
        state.mp_state = MpState::Runnable;
        vcpu.set_state(&state).unwrap();
        let kicker = vcpu.kicker();
        let missed = std::thread::scope(|scope| {
            let guest = scope.spawn(move || vcpu.run(&Noise).unwrap());
            let missed = rounds(&memory);
            kicker.kick();
            assert_eq!(guest.join().unwrap(), Exit::Kicked);
            missed
        });
        assert_eq!(missed, 0, "{tier:?}: in so many rounds neither saw the other");
        assert!(load(&memory, DONE) > 0, "{tier:?}: the guest did nothing");
    }
}
