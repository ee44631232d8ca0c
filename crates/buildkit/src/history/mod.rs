//! Records of builds: what was asked for, what came of it, and the log, until they are too many or too old.
//!
//! ```text
//! STATE/builds/DIGEST OF THE BUILD'S NAME/record    BuildHistoryRecord; comes last
//!                                         log       see `log`
//!                                         error     google.rpc.Status with all its details
//! ```
//!
//! A record is a build that has ended; of one that the daemon did not survive there is none.
//!
//! # Source
//! BuildKit's `api/services/control/control.proto`; which blobs a record names is as clients read them.

mod filter;
mod log;
mod serve;

pub(crate) use serve::{blob, blob_of, listen, update};

use crate::rpc::{Replies, Status};
use crate::wire::control::{StatusResponse, Typed};
use crate::wire::history::{COMPLETE, DELETED, Descriptor, HistoryEvent, Record, ResultInfo, STARTED};
use crate::wire::{RpcStatus, Timestamp};
use log::LogWriter;
use oci::digest::Digest;
use prost::Message;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;

/// So many records are kept, as BuildKit does.
const MOST: usize = 50;
/// And so long, in seconds.
const OLDEST: i64 = 48 * 3600;
/// Events that wait for a slow listener; one that is slower hears less.
const DEPTH: usize = 64;
const LOG_TYPE: &str = "application/vnd.buildkit.status.v0";
const ERROR_TYPE: &str = "application/vnd.googeapis.google.rpc.status+proto";

/// See the module.
#[derive(Debug)]
pub(crate) struct History {
    folder: PathBuf,
    builds: Mutex<BTreeMap<String, Arc<Build>>>,
    events: broadcast::Sender<HistoryEvent>,
}

/// One build, going on or not.
#[derive(Debug)]
pub(crate) struct Build {
    folder: PathBuf,
    record: Mutex<Record>,
    /// Nothing once it has ended.
    log: Mutex<Option<LogWriter>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Build {
    /// What is known of it by now.
    fn record(&self) -> Record {
        let mut record = lock(&self.record).clone();
        if let Some(log) = &*lock(&self.log) {
            count(&mut record, log);
        }
        record
    }

    /// Whether it is over.
    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.record).completed_at.is_some()
    }

    /// What it is that is built; known only once a front end was asked.
    pub(crate) fn asked(&self, frontend: &str, attrs: &BTreeMap<String, String>) {
        let mut record = lock(&self.record);
        (record.frontend, record.frontend_attrs) = (frontend.to_owned(), attrs.clone());
    }

    /// Keeps what watchers are told.
    pub(crate) fn note(&self, message: &StatusResponse) {
        let mut log = lock(&self.log);
        if let Some(Err(error)) = log.as_mut().map(|log| log.note(message)) {
            tracing::warn!(%error, "a build's log is not kept on");
            *log = None;
        }
    }

    /// Sends all that watchers were told, and go on being told.
    pub(crate) async fn replay(&self, replies: &Replies) -> Result<(), Status> {
        let going = lock(&self.log).as_ref().map(LogWriter::follow);
        log::replay(&self.folder.join("log"), going, replies).await
    }

    fn write(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let half = self.folder.join("half");
        fs::write(&half, bytes)?;
        fs::rename(half, self.folder.join(name))
    }

    /// The file with a blob of the record's.
    fn blob(&self, digest: &str) -> Option<PathBuf> {
        let record = lock(&self.record);
        let named = [("log", &record.logs), ("error", &record.external_error)];
        let found = named.iter().find(|(_, blob)| blob.as_ref().is_some_and(|blob| blob.digest == digest));
        found.map(|(name, _)| self.folder.join(name))
    }
}

fn count(record: &mut Record, log: &LogWriter) {
    let steps = log.steps();
    (record.total_steps, record.completed_steps) = (steps.total, steps.completed);
    (record.cached_steps, record.warnings) = (steps.cached, steps.warnings);
}

/// Names a blob.
pub(crate) fn descriptor(media_type: &str, digest: impl ToString, size: u64) -> Descriptor {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    Descriptor { media_type: media_type.to_owned(), digest: digest.to_string(), size, ..Descriptor::default() }
}

/// What came of a build.
#[derive(Debug, Default)]
pub(crate) struct Came {
    pub(crate) response: BTreeMap<String, String>,
    /// What it has made, of each of several platforms or of the one without a name.
    pub(crate) results: BTreeMap<String, ResultInfo>,
}

