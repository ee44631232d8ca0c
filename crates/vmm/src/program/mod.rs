//! The program `insula-vmm`: one machine behind a unix socket.
//!
//! ```text
//!  api thread: one request after another ──Work──> main thread: owns the machine <──Work── vCPUs, devices
//!  console thread: console.sock, console.log <──> serial port
//! ```

mod api;
mod console;
mod http;
mod state;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::fs::FlockOperation;

use crate::machine::Event;
use console::Console;
use http::{Request, Response};
use state::{Next, State};

/// Where the program keeps what it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The API's socket.
    pub api: PathBuf,
    /// The console's socket.
    pub console: Option<PathBuf>,
    /// A file that gets what the console shows, bounded.
    pub log: Option<PathBuf>,
    /// A file that is locked as long as the program lives, with its process number.
    pub lock: Option<PathBuf>,
}

/// Why the program could not start.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// A socket could not be made.
    #[error("listening on {}", path.display())]
    Listen {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be opened.
    #[error("opening {}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else runs here.
    #[error("{} is locked: another insula-vmm runs here", .0.display())]
    Locked(PathBuf),
    /// A thread could not be started.
    #[error("starting a thread")]
    Thread(#[source] io::Error),
}

/// What the main thread is asked to do.
enum Work {
    Request(Request, Sender<Response>),
    Machine(Event),
}

fn listen(path: &Path) -> Result<UnixListener, ProgramError> {
    // A socket that nobody listens on any more is left from a program that was killed.
    if rustix::fs::lstat(path).is_ok_and(|stat| stat.st_mode & 0o170_000 == 0o140_000)
        && std::os::unix::net::UnixStream::connect(path).is_err()
    {
        // If it can't be removed, listening says so.
        let _left = std::fs::remove_file(path);
    }
    UnixListener::bind(path).map_err(|source| ProgramError::Listen { path: path.to_owned(), source })
}

fn lock(path: &Path) -> Result<File, ProgramError> {
    let fail = |source| ProgramError::Open { path: path.to_owned(), source };
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(fail)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| ProgramError::Locked(path.to_owned()))?;
    file.set_len(0).map_err(fail)?;
    writeln!(file, "{}", std::process::id()).map_err(fail)?;
    Ok(file)
}

/// For the fuzz target: reads a request's bytes.
pub(crate) fn parse_stranger(bytes: &[u8]) {
    http::parse_stranger(bytes);
}

/// Runs until the machine ends or the API says so, and gives the exit code.
///
/// # Errors
/// The program could not start.
pub fn run(options: &Options) -> Result<u8, ProgramError> {
    let _locked = options.lock.as_deref().map(lock).transpose()?;
    let (sender, work) = channel();
    let console = Console::start(options.console.as_deref().map(listen).transpose()?, options.log.as_deref())?;
    let api = listen(&options.api)?;
    let requests = sender.clone();
    std::thread::Builder::new()
        .name("api".to_owned())
        .spawn(move || api::serve(&api, &requests))
        .map_err(ProgramError::Thread)?;
    let code = main_loop(&work, &sender, &console);
    console.finish();
    // Sockets that nobody answers are taken for a machine.
    for path in [Some(&options.api), options.console.as_ref()].into_iter().flatten() {
        let _gone = std::fs::remove_file(path);
    }
    Ok(code)
}

fn main_loop(work: &Receiver<Work>, sender: &Sender<Work>, console: &Console) -> u8 {
    let mut state = State::new(sender.clone(), console.clone());
    // The sender is held here: there is always somebody who could send.
    while let Ok(work) = work.recv() {
        let next = match work {
            Work::Request(request, reply) => {
                let (response, next) = api::answer(&mut state, &request);
                // Whoever asked may be gone.
                let _gone = reply.send(response);
                next
            }
            Work::Machine(event) => state.happened(event),
        };
        if let Next::End(code) = next {
            return code;
        }
    }
    0
}
