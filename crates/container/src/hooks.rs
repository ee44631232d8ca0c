//! Hooks: programs of the user's that run at set points of a container's life, with its state as input.
//!
//! | hook | when | where |
//! |---|---|---|
//! | prestart, createRuntime | create: the namespaces stand, the root is not entered yet | the runtime's namespaces |
//! | createContainer | create: behind those | the container's namespaces, the runtime's files |
//! | startContainer | start: before the program | the container |
//! | poststart | start: behind the program's start | the runtime's namespaces |
//! | poststop | delete: when all is gone | the runtime's namespaces |

use crate::error::{Doing, Result, SetupError};
use control::FailureKind;
use oci_spec::runtime::{Hook, Hooks};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A container's state as the specification has it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State<'a> {
    /// The configuration's version of the specification.
    pub oci_version: &'a str,
    /// The container's id.
    pub id: &'a str,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: &'a str,
    /// The first process, while there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The bundle's folder.
    pub bundle: &'a Path,
    /// The configuration's annotations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<&'a HashMap<String, String>>,
}

/// The hooks that newer versions of the specification call createRuntime.
pub(crate) fn prestart(all: &Hooks) -> Option<&Vec<Hook>> {
    all.prestart().as_ref()
}

/// signal(7): what a seccomp filter kills with.
const SIGSYS: i32 = 31;

/// How much of a hook's output is kept for the message of its failure.
const MOST_OUTPUT: usize = 4096;

/// Runs the hooks of one kind in order, up to the first that fails.
///
/// # Errors
/// A hook that cannot be started, ends with another code than 0 or takes longer than its timeout.
pub(crate) fn run_all(kind: &str, hooks: Option<&Vec<Hook>>, state: &State<'_>) -> Result<()> {
    let without = if kind == "startContainer" { Without::Empty } else { Without::Callers };
    for (at, hook) in hooks.into_iter().flatten().enumerate() {
        run(hook, without, state).map_err(|error| {
            let text = format!("error running hook #{at}: error running {kind} hook #{at}: {}", error.message);
            SetupError::new(FailureKind::Internal, text)
        })?;
    }
    Ok(())
}

/// Runs all hooks of one kind, also behind one that fails; returns what failed.
pub(crate) fn run_each(kind: &str, hooks: &[Hook], state: &State<'_>) -> Vec<String> {
    let failed = |(at, hook): (usize, &Hook)| {
        run(hook, Without::Callers, state).err().map(|error| format!("{kind} hook #{at} failed: {}", error.message))
    };
    hooks.iter().enumerate().filter_map(failed).collect()
}

/// The environment of a hook for which none is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    /// The caller's, as with runc and crun: a hook outside finds its tools by the caller's `PATH`.
    Callers,
    /// None: what runs in the container learns nothing of the caller.
    Empty,
}

fn run(hook: &Hook, without: Without, state: &State<'_>) -> Result<()> {
    let path = hook.path();
    if !path.is_absolute() {
        return Err(SetupError::invalid(format!("hook path {path:?} is not absolute")));
    }
    let mut command = Command::new(path);
    match hook.args().as_deref() {
        Some([name, rest @ ..]) => command.arg0(name).args(rest),
        _ => &mut command,
    };
    if without == Without::Empty || hook.env().is_some() {
        command.env_clear();
    }
    for variable in hook.env().iter().flatten() {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        command.env(name, value);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // one of a container's runs its image's program, which must not get at what somebody outside has open (CVE-2024-21626)
    let mut child = sys::job::apart(&mut command).spawn().doing(|| path.display().to_string())?;
    let outcome = attend(&mut child, hook, state);
    if outcome.is_err() {
        // it may have ended by itself
        let _ = child.kill();
        let _ = child.wait();
    }
    outcome
}

/// Feeds a hook, listens to it and waits for its end.
fn attend(child: &mut Child, hook: &Hook, state: &State<'_>) -> Result<()> {
    let text = serde_json::to_vec(state).doing(|| "cannot write the state")?;
    if let Some(mut stdin) = child.stdin.take() {
        // a hook need not read it
        let _ = stdin.write_all(&text);
    }
    let timeout = hook.timeout().map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| SetupError::new(FailureKind::Internal, "the hook has no process id"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).doing(|| "pidfd_open")?;
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            // reaped by the caller
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            let seconds = timeout.unwrap_or_default().as_secs_f64();
            return Err(SetupError::new(
                FailureKind::Internal,
                format!("hook ran past specified timeout of {seconds:.1}s"),
            ));
        }
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(stdout.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(stderr.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let wait = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).doing(|| "poll"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let had_stdout = stdout.is_some();
        if had_stdout && ready.get(1) == Some(&true) {
            listen(&mut stdout, &mut out);
        }
        if ready.get(1 + usize::from(had_stdout)) == Some(&true) {
            listen(&mut stderr, &mut err);
        }
        let silent = ready.iter().skip(1).all(|ready| !ready);
        if silent && ready.first() == Some(&true) {
            break;
        }
    }
    let status = child.wait().doing(|| "waitid")?;
    if status.success() {
        return Ok(());
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(SIGSYS)) => "signal: bad system call (its seccomp filter does not allow it)".to_owned(),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    let (out, err) = (String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
    Err(SetupError::new(FailureKind::Internal, format!("{how}, stdout: {}, stderr: {}", out.trim(), err.trim())))
}

/// Takes what is there; the pipe is dropped at its end.
fn listen(pipe: &mut Option<impl Read>, kept: &mut Vec<u8>) {
    let mut bytes = [0_u8; 1024];
    match pipe.as_mut().map(|pipe| pipe.read(&mut bytes)) {
        Some(Ok(count)) if count > 0 => {
            let room = MOST_OUTPUT.saturating_sub(kept.len());
            kept.extend(bytes.iter().take(count.min(room)));
        }
        _ => *pipe = None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<()> {
        let hook: Hook = serde_json::from_str(json).unwrap();
        let state = State {
            oci_version: "1.2.0",
            id: "one",
            status: "creating",
            pid: Some(7),
            bundle: Path::new("/bundle"),
            annotations: None,
        };
        run(&hook, Without::Callers, &state)
    }

    #[test]
    fn a_hook_gets_its_arguments_environment_and_the_state() {
        check(r#"{"path": "/bin/sh", "args": ["sh", "-c", "grep -q '\"id\":\"one\",\"status\":\"creating\",\"pid\":7' && test $A = 1 && test $0 = x", "x"], "env": ["A=1"]}"#)
            .unwrap();
    }

    #[test]
    fn a_failure_says_what_the_hook_said() {
        let error =
            check(r#"{"path": "/bin/sh", "args": ["sh", "-c", "echo out; echo err >&2; exit 3"]}"#).unwrap_err();
        assert_eq!(error.message, "exit status 3, stdout: out, stderr: err");
        assert!(check(r#"{"path": "/no/such/hook"}"#).unwrap_err().message.starts_with("/no/such/hook"));
        assert!(check(r#"{"path": "relative"}"#).unwrap_err().message.contains("not absolute"));
    }

    #[test]
    fn a_hook_that_lasts_is_killed() {
        let error = check(r#"{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}"#).unwrap_err();
        assert_eq!(error.message, "hook ran past specified timeout of 1.0s");
    }
}
