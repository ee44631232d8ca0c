//! What every device has in common: status, negotiation of features, setup of queues, kicks, snapshots.
//!
//! ```text
//!   reset -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK -> (NEEDS_RESET) -> reset
//!            nothing but registers                   Device::activate, then serve
//! ```
//!
//! A transport translates its registers to calls of [`Slot`]; a service waits on [`Slot`]'s descriptor and calls
//! [`Slot::serve`]. The status register only gains bits, except by a reset.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::Memory;
use crate::device::{Activity, Device, DeviceError, Kind, Metrics, RestoreError, Running, Served, Wake};
use crate::events::{Events, Interest, Kick};
use crate::interrupt::{Interrupt, Signal};
use crate::queue::{Queue, QueueState};

/// `VIRTIO_F_INDIRECT_DESC`.
pub const INDIRECT_DESCRIPTORS: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`.
pub const EVENT_INDEX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`: without it the driver is one of before the standard, which is not served.
pub const VERSION_1: u64 = 1 << 32;

/// The driver knows how to drive the device.
pub const DRIVER: u8 = 2;
/// The driver is ready.
pub const DRIVER_OK: u8 = 4;
/// The features are agreed upon.
pub const FEATURES_OK: u8 = 8;
/// The device met an error that it does not recover from.
pub const NEEDS_RESET: u8 = 64;

/// Tokens from here on are queues.
const QUEUE_TOKEN: u64 = 1 << 63;

/// A device as a snapshot holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotState {
    /// What it is.
    pub kind: Kind,
    /// The status register.
    pub status: u8,
    /// What the driver accepted.
    pub driver_features: u64,
    /// The interrupt status.
    pub interrupts: u32,
    /// The queues.
    pub queues: Vec<QueueState>,
    /// The device's own.
    pub device: serde_json::Value,
}

struct State {
    device: Box<dyn Device>,
    status: u8,
    driver_features: u64,
    queues: Vec<QueueState>,
    running: Option<Running>,
}

/// Whether somebody waits on a slot's descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attendance {
    Attended,
    Alone,
}

