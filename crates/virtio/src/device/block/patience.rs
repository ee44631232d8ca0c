//! Whether a flush is waited for on the thread of the vCPU that asked for it.
//!
//! A guest with nothing else to do sleeps until its flush is done, and to wake another thread for it and to be woken by that one costs more
//! than the flush. A guest with other work must not be held up. So some flushes are done by the device's thread, which looks whether the
//! guest has slept meanwhile.

use std::time::Duration;

/// So many flushes in a row, each of which the guest has slept through, show that it has nothing else to do.
const SLEPT: u32 = 4;
/// After so many flushes on the vCPU's thread another one shows whether the guest sleeps still.
const TRUST: u32 = 15;
/// A flush that takes longer leaves time for something else to come up.
const LONG: Duration = Duration::from_millis(10);

/// What the last flushes have shown.
#[derive(Debug, Default)]
pub(super) struct Patience {
    slept: u32,
    trusted: u32,
}

/// What the guest did while the device's thread flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meanwhile {
    /// All its processors slept at the end.
    Slept,
    /// One of them worked, or nobody knows.
    Worked,
}

impl Patience {
    /// Whether the vCPU may wait for the flush that comes now.
    pub(super) fn waits(&mut self) -> bool {
        if self.slept < SLEPT {
            return false;
        }
        self.trusted += 1;
        if self.trusted > TRUST {
            self.trusted = 0;
            return false;
        }
        true
    }

    /// The device's thread has flushed.
    pub(super) fn flushed(&mut self, took: Duration, meanwhile: Meanwhile) {
        let slept = meanwhile == Meanwhile::Slept && took < LONG;
        self.slept = if slept { self.slept.saturating_add(1) } else { 0 };
    }

    /// The vCPU has waited for a flush.
    pub(super) fn waited(&mut self, took: Duration) {
        if took >= LONG {
            self.slept = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(300);

    #[test]
    fn a_guest_that_sleeps_waits_itself_and_is_looked_at_again() {
        let mut patience = Patience::default();
        for _ in 0..SLEPT {
            assert!(!patience.waits());
            patience.flushed(SHORT, Meanwhile::Slept);
        }
        for _ in 0..3 {
            for _ in 0..TRUST {
                assert!(patience.waits());
                patience.waited(SHORT);
            }
            assert!(!patience.waits(), "the device's thread has its turn");
            patience.flushed(SHORT, Meanwhile::Slept);
        }
        assert!(patience.waits());
        patience.trusted = TRUST;
        assert!(!patience.waits());
        patience.flushed(SHORT, Meanwhile::Worked);
        assert!(!patience.waits(), "it has other work");
    }

    #[test]
    fn a_slow_disk_is_not_waited_for() {
        let mut patience = Patience::default();
        for _ in 0..2 * SLEPT {
            patience.flushed(LONG, Meanwhile::Slept);
        }
        assert!(!patience.waits());
        for _ in 0..SLEPT {
            patience.flushed(SHORT, Meanwhile::Slept);
        }
        assert!(patience.waits());
        patience.waited(LONG);
        assert!(!patience.waits());
    }
}
