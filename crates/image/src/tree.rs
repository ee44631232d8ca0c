//! A layer's tree while it is being built: names and metadata in memory, file contents elsewhere.
//!
//! An archive may name things in any order, twice, or below things that are no directories. The tree settles that in
//! one place for every layer format: parents that were never named are made, a later entry replaces an earlier one, a
//! hard link needs a target that is there, and nothing is ever looked up through a symbolic link.

use std::collections::BTreeMap;

use crate::path;

/// A point in time as archives and file systems have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanos: u32,
}

/// What every kind of file has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stat {
    /// Permission bits with set-id and sticky: `0o7777` at most.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The last change of the contents.
    pub mtime: Time,
    /// Extended attributes by their full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Which of the two device kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// What a name stands for; `F` is how a layer format remembers where a regular file's contents went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body<F> {
    /// Names in byte order.
    Directory(BTreeMap<Box<[u8]>, Index>),
    /// A regular file.
    File(F),
    /// A symbolic link with its target, which may lead anywhere.
    Symlink(Vec<u8>),
    /// A device node.
    Device {
        /// Character or block.
        kind: DeviceKind,
        /// The driver's number.
        major: u32,
        /// The number within the driver.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
}

/// One file, which may have several names.
#[derive(Debug, Clone)]
pub struct Inode<F> {
    /// Its metadata.
    pub stat: Stat,
    /// Its kind and contents.
    pub body: Body<F>,
}

/// The number of an [`Inode`] in its [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Index(pub(crate) u32);

/// Why an entry cannot have the place that it asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A parent exists and is something else.
    #[error("\"{path}\" lies below \"{parent}\", which the same archive makes a {kind} and not a directory")]
    ParentNotDirectory {
        /// The entry.
        path: String,
        /// Its parent.
        parent: String,
        /// What the parent is.
        kind: &'static str,
    },
    /// The root would become something else than a directory.
    #[error("the archive's root entry is a {kind} and not a directory")]
    RootNotDirectory {
        /// What it would become.
        kind: &'static str,
    },
    /// A hard link's target is not (yet) there.
    #[error("hard link \"{path}\" points at \"{target}\", which does not come before it in the archive")]
    LinkTargetMissing {
        /// The link.
        path: String,
        /// What it names.
        target: String,
    },
    /// A hard link to a directory.
    #[error("hard link \"{path}\" points at the directory \"{target}\"")]
    LinkToDirectory {
        /// The link.
        path: String,
        /// What it names.
        target: String,
    },
    /// More files than the numbers here can count.
    #[error("too many files for one layer")]
    TooMany,
}

/// A tree with its root at [`Tree::ROOT`].
#[derive(Debug, Clone)]
pub struct Tree<F> {
    inodes: Vec<Inode<F>>,
}

impl<F> Body<F> {
    /// The kind in words, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Directory(_) => "directory",
            Self::File(_) => "file",
            Self::Symlink(_) => "symbolic link",
            Self::Device { kind: DeviceKind::Character, .. } => "character device",
            Self::Device { kind: DeviceKind::Block, .. } => "block device",
            Self::Fifo => "named pipe",
            Self::Socket => "socket",
        }
    }

    /// An empty directory.
    #[must_use]
    pub fn directory() -> Self {
        Self::Directory(BTreeMap::new())
    }
}

impl<F> Default for Tree<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F> Tree<F> {
    /// The root's number.
    pub const ROOT: Index = Index(0);

    /// A tree with an empty root that belongs to user 0, mode 0755.
    #[must_use]
    pub fn new() -> Self {
        Self { inodes: vec![Inode { stat: Stat { mode: 0o755, ..Stat::default() }, body: Body::directory() }] }
    }

    /// The file with this number.
    #[must_use]
    pub fn get(&self, index: Index) -> &Inode<F> {
        &self.inodes[index.0 as usize]
    }

    /// The file with this number, to be changed.
    pub fn get_mut(&mut self, index: Index) -> &mut Inode<F> {
        &mut self.inodes[index.0 as usize]
    }

