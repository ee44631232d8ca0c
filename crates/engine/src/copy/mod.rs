//! Files into and out of containers, as archives, whether they run or not.
//!
//! `root` is a container's files as it sees them; [`image::transfer`] packs and unpacks below it, where the container's own processes
//! may put links in the way at any time.

mod root;

use crate::engine::Engine;
use crate::error::{EngineError, ErrorClass, Result, chain};
use crate::model::{Container, MountKind};
use crate::plan::user;
pub use image::transfer::Replace;
use image::transfer::{Naming, Owner, Rules, UnpackError, Wanted, pack, unpack};
use root::Root;
pub(crate) use root::Stills;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

/// What a file of a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The last part of its path.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// Type and permission bits, as stat(2) has them.
    pub mode: u32,
    /// When its content changed, nanoseconds since the Unix epoch.
    pub mtime_ns: i128,
    /// Where a symbolic link leads, as an absolute path of the container; empty for anything else.
    pub link_target: String,
}

/// Who owns what is copied in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owners {
    /// As the archive says.
    #[default]
    Archived,
    /// The container's user, where it has one of its own.
    User,
}

/// A part of a container's files that is to be archived.
#[derive(Debug)]
pub struct CopyOut {
    root: Root,
    wanted: Wanted,
    /// What is copied.
    pub stat: PathStat,
}

impl CopyOut {
    /// Writes the archive; blocks.
    ///
    /// # Errors
    /// [`crate::ErrorClass::Internal`] when a file cannot be read or `out` takes no more.
    pub fn write(&self, out: impl Write) -> Result<()> {
        pack(&self.root.fd, &self.wanted, self.root.shift, out)
            .map_err(|error| EngineError::internal("cannot archive the container's files", &error))
    }
}

impl Engine {
    /// What is at a path of a container; the last link is not followed.
    ///
    /// # Errors
    /// [`crate::ErrorClass::NotFound`] for container or path.
    pub async fn path_stat(&self, who: &str, path: &str) -> Result<PathStat> {
        Ok(self.open_out(who, path).await?.1.stat)
    }

    /// Opens a path of a container to archive it.
    ///
    /// # Errors
    /// As [`Self::path_stat`].
    pub async fn take_out(&self, who: &str, path: &str) -> Result<CopyOut> {
        let (container, taken) = self.open_out(who, path).await?;
        self.tell_container(&container, "archive-path", Vec::new());
        Ok(taken)
    }

    async fn open_out(&self, who: &str, path: &str) -> Result<(Arc<Container>, CopyOut)> {
        let wanted = wanted(path)?;
        let (container, guard) = self.at_rest(who).await?;
        let who = who.to_owned();
        self.off_thread(move |engine| {
            let root = Root::open(&engine.inner, &container, guard)?;
            let stat = root.stat(&wanted).map_err(|errno| missing(&wanted, &who, errno))?;
            Ok((container, CopyOut { root, wanted, stat }))
        })
        .await
    }

    /// Unpacks an archive, compressed or not, into a folder of a container. `body` is read on a thread of its own.
    ///
    /// # Errors
    /// [`crate::ErrorClass::NotFound`] for container or folder; [`crate::ErrorClass::Invalid`] for a path that is no folder, for a read-only
    /// place, for an archive that is none, and where folders and files would take each other's place against `replace`.
    pub async fn put_in(
        &self,
        who: &str,
        path: &str,
        (replace, owners): (Replace, Owners),
        body: Box<dyn Read + Send>,
    ) -> Result<()> {
        let wanted = wanted(path)?;
        let (container, guard) = self.at_rest(who).await?;
        let who = who.to_owned();
        writable(&container, &wanted)?;
        self.off_thread(move |engine| {
            let root = Root::open(&engine.inner, &container, guard)?;
            fill(&root, (&wanted, &who), &container, (replace, owners), body)?;
            engine.tell_container(&container, "extract-to-dir", Vec::new());
            Ok(())
        })
        .await
    }

