//! The command line of `insula-oci`, which is runc's: one file for each command, one line for each in [`COMMANDS`].

mod checkpoint;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod flags;
mod foreground;
mod kill;
mod list;
pub(crate) mod log;
mod notify;
mod pause;
mod ps;
mod restore;
mod resume;
mod run;
mod spec;
mod start;
mod state;
mod update;

use crate::error::SetupError;
use crate::runtime::folder::Root;
use crate::runtime::group::Rootless;
use flags::{Command, Flag, Order, Parsed};
use log::{Form, Log};
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

const NAME: &str = "insula-oci";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The newest version of the specification that is followed.
pub(crate) const SPECIFICATION: &str = "1.3.0";

/// All commands, sorted.
static COMMANDS: &[&Command] = &[
    &checkpoint::COMMAND,
    &create::COMMAND,
    &delete::COMMAND,
    &events::COMMAND,
    &exec::COMMAND,
    &features::COMMAND,
    &kill::COMMAND,
    &list::COMMAND,
    &pause::COMMAND,
    &ps::COMMAND,
    &restore::COMMAND,
    &resume::COMMAND,
    &run::COMMAND,
    &spec::COMMAND,
    &start::COMMAND,
    &state::COMMAND,
    &update::COMMAND,
];

static GLOBAL: [Flag; 8] = [
    Flag::value("criu", "ignored; the criu program is found in PATH"),
    Flag::switch("debug", "log what is done, too"),
    Flag::value("log", "the file that messages are written to (default: standard error)"),
    Flag::value("log-format", "the form of messages: text or json (default: text)"),
    Flag::value(
        "root",
        "the folder for the state of containers (default: /run/insula-oci, or below $XDG_RUNTIME_DIR for a user)",
    ),
    Flag::value(
        "rootless",
        "whether control groups that may not be used are done without: true, false or auto (default: auto)",
    ),
    Flag::switch("systemd-cgroup", "have systemd make control groups; cgroupsPath is then slice:prefix:name"),
    Flag::switch("version", "print the version").letter('v'),
];

/// What the flags before the command say.
pub(crate) struct Context {
    pub(crate) log: Log,
    pub(crate) root: Root,
    pub(crate) systemd: bool,
    pub(crate) rootless: Rootless,
    /// The program's own arguments, its name first.
    arguments: Vec<OsString>,
}

impl Context {
    /// Goes on from where the program cannot be written to, before a process of ours comes into sight of a container's.
    pub(crate) fn shield(&self) -> Result<(), Failure> {
        sys::program::be_read_only(&self.arguments)
            .map_err(|error| Failure::new(format!("cannot run from a read-only place: {error}")))
    }
}

/// A command that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: Option<u8>,
}

/// How many descriptors of files that were read or written may wait to be closed together.
const KEPT: usize = 40;

/// How a command ends: with an exit code.
pub(crate) type Outcome = Result<u8, Failure>;

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: None }
    }

    /// Says what was being done.
    pub(crate) fn doing(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        Self::new(error.message)
    }
}

/// Runs the program with its arguments, of which the first is its name; returns its exit code.
#[must_use]
pub fn main(arguments: Vec<OsString>) -> u8 {
    sys::entry::touch_stack();
    sys::process::keep_to_close(KEPT);
    let mut words = Vec::new();
    for argument in arguments.iter().skip(1) {
        match argument.clone().into_string() {
            Ok(word) => words.push(word),
            Err(word) => {
                Log::default().error(&format!("argument {word:?} is not UTF-8"));
                return 1;
            }
        }
    }
    let called = called(&arguments);
    let mut words = words.into_iter().peekable();
    let given = match flags::parse(&[&GLOBAL], Order::FlagsFirst, &mut words) {
        Ok(given) => given,
        Err(failure) => return end(&Log::default(), Err(failure), 1),
    };
    if given.on("version") {
        // the source is known by its release; clients look for a line of each kind
        print(&format!("{called} version {VERSION}\ncommit: v{VERSION}\nspec: {SPECIFICATION}\n"));
        return 0;
    }
    let log = match log_of(&given) {
        Ok(log) => log,
        Err(failure) => return end(&Log::default(), Err(failure), 1),
    };
    let Some(name) = words.next().filter(|name| !given.help && name != "help") else {
        print(&help(&called));
        return 0;
    };
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        let failure =
            Failure::new(format!("No help topic for '{name}': there is no such command; see: {called} --help"));
        return end(&log, Err(failure), 1);
    };
    run_command(command, &given, (log, arguments), &mut words)
}

/// Understands a command line without running anything: the flags in front, the command, its own flags.
pub(crate) fn understand(words: &[String]) {
    let mut words = words.iter().cloned().peekable();
    let Ok(given) = flags::parse(&[&GLOBAL], Order::FlagsFirst, &mut words) else { return };
    for flag in &GLOBAL {
        drop(given.number::<u32>(flag.name));
    }
    let Some(name) = words.next() else { return };
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else { return };
    let count = words.clone().count();
    if let Ok(parsed) = flags::parse(command.flags, command.order, &mut words) {
        assert!(parsed.arguments.len() <= count, "more arguments than words");
    }
}

