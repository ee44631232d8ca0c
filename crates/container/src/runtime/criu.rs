//! Checkpoints by the program `criu`: what it is asked, what it tells while it works, and what it says in the end.
//!
//! `criu swrk FD` answers one request over a socket. Requests and answers are Protocol Buffers; while it restores, it stops at
//! certain points, says which, and goes on when it is answered.
//!
//! ```text
//! request {type, options} ->          <- response {type: notify, notify {script, pid}} (+ a terminal's master)
//! request {type: notify, well} ->     <- response {type, success, restored pid, errno, message}
//! ```
//!
//! # Source
//! criu's `images/rpc.proto`, <https://criu.org/RPC>; encoding: <https://protobuf.dev/programming-guides/encoding/>.

use crate::error::{Doing, Result, SetupError};
use control::FailureKind;
use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType,
};
use std::collections::HashMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// What it is asked to do, with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
}

/// What images call a network namespace from outside.
pub(crate) const NETWORK: &str = "extRootNetNS";
/// How control groups are made again: those that are there are used.
pub(crate) const SOFT: u64 = 3;
/// The number of an answer to what it has told, and of such a word.
const NOTIFY: u64 = 6;
/// An answer is a few dozen bytes, and a message for people.
const LONGEST_ANSWER: usize = 16 << 10;

/// The options that we set, with their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    ImagesFolder = 1,
    Pid = 2,
    LeaveRunning = 3,
    ExternalSockets = 4,
    Connections = 5,
    ShellJob = 7,
    FileLocks = 8,
    LogLevel = 9,
    LogFile = 10,
    PageServer = 11,
    Notify = 12,
    Root = 13,
    Parent = 14,
    TrackMemory = 15,
    Deduplicate = 16,
    WorkFolder = 17,
    ManageGroups = 24,
    GroupRoot = 25,
    Sibling = 26,
    Inherit = 27,
    GroupsMode = 34,
    External = 37,
    Empty = 38,
    FreezeGroup = 44,
    LazyPages = 48,
    StatusDescriptor = 49,
    OrphanTerminal = 50,
    Configuration = 51,
    SecurityProfile = 53,
    MountContext = 63,
}

/// Options of ours that are switches of criu's.
pub(crate) const SAME: [(&str, Field); 6] = [
    ("auto-dedup", Field::Deduplicate),
    ("ext-unix-sk", Field::ExternalSockets),
    ("file-locks", Field::FileLocks),
    ("lazy-pages", Field::LazyPages),
    ("shell-job", Field::ShellJob),
    ("tcp-established", Field::Connections),
];

/// A message as it is written: fields by number.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    fn variable(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or(0));
    }

    pub(crate) fn number(&mut self, field: u32, value: u64) {
        self.variable(u64::from(field) << 3);
        self.variable(value);
    }

    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) {
        self.variable(u64::from(field) << 3 | 2);
        self.variable(value.len() as u64);
        self.0.extend_from_slice(value);
    }
}

/// A field as it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message; `None` where it is none.
fn read(mut rest: &[u8]) -> Option<Vec<(u64, Read<'_>)>> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = take_variable(&mut rest)?;
        let value = match key & 7 {
            0 => Read::Number(take_variable(&mut rest)?),
            2 => {
                let count = usize::try_from(take_variable(&mut rest)?).ok()?;
                Read::Bytes(rest.split_off(..count)?)
            }
            _ => return None,
        };
        fields.push((key >> 3, value));
    }
    Some(fields)
}

fn take_variable(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What it answers.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    kind: u64,
    success: bool,
    /// Of the process that was restored, or that it tells of.
    pid: Option<i32>,
    script: String,
    message: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut answer = Self::default();
        let pid = |value: u64| i32::try_from(value).ok();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for (field, value) in read(bytes)? {
            match (field, value) {
                (1, Read::Number(kind)) => answer.kind = kind,
                (2, Read::Number(value)) => answer.success = value != 0,
                (4, Read::Bytes(inner)) => {
                    for (field, value) in read(inner)? {
                        if let (1, Read::Number(value)) = (field, value) {
                            answer.pid = pid(value);
                        }
                    }
                }
                (5, Read::Bytes(inner)) => {
                    for (field, value) in read(inner)? {
                        match (field, value) {
                            (1, Read::Bytes(bytes)) => answer.script = text(bytes),
                            (2, Read::Number(value)) => answer.pid = pid(value),
                            _ => {}
                        }
                    }
                }
                (9, Read::Bytes(bytes)) => answer.message = text(bytes).trim().to_owned(),
                _ => {}
            }
        }
        Some(answer)
    }
}

