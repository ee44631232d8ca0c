//! The thread that wakes vCPUs whose timers are due while they run. Those that sleep wake themselves.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hv::clock::{GuestClock, TimeSource};

use super::{Slots, lock};
use crate::irqchip::Irqchip;

#[derive(Default)]
struct Plan {
    /// The TSC at which the thread looks again; `u64::MAX` is not before it is told.
    next: u64,
    changed: bool,
    stop: bool,
}

struct Inner {
    plan: Mutex<Plan>,
    told: Condvar,
}

/// The timer of a machine; its thread ends with it.
pub(super) struct Timer {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
    source: TimeSource,
}

impl Timer {
    pub(super) fn new(irqchip: Arc<Irqchip>, clock: Arc<GuestClock>, slots: Arc<Slots>) -> std::io::Result<Self> {
        let inner =
            Arc::new(Inner { plan: Mutex::new(Plan { next: u64::MAX, ..Plan::default() }), told: Condvar::new() });
        let own = Arc::clone(&inner);
        let source = clock.source();
        let thread = std::thread::Builder::new().name("soft-timer".into()).spawn(move || {
            hv::thread::begin();
            serve(&own, &irqchip, &clock, &slots);
        })?;
        Ok(Self { inner, thread: Some(thread), source })
    }

    /// A vCPU's timer is due at TSC `due`. Where instructions are the time its thread stops there by itself.
    pub(super) fn arm(&self, due: u64) {
        if self.source == TimeSource::Instructions {
            return;
        }
        let mut p = lock(&self.inner.plan);
        if due < p.next {
            p.next = due;
            p.changed = true;
            self.inner.told.notify_one();
        }
    }

    /// The clock has moved: look anew.
    pub(super) fn rearm(&self) {
        if self.source == TimeSource::Instructions {
            return;
        }
        lock(&self.inner.plan).changed = true;
        self.inner.told.notify_one();
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        lock(&self.inner.plan).stop = true;
        self.inner.told.notify_one();
        if let Some(t) = self.thread.take() {
            // It has nothing to say, not even a panic's reason.
            let _ = t.join();
        }
    }
}

fn serve(inner: &Inner, irqchip: &Irqchip, clock: &GuestClock, slots: &Slots) {
    // What each vCPU was last woken for: it is not woken twice.
    let mut served = vec![u64::MAX; slots.0.len()];
    let mut plan = lock(&inner.plan);
    loop {
        if plan.stop {
            return;
        }
        let now = clock.tsc();
        let mut next = u64::MAX;
        for (i, s) in slots.0.iter().enumerate() {
            let due = irqchip.due(i as u32);
            if due > now {
                next = next.min(due);
            } else if served[i] != due {
                served[i] = due;
                s.wake();
            }
        }
        plan.next = next;
        plan.changed = false;
        plan = if next == u64::MAX {
            inner.told.wait(plan).unwrap_or_else(std::sync::PoisonError::into_inner)
        } else {
            let d = Duration::from_nanos(clock.scale().ns(next - now));
            inner.told.wait_timeout(plan, d).map_or_else(|e| e.into_inner().0, |r| r.0)
        };
    }
}
