//! A thread that runs devices: it waits for any of them and serves it.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use sys::sched::{SchedAttr, sched_setattr};

use crate::events::{Events, Interest, Kick};
use crate::slot::{Attendance, Slot};

/// The token of the service's own kick.
const ORDER: u64 = u64::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    Rest,
    Stop,
}

#[derive(Debug)]
struct Shared {
    order: Mutex<Order>,
    /// Whether the thread is at rest; it waits here for another order, and whoever ordered the rest waits for it.
    resting: Mutex<bool>,
    changed: Condvar,
    kick: Kick,
}

/// The shortest turn that the kernel gives, in nanoseconds.
const TURN: u64 = 100_000;
/// `SCHED_FLAG_KEEP_POLICY`.
const KEEP_POLICY: u64 = 8;

/// A thread that asks for short turns has its turn sooner when something wakes it on a busy host. It works for moments only, and a guest waits
/// for it. See sched(7), EEVDF; kernels before 6.12 take the wish and do nothing.
fn take_short_turns() {
    let Ok(nice) = rustix::process::getpriority_process(None) else { return };
    let attr = SchedAttr { flags: KEEP_POLICY, nice, runtime_ns: TURN, ..SchedAttr::default() };
    // Without it the guest waits longer, no more.
    let _refused = sched_setattr(&attr);
}

/// A thread with the devices that it runs. Dropping it stops the thread; the devices stay as they are.
#[derive(Debug)]
pub struct Service {
    shared: Arc<Shared>,
    slots: Vec<Arc<Slot>>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts a thread of this name that runs `slots`.
    ///
    /// # Errors
    /// No descriptor or no thread is free.
    pub fn start(name: &str, slots: Vec<Arc<Slot>>) -> io::Result<Self> {
        let events = Events::new()?;
        let kick = Kick::new()?;
        events.add(&kick, ORDER, Interest::IN)?;
        for (token, slot) in (0..).zip(&slots) {
            events.add(slot, token, Interest::IN)?;
        }
        let shared = Arc::new(Shared {
            order: Mutex::new(Order::Run),
            resting: Mutex::new(false),
            changed: Condvar::new(),
            kick,
        });
        let (mine, served) = (Arc::clone(&shared), slots.clone());
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            take_short_turns();
            hv::thread::begin();
            mine.run(&events, &served);
        })?;
        slots.iter().for_each(|slot| slot.set_attendance(Attendance::Attended));
        Ok(Self { shared, slots, thread: Some(thread) })
    }

    /// Stops serving and brings the devices to rest; afterwards their state and the memory they write can be copied.
    pub fn rest(&self) {
        self.shared.order(Order::Rest);
        let mut resting = self.shared.resting.lock().unwrap_or_else(PoisonError::into_inner);
        while !*resting && self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            resting = self.shared.changed.wait(resting).unwrap_or_else(PoisonError::into_inner);
        }
        drop(resting);
        for slot in &self.slots {
            slot.set_attendance(Attendance::Alone);
            slot.settle();
        }
    }

    /// Serves again after a rest.
    pub fn resume(&self) {
        for slot in &self.slots {
            slot.set_attendance(Attendance::Attended);
            slot.wake();
        }
        self.shared.order(Order::Run);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.slots.iter().for_each(|slot| slot.set_attendance(Attendance::Alone));
        self.shared.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _panicked = thread.join();
        }
    }
}

impl Shared {
    fn order(&self, order: Order) {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner) = order;
        self.kick.kick();
        // Taken so that the thread is either before its look at the order, or waiting.
        let _resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.notify_all();
    }

    fn current(&self) -> Order {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, events: &Events, slots: &[Arc<Slot>]) {
        loop {
            let Ok(happened) = events.wait(None) else { return };
            for (token, _) in happened {
                if token == ORDER {
                    self.kick.take();
                    if self.obey() == Order::Stop {
                        return;
                    }
                } else if let Some(slot) = usize::try_from(token).ok().and_then(|token| slots.get(token)) {
                    slot.serve();
                }
            }
        }
    }

    /// Rests as long as that is ordered.
    fn obey(&self) -> Order {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        while self.current() == Order::Rest {
            *resting = true;
            self.changed.notify_all();
            resting = self.changed.wait(resting).unwrap_or_else(PoisonError::into_inner);
        }
        *resting = false;
        self.current()
    }
}
