//! Moments in the one written form that the specification's documents use.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    seconds: i64,
    nanoseconds: u32,
}

impl Moment {
    /// This moment.
    #[must_use]
    pub(crate) fn now() -> Self {
        // a clock that stands before 1970 shows 1970
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { seconds: i64::try_from(now.as_secs()).unwrap_or(0), nanoseconds: now.subsec_nanos() }
    }

    /// RFC 3339 in UTC, to the second.
    #[must_use]
    pub(crate) fn seconds(self) -> String {
        format!("{}Z", self.date_time())
    }

    /// RFC 3339 in UTC, with nanoseconds.
    #[must_use]
    pub(crate) fn nanoseconds(self) -> String {
        format!("{}.{:09}Z", self.date_time(), self.nanoseconds)
    }

    fn date_time(self) -> String {
        let (days, second) = (self.seconds.div_euclid(86_400), self.seconds.rem_euclid(86_400));
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

/// The civil date of a day since 1970-01-01. Years are counted from March, so that the leap day is the last of a year, in eras of 400.
fn date(days: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097;
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(ERA), shifted.rem_euclid(ERA));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / (ERA - 1)) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_calendars_have_them() {
        let written = |seconds| Moment { seconds, nanoseconds: 7 }.nanoseconds();
        assert_eq!(written(0), "1970-01-01T00:00:00.000000007Z");
        assert_eq!(written(951_782_399), "2000-02-28T23:59:59.000000007Z");
        assert_eq!(written(951_782_400), "2000-02-29T00:00:00.000000007Z");
        assert_eq!(written(4_102_444_799), "2099-12-31T23:59:59.000000007Z");
    }
}
