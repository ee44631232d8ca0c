//! What a snapshot keeps of a share: which number is which path, and which files are open. The folder itself is not in it, so
//! what has gone from it meanwhile is stale after a restore.

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};

use super::Server;
use super::nodes::{Handle, ROOT};

#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    nodes: Vec<SavedNode>,
    handles: Vec<SavedHandle>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedNode {
    number: u64,
    lookups: u64,
    /// Below the folder; bytes, since not every name is text.
    path: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedHandle {
    number: u64,
    node: u64,
    flags: u32,
}

impl Server {
    pub(in super::super) fn save(&self) -> serde_json::Value {
        let path_of = |fd: i32| -> Option<PathBuf> {
            let path = rustix::fs::readlinkat(&self.proc, fd.to_string(), Vec::new()).ok()?;
            Some(PathBuf::from(std::ffi::OsString::from_vec(path.into_bytes())))
        };
        let root = self.nodes.fd(ROOT).ok().and_then(|root| path_of(root.as_raw_fd())).unwrap_or_default();
        let nodes = self.nodes.all().filter(|(number, ..)| *number != ROOT).filter_map(|(number, lookups, place)| {
            let path = path_of(place.as_raw_fd())?;
            let path = path.strip_prefix(&root).ok()?.as_os_str().as_bytes().to_vec();
            Some(SavedNode { number, lookups, path })
        });
        let handles = self.handles.all().map(|(number, handle)| SavedHandle {
            number,
            node: handle.node,
            flags: handle.flags.bits(),
        });
        let saved = Saved { nodes: nodes.collect(), handles: handles.collect() };
        serde_json::to_value(saved).unwrap_or_default()
    }

    pub(in super::super) fn restore(&mut self, state: serde_json::Value) -> Result<(), serde_json::Error> {
        let saved: Saved = serde_json::from_value(state)?;
        self.forget_all();
        for node in saved.nodes {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
            let path = OsStr::from_bytes(&node.path);
            let root = self.nodes.fd(ROOT);
            let place = root.and_then(|root| rustix::fs::openat2(root, path, flags, Mode::empty(), resolve));
            if let Err(errno) = place.and_then(|place| self.nodes.insert(node.number, node.lookups, place)) {
                tracing::warn!(%errno, path = %path.display(), "what a restored guest had in use is gone");
            }
        }
        for handle in saved.handles {
            let flags = OFlags::from_bits_retain(handle.flags) - OFlags::TRUNC;
            if let Ok(file) = self.reopen(handle.node, (flags - OFlags::APPEND) | OFlags::NONBLOCK) {
                self.handles.insert(handle.number, Handle { file, node: handle.node, flags });
            }
        }
        Ok(())
    }
}
