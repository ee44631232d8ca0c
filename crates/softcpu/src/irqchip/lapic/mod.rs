//! One local APIC, as pure logic over the guest's TSC: xAPIC by its page, x2APIC by its MSRs.
//!
//! Source: Intel SDM volume 3, "Advanced Programmable Interrupt Controller".

mod timer;

#[cfg(test)]
mod tests;

use hv::clock::Scale;
use hv::state::LAPIC_SIZE;

use super::message::{Delivery, Destination, Message, Trigger};
use timer::{Mode, Timer};

/// Where the register page is after power-on.
pub(super) const DEFAULT_BASE: u64 = 0xfee0_0000;
/// IA32_APIC_BASE: this is the boot processor.
const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
const BASE_X2: u64 = 1 << 10;
/// IA32_APIC_BASE: on.
const BASE_ON: u64 = 1 << 11;
/// Bits of IA32_APIC_BASE that exist: 40 bits of physical address.
const BASE_BITS: u64 = 0xff_ffff_f000 | BASE_BSP | BASE_X2 | BASE_ON;

/// Registers by their number: offset in the page / 16, MSR - 0x800.
mod reg {
    pub(super) const ID: u32 = 0x2;
    pub(super) const VERSION: u32 = 0x3;
    pub(super) const TPR: u32 = 0x8;
    pub(super) const APR: u32 = 0x9;
    pub(super) const PPR: u32 = 0xa;
    pub(super) const EOI: u32 = 0xb;
    pub(super) const RRD: u32 = 0xc;
    pub(super) const LDR: u32 = 0xd;
    pub(super) const DFR: u32 = 0xe;
    pub(super) const SVR: u32 = 0xf;
    pub(super) const ISR: u32 = 0x10;
    pub(super) const TMR: u32 = 0x18;
    pub(super) const IRR: u32 = 0x20;
    pub(super) const ESR: u32 = 0x28;
    pub(super) const ICR: u32 = 0x30;
    pub(super) const ICR2: u32 = 0x31;
    pub(super) const LVT_TIMER: u32 = 0x32;

    pub(super) const LVT_LINT0: u32 = 0x35;
    pub(super) const LVT_LINT1: u32 = 0x36;
    pub(super) const LVT_ERROR: u32 = 0x37;
    pub(super) const TMICT: u32 = 0x38;
    pub(super) const TMCCT: u32 = 0x39;
    pub(super) const TDCR: u32 = 0x3e;
    pub(super) const SELF_IPI: u32 = 0x3f;
}

/// Version 0x14 with six entries in the local vector table.
const VERSION: u32 = 0x0005_0014;
const MASKED: u32 = 1 << 16;
const SVR_ON: u32 = 1 << 8;
/// Errors: vector below 16 sent, received; a register that does not exist.
const ESR_SEND: u32 = 1 << 5;
const ESR_RECEIVE: u32 = 1 << 6;
const ESR_REGISTER: u32 = 1 << 7;
/// Bits of the entries of the local vector table that can be written.
const LVT_BITS: [u32; 6] = [0x7_00ff | MASKED, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];

/// The access is not allowed: #GP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied;

/// What a register write asks of the rest of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// A level-triggered interrupt ended: tell the IOAPIC.
    Eoi(u8),
    /// An interrupt for other processors.
    Send(Message),
}

/// What waits for the processor beside vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signals {
    /// Non-maskable interrupts: one more may wait while one is on its way.
    pub nmi: u8,
    /// The INIT IPI.
    pub init: bool,
    /// The start-up IPI with its vector; it comes after INIT if there are both.
    pub startup: Option<u8>,
}

impl Signals {
    /// Whether there is one.
    pub fn any(self) -> bool {
        self.nmi > 0 || self.init || self.startup.is_some()
    }
}

/// 256 bits, one a vector.
type Vectors = [u32; 8];

fn highest(vectors: &Vectors) -> Option<u8> {
    let word = vectors.iter().rposition(|word| *word != 0)?;
    Some((word * 32) as u8 + 31 - vectors[word].leading_zeros() as u8)
}

fn set(vectors: &mut Vectors, vector: u8) {
    vectors[usize::from(vector / 32)] |= 1 << (vector % 32);
}

fn clear(vectors: &mut Vectors, vector: u8) {
    vectors[usize::from(vector / 32)] &= !(1 << (vector % 32));
}