/// What of a container comes from outside: destinations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outside<'a> {
    pub(crate) binds: &'a [PathBuf],
    pub(crate) masked: &'a [PathBuf],
}

/// criu's word for a kind of namespace, and the name that the images get for one from outside.
fn external_namespace(kind: &str) -> Option<(&'static str, &'static str)> {
    match kind {
        "network" => Some(("net", NETWORK)),
        "pid" => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

/// One run of the program.
#[derive(Debug)]
pub(crate) struct Criu {
    verb: Verb,
    options: Message,
    log: PathBuf,
    /// That of the images and that of the log.
    folders: [PathBuf; 2],
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// The first process of what was restored.
    pub(crate) pid: Option<i32>,
    /// The master of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

impl Criu {
    /// A run over images in a folder; its log is in the work folder.
    pub(crate) fn new(verb: Verb, images: &Path, work: &Path) -> Self {
        let name = if verb == Verb::Restore { "restore.log" } else { "dump.log" };
        let folders = [images.to_owned(), work.to_owned()];
        let mut criu = Self { verb, options: Message::default(), log: work.join(name), folders };
        criu.text(Field::LogFile, name);
        criu.number(Field::LogLevel, 4);
        criu.flag(Field::OrphanTerminal);
        criu
    }

    pub(crate) fn flag(&mut self, field: Field) {
        self.number(field, 1);
    }

    pub(crate) fn number(&mut self, field: Field, value: u64) {
        self.options.number(field as u32, value);
    }

    pub(crate) fn text(&mut self, field: Field, value: impl AsRef<std::ffi::OsStr>) {
        self.options.bytes(field as u32, value.as_ref().as_encoded_bytes());
    }

    pub(crate) fn message(&mut self, field: Field, value: &Message) {
        self.options.bytes(field as u32, &value.0);
    }

    /// Has it use a descriptor of ours, which must not be closed on execution, for what the images call `name`.
    pub(crate) fn inherit(&mut self, fd: i32, name: &str) {
        let mut message = Message::default();
        message.bytes(1, name.as_bytes());
        message.number(2, u64::try_from(fd).unwrap_or(0));
        self.message(Field::Inherit, &message);
    }

    /// Has it put processes in a control group: `CONTROLLER:/PATH`, or `/PATH` for version 2.
    pub(crate) fn group(&mut self, root: &str) {
        let mut message = Message::default();
        let (controller, path) = root.split_once(':').unwrap_or(("", root));
        if !controller.is_empty() {
            message.bytes(1, controller.as_bytes());
        }
        message.bytes(2, path.as_bytes());
        self.message(Field::GroupRoot, &message);
    }

    /// Names criu's own configuration: the file that the annotation `org.criu.config` names, or the one that runtimes share.
    pub(crate) fn configuration(&mut self, annotations: Option<&HashMap<String, String>>) {
        let named = annotations.and_then(|all| all.get("org.criu.config")).filter(|path| !path.is_empty());
        let shared = || Some("/etc/criu/runc.conf".to_owned()).filter(|path| Path::new(path).exists());
        if let Some(path) = named.cloned().or_else(shared) {
            self.text(Field::Configuration, path);
        }
    }

    /// Names what of a running container is not its own: binds and hidden files.
    pub(crate) fn externals(&mut self, outside: &Outside<'_>, pid: i32) {
        for path in outside.binds {
            self.text(Field::External, format!("mnt[{0}]:{0}", path.display()));
        }
        for path in outside.masked {
            let inside = Path::new(&format!("/proc/{pid}/root")).join(path.strip_prefix("/").unwrap_or(path));
            if std::fs::metadata(inside).is_ok_and(|metadata| !metadata.is_dir()) {
                self.text(Field::External, format!("mnt[{0}]:{0}", path.display()));
            }
        }
    }

    /// Names the namespaces of a running container that were there before it: kind and path.
    pub(crate) fn joined(&mut self, joined: &[(String, PathBuf)]) -> Result<()> {
        for (kind, path) in joined {
            let Some((kind, name)) = external_namespace(kind) else { continue };
            let number = rustix::fs::stat(path).doing(|| format!("namespace {}", path.display()))?.st_ino;
            self.text(Field::External, format!("{kind}[{number}]:{name}"));
        }
        Ok(())
    }

    /// Names the sources of what a new container binds from outside.
    pub(crate) fn binds(&mut self, spec: &Spec) {
        for mount in spec.mounts().iter().flatten().filter(|mount| super::life::is_bind(mount)) {
            let source = mount.source().clone().unwrap_or_default();
            self.text(Field::External, format!("mnt[{}]:{}", mount.destination().display(), source.display()));
        }
        for path in spec.linux().iter().flat_map(|linux| linux.masked_paths().iter().flatten()) {
            self.text(Field::External, format!("mnt[{path}]:/dev/null"));
        }
    }

    /// Opens the namespaces that a new container joins, and names them. They stay open until criu has run.
    pub(crate) fn namespaces(&mut self, spec: &Spec) -> Result<Vec<OwnedFd>> {
        let mut open = Vec::new();
        let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        for one in all {
            let (Some(path), Some((_, name))) = (one.path(), external_namespace(&one.typ().to_string())) else {
                continue;
            };
            // criu inherits it
            let fd = rustix::fs::open(path, OFlags::RDONLY, Mode::empty());
            let fd = fd.doing(|| format!("namespace {}", path.display()))?;
            self.inherit(fd.as_raw_fd(), name);
            open.push(fd);
        }
        Ok(open)
    }

    /// Runs it to its end. What it tells on its way is `told`: the point that it has come to, and the first process; where that
    /// fails, it stops.
    ///
    /// # Errors
    /// [`FailureKind::Unsupported`] where it is not installed, [`FailureKind::Internal`] with the errors of its log.
    pub(crate) fn run(&self, told: &mut dyn FnMut(&str, i32) -> Result<()>) -> Result<Done> {
        let mut options = self.options.clone();
        // opened only now, because it works in them by our numbers: they have to be of the mounts that both of us see
        let open = |path: &PathBuf| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).doing(|| path.display().to_string())
        };
        let [images, work] = &self.folders;
        let folders = [(Field::ImagesFolder, open(images)?), (Field::WorkFolder, open(work)?)];
        for (field, fd) in &folders {
            options.number(*field as u32, u64::try_from(fd.as_raw_fd()).unwrap_or(0));
        }
        let (ours, mut child) = begin()?;
        let mut request = Message::default();
        request.number(1, self.verb as u64);
        request.bytes(2, &options.0);
        let mut done = Done::default();
        let mut failed = None;
        let ended = converse(
            &ours,
            request,
            &mut |script, pid| told(script, pid).inspect_err(|error| failed = Some(error.clone())),
            &mut done,
        );
        drop(ours);
        // it has said all; how it ends is no news
        let _ = child.wait();
        match (failed, ended) {
            (Some(error), _) => Err(error),
            (None, Ok(())) => Ok(done),
            (None, Err(why)) => {
                let log = std::fs::read(&self.log).unwrap_or_default();
                let all = [why, errors(&String::from_utf8_lossy(&log))];
                let why: Vec<&str> = all.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
                let text = format!("criu failed: {}; log file: {}", why.join("; "), self.log.display());
                Err(SetupError::new(FailureKind::Internal, text))
            }
        }
    }
}

/// Starts it with one end of a socket.
fn begin() -> Result<(OwnedFd, Child)> {
    let what = || "cannot make a socket for criu";
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).doing(what)?;
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).doing(what)?;
    let mut command = Command::new("criu");
    command.arg("swrk").arg(theirs.as_raw_fd().to_string());
    if std::env::var_os("PATH").is_none() {
        // helpers have no environment
        command.env("PATH", crate::SEARCHED);
    }
    let child = sys::job::with_signals(&mut command).spawn();
    let child = child.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => SetupError::unsupported(
            "criu is not installed: checkpoints need the program criu in PATH (on Debian: apt-get install criu)",
        ),
        _ => SetupError::new(FailureKind::Internal, format!("criu: {error}")),
    })?;
    Ok((ours, child))
}

