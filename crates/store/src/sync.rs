//! Bringing the log to the disk: one `fdatasync` serves everybody who waits, and a thread sees to the rest.

use crate::StoreError;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a commit with `Durability::Process` may stay off the disk.
const DELAY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Progress {
    file: Arc<File>,
    /// Bytes ever written, over all files that the log has been.
    written: u64,
    /// How many of them are on disk.
    synced: u64,
    syncing: bool,
    failed: bool,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    progress: Mutex<Progress>,
    /// For the thread: there is something to do.
    dirty: Condvar,
    /// For those who wait: a sync has ended.
    done: Condvar,
}

/// Owns the thread; ends it, with all on disk, when dropped.
#[derive(Debug)]
pub(crate) struct Syncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    pub(crate) fn start(path: PathBuf, file: Arc<File>) -> Result<Self, StoreError> {
        let progress = Progress { file, written: 0, synced: 0, syncing: false, failed: false, closed: false };
        let shared =
            Arc::new(Shared { path, progress: Mutex::new(progress), dirty: Condvar::new(), done: Condvar::new() });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("store-sync".into())
            .stack_size(64 << 10)
            .spawn(move || theirs.run())
            .map_err(|source| StoreError::File {
                operation: "start the sync thread for",
                path: shared.path.clone(),
                source,
            })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Notes that bytes were written; returns the ticket to wait for.
    pub(crate) fn wrote(&self, bytes: u64) -> u64 {
        let mut progress = self.shared.lock();
        let clean = progress.written == progress.synced;
        progress.written += bytes;
        if clean {
            self.shared.dirty.notify_one();
        }
        progress.written
    }

    /// A rewritten log, all of it on disk, has taken the old one's place.
    pub(crate) fn replaced(&self, file: Arc<File>) {
        let mut progress = self.shared.lock();
        progress.file = file;
        progress.synced = progress.written;
        self.shared.done.notify_all();
    }

    pub(crate) fn failed(&self) -> bool {
        self.shared.lock().failed
    }

    /// Everything that was written so far.
    pub(crate) fn ticket(&self) -> u64 {
        self.shared.lock().written
    }

    /// Returns when everything up to the ticket is on disk.
    pub(crate) fn wait(&self, ticket: u64) -> Result<(), StoreError> {
        self.shared.sync_to(ticket)
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.dirty.notify_one();
        if let Some(thread) = self.thread.take() {
            // the thread does not panic, and nobody is left to tell if it did
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_to(&self, ticket: u64) -> Result<(), StoreError> {
        let mut progress = self.lock();
        loop {
            if progress.synced >= ticket {
                return Ok(());
            }
            if progress.failed {
                return Err(StoreError::Broken { path: self.path.clone() });
            }
            if progress.syncing {
                progress = self.done.wait(progress).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            progress.syncing = true;
            let (file, upto) = (Arc::clone(&progress.file), progress.written);
            drop(progress);
            let result = file.sync_data();
            progress = self.lock();
            progress.syncing = false;
            self.done.notify_all();
            match result {
                Ok(()) => progress.synced = progress.synced.max(upto),
                // the log was replaced meanwhile by one that is on disk
                Err(_) if !Arc::ptr_eq(&file, &progress.file) => {}
                // after a failed sync the kernel may drop the pages: a second try would report success for nothing
                Err(source) => {
                    progress.failed = true;
                    return Err(StoreError::File { operation: "sync", path: self.path.clone(), source });
                }
            }
        }
    }

    fn run(&self) {
        loop {
            let mut progress = self.lock();
            while !progress.closed && (progress.synced == progress.written || progress.failed) {
                progress = self.dirty.wait(progress).unwrap_or_else(PoisonError::into_inner);
            }
            // more commits come along meanwhile
            let waited = self.dirty.wait_timeout_while(progress, DELAY, |progress| !progress.closed);
            let progress = waited.unwrap_or_else(PoisonError::into_inner).0;
            let (closed, ticket) = (progress.closed, progress.written);
            drop(progress);
            // a failure is kept in `failed` and refuses the next commit
            let _ = self.sync_to(ticket);
            if closed {
                return;
            }
        }
    }
}
