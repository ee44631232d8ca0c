//! The folders of containers.

use crate::error::{Doing, Result, SetupError};
use control::FailureKind;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir};
use rustix::io::Errno;
use std::cell::{Cell, OnceCell};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Every file that a container's folder may have.
const FILES: [&str; 4] = ["criu.pid", "seccomp", "start", RECORD];
const RECORD: &str = "state.json";
/// The folder that a container is shown if somebody waits for its readiness.
const NOTIFY: &str = "notify";
const START: &str = "start";
const LONGEST_ID: usize = 1024;

/// The folder of all containers.
#[derive(Debug, Clone)]
pub(crate) struct Root(PathBuf);

/// The folder of one container.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
    /// The record, if it was begun here.
    record: OnceCell<OwnedFd>,
    /// Whether its list of files has been read, and has to be read from the beginning again.
    listed: Cell<bool>,
}

/// Checks a container's id.
///
/// # Errors
/// [`FailureKind::Invalid`] for one that cannot be a file's name or has other characters than letters, digits and `_+-.`
pub(crate) fn check_id(id: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if id.is_empty() {
        return Err(SetupError::invalid("container id cannot be empty"));
    }
    if matches!(id, "." | "..") || !id.bytes().all(fits) || id.len() > LONGEST_ID {
        let bad = id.chars().find(|one| !u8::try_from(*one).is_ok_and(fits));
        let bad = bad.map(|one| format!(" invalid character `{one}` in the ID;")).unwrap_or_default();
        let text = format!("invalid container ID format {id:?}:{bad} letters, digits and _+-. make an id");
        return Err(SetupError::invalid(text));
    }
    Ok(())
}

impl Root {
    /// Where the folder is that a container is shown if somebody waits for its readiness.
    pub(crate) fn notify_of(&self, id: &str) -> PathBuf {
        self.0.join(id).join(NOTIFY)
    }

    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Makes the folder of a new container; nobody else has it then.
    ///
    /// # Errors
    /// [`FailureKind::Conflict`] where the id is taken.
    pub(crate) fn reserve(&self, id: &str) -> Result<Folder> {
        check_id(id)?;
        let path = self.0.join(id);
        let private = Mode::from_raw_mode(0o711);
        let made = match rustix::fs::mkdir(&path, private) {
            Err(Errno::NOENT) => {
                use std::os::unix::fs::DirBuilderExt as _;
                let mut builder = std::fs::DirBuilder::new();
                builder.recursive(true).mode(0o700).create(&self.0).doing(|| self.0.display().to_string())?;
                rustix::fs::mkdir(&path, private)
            }
            other => other,
        };
        match made {
            Ok(()) => self.find(id).inspect_err(|_| {
                // a folder with nothing in it would only keep the id from being used
                let _ = rustix::fs::rmdir(&path);
            }),
            Err(Errno::EXIST) => Err(SetupError::new(FailureKind::Conflict, "container with given ID already exists")),
            Err(errno) => Err(errno).doing(|| path.display().to_string()),
        }
    }

    /// Opens the folder of a container.
    ///
    /// # Errors
    /// [`FailureKind::NotFound`] where there is none.
    pub(crate) fn find(&self, id: &str) -> Result<Folder> {
        check_id(id)?;
        let path = self.0.join(id);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Folder { fd, path, record: OnceCell::new(), listed: Cell::new(false) }),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                Err(SetupError::new(FailureKind::NotFound, "container does not exist"))
            }
            Err(errno) => Err(errno).doing(|| path.display().to_string()),
        }
    }

    /// The ids of all containers, sorted.
    ///
    /// # Errors
    /// What reading the folder says, except that it is missing.
    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.doing(|| self.0.display().to_string())?,
        };
        let mut ids: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|id| check_id(id).is_ok())
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }
}

impl Folder {
    /// The socket in the folder that the container is shown.
    pub(crate) const NOTIFY_SOCKET: &str = "notify.sock";

    /// Makes the folder that the container is shown.
    pub(crate) fn show_notify(&self) -> Result<()> {
        rustix::fs::mkdirat(&self.fd, NOTIFY, Mode::from_raw_mode(0o755)).doing(|| self.shown(NOTIFY))
    }

