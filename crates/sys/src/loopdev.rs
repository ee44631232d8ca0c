//! Loop devices, loop(4): a file as a block device, for kernels that cannot mount a file system straight from a file.

#![expect(unsafe_code, reason = "the loop driver's requests have no safe face in rustix")]

use crate::{Result, SysError};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const READ_ONLY: u32 = 1;
const AUTO_CLEAR: u32 = 4;
/// How often to ask for another free device when somebody else was faster.
const ATTEMPTS: u32 = 32;

/// `struct loop_info64`.
#[repr(C)]
struct RawStatus {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct RawConfig {
    fd: u32,
    block_size: u32,
    status: RawStatus,
    reserved: [u64; 8],
}

/// A loop device that is attached to a file. It detaches itself when this and the last mount of it are gone.
#[derive(Debug)]
pub struct LoopDevice {
    path: String,
    _device: File,
}

impl LoopDevice {
    /// Where the device is.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// Attaches a free loop device to a file, read-only.
///
/// # Errors
/// `ENOENT` where there is no loop driver, `ENODEV` where no device is free, and those of opening the file.
pub fn attach_read_only(file: &Path) -> Result<LoopDevice> {
    let open = |path: &Path, call: &'static str| {
        OpenOptions::new()
            .read(true)
            .write(path.starts_with("/dev/loop-control"))
            .custom_flags(libc::O_CLOEXEC)
            .open(path)
            .map_err(|error| {
                SysError::new(call, rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
            })
    };
    let backing = open(file, "open")?;
    let control = open(Path::new("/dev/loop-control"), "open /dev/loop-control")?;
    for _ in 0..ATTEMPTS {
        // SAFETY: the request takes no argument and touches no memory of ours.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(SysError::last("ioctl LOOP_CTL_GET_FREE"));
        }
        let path = format!("/dev/loop{number}");
        let device = open(Path::new(&path), "open the loop device")?;
        let config = RawConfig {
            fd: backing.as_raw_fd().cast_unsigned(),
            block_size: 0,
            status: RawStatus {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: 0,
                size_limit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: READ_ONLY | AUTO_CLEAR,
                file_name: [0; 64],
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        // SAFETY: the structure has the kernel's layout and lives through the call, which only reads it.
        let outcome = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
        if outcome == 0 {
            return Ok(LoopDevice { path, _device: device });
        }
        let error = SysError::last("ioctl LOOP_CONFIGURE");
        if error.errno != rustix::io::Errno::BUSY {
            return Err(error);
        }
    }
    Err(SysError::new("ioctl LOOP_CONFIGURE", rustix::io::Errno::BUSY))
}
