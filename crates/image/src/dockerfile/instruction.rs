//! One logical line becomes one instruction.

use std::ops::Range;
use std::time::Duration;

use super::ast::{
    Argument, Command, GitDir, Healthcheck, Instruction, Kind, Link, NetworkMode, Parents, Run, SecurityMode, Transfer,
    TransferSource, Unpack,
};
use super::duration;
use super::error::nearest;
use super::fault::{DockerfileError, Fault};
use super::limits;
use super::lines::{Heredoc, Logical, Source, opening};
use super::mount;
use super::words::{self, Flag, List};

/// An instruction's name, its flags, and what reads it.
struct Entry {
    name: &'static str,
    flags: &'static [&'static str],
    read: fn(&mut Line<'_>) -> Result<Parsed, Fault>,
}

/// Every instruction.
const INSTRUCTIONS: [Entry; 18] = [
    Entry {
        name: "ADD",
        flags: &["checksum", "chmod", "chown", "exclude", "keep-git-dir", "link", "unpack"],
        read: |line| Ok(Parsed::Kind(Kind::Add(transfer(line)?))),
    },
    Entry { name: "ARG", flags: &[], read: |line| Ok(Parsed::Kind(Kind::Arg(arguments(line)?))) },
    Entry { name: "CMD", flags: &[], read: |line| Ok(Parsed::Kind(Kind::Cmd(command(line)?))) },
    Entry {
        name: "COPY",
        flags: &["chmod", "chown", "exclude", "from", "link", "parents"],
        read: |line| Ok(Parsed::Kind(Kind::Copy(transfer(line)?))),
    },
    Entry { name: "ENTRYPOINT", flags: &[], read: |line| Ok(Parsed::Kind(Kind::Entrypoint(command(line)?))) },
    Entry { name: "ENV", flags: &[], read: |line| Ok(Parsed::Kind(Kind::Env(pairs(line)?))) },
    Entry { name: "EXPOSE", flags: &[], read: |line| Ok(Parsed::Kind(Kind::Expose(some_words(line)?))) },
    Entry { name: "FROM", flags: &["platform"], read: from },
    Entry {
        name: "HEALTHCHECK",
        flags: &["interval", "retries", "start-interval", "start-period", "timeout"],
        read: healthcheck,
    },
    Entry { name: "LABEL", flags: &[], read: |line| Ok(Parsed::Kind(Kind::Label(pairs(line)?))) },
    Entry { name: "MAINTAINER", flags: &[], read: |line| Ok(Parsed::Kind(Kind::Maintainer(whole(line, "a name")?))) },
    Entry { name: "ONBUILD", flags: &[], read: onbuild },
    Entry { name: "RUN", flags: &["mount", "network", "security"], read: run },
    Entry { name: "SHELL", flags: &[], read: shell },
    Entry {
        name: "STOPSIGNAL",
        flags: &[],
        read: |line| Ok(Parsed::Kind(Kind::StopSignal(whole(line, "a signal's name or number")?))),
    },
    Entry { name: "USER", flags: &[], read: |line| Ok(Parsed::Kind(Kind::User(whole(line, "a user")?))) },
    Entry { name: "VOLUME", flags: &[], read: volume },
    Entry { name: "WORKDIR", flags: &[], read: |line| Ok(Parsed::Kind(Kind::Workdir(whole(line, "a path")?))) },
];

/// An instruction, or the beginning of a stage.
pub(super) enum Parsed {
    Kind(Kind),
    From { base: String, name: Option<String>, platform: Option<String> },
}

/// A line being read, with the place of what is looked at.
struct Line<'a> {
    logical: &'a Logical,
    escape: char,
    name: &'static str,
    flags: Vec<Flag>,
    /// Where the arguments begin.
    from: usize,
    /// What an error is about.
    at: Range<usize>,
    heredocs: Vec<Heredoc>,
    hint: Option<String>,
}

