//! Interrupt controllers of the software CPU: a local APIC for each vCPU, the IOAPIC, the PICs, the timer.
//!
//! Each part is pure logic over the guest's clock; [`Irqchip`] joins them, so that a message finds its processors, and
//! tells the processor's thread by [`Wake`] that there is something to look at. Locks are held for one register access or
//! one message at a time, never two of them.
//!
//! ```text
//!  lines ──> PICs ──ExtINT──> vCPU 0's local APIC ─┐
//!        └─> IOAPIC ──┐                            ├─> has_vector / take_vector, has_signals / take_signals
//!  MSI ───────────────┴─messages─> local APICs ────┘
//!                      IPIs <────── local APICs
//! ```
//!
//! A vCPU's loop: at each poll, if [`Irqchip::due`] has come, [`Irqchip::advance`]; if [`Irqchip::has_signals`], take them; if
//! interrupts are enabled and [`Irqchip::has_vector`], [`Irqchip::take_vector`] and deliver it. When halted, sleep until
//! [`Irqchip::due`] or [`Wake::wake`].

mod ioapic;
mod lapic;
mod message;
mod pic;
mod pit;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hv::clock::GuestClock;
use hv::state::IOAPIC_PINS;
use hv::{IrqchipState, Level, Msi};

use ioapic::Ioapic;
use lapic::{Effect, Lapic};
use message::{Delivery, Destination, Message};
use pic::Pics;
use pit::Pit;

pub use lapic::{Denied, Signals};

/// First MSR of the x2APIC.
const X2APIC_FIRST: u32 = 0x800;
/// Last MSR of the x2APIC.
const X2APIC_LAST: u32 = 0x8ff;
/// IA32_APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// No deadline.
const NEVER: u64 = u64::MAX;

/// Tells a vCPU's thread that its local APIC has something new.
pub trait Wake: Send + Sync {
    /// vCPU `index` has to look: it leaves its halt or its translated code soon. May be called from any thread, also from
    /// the vCPU's own, and more often than needed.
    fn wake(&self, index: u32);
}

/// One processor's part, with what its loop looks at without a lock.
struct Slot {
    lapic: Mutex<Lapic>,
    has_vector: AtomicBool,
    has_signals: AtomicBool,
    due: AtomicU64,
    /// The register page's address, 1 when there is none.
    page: AtomicU64,
}

/// All interrupt controllers of a machine.
pub struct Irqchip {
    slots: Vec<Slot>,
    ioapic: Mutex<Ioapic>,
    pics: Mutex<Pics>,
    pic_output: AtomicBool,
    pit: Mutex<Pit>,
    pit_due: AtomicU64,
    clock: Arc<GuestClock>,
    wake: Arc<dyn Wake>,
    /// Where the search for the receiver of a lowest-priority message begins.
    turn: AtomicU32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves registers as they were: whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Irqchip {
    /// Controllers for `vcpus` processors, as after power-on.
    pub fn new(vcpus: u32, clock: Arc<GuestClock>, wake: Arc<dyn Wake>) -> Self {
        let slots = (0..vcpus).map(|id| Slot {
            lapic: Mutex::new(Lapic::new(id, clock.scale())),
            has_vector: AtomicBool::new(false),
            has_signals: AtomicBool::new(false),
            due: AtomicU64::new(NEVER),
            page: AtomicU64::new(lapic::DEFAULT_BASE),
        });
        Self {
            slots: slots.collect(),
            ioapic: Mutex::default(),
            pics: Mutex::default(),
            pic_output: AtomicBool::new(false),
            pit: Mutex::default(),
            pit_due: AtomicU64::new(NEVER),
            clock,
            wake,
            turn: AtomicU32::new(0),
        }
    }

    fn slot(&self, vcpu: u32) -> &Slot {
        &self.slots[vcpu as usize]
    }

    /// Does something with a local APIC, and renews what its loop looks at.
    fn with<T>(&self, vcpu: u32, change: impl FnOnce(&mut Lapic) -> T) -> T {
        let slot = self.slot(vcpu);
        let (result, news) = {
            let mut lapic = lock(&slot.lapic);
            let result = change(&mut lapic);
            slot.due.store(lapic.due().unwrap_or(NEVER), Ordering::Relaxed);
            slot.page.store(lapic.page().unwrap_or(1), Ordering::Relaxed);
            let vector = lapic.deliverable().is_some()
                || vcpu == 0 && self.pic_output.load(Ordering::SeqCst) && lapic.accepts_extint();
            let signals = lapic.signals().any();
            slot.has_vector.store(vector, Ordering::SeqCst);
            slot.has_signals.store(signals, Ordering::SeqCst);
            (result, vector || signals)
        };
        if news {
            self.wake.wake(vcpu);
        }
        result
    }

    /// Delivers a message to whom it is for.
    fn send(&self, message: Message, sender: Option<u32>) {
        let Message { destination, delivery, vector, trigger } = message;
        let vcpus = self.slots.len() as u32;
        let accept = |vcpu| self.with(vcpu, |lapic| lapic.accept(delivery, vector, trigger));
        if destination == Destination::Sender {
            sender.into_iter().for_each(accept);
            return;
        }
        let matches = |vcpu: &u32| lock(&self.slot(*vcpu).lapic).matches(destination, sender);
        if delivery == Delivery::Lowest {
            let first = self.turn.fetch_add(1, Ordering::Relaxed) % vcpus.max(1);
            let enabled = |vcpu: &u32| lock(&self.slot(*vcpu).lapic).enabled();
            (first..vcpus).chain(0..first).find(|vcpu| matches(vcpu) && enabled(vcpu)).into_iter().for_each(accept);
        } else {
            (0..vcpus).filter(matches).for_each(accept);
        }
    }

    fn settle(&self, vcpu: u32, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Eoi(vector) => {
                let again = lock(&self.ioapic).end(vector);
                again.into_iter().for_each(|message| self.send(message, None));
            }
            Effect::Send(message) => self.send(message, Some(vcpu)),
        }
    }

