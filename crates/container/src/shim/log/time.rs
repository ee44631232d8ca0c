//! A moment, as logs write it.

/// A moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time {
    /// Nanoseconds since the Unix epoch.
    ns: u64,
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Time {
    pub(super) fn now() -> Self {
        Self { ns: super::super::now_ns() }
    }

    /// RFC 3339 in UTC with so many digits of a second, at most nine.
    pub(super) fn rfc3339(self, digits: usize) -> String {
        let (seconds, nanos) = (self.ns / 1_000_000_000, self.ns % 1_000_000_000);
        let ((year, month, day), second) = (date(seconds / 86_400), seconds % 86_400);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let nanos = format!("{nanos:09}");
        let fraction = nanos.get(..digits).filter(|digits| !digits.is_empty());
        let fraction = fraction.map(|digits| format!(".{digits}")).unwrap_or_default();
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
    }

    /// `Jan  2 03:04:05`, in the host's own zone.
    pub(super) fn stamp(self) -> String {
        let seconds = i64::try_from(self.ns / 1_000_000_000).unwrap_or(0);
        let local = u64::try_from(seconds + sys::clock::local_offset(seconds)).unwrap_or(0);
        stamp(local)
    }
}

fn stamp(seconds: u64) -> String {
    let ((_, month, day), second) = (date(seconds / 86_400), seconds % 86_400);
    let name = usize::try_from(month - 1).ok().and_then(|month| MONTHS.get(month)).copied().unwrap_or("Jan");
    format!("{name} {day:2} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day: the civil date from a count of days, in eras of 400 years that begin in March.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{Time, stamp};

    #[test]
    fn moments() {
        let check = |ns: u64, digits, expect: &str| assert_eq!(Time { ns }.rfc3339(digits), expect);
        check(0, 9, "1970-01-01T00:00:00.000000000Z");
        check(951_782_400_000_000_001, 9, "2000-02-29T00:00:00.000000001Z");
        check(1_798_761_599_999_999_999, 6, "2026-12-31T23:59:59.999999Z");
        check(1_798_761_599_999_999_999, 0, "2026-12-31T23:59:59Z");
        assert_eq!(stamp(1_798_761_599), "Dec 31 23:59:59");
        assert_eq!(stamp(86_399), "Jan  1 23:59:59");
    }
}
