//! What is said: requests, replies, events.

use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The protocol's version; a helper refuses a [`Create`] with a version it does not know.
pub const VERSION: u32 = 2;

/// The descriptor on which a helper finds its first connection: its standard input, because a plain spawn can place it there.
pub const INHERITED_FD: i32 = 0;

/// What frames carry around their body.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Matches a reply to its request; 0 for events.
    pub id: u64,
    /// How many descriptors of the stream belong to this frame.
    #[serde(default)]
    pub fds: usize,
    /// The message itself.
    pub body: T,
}

/// What the daemon asks of a helper.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Builds the container up to, but not including, the user's program. First request, once. Answer: [`Reply::Created`].
    /// Descriptors: the layers' detached mounts, top first, then the network namespace if [`Create::netns`].
    Create(Box<Create>),
    /// Lets the user's program run. Answer: [`Reply::Started`] once `execve` succeeded, [`Reply::Failed`] if it did not.
    Start,
    /// Sends a signal to the init process, or to every process of the container. Answer: [`Reply::Done`].
    Signal {
        /// The signal's number.
        signal: i32,
        /// Every process of the container's cgroup, not only init.
        all: bool,
    },
    /// Freezes the container's cgroup. Answer: [`Reply::Done`].
    Pause,
    /// Thaws it. Answer: [`Reply::Done`].
    Resume,
    /// Changes limits of the running container. Answer: [`Reply::Done`].
    Update {
        /// The fields that are set replace the current ones.
        resources: Box<LinuxResources>,
    },
    /// Gives the helper a client's connection, which it then serves by itself: output goes out (framed as Docker's
    /// stdcopy unless the process has a terminal), input comes in, until either side ends. Answer: [`Reply::Done`].
    /// Descriptor: the connection, a stream socket.
    Attach {
        /// Whose streams.
        process: ProcessId,
        /// Which of them.
        streams: Streams,
        /// Bytes that the client had sent ahead (read together with the HTTP request).
        ahead: Vec<u8>,
        /// Key sequence that detaches a terminal's client, as bytes; empty for none.
        detach_keys: Vec<u8>,
    },
    /// Starts one more process in the container. Answer: [`Reply::Started`] or [`Reply::Failed`]; its end comes as
    /// [`Event::Exited`]. Descriptor: the client's connection, if [`Exec::attach`] is given.
    Exec(Box<Exec>),
    /// Kills one process: an exec that takes too long. Answer: [`Reply::Done`], also where it has ended already.
    Kill {
        /// Which.
        process: ProcessId,
    },
    /// Sets a terminal's size. Answer: [`Reply::Done`].
    Resize {
        /// Whose terminal.
        process: ProcessId,
        /// Rows of characters.
        rows: u16,
        /// Columns of characters.
        cols: u16,
    },
    /// Writes the processes down into a folder that exists, from which [`Create::restore`] makes them again. Answer:
    /// [`Reply::Done`]; where the container ends with it, its end comes as [`Event::Exited`] like any other.
    Checkpoint {
        /// The folder.
        images: PathBuf,
        /// Whether it goes on.
        then: Afterwards,
    },
    /// Asks for the present state, which a new daemon needs. Answer: [`Reply::State`].
    State,
    /// The daemon has recorded the exit: the helper removes its files in [`Create::runtime_dir`] and ends. A helper
    /// whose container still runs answers [`Reply::Failed`]; a created but never started container is torn down.
    Quit,
}

/// One process of a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessId {
    /// The container's first process.
    Init,
    /// An exec, by its id.
    Exec(String),
}

/// Which streams an attached client takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Streams {
    /// The client's bytes are the process's input.
    pub stdin: bool,
    /// The client gets standard output (for a terminal: everything).
    pub stdout: bool,
    /// The client gets standard error.
    pub stderr: bool,
}

