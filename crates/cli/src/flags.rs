//! Command lines: what a command takes, and what it was given.
//!
//! Commands and flags are `static` tables, so that starting the program builds nothing. The rules are those that Docker's
//! users know: `--flag value`, `--flag=value`, `-f value`, `-fvalue`, `-itd`, `--switch=false`, `--` ends the flags, and a
//! command that runs a program ends them at its first argument.

use crate::context::Context;
use crate::failure::{Failure, Outcome};

/// What follows a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing, or `=true` and `=false`.
    Switch,
    /// One value, of which the last one given counts; shown under this name.
    Value(&'static str),
    /// A value each time that it is given.
    List(&'static str),
}

/// One flag.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    long: &'static str,
    short: Option<char>,
    kind: Kind,
    help: &'static str,
}

impl Flag {
    pub(crate) const fn switch(long: &'static str, help: &'static str) -> Self {
        Self { long, short: None, kind: Kind::Switch, help }
    }

    pub(crate) const fn value(long: &'static str, name: &'static str, help: &'static str) -> Self {
        Self { long, short: None, kind: Kind::Value(name), help }
    }

    pub(crate) const fn list(long: &'static str, name: &'static str, help: &'static str) -> Self {
        Self { long, short: None, kind: Kind::List(name), help }
    }

    pub(crate) const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }
}

/// Where flags may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Anywhere.
    Mixed,
    /// Before the first argument; what follows belongs to the program that is to be run.
    FlagsFirst,
}

/// What a command does.
#[derive(Debug)]
pub(crate) enum Action {
    /// It runs.
    Run(fn(&Context, &Parsed) -> Outcome),
    /// It is a group of commands.
    Group(&'static [&'static Command]),
    /// It is a group of commands with flags of its own, which stand before the command's name and which the command sees.
    Nested(&'static [&'static Command]),
}

/// One command.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    /// The arguments as shown after the name: `[OPTIONS] IMAGE [COMMAND] [ARG...]`.
    pub(crate) usage: &'static str,
    pub(crate) about: &'static str,
    /// Tables of flags, shared ones among them.
    pub(crate) flags: &'static [&'static [Flag]],
    pub(crate) order: Order,
    /// The least and the greatest number of arguments.
    pub(crate) arguments: (usize, usize),
    pub(crate) action: Action,
    /// The exit code of a command line that cannot be understood, and of the command's own failures.
    pub(crate) failure_code: u8,
}

impl Command {
    /// A command with neither flags nor arguments, to be refined with `..Command::BLANK`.
    pub(crate) const BLANK: Self = Self {
        name: "",
        aliases: &[],
        usage: "",
        about: "",
        flags: &[],
        order: Order::Mixed,
        arguments: (0, 0),
        action: Action::Group(&[]),
        failure_code: 1,
    };

    /// Any number of arguments.
    pub(crate) const MANY: usize = usize::MAX;

