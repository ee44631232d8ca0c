//! Times as Docker writes them.

use jiff::Timestamp;

/// What Docker shows for a time that has not come: Go's zero.
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 in UTC with the nanoseconds that there are.
pub(crate) fn rfc3339(at_ns: u64) -> String {
    Timestamp::from_nanosecond(i128::from(at_ns)).map_or_else(|_| NEVER.to_owned(), |time| time.to_string())
}

/// As [`rfc3339`], for times before 1970 too.
pub(crate) fn rfc3339_signed(at_ns: i128) -> String {
    Timestamp::from_nanosecond(at_ns).map_or_else(|_| NEVER.to_owned(), |time| time.to_string())
}

/// RFC 3339 with exactly nine digits of a second, as log lines have it.
pub(crate) fn rfc3339_fixed(at_ns: u64) -> String {
    Timestamp::from_nanosecond(i128::from(at_ns)).map_or_else(|_| NEVER.to_owned(), |time| format!("{time:.9}"))
}

/// Whole seconds since the Unix epoch.
pub(crate) fn unix_seconds(at_ns: u64) -> i64 {
    i64::try_from(at_ns / 1_000_000_000).unwrap_or(i64::MAX)
}

/// The present, in nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> u64 {
    u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0)
}

/// How long something took, as `docker ps` words it: coarse, in the largest unit that fits.
pub(crate) fn human(duration_ns: u64) -> String {
    let seconds = duration_ns / 1_000_000_000;
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 0..60, _) => format!("{minutes} minutes"),
        (.., 0..=1) => "About an hour".to_owned(),
        (.., 2..48) => format!("{hours} hours"),
        (.., 48..336) => format!("{} days", hours / 24),
        (.., 336..1440) => format!("{} weeks", hours / 168),
        (.., 1440..17520) => format!("{} months", hours / 720),
        _ => format!("{} years", hours / 8760),
    }
}
