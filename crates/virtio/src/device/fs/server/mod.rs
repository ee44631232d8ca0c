//! The FUSE server: takes a request apart, finds what it is about, and writes the answer.

mod attributes;
mod content;
mod folders;
mod names;
mod nodes;
mod state;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::device::{DeviceError, Metrics};
use crate::queue::{Reader, Writer};
use nodes::{Handles, Nodes};

/// Bytes of the answer's header.
const OUT_HEADER: usize = 16;
/// The protocol's version that is spoken here; an older driver has what it needs from it.
const VERSION: (u32, u32) = (7, 31);
/// Pages of one read or write.
const MOST_PAGES: u16 = 256;
const PAGE_BYTES: u32 = 4096;
/// The longest name.
const NAME_MAX: usize = 255;
/// How long the guest may trust what it knows, seconds: the host's programs use the folder too.
const VALID_SECONDS: u64 = 1;

/// What the guest may do with a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// Read.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// A folder can't be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// It can't be opened.
    #[error("cannot share the folder {}", path.display())]
    Open {
        /// The folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Its tag is none.
    #[error("{tag:?} is no tag for a shared folder: give one to 36 bytes")]
    Tag {
        /// The tag.
        tag: String,
    },
}

/// What is said to a request.
enum Answer {
    /// Nothing, not even that it is done.
    Silence,
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many bytes that stand behind the header already.
    Written(usize),
}

/// A request without its arguments.
#[derive(Debug, Clone, Copy)]
struct Call {
    node: u64,
    uid: u32,
    gid: u32,
}

type Outcome = Result<Answer, Errno>;
type Operation = fn(&mut Server, Call, &mut Arguments<'_, '_>, &mut Writer<'_>) -> Outcome;

/// Operations by number, with whether they change the folder.
const OPERATIONS: &[(u32, Operation, Effect)] = &[
    (1, Server::lookup, Effect::None),
    (2, Server::forget, Effect::None),
    (3, Server::attributes, Effect::None),
    (4, Server::set_attributes, Effect::Change),
    (5, Server::read_link, Effect::None),
    (6, Server::symlink, Effect::Change),
    (8, Server::make_node, Effect::Change),
    (9, Server::make_folder, Effect::Change),
    (10, Server::unlink, Effect::Change),
    (11, Server::remove_folder, Effect::Change),
    (12, Server::rename, Effect::Change),
    (13, Server::link, Effect::Change),
    (14, Server::open, Effect::None),
    (15, Server::read, Effect::None),
    (16, Server::write, Effect::Change),
    (17, Server::file_system, Effect::None),
    (18, Server::release, Effect::None),
    (20, Server::sync, Effect::None),
    (21, Server::set_xattr, Effect::Change),
    (22, Server::xattr, Effect::None),
    (23, Server::xattrs, Effect::None),
    (24, Server::remove_xattr, Effect::Change),
    (25, Server::flush, Effect::None),
    (26, Server::start, Effect::None),
    (27, Server::open_folder, Effect::None),
    (28, Server::list, Effect::None),
    (29, Server::release, Effect::None),
    (30, Server::sync, Effect::None),
    (35, Server::create, Effect::Change),
    (36, Server::interrupt, Effect::None),
    (38, Server::end, Effect::None),
    (42, Server::forget_many, Effect::None),
    (43, Server::allocate, Effect::Change),
    (44, Server::list_with_attributes, Effect::None),
    (45, Server::rename_with, Effect::Change),
    (46, Server::seek, Effect::None),
    (47, Server::copy, Effect::Change),
];

/// Whether an operation changes the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    None,
    Change,
}

/// The server of one folder.
#[derive(Debug)]
pub(super) struct Server {
    sharing: Sharing,
    nodes: Nodes,
    handles: Handles,
    /// `/proc/self/fd`, by which a place is opened for reading and writing.
    proc: OwnedFd,
    /// Whether files may be given to other users.
    may_give: bool,
    counters: Counters,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counters {
    requests: u64,
    errors: u64,
    read_bytes: u64,
    written_bytes: u64,
}

/// The arguments of a request, read in order. One that is missing is an error of the driver's, which it is told.
struct Arguments<'a, 'c>(&'a mut Reader<'c>);

impl Arguments<'_, '_> {
    fn word(&mut self) -> Result<u32, Errno> {
        self.0.array().map(u32::from_le_bytes).ok_or(Errno::INVAL)
    }

    fn long(&mut self) -> Result<u64, Errno> {
        self.0.array().map(u64::from_le_bytes).ok_or(Errno::INVAL)
    }

    fn skip(&mut self, bytes: usize) {
        self.0.skip(bytes);
    }

    /// Bytes up to a zero.
    fn text(&mut self, most: usize) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        loop {
            match self.0.array::<1>() {
                Some([0]) => return Ok(text),
                Some([byte]) if text.len() < most => text.push(byte),
                Some(_) => return Err(Errno::NAMETOOLONG),
                None => return Err(Errno::INVAL),
            }
        }
    }

    /// The name of something in a folder: one step, down.
    fn name(&mut self) -> Result<Vec<u8>, Errno> {
        let name = self.text(NAME_MAX)?;
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        Ok(name)
    }
}