fn has(vectors: &Vectors, vector: u8) -> bool {
    vectors[usize::from(vector / 32)] & 1 << (vector % 32) != 0
}

/// A local APIC.
#[derive(Debug, Clone)]
pub(super) struct Lapic {
    id: u32,
    base: u64,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    /// Errors as last latched, and since then.
    esr: u32,
    errors: u32,
    icr: u64,
    lvt: [u32; 6],
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    timer: Timer,
    signals: Signals,
}

impl Lapic {
    /// The APIC of processor `id` after power-on.
    pub(super) fn new(id: u32, scale: Scale) -> Self {
        let bsp = if id == 0 { BASE_BSP } else { 0 };
        Self {
            id,
            base: DEFAULT_BASE | BASE_ON | bsp,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [MASKED; 6],
            isr: [0; 8],
            tmr: [0; 8],
            irr: [0; 8],
            timer: Timer::new(scale),
            signals: Signals::default(),
        }
    }

    /// Everything but the id and IA32_APIC_BASE as after power-on: what the INIT IPI does.
    pub(super) fn init(&mut self, scale: Scale) {
        *self = Self { base: self.base, signals: self.signals, ..Self::new(self.id, scale) };
        self.refresh_ldr();
    }

    /// Whether it is on.
    pub(super) fn is_on(&self) -> bool {
        self.base & BASE_ON != 0
    }

    fn x2(&self) -> bool {
        self.base & (BASE_X2 | BASE_ON) == BASE_X2 | BASE_ON
    }

    /// Address of the register page, while there is one.
    pub(super) fn page(&self) -> Option<u64> {
        (self.is_on() && !self.x2()).then_some(self.base & !0xfff)
    }

    /// IA32_APIC_BASE.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Sets IA32_APIC_BASE.
    ///
    /// # Errors
    /// A reserved bit is set, or the change of mode is not among the allowed ones (SDM, "x2APIC State Transitions").
    pub(super) fn set_base(&mut self, base: u64, scale: Scale) -> Result<(), Denied> {
        let (old, new) = (self.base & (BASE_ON | BASE_X2), base & (BASE_ON | BASE_X2));
        let from_x2_to_x1 = old == BASE_ON | BASE_X2 && new == BASE_ON;
        let from_off_to_x2 = old == 0 && new == BASE_ON | BASE_X2;
        if base & !BASE_BITS != 0 || new == BASE_X2 || from_x2_to_x1 || from_off_to_x2 {
            return Err(Denied);
        }
        if new == 0 && old != 0 {
            self.init(scale);
        }
        self.base = base;
        self.refresh_ldr();
        Ok(())
    }

    /// Takes `base` over from a saved state, whatever the mode was.
    pub(super) fn restore_base(&mut self, base: u64) {
        self.base = base & BASE_BITS;
    }

    /// In x2APIC mode the logical id follows from the id.
    fn refresh_ldr(&mut self) {
        if self.x2() {
            self.ldr = (self.id >> 4) << 16 | 1 << (self.id & 15);
        }
    }

    /// The task priority as CR8 has it: bits 4 to 7.
    pub(super) fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// Sets the task priority by CR8.
    pub(super) fn set_cr8(&mut self, cr8: u8) {
        self.tpr = cr8 << 4;
    }

    fn ppr(&self) -> u8 {
        let serving = highest(&self.isr).unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= serving { self.tpr } else { serving }
    }

    /// The vector that the processor would get now.
    pub(super) fn deliverable(&self) -> Option<u8> {
        let vector = highest(&self.irr)?;
        (self.is_on() && self.svr & SVR_ON != 0 && vector & 0xf0 > self.ppr() & 0xf0).then_some(vector)
    }

    /// Whether it passes on what the PIC has: off, or LINT0 is unmasked and set to.
    pub(super) fn accepts_extint(&self) -> bool {
        let lint0 = self.lvt[(reg::LVT_LINT0 - reg::LVT_TIMER) as usize];
        !self.is_on() || lint0 & MASKED == 0 && lint0 >> 8 & 7 == 7
    }

    /// The processor takes the vector: it is in service from now on.
    pub(super) fn take_vector(&mut self) -> Option<u8> {
        let vector = self.deliverable()?;
        clear(&mut self.irr, vector);
        set(&mut self.isr, vector);
        Some(vector)
    }

