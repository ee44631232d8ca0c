//! `kill`: sends a signal.

use super::flags::{Command, Flag, Order, Parsed};
use super::{Context, Failure, Outcome};
use crate::runtime::life::{self, Whom};

static FLAGS: [Flag; 1] = [Flag::switch("all", "send it to every process of the container").letter('a')];

pub(super) static COMMAND: Command = Command {
    name: "kill",
    usage: "[FLAGS] ID [SIGNAL]",
    about: "send a signal (TERM if none is named) to a container's first process",
    flags: &[&FLAGS],
    order: Order::Mixed,
    arguments: (1, 2),
    failure_code: 1,
    run,
};

/// signal(7), on x86-64 and 64-bit Arm.
static SIGNALS: [(&str, i32); 33] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("XCPU", 24),
    ("XFSZ", 25),
];
const LAST: i32 = 64;
const FIRST_REAL_TIME: i32 = 34;

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    let signal = number(parsed.arguments.get(1).map_or("TERM", String::as_str))?;
    let whom = if parsed.on("all") { Whom::All } else { Whom::First };
    life::kill(&context.root, parsed.id(), signal, whom)?;
    Ok(0)
}

fn number(text: &str) -> Result<i32, Failure> {
    let unknown = || Failure::new(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=LAST).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest.get(1..)?.parse::<i32>().ok() };
    let real_time = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest).map(|above| FIRST_REAL_TIME + above)
    } else {
        name.strip_prefix("RTMAX").and_then(offset).map(|below| LAST - below)
    };
    match real_time.filter(|number| (FIRST_REAL_TIME..=LAST).contains(number)) {
        Some(number) => Ok(number),
        None => SIGNALS.iter().find(|(have, _)| *have == name).map(|(_, number)| *number).ok_or_else(unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, want) in [
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigterm", 15),
            ("9", 9),
            ("0", 0),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(number(text).unwrap(), want, "{text}");
        }
        for bad in ["", "NONE", "65", "-1", "RTMIN+99", "SIGSIGKILL"] {
            number(bad).unwrap_err();
        }
        assert!(SIGNALS.is_sorted());
    }
}
