//! Signals by name and number.

use crate::error::{EngineError, Result};

const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// SIGKILL.
pub(crate) const KILL: i32 = 9;
const REALTIME_FIRST: i32 = 34;
const REALTIME_LAST: i32 = 64;

/// The number of `TERM`, `sigterm`, `15`, `RTMIN+3`.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`] for what is no signal.
pub(crate) fn number(signal: &str) -> Result<i32> {
    let bad = || EngineError::invalid(format!("Invalid signal: {signal}"));
    if let Ok(number) = signal.parse::<i32>() {
        return if (1..=REALTIME_LAST).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = signal.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(name, _)| *name == bare) {
        return Ok(*number);
    }
    let offset = |text: &str, sign: char| -> Option<i32> {
        if text.is_empty() { Some(0) } else { text.strip_prefix(sign)?.parse().ok() }
    };
    let realtime = match (bare.strip_prefix("RTMIN"), bare.strip_prefix("RTMAX")) {
        (Some(rest), _) => offset(rest, '+').map(|up| REALTIME_FIRST + up),
        (_, Some(rest)) => offset(rest, '-').map(|down| REALTIME_LAST - down),
        _ => None,
    };
    realtime.filter(|number| (REALTIME_FIRST..=REALTIME_LAST).contains(number)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn names_and_numbers() {
        for (text, want) in
            [("TERM", 15), ("sigterm", 15), ("9", 9), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)]
        {
            assert_eq!(number(text).ok(), Some(want), "{text}");
        }
        for bad in ["", "0", "65", "-1", "NOPE", "SIG", "RTMIN+99", "RTMAX-x"] {
            assert!(number(bad).is_err(), "{bad}");
        }
    }
}
