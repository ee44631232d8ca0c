//! The checks of a Dockerfile that know arguments, images and what is left out of the context; with those of
//! [`crate::dockerfile::Check`] that look at the text.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use oci::reference::Reference;

use super::archive::remote;
use super::config::DEFAULT_PATH;
use super::graph::{ImageRequest, Images, Options, globals};
use super::ignore::{Ignore, clean};
use super::stage::is_predefined;
use crate::dockerfile::error::nearest;
use crate::dockerfile::{
    Argument, Check, Dockerfile, Expander, Instruction, Kind, Remark, Settings, Span, Stage, Transfer, TransferSource,
    Variables,
};

/// The argument by which whoever builds chooses checks.
const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";
/// How many lines a report shows above and below a place.
const AROUND: u32 = 2;

/// What the checks of a file have found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// In the file's order.
    pub remarks: Vec<Remark>,
    /// A build with remarks fails.
    pub fails: bool,
}

/// Checks a file. Images that are not among `images` count as if they had any variable; without `ignore`, nothing is left out.
///
/// # Errors
/// When it cannot be read which checks are wanted.
pub fn check(
    file: &Dockerfile,
    options: &Options,
    images: &Images,
    ignore: Option<&Ignore>,
) -> Result<Checked, String> {
    let wanted = options.arguments.get(ARGUMENT).or(file.directives.check.as_ref());
    let settings = Settings::read(wanted.map_or("", String::as_str)).map_err(|why| format!("check: {why}"))?;
    let mut walk = Walk { file, options, images, ignore, out: file.remarks(), scopes: Vec::new() };
    walk.globals();
    for (index, stage) in file.stages.iter().enumerate() {
        walk.stage(index, stage);
    }
    let mut remarks = walk.out;
    remarks.retain(|remark| settings.wants(remark.check));
    remarks.sort();
    remarks.dedup();
    Ok(Checked { remarks, fails: settings.fails })
}

impl Checked {
    /// Why a build with these remarks fails, if it does.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        if !self.fails || self.remarks.is_empty() {
            return None;
        }
        let names: BTreeSet<String> = self.remarks.iter().map(|remark| remark.check.name()).collect();
        let names: Vec<String> = names.into_iter().collect();
        Some(format!(
            "the Dockerfile asks for checks without remarks (check=error=true), and there are: {}",
            names.join(", ")
        ))
    }

    /// The remarks for people, with the lines that they are about.
    #[must_use]
    pub fn report(&self, file: &Dockerfile) -> String {
        let mut out = String::new();
        for Remark { span, check, detail } in &self.remarks {
            // writing to a string does not fail
            let _ = writeln!(out, "\nWARNING: {} - {}\n{}: {detail}", check.name(), check.url(), check.about());
            let shown = |line: u32| file.place(Span { line, column: 1, width: 1, last_line: line });
            let _ = writeln!(out, "{}:{}\n--------------------", shown(span.line).file, span.line);
            let last = span.last_line.max(span.line);
            for line in span.line.saturating_sub(AROUND).max(1)..=(last + AROUND).min(file.lines()) {
                let mark = if (span.line..=last).contains(&line) { ">>>" } else { "   " };
                let _ = writeln!(out, "{line:4} | {mark} {}", shown(line).text);
            }
            out.push_str("--------------------\n");
        }
        out
    }
}

/// What is known at a place of the file.
#[derive(Debug, Clone, Default)]
struct Scope {
    values: BTreeMap<String, String>,
    /// Names of ARG, with or without a value.
    declared: BTreeSet<String>,
    /// The base is not known: any name may have a value.
    is_open: bool,
    /// There is a WORKDIR already.
    has_workdir: bool,
}

/// Values, and the names that were asked for in vain.
struct Noting<'a> {
    scope: &'a Scope,
    missed: RefCell<BTreeSet<String>>,
}

impl Variables for Noting<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        self.scope.values.get(name).map(String::as_str)
    }

    fn missed(&self, name: &str) {
        // the shell's own, such as $1 and $@, are nobody's
        if name.starts_with(|letter: char| letter.is_alphabetic() || letter == '_') {
            self.missed.borrow_mut().insert(name.to_owned());
        }
    }
}

struct Walk<'a> {
    file: &'a Dockerfile,
    options: &'a Options,
    images: &'a Images,
    ignore: Option<&'a Ignore>,
    out: Vec<Remark>,
    /// What each stage so far ends with.
    scopes: Vec<Scope>,
}

