//! A snapshot that is being written: nobody sees it before it is whole.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags};
use rustix::io::Errno;
use sys::handed;

use super::{MEMORY, STATE, SnapshotError, file};

/// The files, in a folder beside the one that they are to become; or given by whoever asked for the snapshot, who then gives
/// the folder its name.
pub(super) struct Draft {
    pub(super) memory: File,
    pub(super) state: File,
    own: Option<Own>,
}

struct Own {
    partial: PathBuf,
    folder: PathBuf,
    /// Locked: what is not is left from a program that was killed.
    lock: File,
}

fn create(path: &Path) -> Result<File, SnapshotError> {
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(file("making", path))
}

fn make(partial: &Path) -> Result<File, SnapshotError> {
    for _ in 0..2 {
        match fs::DirBuilder::new().mode(0o700).create(partial) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            outcome => outcome.map_err(file("making", partial))?,
        }
        let lock = File::open(partial).map_err(file("opening", partial))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(SnapshotError::Busy(partial.to_owned())),
            Err(errno) => return Err(file("locking", partial)(errno.into())),
        }
        if fs::read_dir(partial).map_err(file("reading", partial))?.next().is_none() {
            return Ok(lock);
        }
        fs::remove_dir_all(partial).map_err(file("removing", partial))?;
    }
    Err(SnapshotError::Busy(partial.to_owned()))
}

/// Whether a snapshot is where this process can see it.
pub(super) fn is_there(folder: &Path) -> bool {
    handed::inside(folder).join(STATE).exists()
}

impl Draft {
    /// Whether this process makes the folder itself.
    pub(super) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Files for a snapshot that is to be `folder`.
    pub(super) fn begin(folder: &Path) -> Result<Self, SnapshotError> {
        let (memory, state) = (folder.join(MEMORY), folder.join(STATE));
        if handed::has(&memory, OFlags::WRONLY) {
            let open = |path: &Path| handed::open(path, OFlags::WRONLY).map_err(file("opening", path));
            return Ok(Self { memory: open(&memory)?, state: open(&state)?, own: None });
        }
        let folder = handed::inside(folder);
        if folder.exists() {
            return Err(SnapshotError::Exists(folder));
        }
        let mut partial = folder.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let lock = make(&partial)?;
        let made = create(&partial.join(MEMORY)).and_then(|memory| Ok((memory, create(&partial.join(STATE))?)));
        let own = Own { partial, folder, lock };
        match made {
            Ok((memory, state)) => Ok(Self { memory, state, own: Some(own) }),
            Err(error) => {
                own.abandon();
                Err(error)
            }
        }
    }

    /// Everything is written: it is brought to the disk, and gets its name.
    pub(super) fn finish(self, folder: &Path) -> Result<(), SnapshotError> {
        let synced = self.memory.sync_all().and_then(|()| self.state.sync_all());
        let Some(own) = self.own else { return synced.map_err(file("writing", folder)) };
        let named = || -> Result<(), SnapshotError> {
            synced.and_then(|()| own.lock.sync_all()).map_err(file("writing", &own.partial))?;
            match rustix::fs::renameat_with(CWD, &own.partial, CWD, &own.folder, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(Errno::EXIST) => return Err(SnapshotError::Exists(own.folder.clone())),
                Err(errno) => return Err(file("naming", &own.folder)(errno.into())),
            }
            let above = own.folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(above).and_then(|above| above.sync_all()).map_err(file("writing", above))
        };
        let outcome = named();
        if outcome.is_err() {
            own.abandon();
        }
        outcome
    }

    /// It is not to be.
    pub(super) fn abandon(self) {
        if let Some(own) = self.own {
            own.abandon();
        }
    }
}

impl Own {
    fn abandon(&self) {
        // What is half written is no snapshot; the error that led here is the one to be told.
        let _left = fs::remove_dir_all(&self.partial);
    }
}
