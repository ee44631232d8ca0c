//! File system device: a folder of the host, served to the guest by FUSE.
//!
//! ```text
//! queues   urgent 0 (forgets), requests 1
//! request  FUSE header, arguments | FUSE header, answer
//! ```
//!
//! The server is in this process: [`server`] opens names one at a time below the folder, never follows a link, and never
//! opens what is neither file nor folder, so nothing outside the folder is reached. The guest's kernel checks permissions;
//! files are made as this process's user, and given to the guest's user where this process may do that.
//!
//! # Source
//! Virtio 1.2, 5.11 "File System Device"; fuse(4) and the kernel's include/uapi/linux/fuse.h.

mod server;
#[cfg(test)]
mod tests;

use std::path::Path;

use super::{Activity, Device, DeviceError, Kind, Metrics, Running, Wake, read_space};
use server::Server;
pub use server::{ShareError, Sharing};

const QUEUE_SIZE: u16 = 512;
/// The bytes of a tag.
pub const TAG_BYTES: usize = 36;

/// The device.
#[derive(Debug)]
pub struct Fs {
    tag: [u8; TAG_BYTES],
    server: Server,
}

impl Fs {
    /// Shares a folder under a tag, by which the guest mounts it.
    ///
    /// # Errors
    /// The folder can't be opened, or the tag is empty or longer than [`TAG_BYTES`].
    pub fn new(tag: &str, folder: &Path, sharing: Sharing) -> Result<Self, ShareError> {
        if tag.is_empty() || tag.len() > TAG_BYTES {
            return Err(ShareError::Tag { tag: tag.to_owned() });
        }
        let mut bytes = [0; TAG_BYTES];
        bytes[..tag.len()].copy_from_slice(tag.as_bytes());
        Ok(Self { tag: bytes, server: Server::new(folder, sharing)? })
    }
}

impl Device for Fs {
    fn kind(&self) -> Kind {
        Kind::Fs
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: u64, into: &mut [u8]) {
        let space = [&self.tag[..], &1_u32.to_le_bytes()].concat();
        read_space(&space, offset, into);
    }

    fn activate(&mut self, _running: &mut Running) -> Result<(), DeviceError> {
        Ok(())
    }

    fn serve(&mut self, running: &mut Running, wake: Wake) -> Result<(), DeviceError> {
        let Wake::Queue(index) = wake else { return Ok(()) };
        let memory = running.memory.clone();
        let Some(queue) = running.queue(index) else { return Ok(()) };
        while let Some(chain) = queue.pop()? {
            let mut writer = chain.writer(&memory);
            self.server.serve(&mut chain.reader(&memory), &mut writer)?;
            queue.complete(chain.head(), writer.written())?;
            // A slow request must not hold the answers of those before it back.
            queue.signal()?;
        }
        Ok(())
    }

    fn reset(&mut self, _running: &Running) {
        self.server.forget_all();
    }

    fn save(&self) -> serde_json::Value {
        self.server.save()
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), serde_json::Error> {
        self.server.restore(state)
    }

    fn metrics(&self) -> Metrics {
        self.server.metrics()
    }

    fn activity(&self) -> Activity {
        Activity::Busy
    }
}