    fn all_flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.flags.iter().flat_map(|table| table.iter())
    }

    fn long(&self, name: &str) -> Option<&'static Flag> {
        self.all_flags().find(|flag| flag.long == name)
    }

    fn short(&self, letter: char) -> Option<&'static Flag> {
        self.all_flags().find(|flag| flag.short == Some(letter))
    }

    /// Whether the command answers to `name`.
    pub(crate) fn answers_to(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
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
    pub(crate) fn on(&self, long: &str) -> bool {
        self.value(long) == Some("true")
    }

    /// Whether a switch that is on by default is off.
    pub(crate) fn off(&self, long: &str) -> bool {
        self.value(long) == Some("false")
    }

    /// The last value given.
    pub(crate) fn value(&self, long: &str) -> Option<&str> {
        self.given.iter().rev().find(|(name, _)| *name == long).map(|(_, value)| value.as_str())
    }

    /// All values given, in order.
    pub(crate) fn values<'a>(&'a self, long: &'a str) -> impl Iterator<Item = &'a str> {
        self.given.iter().filter(move |(name, _)| *name == long).map(|(_, value)| value.as_str())
    }

    /// All values given, as owned strings; `None` if there is none.
    pub(crate) fn list(&self, long: &str) -> Option<Vec<String>> {
        let values: Vec<String> = self.values(long).map(str::to_owned).collect();
        (!values.is_empty()).then_some(values)
    }

    /// The value read by `read`, whose complaint is put after the flag's name.
    pub(crate) fn read<T>(&self, long: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Failure> {
        self.value(long).map(|value| read_one(long, value, &read)).transpose()
    }

    /// All values read by `read`; `None` if there is none.
    pub(crate) fn read_list<T>(
        &self,
        long: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<Vec<T>>, Failure> {
        let values = self.values(long).map(|value| read_one(long, value, &read)).collect::<Result<Vec<T>, _>>()?;
        Ok((!values.is_empty()).then_some(values))
    }

    /// Adds what stood before the command's name; what stands behind it wins.
    pub(crate) fn behind(mut self, before: &Self) -> Self {
        self.given.splice(0..0, before.given.iter().cloned());
        self
    }

    /// The first argument; parsing has made sure that it is there.
    pub(crate) fn first(&self) -> &str {
        self.arguments.first().map_or("", String::as_str)
    }
}

fn read_one<T>(long: &str, value: &str, read: &impl Fn(&str) -> Result<T, String>) -> Result<T, Failure> {
    read(value).map_err(|why| Failure::new(format!("bad value {value:?} for --{long}: {why}")))
}

/// Reads what follows a command's name.
///
/// # Errors
/// An unknown flag, a flag without its value, or a wrong number of arguments.
pub(crate) fn parse(command: &Command, words: &[String]) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.arguments.extend(words.by_ref().cloned());
        } else if let Some(long) = word.strip_prefix("--") {
            read_long(command, long, &mut words, &mut parsed)?;
        } else if let Some(letters) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            read_short(command, letters, &mut words, &mut parsed)?;
        } else {
            parsed.arguments.push(word.clone());
            if command.order == Order::FlagsFirst {
                parsed.arguments.extend(words.by_ref().cloned());
            }
        }
        if parsed.help {
            return Ok(parsed);
        }
    }
    let (least, most) = command.arguments;
    let count = parsed.arguments.len();
    if count < least {
        let plural = if least == 1 { "" } else { "s" };
        return Err(format!("needs at least {least} argument{plural}, got {count}"));
    }
    match parsed.arguments.get(most) {
        Some(extra) => Err(format!("unexpected argument {extra:?}")),
        None => Ok(parsed),
    }
}

type Words<'a> = std::slice::Iter<'a, String>;

fn read_long(command: &Command, word: &str, words: &mut Words<'_>, parsed: &mut Parsed) -> Result<(), String> {
    let (name, inline) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (word, None),
    };
    let Some(flag) = command.long(name) else {
        if name == "help" {
            parsed.help = true;
            return Ok(());
        }
        let near = command.all_flags().map(|flag| flag.long).find(|long| distance(long, name) <= 2);
        let hint = near.map(|long| format!("; did you mean --{long}?")).unwrap_or_default();
        return Err(format!("unknown flag --{name}{hint}"));
    };
    let value = match (flag.kind, inline) {
        (Kind::Switch, None) => "true".to_owned(),
        (Kind::Switch, Some(value)) => switch_value(value)
            .ok_or_else(|| format!("bad value {value:?} for --{name}: it is a switch, give =true or =false"))?,
        (_, Some(value)) => value.to_owned(),
        (_, None) => words.next().ok_or_else(|| format!("flag --{name} needs a value"))?.clone(),
    };
    parsed.given.push((flag.long, value));
    Ok(())
}

fn read_short(command: &Command, letters: &str, words: &mut Words<'_>, parsed: &mut Parsed) -> Result<(), String> {
    let mut rest = letters.chars();
    while let Some(letter) = rest.next() {
        let Some(flag) = command.short(letter) else {
            // -h is --hostname for commands that make a container, and help for the others
            if letter == 'h' {
                parsed.help = true;
                return Ok(());
            }
            return Err(format!("unknown flag -{letter} in -{letters}"));
        };
        let tail = rest.as_str();
        if flag.kind == Kind::Switch {
            if let Some(value) = tail.strip_prefix('=') {
                let value = switch_value(value).ok_or_else(|| {
                    format!("bad value {value:?} for -{letter}: it is a switch, give =true or =false")
                })?;
                parsed.given.push((flag.long, value));
                return Ok(());
            }
            parsed.given.push((flag.long, "true".to_owned()));
            continue;
        }
        let value = if tail.is_empty() {
            words.next().ok_or_else(|| format!("flag -{letter} (--{}) needs a value", flag.long))?.clone()
        } else {
            tail.strip_prefix('=').unwrap_or(tail).to_owned()
        };
        parsed.given.push((flag.long, value));
        return Ok(());
    }
    Ok(())
}

fn switch_value(value: &str) -> Option<String> {
    match value {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some("true".to_owned()),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some("false".to_owned()),
        _ => None,
    }
}

