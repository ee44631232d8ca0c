//! A folder of a test's own that is gone afterwards, with every mount below it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::mount::UnmountFlags;

/// A test's own folder, and the processes started on it.
///
/// Dropping it kills those processes, takes off every mount below the folder and removes the folder, also when the test
/// has failed.
#[derive(Debug)]
pub struct Island {
    folder: tempfile::TempDir,
    children: Vec<Child>,
}

impl Island {
    /// An empty island.
    ///
    /// # Panics
    /// When the folder can't be made.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("insula-test-").tempdir();
        let folder = folder.unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        Self { folder, children: Vec::new() }
    }

    /// The island's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// The path of `name` on the island; nothing is made.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes the folder `name` and those above it.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("mkdir {}: {error}", path.display()));
        path
    }

    /// Makes the file `name` with `content`, and the folders above it.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).unwrap_or_else(|error| panic!("mkdir {}: {error}", parent.display()));
        }
        fs::write(&path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        path
    }

    /// The folder for a daemon's state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir("state")
    }

    /// The folder for a daemon's sockets.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.dir("run")
    }

    /// Starts a process that ends with the island, and gives its id.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn spawn(&mut self, command: &mut Command) -> u32 {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let id = child.id();
        self.children.push(child);
        id
    }

    /// The mount points below the island's folder, the innermost last.
    #[must_use]
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|point| point.starts_with(self.root())).collect()
    }
}

impl Default for Island {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended already can't be killed, and that is fine.
            let _ = child.kill();
            let _ = child.wait();
        }
        for point in self.mounts().into_iter().rev() {
            let _ = rustix::mount::unmount(&point, UnmountFlags::DETACH);
        }
    }
}
