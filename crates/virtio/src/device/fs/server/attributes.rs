//! Attributes: what stat(2) says, changes of it, extended attributes, and the file system's own figures.

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Answer, Arguments, Call, NAME_MAX, Outcome, Server, VALID_SECONDS};
use crate::queue::Writer;

/// What a change is about, `FATTR_*`.
const SET_MODE: u32 = 1;
const SET_UID: u32 = 1 << 1;
const SET_GID: u32 = 1 << 2;
const SET_SIZE: u32 = 1 << 3;
const SET_ACCESSED: u32 = 1 << 4;
const SET_MODIFIED: u32 = 1 << 5;
const BY_HANDLE: u32 = 1 << 6;
const ACCESSED_NOW: u32 = 1 << 7;
const MODIFIED_NOW: u32 = 1 << 8;

/// The longest value of an extended attribute, xattr(7).
const MOST_XATTR: usize = 65_536;

/// A user as chown(2) takes it; the highest number is nobody and changes nothing.
pub(super) fn user(raw: u32) -> Option<Uid> {
    (raw != u32::MAX).then(|| Uid::from_raw(raw))
}

/// A group, in the same way.
pub(super) fn group(raw: u32) -> Option<Gid> {
    (raw != u32::MAX).then(|| Gid::from_raw(raw))
}

/// `struct fuse_attr`.
fn attributes_of(stat: &Stat) -> Vec<u8> {
    let seconds = [stat.st_atime, stat.st_mtime, stat.st_ctime];
    let longs = [stat.st_ino, stat.st_size.cast_unsigned(), stat.st_blocks.cast_unsigned()];
    let low = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
    let nanoseconds = [stat.st_atime_nsec, stat.st_mtime_nsec, stat.st_ctime_nsec].map(low);
    let words = [
        stat.st_mode,
        low(stat.st_nlink),
        stat.st_uid,
        stat.st_gid,
        low(stat.st_rdev),
        low(stat.st_blksize.cast_unsigned()),
        0,
    ];
    let mut bytes = Vec::with_capacity(88);
    bytes.extend(longs.iter().flat_map(|long| long.to_le_bytes()));
    bytes.extend(seconds.iter().flat_map(|time| time.to_le_bytes()));
    bytes.extend(nanoseconds.iter().chain(&words).flat_map(|word| word.to_le_bytes()));
    bytes
}

/// `struct fuse_entry_out`: a number, and what the guest may believe about it for how long.
pub(super) fn entry(node: u64, stat: &Stat) -> Vec<u8> {
    let head = [node, 0, VALID_SECONDS, VALID_SECONDS, 0];
    let mut bytes: Vec<u8> = head.iter().flat_map(|long| long.to_le_bytes()).collect();
    bytes.extend(attributes_of(stat));
    bytes
}

impl Server {
    fn attributes_answer(&self, node: u64) -> Outcome {
        let stat = rustix::fs::fstat(self.nodes.fd(node)?)?;
        let mut bytes: Vec<u8> = [VALID_SECONDS, 0].iter().flat_map(|long| long.to_le_bytes()).collect();
        bytes.extend(attributes_of(&stat));
        Ok(Answer::Bytes(bytes))
    }

    pub(super) fn attributes(&mut self, call: Call, _: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        self.attributes_answer(call.node)
    }