/// Everything that a helper needs to make a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Create {
    /// [`VERSION`].
    pub version: u32,
    /// The container's id.
    pub id: String,
    /// The OCI runtime configuration. `root.path` is unused; [`Create::rootfs`] says where the root comes from.
    /// `linux.seccomp` is unused; see [`Create::seccomp`].
    pub spec: Spec,
    /// Where the root file system comes from.
    pub rootfs: Rootfs,
    /// The compiled seccomp program, or none for an unconfined container.
    pub seccomp: Option<SeccompProgram>,
    /// True if the last descriptor is a network namespace to join (its `network` entry in the spec is then ignored).
    pub netns: bool,
    /// Extended stdio behaviour.
    pub stdio: Stdio,
    /// Where output goes.
    #[serde(default)]
    pub log: Log,
    /// Written with an atomic rename before the exit is announced: the [`Exit`] as JSON. The helper itself stays until
    /// it is told to quit, so this serves only who finds it gone; `None` for a container that goes with its end.
    pub exit_file: Option<PathBuf>,
    /// A folder, made by the daemon, in which the helper makes `shim.sock`, its listening socket.
    pub runtime_dir: PathBuf,
    /// Run a tiny init of our own as process 1, which starts the user's program, forwards signals and reaps orphans.
    pub init: bool,
    /// Another OCI runtime that makes and runs the container in place of the helper; `linux.seccomp` is used then, and
    /// [`Create::seccomp`] is not.
    #[serde(default)]
    pub runtime: Option<Runtime>,
    /// A folder in which [`Request::Checkpoint`] has written processes down: they go on in place of a new program.
    #[serde(default)]
    pub restore: Option<PathBuf>,
}

/// Another OCI runtime: a program with runc's command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// The program, by its path or its name in `PATH`.
    pub program: PathBuf,
    /// Arguments before those of each command.
    #[serde(default)]
    pub arguments: Vec<String>,
}

/// What becomes of a container that is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Afterwards {
    /// It ends.
    Ends,
    /// It goes on.
    Runs,
}

/// Where a root file system comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Rootfs {
    /// overlayfs over read-only layers, which come as descriptors of detached mounts, top first.
    Overlay {
        /// How many descriptors are layers.
        layers: usize,
        /// The folder that holds `upper` and `work` (both exist); `None` for a read-only root without an upper layer.
        writable: Option<PathBuf>,
        /// Nothing in the upper layer needs to survive a crash of the host: overlayfs may skip its syncs.
        volatile: bool,
    },
    /// A plain folder, used in place.
    Directory {
        /// Absolute path.
        path: PathBuf,
    },
}

/// A classic BPF program for `seccomp(2)`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SeccompProgram {
    /// `SECCOMP_FILTER_FLAG_*` bits.
    pub flags: u32,
    /// The instructions, each packed as `code | jt << 16 | jf << 24 | k << 32`.
    pub instructions: Vec<u64>,
}

/// Extended stdio behaviour, beside `process.terminal` in the spec.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Stdio {
    /// Keep an input open for attaching clients; else the process reads end of file.
    pub open_stdin: bool,
    /// The first client that ends its input ends the process's input.
    pub stdin_once: bool,
}

/// Where a container's output goes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Log {
    /// A file, which can be read again.
    pub file: Option<LogFile>,
    /// A service of the host or the network.
    pub service: Option<LogService>,
}

/// A record of output: one JSON object a line, `{"log","stream","attrs","time"}`, as Docker's json-file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogFile {
    /// The current file; older ones get `.1`, `.2`, … appended.
    pub path: PathBuf,
    /// Rotate when the file would grow beyond this many bytes; 0 for never.
    pub max_bytes: u64,
    /// How many files are kept, the current one included; at least 1.
    pub max_files: u32,
    /// Whether older files are compressed by gzip, with `.gz` at the end.
    pub compress: Compress,
    /// Goes with every line; may be empty.
    pub attributes: BTreeMap<String, String>,
}

impl From<LogFile> for Log {
    fn from(file: LogFile) -> Self {
        Self { file: Some(file), service: None }
    }
}

impl LogFile {
    /// One file without a bound.
    #[must_use]
    pub fn unbounded(path: PathBuf) -> Self {
        Self { path, max_bytes: 0, max_files: 1, compress: Compress::No, attributes: BTreeMap::new() }
    }
}

/// Whether older files of a log are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compress {
    /// They stay as they are.
    #[default]
    No,
    /// By gzip.
    Gzip,
}

/// A service that takes output line by line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "service", rename_all = "snake_case")]
pub enum LogService {
    /// systemd's journal, by its native protocol.
    Journald {
        /// Its socket.
        socket: PathBuf,
        /// What goes with every line beside the message and its priority.
        fields: Vec<(String, String)>,
    },
    /// A syslog server.
    Syslog(Syslog),
}

/// How lines are sent to a syslog server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syslog {
    /// Where it is.
    pub address: SyslogAddress,
    /// The facility's number, 0 to 23.
    pub facility: u8,
    /// How a line is put.
    pub format: SyslogFormat,
    /// What the lines are marked with.
    pub tag: String,
    /// The host's name.
    pub hostname: String,
}