    /// The socket in it, that every user of the container may write to; `None` where there is no such folder.
    pub(crate) fn notify_socket(&self) -> Result<Option<OwnedFd>> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let shown = || self.shown(NOTIFY);
        let folder = match rustix::fs::openat(&self.fd, NOTIFY, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.doing(shown)?,
        };
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).doing(shown)?;
        let address = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), Self::NOTIFY_SOCKET);
        rustix::net::bind(&socket, &SocketAddrUnix::new(address).doing(shown)?).doing(shown)?;
        let everybody = Mode::from_raw_mode(0o777);
        rustix::fs::chmodat(&folder, Self::NOTIFY_SOCKET, everybody, AtFlags::empty()).doing(shown)?;
        Ok(Some(socket))
    }

    fn remove_notify(&self) -> Result<()> {
        let socket = format!("{NOTIFY}/{}", Self::NOTIFY_SOCKET);
        for (name, flags) in [(socket.as_str(), AtFlags::empty()), (NOTIFY, AtFlags::REMOVEDIR)] {
            match rustix::fs::unlinkat(&self.fd, name, flags) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).doing(|| self.shown(name)),
            }
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a new file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let fd = self.open(name, OFlags::CREATE | OFlags::TRUNC)?;
        self.put(fd.as_fd(), name, bytes)?;
        sys::process::close_later(fd);
        Ok(())
    }

    /// Begins the record of a new container.
    pub(crate) fn begin_record(&self, bytes: &[u8]) -> Result<()> {
        let fd = self.open(RECORD, OFlags::CREATE | OFlags::TRUNC | OFlags::APPEND)?;
        self.put(self.record.get_or_init(|| fd).as_fd(), RECORD, bytes)
    }

    /// Adds to the record.
    pub(crate) fn add_to_record(&self, bytes: &[u8]) -> Result<()> {
        let file = match self.record.get() {
            Some(file) => file,
            None => {
                let file = self.open(RECORD, OFlags::APPEND)?;
                self.record.get_or_init(|| file)
            }
        };
        self.put(file.as_fd(), RECORD, bytes)
    }

    /// The record; `None` where there is none.
    pub(crate) fn record(&self) -> Result<Option<Vec<u8>>> {
        self.read(RECORD)
    }

    fn open(&self, name: &str, how: OFlags) -> Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | how;
        rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600)).doing(|| self.shown(name))
    }

    fn put(&self, file: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = rustix::io::retry_on_intr(|| rustix::io::write(file, rest)).doing(|| self.shown(name))?;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// The content of a file; `None` where there is none.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.doing(|| self.shown(name))?,
        };
        let mut bytes = Vec::with_capacity(4096);
        std::io::Read::read_to_end(&mut std::fs::File::from(fd), &mut bytes).doing(|| self.shown(name))?;
        Ok(Some(bytes))
    }

    /// The socket on which the first process waits for its start. The address goes by way of our descriptor, since a path may be longer
    /// than the 107 bytes that fit in one.
    pub(crate) fn listen(&self) -> Result<OwnedFd> {
        let socket = self.socket()?;
        rustix::net::bind(&socket, &self.address()?).doing(|| self.shown(START))?;
        rustix::net::listen(&socket, 4).doing(|| "listen")?;
        Ok(socket)
    }

    /// Connects to that socket.
    pub(crate) fn connect(&self) -> Result<OwnedFd> {
        let socket = self.socket()?;
        rustix::net::connect(&socket, &self.address()?).doing(|| self.shown(START))?;
        Ok(socket)
    }

    fn socket(&self) -> Result<OwnedFd> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).doing(|| "socket")
    }

    fn address(&self) -> Result<rustix::net::SocketAddrUnix> {
        let path = format!("/proc/self/fd/{}/{START}", self.fd.as_raw_fd());
        rustix::net::SocketAddrUnix::new(path).doing(|| self.shown(START))
    }

    /// Removes the folder with what a container has in it.
    ///
    /// # Errors
    /// [`FailureKind::Conflict`] where there is anything else in it: nothing is removed then.
    pub(crate) fn remove(&self) -> Result<()> {
        let own = self.own_files()?;
        for name in own {
            if name == NOTIFY {
                self.remove_notify()?;
                continue;
            }
            match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).doing(|| self.shown(name)),
            }
        }
        match rustix::fs::rmdir(&self.path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).doing(|| self.path.display().to_string()),
        }
    }

    /// Which files of a container's are there; an error where there are others.
    fn own_files(&self) -> Result<Vec<&'static str>> {
        let what = || self.path.display().to_string();
        if self.listed.replace(true) {
            rustix::fs::seek(&self.fd, rustix::fs::SeekFrom::Start(0)).doing(what)?;
        }
        let mut room = [MaybeUninit::uninit(); 2048];
        let mut entries = RawDir::new(&self.fd, &mut room);
        let mut own = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry.doing(what)?;
            let name = entry.file_name().to_string_lossy();
            match FILES.iter().find(|have| **have == name) {
                Some(file) => own.push(*file),
                None if matches!(&*name, "." | "..") => {}
                None if name == NOTIFY => own.push(NOTIFY),
                None => {
                    let text = format!("{} has {name:?} in it, which is not a container's; it stays", what());
                    return Err(SetupError::new(FailureKind::Conflict, text));
                }
            }
        }
        Ok(own)
    }

    fn shown(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_files() {
        for good in ["a", "web-1", "a_b+c.d", "..."] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "a b", "ü", "a\0"] {
            check_id(bad).unwrap_err();
        }
        check_id(&"x".repeat(LONGEST_ID + 1)).unwrap_err();
    }

    #[test]
    fn an_id_is_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path().join("deep/root"));
        assert_eq!(root.ids().unwrap(), Vec::<String>::new());
        let one = root.reserve("one").unwrap();
        assert_eq!(root.reserve("one").unwrap_err().kind, FailureKind::Conflict);
        assert_eq!(root.find("two").unwrap_err().kind, FailureKind::NotFound);
        one.begin_record(b"{}").unwrap();
        one.add_to_record(b"[]").unwrap();
        root.find("one").unwrap().add_to_record(b"{}").unwrap();
        assert_eq!(one.record().unwrap().unwrap(), b"{}[]{}");
        assert_eq!(one.read("seccomp").unwrap(), None);
        assert_eq!(root.ids().unwrap(), ["one"]);
        std::fs::write(one.path().join("mine"), "").unwrap();
        assert_eq!(one.remove().unwrap_err().kind, FailureKind::Conflict);
        assert!(one.path().join("state.json").exists());
        std::fs::remove_file(one.path().join("mine")).unwrap();
        one.remove().unwrap();
        assert_eq!(root.ids().unwrap(), Vec::<String>::new());
    }
}
