//! `insula`: the command line.
//!
//! It speaks the Docker Engine API to the daemon over a unix socket, and starts the daemon if there is none. The rooms:
//! [`flags`] reads command lines from static tables, [`value`] reads the values of flags, [`http`] and [`client`] carry
//! requests, [`session`] joins a container's streams to the user's, [`template`] and [`table`] show answers, [`daemon`] starts
//! and stops `insulad`, and one file for each noun holds its commands, all of them listed in [`COMMANDS`].
//!
//! There is no runtime: the program starts in under a millisecond, asks, and ends.

#![cfg_attr(not(test), no_main)]

mod build;
mod client;
mod cni;
mod compose;
mod container;
mod context;
mod daemon;
mod failure;
mod flags;
mod http;
mod image;
mod kernel;
mod network;
mod output;
mod registry;
mod session;
mod system;
mod table;
mod template;
mod terminal;
mod top;
mod value;
mod vm;
mod volume;

use std::ffi::OsString;

use crate::context::Globals;
use crate::flags::{Action, Command};

/// The commands, sorted by name.
static COMMANDS: &[&Command] = &[
    &container::attach::COMMAND,
    &build::COMMAND,
    &build::BUILDER,
    &cni::GROUP,
    &container::commit::COMMAND,
    &compose::COMMAND,
    &container::GROUP,
    &context::command::GROUP,
    &container::cp::COMMAND,
    &container::create::COMMAND,
    &daemon::GROUP,
    &container::commit::DIFF,
    &system::doctor::COMMAND,
    &system::events::COMMAND,
    &container::exec::COMMAND,
    &system::explain::COMMAND,
    &image::archive::EXPORT,
    &image::history::COMMAND,
    &image::GROUP,
    &image::list::IMAGES,
    &image::import::COMMAND,
    &system::info::COMMAND,
    &container::inspect::COMMAND,
    &kernel::GROUP,
    &container::lifecycle::KILL,
    &image::archive::LOAD,
    &image::registry::LOGIN,
    &image::registry::LOGOUT,
    &container::logs::COMMAND,
    &image::registry::MANIFEST,
    &network::GROUP,
    &container::lifecycle::PAUSE,
    &container::top::PORT,
    &container::ps::COMMAND,
    &image::registry::PULL,
    &image::registry::PUSH,
    &registry::GROUP,
    &container::lifecycle::RENAME,
    &container::lifecycle::RESTART,
    &container::rm::COMMAND,
    &image::remove::RMI,
    &container::run::COMMAND,
    &image::archive::SAVE,
    &image::registry::SEARCH,
    &container::start::COMMAND,
    &container::stats::COMMAND,
    &container::lifecycle::STOP,
    &system::GROUP,
    &image::TAG,
    &container::top::COMMAND,
    &container::lifecycle::UNPAUSE,
    &container::update::COMMAND,
    &system::version::COMMAND,
    &vm::GROUP,
    &volume::GROUP,
    &container::lifecycle::WAIT,
];

/// The exit code of a command line that cannot be understood, as Docker has it.
const BAD_LINE: u8 = 125;

#[cfg(not(test))]
sys::entry!(run);
#[cfg(musl)]
sys::in_place_of_glibc!();

#[cfg_attr(test, expect(dead_code, reason = "the test program has a main of its own"))]
fn run(arguments: Vec<OsString>) -> u8 {
    if let Some(code) = cni::plugin(&arguments) {
        return code;
    }
    let mut words = Vec::new();
    for word in arguments.into_iter().skip(1) {
        match word.into_string() {
            Ok(word) => words.push(word),
            Err(word) => {
                output::note(&format!("the argument {word:?} is not UTF-8, which the daemon's API cannot carry"));
                return BAD_LINE;
            }
        }
    }
    let (globals, rest) = match Globals::split(&words) {
        Ok(split) => split,
        Err(why) => return bad_line("insula", &why),
    };
    if globals.version {
        output::line(&system::version::line());
        return 0;
    }
    if globals.help || rest.is_empty() {
        output::print(&help());
        return u8::from(!globals.help);
    }
    let (mut command, mut path, rest) = match find(rest) {
        Ok(found) => found,
        Err(why) => return bad_line("insula", &why),
    };
    let mut parsed = match flags::parse(command, rest) {
        _ if matches!(command.action, Action::Group(_)) => {
            output::print(&flags::help(command, &path));
            return u8::from(rest.is_empty());
        }
        Ok(parsed) => parsed,
        Err(why) => return bad_line(&path, &why),
    };
    if let (Action::Nested(children), false, false) = (&command.action, parsed.help, parsed.arguments.is_empty()) {
        let words = std::mem::take(&mut parsed.arguments);
        let (child, rest);
        (child, path, rest) = match find_among(children, &path, &words) {
            Ok(found) => found,
            Err(why) => return bad_line(&path, &why),
        };
        parsed = match flags::parse(child, rest) {
            Ok(inner) => inner.behind(&parsed),
            Err(why) => return bad_line(&path, &why),
        };
        command = child;
    }
    let Action::Run(action) = command.action else {
        output::print(&flags::help(command, &path));
        return u8::from(!parsed.help);
    };
    if parsed.help {
        output::print(&flags::help(command, &path));
        return 0;
    }
    match globals.context().and_then(|context| action(&context, &parsed)) {
        Ok(code) => code,
        Err(failure) => {
            output::note(failure.text());
            failure.code().unwrap_or(command.failure_code)
        }
    }
}