/// Reads one logical line.
///
/// # Errors
/// [`DockerfileError`].
pub(super) fn parse(
    source: &Source,
    logical: &Logical,
    escape: char,
) -> Result<(&'static str, Parsed, Instruction), DockerfileError> {
    let (word, rest) = words::first_word(&logical.text, 0);
    let fail = |at: Range<usize>, fault, hint| {
        let mut error = source.error(logical.span(at.start, at.len()), fault);
        error.hint = hint;
        error
    };
    let written = &logical.text[word.clone()];
    let Some(entry) = INSTRUCTIONS.iter().find(|entry| entry.name.eq_ignore_ascii_case(written)) else {
        let near = nearest(written, INSTRUCTIONS.iter().map(|entry| entry.name));
        let hint = match near {
            Some(name) => format!("did you mean {name}?"),
            None => "a line begins with an instruction such as FROM, RUN or COPY; is the escape character missing at \
                     the end of the line before?"
                .to_owned(),
        };
        return Err(fail(word, Fault::UnknownInstruction { word: written.chars().take(64).collect() }, Some(hint)));
    };
    let (flags, from) = words::flags(logical, rest, escape);
    let mut line = Line {
        logical,
        escape,
        name: entry.name,
        flags,
        from,
        at: rest..logical.text.trim_end().len().max(rest),
        heredocs: logical.heredocs.clone(),
        hint: None,
    };
    if line.at.is_empty() {
        line.at = word;
    }
    let parsed = line.check_flags(entry.flags).and_then(|()| (entry.read)(&mut line));
    let parsed = parsed.map_err(|fault| fail(line.at.clone(), fault, line.hint.take()))?;
    let kind = match &parsed {
        Parsed::Kind(kind) => kind.clone(),
        Parsed::From { .. } => Kind::Env(Vec::new()),
    };
    let span = logical.span(0, logical.text.trim_end().len());
    Ok((entry.name, parsed, Instruction { span, text: logical.text.trim_end().to_owned(), kind }))
}

impl<'a> Line<'a> {
    fn rest(&self) -> &'a str {
        self.logical.text[self.from..].trim_end()
    }

    fn text(&self, range: Range<usize>) -> &'a str {
        &self.logical.text[range]
    }

    fn check_flags(&mut self, known: &[&'static str]) -> Result<(), Fault> {
        for (index, flag) in self.flags.iter().enumerate() {
            self.at = flag.at.clone();
            if !known.contains(&flag.name.as_str()) {
                self.hint = match nearest(&flag.name, known.iter().copied()) {
                    Some(name) => Some(format!("did you mean --{name}?")),
                    None if known.is_empty() => {
                        Some("put -- in front of arguments that begin with two dashes".to_owned())
                    }
                    None => Some(format!("it has: --{}", known.join(" --"))),
                };
                return Err(Fault::UnknownFlag { instruction: self.name, flag: flag.name.clone() });
            }
            let many = ["exclude", "mount"].contains(&flag.name.as_str());
            if !many && self.flags[..index].iter().any(|other| other.name == flag.name) {
                return Err(Fault::FlagTwice { flag: flag.name.clone() });
            }
        }
        self.at = self.from..self.logical.text.trim_end().len().max(self.from);
        Ok(())
    }

    /// The value of a flag that needs one.
    fn flag(&mut self, name: &'static str) -> Result<Option<String>, Fault> {
        let Some(flag) = self.flags.iter().find(|flag| flag.name == name) else { return Ok(None) };
        match &flag.value {
            Some(value) if !value.is_empty() => Ok(Some(value.clone())),
            _ => {
                self.at = flag.at.clone();
                let expected = format!("it needs a value: --{name}=…");
                Err(Fault::FlagValue { flag: name, value: String::new(), expected })
            }
        }
    }

    /// A flag that is there or not; `=true` and `=false` are possible.
    fn switch(&mut self, name: &'static str) -> Result<Option<bool>, Fault> {
        let Some(flag) = self.flags.iter().find(|flag| flag.name == name) else { return Ok(None) };
        match flag.value.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => {
                self.at = flag.at.clone();
                let expected = "true or false".to_owned();
                Err(Fault::FlagValue { flag: name, value: other.to_owned(), expected })
            }
        }
    }

    fn needs(&self, expected: &'static str) -> Fault {
        Fault::Arguments { instruction: self.name, expected }
    }
}

