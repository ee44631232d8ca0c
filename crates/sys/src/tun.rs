//! Taps: Ethernet cards whose other end is a descriptor. The kernel's Documentation/networking/tuntap.rst.

#![expect(unsafe_code, reason = "the tun driver's requests have no safe face in rustix")]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::io::Errno;

use crate::{Result, SysError};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;

const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

bitflags::bitflags! {
    /// What the reader of a tap can take from the kernel, `TUN_F_*` of linux/if_tun.h.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Offloads: u32 {
        /// Packets without their checksum.
        const CHECKSUM = 0x01;
        /// TCP over IPv4 in large segments.
        const TSO4 = 0x02;
        /// TCP over IPv6 in large segments.
        const TSO6 = 0x04;
        /// Large segments with ECN.
        const TSO_ECN = 0x08;
    }
}

/// `struct ifreq` with the flags' arm of its union.
#[repr(C)]
struct RawRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}

/// One queue of a tap. Each read and write is one packet behind a virtio-net header.
#[derive(Debug)]
pub struct Tap(File);

impl Tap {
    /// Opens a queue of the tap `name`, which is made if it isn't there. The descriptor does not block.
    ///
    /// A tap with `queues` above 1 is opened as often as it has queues; all opens must agree on being one of several.
    /// `header_bytes` is the size of the header in front of each packet.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN`, unless the tap is there and belongs to this user; `EBUSY` when it is open elsewhere;
    /// `EINVAL` when the name is too long or it is of another kind; `ENOENT` without the tun driver.
    pub fn open(name: &str, queues: u16, header_bytes: i32) -> Result<Self> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun");
        let failed = |error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let file = file.map_err(|error| SysError::new("open /dev/net/tun", failed(error)))?;
        let mut request =
            RawRequest { name: [0; libc::IFNAMSIZ], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
        if name.len() >= libc::IFNAMSIZ {
            return Err(SysError::new("ioctl TUNSETIFF", Errno::INVAL));
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        if queues > 1 {
            request.flags |= IFF_MULTI_QUEUE;
        }
        // SAFETY: the structure has the kernel's layout and lives through the call.
        let outcome = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
        if outcome < 0 {
            return Err(SysError::last("ioctl TUNSETIFF"));
        }
        let tap = Self(file);
        tap.set_header(header_bytes)?;
        Ok(tap)
    }

    /// Takes over an open queue of a tap, such as a privileged program hands out.
    ///
    /// # Errors
    /// `EBADFD` or `ENOTTY` when it is none.
    pub fn from_fd(fd: OwnedFd, header_bytes: i32) -> Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(SysError::of("fcntl F_GETFL"))?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK).map_err(SysError::of("fcntl F_SETFL"))?;
        let tap = Self(File::from(fd));
        tap.set_header(header_bytes)?;
        Ok(tap)
    }

    fn set_header(&self, bytes: i32) -> Result<()> {
        // SAFETY: the request reads one integer, which lives through the call.
        let outcome = unsafe { libc::ioctl(self.0.as_raw_fd(), TUNSETVNETHDRSZ, &raw const bytes) };
        if outcome < 0 { Err(SysError::last("ioctl TUNSETVNETHDRSZ")) } else { Ok(()) }
    }

    /// Says what the reader can take. It holds for all queues of the tap.
    ///
    /// # Errors
    /// `EINVAL` when the kernel does not know one of them.
    pub fn set_offloads(&self, offloads: Offloads) -> Result<()> {
        // SAFETY: the request takes its argument as a number and touches no memory of ours.
        let outcome = unsafe { libc::ioctl(self.0.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(offloads.bits())) };
        if outcome < 0 { Err(SysError::last("ioctl TUNSETOFFLOAD")) } else { Ok(()) }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