    /// How many files were ever added, replaced ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Whether nothing but the root is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inodes.len() == 1
    }

    /// Finds a file by its path without following anything; the empty path is the root.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<Index> {
        let mut at = Self::ROOT;
        for name in path::components(path) {
            match &self.get(at).body {
                Body::Directory(entries) => at = *entries.get(name)?,
                _ => return None,
            }
        }
        Some(at)
    }

    /// Puts a file at `path`. A directory over a directory keeps what is in it; anything else is replaced.
    ///
    /// # Errors
    /// [`TreeError`] when a parent is no directory or the root would stop being one.
    pub fn place(&mut self, path: &[u8], stat: Stat, body: Body<F>) -> Result<Index, TreeError> {
        let Some((parents, name)) = path::split(path) else {
            return match body {
                Body::Directory(_) => {
                    self.get_mut(Self::ROOT).stat = stat;
                    Ok(Self::ROOT)
                }
                other => Err(TreeError::RootNotDirectory { kind: other.kind() }),
            };
        };
        let parent = self.make_parents(path, parents, stat.mtime)?;
        if let (Body::Directory(_), Some(existing)) = (&body, self.child(parent, name))
            && matches!(self.get(existing).body, Body::Directory(_))
        {
            self.get_mut(existing).stat = stat;
            return Ok(existing);
        }
        let index = self.push(stat, body)?;
        self.insert(parent, name, index);
        Ok(index)
    }

    /// Gives the file at `target` the further name `path`.
    ///
    /// # Errors
    /// [`TreeError`] when the target is missing or a directory, or a parent of `path` is no directory.
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<Index, TreeError> {
        let shown = || (path::show(path), path::show(target));
        let Some(index) = self.find(target) else {
            let (path, target) = shown();
            return Err(TreeError::LinkTargetMissing { path, target });
        };
        if matches!(self.get(index).body, Body::Directory(_)) {
            let (path, target) = shown();
            return Err(TreeError::LinkToDirectory { path, target });
        }
        let Some((parents, name)) = path::split(path) else {
            return Err(TreeError::RootNotDirectory { kind: "hard link" });
        };
        let mtime = self.get(index).stat.mtime;
        let parent = self.make_parents(path, parents, mtime)?;
        self.insert(parent, name, index);
        Ok(index)
    }

    /// The directories above `path`, made where nobody named them, with the time of the entry that needs them.
    ///
    /// # Errors
    /// [`TreeError::ParentNotDirectory`].
    pub fn make_parents(&mut self, path: &[u8], parents: &[u8], mtime: Time) -> Result<Index, TreeError> {
        let mut at = Self::ROOT;
        let mut walked = 0;
        for name in path::components(parents) {
            walked += name.len() + 1;
            at = match self.child(at, name) {
                Some(next) => next,
                None => {
                    let made = self.push(Stat { mode: 0o755, mtime, ..Stat::default() }, Body::directory())?;
                    self.insert(at, name, made);
                    made
                }
            };
            let body = &self.get(at).body;
            if !matches!(body, Body::Directory(_)) {
                let parent = path::show(&parents[..(walked - 1).min(parents.len())]);
                return Err(TreeError::ParentNotDirectory { path: path::show(path), parent, kind: body.kind() });
            }
        }
        Ok(at)
    }

    fn child(&self, parent: Index, name: &[u8]) -> Option<Index> {
        match &self.get(parent).body {
            Body::Directory(entries) => entries.get(name).copied(),
            _ => None,
        }
    }

    fn insert(&mut self, parent: Index, name: &[u8], index: Index) {
        if let Body::Directory(entries) = &mut self.get_mut(parent).body {
            entries.insert(name.into(), index);
        }
    }

    fn push(&mut self, stat: Stat, body: Body<F>) -> Result<Index, TreeError> {
        let index = Index(u32::try_from(self.inodes.len()).map_err(|_| TreeError::TooMany)?);
        self.inodes.push(Inode { stat, body });
        Ok(index)
    }
}
