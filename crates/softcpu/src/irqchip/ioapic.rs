//! The IOAPIC: 24 inputs, each with an entry that says what message it sends.
//!
//! Source: Intel 82093AA data sheet.

use hv::state::{IOAPIC_PINS, IoapicState};

use super::message::Message;

/// Where its two registers are.
pub(super) const BASE: u64 = 0xfec0_0000;
/// Bytes it answers for.
pub(super) const SIZE: u64 = 0x1000;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
/// Version 0x11, highest entry in bits 16 to 23.
const VERSION: u32 = 0x11 | (IOAPIC_PINS as u32 - 1) << 16;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const REMOTE_IRR: u64 = 1 << 14;
/// Delivery status and remote IRR can't be written.
const READ_ONLY: u64 = 1 << 12 | REMOTE_IRR;
const WRITABLE: u64 = 0xff00_0000_0001_ffff & !READ_ONLY;

/// The IOAPIC.
#[derive(Debug, Clone)]
pub(super) struct Ioapic {
    select: u32,
    id: u32,
    /// Levels of the inputs.
    lines: u32,
    entries: [u64; IOAPIC_PINS],
}

impl Default for Ioapic {
    fn default() -> Self {
        Self { select: 0, id: 0, lines: 0, entries: [MASKED; IOAPIC_PINS] }
    }
}

impl Ioapic {
    /// What input `pin` sends now, if it sends.
    fn service(&mut self, pin: usize) -> Option<Message> {
        let entry = &mut self.entries[pin];
        if *entry & MASKED != 0 || *entry & LEVEL != 0 && *entry & REMOTE_IRR != 0 {
            return None;
        }
        let message = Message::from_redirection(*entry)?;
        if *entry & LEVEL != 0 {
            *entry |= REMOTE_IRR;
        }
        Some(message)
    }

    /// Sets an input; pins that do not exist are ignored.
    pub(super) fn set_line(&mut self, pin: u32, high: bool) -> Option<Message> {
        let at = pin as usize;
        if at >= IOAPIC_PINS {
            return None;
        }
        let was = self.lines & 1 << pin != 0;
        self.lines = self.lines & !(1 << pin) | u32::from(high) << pin;
        let edge = self.entries[at] & LEVEL == 0;
        (high && !(edge && was)).then(|| self.service(at)).flatten()
    }

    /// A level-triggered interrupt ended: inputs with its vector that are still high send again.
    pub(super) fn end(&mut self, vector: u8) -> Vec<Message> {
        let mut again = Vec::new();
        for pin in 0..IOAPIC_PINS {
            let entry = &mut self.entries[pin];
            if *entry as u8 != vector || *entry & LEVEL == 0 {
                continue;
            }
            *entry &= !REMOTE_IRR;
            if self.lines & 1 << pin != 0 {
                again.extend(self.service(pin));
            }
        }
        again
    }

    /// Reads one of its two registers.
    pub(super) fn read(&self, offset: u64) -> u32 {
        match offset & !0xf {
            SELECT => self.select,
            WINDOW => match self.select {
                0 | 2 => self.id << 24,
                1 => VERSION,
                select => self.entry(select).map_or(0, |(pin, shift)| (self.entries[pin] >> shift) as u32),
            },
            _ => 0,
        }
    }

    fn entry(&self, select: u32) -> Option<(usize, u32)> {
        let at = select.checked_sub(0x10)?;
        let pin = (at / 2) as usize;
        (pin < IOAPIC_PINS).then_some((pin, at % 2 * 32))
    }

    /// Writes one of its two registers; an input that is high may send now.
    pub(super) fn write(&mut self, offset: u64, value: u32) -> Option<Message> {
        match offset & !0xf {
            SELECT => self.select = value & 0xff,
            WINDOW if self.select == 0 => self.id = value >> 24 & 0xf,
            WINDOW => {
                let (pin, shift) = self.entry(self.select)?;
                let old = self.entries[pin];
                let half = 0xffff_ffff_u64 << shift;
                let new = old & !half | u64::from(value) << shift;
                let mut entry = new & WRITABLE | old & READ_ONLY;
                if entry & LEVEL == 0 {
                    entry &= !REMOTE_IRR;
                }
                self.entries[pin] = entry;
                if entry & LEVEL != 0 && self.lines & 1 << pin != 0 {
                    return self.service(pin);
                }
            }
            _ => {}
        }
        None
    }