    pub(super) fn set_attributes(
        &mut self,
        call: Call,
        arguments: &mut Arguments<'_, '_>,
        _: &mut Writer<'_>,
    ) -> Outcome {
        let set = arguments.word()?;
        arguments.skip(4);
        let (handle, size, _owner) = (arguments.long()?, arguments.long()?, arguments.long()?);
        let (accessed, modified, _changed) = (arguments.long()?, arguments.long()?, arguments.long()?);
        let (accessed_part, modified_part, _part) = (arguments.word()?, arguments.word()?, arguments.word()?);
        let mode = arguments.word()?;
        arguments.skip(4);
        let (uid, gid) = (arguments.word()?, arguments.word()?);
        let path = self.proc_path(call.node)?;
        if set & SET_MODE != 0 {
            rustix::fs::chmodat(CWD, &path, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
        }
        if set & (SET_UID | SET_GID) != 0 {
            let uid = user(uid).filter(|_| set & SET_UID != 0);
            let gid = group(gid).filter(|_| set & SET_GID != 0);
            rustix::fs::chownat(self.nodes.fd(call.node)?, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if set & SET_SIZE != 0 {
            if set & BY_HANDLE != 0 {
                rustix::fs::ftruncate(self.handles.get(handle)?, size)?;
            } else {
                rustix::fs::ftruncate(self.reopen(call.node, OFlags::WRONLY | OFlags::NONBLOCK)?, size)?;
            }
        }
        if set & (SET_ACCESSED | SET_MODIFIED) != 0 {
            let time = |given: bool, now: bool, seconds: u64, part: u32| Timespec {
                tv_sec: seconds.cast_signed(),
                tv_nsec: match (given, now) {
                    (false, _) => rustix::fs::UTIME_OMIT,
                    (true, true) => rustix::fs::UTIME_NOW,
                    (true, false) => part.into(),
                },
            };
            let times = Timestamps {
                last_access: time(set & SET_ACCESSED != 0, set & ACCESSED_NOW != 0, accessed, accessed_part),
                last_modification: time(set & SET_MODIFIED != 0, set & MODIFIED_NOW != 0, modified, modified_part),
            };
            rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty())?;
        }
        self.attributes_answer(call.node)
    }

    pub(super) fn file_system(&mut self, call: Call, _: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let figures = rustix::fs::fstatfs(self.nodes.fd(call.node)?)?;
        let longs = [figures.f_blocks, figures.f_bfree, figures.f_bavail, figures.f_files, figures.f_ffree];
        let word = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
        let words = [word(figures.f_bsize), word(figures.f_namelen), word(figures.f_frsize)];
        let mut bytes: Vec<u8> = longs.iter().flat_map(|long| long.to_le_bytes()).collect();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.resize(80, 0);
        Ok(Answer::Bytes(bytes))
    }

    pub(super) fn set_xattr(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let (size, flags) = (arguments.word()? as usize, arguments.word()?);
        let name = arguments.text(NAME_MAX)?;
        if size > MOST_XATTR || arguments.0.remaining() < size {
            return Err(Errno::INVAL);
        }
        let value = arguments.0.rest(size);
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        rustix::fs::setxattr(self.proc_path(call.node)?, &name[..], &value, flags)?;
        Ok(Answer::Bytes(Vec::new()))
    }

    /// Answers with a value, or with its size if no room is given.
    fn sized(size: usize, fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Outcome {
        let mut value = vec![0; if size == 0 { MOST_XATTR } else { size.min(MOST_XATTR) }];
        let length = fill(&mut value)?;
        if size == 0 {
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            return Ok(Answer::Bytes([length.to_le_bytes(), [0; 4]].concat()));
        }
        value.truncate(length);
        Ok(Answer::Bytes(value))
    }

    pub(super) fn xattr(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let size = arguments.word()? as usize;
        arguments.skip(4);
        let name = arguments.text(NAME_MAX)?;
        let path = self.proc_path(call.node)?;
        Self::sized(size, |value| rustix::fs::getxattr(&path, &name[..], value))
    }

    pub(super) fn xattrs(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let size = arguments.word()? as usize;
        let path = self.proc_path(call.node)?;
        Self::sized(size, |value| rustix::fs::listxattr(&path, value))
    }

    pub(super) fn remove_xattr(
        &mut self,
        call: Call,
        arguments: &mut Arguments<'_, '_>,
        _: &mut Writer<'_>,
    ) -> Outcome {
        let name = arguments.text(NAME_MAX)?;
        rustix::fs::removexattr(self.proc_path(call.node)?, &name[..])?;
        Ok(Answer::Bytes(Vec::new()))
    }
}
