//! How the archive of a layer comes back, byte for byte, from the layer.
//!
//! An EROFS layer has the contents of files in whole blocks as they stood in the archive. What the archive has besides (its
//! headers, the ends of files, padding) is written down while the archive is taken apart:
//!
//! ```text
//! archive   header | file ........................ end | padding | header | ...
//! recipe    R length bytes | E offset length | R length bytes                         compressed with zstd
//! layer                      block block block
//! ```
//!
//! `R` is followed by a length and that many bytes of the archive, `E` by an offset in the EROFS file and a length; numbers have
//! eight bytes, lowest first. A layer that is a plain directory has a recipe of nothing but `R`.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

/// The file beside a layer.
pub(crate) const FILE_NAME: &str = "archive.recipe";
/// Bytes that are gathered before they are written.
const GATHERED: usize = 256 << 10;
/// The longest run of bytes that a recipe can have in one piece; what says more is damaged.
const MAX_RUN: u64 = GATHERED as u64;
const RAW: u8 = b'R';
const EROFS: u8 = b'E';

/// Writes a recipe while an archive goes by.
pub(crate) struct Tape<W: Write> {
    out: zstd::stream::write::Encoder<'static, W>,
    raw: Vec<u8>,
    /// Bytes to come that are in the layer.
    elsewhere: u64,
    /// The first failure; the archive goes on and it is told at the end.
    failed: Option<io::Error>,
}

impl<W: Write> Tape<W> {
    pub(crate) fn new(out: W) -> io::Result<Self> {
        let out = zstd::stream::write::Encoder::new(out, 3)?;
        Ok(Self { out, raw: Vec::with_capacity(GATHERED), elsewhere: 0, failed: None })
    }

    /// The next `length` bytes of the archive are in the layer from `offset` on.
    pub(crate) fn placed(&mut self, offset: u64, length: u64) {
        if length == 0 || self.failed.is_some() {
            return;
        }
        self.elsewhere = length;
        let mut record = [0; 17];
        record[0] = EROFS;
        record[1..9].copy_from_slice(&offset.to_le_bytes());
        record[9..].copy_from_slice(&length.to_le_bytes());
        let written = self.flush().and_then(|()| self.out.write_all(&record));
        self.failed = written.err();
    }

    fn heard(&mut self, bytes: &[u8]) {
        let skipped = usize::try_from(self.elsewhere).unwrap_or(usize::MAX).min(bytes.len());
        self.elsewhere -= skipped as u64;
        let mut rest = &bytes[skipped..];
        while !rest.is_empty() && self.failed.is_none() {
            let now = rest.len().min(GATHERED - self.raw.len());
            self.raw.extend_from_slice(&rest[..now]);
            rest = &rest[now..];
            if self.raw.len() == GATHERED {
                self.failed = self.flush().err();
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.raw.is_empty() {
            self.out.write_all(&[RAW])?;
            self.out.write_all(&(self.raw.len() as u64).to_le_bytes())?;
            self.out.write_all(&self.raw)?;
            self.raw.clear();
        }
        Ok(())
    }

    /// Ends the recipe.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => {
                self.flush()?;
                self.out.finish()
            }
        }
    }
}

/// An archive that is written down while it is read.
pub(crate) struct Recorded<R, W: Write> {
    inner: R,
    tape: Rc<RefCell<Tape<W>>>,
}

impl<R: BufRead, W: Write> Recorded<R, W> {
    pub(crate) fn new(inner: R, tape: Rc<RefCell<Tape<W>>>) -> Self {
        Self { inner, tape }
    }
}

impl<R: BufRead, W: Write> BufRead for Recorded<R, W> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        // Gives what was given before, without reading: that is what is consumed.
        if let Ok(bytes) = self.inner.fill_buf() {
            self.tape.borrow_mut().heard(&bytes[..count.min(bytes.len())]);
        }
        self.inner.consume(count);
    }
}

impl<R: BufRead, W: Write> Read for Recorded<R, W> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let now = available.len().min(out.len());
        out[..now].copy_from_slice(&available[..now]);
        self.consume(now);
        Ok(now)
    }
}

/// A layer's archive, put together again.
pub(crate) struct Replay {
    recipe: zstd::stream::read::Decoder<'static, io::BufReader<File>>,
    layer: Option<File>,
    now: Piece,
}

#[derive(Debug)]
enum Piece {
    Raw { left: u64 },
    Layer { offset: u64, left: u64 },
    End,
}

impl Replay {
    /// Opens the recipe in a layer's folder; `layer` is the EROFS file beside it, if it is one.
    pub(crate) fn open(folder: &Path, layer: Option<&Path>) -> io::Result<Self> {
        let recipe = zstd::stream::read::Decoder::new(File::open(folder.join(FILE_NAME))?)?;
        let layer = layer.map(|name| File::open(folder.join(name))).transpose()?;
        Ok(Self { recipe, layer, now: Piece::Raw { left: 0 } })
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.recipe.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn next_piece(&mut self) -> io::Result<Piece> {
        let mut kind = [0];
        if self.recipe.read(&mut kind)? == 0 {
            return Ok(Piece::End);
        }
        match kind[0] {
            RAW => match self.number()? {
                left if left <= MAX_RUN => Ok(Piece::Raw { left }),
                _ => Err(damaged()),
            },
            EROFS if self.layer.is_some() => Ok(Piece::Layer { offset: self.number()?, left: self.number()? }),
            _ => Err(damaged()),
        }
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the recipe of the layer's archive is damaged")
}

impl Read for Replay {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        while matches!(self.now, Piece::Raw { left: 0 } | Piece::Layer { left: 0, .. }) {
            self.now = self.next_piece()?;
        }
        let room = out.len();
        let limit = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(room);
        let read = match &mut self.now {
            Piece::End => return Ok(0),
            Piece::Raw { left } => {
                let read = self.recipe.read(&mut out[..limit(*left)])?;
                *left -= read as u64;
                read
            }
            Piece::Layer { offset, left } => {
                let layer = self.layer.as_ref().ok_or_else(damaged)?;
                let read = layer.read_at(&mut out[..limit(*left)], *offset)?;
                *offset += read as u64;
                *left -= read as u64;
                read
            }
        };
        if read == 0 { Err(damaged()) } else { Ok(read) }
    }
}
