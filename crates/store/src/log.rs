//! The log file: creation, replay, append, rewriting.

use crate::record::{self, Malformed, Op, RECORD_HEADER};
use crate::state::State;
use crate::{Revision, StoreError};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"INSULAKV";
const FORMAT: u32 = 1;
/// The bytes before the first record.
pub(crate) const FILE_HEADER: usize = 32;
/// Snapshot records are closed when they have grown beyond this.
const SNAPSHOT_RECORD: usize = 1 << 20;

/// An open log: the writer's end of it.
#[derive(Debug)]
pub(crate) struct Log {
    dir: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    /// Bytes that count; anything behind is a failed write and is overwritten.
    pub(crate) length: u64,
    /// Bytes that were cut off when the log was opened.
    pub(crate) cut: u64,
    buffer: Vec<u8>,
    broken: bool,
    _lock: File,
}

fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { operation, path, source }
}

pub(crate) fn header(base: Revision) -> [u8; FILE_HEADER] {
    let mut bytes = [0; FILE_HEADER];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[16..24].copy_from_slice(&base.0.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..24]);
    bytes[24..28].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn read_header(path: &Path, bytes: &[u8]) -> Result<Revision, StoreError> {
    let not_a_store = || StoreError::NotAStore { path: path.to_owned() };
    let header: &[u8; FILE_HEADER] = bytes.first_chunk().ok_or_else(not_a_store)?;
    if !header.starts_with(&MAGIC) {
        return Err(not_a_store());
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if word(24) != crc32c::crc32c(&header[..24]) {
        return Err(StoreError::Corrupt { path: path.to_owned(), offset: 0, reason: "the header's checksum is wrong" });
    }
    let found = word(8);
    if found != FORMAT {
        return Err(StoreError::Format { path: path.to_owned(), found, known: FORMAT });
    }
    Ok(Revision(u64::from(word(16)) | u64::from(word(20)) << 32))
}

impl Log {
    /// Locks the folder, makes or replays its log.
    pub(crate) fn open(dir: &Path) -> Result<(Self, State), StoreError> {
        std::fs::create_dir_all(dir).map_err(file_error("create", dir))?;
        let lock = lock(dir)?;
        let path = dir.join("store.log");
        // left by a rewrite that did not come to its end
        match std::fs::remove_file(new_path(&path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(file_error("remove", &new_path(&path))(error));
            }
            _ => {}
        }
        if !path.try_exists().map_err(file_error("open", &path))? {
            write_snapshot(dir, &path, &State::default())?;
        }
        let bytes = std::fs::read(&path).map_err(file_error("read", &path))?;
        let (state, good) = replay(&path, &bytes)?;
        let file = OpenOptions::new().write(true).open(&path).map_err(file_error("open", &path))?;
        let cut = (bytes.len() - good) as u64;
        if cut > 0 {
            file.set_len(good as u64).map_err(file_error("truncate", &path))?;
            file.sync_data().map_err(file_error("sync", &path))?;
        }
        let log = Self {
            dir: dir.to_owned(),
            path,
            file: Arc::new(file),
            length: good as u64,
            cut,
            buffer: Vec::new(),
            broken: false,
            _lock: lock,
        };
        Ok((log, state))
    }

    /// Appends one record with one write; returns its size in bytes. After an error the log is as before.
    pub(crate) fn append(&mut self, revision: Revision, ops: &[Op]) -> Result<u64, StoreError> {
        if self.broken {
            return Err(StoreError::Broken { path: self.path.clone() });
        }
        self.buffer.clear();
        record::encode(revision, ops, &mut self.buffer);
        if self.buffer.len() > RECORD_HEADER + record::MAX_PAYLOAD {
            // transactions are checked when they are made; this is a lease with very many keys
            let length = std::mem::take(&mut self.buffer).len();
            let key = ops.iter().find_map(Op::key).unwrap_or_default().to_owned();
            return Err(StoreError::TooLong { key, length });
        }
        if let Err(error) = self.file.write_all_at(&self.buffer, self.length) {
            // what was written of it must not be taken for a record later
            if self.file.set_len(self.length).is_err() {
                self.broken = true;
            }
            return Err(file_error("write", &self.path)(error));
        }
        let size = self.buffer.len() as u64;
        self.length += size;
        if self.buffer.capacity() > SNAPSHOT_RECORD {
            self.buffer = Vec::new();
        }
        Ok(size)
    }

    /// Replaces the log by one that holds only what lives. After an error the old one goes on.
    pub(crate) fn rewrite(&mut self, state: &State) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::Broken { path: self.path.clone() });
        }
        let (file, length) = match write_snapshot(&self.dir, &self.path, state) {
            Ok(written) => written,
            Err(error) => {
                // the error matters, not a leftover, which the next opening removes as well
                let _ = std::fs::remove_file(new_path(&self.path));
                // a rename that happened before the failure means that the open file is no longer the log
                self.broken = !self.is_current();
                return Err(error);
            }
        };
        self.file = Arc::new(file);
        self.length = length;
        Ok(())
    }

    fn is_current(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
            _ => false,
        }
    }
}

