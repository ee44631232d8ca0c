//! Frees what has been taken out of sight: giving back a large file's blocks takes the kernel long, and nobody has to wait for it.
//!
//! What is on the way out stands in `tmp`, so that whatever a kill leaves goes when the store is opened the next time.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tempfile::TempDir;

/// A thread that removes folders; begun with the first, ended with this.
#[derive(Debug, Default)]
pub(super) struct Sweeper(Mutex<Option<(Sender<TempDir>, JoinHandle<()>)>>);

impl Sweeper {
    /// Removes a folder soon; at once where there can be no thread.
    pub(super) fn remove(&self, folder: TempDir) {
        let mut thread = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (sender, folders) = channel::<TempDir>();
            let sweep = move || folders.into_iter().for_each(drop);
            *thread =
                thread::Builder::new().name("sweeper".to_owned()).spawn(sweep).ok().map(|handle| (sender, handle));
        }
        if let Some((sender, _)) = thread.as_ref() {
            // one that cannot be sent is removed by being dropped
            let _ = sender.send(folder);
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        if let Some((sender, handle)) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            drop(sender);
            let _ = handle.join();
        }
    }
}
