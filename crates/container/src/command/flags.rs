//! Command lines: the tables of flags, and what was given.
//!
//! The rules are those of runc: `--flag value`, `--flag=value`, the same with one dash, `--switch=false`, `--` ends the flags. Flags
//! may stand behind the arguments, except where a command runs a program of the user's.

use super::{Context, Failure, Outcome};

/// What follows a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing, or `=true` and `=false`.
    Switch,
    /// A value; the last one given counts, or all of them where the command asks for all.
    Value,
}

/// One flag.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) letter: Option<char>,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
}

impl Flag {
    pub(crate) const fn switch(name: &'static str, help: &'static str) -> Self {
        Self { name, letter: None, kind: Kind::Switch, help }
    }

    pub(crate) const fn value(name: &'static str, help: &'static str) -> Self {
        Self { name, letter: None, kind: Kind::Value, help }
    }

    pub(crate) const fn letter(mut self, letter: char) -> Self {
        self.letter = Some(letter);
        self
    }
}

/// Where flags may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Anywhere.
    Mixed,
    /// Before the first argument; what follows is somebody else's.
    FlagsFirst,
}

/// One command.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) usage: &'static str,
    pub(crate) about: &'static str,
    pub(crate) flags: &'static [&'static [Flag]],
    pub(crate) order: Order,
    /// The least and the greatest number of arguments.
    pub(crate) arguments: (usize, usize),
    /// The exit code of its failures.
    pub(crate) failure_code: u8,
    pub(crate) run: fn(&Context, &Parsed) -> Outcome,
}

/// A command line that was understood.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    given: Vec<(&'static str, String)>,
    /// What is not a flag, in order.
    pub(crate) arguments: Vec<String>,
    /// Whether help was asked for.
    pub(crate) help: bool,
}

impl Parsed {
    /// Whether a switch is on.
    pub(crate) fn on(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }

    /// The last value given.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.given.iter().rev().find(|(have, _)| *have == name).map(|(_, value)| value.as_str())
    }

    /// All values given, in order.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.given.iter().filter(move |(have, _)| *have == name).map(|(_, value)| value.as_str())
    }

    /// The last value given, as a number.
    pub(crate) fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, Failure> {
        let parse = |text: &str| {
            text.trim()
                .parse()
                .map_err(|_| Failure::new(format!("invalid value {text:?} for flag --{name}: not a number that fits")))
        };
        self.value(name).filter(|text| !text.is_empty()).map(parse).transpose()
    }

    /// The container's id: the first argument.
    pub(crate) fn id(&self) -> &str {
        self.arguments.first().map_or("", String::as_str)
    }
}

/// Reads flags from the front of `words`, which is left at the first argument with [`Order::FlagsFirst`] and empty otherwise.
///
/// # Errors
/// A flag that is not in `tables`, a value that is missing or is no yes or no.
pub(crate) fn parse(
    tables: &[&'static [Flag]],
    order: Order,
    words: &mut std::iter::Peekable<impl Iterator<Item = String>>,
) -> Result<Parsed, Failure> {
    let mut parsed = Parsed::default();
    while let Some(word) = words.peek() {
        if word == "--" {
            words.next();
            parsed.arguments.extend(words.by_ref());
            break;
        }
        if word.len() < 2 || !word.starts_with('-') {
            if order == Order::FlagsFirst {
                break;
            }
            parsed.arguments.extend(words.next());
            continue;
        }
        let word = words.next().unwrap_or_default();
        let body = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).unwrap_or_default();
        let (name, attached) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
        if matches!(name, "help" | "h") {
            parsed.help = true;
            continue;
        }
        let flag = find(tables, name).ok_or_else(|| Failure::new(format!("flag provided but not defined: -{name}")))?;
        let value = match (flag.kind, attached) {
            (_, Some("")) if flag.kind == Kind::Switch => return Err(not_boolean("", name)),
            (Kind::Switch, None) => "true".to_owned(),
            (Kind::Switch, Some(text)) => truth(text).ok_or_else(|| not_boolean(text, name))?.to_owned(),
            (Kind::Value, Some(text)) => text.to_owned(),
            (Kind::Value, None) => {
                words.next().ok_or_else(|| Failure::new(format!("flag needs an argument: -{name}")))?
            }
        };
        parsed.given.push((flag.name, value));
    }
    Ok(parsed)
}

fn find(tables: &[&'static [Flag]], name: &str) -> Option<&'static Flag> {
    let mut letters = name.chars();
    let letter = letters.next().filter(|_| letters.next().is_none());
    tables
        .iter()
        .flat_map(|table| table.iter())
        .find(|flag| flag.name == name || (letter.is_some() && flag.letter == letter))
}

fn not_boolean(text: &str, name: &str) -> Failure {
    Failure::new(format!("invalid boolean value {text:?} for -{name}: write true or false"))
}

/// The spellings that Go's flag package takes.
fn truth(text: &str) -> Option<&'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some("true"),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some("false"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FLAGS: [Flag; 3] = [
        Flag::value("bundle", "").letter('b'),
        Flag::switch("detach", "").letter('d'),
        Flag::value("env", "").letter('e'),
    ];

    fn check(order: Order, words: &[&str]) -> Result<Parsed, Failure> {
        parse(&[&FLAGS], order, &mut words.iter().map(|word| (*word).to_owned()).peekable())
    }

    #[test]
    fn every_spelling_is_understood() {
        let parsed =
            check(Order::Mixed, &["-b", "/one", "id", "--detach=false", "--bundle=/two", "-e", "A=1", "-env=B"])
                .unwrap();
        assert_eq!((parsed.value("bundle"), parsed.on("detach"), parsed.id()), (Some("/two"), false, "id"));
        assert_eq!(parsed.values("env").collect::<Vec<_>>(), ["A=1", "B"]);
        let parsed = check(Order::Mixed, &["--detach", "--", "--bundle"]).unwrap();
        assert_eq!((parsed.on("detach"), parsed.id()), (true, "--bundle"));
    }

    #[test]
    fn a_program_keeps_its_flags() {
        let words = ["-d", "id", "sh", "-e"].map(str::to_owned);
        let mut words = words.into_iter().peekable();
        let parsed = parse(&[&FLAGS], Order::FlagsFirst, &mut words).unwrap();
        assert!(parsed.on("detach"));
        assert_eq!(words.collect::<Vec<_>>(), ["id", "sh", "-e"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [&["--nothing"][..], &["--bundle"], &["--detach=maybe"], &["-x"]] {
            check(Order::Mixed, words).unwrap_err();
        }
    }
}
