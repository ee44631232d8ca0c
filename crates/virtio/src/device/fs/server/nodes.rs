//! What the guest knows by number: places in the folder, each held by a descriptor that opens nothing, and open files.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// The folder's own number.
pub(super) const ROOT: u64 = 1;

#[derive(Debug)]
struct Node {
    place: OwnedFd,
    key: (u64, u64),
    lookups: u64,
}

/// Places by number.
#[derive(Debug)]
pub(super) struct Nodes {
    nodes: BTreeMap<u64, Node>,
    /// By device and inode, so that hard links are one.
    by_key: BTreeMap<(u64, u64), u64>,
    next: u64,
}

fn key(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

impl Nodes {
    pub(super) fn new(root: OwnedFd) -> Result<Self, Errno> {
        let key = key(&rustix::fs::fstat(&root)?);
        let node = Node { place: root, key, lookups: 1 };
        Ok(Self { nodes: BTreeMap::from([(ROOT, node)]), by_key: BTreeMap::from([(key, ROOT)]), next: ROOT + 1 })
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn fd(&self, node: u64) -> Result<BorrowedFd<'_>, Errno> {
        self.nodes.get(&node).map(|node| node.place.as_fd()).ok_or(Errno::STALE)
    }

    /// Finds what has a name in a folder and counts that the guest knows it; gives its number and attributes.
    pub(super) fn find(&mut self, folder: u64, name: &[u8]) -> Result<(u64, Stat), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let place = rustix::fs::openat2(self.fd(folder)?, name, flags, Mode::empty(), resolve)?;
        let stat = rustix::fs::fstat(&place)?;
        Ok((self.know(place, key(&stat)), stat))
    }

    fn know(&mut self, place: OwnedFd, key: (u64, u64)) -> u64 {
        if let Some(number) = self.by_key.get(&key).copied()
            && let Some(node) = self.nodes.get_mut(&number)
        {
            node.lookups = node.lookups.saturating_add(1);
            return number;
        }
        let number = self.next;
        self.next += 1;
        self.by_key.insert(key, number);
        self.nodes.insert(number, Node { place, key, lookups: 1 });
        number
    }

    /// The guest forgets `lookups` of its findings.
    pub(super) fn forget(&mut self, number: u64, lookups: u64) {
        let Some(node) = self.nodes.get_mut(&number).filter(|_| number != ROOT) else { return };
        node.lookups = node.lookups.saturating_sub(lookups);
        if node.lookups == 0 {
            self.by_key.remove(&node.key);
            self.nodes.remove(&number);
        }
    }

    /// Keeps the folder alone.
    pub(super) fn clear(&mut self) {
        self.nodes.retain(|number, _| *number == ROOT);
        self.by_key.retain(|_, number| *number == ROOT);
    }

    /// Numbers, counts and places, for a snapshot.
    pub(super) fn all(&self) -> impl Iterator<Item = (u64, u64, BorrowedFd<'_>)> {
        self.nodes.iter().map(|(number, node)| (*number, node.lookups, node.place.as_fd()))
    }

    /// Puts a place under the number that a snapshot has for it.
    pub(super) fn insert(&mut self, number: u64, lookups: u64, place: OwnedFd) -> Result<(), Errno> {
        let key = key(&rustix::fs::fstat(&place)?);
        self.by_key.insert(key, number);
        self.nodes.insert(number, Node { place, key, lookups });
        self.next = self.next.max(number.saturating_add(1));
        Ok(())
    }
}

/// An open file or folder.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) file: OwnedFd,
    pub(super) node: u64,
    pub(super) flags: OFlags,
}

/// Open files by number.
#[derive(Debug, Default)]
pub(super) struct Handles {
    open: BTreeMap<u64, Handle>,
    next: u64,
}

impl Handles {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn add(&mut self, handle: Handle) -> u64 {
        self.next += 1;
        self.open.insert(self.next, handle);
        self.next
    }

    pub(super) fn get(&self, number: u64) -> Result<&OwnedFd, Errno> {
        self.open.get(&number).map(|handle| &handle.file).ok_or(Errno::BADF)
    }

    pub(super) fn remove(&mut self, number: u64) {
        self.open.remove(&number);
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (u64, &Handle)> {
        self.open.iter().map(|(number, handle)| (*number, handle))
    }

    /// Puts a file under the number that a snapshot has for it.
    pub(super) fn insert(&mut self, number: u64, handle: Handle) {
        self.open.insert(number, handle);
        self.next = self.next.max(number);
    }
}
