//! Checks: what is no mistake in a Dockerfile and is better written otherwise. Here are those that look at the text alone;
//! [`crate::build::check`] has those that know values, images and files.
//!
//! # Source
//! Docker's documentation, "Build checks": the names, what each means, and `# check=`.

use std::collections::{BTreeMap, BTreeSet};

use super::ast::{Argument, Command, Dockerfile, Instruction, Kind};
use super::error::Span;
use super::instruction::{self, Parsed};
use super::lines::{Logical, Source};
use super::words;

/// A check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// Instructions are written in capitals, or none is.
    ConsistentInstructionCasing,
    /// What is copied is not left out by `.dockerignore`.
    CopyIgnoredFile,
    /// No two stages have one name.
    DuplicateStageName,
    /// EXPOSE has no addresses and no ports of the host.
    ExposeInvalidFormat,
    /// Protocols are written small.
    ExposeProtoCasing,
    /// FROM and AS are written alike.
    FromAsCasing,
    /// A platform is not written into the file.
    FromPlatformFlagConstDisallowed,
    /// FROM has an image without any arguments given.
    InvalidDefaultArgInFrom,
    /// A comment above an ARG or a stage describes it by its name.
    InvalidDefinitionDescription,
    /// Programs are started without a shell.
    JSONArgsRecommended,
    /// ENV and LABEL have an equals sign.
    LegacyKeyValueFormat,
    /// MAINTAINER has given way to LABEL.
    MaintainerDeprecated,
    /// Of CMD, ENTRYPOINT and HEALTHCHECK only the last counts.
    MultipleInstructionsDisallowed,
    /// No empty line continues an instruction.
    NoEmptyContinuation,
    /// FROM is for the wanted platform without a word.
    RedundantTargetPlatform,
    /// Some names of stages mean something already.
    ReservedStageName,
    /// Secrets are given by mounts.
    SecretsUsedInArgOrEnv,
    /// Stages' names are written small.
    StageNameCasing,
    /// What FROM uses is declared above it.
    UndefinedArgInFrom,
    /// What an instruction uses is declared above it.
    UndefinedVar,
    /// The first WORKDIR does not depend on the base image's.
    WorkdirRelativePath,
}

/// Every check with what it asks for, in the order of their names.
const CHECKS: [(Check, &str); 21] = [
    (Check::ConsistentInstructionCasing, "write all instructions in capitals, or none"),
    (Check::CopyIgnoredFile, "what .dockerignore leaves out cannot be copied"),
    (Check::DuplicateStageName, "give each stage a name of its own"),
    (
        Check::ExposeInvalidFormat,
        "EXPOSE takes the container's ports alone; addresses and the host's ports count nothing",
    ),
    (Check::ExposeProtoCasing, "write protocols in small letters"),
    (Check::FromAsCasing, "write FROM and AS alike"),
    (Check::FromPlatformFlagConstDisallowed, "let whoever builds choose the platform"),
    (Check::InvalidDefaultArgInFrom, "give the arguments of FROM defaults that make an image's name"),
    (Check::InvalidDefinitionDescription, "a comment right above a stage or argument begins with its name"),
    (Check::JSONArgsRecommended, "a program in JSON form gets signals itself; a shell before it does not hand them on"),
    (Check::LegacyKeyValueFormat, "write NAME=value; NAME value is the old form"),
    (Check::MaintainerDeprecated, "MAINTAINER is the old form of LABEL org.opencontainers.image.authors"),
    (Check::MultipleInstructionsDisallowed, "only the last one of a stage counts"),
    (Check::NoEmptyContinuation, "an empty line within an instruction will become an error"),
    (Check::RedundantTargetPlatform, "a stage is for the wanted platform in any case"),
    (Check::ReservedStageName, "this name means something else already"),
    (Check::SecretsUsedInArgOrEnv, "values of ARG and ENV stay in the image; give secrets by RUN --mount=type=secret"),
    (Check::StageNameCasing, "write stages' names in small letters"),
    (Check::UndefinedArgInFrom, "declare by ARG, above the first FROM, what FROM uses"),
    (Check::UndefinedVar, "declare by ARG or ENV what is used"),
    (Check::WorkdirRelativePath, "a first WORKDIR without a leading slash depends on the base image's folder"),
];

