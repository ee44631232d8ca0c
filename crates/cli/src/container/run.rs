//! `insula run`: make a container, join its streams, start it, and end as it ends.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::client::{Answer, Client, Query};
use crate::container::create::{FLAGS, Request};
use crate::container::limits;
use crate::container::path;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Order, Parsed};
use crate::session::{self, Beside, End, Input, Keys, Session};
use crate::{output, table, terminal};

/// The exit code of a failure that is not the container's.
const OWN_FAILURE: u8 = 125;
/// The exit code of a program that cannot be run.
const NOT_EXECUTABLE: u8 = 126;
/// How long a next daemon may take to be there when one was lost.
const TAKE_OVER: Duration = Duration::from_secs(5);
/// The exit code of a program that is not there.
const NOT_FOUND: u8 = 127;

pub(crate) static COMMAND: Command = Command {
    name: "run",
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Run a program in a new container",
    flags: &[
        FLAGS,
        limits::FLAGS,
        &[
            Flag::switch("detach", "Leave the container in the background and print its id").short('d'),
            Flag::value("detach-keys", "KEYS", "The keys that leave the container (ctrl-p,ctrl-q)"),
            Flag::switch("sig-proxy", "Hand signals on to the container (on; turn off with =false)"),
        ],
    ],
    order: Order::FlagsFirst,
    arguments: (1, Command::MANY),
    action: Action::Run(run),
    failure_code: OWN_FAILURE,
    ..Command::BLANK
};

fn run(context: &Context, given: &Parsed) -> Outcome {
    let mut request = Request::read(given)?;
    let streams = Streams::of_run(given)?;
    let body = &mut request.body;
    if given.on("detach") {
        if given.values("attach").next().is_some() {
            return Err(Failure::new("--attach does not go with --detach; give one or the other"));
        }
        body.attach_stdin = Some(false);
        body.attach_stdout = Some(false);
        body.attach_stderr = Some(false);
        body.stdin_once = Some(false);
    }
    let mut client = Client::new(context);
    let id = request.send(&mut client)?;
    if given.on("detach") {
        client.post(&path(&id, "/start")).map_err(start_failure)?;
        output::line(&id);
        return Ok(0);
    }
    let condition = if given.on("rm") { "removed" } else { "next-exit" };
    let joined = Joined::new(&mut client, &id, &streams, condition)?;
    client.post(&path(&id, "/start")).map_err(start_failure)?;
    joined.carry(&mut client, &streams)
}

/// Gives a start that failed the exit code that shells give such programs.
fn start_failure(failure: Failure) -> Failure {
    let text = failure.text().to_ascii_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let about_setup = has(&[
        "bind source",
        "mount source",
        "cannot mount",
        "mounting",
        "invalid mount",
        "device information",
        "device \"",
    ]);
    let code = if about_setup {
        OWN_FAILURE
    } else if has(&["executable file not found", "no such file or directory", "command not found"]) {
        NOT_FOUND
    } else if has(&["permission denied", "is a directory", "exec format error", "not executable"]) {
        NOT_EXECUTABLE
    } else {
        OWN_FAILURE
    };
    failure.with_code(code)
}

/// Which streams a session joins, and how.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
    pub(crate) proxy: bool,
    pub(crate) detach_keys: String,
}

/// The detach keys that Docker's users know.
pub(crate) const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

impl Streams {
    fn of_run(given: &Parsed) -> Result<Self, Failure> {
        let named: Vec<String> = given.values("attach").map(str::to_ascii_lowercase).collect();
        let wants = |stream: &str| named.is_empty() || named.iter().any(|name| name == stream);
        let streams = Self {
            stdin: given.on("interactive") && wants("stdin"),
            stdout: wants("stdout"),
            stderr: wants("stderr"),
            tty: given.on("tty"),
            proxy: !given.off("sig-proxy"),
            detach_keys: given.value("detach-keys").unwrap_or(DETACH_KEYS).to_owned(),
        };
        Keys::parse(&streams.detach_keys)
            .map_err(|why| Failure::new(format!("bad value {:?} for --detach-keys: {why}", streams.detach_keys)))?;
        if !given.on("detach") {
            streams.check_terminal()?;
        }
        Ok(streams)
    }

    /// A container's terminal can only be joined to a terminal.
    pub(crate) fn check_terminal(&self) -> Result<(), Failure> {
        if self.stdin && self.tty && !terminal::is_input() {
            let text = "the input device is not a TTY; leave -t out, or run this in a terminal";
            return Err(Failure::new(text).with_code(1));
        }
        Ok(())
    }

    fn input(&self) -> Input {
        if self.stdin { Input::Forwarded } else { Input::Ignored }
    }

    fn keys(&self) -> Keys {
        // Only a terminal's user can type them, and they were read once before.
        if self.tty && self.stdin { Keys::parse(&self.detach_keys).unwrap_or_default() } else { Keys::default() }
    }
}