    /// After any change of the PICs.
    fn pics_changed(&self, output: bool) {
        if self.pic_output.swap(output, Ordering::SeqCst) != output && !self.slots.is_empty() {
            self.with(0, |_| ());
        }
    }

    /// Sets an interrupt line of the PICs and the IOAPIC; `false` if there is no such line.
    pub fn set_line(&self, gsi: u32, level: Level) -> bool {
        if gsi as usize >= IOAPIC_PINS {
            return false;
        }
        let high = level == Level::High;
        if gsi < 16 {
            let output = {
                let mut pics = lock(&self.pics);
                pics.set_line(gsi, high);
                pics.output()
            };
            self.pics_changed(output);
        }
        let message = lock(&self.ioapic).set_line(gsi, high);
        message.into_iter().for_each(|message| self.send(message, None));
        true
    }

    /// Sends a message-signalled interrupt; `false` if its delivery mode is reserved.
    pub fn signal_msi(&self, msi: Msi) -> bool {
        let message = Message::from_msi(msi);
        message.into_iter().for_each(|message| self.send(message, None));
        message.is_some()
    }

    /// Sends one processor what the lower half of an interrupt command says; `false` if there is none with this APIC id.
    pub fn send_to(&self, id: u32, command: u32) -> bool {
        let there = (id as usize) < self.slots.len();
        if there && let Some(message) = Message::from_command(id, command) {
            self.send(message, None);
        }
        there
    }

    /// Whether the processor would get a vector now, were its interrupts enabled. Costs a load.
    pub fn has_vector(&self, vcpu: u32) -> bool {
        self.slot(vcpu).has_vector.load(Ordering::SeqCst)
    }

    /// Takes the vector of highest priority: it is in service from now on.
    pub fn take_vector(&self, vcpu: u32) -> Option<u8> {
        let taken = self.with(vcpu, |lapic| {
            if let Some(vector) = lapic.take_vector() {
                return Ok(vector);
            }
            Err(lapic.accepts_extint())
        });
        match taken {
            Ok(vector) => Some(vector),
            Err(true) if vcpu == 0 && self.pic_output.load(Ordering::SeqCst) => {
                let (vector, output) = {
                    let mut pics = lock(&self.pics);
                    (pics.acknowledge(), pics.output())
                };
                self.pics_changed(output);
                Some(vector)
            }
            Err(_) => None,
        }
    }

    /// Whether an NMI, INIT or start-up IPI waits. Costs a load.
    pub fn has_signals(&self, vcpu: u32) -> bool {
        self.slot(vcpu).has_signals.load(Ordering::SeqCst)
    }

    /// Takes what waits beside vectors.
    pub fn take_signals(&self, vcpu: u32) -> Signals {
        self.with(vcpu, Lapic::take_signals)
    }

    /// An NMI for one processor, as a button would.
    pub fn nmi(&self, vcpu: u32) {
        self.with(vcpu, Lapic::lint1);
    }

    /// Whether an NMI waits for the processor.
    pub fn waiting_nmi(&self, vcpu: u32) -> bool {
        lock(&self.slot(vcpu).lapic).signals().nmi > 0
    }