impl Server {
    pub(super) fn new(folder: &Path, sharing: Sharing) -> Result<Self, ShareError> {
        let failed = |source: Errno| ShareError::Open { path: folder.to_owned(), source: source.into() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = |source| ShareError::Open { path: folder.to_owned(), source };
        let root = sys::handed::open(folder, flags).map_err(opened)?.into();
        let proc = rustix::fs::open("/proc/self/fd", flags, Mode::empty()).map_err(failed)?;
        Ok(Self {
            sharing,
            nodes: Nodes::new(root).map_err(failed)?,
            handles: Handles::default(),
            proc,
            // Root has it, and so has a confined machine's process for the folders that it sees.
            may_give: rustix::thread::capabilities(None)
                .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::CHOWN)),
            counters: Counters::default(),
        })
    }

    /// Does one request.
    pub(super) fn serve(&mut self, reader: &mut Reader<'_>, writer: &mut Writer<'_>) -> Result<(), DeviceError> {
        let header: [u8; 40] = reader.array().ok_or(DeviceError::Protocol("a FUSE request without a header"))?;
        let word = |at: usize| header[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        let long = |at: usize| header[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        let (number, unique) = (word(4), long(8));
        let call = Call { node: long(16), uid: word(24), gid: word(28) };
        let place = OPERATIONS.binary_search_by_key(&number, |entry| entry.0);
        let outcome = match place.map(|place| &OPERATIONS[place]) {
            Err(_) => Err(Errno::NOSYS),
            Ok((_, _, Effect::Change)) if self.sharing == Sharing::ReadOnly => Err(Errno::ROFS),
            // What writes its answer itself has room behind the header, or none.
            Ok((_, operation, _)) => operation(self, call, &mut Arguments(reader), writer),
        };
        self.counters.requests += 1;
        self.counters.errors += u64::from(outcome.is_err());
        let (errno, bytes, behind) = match outcome {
            Ok(Answer::Silence) => return Ok(()),
            Ok(Answer::Bytes(bytes)) => (0, bytes, 0),
            Ok(Answer::Written(behind)) => (0, Vec::new(), behind),
            Err(errno) => (-errno.raw_os_error(), Vec::new(), 0),
        };
        if writer.remaining() < OUT_HEADER + bytes.len() {
            return Err(DeviceError::Protocol("a FUSE request without room for its answer"));
        }
        let length = u32::try_from(OUT_HEADER + bytes.len() + behind).unwrap_or(u32::MAX);
        writer.write(&[&length.to_le_bytes()[..], &errno.to_le_bytes(), &unique.to_le_bytes(), &bytes].concat());
        writer.skip(behind);
        Ok(())
    }

    /// The driver says which version it speaks, and what it can.
    fn start(&mut self, _call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        // Reads at once; opens that cut; large writes; data that changed is dropped; listings with attributes, when they
        // help; folders read by several; `max_pages` counts; the server takes setuid bits off.
        const WANTED: u32 = 1 | 1 << 3 | 1 << 5 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 18 | 1 << 19 | 1 << 22;
        let (major, _minor, ahead, flags) =
            (arguments.word()?, arguments.word()?, arguments.word()?, arguments.word()?);
        if major < VERSION.0 {
            return Err(Errno::PROTO);
        }
        self.forget_all();
        let mut answer = Vec::with_capacity(64);
        answer.extend([VERSION.0, VERSION.1, ahead, flags & WANTED].iter().flat_map(|word| word.to_le_bytes()));
        // Requests in the background, and from where on the guest waits.
        answer.extend([64_u16, 48].iter().flat_map(|half| half.to_le_bytes()));
        answer.extend((u32::from(MOST_PAGES) * PAGE_BYTES).to_le_bytes());
        // Times are in nanoseconds.
        answer.extend(1_u32.to_le_bytes());
        answer.extend(MOST_PAGES.to_le_bytes());
        answer.resize(64, 0);
        Ok(Answer::Bytes(answer))
    }

    fn end(&mut self, _call: Call, _: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        self.forget_all();
        Ok(Answer::Bytes(Vec::new()))
    }

    /// Requests are done in order, so the one to interrupt is done.
    fn interrupt(&mut self, _call: Call, _: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        Ok(Answer::Silence)
    }

    /// As when the guest has not mounted anything yet.
    pub(super) fn forget_all(&mut self) {
        self.nodes.clear();
        self.handles = Handles::default();
    }

    pub(super) fn metrics(&self) -> Metrics {
        let Counters { requests, errors, read_bytes, written_bytes } = self.counters;
        Metrics::from([
            ("errors", errors),
            ("nodes", self.nodes.len() as u64),
            ("open_files", self.handles.len() as u64),
            ("read_bytes", read_bytes),
            ("requests", requests),
            ("written_bytes", written_bytes),
        ])
    }

    /// The place of a node in `/proc`, for calls that take no descriptor of a mere place.
    fn proc_path(&self, node: u64) -> Result<PathBuf, Errno> {
        let fd = self.nodes.fd(node)?.as_raw_fd();
        Ok(PathBuf::from(format!("/proc/self/fd/{fd}")))
    }

    /// Opens a node's file or folder; nothing else is ever opened.
    fn reopen(&self, node: u64, flags: OFlags) -> Result<OwnedFd, Errno> {
        let place = self.nodes.fd(node)?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(place)?.st_mode);
        if !kind.is_file() && !kind.is_dir() {
            return Err(Errno::NXIO);
        }
        let name = place.as_raw_fd().to_string();
        // The link in /proc is followed, and nothing behind it is one.
        rustix::fs::openat(&self.proc, name.as_str(), (flags - OFlags::NOFOLLOW) | OFlags::CLOEXEC, Mode::empty())
    }

    fn give(&self, folder: BorrowedFd<'_>, name: &[u8], call: Call) -> Result<(), Errno> {
        if !self.may_give {
            return Ok(());
        }
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(folder, name, attributes::user(call.uid), attributes::group(call.gid), flags)
    }
}
