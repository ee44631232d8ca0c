//! The helper that is kept ready, which forks a copy of itself for each container.

use crate::helper::{Helper, HelperError};
use control::{Envelope, WireError};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

/// Makes helpers.
#[derive(Debug)]
pub(crate) struct Zygote {
    program: PathBuf,
    /// The connection to the one that runs; `None` before the first and after a death.
    running: Mutex<Option<UnixStream>>,
}

impl Zygote {
    /// Starts one; where that fails, each launch tries again and says why.
    pub(crate) fn new(program: &Path) -> Self {
        let running = spawn(program).inspect_err(|error| tracing::warn!(%error, "no helper is ready")).ok();
        Self { program: program.to_owned(), running: Mutex::new(running) }
    }

    /// A helper process of its own for one container.
    ///
    /// # Errors
    /// [`HelperError::Spawn`] if the program cannot be run, [`HelperError::Connect`] if no socket can be had.
    pub(crate) fn helper(&self) -> Result<Helper, HelperError> {
        let (ours, theirs) = UnixStream::pair().map_err(HelperError::Connect)?;
        let theirs = OwnedFd::from(theirs);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zygote) = running.as_ref()
            && hand_over(zygote, &theirs).is_ok()
        {
            return Helper::over(ours);
        }
        // none yet, or somebody killed it
        let zygote = spawn(&self.program)?;
        hand_over(&zygote, &theirs).map_err(HelperError::Wire)?;
        *running = Some(zygote);
        Helper::over(ours)
    }
}

fn hand_over(zygote: &UnixStream, connection: &OwnedFd) -> Result<(), WireError> {
    let frame = control::encode(&Envelope { id: 0, fds: 1, body: () })?;
    let mut sent = 0;
    while sent < frame.len() {
        let fds = if sent == 0 { vec![connection.as_fd()] } else { Vec::new() };
        sent += control::send(zygote.as_fd(), &frame[sent..], &fds)?;
    }
    Ok(())
}

fn spawn(program: &Path) -> Result<UnixStream, HelperError> {
    let (ours, theirs) = UnixStream::pair().map_err(HelperError::Connect)?;
    let child = tokio::process::Command::new(program)
        .arg("--zygote")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .env_clear()
        .current_dir("/")
        .kill_on_drop(false)
        .spawn()
        .map_err(|cause| HelperError::Spawn { program: program.display().to_string(), cause })?;
    // dropping the handle leaves reaping to the runtime
    drop(child);
    Ok(ours)
}