fn run_command(
    command: &Command,
    given: &Parsed,
    (log, own): (Log, Vec<OsString>),
    words: &mut std::iter::Peekable<std::vec::IntoIter<String>>,
) -> u8 {
    let called = called(&own);
    let parsed = flags::parse(command.flags, command.order, words).and_then(|mut parsed| {
        parsed.arguments.extend(words);
        let (least, most) = command.arguments;
        let count = parsed.arguments.len();
        if parsed.help || (least..=most).contains(&count) {
            return Ok(parsed);
        }
        let wanted = if least == most { format!("exactly {least}") } else { format!("a minimum of {least}") };
        let text = format!("{:?} requires {wanted} argument(s); see: {called} {} --help", command.name, command.name);
        Err(Failure::new(format!("{called}: {text}")))
    });
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(failure) => return end(&log, Err(failure), command.failure_code),
    };
    if parsed.help {
        print(&help_of(&called, command));
        return 0;
    }
    let context = Context {
        log,
        root: Root::new(root_of(given)),
        systemd: given.on("systemd-cgroup"),
        rootless: rootless(given),
        arguments: own,
    };
    context.log.debug(&format!("{} {}", command.name, parsed.arguments.join(" ")));
    let outcome = (command.run)(&context, &parsed);
    end(&context.log, outcome, command.failure_code)
}

fn end(log: &Log, outcome: Outcome, code: u8) -> u8 {
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            log.error(&failure.message);
            failure.code.unwrap_or(code)
        }
    }
}

fn log_of(given: &Parsed) -> Result<Log, Failure> {
    let form = match given.value("log-format") {
        None | Some("" | "text") => Form::Text,
        Some("json") => Form::Json,
        Some(other) => return Err(Failure::new(format!("invalid log-format {other:?}: text and json are known"))),
    };
    match given.value("rootless") {
        None | Some("true" | "false" | "auto") => {}
        Some(other) => {
            return Err(Failure::new(format!("invalid rootless value {other:?}: true, false and auto are known")));
        }
    }
    let file = given.value("log").filter(|path| !matches!(*path, "" | "/dev/stderr")).map(PathBuf::from);
    if let Some(path) = &file {
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
        opened.map_err(|error| Failure::new(format!("log file {}: {error}", path.display())))?;
    }
    Ok(Log { file, form, debug: given.on("debug") })
}

/// What the checked flag says.
fn rootless(given: &Parsed) -> Rootless {
    match given.value("rootless") {
        Some("true") => Rootless::Yes,
        Some("false") => Rootless::No,
        _ => Rootless::Seen,
    }
}

fn root_of(given: &Parsed) -> PathBuf {
    if let Some(root) = given.value("root").filter(|root| !root.is_empty()) {
        // later commands may stand elsewhere, and so may we after entering the bundle
        return std::path::absolute(root).unwrap_or_else(|_| PathBuf::from(root));
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
    match runtime.filter(|_| !rustix::process::geteuid().is_root()) {
        Some(folder) => PathBuf::from(folder).join(NAME),
        None => PathBuf::from("/run").join(NAME),
    }
}

/// Writes to standard output; a reader that has gone is not told.
pub(crate) fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The name that the program was called by: somebody who has it stand in for another runtime, under that one's name, looks for that
/// name in what it says.
fn called(arguments: &[OsString]) -> String {
    let name = arguments.first().and_then(|path| Path::new(path).file_name()).and_then(|name| name.to_str());
    name.unwrap_or(NAME).to_owned()
}

fn help(called: &str) -> String {
    let mut text = format!(
        "NAME:\n   {called} - Open Container Initiative runtime\n\nUSAGE:\n   {called} [GLOBAL FLAGS] COMMAND [FLAGS] ARGUMENTS\n\nCOMMANDS:\n"
    );
    for command in COMMANDS {
        text += &format!("   {:<12} {}\n", command.name, command.about);
    }
    text + "\nGLOBAL FLAGS:\n" + &lines_of(&[&GLOBAL])
}

fn help_of(called: &str, command: &Command) -> String {
    let flags = lines_of(command.flags);
    let flags = if flags.is_empty() { flags } else { format!("\nFLAGS:\n{flags}") };
    let Command { name, about, usage, .. } = command;
    format!("NAME:\n   {called} {name} - {about}\n\nUSAGE:\n   {called} {name} {usage}\n{flags}")
}

fn lines_of(tables: &[&'static [Flag]]) -> String {
    let line = |flag: &Flag| {
        let letter = flag.letter.map(|letter| format!(", -{letter}")).unwrap_or_default();
        let value = if flag.kind == flags::Kind::Value { " VALUE" } else { "" };
        format!("   {:<28} {}\n", format!("--{}{letter}{value}", flag.name), flag.help)
    };
    tables.iter().flat_map(|table| table.iter()).map(line).collect()
}
