//! A kernel's file: read in place, or unpacked.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use hv::Memory;
use rustix::fs::OFlags;
use vm_memory::{Bytes, GuestAddress};

use super::BootError;

/// No unpacked kernel is larger: a file that says so is a bomb.
const MOST_UNPACKED: u64 = 1 << 30;
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ELF: [u8; 4] = *b"\x7fELF";

enum Content {
    File(File),
    Bytes(Vec<u8>),
}

/// A kernel's file.
pub(super) struct Image {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    content: Content,
    magic: [u8; 4],
}

impl Image {
    pub(super) fn open(path: &Path) -> Result<Self, BootError> {
        let fail = |source| BootError::Read { what: "kernel", path: path.to_owned(), source };
        let file = sys::handed::open(path, OFlags::RDONLY).map_err(fail)?;
        let mut image = Self {
            path: path.to_owned(),
            size: file.metadata().map_err(fail)?.len(),
            content: Content::File(file),
            magic: [0; 4],
        };
        image.magic = image.array(0).map_err(|_| BootError::Format(path.to_owned()))?;
        if image.magic == ZSTD {
            let bytes = image.unpack().map_err(fail)?;
            if bytes.len() as u64 > MOST_UNPACKED {
                return Err(image.damaged("it unpacks to more than 1 GiB"));
            }
            image.size = bytes.len() as u64;
            image.content = Content::Bytes(bytes);
            image.magic = image.array(0).map_err(|_| BootError::Format(path.to_owned()))?;
        }
        Ok(image)
    }

    /// A kernel that is in memory already.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let magic = bytes.first_chunk::<4>().copied()?;
        let content = Content::Bytes(bytes.to_vec());
        Some(Self { path: PathBuf::new(), size: bytes.len() as u64, content, magic })
    }

    fn unpack(&self) -> std::io::Result<Vec<u8>> {
        let Content::File(file) = &self.content else { return Ok(Vec::new()) };
        let mut bytes = Vec::new();
        zstd::stream::read::Decoder::new(file)?.take(MOST_UNPACKED + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn is_elf(&self) -> bool {
        self.magic == ELF
    }

    pub(super) fn damaged(&self, what: &'static str) -> BootError {
        BootError::Damaged { path: self.path.clone(), what }
    }

    /// Reads `into.len()` bytes at `offset`.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), BootError> {
        match &self.content {
            Content::File(file) => file.read_exact_at(into, offset).map_err(|source| match source.kind() {
                std::io::ErrorKind::UnexpectedEof => self.damaged("it ends early"),
                _ => BootError::Read { what: "kernel", path: self.path.clone(), source },
            }),
            Content::Bytes(bytes) => {
                let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)?.get(..into.len()));
                into.copy_from_slice(from.ok_or_else(|| self.damaged("it ends early"))?);
                Ok(())
            }
        }
    }

    pub(super) fn array<const N: usize>(&self, offset: u64) -> Result<[u8; N], BootError> {
        let mut bytes = [0; N];
        self.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies `size` bytes at `offset` to guest memory, through a buffer: the file may change under a mapping.
    pub(super) fn copy(&self, offset: u64, memory: &Memory, gpa: u64, size: u64) -> Result<(), BootError> {
        if offset.checked_add(size).is_none_or(|end| end > self.size) {
            return Err(self.damaged("it ends early"));
        }
        let end = gpa.checked_add(size).ok_or_else(|| self.damaged("an address is too large"))?;
        let fit = || BootError::Fit { what: "kernel", end, memory: memory.ram_size() >> 20 };
        let mut buffer = vec![0; usize::try_from(size.min(1 << 20)).unwrap_or(0)];
        let mut done = 0;
        while done < size {
            let now = (size - done).min(buffer.len() as u64);
            let part = &mut buffer[..now as usize];
            self.read(offset + done, part)?;
            memory.ram().write_slice(part, GuestAddress(gpa + done)).map_err(|_| fit())?;
            done += now;
        }
        Ok(())
    }
}
