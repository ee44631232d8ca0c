//! Compressed layers without the layers: what they have beyond the uncompressed archive, which the layer gives.
//!
//! ```text
//! blobs/sha256/<hex>         as it came, until somebody has the time to ...
//! blobs/sha256/<hex>.parts   magic, length, the layer's digest, parts (see `deflate`)
//! ```
//!
//! A layer that was never compressed is its own archive, and has no blob at all.
//! A compressed layer takes half of what the layer does, and is wanted again only for a push or an archive. It is given up once
//! it was made again from its parts, and had the right digest.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use oci::digest::{Digest, Digester};

use super::intake::archive;
use super::{Store, blob_path, import_record, sync_folder};
use crate::deflate::{self, DeflateError};
use crate::error::ImageError;
use crate::model::LayerId;

const MAGIC: [u8; 4] = *b"isp1";
const SUFFIX: &str = "parts";
/// Parts that are more than such a part of the whole are not worth the time to make it again.
const WORTH: u64 = 2;
/// Pieces of parts that wait to be proven.
const WAITING: usize = 16;

/// What came of a reduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// So many bytes came back.
    Reduced(u64),
    /// The blob is no stream that can be taken apart, or that would not be worth the time: it stays.
    Whole,
    /// The blob is not wanted any more.
    Gone,
}

/// A blob that is there for as long as this is, whatever happens to the store's own.
#[derive(Debug)]
pub struct WholeBlob {
    /// Its file.
    pub path: PathBuf,
    /// Its bytes.
    pub size: u64,
    _work: tempfile::TempDir,
}

fn parts_path(root: &Path, digest: &Digest) -> PathBuf {
    blob_path(root, digest).with_extension(SUFFIX)
}

/// The name of the blob that a file is for.
pub(super) fn blob_name(file: &OsStr) -> Option<&str> {
    let name = file.to_str()?;
    Some(name.strip_suffix(SUFFIX).and_then(|name| name.strip_suffix('.')).unwrap_or(name))
}

/// What a blob takes on disk.
pub(super) fn disk_bytes(root: &Path, digest: &Digest) -> u64 {
    let length = |path: PathBuf| fs::metadata(path).map_or(0, |stat| stat.len());
    length(blob_path(root, digest)) + length(parts_path(root, digest))
}

struct Opened {
    size: u64,
    layer: LayerId,
    parts: File,
}

fn open(root: &Path, digest: &Digest) -> io::Result<Opened> {
    let mut parts = File::open(parts_path(root, digest))?;
    let mut head = [0; 4 + 8 + 32];
    parts.read_exact(&mut head)?;
    let (magic, rest) = head.split_at(4);
    let (size, layer) = rest.split_at(8);
    if *magic != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is of a version that is not known here"));
    }
    let size = u64::from_le_bytes(size.try_into().map_err(io::Error::other)?);
    let layer: [u8; 32] = layer.try_into().map_err(io::Error::other)?;
    Ok(Opened { size, layer: LayerId(Digest::from_bytes(layer)), parts })
}

/// The size of a layer whose archive is the blob itself, as one that was never compressed.
fn plain_size(root: &Path, digest: &Digest) -> Option<u64> {
    let record = import_record(root, &LayerId(*digest)).ok()?;
    (record.recipe_size > 0).then_some(record.archive_size)
}

/// Writes the blob that its parts give, or that is a layer's archive; its digest is right when this is.
pub(super) fn restore(root: &Path, digest: &Digest, mut out: impl Write) -> Result<u64, ImageError> {
    if !parts_path(root, digest).is_file() && plain_size(root, digest).is_some() {
        let (mut plain, size) = archive(root, &LayerId(*digest))?;
        let path = blob_path(root, digest);
        io::copy(&mut plain, &mut out).map_err(ImageError::file("write", &path))?;
        return Ok(size);
    }
    let path = parts_path(root, digest);
    let opened = open(root, digest).map_err(ImageError::file("read", &path))?;
    restore_from(root, digest, &opened, out)
}

fn restore_from(root: &Path, digest: &Digest, opened: &Opened, out: impl Write) -> Result<u64, ImageError> {
    let (archive, _) = archive(root, &opened.layer)?;
    let mut out = Digested { out, digester: Digester::new() };
    let parts = |source: DeflateError| ImageError::Parts { digest: *digest, source: Box::new(source) };
    deflate::restore(&opened.parts, archive, &mut out).map_err(parts)?;
    let size = out.digester.length();
    let actual = out.digester.finish();
    if actual == *digest { Ok(size) } else { Err(ImageError::OtherBlob { expected: *digest }) }
}

/// Digests what is written.
struct Digested<W> {
    out: W,
    digester: Digester,
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.digester.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Store {
    /// The bytes of a blob, if it is there, as it came or in parts.
    #[must_use]
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        let whole = self.blob(digest).map(|(_, size)| size);
        let root = &self.inner.root;
        whole.or_else(|| open(root, digest).ok().map(|opened| opened.size)).or_else(|| plain_size(root, digest))
    }

