//! The part of a CPU that translated code reaches by its stack pointer: registers, TLB, and what it keeps on the way.
//!
//! ```text
//!  mapping:  [ room for return addresses and signal frames ][ Core: state, tlb, own ]
//!                                                           ^ rsp while translated code runs
//! ```

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::code::Mapping;
use super::ram::Ram;
use super::tlb::Tlb;
use crate::state::CpuState;

/// Bytes below the core: a few return addresses, and the frames of signals (up to some 12 KiB with all vector state).
const ROOM: usize = 64 << 10;

/// Tables of indirect jumps: one a view, for each of two sizes of code.
pub(crate) const TABLES: usize = 6;

/// What translated code keeps for itself. `repr(C)`: it uses the offsets.
#[repr(C, align(64))]
pub(crate) struct Own {
    /// The thread's stack pointer outside.
    pub(super) host_sp: u64,
    /// The [`crate::exec::Exec`] that entered.
    pub(super) exec: u64,
    /// Where to go on after a step of the interpreter.
    pub(super) resume: u64,
    /// A value on its way.
    pub(super) spare: u64,
    /// The guest's flags as lahf and seto leave them in ax, while the host's are not the guest's.
    pub(super) parked: u64,
    /// The number of the instruction that the interpreter does.
    pub(super) site: u64,
    /// Offset of the jump that could be linked, or nothing ([`u64::MAX`]).
    pub(super) link: u64,
    /// If it leads to another page: offset of the code that uses the table of jumps instead.
    pub(super) far: u64,
    /// Not zero: an interrupt waits until the CPU takes interrupts.
    pub(super) pending: u64,
    /// The byte that asks for attention.
    pub(super) attention: u64,
    /// What is added to the host's time-stamp counter for the board's.
    pub(super) tsc_offset: u64,
    /// The tables of indirect jumps: one a view for 64-bit code, and as many for 32-bit code.
    pub(super) jumps: [u64; TABLES],
    /// What is added to addresses by fs and by gs in 32-bit code: nothing, or, if the segment is not as large as the address space, what
    /// takes them to where no page is.
    pub(super) beyond: [u64; 2],
    /// Not zero: the host's x87 unit holds the guest's registers, and not the image.
    pub(super) unit: u64,
    /// MXCSR of Rust code.
    pub(super) host_mxcsr: u64,
}

/// Everything of a CPU that has a fixed offset.
#[repr(C, align(64))]
pub(crate) struct Core {
    pub(crate) state: CpuState,
    pub(crate) tlb: Tlb,
    pub(crate) own: Own,
}

/// A core in memory of its own.
pub(crate) struct CoreBox {
    at: *mut Core,
    _mapping: Mapping,
}

// SAFETY: it owns the core, which can be sent.
unsafe impl Send for CoreBox {}

impl CoreBox {
    /// A core after reset.
    ///
    /// # Errors
    /// The system has no memory.
    pub(crate) fn new(ram: Arc<Ram>) -> std::io::Result<Self> {
        let mapping = Mapping::anonymous(ROOM + size_of::<Core>())?;
        let at = mapping.base().wrapping_add(ROOM).cast::<Core>();
        // SAFETY: the mapping is fresh, large enough and, as it starts at a page and the room is whole pages, aligned.
        unsafe {
            at.write(Core {
                state: CpuState::default(),
                tlb: Tlb::new(ram),
                own: Own {
                    host_sp: 0,
                    exec: 0,
                    resume: 0,
                    spare: 0,
                    parked: 0,
                    site: 0,
                    link: u64::MAX,
                    far: u64::MAX,
                    pending: 0,
                    attention: 0,
                    tsc_offset: 0,
                    jumps: [0; TABLES],
                    beyond: [0; 2],
                    unit: 0,
                    host_mxcsr: 0x1f80,
                },
            });
        }
        Ok(Self { at, _mapping: mapping })
    }
}

impl CoreBox {
    /// The core, for translated code.
    pub(crate) fn pointer(&self) -> *mut Core {
        self.at
    }
}

impl Deref for CoreBox {
    type Target = Core;

    fn deref(&self) -> &Core {
        // SAFETY: the core was written in `new` and lives as long as the box.
        unsafe { &*self.at }
    }
}

impl DerefMut for CoreBox {
    fn deref_mut(&mut self) -> &mut Core {
        // SAFETY: as above, and the box is borrowed exclusively.
        unsafe { &mut *self.at }
    }
}

impl Drop for CoreBox {
    fn drop(&mut self) {
        // SAFETY: the core was written in `new` and is not used after this.
        unsafe { self.at.drop_in_place() };
    }
}