    /// What waits beside vectors, without taking it.
    pub(super) fn signals(&self) -> Signals {
        self.signals
    }

    /// The processor takes what waits beside vectors.
    pub(super) fn take_signals(&mut self) -> Signals {
        std::mem::take(&mut self.signals)
    }

    /// When the timer fires, as the guest's TSC.
    pub(super) fn due(&self) -> Option<u64> {
        self.timer.due()
    }

    /// Lets time go on to `now`.
    pub(super) fn advance(&mut self, now: u64) {
        if self.timer.fire(now) && self.lvt[0] & MASKED == 0 {
            self.accept(Delivery::Fixed, self.lvt[0] as u8, Trigger::Edge);
        }
    }

    /// Whether it takes fixed interrupts.
    pub(super) fn enabled(&self) -> bool {
        self.is_on() && self.svr & SVR_ON != 0
    }

    /// Whether a message from `sender` is for this one.
    pub(super) fn matches(&self, destination: Destination, sender: Option<u32>) -> bool {
        if !self.is_on() {
            return false;
        }
        match destination {
            Destination::Sender => sender == Some(self.id),
            Destination::All => true,
            Destination::Others => sender != Some(self.id),
            Destination::Physical(id) => id == self.id || id == 0xff || id == u32::MAX,
            Destination::Logical(id) if id == 0xff && !self.x2() || id == u32::MAX => true,
            Destination::Logical(id) if self.x2() => self.ldr >> 16 == id >> 16 && self.ldr & id & 0xffff != 0,
            Destination::Logical(id) => {
                let own = self.ldr >> 24;
                match self.dfr >> 28 {
                    0xf => own & id != 0,
                    0 => own >> 4 == id >> 4 && own & id & 0xf != 0,
                    _ => false,
                }
            }
        }
    }

    /// Takes an interrupt that is for this one.
    pub(super) fn accept(&mut self, delivery: Delivery, vector: u8, trigger: Trigger) {
        match delivery {
            Delivery::Fixed | Delivery::Lowest => {
                if !self.enabled() {
                    return;
                }
                if vector < 16 {
                    self.error(ESR_RECEIVE);
                    return;
                }
                set(&mut self.irr, vector);
                match trigger {
                    Trigger::Level => set(&mut self.tmr, vector),
                    Trigger::Edge => clear(&mut self.tmr, vector),
                }
            }
            Delivery::Nmi => self.signals.nmi = (self.signals.nmi + 1).min(2),
            Delivery::Init => self.signals = Signals { init: true, ..Signals::default() },
            Delivery::Startup => self.signals.startup = Some(vector),
            Delivery::Smi | Delivery::ExtInt => {}
        }
    }

    fn error(&mut self, error: u32) {
        self.errors |= error;
        let lvt = self.lvt[5];
        // An error in the error's own vector would come back here for ever.
        if lvt & MASKED == 0 && lvt & 0xf0 != 0 {
            self.accept(Delivery::Fixed, lvt as u8, Trigger::Edge);
        }
    }

    fn end(&mut self) -> Effect {
        let Some(vector) = highest(&self.isr) else { return Effect::None };
        clear(&mut self.isr, vector);
        if has(&self.tmr, vector) { Effect::Eoi(vector) } else { Effect::None }
    }

    fn send(&mut self, icr: u64) -> Effect {
        // The delivery status is never pending: messages arrive at once.
        self.icr = icr & !(1 << 12);
        let low = icr as u32;
        let id = if self.x2() { (icr >> 32) as u32 } else { (icr >> 56) as u32 };
        let destination = match low >> 18 & 3 {
            0 if low & 1 << 11 != 0 => Destination::Logical(id),
            0 => Destination::Physical(id),
            1 => Destination::Sender,
            2 => Destination::All,
            _ => Destination::Others,
        };
        let Some(delivery) = Delivery::from_bits(low >> 8) else { return Effect::None };
        let vector = low as u8;
        let level = low & 1 << 15 != 0;
        // INIT level de-assert was for processors that don't exist any more.
        if delivery == Delivery::Init && level && low & 1 << 14 == 0 || delivery == Delivery::ExtInt {
            return Effect::None;
        }
        if matches!(delivery, Delivery::Fixed | Delivery::Lowest) && vector < 16 {
            self.error(ESR_SEND);
            return Effect::None;
        }
        Effect::Send(Message {
            destination,
            delivery,
            vector,
            trigger: if level { Trigger::Level } else { Trigger::Edge },
        })
    }