impl Walk<'_> {
    fn say(&mut self, check: Check, span: Span, detail: String) {
        self.out.push(Remark { span, check, detail });
    }

    /// A word's value, and the names in it that are not set. What cannot be expanded is an error of the build.
    fn expand(&self, scope: &Scope, word: &str) -> (String, BTreeSet<String>) {
        let noting = Noting { scope, missed: RefCell::default() };
        let value = Expander::new(&noting, self.file.directives.escape).word(word).unwrap_or_default();
        (value, noting.missed.into_inner())
    }

    fn word(&mut self, scope: &Scope, word: &str, span: Span) -> String {
        let (value, missed) = self.expand(scope, word);
        if !scope.is_open {
            for name in missed.iter().filter(|name| !scope.declared.contains(*name)) {
                let detail = undeclared("$", name, scope);
                self.say(Check::UndefinedVar, span, detail);
            }
        }
        value
    }

    /// FROM's arguments as they are without anything given, and as they are now.
    fn globals(&mut self) {
        let plain = Options { arguments: BTreeMap::new(), ..self.options.clone() };
        let (Ok(defaults), Ok(values)) = (globals(self.file, &plain), globals(self.file, self.options)) else { return };
        let names = self.file.globals.iter().flat_map(|global| &global.names).map(|one| one.name.clone());
        let declared: BTreeSet<String> = names.collect();
        let known = |values| Scope { values, declared: declared.clone(), ..Scope::default() };
        let (defaults, values) = (known(defaults), known(values));
        for stage in &self.file.stages {
            for text in [Some(&stage.base), stage.platform.as_ref()].into_iter().flatten() {
                let (_, missed) = self.expand(&values, text);
                for name in missed.iter().filter(|name| !declared.contains(*name)) {
                    self.say(Check::UndefinedArgInFrom, stage.span, undeclared("", name, &values));
                }
            }
            let (base, missed) = self.expand(&defaults, &stage.base);
            let is_declared = missed.iter().all(|name| declared.contains(name));
            if is_declared && stage.base.contains('$') && base != "scratch" && base.parse::<Reference>().is_err() {
                let detail = format!("without arguments, FROM {} names no image: {base:?}", stage.base);
                self.say(Check::InvalidDefaultArgInFrom, stage.span, detail);
            }
        }
    }

    fn stage(&mut self, index: usize, stage: &Stage) {
        let mut scope = self.begin(index, stage);
        for Instruction { span, kind, .. } in &stage.instructions {
            self.instruction(&mut scope, kind, *span);
        }
        self.scopes.push(scope);
    }

    /// What a stage begins with.
    fn begin(&self, index: usize, stage: &Stage) -> Scope {
        let open = Scope { is_open: true, ..Scope::default() };
        let Ok(values) = globals(self.file, self.options) else { return open };
        let globals = Scope { values, ..Scope::default() };
        let (name, _) = self.expand(&globals, &stage.base);
        let lower = name.to_ascii_lowercase();
        let earlier = self.file.stages[..index].iter().rposition(|stage| stage.name.as_ref() == Some(&lower));
        let platform = stage.platform.as_ref().and_then(|text| self.expand(&globals, text).0.parse().ok());
        let platform = platform.unwrap_or_else(|| self.options.platform.clone());
        if self.options.named(&name, &platform).is_some() {
            return open;
        }
        if let Some(earlier) = earlier {
            return self.scopes[earlier].clone();
        }
        let mut scope = Scope::default();
        scope.values.insert("PATH".to_owned(), DEFAULT_PATH.to_owned());
        if name == "scratch" {
            return scope;
        }
        match self.images.get(&ImageRequest { name, platform }) {
            Some(image) => {
                let env = image.spec.config.env.iter().filter_map(|entry| entry.split_once('='));
                scope.values.extend(env.map(|(name, value)| (name.to_owned(), value.to_owned())));
                scope
            }
            None => open,
        }
    }

    fn instruction(&mut self, scope: &mut Scope, kind: &Kind, span: Span) {
        match kind {
            Kind::Add(transfer) => self.transfer(scope, transfer, "ADD", span),
            Kind::Copy(transfer) => self.transfer(scope, transfer, "COPY", span),
            Kind::Arg(names) => names.iter().for_each(|argument| self.argument(scope, argument, span)),
            Kind::Env(pairs) => {
                // all of them see what was there before
                let before = scope.clone();
                for (name, value) in pairs {
                    let (name, value) = (self.word(&before, name, span), self.word(&before, value, span));
                    scope.values.insert(name, value);
                }
            }
            Kind::Label(pairs) => pairs.iter().for_each(|(name, value)| {
                self.word(scope, name, span);
                self.word(scope, value, span);
            }),
            Kind::Expose(words) | Kind::Volume(words) => words.iter().for_each(|word| {
                self.word(scope, word, span);
            }),
            Kind::StopSignal(word) | Kind::User(word) => drop(self.word(scope, word, span)),
            Kind::Workdir(path) => {
                let path = self.word(scope, path, span);
                if !scope.has_workdir && !path.starts_with('/') {
                    let detail = format!("{path:?} is below whatever folder the base image has");
                    self.say(Check::WorkdirRelativePath, span, detail);
                }
                scope.has_workdir = true;
            }
            _ => {}
        }
    }

    fn argument(&mut self, scope: &mut Scope, Argument { name, default }: &Argument, span: Span) {
        let default = default.as_ref().map(|word| self.word(scope, word, span));
        let globals = || globals(self.file, self.options).ok().and_then(|mut all| all.remove(name));
        let value = self.options.arguments.get(name).cloned().or(default).or_else(globals);
        scope.declared.insert(name.clone());
        scope.values.extend(value.map(|value| (name.clone(), value)));
    }

    fn transfer(&mut self, scope: &Scope, transfer: &Transfer, name: &str, span: Span) {
        let flags = [&transfer.chown, &transfer.chmod].into_iter().flatten();
        for word in flags.chain([&transfer.destination]) {
            self.word(scope, word, span);
        }
        for source in &transfer.sources {
            let TransferSource::Path(word) = source else { continue };
            let path = self.word(scope, word, span);
            let path = clean(path.trim_start_matches('/'));
            let is_given = transfer.from.is_none() && remote(word).is_none();
            if is_given && path != "." && self.ignore.is_some_and(|ignore| ignore.excludes(&path)) {
                let detail = format!("{name} of {path:?}, which .dockerignore leaves out");
                self.say(Check::CopyIgnoredFile, span, detail);
            }
        }
    }
}

