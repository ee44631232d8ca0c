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
use std::time::Duration;

use control::machine::{MAX_CPUS, MachineSpec};
use rustix::fs::{FlockOperation, OFlags};
use sys::handed;

use crate::jail::{self, Jail, JailError, Leaving, Network, Plan};
use crate::machine::{Event, Machine, MachineError};
use console::{Console, Log};
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
    /// What the machine is to be; without it, the API is told.
    pub origin: Option<Origin>,
    /// Whether the program confines itself.
    pub jail: Confinement,
    /// The control group that it makes and joins.
    pub group: Option<Group>,
}

/// Where a machine's specification is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    Specification(PathBuf),
    /// In a snapshot's folder: the machine is to be restored.
    Snapshot(PathBuf),
}

/// A control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its path: below this program's own group, or from the top of each hierarchy if it begins with a slash.
    pub path: String,
    /// The most memory, in bytes, that the process may use beside its guest's.
    pub overhead: Option<u64>,
}

/// How the program is confined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confinement {
    /// Not at all: to look for faults.
    None,
    /// In a jail.
    Jail {
        /// The folder that becomes its root.
        root: Option<PathBuf>,
        /// Who stays where the program was started.
        leaving: Leaving,
    },
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
    /// The file with the machine's specification has something else.
    #[error("{}: the machine's specification", path.display())]
    Specification {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The machine can't be what it is to be.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Its control group.
    #[error("the control group {path}")]
    Group {
        /// Its path.
        path: String,
        /// What went wrong.
        source: cgroup::CgroupError,
    },
    /// The program can't be confined.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// Somebody else runs here.
    #[error("{} is locked: another insula-vmm runs here", .0.display())]
    Locked(PathBuf),
    /// A thread could not be started.
    #[error("starting a thread")]
    Thread(#[source] io::Error),
}

/// How long the program's end waits until a client has been sent its answer: longer than a write may take.
const LAST_ANSWER: Duration = Duration::from_secs(6);

/// Where the answer to a request goes.
struct Reply {
    answer: Sender<Response>,
    /// Closed once the answer is written, or can't be.
    written: Receiver<()>,
}

impl Reply {
    /// Hands the answer to the thread that writes it, and gives what says when that is done; nothing if nobody waits for it.
    fn send(self, response: Response) -> Option<Receiver<()>> {
        self.answer.send(response).is_ok().then_some(self.written)
    }
}

/// What the main thread is asked to do.
enum Work {
    Request(Request, Reply),
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
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(fail)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| ProgramError::Locked(path.to_owned()))?;
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
    let locked = options.lock.as_deref().map(lock).transpose()?;
    if options.jail != Confinement::None {
        handed::keep();
    }
    let spec = options.origin.as_ref().map(|origin| read(origin, &options.jail)).transpose()?;
    let log = |path: &Path| Log::open(path).map_err(|source| ProgramError::Open { path: path.to_owned(), source });
    let log = options.log.as_deref().map(log).transpose()?;
    let terminals = options.console.as_deref().map(listen).transpose()?;
    let api = listen(&options.api)?;
    let jail = confine(options, spec.as_ref(), locked.as_ref())?;
    let confined = jail.is_some();
    let (sender, work) = channel();
    let console = Console::start(terminals, log)?;
    let requests = sender.clone();
    std::thread::Builder::new()
        .name("api".to_owned())
        .spawn(move || {
            hv::thread::begin();
            api::serve(&api, &requests);
        })
        .map_err(ProgramError::Thread)?;
    let spec = spec.filter(|_| matches!(options.origin, Some(Origin::Specification(_))));
    let state = State::new(sender, console.clone(), spec, jail);
    let code = main_loop(&work, state);
    console.finish();
    // In a jail they are out of reach; whoever looks for the machine asks its lock.
    if confined {
        return Ok(code);
    }
    // Sockets that nobody answers are taken for a machine.
    for path in [Some(&options.api), options.console.as_ref()].into_iter().flatten() {
        let _gone = std::fs::remove_file(path);
    }
    Ok(code)
}

