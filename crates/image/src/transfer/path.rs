//! Paths as users give them: what a slash or a dot at the end means, and how they are opened.

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// A path below some root, cleaned as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// As it was given, for messages.
    pub given: String,
    /// The folder, whose links are followed; relative to the root, empty for the root itself.
    pub folder: PathBuf,
    /// The name in it, whose link is not followed; `None` where the whole path means a folder: it ends with a slash or a dot.
    pub name: Option<String>,
    /// What an archive calls it.
    pub shown: String,
}

impl Wanted {
    /// Reads a path, which begins at the root whether it says so or not; `None` for one that is empty or has a NUL.
    #[must_use]
    pub fn new(given: &str) -> Option<Self> {
        if given.is_empty() || given.contains('\0') {
            return None;
        }
        let mut folder = clean(Path::new(given));
        let base = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        // "a/./" means what "a/." does
        let last = given.trim_end_matches('/');
        let dot = last == "." || last.ends_with("/.");
        let name = base.clone().filter(|_| !dot && !given.ends_with('/'));
        if name.is_some() {
            folder.pop();
        }
        let shown = if dot { ".".to_owned() } else { base.unwrap_or_else(|| "/".to_owned()) };
        Some(Self { given: given.to_owned(), folder, name, shown })
    }

    /// The whole path, relative to the root.
    #[must_use]
    pub fn whole(&self) -> PathBuf {
        self.name.as_ref().map_or_else(|| self.folder.clone(), |name| self.folder.join(name))
    }

    /// Opens what it names, not following the last link.
    ///
    /// # Errors
    /// What openat2(2) says.
    pub fn open(&self, root: impl AsFd) -> rustix::io::Result<OwnedFd> {
        let folder = resolve(root, &self.folder, OFlags::PATH | OFlags::DIRECTORY)?;
        let Some(name) = &self.name else { return Ok(folder) };
        rustix::fs::openat(&folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }
}

/// A path relative to its root, without dots; `..` stops there, as text.
#[must_use]
pub fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Opens a path below `root` as if that were the root of the file system.
///
/// # Errors
/// What openat2(2) says.
pub fn resolve(root: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    loop {
        match rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT) {
            // a rename somewhere during a `..`
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// Opens a folder below `root`, and makes what is missing of the way to it.
///
/// # Errors
/// What openat2(2) and mkdirat(2) say.
pub fn ensure_folder(root: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let root = root.as_fd();
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut missing = Vec::new();
    let mut rest = path;
    let mut folder = loop {
        match resolve(root, rest, flags) {
            Err(Errno::NOENT) => {}
            other => break other?,
        }
        missing.push(rest.file_name().ok_or(Errno::NOENT)?);
        rest = rest.parent().ok_or(Errno::NOENT)?;
    };
    let mut at = rest.to_owned();
    for name in missing.into_iter().rev() {
        match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        at.push(name);
        folder = resolve(root, &at, flags)?;
    }
    Ok(folder)
}