fn bad_line(path: &str, why: &str) -> u8 {
    output::note(&format!("{why}; see: {path} --help"));
    BAD_LINE
}

type Found<'a> = (&'static Command, String, &'a [String]);

/// Finds the command that the words name; `help` before or `--help` after a group shows the group.
fn find(words: &[String]) -> Result<Found<'_>, String> {
    find_among(COMMANDS, "insula", words)
}

fn find_among<'a>(
    commands: &'static [&'static Command],
    before: &str,
    words: &'a [String],
) -> Result<Found<'a>, String> {
    let mut among = commands;
    let mut path = before.to_owned();
    let mut rest = words;
    let mut group: Option<&'static Command> = None;
    loop {
        let Some((word, tail)) = rest.split_first() else {
            return group.map(|group| (group, path, rest)).ok_or_else(|| "no command is named".to_owned());
        };
        if let Some(group) = group
            && (word == "--help" || word == "-h" || word == "help")
        {
            return Ok((group, path, rest));
        }
        let Some(command) = among.iter().find(|command| command.answers_to(word)) else {
            let near = among.iter().find(|command| flags::distance(command.name, word) <= word.len() / 3);
            let hint = near.map(|command| format!("; did you mean: {path} {}?", command.name)).unwrap_or_default();
            return Err(format!("no command {word:?}{hint}"));
        };
        path = format!("{path} {}", command.name);
        rest = tail;
        match command.action {
            Action::Run(_) | Action::Nested(_) => return Ok((command, path, rest)),
            Action::Group(children) => {
                among = children;
                group = Some(command);
            }
        }
    }
}

fn help() -> String {
    let mut text =
        "Insula: containers on a few system calls\n\nUsage: insula [OPTIONS] COMMAND\n\nCommands:\n".to_owned();
    for command in COMMANDS {
        text.push_str(&format!("  {:<12} {}\n", command.name, command.about));
    }
    text.push_str(
        "
Options:
  -D, --debug        Show the requests that are made
  -h, --help         Show this
  -c, --context NAME Talk to where this context of docker's leads (DOCKER_CONTEXT)
  -H, --host HOST    Talk to unix:///SOCKET, tcp://HOST:PORT or ssh://HOST (INSULA_HOST, DOCKER_HOST)
      --root DIR     The daemon's state folder, if it is to be started (INSULA_ROOT; /var/lib/insula)
      --run DIR      The folder of the daemon's sockets (INSULA_RUN; /run/insula)
  -v, --version      Show the version
      --config DIR   The folder of contexts and credentials (DOCKER_CONFIG; ~/.docker)
      --tls, --tlsverify, --tlscacert FILE, --tlscert FILE, --tlskey FILE
                     TLS over TCP (DOCKER_TLS_VERIFY, DOCKER_CERT_PATH)

`insula COMMAND --help` tells more about a command. Without a daemon, one is started.
",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(among: &[&'static Command], path: &str, visit: &mut dyn FnMut(&'static Command, &str)) {
        for command in among {
            let path = format!("{path} {}", command.name);
            visit(command, &path);
            if let Action::Group(children) | Action::Nested(children) = command.action {
                walk(children, &path, visit);
            }
        }
    }

    #[test]
    fn tables_are_sorted_and_complete() {
        assert!(COMMANDS.is_sorted_by_key(|command| command.name));
        walk(COMMANDS, "insula", &mut |command, path| {
            assert!(!command.about.is_empty(), "{path}");
            if let Action::Group(children) | Action::Nested(children) = command.action {
                assert!(children.is_sorted_by_key(|command| command.name), "{path}");
            }
            let text = flags::help(command, path);
            assert!(text.contains("Usage: insula"), "{path}");
        });
    }

    #[test]
    fn commands_are_found_by_their_words() {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let check = |line: &str, expect: &str| assert_eq!(find(&words(line)).unwrap().1, expect, "{line}");
        check("run x", "insula run");
        check("container ls", "insula container ls");
        check("container ps", "insula container ls");
        check("image rm x", "insula image rm");
        check("container --help", "insula container");
        check("daemon", "insula daemon");
        assert_eq!(find(&words("runn")).unwrap_err(), "no command \"runn\"; did you mean: insula run?");
    }
}
