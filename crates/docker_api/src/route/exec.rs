//! Further processes in running containers.

use crate::attach::{hijack, media};
use crate::error::ApiError;
use crate::reply::{self, Result};
use crate::route::Version;
use crate::server::Call;
use crate::translate::create::exec_console_size;
use crate::translate::text;
use docker_wire::models::{ExecConfig, ExecInspectResponse, ExecStartConfig, ProcessConfig};
use docker_wire::stdcopy::{self, Stream};
use engine::model::{Exec, ExecSpec, ExecState};
use engine::{ExecClient, Framing};
use hyper::StatusCode;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// `POST /containers/{id}/exec`
pub(crate) async fn create(mut call: Call) -> Result {
    let body: ExecConfig = call.json().await?;
    let spec = ExecSpec {
        args: body.cmd.unwrap_or_default(),
        env: body.env.unwrap_or_default(),
        working_dir: text(body.working_dir),
        user: text(body.user),
        tty: body.tty.unwrap_or(false),
        console_size: exec_console_size(body.console_size)?,
        attach_stdin: body.attach_stdin.unwrap_or(false),
        attach_stdout: body.attach_stdout.unwrap_or(false),
        attach_stderr: body.attach_stderr.unwrap_or(false),
        privileged: body.privileged.unwrap_or(false),
        detach_keys: text(body.detach_keys),
    };
    let id = call.engine().exec_create(call.who(), spec).await?;
    // the description's type for this answer spells its field in another way than clients read it
    reply::json_with(StatusCode::CREATED, &serde_json::json!({ "Id": id.to_string() }))
}

/// `POST /exec/{id}/start`
pub(crate) async fn start(mut call: Call) -> Result {
    let body: ExecStartConfig = call.json_or_default().await?;
    let exec = call.engine().exec(call.who())?;
    if exec.state != ExecState::Created {
        return Err(ApiError::new(StatusCode::CONFLICT, format!("exec {} has run already; make a new one", exec.id)));
    }
    let size = exec_console_size(body.console_size)?;
    let id = exec.id.to_string();
    let spec = &exec.spec;
    if body.detach.unwrap_or(false) || !(spec.attach_stdin || spec.attach_stdout || spec.attach_stderr) {
        call.engine().exec_start(&id, None).await?;
        return Ok(reply::empty(StatusCode::OK));
    }
    let container = call.engine().container(exec.container.as_str())?;
    if container.phase != engine::model::Phase::Running {
        let state = if container.phase == engine::model::Phase::Paused { "paused" } else { "not running" };
        return Err(ApiError::new(StatusCode::CONFLICT, format!("container {} is {state}", container.name)));
    }
    // what the client says now, which need not be what the exec was made with
    let tty = body.tty.unwrap_or(false);
    let framing = if tty { Framing::Raw } else { Framing::Multiplexed };
    let (client, reply) = hijack(&mut call.request, media(tty, call.version >= Version::minor(42)));
    tokio::spawn(async move {
        let (connection, ahead) = match client.connection().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(%error, "a client went away while its exec was being started");
                return;
            }
        };
        let spare = connection.try_clone();
        match call.engine().exec_start(&id, Some(ExecClient { connection, ahead, framing })).await {
            Ok(()) => {
                if let Some((rows, columns)) = size {
                    // an exec that has ended already has no terminal any more
                    let _ = call.engine().exec_resize(&id, rows, columns).await;
                }
            }
            Err(error) => {
                if let Ok(spare) = spare {
                    tell(&spare, &error.to_string(), tty);
                }
            }
        }
    });
    Ok(reply)
}

/// The answer has been given; what went wrong is told where the output would have been.
fn tell(client: &OwnedFd, message: &str, tty: bool) {
    let text = format!("{message}\r\n");
    let mut bytes = Vec::new();
    if !tty {
        bytes.extend_from_slice(&stdcopy::header(Stream::Stderr, u32::try_from(text.len()).unwrap_or(0)));
    }
    bytes.extend_from_slice(text.as_bytes());
    // a fresh connection's buffer takes a line; a client that is gone needs none
    match rustix::net::send(client.as_fd(), &bytes, rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT)
    {
        Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => {}
        Err(errno) => tracing::debug!(%errno, "cannot tell a client why its exec failed"),
    }
}

