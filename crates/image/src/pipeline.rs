//! One thread reads, decompresses and digests an archive while another one takes it apart.

use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use oci::digest::{Digest, Digester};

use crate::layer::LayerError;
use crate::model::Limits;

/// What goes from one thread to the other at a time.
const PIECE: usize = 1 << 20;
/// How many pieces may wait.
const WAITING: usize = 4;
/// Below this many bytes the compression ratio is not looked at.
const RATIO_FROM: u64 = 64 << 20;

/// The memory that an xz stream may ask for, in KiB: four times what the strongest preset does.
const XZ_KIB: u32 = 256 << 10;

/// What was read.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// The digest of the uncompressed archive.
    pub(crate) digest: Digest,
}

/// Runs `consume` on the decompressed bytes of `reader` while they are being read.
///
/// # Errors
/// What `consume` returns, or the reader's own failure when `consume` did not come across it.
pub(crate) fn run<R: Read + Send, T>(
    reader: R,
    limits: Limits,
    consume: impl FnOnce(&mut Pieces) -> Result<T, LayerError>,
) -> Result<(T, Source), LayerError> {
    thread::scope(|scope| {
        let (full, filled) = sync_channel(WAITING);
        let (empty, emptied) = channel();
        let producer = thread::Builder::new()
            .name("archive-reader".to_owned())
            .spawn_scoped(scope, move || produce(reader, limits, &full, &emptied))
            .map_err(LayerError::Read)?;
        let mut pieces = Pieces { filled, empty, current: Vec::new(), at: 0 };
        let outcome = consume(&mut pieces);
        // Closes the channel, so that the other thread ends even when nobody wants the rest.
        drop(pieces);
        let source = producer.join().map_err(|_| LayerError::Interrupted)?;
        let value = outcome?;
        Ok((value, source?.ok_or(LayerError::Interrupted)?))
    })
}

/// Reads everything. `None` when the other side lost interest; failures go down the channel where the other side sees
/// them in their place.
fn produce<R: Read + Send>(
    reader: R,
    limits: Limits,
    full: &SyncSender<io::Result<Vec<u8>>>,
    emptied: &Receiver<Vec<u8>>,
) -> Result<Option<Source>, LayerError> {
    let compressed = AtomicU64::new(0);
    let mut input = decompress(Counted { inner: reader, count: &compressed })?;
    let mut digester = Digester::new();
    let mut total = 0_u64;
    loop {
        let mut piece = emptied.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        piece.clear();
        let read = input.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        total += piece.len() as u64;
        let checked = read.and_then(|_| check_limits(total, compressed.load(Ordering::Relaxed), limits));
        if let Err(error) = checked {
            drop(full.send(Err(error)));
            return Ok(None);
        }
        if piece.is_empty() {
            return Ok(Some(Source { digest: digester.finish() }));
        }
        digester.update(&piece);
        if full.send(Ok(piece)).is_err() {
            return Ok(None);
        }
    }
}

fn check_limits(total: u64, compressed: u64, limits: Limits) -> io::Result<()> {
    let refuse = |text: String| Err(io::Error::new(io::ErrorKind::InvalidData, text));
    if total > limits.archive_bytes {
        return refuse(format!("it has more than the limit of {} bytes when decompressed", limits.archive_bytes));
    }
    if total > RATIO_FROM && total / compressed.max(1) > limits.compression_ratio {
        return refuse(format!(
            "{compressed} compressed bytes became more than {total}: beyond the limit of {} to 1",
            limits.compression_ratio
        ));
    }
    Ok(())
}

/// Looks at the first bytes and puts the right decompressor in front.
///
/// # Errors
/// What the reader says.
pub fn decompress<'a, R: Read + Send + 'a>(mut reader: R) -> Result<Box<dyn Read + Send + 'a>, LayerError> {
    let mut first = Vec::with_capacity(8);
    reader.by_ref().take(6).read_to_end(&mut first).map_err(LayerError::Read)?;
    let whole = io::Cursor::new(first.clone()).chain(reader);
    match first.as_slice() {
        [0x1f, 0x8b, ..] => {
            let buffered = io::BufReader::with_capacity(PIECE / 4, whole);
            Ok(Box::new(Named { inner: flate2::bufread::MultiGzDecoder::new(buffered), format: "gzip" }))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::stream::read::Decoder::new(whole).map_err(LayerError::Read)?;
            Ok(Box::new(Named { inner: decoder, format: "zstd" }))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            let buffered = io::BufReader::with_capacity(PIECE / 4, whole);
            let decoder = lzma_rust2::XzReader::new_mem_limit(buffered, true, XZ_KIB);
            Ok(Box::new(Named { inner: decoder, format: "xz" }))
        }
        [b'B', b'Z', b'h', ..] => {
            let buffered = io::BufReader::with_capacity(PIECE / 4, whole);
            Ok(Box::new(Named { inner: bzip2::bufread::MultiBzDecoder::new(buffered), format: "bzip2" }))
        }
        _ => Ok(Box::new(whole)),
    }
}

/// Counts what goes through.
struct Counted<'a, R> {
    inner: R,
    count: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Says in errors which format was being decompressed.
struct Named<R> {
    inner: R,
    format: &'static str,
}

impl<R: Read> Read for Named<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.inner.read(out).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            io::ErrorKind::UnexpectedEof => {
                io::Error::new(error.kind(), format!("the {} stream is cut off", self.format))
            }
            kind => io::Error::new(kind, format!("the {} stream is damaged: {error}", self.format)),
        })
    }
}

/// The reading end: pieces as one stream, without copying.
#[derive(Debug)]
pub(crate) struct Pieces {
    filled: Receiver<io::Result<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() {
            match self.filled.recv() {
                Ok(piece) => {
                    let used = std::mem::replace(&mut self.current, piece?);
                    self.at = 0;
                    if used.capacity() > 0 {
                        // The other thread may be gone already.
                        drop(self.empty.send(used));
                    }
                }
                // The end: the sender is gone.
                Err(_) => return Ok(&[]),
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at = (self.at + count).min(self.current.len());
    }
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let now = available.len().min(out.len());
        out[..now].copy_from_slice(&available[..now]);
        self.consume(now);
        Ok(now)
    }
}
