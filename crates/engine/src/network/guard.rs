//! The helper that answers for names and guards the packet filter: found, started, and told everything again when it is a
//! new one.

use crate::error::{EngineError, ErrorClass, Result};
use net::NetError;
use net::netd::Netd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a new helper may take to listen.
const START: Duration = Duration::from_secs(5);

/// The connection to the helper, while there is one.
#[derive(Debug)]
pub(crate) struct Guard {
    program: PathBuf,
    socket: PathBuf,
    netd: Mutex<Option<Arc<Netd>>>,
}

impl Guard {
    pub(crate) fn new(program: &Path, socket: PathBuf) -> Self {
        Self { program: program.to_owned(), socket, netd: Mutex::new(None) }
    }

    /// Where the helper listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The helper that is known.
    pub(crate) fn known(&self) -> Option<Arc<Netd>> {
        self.netd.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The helper: the one that is known, one that a daemon before us started, or a new one. Whoever finds one that is new
    /// to us has `tell` tell it everything before anybody else gets it.
    ///
    /// Blocks, for milliseconds where a helper is started.
    ///
    /// # Errors
    /// [`ErrorClass::Unavailable`] if none can be had, and what `tell` meets.
    pub(crate) fn helper(&self, tell: impl FnOnce(&Netd) -> Result<()>) -> Result<Arc<Netd>> {
        let mut known = self.netd.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(netd) = known.as_ref() {
            return Ok(Arc::clone(netd));
        }
        let netd = match Netd::connect(&self.socket) {
            Ok(netd) => netd,
            Err(_) => self.start()?,
        };
        tell(&netd)?;
        let netd = Arc::new(netd);
        *known = Some(Arc::clone(&netd));
        Ok(netd)
    }

    /// Forgets a helper that has gone.
    pub(crate) fn lost(&self, gone: &Arc<Netd>) {
        let mut known = self.netd.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|netd| Arc::ptr_eq(netd, gone)) {
            *known = None;
        }
    }

    fn start(&self) -> Result<Netd> {
        let cannot = |error: &dyn std::error::Error| {
            let what = format!("cannot start the network helper {}", self.program.display());
            EngineError::because(ErrorClass::Unavailable, what, error)
        };
        let mut child = tokio::process::Command::new(&self.program)
            .arg(&self.socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env_clear()
            .current_dir("/")
            .kill_on_drop(false)
            .spawn()
            .map_err(|error| cannot(&error))?;
        let begun = Instant::now();
        loop {
            match Netd::connect(&self.socket) {
                // dropping the child leaves reaping to the runtime
                Ok(netd) => return Ok(netd),
                Err(error) if begun.elapsed() > START => return Err(cannot(&error)),
                Err(error) => {
                    if let Ok(Some(_)) = child.try_wait() {
                        // another may have been faster
                        return Netd::connect(&self.socket).map_err(|_| cannot(&error));
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// An error of the network as the engine has it.
pub(crate) fn failed(what: impl std::fmt::Display, error: &NetError) -> EngineError {
    let class = match error {
        NetError::NoLink { .. } | NetError::Name { .. } | NetError::NotBridge { .. } => ErrorClass::Invalid,
        NetError::Kind { .. } => ErrorClass::Unsupported,
        NetError::Helper { .. } => ErrorClass::Unavailable,
        _ => ErrorClass::Internal,
    };
    EngineError::because(class, what, error)
}