/// The machine's specification, with all that it needs opened if this process will not be able to later.
fn read(origin: &Origin, confinement: &Confinement) -> Result<MachineSpec, ProgramError> {
    let spec = match origin {
        Origin::Snapshot(folder) => return Ok(Machine::hand_over_snapshot(folder)?),
        Origin::Specification(path) => {
            let text = std::fs::read(path).map_err(|source| ProgramError::Open { path: path.clone(), source })?;
            serde_json::from_slice(&text)
                .map_err(|source| ProgramError::Specification { path: path.clone(), source })?
        }
    };
    if *confinement != Confinement::None {
        Machine::hand_over(&spec)?;
    }
    Ok(spec)
}

/// Makes a control group and goes into it; nothing of it stays if that fails.
fn join(group: &Group, spec: Option<&MachineSpec>) -> Result<(), ProgramError> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("insula-vmm: without a control group: only root makes them");
        return Ok(());
    }
    let guest = spec.map_or(control::machine::DEFAULT_MEMORY, |spec| spec.memory);
    let memory = group.overhead.map(|overhead| serde_json::json!({ "limit": guest.saturating_add(overhead) }));
    let limits = serde_json::json!({ "memory": memory });
    let failed = |source| ProgramError::Group { path: group.path.clone(), source };
    let resources = serde_json::from_value(limits)
        .map_err(|source| ProgramError::Specification { path: PathBuf::from(&group.path), source })?;
    let make = |host: cgroup::Host| host.create_at(&host.place(Some(&group.path), "insula-vm")?, &resources);
    let (made, _applied) = cgroup::Host::glance(Some(&resources)).and_then(make).map_err(failed)?;
    made.place(std::process::id().cast_signed()).map_err(|source| {
        // The error that led here is the one to be told.
        let _left = made.remove();
        failed(source)
    })
}

/// Closes the jail around this program, if it is to be in one.
fn confine(options: &Options, spec: Option<&MachineSpec>, lock: Option<&File>) -> Result<Option<Jail>, ProgramError> {
    let Confinement::Jail { root, leaving } = &options.jail else {
        if let Some(mut lock) = lock {
            let written = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
            let path = options.lock.clone().unwrap_or_default();
            written.map_err(|source| ProgramError::Open { path, source })?;
        }
        return Ok(None);
    };
    for device in ["/dev/kvm", "/dev/userfaultfd"] {
        // Whoever needs it says that it is not there.
        let _absent = handed::open(Path::new(device), OFlags::RDWR);
    }
    // Afterwards no device can be opened.
    if let Some(group) = &options.group {
        join(group, spec)?;
    }
    // It may have to be measured, and is asked for by every machine.
    hv::clock::host_tsc_khz();
    let outside = spec.is_some_and(|spec| spec.nets.iter().any(|net| net.tap.is_none()));
    let plan = Plan {
        root: root.as_deref(),
        network: if outside { Network::Host } else { Network::None },
        shares: spec.map_or_else(Vec::new, |spec| spec.shares.iter().map(|share| share.path.clone()).collect()),
        cpus: spec.map_or(MAX_CPUS, |spec| spec.cpus),
        leaving: *leaving,
        lock,
    };
    let jail = jail::enter(&plan)?;
    for missing in &jail.missing {
        eprintln!("insula-vmm: without {missing}");
    }
    Ok(Some(jail))
}

fn main_loop(work: &Receiver<Work>, mut state: State) -> u8 {
    let mut last = None;
    // The sender is held here: there is always somebody who could send.
    while let Ok(work_now) = work.recv() {
        let next = match work_now {
            Work::Request(request, reply) => {
                let (response, next) = api::answer(&mut state, request);
                last = reply.send(response);
                next
            }
            Work::Machine(event) => state.happened(event),
        };
        if let Next::End(code) = next {
            take_leave(work, last);
            return code;
        }
    }
    0
}

/// Lets the API's thread write what it has to say before the process ends: one answer on its way, and one to who asked as the machine ended.
fn take_leave(work: &Receiver<Work>, mut last: Option<Receiver<()>>) {
    loop {
        if let Some(written) = last {
            // Closed or too late: either way there is nothing more to wait for.
            let _written = written.recv_timeout(LAST_ANSWER);
        }
        last = loop {
            match work.try_recv() {
                Ok(Work::Request(request, reply)) => break reply.send(api::too_late(&request)),
                Ok(Work::Machine(_)) => {}
                Err(_) => return,
            }
        };
    }
}
