//! The same small guest on every backend.

mod program;

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use control::machine::{BackendChoice, MachineSpec};
use vmm::{Check, Event, Extent, MachineError, Packing, SnapshotError, Writing};

use crate::support::{Running, backends, spec};

/// Answers each byte from the serial port with the byte plus how many there were, counted in a register and in memory; `q`
/// switches the machine off, and `r`, or counts that differ, is a triple fault.
const ECHO: &[u8] = &[
    0x31, 0xdb, // xor ebx, ebx
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, // wait for input
    0x66, 0xba, 0xf8, 0x03, 0xec, // in al, dx
    0xff, 0xc3, // inc ebx
    0xff, 0x04, 0x25, 0, 0, 0x20, 0, // inc dword [0x200000]
    0x39, 0x1c, 0x25, 0, 0, 0x20, 0, 0x75, 0x17, // cmp [0x200000], ebx; jne bad
    0x3c, b'q', 0x74, 0x09, 0x3c, b'r', 0x74, 0x0f, // cmp al; je
    0x00, 0xd8, 0xee, 0xeb, 0xd3, // add al, bl; out dx, al; again
    0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xf4, 0xeb, 0xfd, // off
    0x0f, 0x0b, // bad: ud2, without a single gate
];

/// The same with a second processor, woken by INIT and start-up: it counts, in a register, the bytes that the first one tells it of in memory.
const PAIR: &[u8] = &[
    0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, 0x0d, 0, 0x0c, 0, 0, 0x0f, 0x30, // the APIC by registers: MSR 0x1b
    0x48, 0x8d, 0x35, 0x4d, 0, 0, 0, 0xbf, 0, 0x80, 0, 0, // lea rsi, [rip+..]; mov edi, 0x8000
    0xb9, 0x19, 0, 0, 0, 0xf3, 0xa4, // mov ecx, 25; rep movsb
    0xb9, 0x30, 0x08, 0, 0, 0x31, 0xd2, // mov ecx, 0x830 (ICR); xor edx, edx
    0xb8, 0, 0x45, 0x0c, 0, 0x0f, 0x30, // INIT to all others
    0xb8, 0x08, 0x46, 0x0c, 0, 0x0f, 0x30, 0x0f, 0x30, // they start at 0x8000
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, // wait for input
    0x66, 0xba, 0xf8, 0x03, 0xec, // in al, dx
    0xc6, 0x04, 0x25, 0, 0x81, 0, 0, 0x01, // mov byte [0x8100], 1
    0x80, 0x3c, 0x25, 0, 0x81, 0, 0, 0, 0x75, 0xf6, // until it is 0
    0x02, 0x04, 0x25, 0x04, 0x81, 0, 0, 0xee, 0xeb, 0xd6, // add al, [0x8104]; out dx, al; again
    // in real mode
    0x31, 0xc0, 0x8e, 0xd8, 0x31, 0xdb, // xor ax, ax; mov ds, ax; xor bx, bx
    0x80, 0x3e, 0, 0x81, 1, 0x75, 0xf9, // until byte [0x8100] is 1
    0x43, 0x88, 0x1e, 0x04, 0x81, // inc bx; mov [0x8104], bl
    0xc6, 0x06, 0, 0x81, 0, 0xeb, 0xed, // mov byte [0x8100], 0; again
];

const FULL: Writing = Writing { extent: Extent::Full, packing: Packing::None };
const MORE: Writing = Writing { extent: Extent::Incremental, packing: Packing::None };

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An ELF kernel with this code at 1 MiB.
    fn kernel(&self, code: &[u8]) -> PathBuf {
        let path = self.path("kernel");
        std::fs::write(&path, testkit::guest::elf(code)).unwrap();
        path
    }

    fn spec(&self, backend: BackendChoice) -> MachineSpec {
        MachineSpec { track_dirty: true, ..spec(&self.kernel(ECHO), backend) }
    }
}

