//! `insula exec`.

use docker_wire::models::ExecConfig;
use serde_json::json;

use crate::client::{Client, Query};
use crate::container::create::environment;
use crate::container::path;
use crate::container::run::{DETACH_KEYS, exit_code, resize};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Order, Parsed};
use crate::session::{self, Beside, End, Input, Keys, Session};
use crate::{output, table, terminal};

pub(crate) static COMMAND: Command = Command {
    name: "exec",
    usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
    about: "Run a program in a running container",
    flags: &[&[
        Flag::switch("detach", "Leave the program in the background").short('d'),
        Flag::value("detach-keys", "KEYS", "The keys that leave the program (ctrl-p,ctrl-q)"),
        Flag::list("env", "NAME[=VALUE]", "Set a variable, or hand on the user's own").short('e'),
        Flag::list("env-file", "FILE", "Set variables from a file"),
        Flag::switch("interactive", "Keep standard input open").short('i'),
        Flag::switch("privileged", "Give every capability"),
        Flag::switch("tty", "Give a terminal").short('t'),
        Flag::value("user", "USER[:GROUP]", "Run as this user").short('u'),
        Flag::value("workdir", "PATH", "Work in this folder").short('w'),
    ]],
    order: Order::FlagsFirst,
    arguments: (2, Command::MANY),
    action: Action::Run(exec),
    ..Command::BLANK
};

fn exec(context: &Context, given: &Parsed) -> Outcome {
    let (tty, stdin, detach) = (given.on("tty"), given.on("interactive"), given.on("detach"));
    let keys = given.value("detach-keys").unwrap_or(DETACH_KEYS);
    let watched =
        Keys::parse(keys).map_err(|why| Failure::new(format!("bad value {keys:?} for --detach-keys: {why}")))?;
    if stdin && tty && !detach && !terminal::is_input() {
        return Err(Failure::new("the input device is not a TTY; leave -t out, or run this in a terminal"));
    }
    let size = terminal::size().filter(|_| tty).map(|(rows, columns)| vec![rows.into(), columns.into()]);
    let config = ExecConfig {
        attach_stdin: Some(stdin && !detach),
        attach_stdout: Some(!detach),
        attach_stderr: Some(!detach),
        console_size: size.clone(),
        detach_keys: given.value("detach-keys").map(str::to_owned),
        tty: Some(tty),
        env: environment(given)?,
        cmd: given.arguments.get(1..).map(<[String]>::to_vec),
        privileged: Some(given.on("privileged")),
        user: given.value("user").map(str::to_owned),
        working_dir: given.value("workdir").map(str::to_owned),
    };
    let mut client = Client::new(context);
    let created = client.post_json(&path(given.first(), "/exec"), &config)?;
    let id = table::text(&created, "/Id").to_owned();
    let start = json!({"Detach": detach, "Tty": tty, "ConsoleSize": size});
    if detach {
        client.post_json(&format!("/exec/{id}/start"), &start).map_err(exec_failure)?;
        return Ok(0);
    }
    let signals = session::signals(false)?;
    let body = serde_json::to_vec(&start)?;
    let upgraded = client.upgrade(&format!("/exec/{id}/start"), Some(&body)).map_err(exec_failure)?;
    let input = if stdin { Input::Forwarded } else { Input::Ignored };
    let session = Session::new(upgraded, input, !tty, if stdin && tty { watched } else { Keys::default() });
    let raw = if stdin && tty { terminal::Raw::enter()? } else { None };
    let target = format!("/exec/{id}/resize");
    if tty {
        resize(&mut client, &target);
    }
    let end = session.run(&signals, &mut |beside| {
        if let (Beside::Resized, true) = (beside, tty) {
            resize(&mut client, &target);
        }
        Ok(())
    });
    drop(raw);
    let end = end?;
    let result = client.get(&Query::default().behind(&format!("/exec/{id}/json")))?;
    if table::switch(&result, "/Running") {
        if end == End::Detached {
            output::write_error(b"read escape sequence\n");
        }
        return Ok(0);
    }
    Ok(exit_code(table::number(&result, "/ExitCode")))
}

/// Gives a program that could not be started the exit code that shells give it.
fn exec_failure(failure: Failure) -> Failure {
    let text = failure.text().to_ascii_lowercase();
    if text.contains("executable file not found") || text.contains("no such file or directory") {
        failure.with_code(127)
    } else if ["permission denied", "is a directory", "exec format error"].iter().any(|part| text.contains(part)) {
        failure.with_code(126)
    } else {
        failure
    }
}
