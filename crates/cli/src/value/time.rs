//! Points in time and spans of it: as users write them, and as lists show them.

use jiff::{Timestamp, civil, tz::TimeZone};

/// Reads a span as Go writes it (`1h30m`, `1.5s`, `300ms`), in nanoseconds.
pub(crate) fn span(text: &str) -> Option<i128> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    if rest == "0" {
        return Some(0);
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let units = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(units);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if number.len() > 18 || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
        total += digits(whole)? * scale;
        total += digits(fraction)? * scale / 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        rest = tail;
    }
    Some(sign * total)
}

/// Reads a moment: a span before `now`, a date, a date and time (RFC 3339, the zone may be missing), or seconds since 1970.
/// The answer is what the API takes: `seconds.nanoseconds`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn moment(text: &str, now: Timestamp) -> Result<String, String> {
    if let Some(span) = span(text) {
        let nanos = now.as_nanosecond() - span;
        return Ok(format!("{}.{:09}", nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000)));
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if seconds.parse::<i64>().is_ok() && fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    let local = || {
        let moment: civil::DateTime = text.parse().ok()?;
        Some(moment.to_zoned(TimeZone::try_system().unwrap_or(TimeZone::UTC)).ok()?.timestamp())
    };
    match text.parse::<Timestamp>().ok().or_else(local) {
        Some(moment) => Ok(format!("{}.{:09}", moment.as_second(), moment.subsec_nanosecond())),
        None => Err("give a span as in 10m, a moment as in 2026-01-02T03:04:05Z, or seconds since 1970".to_owned()),
    }
}

/// A span in words, as `ps` shows it: `About a minute`, `3 days`.
pub(crate) fn in_words(seconds: i64) -> String {
    let minutes = seconds / 60;
    // To the nearest hour, as Docker counts.
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (..1, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, ..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, ..48) => format!("{hours} hours"),
        (_, _, ..336) => format!("{} days", hours / 24),
        (_, _, ..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, ..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// A moment as lists show it: `2026-01-02 03:04:05 +0000 UTC`.
pub(crate) fn shown(seconds: i64) -> String {
    match Timestamp::from_second(seconds) {
        Ok(moment) => moment
            .to_zoned(TimeZone::try_system().unwrap_or(TimeZone::UTC))
            .strftime("%Y-%m-%d %H:%M:%S %z %Z")
            .to_string(),
        Err(_) => "N/A".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let check = |text: &str, expect: Option<i128>| assert_eq!(span(text), expect, "{text}");
        check("10s", Some(10_000_000_000));
        check("1h30m", Some(5_400_000_000_000));
        check("1.5s", Some(1_500_000_000));
        check("300ms", Some(300_000_000));
        check("-2s", Some(-2_000_000_000));
        check("0", Some(0));
        for bad in ["", "10", "s", "10x", "1..5s", "."] {
            check(bad, None);
        }
    }

    #[test]
    fn moments() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        assert_eq!(moment("10s", now).unwrap(), "999990.000000000");
        assert_eq!(moment("1700000000", now).unwrap(), "1700000000");
        assert_eq!(moment("1700000000.5", now).unwrap(), "1700000000.5");
        assert_eq!(moment("1970-01-01T00:00:10.25Z", now).unwrap(), "10.250000000");
        assert_eq!(moment("1970-01-01T01:00:00+01:00", now).unwrap(), "0.000000000");
        assert!(moment("1970-01-02", now).is_ok());
        assert!(moment("yesterday", now).is_err());
    }

    #[test]
    fn words() {
        let check = |seconds: i64, expect: &str| assert_eq!(in_words(seconds), expect, "{seconds}");
        check(0, "Less than a second");
        check(1, "1 second");
        check(59, "59 seconds");
        check(60, "About a minute");
        check(150, "2 minutes");
        check(3600, "About an hour");
        check(7200, "2 hours");
        check(3 * 86400, "3 days");
        check(21 * 86400, "3 weeks");
        check(100 * 86400, "3 months");
        check(1000 * 86400, "2 years");
    }
}
