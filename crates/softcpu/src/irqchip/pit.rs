//! The 8254 timer and port 0x61, over the guest's nanoseconds.
//!
//! Channel 0 pulses interrupt line 0; channel 2 is what Linux calibrates its clocks with, gated and read by port 0x61.
//!
//! Source: Intel 8254 data sheet.

use hv::state::{PitChannel, PitState};

/// Ticks a second.
const HZ: u64 = 1_193_182;
const NS: u64 = 1_000_000_000;
/// When a count was loaded that has pulsed.
const PULSED: i64 = -1;
/// Fastest period of channel 0 that is served.
const SHORTEST_NS: u64 = 200_000;

fn ticks(ns: u64) -> u64 {
    (u128::from(ns) * u128::from(HZ) / u128::from(NS)) as u64
}

/// Nanoseconds after which `ticks` have gone by.
fn ns(ticks: u64) -> u64 {
    (u128::from(ticks) * u128::from(NS)).div_ceil(u128::from(HZ)) as u64
}

/// The timer.
#[derive(Debug, Clone)]
pub(super) struct Pit {
    channels: [PitChannel; 3],
    speaker: u8,
    /// When channel 0 pulses next.
    due: Option<u64>,
}

impl Default for Pit {
    fn default() -> Self {
        let channel = |gate| PitChannel { count: 0x10000, mode: 0xff, rw_mode: 3, gate, ..PitChannel::default() };
        Self { channels: [channel(1), channel(1), channel(0)], speaker: 0, due: None }
    }
}

/// Ticks since the count was loaded.
fn elapsed(channel: &PitChannel, now: u64) -> u64 {
    ticks(now.saturating_sub(u64::try_from(channel.loaded_ns).unwrap_or(0)))
}

fn reload(channel: &PitChannel) -> u64 {
    u64::from(channel.count.max(1))
}

/// What the counting element shows.
fn counter(channel: &PitChannel, now: u64) -> u16 {
    let (count, passed) = (reload(channel), elapsed(channel, now));
    let left = match channel.mode {
        2 => count - passed % count,
        3 => count - passed * 2 % count,
        _ => count.wrapping_sub(passed),
    };
    if channel.bcd != 0 { to_bcd(left % 10_000) } else { left as u16 }
}

fn to_bcd(value: u64) -> u16 {
    (0..4).map(|digit| (value / 10u64.pow(digit) % 10) << (4 * digit)).sum::<u64>() as u16
}

fn from_bcd(value: u32) -> u32 {
    (0..4).map(|digit| (value >> (4 * digit) & 0xf) * 10u32.pow(digit)).sum()
}

/// Its output.
fn output(channel: &PitChannel, now: u64) -> bool {
    let (count, passed) = (reload(channel), elapsed(channel, now));
    match channel.mode {
        0 | 1 => passed >= count,
        2 => passed % count != count - 1,
        3 => passed % count < count.div_ceil(2),
        4 | 5 => passed != count,
        _ => true,
    }
}

impl Pit {
    /// When channel 0 pulses next, guest nanoseconds.
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    /// Whether channel 0 has pulsed by now; arms the next pulse.
    pub(super) fn fire(&mut self, now: u64) -> bool {
        let Some(due) = self.due.filter(|due| now >= *due) else { return false };
        let channel = &self.channels[0];
        self.due = matches!(channel.mode, 2 | 3).then(|| {
            let period = ns(reload(channel)).max(SHORTEST_NS);
            due + period * ((now - due) / period + 1)
        });
        true
    }

    fn arm(&mut self, now: u64) {
        let channel = &self.channels[0];
        let after = ns(reload(channel));
        self.due = match channel.mode {
            0 | 4 => Some(now + after),
            2 | 3 => Some(now + after.max(SHORTEST_NS)),
            _ => None,
        };
    }

    fn load(&mut self, at: usize, value: u32, now: u64) {
        let channel = &mut self.channels[at];
        let value = if channel.bcd != 0 { from_bcd(value) } else { value };
        let whole = if channel.bcd != 0 { 10_000 } else { 0x10000 };
        channel.count = if value == 0 { whole } else { value };
        channel.loaded_ns = now as i64;
        if at == 0 {
            self.arm(now);
        }
    }

    fn latch(channel: &mut PitChannel, now: u64) {
        if channel.count_latched == 0 {
            channel.latched_count = counter(channel, now);
            channel.count_latched = channel.rw_mode;
        }
    }