/// Asks, answers what it asks back, and takes the result; an error is in its own words, if it has any.
fn converse(
    socket: &OwnedFd,
    mut request: Message,
    told: &mut dyn FnMut(&str, i32) -> Result<()>,
    done: &mut Done,
) -> std::result::Result<(), String> {
    loop {
        rustix::net::send(socket, &request.0, SendFlags::NOSIGNAL).map_err(|errno| format!("send: {errno}"))?;
        let mut room = vec![0; LONGEST_ANSWER];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut room)], &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let count = got.map_err(|errno| format!("recvmsg: {errno}"))?.bytes;
        if count == 0 {
            return Err("it ended without an answer".to_owned());
        }
        let answer = Answer::parse(room.get(..count).unwrap_or_default());
        let answer = answer.ok_or_else(|| "its answer is none".to_owned())?;
        if answer.kind != NOTIFY {
            done.pid = answer.pid;
            return if answer.success { Ok(()) } else { Err(answer.message) };
        }
        for message in control.drain() {
            if let (RecvAncillaryMessage::ScmRights(fds), "orphan-pts-master") = (message, &*answer.script) {
                done.terminal = fds.into_iter().next();
            }
        }
        let well = told(&answer.script, answer.pid.unwrap_or(0)).is_ok();
        request = Message::default();
        request.number(1, NOTIFY);
        request.number(3, u64::from(well));
    }
}