fn ask(guest: &Running, answer: &str) {
    guest.input("a");
    guest.expect(answer);
}

#[test]
fn guests_speak_and_switch_off() {
    for backend in backends() {
        let folder = Folder::new();
        let guest = Running::boot(&folder.spec(backend));
        ask(&guest, "b");
        ask(&guest, "c");
        guest.input("q");
        assert_eq!(guest.event(), Event::PowerOff, "{backend:?}");
    }
}

/// A multiboot kernel: reads the number of processors from the ports for tests, puts it into registers that keep it, and ends with it.
#[test]
fn tests_of_others_end_with_a_code() {
    let code = [
        0x02u8, 0xb0, 0xad, 0x1b, 0, 0, 1, 0, 0xfe, 0x4f, 0x51, 0xe4, // the header
        0, 0, 0x10, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0x10, 0, // its addresses
        0x66, 0xba, 0x10, 0x05, 0x66, 0xb8, 5, 0, 0x66, 0xef, // mov dx, 0x510; mov ax, 5; out dx, ax
        0x42, 0xec, // inc edx; in al, dx
        0xe6, 0xe9, 0xb0, 0, 0xe4, 0xe1, // out 0xe9, al; mov al, 0; in al, 0xe1
        0xa2, 0x10, 0, 0, 0xff, 0xb0, 0, 0xa0, 0x10, 0, 0,
        0xff, // mov [0xff000010], al; mov al, 0; mov al, [0xff000010]
        0x66, 0xba, 0xf4, 0, 0xee, 0xf4, // mov dx, 0xf4; out dx, al; hlt
    ];
    for backend in backends() {
        let folder = Folder::new();
        let path = folder.path("suite");
        std::fs::write(&path, code).unwrap();
        let mut spec = spec(&path, backend);
        (spec.test_devices, spec.cpus) = (true, 2);
        assert_eq!(Running::boot(&spec).event(), Event::Exit(5), "{backend:?}");
    }
}

#[test]
fn triple_faults_are_resets() {
    for backend in backends() {
        let folder = Folder::new();
        let guest = Running::boot(&folder.spec(backend));
        guest.input("r");
        assert_eq!(guest.event(), Event::Reset, "{backend:?}");
    }
}

#[test]
fn snapshots_go_on_where_they_were_and_elsewhere() {
    for backend in backends() {
        let folder = Folder::new();
        let mut guest = Running::boot(&folder.spec(backend));
        ask(&guest, "b");
        let (full, more) = (folder.path("full"), folder.path("more"));
        let early = guest.machine.snapshot(&full, FULL);
        assert!(matches!(early, Err(MachineError::Snapshot(SnapshotError::Running))), "{early:?}");
        guest.machine.pause().unwrap();
        let orphan = guest.machine.snapshot(&more, MORE);
        assert!(matches!(orphan, Err(MachineError::Snapshot(SnapshotError::NoParent))), "{orphan:?}");
        guest.machine.snapshot(&full, FULL).unwrap();
        let again = guest.machine.snapshot(&full, FULL);
        assert!(matches!(again, Err(MachineError::Snapshot(SnapshotError::Exists(_)))), "{again:?}");
        guest.machine.resume().unwrap();
        ask(&guest, "c");
        guest.machine.pause().unwrap();
        guest.machine.snapshot(&more, MORE).unwrap();
        drop(guest);
        for (from, answer) in [(&full, "c"), (&more, "d"), (&full, "c")] {
            for to in [backend, BackendChoice::Soft] {
                for check in [Check::All, Check::Touch, Check::None] {
                    let guest = Running::restore_checked(from, Some(to), check).unwrap();
                    ask(&guest, answer);
                    guest.input("q");
                    assert_eq!(guest.event(), Event::PowerOff, "{backend:?} to {to:?}, {check:?}");
                }
            }
        }
    }
}

