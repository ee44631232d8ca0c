//! The mounts below a folder, asked of the kernel one by one: statmount(2), listmount(2), both since Linux 6.8.
//!
//! `/proc/self/mountinfo` tells the same about every mount that a process sees, as text, which the kernel writes anew for
//! each reader: a host of a thousand containers has thousands of them.

#![expect(unsafe_code, reason = "neither rustix nor libc has these two calls")]

use std::ffi::CStr;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;

use crate::{Result, SysError};

/// What is asked of a mount, `STATMOUNT_*` of `linux/mount.h`: where it is, what of its file system is there, and
/// the file system's kind and options.
const ASKED: u64 = MNT_ROOT | MNT_POINT | FS_TYPE | MNT_OPTS;
const MNT_ROOT: u64 = 0x08;
const MNT_POINT: u64 = 0x10;
const FS_TYPE: u64 = 0x20;
const MNT_OPTS: u64 = 0x80;

/// The calls' numbers, the same on every processor; libc does not have them.
const STATMOUNT: libc::c_long = 457;
const LISTMOUNT: libc::c_long = 458;

/// More mounts than this below one folder are a case for the whole table.
const MOST: usize = 64;

/// A mount, as the process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The file system's kind, such as `tmpfs`.
    pub filesystem: String,
    /// The file system's own options, with commas between them; empty where it has none to show.
    pub options: String,
    /// The folder of the file system that is mounted.
    pub root: String,
    /// Where it is mounted.
    pub point: String,
}

/// The mount that `folder` is in, and every mount below that one, in the order in which they were made.
///
/// # Errors
/// `ENOSYS` from a kernel before 6.8, `EOVERFLOW` where there are more than sixty-four mounts or one has more to say than
/// two kilobytes: the table in proc(5) has them then. A kernel before 6.11 tells no options.
///
/// # Source
/// `Documentation/filesystems/mount_api`, listmount(2), statmount(2), statx(2) with `STATX_MNT_ID_UNIQUE`.
pub fn mounts_at(folder: &Path) -> Result<Vec<Mounted>> {
    const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    let about = rustix::fs::statx(CWD, folder, AtFlags::empty(), MNT_ID_UNIQUE).map_err(SysError::of("statx"))?;
    if about.stx_mask & MNT_ID_UNIQUE.bits() == 0 {
        return Err(SysError::new("statx", Errno::NOSYS));
    }
    let mut ids = [0_u64; MOST];
    ids[0] = about.stx_mnt_id;
    let below = listmount(about.stx_mnt_id, &mut ids[1..])?;
    if below == MOST - 1 {
        return Err(SysError::new("listmount", Errno::OVERFLOW));
    }
    let mut reply = Reply::empty();
    ids[..=below].iter().map(|&id| reply.ask(id)).collect()
}

/// `struct mnt_id_req` in its first form.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mount: u64,
    parameter: u64,
}

impl Request {
    fn new(mount: u64, parameter: u64) -> Self {
        let size = u32::try_from(size_of::<Self>()).expect("a structure of 24 bytes");
        Self { size, spare: 0, mount, parameter }
    }
}

/// How many of the mounts below `mount` there are, at most as many as `ids` holds.
fn listmount(mount: u64, ids: &mut [u64]) -> Result<usize> {
    let request = Request::new(mount, 0);
    // SAFETY: the request lives through the call and says its own size; the kernel writes no more numbers than told.
    let count = unsafe { libc::syscall(LISTMOUNT, &raw const request, ids.as_mut_ptr(), ids.len(), 0) };
    usize::try_from(count).map_err(|_| SysError::last("listmount"))
}

/// `struct statmount` as far as it is read, and room for what its offsets lead to.
#[repr(C)]
struct Reply {
    size: u32,
    options: u32,
    mask: u64,
    device: [u32; 2],
    magic: u64,
    flags: u32,
    filesystem: u32,
    ids: [u64; 2],
    old_ids: [u32; 2],
    attributes: [u64; 5],
    root: u32,
    point: u32,
    rest: [u64; 50],
    text: [u8; 2048],
}

const _: () = assert!(std::mem::offset_of!(Reply, root) == 104 && std::mem::offset_of!(Reply, text) == 512);

impl Reply {
    fn empty() -> Self {
        Self {
            size: 0,
            options: 0,
            mask: 0,
            device: [0; 2],
            magic: 0,
            flags: 0,
            filesystem: 0,
            ids: [0; 2],
            old_ids: [0; 2],
            attributes: [0; 5],
            root: 0,
            point: 0,
            rest: [0; 50],
            text: [0; 2048],
        }
    }

    fn ask(&mut self, mount: u64) -> Result<Mounted> {
        let request = Request::new(mount, ASKED);
        // SAFETY: the request lives through the call and says its own size; the kernel writes no further than told.
        let outcome = unsafe { libc::syscall(STATMOUNT, &raw const request, &raw mut *self, size_of::<Self>(), 0) };
        if outcome != 0 {
            return Err(SysError::last("statmount"));
        }
        let told = |bit: u64| self.mask & bit != 0;
        if !told(FS_TYPE) || !told(MNT_ROOT) || !told(MNT_POINT) {
            return Err(SysError::new("statmount", Errno::OPNOTSUPP));
        }
        Ok(Mounted {
            filesystem: self.text(self.filesystem)?,
            options: if told(MNT_OPTS) { self.text(self.options)? } else { String::new() },
            root: self.text(self.root)?,
            point: self.text(self.point)?,
        })
    }

    fn text(&self, offset: u32) -> Result<String> {
        let from = self.text.get(offset as usize..).unwrap_or_default();
        let text = CStr::from_bytes_until_nul(from).map_err(|_| SysError::new("statmount", Errno::OVERFLOW))?;
        Ok(text.to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of `/proc/self/mountinfo` at and below a folder: point, root, kind, and the options where they are a hierarchy's.
    fn table(folder: &str) -> Vec<(String, String, String)> {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = |line: &str| {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ').skip(3);
            let (root, point) = (left.next()?, left.next()?);
            let below = point == folder || point.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
            below.then(|| (point.to_owned(), root.to_owned(), right.split(' ').next().unwrap_or("").to_owned()))
        };
        text.lines().filter_map(line).collect()
    }

    #[test]
    fn the_mounts_below_a_folder_are_those_of_the_table() {
        let folder = "/sys/fs/cgroup";
        let told = match mounts_at(Path::new(folder)) {
            Ok(told) => told,
            Err(error) => {
                eprintln!("skipped: this kernel does not tell: {error}");
                assert!(matches!(error.errno, Errno::NOSYS | Errno::PERM), "{error}");
                return;
            }
        };
        let mut ours: Vec<_> =
            told.iter().map(|one| (one.point.clone(), one.root.clone(), one.filesystem.clone())).collect();
        let mut theirs = table(folder);
        // where nothing is mounted there, the first is the mount around it
        ours.retain(|(point, ..)| point.starts_with(folder));
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs);
        for v1 in told.iter().filter(|one| one.filesystem == "cgroup" && !one.options.is_empty()) {
            let line = format!(" {} ", v1.point);
            let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let line = text.lines().find(|have| have.contains(&line)).unwrap();
            assert!(v1.options.split(',').all(|option| line.contains(option)), "{v1:?}: {line}");
        }
        assert_eq!(mounts_at(Path::new("/not/there")).unwrap_err().errno, Errno::NOENT);
    }
}