    fn write_lvt(&mut self, entry: usize, value: u32) {
        let mut value = value & LVT_BITS[entry];
        if self.svr & SVR_ON == 0 {
            value |= MASKED;
        }
        self.lvt[entry] = value;
        if entry == 0 {
            self.timer.set_mode(Mode::of(value));
        }
    }

    fn write_svr(&mut self, value: u32) {
        self.svr = value & 0x1ff;
        if value & SVR_ON == 0 {
            for entry in &mut self.lvt {
                *entry |= MASKED;
            }
        }
    }

    /// The value of a register both modes have; `None` if there is none.
    fn read(&self, register: u32, now: u64) -> Option<u32> {
        let of = |vectors: &Vectors, first: u32| vectors[(register - first) as usize];
        Some(match register {
            reg::ID if self.x2() => self.id,
            reg::ID => self.id << 24,
            reg::VERSION => VERSION,
            reg::TPR => self.tpr.into(),
            reg::PPR => self.ppr().into(),
            reg::LDR => self.ldr,
            reg::SVR => self.svr,
            reg::ISR..reg::TMR => of(&self.isr, reg::ISR),
            reg::TMR..reg::IRR => of(&self.tmr, reg::TMR),
            reg::IRR..reg::ESR => of(&self.irr, reg::IRR),
            reg::ESR => self.esr,
            reg::ICR => self.icr as u32,
            reg::LVT_TIMER..=reg::LVT_ERROR => self.lvt[(register - reg::LVT_TIMER) as usize],
            reg::TMICT => self.timer.initial(),
            reg::TMCCT => self.timer.current(now),
            reg::TDCR => self.timer.divide(),
            _ => return None,
        })
    }

    /// Writes a register both modes have; `None` if there is none that can be written.
    fn write(&mut self, register: u32, value: u32, now: u64) -> Option<Effect> {
        // What has come due is under the rules of before: lost if its entry was masked, on its way if it is masked now.
        self.advance(now);
        match register {
            reg::TPR => self.tpr = value as u8,
            reg::EOI => return Some(self.end()),
            reg::SVR => self.write_svr(value),
            reg::ESR => self.esr = std::mem::take(&mut self.errors),
            reg::LVT_TIMER..=reg::LVT_ERROR => self.write_lvt((register - reg::LVT_TIMER) as usize, value),
            reg::TMICT => self.timer.set_initial(value, now),
            reg::TDCR => self.timer.set_divide(value, now),
            _ => return None,
        }
        Some(Effect::None)
    }

    /// Reads the register at `offset` of the page (xAPIC mode); registers are aligned to 16 bytes, the bytes between are 0.
    pub(super) fn read_page(&mut self, offset: u32, now: u64) -> u32 {
        if !offset.is_multiple_of(16) {
            return 0;
        }
        let register = offset / 16;
        match register {
            reg::APR | reg::RRD => 0,
            reg::DFR => self.dfr,
            reg::ICR2 => (self.icr >> 32) as u32,
            _ => self.read(register, now).unwrap_or_else(|| {
                self.error(ESR_REGISTER);
                0
            }),
        }
    }

    /// Writes the register at `offset` of the page (xAPIC mode).
    pub(super) fn write_page(&mut self, offset: u32, value: u32, now: u64) -> Effect {
        if !offset.is_multiple_of(16) {
            return Effect::None;
        }
        let register = offset / 16;
        match register {
            // The id can't be changed, as on current processors.
            reg::ID => {}
            reg::LDR => self.ldr = value & 0xff00_0000,
            reg::DFR => self.dfr = value | 0x0fff_ffff,
            reg::ICR => return self.send(self.icr & !0xffff_ffff | u64::from(value)),
            reg::ICR2 => self.icr = u64::from(value & 0xff00_0000) << 32 | self.icr & 0xffff_ffff,
            _ => {
                return self.write(register, value, now).unwrap_or_else(|| {
                    self.error(ESR_REGISTER);
                    Effect::None
                });
            }
        }
        Effect::None
    }