    /// The local APIC part of the INIT IPI.
    pub fn init(&self, vcpu: u32) {
        let scale = self.clock.scale();
        self.with(vcpu, |lapic| lapic.init(scale));
    }

    /// When the processor has to call [`Self::advance`], as the guest's TSC; `u64::MAX` is never. Costs two loads.
    pub fn due(&self, vcpu: u32) -> u64 {
        let own = self.slot(vcpu).due.load(Ordering::Relaxed);
        if vcpu == 0 { own.min(self.pit_due.load(Ordering::Relaxed)) } else { own }
    }

    /// Lets the processor's timers fire that are due at TSC `now`. The first processor serves the machine's timer too.
    pub fn advance(&self, vcpu: u32, now: u64) {
        if now >= self.slot(vcpu).due.load(Ordering::Relaxed) {
            self.with(vcpu, |lapic| lapic.advance(now));
        }
        if vcpu == 0 && now >= self.pit_due.load(Ordering::Relaxed) {
            let fired = self.with_pit(|pit, ns| pit.fire(ns));
            if fired {
                self.set_line(0, Level::High);
                self.set_line(0, Level::Low);
            }
        }
    }

    /// Does something with the timer, and renews when it is due.
    fn with_pit<T>(&self, change: impl FnOnce(&mut Pit, u64) -> T) -> T {
        let mut pit = lock(&self.pit);
        let now = self.clock.tsc();
        let now_ns = self.clock.ns_at(now);
        let result = change(&mut pit, now_ns);
        let due = pit.due().map(|due| {
            // A tick more, so that the nanosecond has come when the counter has.
            now.saturating_add(self.clock.scale().ticks(due.saturating_sub(now_ns)) + 1)
        });
        let due = due.unwrap_or(NEVER);
        if self.pit_due.swap(due, Ordering::Relaxed) != due && due != NEVER {
            drop(pit);
            self.wake.wake(0);
        }
        result
    }

    /// Reads a port; `None` if it is none of these devices'.
    pub fn pio_in(&self, port: u16) -> Option<u8> {
        match port {
            0x40..=0x43 | 0x61 => self.with_pit(|pit, now| pit.read(port, now)),
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => {
                let (value, output) = {
                    let mut pics = lock(&self.pics);
                    (pics.read(port), pics.output())
                };
                self.pics_changed(output);
                value
            }
            _ => None,
        }
    }

    /// Writes a port; `false` if it is none of these devices'.
    pub fn pio_out(&self, port: u16, value: u8) -> bool {
        match port {
            0x40..=0x43 | 0x61 => self.with_pit(|pit, now| pit.write(port, value, now)),
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => {
                let output = {
                    let mut pics = lock(&self.pics);
                    pics.write(port, value);
                    pics.output()
                };
                self.pics_changed(output);
                true
            }
            _ => false,
        }
    }

    /// Offset into the register page that processor `vcpu` sees at `gpa`, if it is there.
    fn page_offset(&self, vcpu: u32, gpa: u64) -> Option<u32> {
        let page = self.slot(vcpu).page.load(Ordering::Relaxed);
        (gpa & !0xfff == page).then_some((gpa & 0xfff) as u32)
    }