/// Where a syslog server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyslogAddress {
    /// Datagrams to an address.
    Udp(std::net::SocketAddr),
    /// A stream to an address.
    Tcp(std::net::SocketAddr),
    /// A socket of this host: datagrams, or a stream where it takes none.
    Unix(PathBuf),
}

/// How syslog lines are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyslogFormat {
    /// `<30>Jan  2 03:04:05 tag[pid]: line`, for the host's own server.
    #[default]
    Local,
    /// The same with the host's name before the tag.
    Rfc3164,
    /// `<30>1 2026-01-02T03:04:05Z host tag pid tag - line`.
    Rfc5424,
    /// The same with microseconds.
    Rfc5424Micro,
}

/// One more process in a running container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exec {
    /// The exec's id, unique within the container.
    pub id: String,
    /// What to run: arguments, environment, user, capabilities, working folder, terminal and its size.
    pub process: Process,
    /// The seccomp program of the container, unless the exec is privileged.
    pub seccomp: Option<SeccompProgram>,
    /// Keep an input for the attached client.
    pub open_stdin: bool,
    /// A client's connection comes with the request, as with [`Request::Attach`].
    pub attach: Option<ExecAttach>,
}

/// How an exec's client is attached.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecAttach {
    /// Which streams.
    pub streams: Streams,
    /// Bytes sent ahead.
    pub ahead: Vec<u8>,
    /// Key sequence that detaches; empty for none.
    pub detach_keys: Vec<u8>,
    /// How output is put on the connection.
    pub framing: Framing,
}

/// How output is put on a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// `[stream, 0, 0, 0, length: u32be] payload`: both streams can be told apart.
    Multiplexed,
    /// As it comes.
    Raw,
}

/// What a helper says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// An answer to the request with the envelope's id.
    Reply(Reply),
    /// Something happened.
    Event(Event),
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Done, nothing to tell.
    Done,
    /// The container stands, its init waits for [`Request::Start`].
    Created(Created),
    /// The program runs.
    Started {
        /// Process id on the host.
        pid: i32,
    },
    /// The present state.
    State(State),
    /// It could not be done; what had been made for it is gone.
    Failed(Failure),
}

/// What was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Created {
    /// Init's process id on the host.
    pub pid: i32,
    /// Each namespace of the container and its inode number: `("mnt", 4026532201)`, names as in `/proc/PID/ns`.
    pub namespaces: Vec<(String, u64)>,
    /// The cgroup files that were written and the value that the kernel then showed.
    pub cgroup: Vec<CgroupValue>,
    /// What had to be left out or changed, in plain words (a limit that this kernel lacks, a clamped rlimit).
    pub warnings: Vec<String>,
}

/// One cgroup file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupValue {
    /// Absolute path of the file.
    pub path: PathBuf,
    /// Its content after the write, trimmed.
    pub value: String,
}

/// The present state of a helper's container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Where in its life the container is.
    pub phase: Phase,
    /// Init's process id on the host; 0 before creation and after the end.
    pub pid: i32,
    /// How init ended, in phase [`Phase::Exited`].
    pub exit: Option<Exit>,
    /// Exec ids that still run, with their process ids on the host.
    pub execs: Vec<(String, i32)>,
}

/// The helper's view of the container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No [`Request::Create`] came yet.
    Empty,
    /// Created, init waits.
    Created,
    /// The user's program runs.
    Running,
    /// Frozen.
    Paused,
    /// Init has ended.
    Exited,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal where a signal ended it.
    pub code: i32,
    /// The kernel's out-of-memory killer struck within the container.
    pub oom_killed: bool,
    /// When, as nanoseconds since the Unix epoch.
    pub at_ns: u64,
}

/// What happens without being asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A process ended and all its output is in the log. For init, the container's cgroups, mounts and
    /// namespaces are gone when this is sent.
    Exited {
        /// Which.
        process: ProcessId,
        /// How.
        exit: Exit,
    },
    /// A process of the container was killed for want of memory, while init may go on.
    OomKilled,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// The chain of causes in one line, lower case: what was wrong, with what, and what to do.
    pub message: String,
}

/// Kinds of failures, by what the daemon does with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The program does not exist in the container: exit code 127.
    CommandNotFound,
    /// The program cannot be executed: exit code 126.
    CommandNotExecutable,
    /// The request or its configuration is wrong.
    Invalid,
    /// Not possible in this state.
    Conflict,
    /// The thing named does not exist (a process, a device, a bind source).
    NotFound,
    /// This host cannot do it.
    Unsupported,
    /// The kernel refused something that should have worked.
    Internal,
}