impl History {
    /// Finds what earlier daemons have recorded in this folder.
    pub(crate) fn open(folder: PathBuf) -> Self {
        let mut builds = BTreeMap::new();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let folder = entry.path();
            let record = fs::read(folder.join("record")).ok().and_then(|bytes| Record::decode(&bytes[..]).ok());
            match record {
                Some(record) if record.completed_at.is_some() => {
                    let name = record.reference.clone();
                    builds.insert(name, Arc::new(Build { folder, record: Mutex::new(record), log: Mutex::default() }));
                }
                _ => drop(fs::remove_dir_all(folder)),
            }
        }
        let history = Self { folder, builds: Mutex::new(builds), events: broadcast::Sender::new(DEPTH) };
        history.trim();
        history
    }

    fn tell(&self, kind: i32, record: Record) {
        // there may be nobody who listens
        let _ = self.events.send(HistoryEvent { kind, record: Some(record) });
    }

    /// Begins a record. Without one, because there is no place for it, a build goes on all the same.
    pub(crate) fn begin(&self, reference: &str, exporters: &[Typed]) -> Option<Arc<Build>> {
        self.trim();
        let folder = self.folder.join(Digest::of(reference.as_bytes()).hex());
        match self.build(reference).map(|build| build.has_ended()) {
            // there cannot be two of one name at a time
            Some(false) => return None,
            Some(true) => drop(self.remove(reference)),
            None => {}
        }
        // programs may write what is nobody else's business
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        let made = made.and_then(|()| LogWriter::create(&folder.join("log")));
        let log = match made {
            Ok(log) => log,
            Err(error) => {
                tracing::warn!(%error, "a build is not recorded");
                return None;
            }
        };
        let record = Record {
            reference: reference.to_owned(),
            exporters: exporters.to_vec(),
            created_at: Some(Timestamp::now()),
            ..Record::default()
        };
        let build = Build { folder, record: Mutex::new(record.clone()), log: Mutex::new(Some(log)) };
        let build = Arc::new(build);
        lock(&self.builds).insert(reference.to_owned(), Arc::clone(&build));
        self.tell(STARTED, record);
        Some(build)
    }

    /// Ends a record.
    pub(crate) fn end(&self, build: &Build, outcome: Result<Came, &Status>) {
        if let Err(error) = self.try_end(build, outcome) {
            tracing::warn!(%error, "a build's record was not kept");
            let reference = lock(&build.record).reference.clone();
            self.remove(&reference);
        }
    }

    fn try_end(&self, build: &Build, outcome: Result<Came, &Status>) -> std::io::Result<()> {
        let mut record = build.record();
        record.completed_at = Some(Timestamp::now());
        match outcome {
            Ok(mut came) => {
                record.exporter_response = came.response;
                record.result = came.results.remove("");
                record.results = came.results;
            }
            Err(status) => {
                let whole = RpcStatus::from(status.clone());
                let bytes = whole.encode_to_vec();
                build.write("error", &bytes)?;
                record.external_error = Some(descriptor(ERROR_TYPE, Digest::of(&bytes), bytes.len() as u64));
                record.error = Some(RpcStatus { details: Vec::new(), ..whole });
            }
        }
        if let Some(log) = lock(&build.log).take() {
            count(&mut record, &log);
            let (digest, size) = log.finish();
            record.logs = Some(descriptor(LOG_TYPE, digest, size));
        }
        build.write("record", &record.encode_to_vec())?;
        *lock(&build.record) = record.clone();
        self.tell(COMPLETE, record);
        self.trim();
        Ok(())
    }

    /// A build, if there is a record of it.
    pub(crate) fn build(&self, reference: &str) -> Option<Arc<Build>> {
        lock(&self.builds).get(reference).cloned()
    }

    fn remove(&self, reference: &str) -> bool {
        let Some(build) = lock(&self.builds).remove(reference) else { return false };
        let _ = fs::remove_dir_all(&build.folder);
        self.tell(DELETED, Record { reference: reference.to_owned(), ..Record::default() });
        true
    }

    /// Removes the oldest, as far as they are too many or too old and nobody has said that they are to stay.
    fn trim(&self) {
        let all: Vec<Record> = lock(&self.builds).values().map(|build| lock(&build.record).clone()).collect();
        let mut ended: Vec<(i64, String)> = all
            .into_iter()
            .filter(|record| !record.pinned)
            .filter_map(|record| Some((record.completed_at?.seconds, record.reference)))
            .collect();
        ended.sort_by(|one, other| other.cmp(one));
        let now = Timestamp::now().seconds;
        for (place, (completed, reference)) in ended.into_iter().enumerate() {
            if place >= MOST || now - completed > OLDEST {
                self.remove(&reference);
            }
        }
    }

    /// The file with a blob that some record names.
    fn blob(&self, digest: &str) -> Option<PathBuf> {
        lock(&self.builds).values().find_map(|build| build.blob(digest))
    }
}

#[cfg(test)]
mod tests;
