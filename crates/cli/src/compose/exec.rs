//! `insula compose exec` and `attach`, and programs that run beside a container's own when something happens.

use std::io::Read as _;

use compose::project::Hook;
use serde_json::json;

use super::COMMON;
use super::stack::{Kind, Member, Stack};
use crate::container;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{self, Action, Command, Flag, Order, Parsed};
use crate::session::Unframe;
use crate::{table, terminal};

pub(super) static COMMAND: Command = Command {
    name: "exec",
    usage: "[OPTIONS] SERVICE COMMAND [ARG...]",
    about: "Run a program in a running container of a service",
    flags: &[
        COMMON,
        &[
            Flag::switch("detach", "Leave the program in the background").short('d'),
            Flag::list("env", "NAME[=VALUE]", "Set a variable").short('e'),
            Flag::value("index", "NUMBER", "The service's container of this number"),
            Flag::switch("interactive", "Keep standard input open (on; turn off with =false)").short('i'),
            Flag::switch("no-tty", "Give no terminal").short('T'),
            Flag::switch("privileged", "Give every capability"),
            Flag::switch("tty", "Give a terminal (where there is one)").short('t'),
            Flag::value("user", "USER[:GROUP]", "Run as this user").short('u'),
            Flag::value("workdir", "PATH", "Work in this folder").short('w'),
        ],
    ],
    order: Order::FlagsFirst,
    arguments: (2, Command::MANY),
    action: Action::Run(exec),
    ..Command::BLANK
};

pub(super) static ATTACH: Command = Command {
    name: "attach",
    usage: "[OPTIONS] SERVICE",
    about: "Join the streams of a running container of a service",
    flags: &[
        COMMON,
        &[
            Flag::value("detach-keys", "KEYS", "The keys that leave the container (ctrl-p,ctrl-q)"),
            Flag::value("index", "NUMBER", "The service's container of this number"),
            Flag::switch("no-stdin", "Leave standard input alone"),
            Flag::switch("sig-proxy", "Hand signals on to the container (on; turn off with =false)"),
        ],
    ],
    arguments: (1, 1),
    action: Action::Run(attach),
    ..Command::BLANK
};

/// Runs another command with these words behind its name.
///
/// # Errors
/// Words that it does not take, and what it fails with.
pub(super) fn hand_on(context: &Context, command: &'static Command, words: &[String]) -> Outcome {
    let parsed = flags::parse(command, words).map_err(Failure::new)?;
    match command.action {
        Action::Run(run) => run(context, &parsed),
        Action::Group(_) | Action::Nested(_) => Err(Failure::new(format!("{} is no command by itself", command.name))),
    }
}

/// The number that `--index` gives.
pub(super) fn index(given: &Parsed) -> Result<Option<usize>, Failure> {
    given.read("index", |text| {
        text.parse::<usize>()
            .ok()
            .filter(|number| *number > 0)
            .ok_or_else(|| "give a container's number, from 1".to_owned())
    })
}

fn exec(context: &Context, given: &Parsed) -> Outcome {
    let service = given.first().to_owned();
    let stack = Stack::found(context, given, std::slice::from_ref(&service))?;
    let member = stack.member(&service, index(given)?, Kind::All)?;
    let mut words: Vec<String> = Vec::new();
    let mut add = |word: &str| words.push(word.to_owned());
    let detach = given.on("detach");
    if detach {
        add("--detach");
    } else if !given.off("interactive") {
        add("--interactive");
    }
    let wants_tty = !given.on("no-tty") && !given.off("tty") && !detach;
    if wants_tty && (given.on("tty") || (terminal::is_input() && terminal::is_output())) {
        add("--tty");
    }
    if given.on("privileged") {
        add("--privileged");
    }
    for variable in given.values("env") {
        add(&format!("--env={variable}"));
    }
    for flag in ["user", "workdir"] {
        if let Some(value) = given.value(flag) {
            add(&format!("--{flag}={value}"));
        }
    }
    words.push(member.id);
    words.extend(given.arguments.iter().skip(1).cloned());
    if given.on("dry-run") {
        return Ok(0);
    }
    hand_on(context, &container::exec::COMMAND, &words)
}

fn attach(context: &Context, given: &Parsed) -> Outcome {
    let service = given.first().to_owned();
    let stack = Stack::found(context, given, std::slice::from_ref(&service))?;
    let member = stack.member(&service, index(given)?, Kind::Service)?;
    let mut words = Vec::new();
    for flag in ["detach-keys", "no-stdin", "sig-proxy"] {
        if let Some(value) = given.value(flag) {
            words.push(format!("--{flag}={value}"));
        }
    }
    words.push(member.id);
    hand_on(context, &container::attach::COMMAND, &words)
}

/// Runs a program in a container, and waits for its end; what it has written.
///
/// # Errors
/// A program that cannot be run, or that ends badly; its output is in the message.
pub(super) fn hook(stack: &Stack, member: &Member, hook: &Hook) -> Result<String, Failure> {
    let mut client = stack.client();
    let variables: Vec<String> =
        hook.environment.iter().map(|(name, value)| format!("{name}={}", value.clone().unwrap_or_default())).collect();
    let body = json!({
        "AttachStdout": true, "AttachStderr": true, "Cmd": hook.command, "User": hook.user.clone().unwrap_or_default(),
        "Privileged": hook.privileged, "WorkingDir": hook.working_dir.clone().unwrap_or_default(), "Env": variables,
    });
    let made = client.post_json(&format!("/containers/{}/exec", member.id), &body)?;
    let id = table::text(&made, "/Id").to_owned();
    let start = serde_json::to_vec(&json!({"Detach": false, "Tty": false}))?;
    let upgraded = client.upgrade(&format!("/exec/{id}/start"), Some(&start))?;
    let mut bytes = upgraded.early;
    let mut stream = upgraded.stream;
    stream.read_to_end(&mut bytes)?;
    let mut said = Vec::new();
    let mut unframe = if upgraded.multiplexed == Some(false) { Unframe::Raw } else { Unframe::framed() };
    // what is no frame is shown as it came
    if unframe.sort(&bytes, &mut |_, part| said.extend_from_slice(part)).is_err() {
        said = bytes;
    }
    let ended = client.get(&format!("/exec/{id}/json"))?;
    let said = String::from_utf8_lossy(&said).into_owned();
    match table::number(&ended, "/ExitCode") {
        0 => Ok(said),
        code => {
            let (service, command) = (&member.service, hook.command.join(" "));
            Err(Failure::new(format!("{service} hook exited with status {code}: {command:?}: {}", said.trim())))
        }
    }
}
