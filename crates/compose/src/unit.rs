//! Truth values, sizes and spans of time as Compose files write them.

/// A truth value's text; YAML 1.1 had more words for it than today's.
///
/// # Errors
/// What it should be.
pub(crate) fn truth(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" | "on" => Ok(true),
        "0" | "f" | "false" | "n" | "no" | "off" => Ok(false),
        _ => Err(format!("must be true or false, not {text:?}")),
    }
}

/// A size: a number with `b`, `k`, `m`, `g`, `t` or `p`, also as in `mb` and `MiB`; powers of 1024.
///
/// # Errors
/// What it should be.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let bad = || format!("must be a size as in 512m or 1.5g, not {text:?}");
    let lower = text.trim().to_ascii_lowercase();
    let end =
        lower.find(|letter: char| !letter.is_ascii_digit() && letter != '.' && letter != '-').unwrap_or(lower.len());
    let (number, suffix) = lower.split_at_checked(end).ok_or_else(bad)?;
    let suffix = suffix.trim_start();
    let power = match suffix.strip_suffix("ib").or_else(|| suffix.strip_suffix('b')).unwrap_or(suffix) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(bad()),
    };
    let unit = 1_i64 << (10 * power);
    if let Ok(whole) = number.parse::<i64>() {
        // -1 says "no limit" where there is such a thing
        return if whole < -1 { Err(bad()) } else { whole.checked_mul(unit).ok_or_else(bad) };
    }
    let number = number.parse::<f64>().map_err(|_| bad())?;
    #[expect(clippy::cast_precision_loss, reason = "a unit is a power of two")]
    let size = number * unit as f64;
    if !(0.0..9.0e18).contains(&size) {
        return Err(bad());
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked above; a fraction of a byte is none")]
    Ok(size as i64)
}

/// Nanoseconds of a unit of time.
const SPANS: &[(&str, i64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
];

/// A span of time in nanoseconds: `1h30m`, `1.5s`, `0`.
///
/// # Errors
/// What it should be.
pub fn span(text: &str) -> Result<i64, String> {
    let bad = || format!("must be a span of time as in 1m30s, not {text:?}");
    let (negative, mut rest) = match text.trim().strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.trim()),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let (_, nanos) = SPANS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        let part = match number.split_once('.') {
            None => number.parse::<i64>().ok().and_then(|number| number.checked_mul(*nanos)),
            Some(_) => number.parse::<f64>().ok().and_then(|number| {
                #[expect(clippy::cast_precision_loss, reason = "a fraction of a unit")]
                let part = number * *nanos as f64;
                #[expect(clippy::cast_possible_truncation, reason = "checked before")]
                (part < 9.0e18).then_some(part.round() as i64)
            }),
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
        rest = tail;
    }
    Ok(if negative { -total } else { total })
}

/// A span of time as Go prints it: `1m30s`, `100ms`, `1h0m0s`.
#[must_use]
pub fn span_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let fraction = |value: u64, unit: u64, name: &str| {
        let digits = unit.to_string().len() - 1;
        let rest = format!("{:0digits$}", value % unit);
        let rest = rest.trim_end_matches('0');
        let dot = if rest.is_empty() { "" } else { "." };
        format!("{}{dot}{rest}{name}", value / unit)
    };
    let text = match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(nanos, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(nanos, 1_000_000, "ms"),
        _ => {
            let seconds = nanos / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = fraction(nanos % 60_000_000_000, 1_000_000_000, "s");
            match (hours, minutes) {
                (0, 0) => rest,
                (0, minutes) => format!("{minutes}m{rest}"),
                (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, expect: Option<i64>| assert_eq!(bytes(text).ok(), expect, "{text}");
        check("64m", Some(64 << 20));
        check("1.5g", Some(3 << 29));
        check("1 KiB", Some(1024));
        check("10MB", Some(10 << 20));
        check("5", Some(5));
        check("-1", Some(-1));
        check("12q", None);
        check("", None);
        check("-5", None);
        check("99999999p", None);
    }

    #[test]
    fn spans() {
        let check = |text: &str, expect: &str| assert_eq!(span_text(span(text).unwrap()), expect, "{text}");
        check("90s", "1m30s");
        check("1m30.5s", "1m30.5s");
        check("1h", "1h0m0s");
        check("100ms", "100ms");
        check("1.5ms", "1.5ms");
        check("0", "0s");
        check("1us", "1µs");
        check("-5s", "-5s");
        check("1d", "24h0m0s");
        for bad in ["abc", "5", "", "1x", "1s2", "99999999999h"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn truth_values() {
        assert_eq!((truth("yes"), truth("False")), (Ok(true), Ok(false)));
        assert!(truth("maybe").is_err());
    }
}