/// That a name is not declared, and which one may be meant.
fn undeclared(sign: &str, name: &str, scope: &Scope) -> String {
    let known = scope.values.keys().chain(&scope.declared).map(String::as_str).filter(|known| !is_predefined(known));
    let hint = nearest(name, known).map(|near| format!(" (did you mean {sign}{near}?)")).unwrap_or_default();
    format!("{sign}{name} is not declared{hint}")
}

#[cfg(test)]
mod tests {
    use super::super::config::ImageSpec;
    use super::super::graph::BaseImage;
    use super::*;
    use oci::digest::Digest;
    use oci::platform::Platform;

    fn found(text: &str, arguments: &[(&str, &str)], ignore: &str) -> Vec<(Check, u32)> {
        let file = Dockerfile::parse("Dockerfile", text.as_bytes()).unwrap();
        let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options = Options { arguments, ..Options::default() };
        let mut spec = ImageSpec::scratch(Platform::host());
        spec.config.env.push("HOME_OF=base".to_owned());
        let request = ImageRequest { name: "base".to_owned(), platform: Platform::host() };
        let images = Images::from([(request, BaseImage { id: Digest::of(b""), spec })]);
        let ignore = Ignore::parse(ignore.as_bytes()).unwrap();
        let checked = check(&file, &options, &images, Some(&ignore)).unwrap();
        assert_eq!(checked.report(&file).matches("WARNING: ").count(), checked.remarks.len());
        checked.remarks.iter().map(|one| (one.check, one.span.line)).collect()
    }

    #[test]
    fn values_are_followed() {
        use Check::*;
        let text = "FROM base AS one\nARG A\nENV B=$HOME_OF C=$PATH D=$A\nLABEL x=$Q y=${R:-z} z=$1\nFROM one\n\
                    USER $B\nVOLUME $HOME_FO\nFROM unknown\nUSER $ANY\nFROM scratch\nUSER $ANY\n";
        assert_eq!(found(text, &[], ""), [(UndefinedVar, 4), (UndefinedVar, 7), (UndefinedVar, 11)]);
        let text = "ARG TAG\nFROM base:${TAG}\nFROM base:$TGA\nFROM --platform=$BUILDPLATFORM base:${TAG:-1}\n";
        assert_eq!(found(text, &[("TAG", "1")], ""), [(InvalidDefaultArgInFrom, 2), (UndefinedArgInFrom, 3)]);
        let text = "FROM base AS a\nWORKDIR x\nWORKDIR y\nFROM a\nWORKDIR z\nFROM base\nARG P=/p\nWORKDIR $P\n";
        assert_eq!(found(text, &[], ""), [(WorkdirRelativePath, 2)]);
        let text = "FROM base\nCOPY a b c /\nADD https://h/a /\nCOPY --from=x a /\nCOPY . /\n";
        assert_eq!(found(text, &[], "a\nc"), [(CopyIgnoredFile, 2), (CopyIgnoredFile, 2)]);
    }

    #[test]
    fn the_file_and_the_builder_choose() {
        let text = "# check=skip=StageNameCasing;error=true\nFROM base as B\n";
        assert_eq!(found(text, &[], ""), [(Check::FromAsCasing, 2)]);
        assert_eq!(found(text, &[(ARGUMENT, "skip=all")], ""), []);
        let file = Dockerfile::parse("Dockerfile", text.as_bytes()).unwrap();
        let checked = check(&file, &Options::default(), &Images::new(), None).unwrap();
        assert!(checked.failure().unwrap().contains("FromAsCasing"));
        let report = checked.report(&file);
        assert!(report.contains("from-as-casing") && report.contains("   2 | >>> FROM base as B"), "{report}");
        let wrong = Dockerfile::parse("Dockerfile", b"# check=nonsense\nFROM a\n").unwrap();
        assert!(check(&wrong, &Options::default(), &Images::new(), None).unwrap_err().contains("nonsense"));
    }
}