    /// A container that does not begin to run while the guard is held; one that is about to run does so first.
    async fn at_rest(&self, who: &str) -> Result<(Arc<Container>, root::Guard)> {
        let id = self.container(who)?.id.clone();
        let guard = self.inner.still(&id).await;
        loop {
            let container = self.container(id.as_str())?;
            if container.phase != crate::model::Phase::Starting {
                return Ok((container, guard));
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    async fn off_thread<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let engine = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&engine)).await;
        done.map_err(|error| EngineError::internal("the copy was cut short", &error))?
    }
}

fn wanted(path: &str) -> Result<Wanted> {
    Wanted::new(path).ok_or_else(|| EngineError::invalid("the path in the container is empty or has a NUL character"))
}

/// Why there is nothing at a path.
fn missing(wanted: &Wanted, who: &str, errno: Errno) -> EngineError {
    let given = &wanted.given;
    match errno {
        Errno::NOENT => EngineError::not_found(format!("Could not find the file {given} in container {who}")),
        Errno::NOTDIR => EngineError::invalid(format!("{given} in container {who}: not a directory")),
        errno => {
            let text = format!("cannot reach {given} in container {who}");
            EngineError::because(ErrorClass::Internal, text, &std::io::Error::from(errno))
        }
    }
}

fn fill(
    root: &Root,
    (wanted, who): (&Wanted, &str),
    container: &Container,
    (replace, owners): (Replace, Owners),
    body: impl Read + Send,
) -> Result<()> {
    let into = wanted.whole();
    let folder = image::transfer::resolve(&root.fd, &into, OFlags::PATH);
    let stat = folder.and_then(rustix::fs::fstat).map_err(|errno| missing(wanted, who, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(EngineError::invalid("extraction point is not a directory"));
    }
    let owner = match owners {
        Owners::User if !container.process.user.is_empty() => {
            let user = user::resolve(&container.process.user, &[], &user::Accounts::read(&[root.fd.as_fd()]))?;
            Owner::Fixed(user.uid, user.gid)
        }
        Owners::User | Owners::Archived => Owner::Archived,
    };
    let bad = |error: &dyn std::error::Error| EngineError::invalid(format!("bad archive: {}", chain(error)));
    let plain = image::decompress(body).map_err(|error| bad(&error))?;
    let rules = Rules { replace, owner, naming: Naming::default(), shift: root.shift };
    let work = || unpack(root.fd.as_fd(), &into, &rules, plain);
    let done = match root.shift {
        Some(shift) => sys::owner::acting_as(shift.uid, shift.gid, work)
            .map_err(|error| EngineError::internal("cannot act as the container's root", &error))?,
        None => work(),
    };
    done.map_err(|error| match &error {
        UnpackError::Archive(cause) => bad(cause),
        UnpackError::FolderByFile(..) | UnpackError::FileByFolder(..) => EngineError::invalid(error.to_string()),
        UnpackError::Write(_, cause) if Errno::from_io_error(cause) == Some(Errno::ROFS) => {
            EngineError::invalid(format!("{error}: mounted volume or container rootfs is marked read-only"))
        }
        UnpackError::Write(..) => EngineError::internal("cannot copy into the container", &error),
    })
}

/// Refuses what the container itself could not write.
fn writable(container: &Container, wanted: &Wanted) -> Result<()> {
    let mut mounts: Vec<_> = container.spec.mounts.iter().collect();
    mounts.sort_by_key(|mount| std::cmp::Reverse(mount.target.len()));
    let inside = mounts.iter().find(|mount| Path::new("/").join(wanted.whole()).starts_with(&mount.target));
    match inside {
        Some(mount) if mount.read_only => {
            let kind = if matches!(mount.kind, MountKind::Bind { .. }) { "mount" } else { "volume" };
            Err(EngineError::invalid(format!("mounted {kind} {} is marked read-only", mount.target)))
        }
        Some(_) => Ok(()),
        None if container.spec.read_only_root => Err(EngineError::invalid("container rootfs is marked read-only")),
        None => Ok(()),
    }
}