/// Both processors go on with their registers, on whatever runs them then.
#[test]
fn machines_of_two_processors_move_between_backends() {
    let folder = Folder::new();
    for from in backends() {
        let mut spec = spec(&folder.kernel(PAIR), from);
        (spec.cpus, spec.track_dirty) = (2, true);
        let mut guest = Running::boot(&spec);
        ask(&guest, "b");
        ask(&guest, "c");
        let snapshot = folder.path(&format!("{from:?}"));
        guest.machine.pause().unwrap();
        guest.machine.snapshot(&snapshot, FULL).unwrap();
        drop(guest);
        for to in backends() {
            let mut guest = match Running::restore(&snapshot, Some(to)) {
                // A processor here may lack what the software CPU has; the other way round, and back, works everywhere.
                Err(MachineError::Snapshot(SnapshotError::Features { lost, .. })) if from != to => {
                    println!("skipped {from:?} to {to:?}: no {lost} there");
                    continue;
                }
                outcome => outcome.unwrap(),
            };
            ask(&guest, "d");
            // And back.
            let second = folder.path(&format!("{from:?}-{to:?}"));
            guest.machine.pause().unwrap();
            guest.machine.snapshot(&second, FULL).unwrap();
            drop(guest);
            ask(&Running::restore(&second, Some(from)).unwrap(), "e");
        }
    }
}

/// The disk is full in the middle of a snapshot: what was written since the one before can't be told any more, and a later incremental one must
/// not be made as if it could.
#[test]
fn a_snapshot_that_could_not_be_written_is_no_reason_to_forget_pages() {
    let folder = Folder::new();
    let mut guest = Running::boot(&folder.spec(BackendChoice::Soft));
    ask(&guest, "b");
    guest.machine.pause().unwrap();
    guest.machine.snapshot(&folder.path("full"), FULL).unwrap();
    guest.machine.resume().unwrap();
    ask(&guest, "c");
    guest.machine.pause().unwrap();
    let (no_room, memory) = (folder.path("no-room"), folder.path("no-room/memory"));
    for file in [&memory, &folder.path("no-room/state")] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        sys::handed::put(file, full.into()).unwrap();
    }
    let failed = guest.machine.snapshot(&no_room, MORE);
    assert!(matches!(failed, Err(MachineError::Snapshot(SnapshotError::File { .. }))), "{failed:?}");
    sys::handed::forget(&memory);
    let more = guest.machine.snapshot(&folder.path("more"), MORE);
    assert!(matches!(more, Err(MachineError::Snapshot(SnapshotError::NoParent))), "{more:?}");
    guest.machine.snapshot(&folder.path("whole"), FULL).unwrap();
    guest.machine.resume().unwrap();
    ask(&guest, "d");
    guest.machine.pause().unwrap();
    std::fs::rename(folder.path("whole"), folder.path("elsewhere")).unwrap();
    let orphan = guest.machine.snapshot(&folder.path("more"), MORE);
    assert!(matches!(orphan, Err(MachineError::Snapshot(SnapshotError::ParentGone(_)))), "{orphan:?}");
    std::fs::rename(folder.path("elsewhere"), folder.path("whole")).unwrap();
    guest.machine.snapshot(&folder.path("more"), MORE).unwrap();
    drop(guest);
    for (from, answer) in [("full", "c"), ("whole", "d"), ("more", "e")] {
        ask(&Running::restore(&folder.path(from), None).unwrap(), answer);
    }
}

