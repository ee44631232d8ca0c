//! The thread that wakes vCPUs whose timers are due while they run. Those that sleep wake themselves.
//!
//! A vCPU that sets its timer sets a timer of the host; the thread has its turn only when that runs out. Where vCPUs slept through their last
//! timers, it runs out a little later: whoever woke by himself has set the next one by then, and the thread has no turn at all.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hv::clock::{GuestClock, TimeSource};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::{Slots, lock};
use crate::irqchip::Irqchip;

/// How long a vCPU that sleeps has to wake by itself, serve its timer, and set the next one. The kernel may end a sleep 50 us late.
const GRACE: Duration = Duration::from_micros(200);

struct Plan {
    /// The TSC at which a timer is due that the thread looks for; `u64::MAX` is none.
    due: u64,
    /// How much later it looks.
    grace: Duration,
    /// What each vCPU was last woken for: it is not woken twice.
    served: Vec<u64>,
    stop: bool,
}

struct Inner {
    plan: Mutex<Plan>,
    /// Readable when the thread has to look.
    alarm: OwnedFd,
    irqchip: Arc<Irqchip>,
    clock: Arc<GuestClock>,
    slots: Arc<Slots>,
}

/// The timer of a machine; its thread ends with it.
pub(super) struct Timer {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Timer {
    pub(super) fn new(irqchip: Arc<Irqchip>, clock: Arc<GuestClock>, slots: Arc<Slots>) -> std::io::Result<Self> {
        let served = vec![u64::MAX; slots.0.len()];
        let plan = Mutex::new(Plan { due: u64::MAX, grace: Duration::ZERO, served, stop: false });
        let alarm = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let inner = Arc::new(Inner { plan, alarm, irqchip, clock, slots });
        let own = Arc::clone(&inner);
        let thread = std::thread::Builder::new().name("soft-timer".into()).spawn(move || {
            hv::thread::begin();
            own.serve();
        })?;
        Ok(Self { inner, thread: Some(thread) })
    }

    /// A vCPU's timer is due at TSC `due`. Where instructions are the time its thread stops there by itself.
    pub(super) fn arm(&self, due: u64) {
        let inner = &self.inner;
        if inner.clock.source() == TimeSource::Instructions {
            return;
        }
        let mut plan = lock(&inner.plan);
        let now = inner.clock.tsc();
        if due >= plan.due && plan.due > now {
            return;
        }
        let open = |(at, due): (usize, u64)| (due > now || plan.served[at] != due).then_some(due);
        let dues = (0..inner.slots.0.len()).map(|at| (at, inner.irqchip.due(at as u32)));
        let next = dues.filter_map(open).min().unwrap_or(u64::MAX);
        // What the thread looks for may have been served meanwhile, and then it need not look. If something is still open, it is about to look.
        if due < plan.due || next > now {
            inner.plan(&mut plan, next, now);
        }
    }

    /// The clock has moved: look anew.
    pub(super) fn rearm(&self) {
        if self.inner.clock.source() == TimeSource::Host {
            self.inner.look_in(Duration::ZERO);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        lock(&self.inner.plan).stop = true;
        self.inner.look_in(Duration::ZERO);
        if let Some(t) = self.thread.take() {
            // It has nothing to say, not even a panic's reason.
            let _ = t.join();
        }
    }
}

impl Inner {
    fn look_in(&self, delay: Duration) {
        // Nothing at all would stop it.
        let delay = delay.max(Duration::from_nanos(1));
        let seconds = i64::try_from(delay.as_secs()).unwrap_or(i64::MAX);
        let value = Timespec { tv_sec: seconds, tv_nsec: delay.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // The kernel documents no failure for valid times.
        let _ = rustix::time::timerfd_settime(&self.alarm, TimerfdTimerFlags::empty(), &once);
    }

    fn plan(&self, plan: &mut Plan, due: u64, now: u64) {
        plan.due = due;
        if due != u64::MAX {
            let delay = Duration::from_nanos(self.clock.scale().ns(due.saturating_sub(now)));
            self.look_in(delay.saturating_add(plan.grace));
        }
    }

    fn serve(&self) {
        while !matches!(rustix::io::read(&self.alarm, &mut [0; 8]), Err(error) if error != Errno::INTR) {
            let mut plan = lock(&self.plan);
            if plan.stop {
                return;
            }
            let now = self.clock.tsc();
            let (mut next, mut ran, mut slept) = (u64::MAX, false, false);
            for (i, slot) in self.slots.0.iter().enumerate() {
                let due = self.irqchip.due(i as u32);
                if due > now {
                    next = next.min(due);
                } else if plan.served[i] != due {
                    plan.served[i] = due;
                    let sleeps = slot.sleeps();
                    (ran, slept) = (ran || !sleeps, slept || sleeps);
                    slot.wake();
                }
            }
            plan.grace = match (ran, slept) {
                (true, _) => Duration::ZERO,
                (false, true) => GRACE,
                (false, false) => plan.grace,
            };
            self.plan(&mut plan, next, now);
        }
    }
}