impl Check {
    /// What it is called.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// What it asks for.
    #[must_use]
    pub fn about(self) -> &'static str {
        CHECKS.iter().find(|(check, _)| *check == self).map_or("", |(_, about)| about)
    }

    /// Where Docker's documentation tells of it.
    #[must_use]
    pub fn url(self) -> String {
        let mut out = String::from("https://docs.docker.com/go/dockerfile/rule/");
        let name: Vec<char> = self.name().chars().collect();
        for (at, letter) in name.iter().enumerate() {
            let small = |at: usize| name.get(at).is_some_and(char::is_ascii_lowercase);
            // a word begins with a capital, or is one of capitals
            if at > 0 && letter.is_ascii_uppercase() && (small(at - 1) || small(at + 1)) {
                out.push('-');
            }
            out.push(letter.to_ascii_lowercase());
        }
        out.push('/');
        out
    }

    /// Whether it is made only where somebody asks for it.
    fn is_on_trial(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// Where.
    pub span: Span,
    /// Which.
    pub check: Check,
    /// What is there.
    pub detail: String,
}

impl Remark {
    /// All of it on one line, as clients show it.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{}: {} (line {})", self.check.name(), self.detail, self.span.line)
    }
}

/// Which checks are made, and what becomes of a build in which they find something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    skip: Names,
    on_trial: Names,
    /// The build fails then.
    pub fails: bool,
}

/// Checks by their names in small letters.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    All,
    These(BTreeSet<String>),
}

impl Default for Names {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Names {
    fn read(list: &str) -> Self {
        match list.trim() {
            all if all.eq_ignore_ascii_case("all") => Self::All,
            list => Self::These(list.split(',').map(|name| name.trim().to_ascii_lowercase()).collect()),
        }
    }

    fn has(&self, check: Check) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(&check.name().to_ascii_lowercase()),
        }
    }
}

impl Settings {
    /// Reads what stands behind `# check=`: `skip=NAMES;error=true;experimental=NAMES`.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut out = Self::default();
        for field in text.split(';').map(str::trim).filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            match (name.trim(), value.trim()) {
                ("skip", names) => out.skip = Names::read(names),
                ("experimental", names) => out.on_trial = Names::read(names),
                ("error", "true" | "1") => out.fails = true,
                ("error", "false" | "0") => out.fails = false,
                ("error", other) => return Err(format!("error is true or false, not {other:?}")),
                (other, _) => return Err(format!("no field {other:?}; there are error, experimental and skip")),
            }
        }
        Ok(out)
    }

    /// Whether a check is made.
    #[must_use]
    pub fn wants(&self, check: Check) -> bool {
        !self.skip.has(check) && (!check.is_on_trial() || self.on_trial.has(check))
    }
}

impl Dockerfile {
    /// What the checks that look at the text find; all of them, in the file's order.
    #[must_use]
    pub fn remarks(&self) -> Vec<Remark> {
        let mut walk = Walk::new(&self.source);
        // it was read once already
        let skip = self.source.directives().map_or(0, |(_, skip)| skip);
        for logical in self.source.logical(skip, self.directives.escape).unwrap_or_default() {
            if let Ok((name, parsed, instruction)) = instruction::parse(&self.source, &logical, self.directives.escape)
            {
                walk.instruction(&logical, name, &parsed, &instruction, self.directives.escape);
            }
        }
        walk.casing();
        walk.out.sort();
        walk.out
    }
}

/// Walks over a file.
struct Walk<'a> {
    source: &'a Source,
    out: Vec<Remark>,
    /// Each instruction as it is written.
    written: Vec<(String, Span)>,
    /// The stages' names, and whether a shell is chosen in them.
    stages: Vec<(Option<String>, bool)>,
    /// The last of each instruction of which only one counts, in the present stage.
    once: BTreeMap<&'static str, Span>,
}