    fn read_back(&mut self, value: u8, now: u64) {
        for (at, channel) in self.channels.iter_mut().enumerate() {
            if value & 2 << at == 0 {
                continue;
            }
            if value & 0x20 == 0 {
                Self::latch(channel, now);
            }
            if value & 0x10 == 0 && channel.status_latched == 0 {
                channel.status =
                    u8::from(output(channel, now)) << 7 | channel.rw_mode << 4 | (channel.mode & 7) << 1 | channel.bcd;
                channel.status_latched = 1;
            }
        }
    }

    fn control(&mut self, value: u8, now: u64) {
        let at = usize::from(value >> 6);
        if at == 3 {
            self.read_back(value, now);
            return;
        }
        let channel = &mut self.channels[at];
        let access = value >> 4 & 3;
        if access == 0 {
            Self::latch(channel, now);
            return;
        }
        channel.rw_mode = access;
        channel.read_state = access;
        channel.write_state = access;
        // Modes 6 and 7 are 2 and 3.
        channel.mode = match value >> 1 & 7 {
            mode @ 6..=7 => mode - 4,
            mode => mode,
        };
        channel.bcd = value & 1;
        channel.count_latched = 0;
        channel.status_latched = 0;
        if at == 0 {
            self.due = None;
        }
    }

    fn write_count(&mut self, at: usize, value: u8, now: u64) {
        let value = u32::from(value);
        match self.channels[at].write_state {
            1 => self.load(at, value, now),
            2 => self.load(at, value << 8, now),
            4 => {
                self.channels[at].write_state = 3;
                let low = u32::from(self.channels[at].write_latch);
                self.load(at, low | value << 8, now);
            }
            _ => {
                self.channels[at].write_latch = value as u8;
                self.channels[at].write_state = 4;
            }
        }
    }

    fn read_count(&mut self, at: usize, now: u64) -> u8 {
        let channel = &mut self.channels[at];
        if channel.status_latched != 0 {
            channel.status_latched = 0;
            return channel.status;
        }
        if channel.count_latched != 0 {
            let (low, high) = (channel.latched_count as u8, (channel.latched_count >> 8) as u8);
            let (value, next) = match channel.count_latched {
                1 => (low, 0),
                3 => (low, 4),
                _ => (high, 0),
            };
            channel.count_latched = next;
            return value;
        }
        let count = counter(channel, now);
        match channel.read_state {
            1 => count as u8,
            2 => (count >> 8) as u8,
            4 => {
                channel.read_state = 3;
                (count >> 8) as u8
            }
            _ => {
                channel.read_state = 4;
                count as u8
            }
        }
    }

    /// Reads one of its ports; `None` if the port is another's.
    pub(super) fn read(&mut self, port: u16, now: u64) -> Option<u8> {
        match port {
            0x40..=0x42 => Some(self.read_count(usize::from(port - 0x40), now)),
            0x43 => Some(0),
            0x61 => {
                let refresh = ((now / 15_000) & 1) as u8;
                let out = u8::from(output(&self.channels[2], now));
                Some(self.speaker | refresh << 4 | out << 5)
            }
            _ => None,
        }
    }

    /// Writes one of its ports; `false` if the port is another's.
    pub(super) fn write(&mut self, port: u16, value: u8, now: u64) -> bool {
        match port {
            0x40..=0x42 => self.write_count(usize::from(port - 0x40), value, now),
            0x43 => self.control(value, now),
            0x61 => {
                self.speaker = value & 3;
                let channel = &mut self.channels[2];
                let gate = value & 1;
                // A rising gate starts these modes anew.
                if gate > channel.gate && matches!(channel.mode, 1 | 2 | 3 | 5) {
                    channel.loaded_ns = now as i64;
                }
                channel.gate = gate;
            }
            _ => return false,
        }
        true
    }

    /// Its state. A count that has ended and has pulsed is one that was loaded before time began: one that has ended a moment ago may
    /// still have to.
    pub(super) fn save(&self) -> PitState {
        let mut channels = self.channels;
        if channels[0].mode == 0 && channels[0].loaded_ns > 0 && self.due.is_none() {
            channels[0].loaded_ns = PULSED;
        }
        PitState { channels, speaker: self.speaker }
    }

