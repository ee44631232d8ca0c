//! The local APIC's timer: one-shot, periodic, TSC-deadline.
//!
//! Times are values of the guest's TSC. The bus clock that the counter divides has a tick a nanosecond, as KVM's.

use hv::clock::Scale;

/// What the timer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    Deadline,
}

impl Mode {
    /// From the timer's entry in the local vector table. The reserved mode behaves as one-shot.
    pub(super) fn of(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            1 => Self::Periodic,
            2 => Self::Deadline,
            _ => Self::OneShot,
        }
    }
}

/// Fastest period that is served: a guest that asks for more gets this, or it would do nothing else.
const SHORTEST_NS: u64 = 20_000;

#[derive(Debug, Clone)]
pub(super) struct Timer {
    scale: Scale,
    pub(super) mode: Mode,
    /// The initial-count register.
    initial: u32,
    /// The divide-configuration register.
    divide: u32,
    /// When it fires.
    due: Option<u64>,
}

impl Timer {
    pub(super) fn new(scale: Scale) -> Self {
        Self { scale, mode: Mode::OneShot, initial: 0, divide: 0, due: None }
    }

    /// Nanoseconds in one count.
    fn tick_ns(&self) -> u64 {
        let bits = self.divide & 3 | (self.divide & 8) >> 1;
        if bits == 7 { 1 } else { 2 << bits }
    }

    fn period_ns(&self) -> u64 {
        let ns = u64::from(self.initial) * self.tick_ns();
        if self.mode == Mode::Periodic { ns.max(SHORTEST_NS) } else { ns }
    }

    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    pub(super) fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) fn divide(&self) -> u32 {
        self.divide
    }

    /// The current-count register.
    pub(super) fn current(&self, now: u64) -> u32 {
        let (Some(due), true) = (self.due, self.mode != Mode::Deadline) else { return 0 };
        // A counter that begins anew does so by itself, whenever its interrupt is served.
        let due = if self.mode == Mode::Periodic { self.next(due, now) } else { due };
        let left = self.scale.ns(due.saturating_sub(now)).div_ceil(self.tick_ns());
        u32::try_from(left).unwrap_or(u32::MAX).min(self.initial)
    }

    /// The deadline register: reads 0 once it has fired.
    pub(super) fn deadline(&self) -> u64 {
        if self.mode == Mode::Deadline { self.due.unwrap_or(0) } else { 0 }
    }

    pub(super) fn set_mode(&mut self, mode: Mode) {
        // To and from deadline mode disarms; one-shot and periodic go over into each other.
        if (mode == Mode::Deadline) != (self.mode == Mode::Deadline) {
            self.due = None;
        }
        self.mode = mode;
    }

    pub(super) fn set_initial(&mut self, count: u32, now: u64) {
        if self.mode == Mode::Deadline {
            return;
        }
        self.initial = count;
        self.due = (count != 0).then(|| now.saturating_add(self.scale.ticks(self.period_ns())));
    }

    pub(super) fn set_divide(&mut self, divide: u32, now: u64) {
        let left = self.current(now);
        self.divide = divide & 0xb;
        if self.due.is_some() && self.mode != Mode::Deadline {
            self.due = Some(now.saturating_add(self.scale.ticks(u64::from(left) * self.tick_ns())));
        }
    }

    pub(super) fn set_deadline(&mut self, tsc: u64) {
        if self.mode == Mode::Deadline {
            self.due = (tsc != 0).then_some(tsc);
        }
    }

    /// Goes on with `current` counts left, as after a snapshot.
    pub(super) fn restore(&mut self, initial: u32, current: u32, divide: u32, now: u64) {
        self.initial = initial;
        self.divide = divide & 0xb;
        if self.mode != Mode::Deadline {
            let left = self.scale.ticks(u64::from(current) * self.tick_ns());
            self.due = (current != 0).then(|| now.saturating_add(left));
        }
    }

    /// Whether it has fired by now; arms the next period.
    pub(super) fn fire(&mut self, now: u64) -> bool {
        let Some(due) = self.due.filter(|due| now >= *due) else { return false };
        // Periods that went by unserved are one interrupt.
        self.due = (self.mode == Mode::Periodic && self.initial != 0).then(|| self.next(due, now));
        true
    }

    /// The first end of a period behind `now`, where one is at `due`.
    fn next(&self, due: u64, now: u64) -> u64 {
        let period = self.scale.ticks(self.period_ns()).max(1);
        if now < due { due } else { due + period * ((now - due) / period + 1) }
    }
}