fn is_upper(word: &str) -> bool {
    word.chars().all(|letter| !letter.is_ascii_lowercase())
}

fn is_lower(word: &str) -> bool {
    word.chars().all(|letter| !letter.is_ascii_uppercase())
}

impl<'a> Walk<'a> {
    fn new(source: &'a Source) -> Self {
        Self { source, out: Vec::new(), written: Vec::new(), stages: Vec::new(), once: BTreeMap::new() }
    }

    fn say(&mut self, check: Check, span: Span, detail: impl Into<String>) {
        self.out.push(Remark { span, check, detail: detail.into() });
    }

    fn instruction(
        &mut self,
        logical: &Logical,
        name: &'static str,
        parsed: &Parsed,
        instruction: &Instruction,
        escape: char,
    ) {
        let span = instruction.span;
        let (word, rest) = words::first_word(&logical.text, 0);
        let written = &logical.text[word];
        let (_, from) = words::flags(logical, rest, escape);
        if let Some(line) = logical.gap {
            let place = Span { line, column: 1, width: 1, last_line: line };
            self.say(Check::NoEmptyContinuation, place, format!("an empty line continues {written}"));
        }
        match parsed {
            Parsed::From { base, platform, .. } => {
                self.from(logical, span, (written, from), base, platform.as_deref());
            }
            Parsed::Kind(kind) => self.kind(kind, (logical, from, escape), name, span),
        }
        if !self.stages.is_empty() {
            self.written.push((written.to_owned(), span));
        }
    }