    /// Takes a saved state over.
    pub(super) fn restore(&mut self, state: &PitState, now: u64) {
        self.channels = state.channels;
        for channel in &mut self.channels {
            channel.count = channel.count.clamp(1, 0x10000);
        }
        self.speaker = state.speaker & 3;
        self.due = None;
        let first = &self.channels[0];
        match (first.mode, u64::try_from(first.loaded_ns)) {
            (_, Err(_) | Ok(0)) => {}
            (0, Ok(loaded)) => {
                let due = loaded.saturating_add(ns(reload(first)));
                // Of a count that has ended long ago nobody waits for the pulse.
                self.due = (now.saturating_sub(due) < NS).then_some(due);
            }
            _ => self.arm(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(pit: &mut Pit, control: u8, port: u16, count: u16, now: u64) {
        pit.write(0x43, control, now);
        pit.write(port, count as u8, now);
        pit.write(port, (count >> 8) as u8, now);
    }

    #[test]
    fn a_pulse_that_has_not_been_is_not_lost_in_a_state_and_comes_once() {
        let mut pit = Pit::default();
        program(&mut pit, 0x30, 0x40, 1000, 5 * NS);
        let due = pit.due().unwrap();
        // Its time has come when the state is taken, or only when it is taken over.
        for later in [due + 1, due + NS / 2] {
            let mut other = Pit::default();
            other.restore(&pit.save(), later);
            assert!(other.fire(later));
            assert!(!other.fire(later));
            let mut third = Pit::default();
            third.restore(&other.save(), later + 1);
            assert_eq!(third.due(), None, "it has been");
            assert!(output(&third.channels[0], later + 1));
        }
        let mut late = Pit::default();
        late.restore(&pit.save(), due + 2 * NS);
        assert_eq!(late.due(), None, "nobody waits");
    }

    #[test]
    fn channel_two_calibrates_clocks() {
        // What Linux does: mode 0, gate on, count of 10 ms, wait for the output.
        let mut pit = Pit::default();
        pit.write(0x61, 1, 0);
        program(&mut pit, 0xb0, 0x42, 11_932, 1_000);
        assert_eq!(pit.read(0x61, 1_000 + 9_999_000).unwrap() & 0x20, 0);
        assert_eq!(pit.read(0x61, 1_000 + 10_001_000).unwrap() & 0x20, 0x20);
    }

    #[test]
    fn channel_zero_pulses_at_its_period() {
        let mut pit = Pit::default();
        assert_eq!(pit.due(), None);
        program(&mut pit, 0x34, 0x40, 11_932, 0);
        let period = pit.due().unwrap();
        assert!(period.abs_diff(10_000_000) < 1_000);
        assert!(!pit.fire(period - 1));
        assert!(pit.fire(period));
        assert_eq!(pit.due(), Some(2 * period));
        // What was missed is one pulse.
        assert!(pit.fire(10 * period + 5));
        assert_eq!(pit.due(), Some(11 * period));
    }

    #[test]
    fn a_latched_count_stays() {
        let mut pit = Pit::default();
        program(&mut pit, 0x34, 0x40, 1000, 0);
        let at = ns(100);
        pit.write(0x43, 0x00, at);
        let later = ns(500);
        assert_eq!(pit.read(0x40, later), Some((900 & 0xff) as u8));
        assert_eq!(pit.read(0x40, later), Some((900 >> 8) as u8));
        assert_eq!(pit.read(0x40, later), Some((500 & 0xff) as u8));
    }

    #[test]
    fn the_status_is_read_back() {
        let mut pit = Pit::default();
        program(&mut pit, 0xb6, 0x42, 1000, 0);
        pit.write(0x43, 0xe8, ns(10));
        assert_eq!(pit.read(0x42, ns(10)), Some(0x80 | 0x36));
    }

    #[test]
    fn a_one_shot_fires_once() {
        let mut pit = Pit::default();
        program(&mut pit, 0x38, 0x40, 100, 0);
        assert!(pit.fire(ns(100)));
        assert!(!pit.fire(ns(100_000)));
    }

    #[test]
    fn garbage_never_panics() {
        let mut pit = Pit::default();
        let mut seed = 1u32;
        for step in 0..100_000u64 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let port = [0x40, 0x41, 0x42, 0x43, 0x61][(seed >> 8) as usize % 5];
            if seed >> 31 == 0 {
                pit.write(port, (seed >> 16) as u8, step * 997);
            } else {
                pit.read(port, step * 997);
            }
            pit.fire(step * 997);
        }
    }
}