    /// Reads memory at `gpa` as processor `vcpu`; `false` if it is none of these devices'.
    pub fn mmio_read(&self, vcpu: u32, gpa: u64, bytes: &mut [u8]) -> bool {
        let (word, at) = if let Some(offset) = self.page_offset(vcpu, gpa) {
            let now = self.clock.tsc();
            (self.with(vcpu, |lapic| lapic.read_page(offset & !3, now)), offset & 3)
        } else if gpa.wrapping_sub(ioapic::BASE) < ioapic::SIZE {
            let offset = gpa - ioapic::BASE;
            (lock(&self.ioapic).read(offset), (offset & 3) as u32)
        } else {
            return false;
        };
        let value = word.to_le_bytes();
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = value.get(at as usize + n).copied().unwrap_or(0);
        }
        true
    }

    /// Writes memory at `gpa` as processor `vcpu`; `false` if it is none of these devices'.
    pub fn mmio_write(&self, vcpu: u32, gpa: u64, bytes: &[u8]) -> bool {
        let word = || {
            let mut word = [0; 4];
            let len = bytes.len().min(4);
            word[..len].copy_from_slice(&bytes[..len]);
            u32::from_le_bytes(word)
        };
        if let Some(offset) = self.page_offset(vcpu, gpa) {
            let now = self.clock.tsc();
            // Registers are written as whole words; other writes have no defined effect and get none.
            if bytes.len() >= 4 {
                let effect = self.with(vcpu, |lapic| lapic.write_page(offset, word(), now));
                self.settle(vcpu, effect);
            }
            return true;
        }
        if gpa.wrapping_sub(ioapic::BASE) < ioapic::SIZE {
            let message = lock(&self.ioapic).write(gpa - ioapic::BASE, word());
            message.into_iter().for_each(|message| self.send(message, None));
            return true;
        }
        false
    }

    /// Reads one of the local APIC's MSRs; `None` if it is not among them.
    ///
    /// # Errors
    /// It can't be read (now): #GP.
    pub fn read_msr(&self, vcpu: u32, index: u32) -> Option<Result<u64, Denied>> {
        let lapic = || lock(&self.slot(vcpu).lapic);
        match index {
            MSR_APIC_BASE => Some(Ok(lapic().base())),
            MSR_TSC_DEADLINE => Some(Ok(lapic().deadline())),
            X2APIC_FIRST..=X2APIC_LAST => Some(lapic().read_msr(index - X2APIC_FIRST, self.clock.tsc())),
            _ => None,
        }
    }

    /// Writes one of the local APIC's MSRs; `None` if it is not among them.
    ///
    /// # Errors
    /// It can't be written, or not so: #GP.
    pub fn write_msr(&self, vcpu: u32, index: u32, value: u64) -> Option<Result<(), Denied>> {
        match index {
            MSR_APIC_BASE => {
                let scale = self.clock.scale();
                Some(self.with(vcpu, |lapic| lapic.set_base(value, scale)))
            }
            MSR_TSC_DEADLINE => {
                let now = self.clock.tsc();
                self.with(vcpu, |lapic| {
                    // One that has passed has its interrupt, whether it was served yet or not.
                    lapic.advance(now);
                    lapic.set_deadline(value);
                });
                Some(Ok(()))
            }
            X2APIC_FIRST..=X2APIC_LAST => {
                let now = self.clock.tsc();
                let written = self.with(vcpu, |lapic| lapic.write_msr(index - X2APIC_FIRST, value, now));
                Some(written.map(|effect| self.settle(vcpu, effect)))
            }
            _ => None,
        }
    }

    /// Whether the local APIC is on.
    pub fn enabled(&self, vcpu: u32) -> bool {
        lock(&self.slot(vcpu).lapic).is_on()
    }

    /// The task priority, CR8.
    pub fn cr8(&self, vcpu: u32) -> u8 {
        lock(&self.slot(vcpu).lapic).cr8()
    }

    /// Sets the task priority by CR8 (bits 0 to 3).
    pub fn set_cr8(&self, vcpu: u32, cr8: u8) {
        self.with(vcpu, |lapic| lapic.set_cr8(cr8));
    }

    /// The state of what belongs to no vCPU.
    pub fn save(&self) -> IrqchipState {
        IrqchipState { pics: lock(&self.pics).save(), ioapic: lock(&self.ioapic).save(), pit: lock(&self.pit).save() }
    }

    /// Takes [`Self::save`]'s state over; `false` if it makes no sense.
    pub fn restore(&self, state: &IrqchipState) -> bool {
        if !lock(&self.ioapic).restore(&state.ioapic) {
            return false;
        }
        let output = {
            let mut pics = lock(&self.pics);
            pics.restore(&state.pics);
            pics.output()
        };
        self.with_pit(|pit, now| pit.restore(&state.pit, now));
        self.pics_changed(output);
        true
    }

    /// A local APIC's registers, [`hv::state::LAPIC_SIZE`] bytes.
    pub fn save_lapic(&self, vcpu: u32) -> Vec<u8> {
        let now = self.clock.tsc();
        self.with(vcpu, |lapic| {
            // A timer whose time has come is an interrupt: a count of zero would be none any more.
            lapic.advance(now);
            lapic.save(now)
        })
    }

    /// Takes a local APIC's registers over, with its IA32_APIC_BASE and deadline.
    ///
    /// # Errors
    /// The page is too short.
    pub fn restore_lapic(&self, vcpu: u32, base: u64, page: &[u8], deadline: u64) -> Result<(), Denied> {
        let now = self.clock.tsc();
        self.with(vcpu, |lapic| {
            lapic.restore_base(base);
            lapic.restore(page, now)?;
            lapic.set_deadline(deadline);
            Ok(())
        })
    }
}

impl std::fmt::Debug for Irqchip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Irqchip").field("vcpus", &self.slots.len()).finish_non_exhaustive()
    }
}