    /// Reads MSR 0x800 + `register`.
    ///
    /// # Errors
    /// Not in x2APIC mode, or no such register.
    pub(super) fn read_msr(&self, register: u32, now: u64) -> Result<u64, Denied> {
        match register {
            _ if !self.x2() => Err(Denied),
            reg::ICR => Ok(self.icr),
            reg::EOI | reg::SELF_IPI => Err(Denied),
            _ => self.read(register, now).map(u64::from).ok_or(Denied),
        }
    }

    /// Writes MSR 0x800 + `register`.
    ///
    /// # Errors
    /// Not in x2APIC mode, no such register, read-only, or a reserved bit is set.
    pub(super) fn write_msr(&mut self, register: u32, value: u64, now: u64) -> Result<Effect, Denied> {
        if !self.x2() {
            return Err(Denied);
        }
        let bits = match register {
            reg::ICR => 0xffff_ffff_000c_dfff,
            reg::TPR | reg::SELF_IPI => 0xff,
            reg::EOI | reg::ESR => 0,
            reg::SVR => 0x1ff,
            reg::LVT_TIMER..=reg::LVT_ERROR => u64::from(LVT_BITS[(register - reg::LVT_TIMER) as usize] | 1 << 12),
            reg::TDCR => 0xb,
            _ => 0xffff_ffff,
        };
        if value & !bits != 0 {
            return Err(Denied);
        }
        match register {
            reg::ICR => Ok(self.send(value)),
            reg::SELF_IPI => Ok(self.send(1 << 18 | value)),
            _ => self.write(register, value as u32, now).ok_or(Denied),
        }
    }

    /// IA32_TSC_DEADLINE.
    pub(super) fn deadline(&self) -> u64 {
        self.timer.deadline()
    }

    /// Sets IA32_TSC_DEADLINE; without effect in other modes.
    pub(super) fn set_deadline(&mut self, tsc: u64) {
        self.timer.set_deadline(tsc);
    }

    /// The register page as a snapshot keeps it: in the layout of xAPIC, whatever the mode.
    pub(super) fn save(&self, now: u64) -> Vec<u8> {
        let mut page = vec![0; LAPIC_SIZE];
        let mut put = |register: u32, value: u32| {
            let at = register as usize * 16;
            page[at..at + 4].copy_from_slice(&value.to_le_bytes());
        };
        for register in (0..reg::SELF_IPI).filter(|register| *register != reg::ESR) {
            put(register, self.read(register, now).unwrap_or(0));
        }
        put(reg::ID, self.id << 24);
        put(reg::DFR, self.dfr);
        put(reg::ESR, self.esr | self.errors);
        put(reg::ICR2, (self.icr >> 32) as u32);
        page
    }

    /// Takes a saved page over. The mode is that of IA32_APIC_BASE, which has to be set before.
    ///
    /// # Errors
    /// It is too short.
    pub(super) fn restore(&mut self, page: &[u8], now: u64) -> Result<(), Denied> {
        if page.len() < LAPIC_SIZE {
            return Err(Denied);
        }
        let get = |register: u32| {
            let at = register as usize * 16;
            u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
        };
        self.tpr = get(reg::TPR) as u8;
        self.ldr = get(reg::LDR);
        self.dfr = get(reg::DFR) | 0x0fff_ffff;
        self.svr = get(reg::SVR) & 0x1ff;
        self.esr = get(reg::ESR);
        self.errors = 0;
        self.icr = u64::from(get(reg::ICR2)) << 32 | u64::from(get(reg::ICR));
        self.lvt = std::array::from_fn(|entry| get(reg::LVT_TIMER + entry as u32) & LVT_BITS[entry]);
        self.isr = std::array::from_fn(|word| get(reg::ISR + word as u32));
        self.tmr = std::array::from_fn(|word| get(reg::TMR + word as u32));
        self.irr = std::array::from_fn(|word| get(reg::IRR + word as u32));
        self.timer.set_mode(Mode::of(self.lvt[0]));
        self.timer.restore(get(reg::TMICT), get(reg::TMCCT), get(reg::TDCR), now);
        self.refresh_ldr();
        Ok(())
    }

    /// A level on LINT1, which on a PC is the NMI button.
    pub(super) fn lint1(&mut self) {
        let entry = self.lvt[(reg::LVT_LINT1 - reg::LVT_TIMER) as usize];
        if entry & MASKED == 0
            && let Some(delivery) = Delivery::from_bits(entry >> 8)
        {
            self.accept(delivery, entry as u8, Trigger::Edge);
        }
    }
}