fn whole(line: &mut Line<'_>, expected: &'static str) -> Result<String, Fault> {
    let text = line.rest().to_owned();
    if text.is_empty() { Err(line.needs(expected)) } else { Ok(text) }
}

fn some_words(line: &mut Line<'_>) -> Result<Vec<String>, Fault> {
    let words = words::plain_words(&line.logical.text, line.from);
    if words.is_empty() {
        return Err(line.needs("one argument at least"));
    }
    Ok(words.into_iter().map(|word| line.text(word).to_owned()).collect())
}

/// A JSON list or blank-separated words.
fn list_or_words(line: &mut Line<'_>) -> Result<Vec<String>, Fault> {
    match words::list(line.rest()) {
        List::Texts(texts) => Ok(texts),
        List::Mixed => Err(Fault::NotTexts),
        List::None => {
            let words = words::plain_words(&line.logical.text, line.from);
            Ok(words.into_iter().map(|word| line.text(word).to_owned()).collect())
        }
    }
}

fn command(line: &mut Line<'_>) -> Result<Command, Fault> {
    match words::list(line.rest()) {
        List::Texts(texts) => Ok(Command::Exec(texts)),
        List::Mixed => Err(Fault::NotTexts),
        List::None if line.rest().is_empty() && line.name != "CMD" => Err(line.needs("a command")),
        List::None if line.rest().is_empty() => Ok(Command::Exec(Vec::new())),
        List::None => Ok(Command::Shell(line.rest().to_owned())),
    }
}

/// `A=1 B="2 3"`, or the old form `A rest of the line`.
fn pairs(line: &mut Line<'_>) -> Result<Vec<(String, String)>, Fault> {
    let words = words::quoted_words(&line.logical.text, line.from, line.escape);
    let Some(first) = words.first() else { return Err(line.needs("NAME=value")) };
    if !line.text(first.clone()).contains('=') {
        let name = line.text(first.clone()).to_owned();
        let value = line.logical.text[first.end..].trim();
        if value.is_empty() {
            line.hint = Some(format!("write {} {name}=value", line.name));
            return Err(line.needs("a name and a value"));
        }
        return Ok(vec![(name, value.to_owned())]);
    }
    let mut out = Vec::new();
    for word in words {
        let text = line.text(word.clone());
        line.at = word;
        match text.split_once('=') {
            None => {
                line.hint = Some("put a value that has blanks in it into quotes".to_owned());
                return Err(Fault::NoEquals { word: text.to_owned() });
            }
            Some(("", _)) => return Err(Fault::EmptyName),
            Some((name, value)) => out.push((name.to_owned(), value.to_owned())),
        }
    }
    Ok(out)
}

fn arguments(line: &mut Line<'_>) -> Result<Vec<Argument>, Fault> {
    let words = words::quoted_words(&line.logical.text, line.from, line.escape);
    if words.is_empty() {
        return Err(line.needs("a name, perhaps with a default: NAME=value"));
    }
    let mut out = Vec::new();
    for word in words {
        let text = line.text(word.clone());
        line.at = word;
        let (name, default) = match text.split_once('=') {
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (text, None),
        };
        if name.is_empty() {
            return Err(Fault::EmptyName);
        }
        out.push(Argument { name: name.to_owned(), default });
    }
    Ok(out)
}

fn from(line: &mut Line<'_>) -> Result<Parsed, Fault> {
    let platform = line.flag("platform")?;
    let words = words::plain_words(&line.logical.text, line.from);
    let texts: Vec<&str> = words.iter().map(|word| line.text(word.clone())).collect();
    let (base, name) = match texts[..] {
        [base] => (base, None),
        [base, r#as, name] if r#as.eq_ignore_ascii_case("as") => {
            let lower = name.to_ascii_lowercase();
            let good = lower.starts_with(|c: char| c.is_ascii_lowercase())
                && lower.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
            if !good {
                line.at = words[2].clone();
                line.hint = Some("a letter first, then letters, digits and - _ .".to_owned());
                return Err(Fault::StageName { name: name.to_owned() });
            }
            (base, Some(lower))
        }
        _ => return Err(line.needs("an image or an earlier stage, perhaps with a name: IMAGE AS NAME")),
    };
    Ok(Parsed::From { base: base.to_owned(), name, platform })
}

