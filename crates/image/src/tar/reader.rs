//! Entry by entry through an archive.

use std::io::{self, BufRead, Read};

use super::TarError;
use super::header::{BLOCK, Header, text};
use super::pax::{Records, decimal};
use super::sparse::{self, Follows, SEGMENTS_MAX};
use crate::Limits;
use crate::erofs::Segment;
use crate::model::{Dots, EndMark};
use crate::path;
use crate::tree::{DeviceKind, Stat, Time};

/// The longest extended header or long name.
const EXTENDED_MAX: u64 = 1 << 20;

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its clean, relative name; empty for the root.
    pub path: Vec<u8>,
    /// Its metadata.
    pub stat: Stat,
    /// What it is.
    pub kind: Kind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; [`Reader::contents`] has its bytes.
    File {
        /// Its length.
        size: u64,
        /// For a sparse file, the parts that [`Reader::contents`] has, one behind the other.
        segments: Option<Vec<Segment>>,
    },
    /// A directory.
    Directory,
    /// A symbolic link with its target as it is.
    Symlink(Vec<u8>),
    /// A further name of an earlier entry, by its clean path.
    Hardlink(Vec<u8>),
    /// A device node.
    Device {
        /// Character or block.
        kind: DeviceKind,
        /// The driver's number.
        major: u32,
        /// The number within the driver.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// Reads an archive from front to end.
#[derive(Debug)]
pub struct Reader<R: BufRead> {
    input: R,
    limits: Limits,
    at: u64,
    /// Bytes of the current entry's contents that are still there, and of padding behind them.
    left: u64,
    padding: u64,
    current: String,
    entries: u64,
    global: Records,
    ended: bool,
    end: EndMark,
    dots: Dots,
}

/// What extension headers in front of a header said.
#[derive(Default)]
struct Extensions {
    pax: Option<Records>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: BufRead> Reader<R> {
    /// Begins at the first header of `input`.
    pub fn new(input: R, limits: Limits) -> Self {
        Self {
            input,
            limits,
            at: 0,
            left: 0,
            padding: 0,
            current: String::new(),
            entries: 0,
            global: Records::default(),
            ended: false,
            end: EndMark::Required,
            dots: Dots::Refused,
        }
    }

    /// Whether the archive must have an end mark.
    #[must_use]
    pub fn ending(mut self, end: EndMark) -> Self {
        self.end = end;
        self
    }

    /// What names with `..` in them are.
    #[must_use]
    pub fn dots(mut self, dots: Dots) -> Self {
        self.dots = dots;
        self
    }

    /// How many bytes were read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at
    }

    /// How many entries there were.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The next entry; what is left of the current one is skipped. `None` at the end mark.
    ///
    /// # Errors
    /// [`TarError`]; the archive cannot be read further then.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        if self.ended {
            return Ok(None);
        }
        self.skip_rest()?;
        let mut extensions = Extensions::default();
        loop {
            let start = self.at;
            let Some(header) = self.read_header()? else {
                self.ended = true;
                return Ok(None);
            };
            match header.kind() {
                b'x' | b'X' => {
                    let body = self.read_extension(&header, start)?;
                    let records = extensions.pax.get_or_insert_default();
                    records.parse(&body).ok_or_else(|| self.field(&header, start, "extended header"))?;
                }
                b'g' => {
                    let body = self.read_extension(&header, start)?;
                    self.global.parse(&body).ok_or_else(|| self.field(&header, start, "global extended header"))?;
                }
                b'L' => extensions.name = Some(text(&self.read_extension(&header, start)?).to_vec()),
                b'K' => extensions.link = Some(text(&self.read_extension(&header, start)?).to_vec()),
                b'V' => self.skip_body(&header, start)?,
                _ => return self.entry(&header, start, extensions).map(Some),
            }
        }
    }

    /// The contents of the current entry.
    pub fn contents(&mut self) -> Contents<'_, R> {
        Contents { reader: self }
    }

    /// Reads to the end of the input, so that whoever counts or digests it sees all of it.
    ///
    /// # Errors
    /// [`TarError::Read`].
    pub fn drain(&mut self) -> Result<(), TarError> {
        loop {
            let count = self.input.fill_buf().map_err(|source| TarError::Read { at: self.at, source })?.len();
            if count == 0 {
                return Ok(());
            }
            self.input.consume(count);
            self.at += count as u64;
        }
    }

    fn entry(&mut self, header: &Header, start: u64, extensions: Extensions) -> Result<Entry, TarError> {
        let pax = extensions.pax.unwrap_or_default().over(&self.global);
        let raw = match pax.get("GNU.sparse.name").or(pax.get("path")) {
            Some(name) => name.to_vec(),
            None => extensions.name.unwrap_or_else(|| header.name()),
        };
        self.current = path::show(&raw);
        self.count_entry()?;
        let path = match self.dots {
            Dots::Refused => path::clean(&raw),
            Dots::Within => path::rooted(&raw),
        };
        let path = path.map_err(|source| TarError::Name { path: self.current.clone(), at: start, source })?;
        let link = match pax.get("linkpath") {
            Some(link) => link.to_vec(),
            None => extensions.link.unwrap_or_else(|| header.link_name().to_vec()),
        };
        let stat = self.stat(header, &pax).ok_or_else(|| self.named_field(start, "mode, owner or time"))?;
        let kind = match header.kind() {
            b'0' | 0 | b'7' if raw.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => self.file(header, &pax, start)?,
            b'S' => self.gnu_sparse(header, &pax, start)?,
            b'1' => self.hardlink(&link, start)?,
            b'2' if link.is_empty() || link.contains(&0) || link.len() > path::PATH_MAX - 1 => {
                return Err(self.named_field(start, "link target"));
            }
            b'2' => Kind::Symlink(link),
            b'3' => self.device(header, DeviceKind::Character, start)?,
            b'4' => self.device(header, DeviceKind::Block, start)?,
            b'5' => Kind::Directory,
            b'D' => {
                self.skip_body(header, start)?;
                Kind::Directory
            }
            b'6' => Kind::Fifo,
            other => return Err(TarError::Kind { path: self.current.clone(), kind: char::from(other) }),
        };
        if path.is_empty() && kind != Kind::Directory {
            return Err(self.named_field(start, "name: it is the root's, and the entry is no directory"));
        }
        Ok(Entry { path, stat, kind })
    }

    fn count_entry(&mut self) -> Result<(), TarError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            let (path, limit) = (self.current.clone(), self.limits.entries);
            return Err(TarError::Limit { what: "too many entries", path, limit });
        }
        Ok(())
    }

    fn stat(&self, header: &Header, pax: &Records) -> Option<Stat> {
        let id = |key: &str, field: Option<i64>| match pax.number(key) {
            Some(number) => u32::try_from(number?).ok(),
            None => u32::try_from(field?).ok(),
        };
        let mtime = match pax.time("mtime") {
            Some(time) => time?,
            None => Time { seconds: header.mtime()?, nanos: 0 },
        };
        let mode = u16::try_from(header.mode()? & 0o7777).ok()?;
        Some(Stat { mode, uid: id("uid", header.uid())?, gid: id("gid", header.gid())?, mtime, xattrs: pax.xattrs() })
    }

    fn stored_size(&self, header: &Header, pax: &Records) -> Option<u64> {
        match pax.number("size") {
            Some(size) => size,
            None => u64::try_from(header.size()?).ok(),
        }
    }

    fn file(&mut self, header: &Header, pax: &Records, start: u64) -> Result<Kind, TarError> {
        let stored = self.stored_size(header, pax).ok_or_else(|| self.named_field(start, "size"))?;
        self.begin_body(stored);
        let real = pax.number("GNU.sparse.realsize").or(pax.number("GNU.sparse.size"));
        let bad = |reader: &Self| reader.named_field(start, "sparse map");
        if pax.get("GNU.sparse.major") == Some(b"1") {
            let size = real.flatten().ok_or_else(|| bad(self))?;
            let pairs = self.sparse_in_contents(start)?;
            return self.sparse_file(pairs, size, start);
        }
        if let Some(list) = pax.get("GNU.sparse.map") {
            let pairs = sparse::from_list(list).ok_or_else(|| bad(self))?;
            return self.sparse_file(pairs, real.flatten().ok_or_else(|| bad(self))?, start);
        }
        if pax.get("GNU.sparse.numblocks").is_some() {
            let size = real.flatten().ok_or_else(|| bad(self))?;
            return self.sparse_file(pax.sparse_pairs.clone(), size, start);
        }
        self.check_size(stored)?;
        Ok(Kind::File { size: stored, segments: None })
    }

    fn gnu_sparse(&mut self, header: &Header, pax: &Records, start: u64) -> Result<Kind, TarError> {
        let bad = |reader: &Self| reader.named_field(start, "sparse map");
        let stored = self.stored_size(header, pax).ok_or_else(|| self.named_field(start, "size"))?;
        let size = sparse::real_size(header).ok_or_else(|| bad(self))?;
        let (mut pairs, mut follows) = sparse::from_header(header).ok_or_else(|| bad(self))?;
        while follows == Follows::Yes {
            let mut block = [0; BLOCK];
            self.read_block(&mut block)?;
            let (more, next) = sparse::from_block(&block).ok_or_else(|| bad(self))?;
            pairs.extend(more);
            follows = next;
            if pairs.len() > SEGMENTS_MAX {
                return Err(bad(self));
            }
        }
        self.begin_body(stored);
        self.sparse_file(pairs, size, start)
    }

    fn sparse_file(&mut self, pairs: Vec<(u64, u64)>, size: u64, start: u64) -> Result<Kind, TarError> {
        self.check_size(size)?;
        let segments = (pairs.len() <= SEGMENTS_MAX).then(|| sparse::check(pairs, size, self.left)).flatten();
        let segments = segments.ok_or_else(|| self.named_field(start, "sparse map"))?;
        Ok(Kind::File { size, segments: Some(segments) })
    }

    /// The map that version 1.0 has in front of the contents: decimal lines, padded to whole blocks.
    fn sparse_in_contents(&mut self, start: u64) -> Result<Vec<(u64, u64)>, TarError> {
        let mut used = 0_u64;
        let mut line = |reader: &mut Self| -> Result<u64, TarError> {
            let mut digits = Vec::with_capacity(20);
            loop {
                let mut byte = [0];
                reader.contents().read_exact(&mut byte).map_err(|source| TarError::Read { at: reader.at, source })?;
                used += 1;
                match byte[0] {
                    b'\n' => break,
                    digit if digits.len() < 20 => digits.push(digit),
                    _ => return Err(reader.named_field(start, "sparse map")),
                }
            }
            decimal(&digits).ok_or_else(|| reader.named_field(start, "sparse map"))
        };
        let count = line(self)?;
        if count > SEGMENTS_MAX as u64 {
            return Err(self.named_field(start, "sparse map"));
        }
        let mut pairs = Vec::new();
        for _ in 0..count {
            pairs.push((line(self)?, line(self)?));
        }
        let rest = used.next_multiple_of(BLOCK as u64) - used;
        io::copy(&mut self.contents().take(rest), &mut io::sink())
            .map_err(|source| TarError::Read { at: self.at, source })?;
        Ok(pairs)
    }

    fn hardlink(&self, link: &[u8], start: u64) -> Result<Kind, TarError> {
        let target = path::clean(link).map_err(|source| TarError::Link {
            path: self.current.clone(),
            target: path::show(link),
            source,
        })?;
        if target.is_empty() {
            return Err(self.named_field(start, "link target"));
        }
        Ok(Kind::Hardlink(target))
    }

    fn device(&self, header: &Header, kind: DeviceKind, start: u64) -> Result<Kind, TarError> {
        let number = header.device().and_then(|(major, minor)| {
            let (major, minor) = (u32::try_from(major).ok()?, u32::try_from(minor).ok()?);
            (major < 1 << 12 && minor < 1 << 20).then_some((major, minor))
        });
        let (major, minor) = number.ok_or_else(|| self.named_field(start, "device number"))?;
        Ok(Kind::Device { kind, major, minor })
    }

    fn check_size(&self, size: u64) -> Result<(), TarError> {
        if size > self.limits.file_bytes {
            let (path, limit) = (self.current.clone(), self.limits.file_bytes);
            return Err(TarError::Limit { what: "file too large", path, limit });
        }
        Ok(())
    }

    fn begin_body(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip_body(&mut self, header: &Header, start: u64) -> Result<(), TarError> {
        let size = header.size().and_then(|size| u64::try_from(size).ok());
        self.begin_body(size.ok_or_else(|| self.field(header, start, "size"))?);
        self.skip_rest()
    }

    fn read_extension(&mut self, header: &Header, start: u64) -> Result<Vec<u8>, TarError> {
        let size = header.size().and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or_else(|| self.field(header, start, "size"))?;
        if size > EXTENDED_MAX {
            let path = path::show(&header.name());
            return Err(TarError::Limit { what: "extended header too large", path, limit: EXTENDED_MAX });
        }
        self.begin_body(size);
        let mut body = Vec::new();
        self.contents().read_to_end(&mut body).map_err(|source| unwrap_truncated(source, self.at))?;
        self.skip_rest()?;
        Ok(body)
    }

    /// The next header; `None` at the end mark.
    fn read_header(&mut self) -> Result<Option<Header>, TarError> {
        let start = self.at;
        let mut header = Header([0; BLOCK]);
        let at_end = self.input.fill_buf().map_err(|source| TarError::Read { at: start, source })?.is_empty();
        if at_end {
            if start == 0 {
                return Err(TarError::Empty);
            }
            if self.end == EndMark::Optional {
                return Ok(None);
            }
            return Err(TarError::Truncated { at: start, place: format!("{} without an end mark", self.place()) });
        }
        self.read_block(&mut header.0)?;
        if header.is_zero() {
            return Ok(None);
        }
        if !header.checksum_fits() {
            return Err(TarError::Checksum { at: start, place: self.place() });
        }
        Ok(Some(header))
    }

    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<(), TarError> {
        let mut filled = 0;
        while filled < BLOCK {
            let count =
                self.input.read(&mut block[filled..]).map_err(|source| TarError::Read { at: self.at, source })?;
            if count == 0 {
                return Err(TarError::Truncated { at: self.at, place: format!("in a header {}", self.place()) });
            }
            filled += count;
            self.at += count as u64;
        }
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let mut left = self.left + self.padding;
        while left > 0 {
            let available = self.input.fill_buf().map_err(|source| TarError::Read { at: self.at, source })?.len();
            if available == 0 {
                if self.end == EndMark::Optional && left <= self.padding {
                    break;
                }
                return Err(TarError::Truncated { at: self.at, place: self.inside() });
            }
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(available);
            self.input.consume(now);
            self.at += now as u64;
            left -= now as u64;
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn place(&self) -> String {
        match self.entries {
            0 => "before the first entry".to_owned(),
            count => format!("after entry {count}, \"{}\",", self.current),
        }
    }

    fn inside(&self) -> String {
        format!("in the contents of entry {}, \"{}\"", self.entries, self.current)
    }

    fn field(&self, header: &Header, at: u64, field: &'static str) -> TarError {
        TarError::Field { path: path::show(&header.name()), at, field }
    }

    fn named_field(&self, at: u64, field: &'static str) -> TarError {
        TarError::Field { path: self.current.clone(), at, field }
    }
}

/// An I/O error that carries one of ours gives it back.
pub(super) fn unwrap_truncated(source: io::Error, at: u64) -> TarError {
    match source.downcast::<TarError>() {
        Ok(ours) => ours,
        Err(source) => TarError::Read { at, source },
    }
}

/// The bytes of the current entry.
#[derive(Debug)]
pub struct Contents<'a, R: BufRead> {
    reader: &'a mut Reader<R>,
}

impl<R: BufRead> BufRead for Contents<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.reader.left == 0 {
            return Ok(&[]);
        }
        let truncated = TarError::Truncated { at: self.reader.at, place: self.reader.inside() };
        let limit = usize::try_from(self.reader.left).unwrap_or(usize::MAX);
        let available = self.reader.input.fill_buf()?;
        if available.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, truncated));
        }
        Ok(&available[..available.len().min(limit)])
    }

    fn consume(&mut self, count: usize) {
        self.reader.input.consume(count);
        self.reader.at += count as u64;
        self.reader.left = self.reader.left.saturating_sub(count as u64);
    }
}

impl<R: BufRead> Read for Contents<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let now = available.len().min(out.len());
        out[..now].copy_from_slice(&available[..now]);
        self.consume(now);
        Ok(now)
    }
}
