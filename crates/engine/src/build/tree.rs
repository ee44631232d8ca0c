//! A stage's files, seen through its layers: to be read, or to be written into an upper layer.

use crate::engine::Inner;
use crate::error::{EngineError, ErrorClass, Result};
use image::build::{File, Files, FilesError, FolderContext, Ignore};
use image::{LayerId, Layers};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use sys::mount::MountAttr;
use sys::overlay::{Above, Overlay};

/// A work folder with an upper layer.
pub(super) struct Upper {
    pub(super) folder: tempfile::TempDir,
}

fn cannot(what: &str, error: &dyn std::error::Error) -> EngineError {
    EngineError::internal(format!("cannot {what}"), error)
}

impl Upper {
    pub(super) fn new(inner: &Inner) -> Result<Self> {
        let folder = inner.images.work_folder().map_err(crate::engine::image_error)?;
        for name in ["upper", "work", "lower", "mounts"] {
            std::fs::create_dir(folder.path().join(name)).map_err(|error| cannot("make a work folder", &error))?;
        }
        use std::os::unix::fs::PermissionsExt;
        // whatever the daemon's own mask is, an image's root folder can be passed through
        std::fs::set_permissions(folder.path().join("upper"), std::fs::Permissions::from_mode(0o755))
            .map_err(|error| cannot("prepare a work folder", &error))?;
        Ok(Self { folder })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The layers below and the upper one above, as one tree.
    pub(super) fn mount(&self, layers: &Layers) -> Result<OwnedFd> {
        let lower = open(&self.path().join("lower"))?;
        overlay(layers, &lower, Some(self.path()))
    }

    /// The upper layer by itself.
    pub(super) fn layer(&self) -> Result<OwnedFd> {
        open(&self.path().join("upper"))
    }
}

pub(super) fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| cannot("open a folder of the build", &error))
}

fn overlay(layers: &Layers, lower: &OwnedFd, upper: Option<&Path>) -> Result<OwnedFd> {
    let parts = match upper {
        Some(folder) => Some((open(&folder.join("upper"))?, open(&folder.join("work"))?)),
        None => None,
    };
    let above = parts.as_ref().map(|(upper, work)| Above { upper: upper.as_fd(), work: work.as_fd(), volatile: true });
    let lowest = (layers.fds.len() < 2).then(|| lower.as_fd());
    let layers: Vec<_> = layers.fds.iter().map(|fd| fd.as_fd()).chain(lowest).collect();
    let attributes = if upper.is_some() { MountAttr::empty() } else { MountAttr::RDONLY };
    let overlay = Overlay { layers: &layers, above, attributes };
    overlay.mount().map_err(|error| cannot("put a stage's layers over each other", &error))
}

/// A stage's or an image's files, to be read.
pub(crate) struct Tree {
    files: FolderContext,
    root: OwnedFd,
    _layers: Layers,
    _empty: Option<tempfile::TempDir>,
}

impl Tree {
    pub(crate) fn open(inner: &Inner, layers: &[LayerId], owner: &str) -> Result<Self> {
        let layers = inner.images.mount_ids(layers, owner).map_err(crate::engine::image_error)?;
        let empty = inner.images.work_folder().map_err(crate::engine::image_error)?;
        let lower = open(empty.path())?;
        let root = if layers.fds.is_empty() { lower } else { overlay(&layers, &lower, None)? };
        let path = PathBuf::from(format!("/proc/self/fd/{}/.", root.as_raw_fd()));
        let files = FolderContext::open(&path, Ignore::default())
            .map_err(|error| EngineError::because(ErrorClass::Internal, "cannot open a stage's files", &error))?;
        Ok(Self { files, root, _layers: layers, _empty: Some(empty) })
    }

    /// Its root folder.
    pub(crate) fn root(&self) -> std::os::fd::BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Files for Tree {
    fn look(&self, path: &[u8]) -> std::result::Result<Option<File>, FilesError> {
        self.files.look(path)
    }

    fn names(&self, folder: &[u8]) -> std::result::Result<Vec<Vec<u8>>, FilesError> {
        self.files.names(folder)
    }

    fn open(&self, path: &[u8]) -> std::result::Result<Box<dyn std::io::Read + Send>, FilesError> {
        self.files.open(path)
    }
}
