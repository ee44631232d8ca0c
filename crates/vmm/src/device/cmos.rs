//! The clock in the CMOS, at ports 0x70 and 0x71: the host's time of day, in UTC.
//!
//! Source: Motorola MC146818A data sheet. Alarms and interrupts are not there; writes to the time are swallowed.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Registers;

/// Register B: 24 hours; the numbers are BCD.
const HOURS_24: u8 = 2;
/// Register D: the battery is good.
const BATTERY: u8 = 0x80;

#[derive(Default)]
pub(crate) struct Cmos {
    index: Mutex<u8>,
}

/// Year, month, day, weekday from 1 (Sunday), from days since 1970.
fn date(days: u64) -> (u64, u8, u8, u8) {
    // Years from March to February, in eras of 400 of them: the leap day comes last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month + 2) / 5 + 1) as u8;
    let month = if month < 10 { month + 3 } else { month - 9 } as u8;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day, ((days + 4) % 7 + 1) as u8)
}

fn register(index: u8, now: u64) -> u8 {
    let (year, month, day, weekday) = date(now / 86_400);
    let value = match index {
        0 => now % 60,
        2 => now / 60 % 60,
        4 => now / 3_600 % 24,
        6 => weekday.into(),
        7 => day.into(),
        8 => month.into(),
        9 => year % 100,
        0x32 => year / 100,
        0xb => return HOURS_24,
        0xd => return BATTERY,
        _ => return 0,
    } as u8;
    ((value / 10) << 4) | (value % 10)
}

impl Registers for Cmos {
    fn read(&self, offset: u64, into: &mut [u8]) {
        let index = *self.index.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if let (1, Some(byte)) = (offset, into.first_mut()) {
            *byte = register(index, now);
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        if let (0, Some(byte)) = (offset, bytes.first()) {
            *self.index.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = byte & 0x7f;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), (1970, 1, 1, 5));
        assert_eq!(date(11_016), (2000, 2, 29, 3));
        assert_eq!(date(11_017), (2000, 3, 1, 4));
        assert_eq!(date(20_778), (2026, 11, 21, 7));
    }

    #[test]
    fn numbers_are_decimal() {
        let now = 20_778 * 86_400 + 13 * 3_600 + 59 * 60 + 8;
        let read = |index| register(index, now);
        assert_eq!(
            [read(0), read(2), read(4), read(7), read(8), read(9), read(0x32)],
            [8, 0x59, 0x13, 0x21, 0x11, 0x26, 0x20]
        );
        assert_eq!((read(0xb), read(0xd), read(0xa)), (2, 0x80, 0));
    }
}