    /// Its state.
    pub(super) fn save(&self) -> IoapicState {
        IoapicState { select: self.select, id: self.id, irr: self.lines, redirection: self.entries.to_vec() }
    }

    /// Takes a saved state over; `false` if it has another number of inputs.
    pub(super) fn restore(&mut self, state: &IoapicState) -> bool {
        let Ok(entries) = <[u64; IOAPIC_PINS]>::try_from(state.redirection.as_slice()) else { return false };
        *self = Self { select: state.select & 0xff, id: state.id & 0xf, lines: state.irr & 0xff_ffff, entries };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_entry(pin: u32, entry: u64) -> Ioapic {
        let mut ioapic = Ioapic::default();
        for half in 0..2 {
            ioapic.write(SELECT, 0x10 + pin * 2 + half);
            ioapic.write(WINDOW, (entry >> (32 * half)) as u32);
        }
        ioapic
    }

    #[test]
    fn edges_send_once() {
        let mut ioapic = with_entry(4, 3 << 56 | 0x34);
        let message = ioapic.set_line(4, true).unwrap();
        assert_eq!((message.vector, message.destination), (0x34, super::super::Destination::Physical(3)));
        assert_eq!(ioapic.set_line(4, true), None);
        ioapic.set_line(4, false);
        assert!(ioapic.set_line(4, true).is_some());
    }

    #[test]
    fn levels_send_again_after_their_end() {
        let mut ioapic = with_entry(9, LEVEL | 0x50);
        assert!(ioapic.set_line(9, true).is_some());
        assert_eq!(ioapic.set_line(9, true), None);
        assert_eq!(ioapic.end(0x50).len(), 1);
        ioapic.set_line(9, false);
        assert!(ioapic.end(0x50).is_empty());
        assert!(ioapic.set_line(9, true).is_some());
    }

    #[test]
    fn masked_levels_send_when_unmasked() {
        let mut ioapic = with_entry(9, MASKED | LEVEL | 0x50);
        assert_eq!(ioapic.set_line(9, true), None);
        ioapic.write(SELECT, 0x10 + 18);
        assert!(ioapic.write(WINDOW, LEVEL as u32 | 0x50).is_some());
        // Remote IRR is seen and can't be written away.
        assert_ne!(ioapic.read(WINDOW) & REMOTE_IRR as u32, 0);
        assert_eq!(ioapic.write(WINDOW, LEVEL as u32 | 0x50), None);
    }

    #[test]
    fn registers_are_those_of_the_data_sheet() {
        let mut ioapic = Ioapic::default();
        ioapic.write(SELECT, 1);
        assert_eq!(ioapic.read(WINDOW), 0x0017_0011);
        ioapic.write(SELECT, 0);
        ioapic.write(WINDOW, 0x0500_0000);
        assert_eq!(ioapic.read(WINDOW), 0x0500_0000);
        ioapic.write(SELECT, 0x10);
        assert_eq!(ioapic.read(WINDOW), MASKED as u32);
        ioapic.write(SELECT, 0x40);
        ioapic.write(WINDOW, 7);
        assert_eq!(ioapic.read(WINDOW), 0);
        assert_eq!(ioapic.set_line(24, true), None);
    }

    #[test]
    fn states_go_round() {
        let mut ioapic = with_entry(3, LEVEL | 0x41);
        ioapic.set_line(3, true);
        let state = ioapic.save();
        let mut other = Ioapic::default();
        assert!(other.restore(&state));
        assert_eq!(other.save(), state);
        assert_eq!(other.end(0x41).len(), 1);
        assert!(!other.restore(&IoapicState::default()));
    }
}