/// The lines of a log that tell of an error: the first, which is mostly the cause, and the last, which says what became of it.
fn errors(log: &str) -> String {
    // the time stands in front
    let text = |line: &str| {
        let text = line.split_once(") ").filter(|_| line.starts_with('(')).map_or(line, |(_, text)| text);
        text.trim().to_owned()
    };
    let mut told = log.lines().filter(|line| line.contains("Error")).map(text);
    match (told.next(), told.next_back()) {
        (Some(first), Some(last)) => format!("{first}; {last}"),
        (Some(only), None) => only,
        (None, _) => text(log.lines().next_back().unwrap_or("it wrote no log")),
    }
}

/// What the standard streams of a process are, for finding them again: one line of JSON as runc writes it.
pub(crate) fn write_descriptors(images: &Path, pid: i32) -> Result<()> {
    let name = |fd: u32| {
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{fd}"));
        link.map_or_else(|_| "/dev/null".to_owned(), |path| path.display().to_string())
    };
    let text = serde_json::to_vec(&[name(0), name(1), name(2)]).doing(|| "descriptors.json")?;
    std::fs::write(images.join("descriptors.json"), text)
        .doing(|| images.join("descriptors.json").display().to_string())
}

/// What they were.
pub(crate) fn read_descriptors(images: &Path) -> Result<Vec<String>> {
    let path = images.join("descriptors.json");
    let text = std::fs::read(&path).doing(|| path.display().to_string())?;
    serde_json::from_slice(&text).doing(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_error_are_told() {
        let log = "(00.1) Error (criu/vdso.c:613): vdso: no table\n(00.2) Error (a.c:1): x\n(00.2) Error (b.c:1): end\n(00.3) bye\n";
        assert_eq!(errors(log), "Error (criu/vdso.c:613): vdso: no table; Error (b.c:1): end");
        assert_eq!(errors("(00.1) Error (a.c:1): one"), "Error (a.c:1): one");
        assert_eq!(errors("(00.3) bye"), "bye");
        assert_eq!(errors(""), "it wrote no log");
    }

    #[test]
    fn messages_are_written_and_read() {
        let mut inner = Message::default();
        inner.bytes(1, b"setup-namespaces");
        inner.number(2, 300);
        let mut message = Message::default();
        message.number(1, NOTIFY);
        message.number(2, 1);
        message.bytes(5, &inner.0);
        assert_eq!(message.0.get(..4).unwrap(), [0x08, 6, 0x10, 1]);
        let answer = Answer::parse(&message.0).unwrap();
        assert_eq!((answer.kind, answer.success, answer.pid), (NOTIFY, true, Some(300)));
        assert_eq!(answer.script, "setup-namespaces");
        // cut short, too long, of a kind that is not used
        for bad in [&[0x08][..], &[0x2a, 5, 1], &[0xff; 11], &[0x09, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(Answer::parse(bad), None, "{bad:?}");
        }
    }
}
