//! Files' content: open, read, write, and what else is done with an open file.

use hv::vectored;
use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::nodes::Handle;
use super::{Answer, Arguments, Call, OUT_HEADER, Outcome, Server, Sharing};
use crate::queue::Writer;

/// The flags of the guest's open(2) that count here; the rest is its kernel's business.
const OPEN_FLAGS: OFlags = OFlags::RDWR
    .union(OFlags::WRONLY)
    .union(OFlags::APPEND)
    .union(OFlags::TRUNC)
    .union(OFlags::NOATIME)
    .union(OFlags::DSYNC)
    .union(OFlags::SYNC);

impl Server {
    /// `struct fuse_open_out`.
    pub(super) fn opened(&mut self, handle: Handle) -> Vec<u8> {
        [self.handles.add(handle).to_le_bytes(), [0; 8]].concat()
    }

    fn flags(&self, raw: u32) -> Result<OFlags, Errno> {
        let flags = OFlags::from_bits_retain(raw) & OPEN_FLAGS;
        let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
        if writes && self.sharing == Sharing::ReadOnly { Err(Errno::ROFS) } else { Ok(flags) }
    }

    pub(super) fn open(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let flags = self.flags(arguments.word()?)?;
        // The guest gives the place of each write itself, so appending would move them.
        let file = self.reopen(call.node, (flags - OFlags::APPEND) | OFlags::NONBLOCK)?;
        Ok(Answer::Bytes(self.opened(Handle { file, node: call.node, flags })))
    }

    pub(super) fn create(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let (raw, mode, umask) = (arguments.word()?, arguments.word()?, arguments.word()?);
        arguments.skip(4);
        let (name, flags) = (arguments.name()?, self.flags(raw)?);
        let folder = self.nodes.fd(call.node)?;
        let exclusive = OFlags::from_bits_retain(raw) & OFlags::EXCL;
        let how = (flags - OFlags::APPEND - OFlags::TRUNC) | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & !umask & 0o7777);
        // Made here, it can be given away; made by somebody else meanwhile, it is his.
        let file = match rustix::fs::openat(folder, &name[..], how | OFlags::EXCL | OFlags::NONBLOCK, mode) {
            Ok(file) => {
                self.give(folder, &name, call)?;
                Some(file)
            }
            Err(Errno::EXIST) if exclusive.is_empty() => None,
            Err(errno) => return Err(errno),
        };
        let (node, mut answer) = self.entry(call.node, &name)?;
        let file = match file {
            Some(file) => file,
            None => self.reopen(node, (flags - OFlags::APPEND) | OFlags::NONBLOCK)?,
        };
        answer.extend(self.opened(Handle { file, node, flags: flags - OFlags::TRUNC }));
        Ok(Answer::Bytes(answer))
    }

    pub(super) fn read(&mut self, _call: Call, arguments: &mut Arguments<'_, '_>, writer: &mut Writer<'_>) -> Outcome {
        let (handle, offset, size) = (arguments.long()?, arguments.long()?, arguments.word()? as usize);
        let file = self.handles.get(handle)?;
        let mut room = writer.clone();
        room.skip(OUT_HEADER);
        let slices = room.slices(size);
        let done = if slices.is_empty() { 0 } else { vectored::read_at(file, &slices, offset)? };
        self.counters.read_bytes += done as u64;
        Ok(Answer::Written(done))
    }

    pub(super) fn write(&mut self, _call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let (handle, offset, size) = (arguments.long()?, arguments.long()?, arguments.word()? as usize);
        arguments.skip(20);
        if arguments.0.remaining() < size {
            return Err(Errno::INVAL);
        }
        let file = self.handles.get(handle)?;
        let slices = arguments.0.slices(size);
        let done = if slices.is_empty() { 0 } else { vectored::write_at(file, &slices, offset)? };
        self.counters.written_bytes += done as u64;
        let done = u32::try_from(done).unwrap_or(u32::MAX);
        Ok(Answer::Bytes([done.to_le_bytes(), [0; 4]].concat()))
    }

    pub(super) fn release(&mut self, _call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let handle = arguments.long()?;
        self.handles.remove(handle);
        Ok(Answer::Bytes(Vec::new()))
    }

    /// Each close(2) of the guest; what could fail has failed in the write.
    pub(super) fn flush(&mut self, _call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        self.handles.get(arguments.long()?)?;
        Ok(Answer::Bytes(Vec::new()))
    }

    pub(super) fn sync(&mut self, _call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let (handle, flags) = (arguments.long()?, arguments.word()?);
        let file = self.handles.get(handle)?;
        if flags & 1 == 0 {
            rustix::fs::fsync(file)?
        } else {
            rustix::fs::fdatasync(file)?
        }
        Ok(Answer::Bytes(Vec::new()))
    }

    pub(super) fn allocate(&mut self, _call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let (handle, offset, length) = (arguments.long()?, arguments.long()?, arguments.long()?);
        let mode = FallocateFlags::from_bits(arguments.word()?).ok_or(Errno::OPNOTSUPP)?;
        rustix::fs::fallocate(self.handles.get(handle)?, mode, offset, length)?;
        Ok(Answer::Bytes(Vec::new()))
    }

    pub(super) fn seek(&mut self, _call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let (handle, offset, whence) = (arguments.long()?, arguments.long()?, arguments.word()?);
        let target = match whence {
            3 => SeekFrom::Data(offset),
            4 => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        let place = rustix::fs::seek(self.handles.get(handle)?, target)?;
        Ok(Answer::Bytes(place.to_le_bytes().to_vec()))
    }

    pub(super) fn copy(&mut self, _call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let (from, mut from_offset, _node) = (arguments.long()?, arguments.long()?, arguments.long()?);
        let (to, mut to_offset, length) = (arguments.long()?, arguments.long()?, arguments.long()?);
        let length = usize::try_from(length).map_err(|_| Errno::INVAL)?.min(1 << 30);
        let (from, to) = (self.handles.get(from)?, self.handles.get(to)?);
        let done = rustix::fs::copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), length)?;
        let done = u32::try_from(done).unwrap_or(u32::MAX);
        Ok(Answer::Bytes([done.to_le_bytes(), [0; 4]].concat()))
    }
}