#[test]
fn damaged_snapshots_are_refused() {
    let folder = Folder::new();
    let mut guest = Running::boot(&folder.spec(BackendChoice::Soft));
    guest.machine.pause().unwrap();
    let path = folder.path("snapshot");
    guest.machine.snapshot(&path, FULL).unwrap();
    drop(guest);
    let refused = || match Running::restore(&path, None) {
        Err(MachineError::Snapshot(error)) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was taken"),
    };
    let state = std::fs::read(path.join("state")).unwrap();
    let mut flipped = state.clone();
    flipped[state.len() / 2] ^= 4;
    std::fs::write(path.join("state"), &flipped).unwrap();
    assert!(refused().contains("checksum"));
    let mut newer = state.clone();
    newer[8] = 9;
    std::fs::write(path.join("state"), &newer).unwrap();
    assert!(refused().contains("version 9"));
    std::fs::write(path.join("state"), &state[..state.len() - 1]).unwrap();
    assert!(refused().contains("another length"));
    std::fs::write(path.join("state"), &state).unwrap();
    std::fs::File::options().write(true).open(path.join("memory")).unwrap().set_len(4096).unwrap();
    assert!(refused().contains("another size"));
    std::fs::remove_file(path.join("memory")).unwrap();
    assert!(refused().contains("memory"));
}

#[test]
fn packed_snapshots_come_back_and_damage_in_memory_is_found() {
    let folder = Folder::new();
    let mut guest = Running::boot(&folder.spec(BackendChoice::Soft));
    ask(&guest, "b");
    guest.machine.pause().unwrap();
    let (plain, packed) = (folder.path("plain"), folder.path("packed"));
    guest.machine.snapshot(&plain, FULL).unwrap();
    guest.machine.snapshot(&packed, Writing { extent: Extent::Full, packing: Packing::Zstd }).unwrap();
    drop(guest);
    let size = |folder: &PathBuf| std::fs::metadata(folder.join("memory")).unwrap().len();
    assert!(size(&packed) < 64 << 10 && size(&plain) == 32 << 20);
    for check in [Check::All, Check::Touch] {
        let guest = Running::restore_checked(&packed, None, check).unwrap();
        ask(&guest, "c");
    }
    // The page that the guest counts in, and one that it never touched.
    for (at, found_by) in [(0x20_0000, Check::Touch), (0x100_0000, Check::All)] {
        let memory = std::fs::File::options().read(true).write(true).open(plain.join("memory")).unwrap();
        let mut byte = [0];
        memory.read_exact_at(&mut byte, at).unwrap();
        memory.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        let refused = Running::restore(&plain, None).err();
        assert!(matches!(refused, Some(MachineError::Snapshot(SnapshotError::Memory { .. }))), "{refused:?}");
        if found_by == Check::Touch {
            let guest = Running::restore_checked(&plain, None, Check::Touch).unwrap();
            guest.input("a");
            assert!(matches!(guest.event(), Event::MemoryLost(why) if why.contains("checksum")));
            // Its processor waits for the page for ever, as the program would: it ends with the process.
            std::mem::forget(guest);
        }
        memory.write_all_at(&byte, at).unwrap();
    }
    Running::restore(&plain, None).unwrap();
}

#[test]
fn snapshots_that_were_broken_off_leave_nothing_in_the_way() {
    let folder = Folder::new();
    let mut guest = Running::boot(&folder.spec(BackendChoice::Soft));
    guest.machine.pause().unwrap();
    let partial = folder.path("snapshot.partial");
    std::fs::create_dir(&partial).unwrap();
    std::fs::write(partial.join("memory"), "half").unwrap();
    guest.machine.snapshot(&folder.path("snapshot"), FULL).unwrap();
    assert!(!partial.exists());
    std::fs::create_dir(&partial).unwrap();
    let writer = std::fs::File::open(&partial).unwrap();
    rustix::fs::flock(&writer, rustix::fs::FlockOperation::LockExclusive).unwrap();
    std::fs::write(partial.join("memory"), "in work").unwrap();
    std::fs::rename(folder.path("snapshot"), folder.path("first")).unwrap();
    let busy = guest.machine.snapshot(&folder.path("snapshot"), FULL);
    assert!(matches!(busy, Err(MachineError::Snapshot(SnapshotError::Busy(_)))), "{busy:?}");
    assert!(partial.join("memory").exists());
}
