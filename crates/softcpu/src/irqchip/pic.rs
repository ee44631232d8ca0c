//! The pair of 8259A interrupt controllers of a PC.
//!
//! Source: Intel 8259A data sheet; the edge/level registers at 0x4d0 and 0x4d1 are those of the PIIX.

use hv::state::PicState;

/// The slave hangs on this input of the master.
const CASCADE: u8 = 2;

/// One 8259A.
#[derive(Debug, Clone, Default)]
struct Pic {
    state: PicState,
}

impl Pic {
    /// Inputs counted from the highest priority; 8 if there is none.
    fn priority(&self, inputs: u8) -> u8 {
        inputs.rotate_right(u32::from(self.state.priority_add)).trailing_zeros() as u8
    }

    /// The input that would interrupt now.
    fn pending(&self) -> Option<u8> {
        let state = &self.state;
        let requested = state.irr & !state.imr;
        let priority = self.priority(requested);
        let mut serving = state.isr;
        if state.special_mask != 0 {
            serving &= !state.imr;
        }
        // In special fully nested mode the slave may interrupt itself.
        if state.special_fully_nested_mode != 0 {
            serving &= !(1 << CASCADE);
        }
        (priority < self.priority(serving)).then_some((priority + state.priority_add) & 7)
    }

    fn set_line(&mut self, input: u8, high: bool) {
        let bit = 1 << input;
        let state = &mut self.state;
        let level = state.elcr & bit != 0;
        if high {
            if level || state.last_irr & bit == 0 {
                state.irr |= bit;
            }
            state.last_irr |= bit;
        } else {
            if level {
                state.irr &= !bit;
            }
            state.last_irr &= !bit;
        }
    }

    /// The processor takes `input`.
    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << input;
        let state = &mut self.state;
        if state.auto_eoi == 0 {
            state.isr |= bit;
        } else if state.rotate_on_auto_eoi != 0 {
            state.priority_add = (input + 1) & 7;
        }
        if state.elcr & bit == 0 {
            state.irr &= !bit;
        }
    }

    fn command(&mut self, value: u8) {
        let state = &mut self.state;
        if value & 0x10 != 0 {
            *state = PicState {
                init4: value & 1,
                init_state: 1,
                elcr: state.elcr,
                elcr_mask: state.elcr_mask,
                // Levels that are still high are requests; edges have to come again.
                last_irr: state.last_irr,
                irr: state.last_irr & state.elcr,
                ..PicState::default()
            };
        } else if value & 0x08 != 0 {
            if value & 4 != 0 {
                state.poll = 1;
            }
            if value & 2 != 0 {
                state.read_reg_select = value & 1;
            }
            if value & 0x40 != 0 {
                state.special_mask = value >> 5 & 1;
            }
        } else {
            self.end(value);
        }
    }

    /// Operation command word 2.
    fn end(&mut self, value: u8) {
        let rotate = value & 0x80 != 0;
        let specific = value & 0x40 != 0;
        let end = value & 0x20 != 0;
        let input = if specific {
            value & 7
        } else {
            (self.priority(self.state.isr) & 7).wrapping_add(self.state.priority_add) & 7
        };
        let any = specific || self.state.isr != 0;
        if end && any {
            self.state.isr &= !(1 << input);
        }
        match (rotate, end, specific) {
            (true, true, _) if any => self.state.priority_add = (input + 1) & 7,
            (true, false, true) => self.state.priority_add = (input + 1) & 7,
            (_, false, false) => self.state.rotate_on_auto_eoi = u8::from(rotate),
            _ => {}
        }
    }

    fn write_mask(&mut self, value: u8) {
        let state = &mut self.state;
        match state.init_state {
            1 => {
                state.irq_base = value & 0xf8;
                state.init_state = 2;
            }
            2 => state.init_state = if state.init4 != 0 { 3 } else { 0 },
            3 => {
                state.special_fully_nested_mode = value >> 4 & 1;
                state.auto_eoi = value >> 1 & 1;
                state.init_state = 0;
            }
            _ => state.imr = value,
        }
    }

    fn poll(&mut self) -> u8 {
        self.state.poll = 0;
        let Some(input) = self.pending() else { return 0 };
        self.acknowledge(input);
        0x80 | input
    }

    fn read(&mut self, mask: bool) -> u8 {
        if self.state.poll != 0 {
            return self.poll();
        }
        match (mask, self.state.read_reg_select) {
            (true, _) => self.state.imr,
            (false, 0) => self.state.irr,
            (false, _) => self.state.isr,
        }
    }
}

/// Master and slave.
#[derive(Debug, Clone)]
pub(super) struct Pics {
    chips: [Pic; 2],
}

impl Default for Pics {
    fn default() -> Self {
        let mut chips = [Pic::default(), Pic::default()];
        // Timer, keyboard, cascade; clock and coprocessor can't be level-triggered.
        chips[0].state.elcr_mask = 0xf8;
        chips[1].state.elcr_mask = 0xde;
        Self { chips }
    }
}

impl Pics {
    /// The slave's output is an input of the master.
    fn cascade(&mut self) {
        let out = self.chips[1].pending().is_some();
        // The cascade follows the slave like a level, whatever its edge register says.
        let bit = 1 << CASCADE;
        let master = &mut self.chips[0].state;
        if out {
            master.irr |= bit;
        } else {
            master.irr &= !bit;
        }
    }