/// How often and how many times an exec is looked at whose process is gone but whose end has not been told yet.
pub(super) const GLANCE: Duration = Duration::from_millis(5);
pub(super) const GLANCES: usize = 200;

/// An exec's state. A client asks for the exit code when its stream ends, which may be a moment before the helper's word of it
/// has been read: while it is said to start, or the process is gone and yet said to run, that word is on its way.
async fn settled(call: &Call) -> Result<Exec> {
    for _ in 0..GLANCES {
        let exec = call.engine().exec(call.who())?;
        match exec.state {
            ExecState::Starting => tokio::time::sleep(GLANCE).await,
            ExecState::Running { pid } if !has_process(pid) => tokio::time::sleep(GLANCE).await,
            _ => return Ok(exec),
        }
    }
    Ok(call.engine().exec(call.who())?)
}

/// Whether a process is there and not on its way out: its output ends before it can be waited for.
///
/// # Source
/// `proc_pid_stat(5)`; Linux `include/linux/sched.h`, `PF_EXITING`.
pub(super) fn has_process(pid: i32) -> bool {
    const EXITING: u64 = 4;
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // the name before may have any bytes
    let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
    let mut fields = fields.split(' ');
    let state = fields.next().unwrap_or_default();
    let flags: u64 = fields.nth(5).and_then(|flags| flags.parse().ok()).unwrap_or(0);
    !matches!(state, "Z" | "X") && flags & EXITING == 0
}

/// `GET /exec/{id}/json`
pub(crate) async fn inspect(call: Call) -> Result {
    let exec = settled(&call).await?;
    let spec = &exec.spec;
    let (program, arguments) = spec.args.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    let (running, exit_code, pid) = match exec.state {
        ExecState::Created => (false, None, 0),
        ExecState::Starting => (true, None, 0),
        ExecState::Running { pid } => (true, None, pid),
        ExecState::Exited { code } => (false, Some(code), 0),
    };
    let process = ProcessConfig {
        privileged: Some(spec.privileged),
        user: spec.user.clone(),
        tty: Some(spec.tty),
        entrypoint: Some(program.to_owned()),
        arguments: Some(arguments.to_vec()),
    };
    let answer = ExecInspectResponse {
        can_remove: Some(false),
        detach_keys: Some(spec.detach_keys.clone().unwrap_or_default()),
        id: Some(exec.id.to_string()),
        running: Some(running),
        exit_code: exit_code.map(i64::from),
        process_config: Some(process),
        open_stdin: Some(spec.attach_stdin),
        open_stderr: Some(spec.attach_stderr),
        open_stdout: Some(spec.attach_stdout),
        container_id: Some(exec.container.to_string()),
        pid: Some(pid.into()),
    };
    // a client that polls reads ExitCode as null until there is one
    let mut value =
        serde_json::to_value(answer).map_err(|error| ApiError::internal(format!("cannot write the exec: {error}")))?;
    if let Some(map) = value.as_object_mut() {
        map.entry("ExitCode").or_insert(serde_json::Value::Null);
    }
    reply::json(&value)
}

/// How long a size waits for its terminal, in glances.
const RESIZE_GLANCES: usize = 2000;

/// `POST /exec/{id}/resize`. Clients size the terminal as soon as the start's answer has begun, which is before the program runs.
pub(crate) async fn resize(call: Call) -> Result {
    let (rows, columns) = super::container::terminal_size(&call)?;
    let mut glances = 0;
    while matches!(call.engine().exec(call.who())?.state, ExecState::Created | ExecState::Starting) {
        glances += 1;
        if glances > RESIZE_GLANCES {
            return Err(ApiError::internal("timeout waiting for exec session ready"));
        }
        tokio::time::sleep(GLANCE).await;
    }
    call.engine().exec_resize(call.who(), rows, columns).await?;
    Ok(reply::empty(StatusCode::OK))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_that_has_ended_is_none() {
        assert!(super::has_process(std::process::id().cast_signed()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        // until it is waited for it is there, but it runs no more
        while super::has_process(pid) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!super::has_process(pid) && !super::has_process(0));
    }
}