    /// A blob as it came, made again if need be.
    ///
    /// # Errors
    /// [`ImageError::File`] if it is not there; [`ImageError::Parts`] and [`ImageError::OtherBlob`] if it is damaged.
    pub fn whole_blob(&self, digest: &Digest) -> Result<WholeBlob, ImageError> {
        let work = self.work_folder()?;
        let path = work.path().join("blob");
        // a name of its own: the store's may go at any time
        if fs::hard_link(blob_path(&self.inner.root, digest), &path).is_ok() {
            let size = fs::metadata(&path).map_err(ImageError::file("read", &path))?.len();
            return Ok(WholeBlob { path, size, _work: work });
        }
        let file = File::create_new(&path).map_err(ImageError::file("create", &path))?;
        let size = restore(&self.inner.root, digest, file)?;
        Ok(WholeBlob { path, size, _work: work })
    }

    /// The compressed layers that are still there as they came, each with its layer.
    #[must_use]
    pub fn reducible(&self) -> Vec<(Digest, LayerId)> {
        let state = self.state();
        let mut found = BTreeSet::new();
        for known in state.images.values() {
            for manifest in known.manifests.iter().filter(|one| one.blobs.len() == known.layers.len()) {
                found.extend(manifest.blobs.iter().copied().zip(known.layers.iter().copied()));
            }
        }
        found.retain(|(blob, _)| blob_path(&self.inner.root, blob).is_file());
        found.into_iter().collect()
    }

    /// Keeps of a compressed layer what its layer does not have, and gives the rest up.
    ///
    /// # Errors
    /// [`ImageError::File`]; then it stays as it is.
    pub fn reduce(&self, blob: &Digest, layer: &LayerId) -> Result<Reduction, ImageError> {
        let root = &self.inner.root;
        let whole = self.whole_blob(blob)?;
        let work = self.work_folder()?;
        let path = work.path().join("parts");
        let failed = |error| ImageError::file("write", &path)(error);
        let mut file = File::create_new(&path).map_err(failed)?;
        let head = [&MAGIC[..], &whole.size.to_le_bytes(), layer.0.as_bytes()].concat();
        file.write_all(&head).map_err(failed)?;
        match self.take_apart(blob, layer, &whole, &file) {
            Ok(Some(proven)) if proven == *blob => {}
            Ok(Some(_)) => return Err(ImageError::OtherBlob { expected: *blob }),
            Ok(None) | Err(DeflateError::Odd(_) | DeflateError::Other) => return Ok(Reduction::Whole),
            Err(_) if !blob_path(root, blob).exists() => return Ok(Reduction::Gone),
            Err(error) => return Err(ImageError::Parts { digest: *blob, source: Box::new(error) }),
        }
        let size = file.metadata().map_err(failed)?.len();
        file.sync_data().map_err(failed)?;
        let state = self.state();
        if !state.all_blobs().contains(blob) {
            return Ok(Reduction::Gone);
        }
        let place = parts_path(root, blob);
        fs::rename(&path, &place).map_err(ImageError::file("write", &place))?;
        sync_folder(&root.join("blobs/sha256"))?;
        self.discard(&blob_path(root, blob))?;
        drop(state);
        Ok(Reduction::Reduced(whole.size - size))
    }

    /// Writes a blob's parts, of which another thread makes a blob at the same time. Returns that one's digest; nothing if the parts
    /// are not worth the time.
    fn take_apart(
        &self,
        blob: &Digest,
        layer: &LayerId,
        whole: &WholeBlob,
        file: &File,
    ) -> Result<Option<Digest>, DeflateError> {
        let archive = || Ok::<_, DeflateError>(archive(&self.inner.root, layer).map_err(io::Error::other)?.0);
        let (stream, there, again) = (File::open(&whole.path)?, archive()?, archive()?);
        let (sender, pieces) = sync_channel(WAITING);
        thread::scope(|scope| {
            let work = move || {
                let mut out = Digested { out: io::sink(), digester: Digester::new() };
                let parts = Sent { pieces, piece: io::Cursor::default() };
                deflate::restore(parts, again, &mut out).map(|()| out.digester.finish())
            };
            let proof = thread::Builder::new().name("reduce-proof".to_owned()).spawn_scoped(scope, work)?;
            let wanted = blob_path(&self.inner.root, blob);
            let out = Shown { file, proof: sender, left: whole.size / WORTH, wanted };
            let written = deflate::reduce(stream, there, out);
            let proven = proof.join().map_err(|_| io::Error::other("the proof was cut short"))?;
            match written {
                Ok(()) => proven.map(Some),
                Err(DeflateError::Io(error)) if error.kind() == io::ErrorKind::FileTooLarge => Ok(None),
                // the proof ended early, and knows why
                Err(DeflateError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    proven.and(Err(error.into()))
                }
                Err(error) => Err(error),
            }
        })
    }
}

/// Writes parts down and shows them to the thread that proves them, up to a length.
struct Shown<'a> {
    file: &'a File,
    proof: SyncSender<Vec<u8>>,
    left: u64,
    /// There is no use going on once this is gone.
    wanted: PathBuf,
}

impl Write for Shown<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or(io::ErrorKind::FileTooLarge)?;
        if !self.wanted.exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.file.write_all(bytes)?;
        self.proof.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What [`Shown`] was given.
struct Sent {
    pieces: Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl Read for Sent {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.piece.position() == self.piece.get_ref().len() as u64 {
            match self.pieces.recv() {
                Ok(piece) => self.piece = io::Cursor::new(piece),
                Err(_) => return Ok(0),
            }
        }
        self.piece.read(out)
    }
}
