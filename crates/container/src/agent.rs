//! The agent that answers system calls (`SCMP_ACT_NOTIFY`): the filter's descriptor is sent to its socket.
//!
//! ```text
//! process   loads the filter, says what the agent is to know and the descriptor's number, waits     (only write and read)
//! parent    takes the descriptor out of the process, sends both to linux.seccomp.listenerPath, says go
//! ```
//!
//! The process itself could not: a filter may hold back the very calls that it needs to send something.
//!
//! # Source
//! OCI runtime specification, config-linux.md, "The Container Process State".

use crate::error::{Doing, Result, SetupError};
use crate::hooks::State;
use crate::sync::{Line, PART, Word};
use oci_spec::runtime::Spec;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};
use rustix::process::PidfdGetfdFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where an agent listens, and what the configuration has it told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listener {
    path: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<String>,
}

impl Listener {
    /// That of a configuration; `None` where it has none.
    pub(crate) fn of(spec: &Spec) -> Option<Self> {
        let seccomp = spec.linux().as_ref()?.seccomp().as_ref()?;
        let path = seccomp.listener_path().clone().filter(|path| !path.as_os_str().is_empty())?;
        Some(Self { path, metadata: seccomp.listener_metadata().clone() })
    }

    /// What the agent is told of a process, and where it listens: everything but the ids that only the process's parent knows.
    pub(crate) fn describe(&self, version: &str, state: Option<&State<'_>>) -> String {
        let mut told = json!({"ociVersion": version, "fds": ["seccompFd"]});
        if let Some(metadata) = &self.metadata {
            told["metadata"] = json!(metadata);
        }
        told["state"] = state.and_then(|state| serde_json::to_value(state).ok()).unwrap_or_else(|| json!({}));
        json!({"path": self.path, "told": told}).to_string()
    }
}

/// What the agent of a container's first process is told.
pub(crate) fn describe(spec: &Spec, state: Option<&State<'_>>) -> Option<String> {
    Some(Listener::of(spec)?.describe(spec.version(), state))
}

/// Asks the parent to take `listener` to the agent, and waits until it is there.
pub(crate) fn ask(line: &Line, description: Option<&str>, listener: &OwnedFd) -> Result<()> {
    let text = description
        .ok_or_else(|| SetupError::invalid("linux.seccomp.listenerPath: SCMP_ACT_NOTIFY needs an agent to answer"))?;
    let mut rest = text;
    while !rest.is_empty() {
        let mut end = rest.len().min(PART);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (part, next) = rest.split_at(end);
        line.say(&Word::Agent(part.to_owned()), &[])?;
        rest = next;
    }
    line.say(&Word::Listener(listener.as_raw_fd()), &[])?;
    // plain read, as any seccomp program lets it through
    let mut word = [0_u8; 1];
    let count = rustix::io::read(line, &mut word).doing(|| "cannot hear the other end")?;
    if count == 1 && word == *b"g" { Ok(()) } else { sys::process::exit_now(1) }
}

/// Takes descriptor `number` of the process to its agent.
pub(crate) fn serve(process: BorrowedFd<'_>, description: &str, number: i32) -> Result<()> {
    let wrong = || SetupError::invalid("linux.seccomp.listenerPath: the process did not say where its agent is");
    let mut description: Value = serde_json::from_str(description).map_err(|_| wrong())?;
    let path = description.get("path").and_then(Value::as_str).ok_or_else(wrong)?.to_owned();
    let what = || format!("linux.seccomp.listenerPath: failed to connect with seccomp agent {path}");
    let taken = rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty()).doing(what)?;
    let pid = crate::namespaces::pid_of(process)?;
    let told = description.get_mut("told").ok_or_else(wrong)?;
    told["pid"] = json!(pid);
    if told["state"]["pid"].is_null() {
        // the first process: another one is told of with a state that has its container's
        told["state"]["pid"] = json!(pid);
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).doing(what)?;
    connect(&socket, &SocketAddrUnix::new(Path::new(&path)).doing(what)?).doing(what)?;
    let text = told.to_string();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [taken.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = sendmsg(&socket, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL).doing(what)?;
    let mut rest = text.as_bytes().get(sent..).unwrap_or_default();
    while !rest.is_empty() {
        let count = rustix::net::send(&socket, rest, SendFlags::NOSIGNAL).doing(what)?;
        rest = rest.get(count..).unwrap_or_default();
    }
    Ok(())
}
