//! A tap of the host: the kernel carries the frames, and does the checksums and the segments.

use std::os::fd::AsFd;
use std::path::PathBuf;

use hv::vectored;
use rustix::fs::OFlags;
use rustix::io::Errno;
use sys::tun::{Offloads, Tap};
use sys::{SysError, handed};

use super::MOST_PAIRS;
use super::backend::{Backend, Frame, Want};
use crate::device::DeviceError;
use crate::events::{Events, Interest};

/// What the guest takes, by its feature's number, in the tap's words.
const OFFERED: &[(u32, Offloads)] =
    &[(1, Offloads::CHECKSUM), (7, Offloads::TSO4), (8, Offloads::TSO6), (9, Offloads::TSO_ECN)];
/// What the guest may leave to the kernel: checksums, and large segments of either IP with ECN.
const HOST_SIDE: u64 = 1 | 1 << 11 | 1 << 12 | 1 << 13;
/// The header's size as the kernel wants it.
const HEADER: i32 = 12;
/// The guest may change its mind.
const CHANGEABLE: u64 = 1 << 2;

/// The backend: a descriptor for each pair of queues.
#[derive(Debug)]
pub struct TapBackend {
    taps: Vec<Tap>,
}

impl TapBackend {
    /// Opens the tap `name` with this many pairs of queues.
    ///
    /// # Errors
    /// As [`Tap::open`].
    pub fn open(name: &str, pairs: u16) -> sys::Result<Self> {
        let pairs = pairs.clamp(1, MOST_PAIRS);
        let taps = (0..pairs).map(|pair| queue(name, pairs, pair));
        Ok(Self { taps: taps.collect::<sys::Result<_>>()? })
    }

    /// Takes open queues of one tap over.
    #[must_use]
    pub fn new(taps: Vec<Tap>) -> Self {
        Self { taps }
    }
}

/// Opens a queue, or takes the one that this process was given before it was confined.
fn queue(name: &str, pairs: u16, pair: u16) -> sys::Result<Tap> {
    let place = PathBuf::from(format!("tap:{name}:{pair}"));
    let failed = |error| SysError::new("dup", Errno::from_io_error(&error).unwrap_or(Errno::IO));
    if handed::has(&place, OFlags::RDWR) {
        return Tap::from_fd(handed::open(&place, OFlags::RDWR).map_err(failed)?.into(), HEADER);
    }
    let tap = Tap::open(name, pairs, HEADER)?;
    handed::offer(&place, tap.as_fd()).map_err(failed)?;
    Ok(tap)
}

fn refused(error: SysError) -> DeviceError {
    DeviceError::Host { doing: error.call, errno: error.errno }
}

impl Backend for TapBackend {
    fn pairs(&self) -> u16 {
        u16::try_from(self.taps.len()).unwrap_or(MOST_PAIRS)
    }

    fn offloads(&self) -> u64 {
        OFFERED.iter().fold(HOST_SIDE | CHANGEABLE, |all, (bit, _)| all | 1 << bit)
    }

    fn set_offloads(&mut self, features: u64) -> Result<(), DeviceError> {
        let taken = OFFERED.iter().filter(|(bit, _)| features >> bit & 1 != 0);
        let mut offloads = taken.fold(Offloads::empty(), |all, (_, offload)| all | *offload);
        // Segments come without a checksum, so the kernel refuses the one without the other.
        if !offloads.contains(Offloads::CHECKSUM) {
            offloads = Offloads::empty();
        }
        self.taps.first().map_or(Ok(()), |tap| tap.set_offloads(offloads).map_err(refused))
    }

    fn start(&mut self, events: &Events, token: u64) -> Result<(), DeviceError> {
        for (pair, tap) in (token..).zip(&self.taps) {
            events.add(tap, pair, Interest::IN).map_err(DeviceError::host("epoll_ctl"))?;
        }
        Ok(())
    }

    fn stop(&mut self, events: &Events) {
        self.taps.iter().for_each(|tap| events.remove(tap));
    }

    fn watch(&mut self, events: &Events, token: u64, pair: u16, want: Want) -> Result<(), DeviceError> {
        let Some(tap) = self.taps.get(usize::from(pair)) else { return Ok(()) };
        let interest = if want == Want::Frames { Interest::IN } else { Interest::empty() };
        events.change(tap, token + u64::from(pair), interest).map_err(DeviceError::host("epoll_ctl"))
    }

    fn transmit(&mut self, pair: u16, frame: Frame<'_, '_>) -> bool {
        // A tap that is down, or a header that makes no sense to the kernel: the frame is lost, as on a wire.
        self.taps.get(usize::from(pair)).is_some_and(|tap| vectored::write(tap, &[], &frame.slices()).is_ok())
    }

    fn receive(&mut self, pair: u16, into: &mut Vec<u8>) -> Option<usize> {
        let tap = self.taps.get(usize::from(pair))?;
        loop {
            match rustix::io::read(tap, &mut into[..]) {
                Ok(length) => return Some(length),
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }
}