fn transfer(line: &mut Line<'_>) -> Result<Transfer, Fault> {
    let mut transfer = Transfer {
        from: line.flag("from")?,
        chown: line.flag("chown")?,
        chmod: line.flag("chmod")?,
        checksum: line.flag("checksum")?,
        link: if line.switch("link")? == Some(true) { Link::Yes } else { Link::No },
        parents: if line.switch("parents")? == Some(true) { Parents::Keep } else { Parents::Drop },
        keep_git_dir: if line.switch("keep-git-dir")? == Some(true) { GitDir::Keep } else { GitDir::Drop },
        unpack: line.switch("unpack")?.map(|yes| if yes { Unpack::Yes } else { Unpack::No }),
        ..Transfer::default()
    };
    for flag in line.flags.iter().filter(|flag| flag.name == "exclude") {
        let Some(value) = flag.value.clone().filter(|value| !value.is_empty()) else {
            line.at = flag.at.clone();
            let expected = "it needs a value: --exclude=PATTERN".to_owned();
            return Err(Fault::FlagValue { flag: "exclude", value: String::new(), expected });
        };
        transfer.exclude.push(value);
    }
    let mut heredocs = std::mem::take(&mut line.heredocs).into_iter();
    let mut words = list_or_words(line)?;
    let Some(destination) = words.pop().filter(|_| !words.is_empty()) else {
        line.hint = Some(format!("{} SOURCE… DESTINATION", line.name));
        return Err(line.needs("one source at least and a destination"));
    };
    if opening(&destination).is_some() && heredocs.len() > words.len() {
        return Err(Fault::HeredocPlace { place: "the destination" });
    }
    for word in words {
        let heredoc = if opening(&word).is_some() { heredocs.next() } else { None };
        transfer.sources.push(match heredoc {
            Some(heredoc) => TransferSource::Inline(heredoc),
            None => TransferSource::Path(word),
        });
    }
    if heredocs.next().is_some() {
        return Err(Fault::HeredocPlace { place: "this form of the instruction" });
    }
    transfer.destination = destination;
    Ok(transfer)
}

fn run(line: &mut Line<'_>) -> Result<Parsed, Fault> {
    let mut mounts = Vec::new();
    for flag in line.flags.clone().into_iter().filter(|flag| flag.name == "mount") {
        line.at = flag.at.clone();
        mounts.push(mount::parse(flag.value.as_deref().unwrap_or_default())?);
        if mounts.len() > limits::MOUNTS {
            return Err(Fault::Limit { what: "mounts of one RUN", limit: limits::MOUNTS });
        }
    }
    let one_of = |line: &mut Line<'_>, flag: &'static str, names: &'static [&'static str]| {
        let Some(value) = line.flag(flag)? else { return Ok(None) };
        names.iter().position(|name| *name == value).map(Some).ok_or_else(|| {
            line.at = line.flags.iter().find(|other| other.name == flag).map_or(0..1, |flag| flag.at.clone());
            Fault::FlagValue { flag, value, expected: format!("it is one of {}", names.join(" ")) }
        })
    };
    let network = match one_of(line, "network", &["default", "host", "none"])? {
        Some(1) => NetworkMode::Host,
        Some(2) => NetworkMode::None,
        _ => NetworkMode::Default,
    };
    let security = match one_of(line, "security", &["insecure", "sandbox"])? {
        Some(0) => SecurityMode::Insecure,
        _ => SecurityMode::Sandbox,
    };
    line.at = line.from..line.logical.text.trim_end().len().max(line.from);
    let heredocs = std::mem::take(&mut line.heredocs);
    let command = command(line)?;
    if !heredocs.is_empty() && matches!(command, Command::Exec(_)) {
        return Err(Fault::HeredocPlace { place: "the JSON form of RUN" });
    }
    Ok(Parsed::Kind(Kind::Run(Run { command, heredocs, mounts, network, security })))
}