    /// Whether the processor is interrupted.
    pub(super) fn output(&self) -> bool {
        self.chips[0].pending().is_some()
    }

    /// Sets input 0 to 15; others are ignored.
    pub(super) fn set_line(&mut self, input: u32, high: bool) {
        if input < 16 {
            self.chips[(input / 8) as usize].set_line((input % 8) as u8, high);
            self.cascade();
        }
    }

    /// The processor asks for the vector. What went away in between gives a spurious one, as the chip does.
    pub(super) fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.chips[0].pending() else { return self.chips[0].state.irq_base | 7 };
        self.chips[0].acknowledge(input);
        if input != CASCADE {
            return self.chips[0].state.irq_base | input;
        }
        let slave = self.chips[1].pending();
        if let Some(input) = slave {
            self.chips[1].acknowledge(input);
        }
        self.cascade();
        self.chips[1].state.irq_base | slave.unwrap_or(7)
    }

    /// Reads one of its ports; `None` if the port is another's.
    pub(super) fn read(&mut self, port: u16) -> Option<u8> {
        let value = match port {
            0x20 | 0x21 => self.chips[0].read(port & 1 != 0),
            0xa0 | 0xa1 => self.chips[1].read(port & 1 != 0),
            0x4d0 | 0x4d1 => self.chips[usize::from(port & 1)].state.elcr,
            _ => return None,
        };
        self.cascade();
        Some(value)
    }

    /// Writes one of its ports; `false` if the port is another's.
    pub(super) fn write(&mut self, port: u16, value: u8) -> bool {
        match port {
            0x20 | 0xa0 => self.chips[usize::from(port >> 7)].command(value),
            0x21 | 0xa1 => self.chips[usize::from(port >> 7)].write_mask(value),
            0x4d0 | 0x4d1 => {
                let state = &mut self.chips[usize::from(port & 1)].state;
                state.elcr = value & state.elcr_mask;
            }
            _ => return false,
        }
        self.cascade();
        true
    }

    /// Their state.
    pub(super) fn save(&self) -> [PicState; 2] {
        [self.chips[0].state, self.chips[1].state]
    }

    /// Takes a saved state over.
    pub(super) fn restore(&mut self, states: &[PicState; 2]) {
        for (chip, state) in self.chips.iter_mut().zip(states) {
            chip.state = PicState { priority_add: state.priority_add & 7, irq_base: state.irq_base & 0xf8, ..*state };
        }
        self.cascade();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux sets them up: vectors 0x30 and 0x38, everything unmasked.
    fn ready() -> Pics {
        let mut pics = Pics::default();
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 4),
            (0x21, 1),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 2),
            (0xa1, 1),
            (0x21, 0),
            (0xa1, 0),
        ] {
            assert!(pics.write(port, value));
        }
        pics
    }

    #[test]
    fn the_lowest_input_goes_first() {
        let mut pics = ready();
        pics.set_line(4, true);
        pics.set_line(1, true);
        assert_eq!(pics.acknowledge(), 0x31);
        assert!(!pics.output());
        pics.write(0x20, 0x20);
        assert_eq!(pics.acknowledge(), 0x34);
    }

    #[test]
    fn the_slave_comes_through_input_two() {
        let mut pics = ready();
        pics.set_line(12, true);
        assert!(pics.output());
        assert_eq!(pics.acknowledge(), 0x3c);
        pics.write(0xa0, 0x20);
        pics.write(0x20, 0x62);
        assert!(!pics.output());
        pics.write(0xa0, 0x0b);
        assert_eq!(pics.read(0xa0), Some(0));
    }

    #[test]
    fn edges_need_a_rise_and_levels_do_not() {
        let mut pics = ready();
        pics.set_line(3, true);
        pics.acknowledge();
        pics.write(0x20, 0x20);
        assert!(!pics.output());
        pics.write(0x4d0, 0xff);
        assert_eq!(pics.read(0x4d0), Some(0xf8));
        pics.set_line(5, true);
        assert_eq!(pics.acknowledge(), 0x35);
        pics.write(0x20, 0x20);
        assert_eq!(pics.acknowledge(), 0x35);
        pics.set_line(5, false);
        pics.write(0x20, 0x20);
        assert!(!pics.output());
    }

    #[test]
    fn masks_are_read_back() {
        let mut pics = ready();
        pics.write(0xa1, 0xfb);
        assert_eq!(pics.read(0xa1), Some(0xfb));
        pics.set_line(9, true);
        assert!(!pics.output());
        pics.write(0xa1, 0xf9);
        assert!(pics.output());
    }

    #[test]
    fn spurious_vectors_are_the_last_ones() {
        let mut pics = ready();
        assert_eq!(pics.acknowledge(), 0x37);
        assert!(pics.read(0x60).is_none());
        assert!(!pics.write(0x60, 0));
    }

    #[test]
    fn polls_and_rotation() {
        let mut pics = ready();
        pics.set_line(6, true);
        pics.write(0x20, 0x0c);
        assert_eq!(pics.read(0x20), Some(0x86));
        // Rotate on the end of 6: 7 is the highest now, 6 the lowest.
        pics.write(0x20, 0xa0);
        pics.set_line(0, true);
        pics.set_line(7, true);
        assert_eq!(pics.acknowledge(), 0x37);
    }
}
