//! The image file as it grows: buffered, counted and digested on the way.

use std::io::{BufRead, Seek, SeekFrom, Write};

use oci::digest::Digester;

use super::format::{BLOCK, BLOCK_U64, Superblock};
use super::{ErofsError, Finished};

/// Large enough that a write call's own cost does not show.
const BUFFER: usize = 1 << 20;

/// An append-only file whose first block comes last.
#[derive(Debug)]
pub(super) struct Output<W: Write + Seek> {
    file: W,
    buffer: Vec<u8>,
    flushed: u64,
    digest: Digester,
}

impl<W: Write + Seek> Output<W> {
    pub(super) fn new(mut file: W) -> Result<Self, ErofsError> {
        file.write_all(&[0; BLOCK]).map_err(ErofsError::Write)?;
        Ok(Self { file, buffer: Vec::with_capacity(BUFFER), flushed: BLOCK_U64, digest: Digester::new() })
    }

    pub(super) fn position(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    /// The number of the block that comes next; the position stands at its start.
    pub(super) fn block(&self) -> Result<u32, ErofsError> {
        // The last numbers are kept free: all ones means a hole.
        u32::try_from(self.position() / BLOCK_U64)
            .ok()
            .filter(|block| *block < u32::MAX - 1)
            .ok_or(ErofsError::TooLarge)
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), ErofsError> {
        while !bytes.is_empty() {
            let now = bytes.len().min(BUFFER - self.buffer.len());
            self.buffer.extend_from_slice(&bytes[..now]);
            bytes = &bytes[now..];
            if self.buffer.len() == BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    pub(super) fn copy(&mut self, path: &[u8], mut length: u64, data: &mut dyn BufRead) -> Result<(), ErofsError> {
        let failed = |source| ErofsError::Read { path: crate::path::show(path), source };
        while length > 0 {
            let available = data.fill_buf().map_err(failed)?;
            if available.is_empty() {
                return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
            }
            let now = usize::try_from(length).unwrap_or(usize::MAX).min(available.len());
            self.write(&available[..now])?;
            data.consume(now);
            length -= now as u64;
        }
        Ok(())
    }

    pub(super) fn zeros(&mut self, mut length: u64) -> Result<(), ErofsError> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        while length > 0 {
            let now = length.min(BLOCK_U64);
            self.write(&ZEROS[..usize::try_from(now).unwrap_or(BLOCK)])?;
            length -= now;
        }
        Ok(())
    }

    /// Zeros up to the next block.
    pub(super) fn pad(&mut self) -> Result<(), ErofsError> {
        let position = self.position();
        self.zeros(position.next_multiple_of(BLOCK_U64) - position)
    }

    fn flush(&mut self) -> Result<(), ErofsError> {
        self.digest.update(&self.buffer);
        self.file.write_all(&self.buffer).map_err(ErofsError::Write)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the superblock in front and ends the digest with it.
    pub(super) fn finish(mut self, mut superblock: Superblock) -> Result<(Finished, W), ErofsError> {
        self.pad()?;
        self.flush()?;
        superblock.blocks = self.block()?;
        let body = self.digest.clone().finish();
        let mut uuid = [0; 16];
        hex::decode_to_slice(&body.hex()[..32], &mut uuid)
            .map_err(|error| ErofsError::Write(std::io::Error::other(error)))?;
        superblock.uuid = uuid;
        let first = superblock.encode();
        self.digest.update(&first);
        self.file.seek(SeekFrom::Start(0)).map_err(ErofsError::Write)?;
        self.file.write_all(&first).map_err(ErofsError::Write)?;
        self.file.flush().map_err(ErofsError::Write)?;
        let digest = self.digest.finish();
        Ok((Finished { size: self.flushed, digest, uuid, inodes: superblock.inodes }, self.file))
    }
}