/// The number of letters to insert, remove or change to make `left` into `right`.
pub(crate) fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        let mut before = i + 1;
        for (b, cell) in right.iter().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            *cell = (diagonal + usize::from(a != *b)).min(above + 1).min(before + 1);
            diagonal = above;
            before = *cell;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// The help of one command, whose full name is `path`.
pub(crate) fn help(command: &Command, path: &str) -> String {
    let mut text = format!("{}\n\nUsage: {path} {}\n", command.about, command.usage);
    if !command.aliases.is_empty() {
        text.push_str(&format!("\nAlso called: {}\n", command.aliases.join(", ")));
    }
    if let Action::Group(children) | Action::Nested(children) = command.action {
        text.push_str("\nCommands:\n");
        for child in children {
            text.push_str(&format!("  {:<12} {}\n", child.name, child.about));
        }
    }
    if let Action::Group(_) = command.action {
        text.push_str(&format!("\n`{path} COMMAND --help` tells more about one.\n"));
        return text;
    }
    let mut flags: Vec<&Flag> = command.all_flags().collect();
    flags.sort_by_key(|flag| flag.long);
    let lines: Vec<(String, &str)> = flags.iter().map(|flag| (flag_column(flag), flag.help)).collect();
    let width = lines.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    if !lines.is_empty() {
        text.push_str("\nOptions:\n");
    }
    for (left, about) in lines {
        text.push_str(&format!("{left:<width$}   {about}\n"));
    }
    text
}

fn flag_column(flag: &Flag) -> String {
    let short = flag.short.map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
    match flag.kind {
        Kind::Switch => format!("  {short}--{}", flag.long),
        Kind::Value(name) | Kind::List(name) => format!("  {short}--{} {name}", flag.long),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static RUN: Command = Command {
        name: "run",
        usage: "[OPTIONS] IMAGE",
        flags: &[&[
            Flag::switch("interactive", "").short('i'),
            Flag::switch("tty", "").short('t'),
            Flag::switch("rm", ""),
            Flag::value("memory", "BYTES", "").short('m'),
            Flag::value("hostname", "NAME", "").short('h'),
            Flag::list("env", "NAME=VALUE", "").short('e'),
        ]],
        order: Order::FlagsFirst,
        arguments: (1, Command::MANY),
        ..Command::BLANK
    };

    fn parse_words(line: &str) -> Result<Parsed, String> {
        parse(&RUN, &line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_are_read_as_docker_reads_them() {
        let check = |line: &str, memory: Option<&str>, env: &[&str], arguments: &[&str]| {
            let parsed = parse_words(line).unwrap();
            assert_eq!(parsed.value("memory"), memory, "{line}");
            assert_eq!(parsed.values("env").collect::<Vec<_>>(), env, "{line}");
            assert_eq!(parsed.arguments, arguments, "{line}");
        };
        check("-m 512m web", Some("512m"), &[], &["web"]);
        check("-m512m web", Some("512m"), &[], &["web"]);
        check("-m=512m web", Some("512m"), &[], &["web"]);
        check("--memory=512m web ls -m 1", Some("512m"), &[], &["web", "ls", "-m", "1"]);
        check("--memory 1 --memory 2 web", Some("2"), &[], &["web"]);
        check("-e A=1 --env B=2 -eC web --rm", None, &["A=1", "B=2", "C"], &["web", "--rm"]);
        check("-- web -- x", None, &[], &["web", "--", "x"]);
        check("-ite A web", None, &["A"], &["web"]);
    }

    #[test]
    fn switches_combine_and_take_values() {
        let parsed = parse_words("-it --rm=false web").unwrap();
        assert!(parsed.on("interactive") && parsed.on("tty") && !parsed.on("rm") && parsed.off("rm"));
        assert!(!parse_words("-t=false web").unwrap().on("tty"));
        assert_eq!(parse_words("-h box web").unwrap().value("hostname"), Some("box"));
        assert!(parse_words("--help").unwrap().help);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |line: &str, expect: &str| assert_eq!(parse_words(line).unwrap_err(), expect);
        check("--memori 1 web", "unknown flag --memori; did you mean --memory?");
        check("-x web", "unknown flag -x in -x");
        check("--memory", "flag --memory needs a value");
        check("-m", "flag -m (--memory) needs a value");
        check("--rm=maybe web", "bad value \"maybe\" for --rm: it is a switch, give =true or =false");
        check("--rm", "needs at least 1 argument, got 0");
    }

    #[test]
    fn distances() {
        assert_eq!(distance("memory", "memory"), 0);
        assert_eq!(distance("memory", "memroy"), 2);
        assert_eq!(distance("", "abc"), 3);
    }
}