fn new_path(path: &Path) -> PathBuf {
    path.with_extension("log.new")
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("store.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(file_error("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked { dir: dir.to_owned() }),
        Err(errno) => Err(file_error("lock", &path)(errno.into())),
    }
}

/// Writes a log with nothing but the state in it beside the present one and puts it in its place, all of it on disk.
fn write_snapshot(dir: &Path, path: &Path, state: &State) -> Result<(File, u64), StoreError> {
    let new = new_path(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(file_error("create", &new))?;
    let mut length = 0;
    let mut emit = |bytes: &[u8]| {
        length += bytes.len() as u64;
        file.write_all(bytes).map_err(file_error("write", &new))
    };
    emit(&header(state.revision))?;
    let mut ops = vec![Op::Leases { last: state.last_lease }];
    // leases first: entries refer to them
    ops.extend(state.leases.iter().map(|(id, lease)| Op::Grant { id: *id, ttl_ms: lease.ttl_ms }));
    let mut size = 0;
    let mut buffer = Vec::new();
    for entry in state.entries.values() {
        size += entry.key.len() + entry.value.len();
        ops.push(Op::Entry(crate::Entry::clone(entry)));
        if size > SNAPSHOT_RECORD {
            buffer.clear();
            record::encode(state.revision, &ops, &mut buffer);
            emit(&buffer)?;
            ops.clear();
            size = 0;
        }
    }
    buffer.clear();
    record::encode(state.revision, &ops, &mut buffer);
    emit(&buffer)?;
    file.sync_data().map_err(file_error("sync", &new))?;
    std::fs::rename(&new, path).map_err(file_error("rename", &new))?;
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(file_error("sync", dir))?;
    Ok((file, length))
}

/// Rebuilds the state from a log's bytes; also returns how many of them are good.
pub(crate) fn replay(path: &Path, bytes: &[u8]) -> Result<(State, usize), StoreError> {
    let base = read_header(path, bytes)?;
    let mut state = State { revision: base, ..State::default() };
    let mut offset = FILE_HEADER;
    while offset < bytes.len() {
        let rest = &bytes[offset..];
        let corrupt = |reason| StoreError::Corrupt { path: path.to_owned(), offset: offset as u64, reason };
        let (record, size) = match record::decode(rest) {
            Ok(found) => found,
            Err(Malformed(reason)) => {
                if record::verify(rest).is_ok() || has_later_record(rest, state.revision) {
                    return Err(corrupt(reason));
                }
                // nothing whole follows: the last write was torn, and was never acknowledged
                return Ok((state, offset));
            }
        };
        let changes = record.ops.iter().any(|op| matches!(op, Op::Put { .. } | Op::Delete { .. }));
        let expected = if changes { state.revision.0.checked_add(1) } else { Some(state.revision.0) };
        if Some(record.revision.0) != expected {
            return Err(corrupt("the record's revision is out of order"));
        }
        if !deletes_exist(&state, &record.ops) {
            return Err(corrupt("the record deletes a key that is not there"));
        }
        state.apply(record.revision, record.ops);
        offset += size;
    }
    Ok((state, offset))
}

/// A revision is written only for changes, so each deletion must find its key; history's numbering relies on it.
fn deletes_exist(state: &State, ops: &[Op]) -> bool {
    ops.iter().all(|op| match op {
        Op::Delete { key } => state.entries.contains_key(key),
        _ => true,
    })
}

/// True if a whole record with a plausible revision begins anywhere after the first byte: the damage is in the middle.
fn has_later_record(bytes: &[u8], revision: Revision) -> bool {
    (1..bytes.len().saturating_sub(RECORD_HEADER + record::MIN_PAYLOAD - 1)).any(|at| {
        let candidate = &bytes[at..];
        let Some(number) = candidate.get(RECORD_HEADER..).and_then(|p| p.first_chunk::<8>()) else { return false };
        let number = u64::from_le_bytes(*number);
        // cheap tests first: the checksum runs over the whole candidate
        let plausible = number >= revision.0 && number - revision.0 <= bytes.len() as u64;
        plausible && record::verify(candidate).is_ok()
    })
}