/// A container whose streams are joined and whose end is waited for.
pub(crate) struct Joined {
    id: String,
    session: Session,
    wait: Answer,
    signals: sys::job::SignalQueue,
}

impl Joined {
    /// Joins before the start, so that neither the first output nor the end can be missed.
    pub(crate) fn new(client: &mut Client, id: &str, streams: &Streams, condition: &str) -> Result<Self, Failure> {
        let signals = session::signals(streams.proxy)?;
        let query = Query::default()
            .with("stream", "1")
            .flag("stdin", streams.stdin)
            .flag("stdout", streams.stdout)
            .flag("stderr", streams.stderr)
            .with("detachKeys", &streams.detach_keys);
        let upgraded = client.upgrade(&query.behind(&path(id, "/attach")), None)?;
        let session = Session::new(upgraded, streams.input(), !streams.tty, streams.keys());
        let wait = Query::default().with("condition", condition).behind(&path(id, "/wait"));
        let wait = client.stream("POST", &wait, None)?;
        Ok(Self { id: id.to_owned(), session, wait, signals })
    }

    /// Carries the streams to their end, and gives the container's exit code.
    pub(crate) fn carry(self, client: &mut Client, streams: &Streams) -> Outcome {
        let id = &self.id;
        let raw = if streams.tty && streams.stdin { terminal::Raw::enter()? } else { None };
        if streams.tty {
            resize(client, &path(id, "/resize"));
        }
        let end = self.session.run(&self.signals, &mut |beside| {
            match beside {
                Beside::Resized if streams.tty => resize(client, &path(id, "/resize")),
                Beside::Resized => {}
                Beside::Signal(name) => {
                    let kill = Query::default().with("signal", name).behind(&path(id, "/kill"));
                    // The container may have ended by itself in between.
                    let _ = client.post(&kill);
                }
            }
            Ok(())
        });
        drop(raw);
        if end? == End::Detached && is_running(client, id) {
            output::write_error(b"read escape sequence\n");
            return Ok(0);
        }
        let answer = match self.wait.json() {
            Ok(answer) => answer,
            // The daemon was stopped or upgraded in between; the container's helper has the exit code for the next one.
            Err(failure) => return found_again(client, id, &failure),
        };
        match table::text(&answer, "/Error/Message") {
            "" => Ok(exit_code(table::number(&answer, "/StatusCode"))),
            message => Err(Failure::new(message).with_code(OWN_FAILURE)),
        }
    }
}

/// The exit code of a container whose daemon was lost while it was waited for, from the daemon that has taken over.
fn found_again(client: &mut Client, id: &str, lost: &Failure) -> Outcome {
    let deadline = Instant::now() + TAKE_OVER;
    loop {
        match client.get(&path(id, "/json")) {
            Ok(container) if !table::switch(&container, "/State/Running") => {
                return Ok(exit_code(table::number(&container, "/State/ExitCode")));
            }
            Ok(_) | Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(100)),
            Ok(_) => {
                let text = format!(
                    "the connection was lost ({}); the container goes on; join it with: insula attach {id}",
                    lost.text()
                );
                return Err(Failure::new(text).with_code(OWN_FAILURE));
            }
            Err(_) => {
                let text = format!(
                    "lost the daemon while the container ran ({}); see how it ended with: insula inspect {id}",
                    lost.text()
                );
                return Err(Failure::new(text).with_code(OWN_FAILURE));
            }
        }
    }
}

/// A container's exit code as a process can have it.
pub(crate) fn exit_code(status: i64) -> u8 {
    u8::try_from(status & 0xff).unwrap_or(OWN_FAILURE)
}

/// Tells the container the terminal's size; one that has ended needs none.
pub(crate) fn resize(client: &mut Client, target: &str) {
    if let Some((rows, columns)) = terminal::size() {
        let query = Query::default().with("h", &rows.to_string()).with("w", &columns.to_string());
        let _ = client.post(&query.behind(target));
    }
}

fn is_running(client: &mut Client, id: &str) -> bool {
    client.get(&path(id, "/json")).is_ok_and(|container| table::switch(&container, "/State/Running"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_failures_have_the_codes_of_shells() {
        let check = |text: &str, code: u8| assert_eq!(start_failure(Failure::new(text)).code(), Some(code), "{text}");
        check("exec: \"nope\": executable file not found in $PATH", 127);
        check("exec: \"/nope\": stat /nope: no such file or directory", 127);
        check("exec: \"/etc/passwd\": permission denied", 126);
        check("exec /x: exec format error", 126);
        check("exec: \"/etc\": is a directory", 126);
        check("bind source path /x: no such file or directory", 125);
        check(
            "error gathering device information while adding custom device \"/dev/x\": no such file or directory",
            125,
        );
        check("out of memory", 125);
    }

    #[test]
    fn exit_codes_fit() {
        assert_eq!(exit_code(137), 137);
        assert_eq!(exit_code(-1), 255);
        assert_eq!(exit_code(256), 0);
    }
}
