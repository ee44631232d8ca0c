//! What the plugin remembers between its calls: one file, under a lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::firewall::{Published, Rules};
use crate::{EndpointSpec, ipam};

/// A container's link that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attachment {
    pub(super) network: String,
    pub(super) container: String,
    pub(super) spec: EndpointSpec,
    pub(super) published: Published,
}

impl Attachment {
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.spec.addresses.iter().map(|address| address.address()).collect()
    }
}

/// Everything that the plugin has made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    pub(super) ipam: ipam::State,
    pub(super) rules: Rules,
    /// By network, container and link.
    pub(super) attachments: BTreeMap<String, Attachment>,
}

/// The memory with its lock; it is given up at the end.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    _lock: File,
    pub(super) memory: Memory,
}

impl Store {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = File::create(folder.join("lock"))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))?;
        let path = folder.join("state.json");
        let memory = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Memory::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, _lock: lock, memory })
    }

    /// Writes what is remembered, all of it or nothing.
    pub(super) fn save(&self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        fs::write(&new, serde_json::to_vec(&self.memory)?)?;
        File::open(&new)?.sync_all()?;
        fs::rename(&new, &self.path)
    }
}
