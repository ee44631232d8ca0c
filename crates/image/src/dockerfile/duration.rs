//! Times as Go writes them: `1h2m3.5s`.

use std::time::Duration;

/// Units and their nanoseconds.
const UNITS: [(&str, f64); 8] =
    [("h", 3.6e12), ("m", 6e10), ("ms", 1e6), ("ns", 1.0), ("s", 1e9), ("us", 1e3), ("µs", 1e3), ("μs", 1e3)];

/// Reads `300ms`, `1.5h` or `2h45m`; nothing negative.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanoseconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == &after[..unit])?;
        nanoseconds += number * factor;
        rest = &after[unit..];
    }
    // Go counts nanoseconds in 63 bits
    if text.is_empty() || nanoseconds >= 9.2e18 { None } else { Some(Duration::from_secs_f64(nanoseconds / 1e9)) }
}

/// Writes it as Go does: `1h0m0s`, `1m30s`, `500ms`, `0s`.
pub(crate) fn show(time: Duration) -> String {
    let fraction = |value: f64| {
        let text = format!("{value:.9}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let nanos = time.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(time.as_secs_f64() * 1e6)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(time.as_secs_f64() * 1e3)),
        _ => {
            let seconds = time.as_secs();
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = (seconds % 60) as f64 + f64::from(time.subsec_nanos()) / 1e9;
            match (hours, minutes) {
                (0, 0) => format!("{}s", fraction(rest)),
                (0, _) => format!("{minutes}m{}s", fraction(rest)),
                _ => format!("{hours}h{minutes}m{}s", fraction(rest)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (text, milliseconds, written) in [
            ("30s", 30_000, "30s"),
            ("1m30s", 90_000, "1m30s"),
            ("1.5h", 5_400_000, "1h30m0s"),
            ("500ms", 500, "500ms"),
            ("0", 0, "0s"),
            ("2.5s", 2_500, "2.5s"),
        ] {
            let time = parse(text).unwrap();
            assert_eq!((time.as_millis(), show(time).as_str()), (milliseconds, written), "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1x", "1..2s", "99999999999h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
