//! What others leave for a vCPU, and where it sleeps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use hv::Memory;
use hv::clock::GuestClock;
use vm_memory::{Bytes, GuestAddress};

use super::lock;

/// KVM's clock registers of a vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClockMsrs {
    pub(super) system_time: u64,
    pub(super) wall_clock: u64,
    version: u32,
}

/// Work that a vCPU does at its next look.
#[derive(Debug, Default)]
struct Orders {
    /// Every page is to be seen when it is written next.
    protect: bool,
    /// Pages that other vCPUs have begun to run code from.
    code: Vec<u64>,
    /// Whether the vCPU is between two looks: orders wait for it.
    running: bool,
}

/// One vCPU's place.
#[derive(Debug, Default)]
pub(super) struct Slot {
    attention: AtomicBool,
    kicked: AtomicBool,
    asleep: Mutex<bool>,
    alarm: Condvar,
    orders: Mutex<Orders>,
    obeyed: Condvar,
    pub(super) clock: Mutex<ClockMsrs>,
}

/// What was ordered.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) protect: bool,
    pub(super) code: Vec<u64>,
}

impl Slot {
    /// Asks for attention and ends the vCPU's sleep.
    pub(super) fn wake(&self) {
        if self.attention.swap(true, Ordering::SeqCst) {
            return;
        }
        if *lock(&self.asleep) {
            self.alarm.notify_all();
        }
    }

    /// Whether the vCPU sleeps, and so wakes by itself when its timer is due.
    pub(super) fn sleeps(&self) -> bool {
        *lock(&self.asleep)
    }

    pub(super) fn attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }

    /// The byte behind [`Self::attention`].
    pub(super) fn attention_flag(&self) -> *const u8 {
        self.attention.as_ptr().cast_const().cast()
    }

    /// To be called before looking at everything that might have asked.
    pub(super) fn attend(&self) {
        self.attention.store(false, Ordering::SeqCst);
    }

    pub(super) fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub(super) fn take_kick(&self) -> bool {
        self.kicked.swap(false, Ordering::SeqCst)
    }

    /// Sleeps until something asks for attention, or as long as `limit`.
    pub(super) fn sleep(&self, limit: Option<Duration>) {
        let mut asleep = lock(&self.asleep);
        *asleep = true;
        if !self.attention.load(Ordering::SeqCst) {
            asleep = match limit {
                Some(d) => self.alarm.wait_timeout(asleep, d).map_or_else(|e| e.into_inner().0, |r| r.0),
                None => self.alarm.wait(asleep).unwrap_or_else(std::sync::PoisonError::into_inner),
            };
        }
        *asleep = false;
    }

    /// The vCPU begins to run: from now on orders wait until it has taken them.
    pub(super) fn begin(&self) {
        lock(&self.orders).running = true;
    }

    /// The vCPU stops running and will take orders before it begins again.
    pub(super) fn end(&self) {
        lock(&self.orders).running = false;
        self.obeyed.notify_all();
    }

    /// Takes what was ordered.
    pub(super) fn orders(&self) -> Taken {
        let mut o = lock(&self.orders);
        let taken = Taken { protect: std::mem::take(&mut o.protect), code: std::mem::take(&mut o.code) };
        if taken.protect {
            self.obeyed.notify_all();
        }
        taken
    }

    /// Makes the vCPU see every page that it writes next. When this returns no write goes unseen.
    pub(super) fn protect(&self) {
        let mut o = lock(&self.orders);
        o.protect = true;
        self.wake();
        while o.running && o.protect {
            o = self.obeyed.wait(o).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// Tells the vCPU that a page holds code now.
    pub(super) fn code(&self, gpa: u64) {
        lock(&self.orders).code.push(gpa);
        self.wake();
    }

    /// Writes the time page, if the guest has one.
    pub(super) fn write_time(&self, clock: &GuestClock, memory: &Memory) {
        let mut c = lock(&self.clock);
        if c.system_time & 1 == 0 {
            return;
        }
        let at = GuestAddress(c.system_time & !1);
        c.version = c.version.wrapping_add(2);
        let page = clock.time_page(c.version);
        let odd = c.version.wrapping_sub(1).to_le_bytes();
        // A guest that names an address without memory gets no time.
        let ram = memory.ram();
        let written = ram.write_slice(&odd, at).and_then(|()| {
            let rest = GuestAddress(at.0.wrapping_add(4));
            ram.write_slice(&page[4..], rest)
        });
        if written.is_ok() {
            let _ = ram.write_slice(&page[..4], at);
        }
    }
}