    fn from(
        &mut self,
        logical: &Logical,
        span: Span,
        (written, from): (&str, usize),
        base: &str,
        platform: Option<&str>,
    ) {
        let words: Vec<&str> =
            words::plain_words(&logical.text, from).into_iter().map(|word| &logical.text[word]).collect();
        let mut lower = None;
        if let [_, r#as, name] = words[..] {
            self.describe(span, name);
            let alike = (is_upper(written) && is_upper(r#as)) || (is_lower(written) && is_lower(r#as));
            if !alike {
                self.say(Check::FromAsCasing, span, format!("{written} and {as} are written differently"));
            }
            let small = name.to_ascii_lowercase();
            if small != name {
                self.say(Check::StageNameCasing, span, format!("the stage {name:?} has capitals"));
            }
            if ["context", "scratch"].contains(&small.as_str()) {
                self.say(Check::ReservedStageName, span, format!("no stage should be called {name:?}"));
            }
            if self.stages.iter().any(|(known, _)| known.as_ref() == Some(&small)) {
                self.say(Check::DuplicateStageName, span, format!("there is a stage {name:?} already"));
            }
            lower = Some(small);
        }
        match platform {
            Some(text @ ("$TARGETPLATFORM" | "${TARGETPLATFORM}")) => {
                self.say(Check::RedundantTargetPlatform, span, format!("--platform={text} says what is so without it"));
            }
            Some(text) if !text.contains('$') => {
                let parts: Vec<&str> = text.split('/').collect();
                // a stage that is called after its platform means it
                let meant = lower.as_ref().is_some_and(|name| parts.iter().any(|part| name.contains(part)));
                if !meant {
                    let detail = format!("the platform {text:?} is fixed");
                    self.say(Check::FromPlatformFlagConstDisallowed, span, detail);
                }
            }
            _ => {}
        }
        let base = base.to_ascii_lowercase();
        let shell =
            self.stages.iter().rev().find(|(name, _)| name.as_ref() == Some(&base)).is_some_and(|known| known.1);
        self.stages.push((lower, shell));
        self.once.clear();
    }

    fn kind(&mut self, kind: &Kind, (logical, from, escape): (&Logical, usize, char), name: &'static str, span: Span) {
        match kind {
            Kind::Arg(names) => {
                for Argument { name: argument, .. } in names {
                    self.describe(span, argument);
                    self.secret("ARG", argument, span);
                }
            }
            Kind::Env(pairs) => {
                self.old_form(logical, from, escape, name, span);
                pairs.iter().for_each(|(variable, _)| self.secret("ENV", variable, span));
            }
            Kind::Label(_) => self.old_form(logical, from, escape, name, span),
            Kind::Maintainer(_) => self.say(Check::MaintainerDeprecated, span, "MAINTAINER is the old form of a label"),
            Kind::Expose(words) => self.ports(words, span),
            Kind::Shell(_) => {
                if let Some((_, shell)) = self.stages.last_mut() {
                    *shell = true;
                }
            }
            Kind::Cmd(command) | Kind::Entrypoint(command) => {
                self.once(name, span);
                let shell = self.stages.last().is_some_and(|(_, shell)| *shell);
                if matches!(command, Command::Shell(_)) && !shell {
                    self.say(
                        Check::JSONArgsRecommended,
                        span,
                        format!("{name} is run by a shell, which gets its signals"),
                    );
                }
            }
            Kind::Healthcheck(_) => self.once(name, span),
            _ => {}
        }
    }

    /// An instruction of which only the last one counts.
    fn once(&mut self, name: &'static str, span: Span) {
        if let Some(earlier) = self.once.insert(name, span) {
            let detail = format!("this {name} counts nothing: line {} has another one", span.line);
            self.say(Check::MultipleInstructionsDisallowed, earlier, detail);
        }
    }

    fn old_form(&mut self, logical: &Logical, from: usize, escape: char, name: &str, span: Span) {
        let first = words::quoted_words(&logical.text, from, escape).into_iter().next();
        if let Some(word) = first.map(|word| &logical.text[word]).filter(|word| !word.contains('=')) {
            self.say(Check::LegacyKeyValueFormat, span, format!("{name} {word} has no equals sign"));
        }
    }

    fn ports(&mut self, words: &[String], span: Span) {
        for word in words {
            let (numbers, protocol) = word.split_once('/').unwrap_or((word, ""));
            if numbers.contains(':') && !numbers.contains('$') {
                self.say(Check::ExposeInvalidFormat, span, format!("{word:?} has more than the container's port"));
            }
            if !is_lower(protocol) && !protocol.contains('$') {
                self.say(Check::ExposeProtoCasing, span, format!("the protocol of {word:?} has capitals"));
            }
        }
    }

    /// Names that are those of secrets.
    fn secret(&mut self, instruction: &str, name: &str, span: Span) {
        const SECRET: [&str; 10] =
            ["apikey", "auth", "credential", "credentials", "key", "passwd", "password", "pword", "secret", "token"];
        let lower = name.to_ascii_lowercase();
        let words: Vec<&str> = lower.split('_').collect();
        if words.iter().any(|word| SECRET.contains(word)) && !words.contains(&"public") {
            self.say(Check::SecretsUsedInArgOrEnv, span, format!("{instruction} {name} looks like a secret"));
        }
    }

    /// A comment right above is about this name.
    fn describe(&mut self, span: Span, name: &str) {
        let Some(above) = span.line.checked_sub(1).filter(|line| *line > 0) else { return };
        let place = Span { line: above, column: 1, width: 1, last_line: above };
        let text = self.source.place(place).text;
        let Some(comment) = text.trim_start().strip_prefix('#') else { return };
        let first = comment.split_whitespace().next().unwrap_or_default();
        let directive = ["check=", "escape=", "syntax="].iter().any(|word| comment.trim_start().starts_with(word));
        if !directive && !first.eq_ignore_ascii_case(name) {
            let detail = format!("the comment above does not begin with {name:?}; an empty line would set it apart");
            self.say(Check::InvalidDefinitionDescription, span, detail);
        }
    }

    /// Instructions that are written otherwise than most.
    fn casing(&mut self) {
        let lower = self.written.iter().filter(|(word, _)| is_lower(word)).count();
        let upper = self.written.iter().filter(|(word, _)| is_upper(word)).count();
        let (most, fits): (_, fn(&str) -> bool) = match lower > upper {
            true => ("small letters", is_lower),
            false => ("capitals", is_upper),
        };
        for (word, span) in std::mem::take(&mut self.written) {
            if !fits(&word) {
                let detail = format!("{word} is not in {most}, as most instructions are");
                self.say(Check::ConsistentInstructionCasing, span, detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[(Check, u32)]) {
        let file = Dockerfile::parse("Dockerfile", text.as_bytes()).unwrap();
        let found: Vec<(Check, u32)> = file.remarks().iter().map(|one| (one.check, one.span.line)).collect();
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn texts_are_looked_over() {
        use Check::*;
        check("FROM a AS b\nCMD [\"x\"]\n", &[]);
        check("FROM a as b\n", &[(FromAsCasing, 1)]);
        check("from a as b\nrun x\nCOPY a b\n", &[(ConsistentInstructionCasing, 3)]);
        check("FROM a\nRun x\n", &[(ConsistentInstructionCasing, 2)]);
        check("FROM a AS B\nFROM a AS b\n", &[(StageNameCasing, 1), (DuplicateStageName, 2)]);
        check("FROM a AS scratch\n", &[(ReservedStageName, 1)]);
        check(
            "FROM a\nMAINTAINER me\nENV A b\nLABEL a b\nENV A=b\n",
            &[(MaintainerDeprecated, 2), (LegacyKeyValueFormat, 3), (LegacyKeyValueFormat, 4)],
        );
        check("FROM a\nCMD x\nCMD [\"y\"]\n", &[(JSONArgsRecommended, 2), (MultipleInstructionsDisallowed, 2)]);
        check("FROM a AS s\nSHELL [\"/x\"]\nCMD x\nFROM s\nENTRYPOINT y\n", &[]);
        check("FROM a\nRUN x && \\\n\n  # fine\n  y\nRUN z \\\n", &[(NoEmptyContinuation, 3)]);
        check("FROM a\nEXPOSE 80/TCP 127.0.0.1:1:2 53/$P\n", &[(ExposeInvalidFormat, 2), (ExposeProtoCasing, 2)]);
        check(
            "FROM --platform=$TARGETPLATFORM a\nFROM --platform=linux/arm64 a\n",
            &[(RedundantTargetPlatform, 1), (FromPlatformFlagConstDisallowed, 2)],
        );
        check("FROM --platform=linux/arm64 a AS build_arm64\nFROM --platform=$BUILDPLATFORM a\n", &[]);
        check(
            "ARG API_TOKEN\nFROM a\nENV PUBLIC_KEY=1 KEYBOARD=us DB_PASSWORD=x\n",
            &[(SecretsUsedInArgOrEnv, 1), (SecretsUsedInArgOrEnv, 3)],
        );
        check("# bee is the base\nARG bee\n# another\nFROM a AS b\n", &[(InvalidDefinitionDescription, 4)]);
    }

    #[test]
    fn settings_choose() {
        let settings = Settings::read("skip=StageNameCasing, fromascasing;error=true").unwrap();
        assert!(settings.fails && settings.wants(Check::UndefinedVar));
        assert!(!settings.wants(Check::StageNameCasing) && !settings.wants(Check::FromAsCasing));
        assert!(!settings.wants(Check::InvalidDefinitionDescription));
        assert!(Settings::read("experimental=all").unwrap().wants(Check::InvalidDefinitionDescription));
        assert!(!Settings::read("skip=all").unwrap().wants(Check::UndefinedVar));
        assert!(Settings::read("error=perhaps").is_err() && Settings::read("skp=all").is_err());
    }

    #[test]
    fn checks_have_names_and_pages() {
        let page = |check: Check| check.url().trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        assert_eq!(page(Check::JSONArgsRecommended), "json-args-recommended");
        assert_eq!(page(Check::SecretsUsedInArgOrEnv), "secrets-used-in-arg-or-env");
        assert!(CHECKS.is_sorted() && CHECKS.iter().all(|(check, about)| check.about() == *about));
    }
}