fn shell(line: &mut Line<'_>) -> Result<Parsed, Fault> {
    match words::list(line.rest()) {
        List::Texts(texts) if !texts.is_empty() => Ok(Parsed::Kind(Kind::Shell(texts))),
        List::Mixed => Err(Fault::NotTexts),
        _ => Err(line.needs("a list in JSON form: [\"/bin/bash\", \"-c\"]")),
    }
}

fn volume(line: &mut Line<'_>) -> Result<Parsed, Fault> {
    let paths = list_or_words(line)?;
    if paths.is_empty() || paths.iter().any(|path| path.trim().is_empty()) {
        return Err(line.needs("one path at least, and none that is empty"));
    }
    Ok(Parsed::Kind(Kind::Volume(paths)))
}

fn healthcheck(line: &mut Line<'_>) -> Result<Parsed, Fault> {
    let (word, after) = words::first_word(&line.logical.text, line.from);
    let kind = line.text(word.clone()).to_ascii_uppercase();
    let mut health = Healthcheck::default();
    match kind.as_str() {
        "NONE" => {
            if !line.logical.text[after..].trim().is_empty() || !line.flags.is_empty() {
                return Err(line.needs("nothing else with NONE"));
            }
            health.test.push(kind);
        }
        "CMD" => {
            line.from = after;
            match command(line)? {
                Command::Exec(words) if !words.is_empty() => {
                    health.test.push(kind);
                    health.test.extend(words);
                }
                Command::Shell(text) if !text.is_empty() => health.test.extend(["CMD-SHELL".to_owned(), text]),
                _ => return Err(line.needs("a command after CMD")),
            }
            health.interval = time(line, "interval")?;
            health.timeout = time(line, "timeout")?;
            health.start_period = time(line, "start-period")?;
            health.start_interval = time(line, "start-interval")?;
            if let Some(value) = line.flag("retries")? {
                let expected = "a number, 0 for the default".to_owned();
                let retries = value.parse().map_err(|_| Fault::FlagValue { flag: "retries", value, expected })?;
                health.retries = Some(retries);
            }
        }
        _ => {
            line.at = word;
            return Err(line.needs("CMD with a command, or NONE"));
        }
    }
    Ok(Parsed::Kind(Kind::Healthcheck(health)))
}

fn time(line: &mut Line<'_>, flag: &'static str) -> Result<Option<Duration>, Fault> {
    let Some(value) = line.flag(flag)? else { return Ok(None) };
    match duration::parse(&value) {
        Some(time) if time.is_zero() || time >= Duration::from_millis(1) => Ok(Some(time)),
        _ => {
            line.at = line.flags.iter().find(|other| other.name == flag).map_or(0..1, |flag| flag.at.clone());
            Err(Fault::FlagValue {
                flag,
                value,
                expected: "a time such as 30s, 1m30s or 500ms, 1ms at least".to_owned(),
            })
        }
    }
}

fn onbuild(line: &mut Line<'_>) -> Result<Parsed, Fault> {
    let (word, _) = words::first_word(&line.logical.text, line.from);
    let name = line.text(word.clone()).to_ascii_uppercase();
    if name.is_empty() {
        return Err(line.needs("an instruction"));
    }
    line.at = word;
    if let Some(forbidden) = ["FROM", "MAINTAINER", "ONBUILD"].into_iter().find(|forbidden| *forbidden == name) {
        return Err(Fault::Trigger { instruction: forbidden });
    }
    if !INSTRUCTIONS.iter().any(|entry| entry.name == name) {
        line.hint =
            nearest(&name, INSTRUCTIONS.iter().map(|entry| entry.name)).map(|near| format!("did you mean {near}?"));
        return Err(Fault::UnknownInstruction { word: name });
    }
    let mut text = line.rest().to_owned();
    for heredoc in std::mem::take(&mut line.heredocs) {
        text.push_str(&format!("\n{}{}", heredoc.contents, heredoc.name));
    }
    Ok(Parsed::Kind(Kind::OnBuild(text)))
}