/// One device with its queues.
pub struct Slot {
    kind: Kind,
    activity: Activity,
    features: u64,
    sizes: Vec<u16>,
    memory: Memory,
    interrupt: Arc<Interrupt>,
    events: Arc<Events>,
    kicks: Vec<Kick>,
    /// Whether somebody serves the device, so that a notification may be served where it comes in.
    attended: AtomicBool,
    state: Mutex<State>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Slot").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Slot {
    /// A slot with a device that no driver has touched yet.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn new(device: Box<dyn Device>, memory: Memory, signal: Arc<dyn Signal>) -> Result<Self, Errno> {
        let sizes = device.queue_sizes();
        let events = Events::new()?;
        let mut kicks = Vec::with_capacity(sizes.len());
        for index in 0..sizes.len() as u64 {
            let kick = Kick::new()?;
            events.add(&kick, QUEUE_TOKEN | index, Interest::IN)?;
            kicks.push(kick);
        }
        Ok(Self {
            kind: device.kind(),
            activity: device.activity(),
            features: device.features() | VERSION_1 | EVENT_INDEX | INDIRECT_DESCRIPTORS,
            memory,
            interrupt: Arc::new(Interrupt::new(signal)),
            events: Arc::new(events),
            kicks,
            attended: AtomicBool::new(false),
            state: Mutex::new(State {
                device,
                status: 0,
                driver_features: 0,
                queues: vec![QueueState::default(); sizes.len()],
                running: None,
            }),
            sizes,
        })
    }

    /// What the device is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the device is best run.
    #[must_use]
    pub fn activity(&self) -> Activity {
        self.activity
    }

    /// The features offered, all 64 bits.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The largest size of each queue.
    #[must_use]
    pub fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    /// The way to the driver.
    #[must_use]
    pub fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// The notification of a queue, for an ioeventfd.
    #[must_use]
    pub fn kick_of(&self, queue: u16) -> Option<&Kick> {
        self.kicks.get(usize::from(queue))
    }

    /// The driver notified a queue; one that is not there is left.
    ///
    /// What the device can do at once is done here, on the vCPU's own thread: waking another one, and being interrupted by it, costs more than
    /// most requests. What has to wait is left to whoever serves the device.
    pub fn kick(&self, queue: u32) {
        let Some(kick) = usize::try_from(queue).ok().and_then(|queue| self.kicks.get(queue)) else { return };
        if !self.serve_at_once(queue) {
            kick.kick();
        }
    }

    /// Whether nothing is left to do after this notification.
    fn serve_at_once(&self, queue: u32) -> bool {
        if !self.attended.load(Ordering::Acquire) {
            return false;
        }
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // It is being served: that goes faster on.
            Err(TryLockError::WouldBlock) => return false,
        };
        let State { device, running: Some(running), .. } = &mut *state else { return false };
        match device.serve_at_once(running, u16::try_from(queue).unwrap_or(u16::MAX)) {
            Ok(served) => served == Served::All,
            Err(error) => {
                self.fail(&mut state, &error);
                true
            }
        }
    }

    /// Whether somebody waits on the slot's descriptor from now on. Nobody does at first, and not while the machine rests.
    pub(crate) fn set_attendance(&self, attendance: Attendance) {
        self.attended.store(attendance == Attendance::Attended, Ordering::Release);
    }

    /// The status register.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.state().status
    }

    /// The driver writes the status register: a 0 resets, everything else adds bits.
    pub fn set_status(&self, value: u8) {
        let mut state = self.state();
        if value == 0 {
            self.reset(&mut state);
            return;
        }
        let mut new = value & !state.status & !NEEDS_RESET;
        if new & FEATURES_OK != 0 && !self.accepts(state.driver_features) {
            new &= !FEATURES_OK;
        }
        let can_start = (state.status | new) & FEATURES_OK != 0;
        if new & DRIVER_OK != 0 && !can_start {
            new &= !DRIVER_OK;
        }
        state.status |= new;
        if new & DRIVER_OK != 0
            && let Err(error) = self.start(&mut state)
        {
            self.fail(&mut state, &error);
        }
    }

    /// What the driver accepted, all 64 bits.
    #[must_use]
    pub fn driver_features(&self) -> u64 {
        self.state().driver_features
    }

    /// The driver accepts a page of 32 features; later than `FEATURES_OK` it has no say any more.
    pub fn set_driver_features(&self, page: u32, bits: u32) {
        let mut state = self.state();
        if page < 2 && state.status & FEATURES_OK == 0 {
            let shift = 32 * page;
            let kept = state.driver_features & !(u64::from(u32::MAX) << shift);
            state.driver_features = kept | u64::from(bits) << shift;
        }
    }

    /// A queue's setup.
    #[must_use]
    pub fn queue(&self, index: u16) -> Option<QueueState> {
        self.state().queues.get(usize::from(index)).copied()
    }

    /// The driver sets a queue up; once the device runs it has no say any more.
    pub fn set_queue(&self, index: u16, change: impl FnOnce(&mut QueueState)) {
        let mut state = self.state();
        if state.running.is_none()
            && let Some(queue) = state.queues.get_mut(usize::from(index))
        {
            change(queue);
        }
    }

    /// The driver takes a queue back, also from a device that runs: nothing of it is touched any more until the device is set up anew.
    pub fn stop_queue(&self, index: u16) {
        let mut state = self.state();
        let State { queues, running, .. } = &mut *state;
        let Some(setup) = queues.get_mut(usize::from(index)) else { return };
        let running = running.as_mut().and_then(|running| running.queues.get_mut(usize::from(index)));
        if let Some(queue) = running.and_then(Option::take) {
            *setup = queue.state();
        }
        setup.ready = false;
    }

    /// The driver reads the configuration space.
    pub fn read_config(&self, offset: u64, into: &mut [u8]) {
        into.fill(0);
        self.state().device.read_config(offset, into);
    }

    /// The driver writes the configuration space.
    pub fn write_config(&self, offset: u64, bytes: &[u8]) {
        self.state().device.write_config(offset, bytes);
    }

    /// Does what there is to do, without waiting. To be called when the slot's descriptor is readable.
    pub fn serve(&self) {
        let Ok(happened) = self.events.take() else { return };
        let mut state = self.state();
        for (token, interest) in happened {
            let wake = if token & QUEUE_TOKEN == 0 {
                Wake::Source(token, interest)
            } else {
                let index = token & !QUEUE_TOKEN;
                self.kicks.get(usize::try_from(index).unwrap_or(usize::MAX)).map(Kick::take);
                Wake::Queue(u16::try_from(index).unwrap_or(u16::MAX))
            };
            let State { device, running: Some(running), .. } = &mut *state else { return };
            if let Err(error) = device.serve(running, wake) {
                self.fail(&mut state, &error);
            }
        }
    }

    /// Brings the device to rest, so that memory and state can be copied. Nobody may serve it meanwhile.
    pub fn settle(&self) {
        let mut state = self.state();
        let State { device, running: Some(running), .. } = &mut *state else { return };
        if let Err(error) = device.settle(running) {
            self.fail(&mut state, &error);
        }
    }

    /// Lets the device look at everything again, after a rest or a restore.
    pub fn wake(&self) {
        self.kicks.iter().for_each(Kick::kick);
    }

    /// The device's state; it has to be at rest.
    #[must_use]
    pub fn save(&self) -> SlotState {
        let state = self.state();
        let mut queues = state.queues.clone();
        if let Some(running) = &state.running {
            for (saved, queue) in queues.iter_mut().zip(&running.queues) {
                *saved = queue.as_ref().map_or(*saved, Queue::state);
            }
        }
        SlotState {
            kind: self.kind,
            status: state.status,
            driver_features: state.driver_features,
            interrupts: self.interrupt.status(),
            queues,
            device: state.device.save(),
        }
    }

    /// Takes over a saved state in a slot that no driver has touched.
    ///
    /// # Errors
    /// The state is not of such a device, or the device does not start.
    pub fn restore(&self, saved: SlotState) -> Result<(), RestoreError> {
        let kind = self.kind;
        if saved.kind != kind {
            return Err(RestoreError::Kind { saved: saved.kind, here: kind });
        }
        let missing = saved.driver_features & !self.features;
        if missing != 0 {
            return Err(RestoreError::Features { kind, missing });
        }
        if saved.queues.len() != self.sizes.len() {
            return Err(RestoreError::Queues { kind, saved: saved.queues.len(), here: self.sizes.len() });
        }
        let mut state = self.state();
        state.device.restore(saved.device).map_err(|source| RestoreError::State { kind, source })?;
        state.status = saved.status;
        state.driver_features = saved.driver_features;
        state.queues = saved.queues;
        self.interrupt.restore(saved.interrupts);
        if state.status & DRIVER_OK != 0 && state.status & NEEDS_RESET == 0 {
            self.start(&mut state).map_err(|source| RestoreError::Start { kind, source })?;
            self.wake();
        }
        Ok(())
    }

    /// What the device has counted.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.state().device.metrics()
    }

    /// A panic of the device's thread leaves the state as it was; the others go on.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepts(&self, driver_features: u64) -> bool {
        driver_features & !self.features == 0 && driver_features & VERSION_1 != 0
    }

    fn start(&self, state: &mut State) -> Result<(), DeviceError> {
        let event_index = state.driver_features & EVENT_INDEX != 0;
        let mut queues = Vec::with_capacity(self.sizes.len());
        for ((index, setup), largest) in (0..).zip(&state.queues).zip(&self.sizes) {
            let size = if setup.size > *largest { 0 } else { setup.size };
            let queue = setup
                .ready
                .then(|| Queue::new(index, QueueState { size, ..*setup }, event_index, &self.memory, &self.interrupt));
            queues.push(queue.transpose()?);
        }
        let mut running = Running {
            memory: self.memory.clone(),
            features: state.driver_features,
            queues,
            interrupt: Arc::clone(&self.interrupt),
            events: Arc::clone(&self.events),
        };
        let outcome = state.device.activate(&mut running);
        if outcome.is_ok() {
            state.running = Some(running);
        } else {
            state.device.reset(&running);
        }
        outcome
    }

    /// The driver has to reset the device. It is told once.
    fn fail(&self, state: &mut State, error: &DeviceError) {
        tracing::warn!(kind = ?self.kind, error = error as &dyn std::error::Error, "the device needs a reset");
        self.halt(state);
        state.status |= NEEDS_RESET;
        self.interrupt.configuration();
    }

    fn halt(&self, state: &mut State) {
        if let Some(running) = state.running.take() {
            for (setup, queue) in state.queues.iter_mut().zip(&running.queues) {
                *setup = queue.as_ref().map_or(*setup, Queue::state);
            }
            state.device.reset(&running);
        }
    }

    fn reset(&self, state: &mut State) {
        self.halt(state);
        state.status = 0;
        state.driver_features = 0;
        state.queues.fill(QueueState::default());
        self.interrupt.acknowledge(u32::MAX);
        self.kicks.iter().for_each(|kick| {
            kick.take();
        });
    }
}

impl AsFd for Slot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
