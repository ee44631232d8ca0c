//! The cable between the guest and smoltcp: frames both ways, those to the guest behind a virtio header.

use std::collections::VecDeque;
use std::num::{NonZeroU16, NonZeroUsize};

use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, SegmentationCapabilities,
    TxToken,
};
use smoltcp::time::Instant;

use super::super::{HEADER_BYTES, PLAIN_HEADER};
use super::{GUEST_CHECKSUM, GUEST_SEGMENTS, MOST_WAITING, frame};

/// The largest Ethernet frame of 1500 bytes of IP.
const LARGEST: usize = 1514;
/// The largest segment handed over at once, with its headers below 64 KiB.
const LARGEST_SEGMENT: usize = 60_000;

/// The cable.
#[derive(Debug, Default)]
pub(super) struct Wire {
    from_guest: VecDeque<Vec<u8>>,
    to_guest: VecDeque<Vec<u8>>,
    features: u64,
}

impl Wire {
    pub(super) fn new(features: u64) -> Self {
        Self { features, ..Self::default() }
    }

    fn has(&self, feature: u32) -> bool {
        self.features >> feature & 1 != 0
    }

    /// A frame of the guest for smoltcp.
    pub(super) fn arrive(&mut self, frame: Vec<u8>) {
        self.from_guest.push_back(frame);
    }

    /// A frame for the guest, behind its header; lost when too many wait.
    pub(super) fn send(&mut self, frame: Vec<u8>) {
        if !self.is_full() {
            self.to_guest.push_back(frame);
        }
    }

    fn is_full(&self) -> bool {
        self.to_guest.len() >= MOST_WAITING
    }

    /// The next frame for the guest.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        self.to_guest.pop_front()
    }

    pub(super) fn has_frames(&self) -> bool {
        !self.to_guest.is_empty()
    }
}

/// A frame of the guest.
pub(super) struct Arrived(Vec<u8>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

/// Room for a frame to the guest.
pub(super) struct Room<'w> {
    wire: &'w mut VecDeque<Vec<u8>>,
    offload: bool,
    segment: Option<u16>,
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; HEADER_BYTES + length];
        let outcome = write(&mut frame[HEADER_BYTES..]);
        if self.offload {
            frame::offload(&mut frame, self.segment);
        } else {
            frame[..HEADER_BYTES].copy_from_slice(&PLAIN_HEADER);
        }
        self.wire.push_back(frame);
        outcome
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size.map(NonZeroU16::get);
    }
}

impl Device for Wire {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, now: Instant) -> Option<(Arrived, Room<'_>)> {
        if self.is_full() {
            return None;
        }
        let frame = self.from_guest.pop_front()?;
        self.transmit(now).map(|room| (Arrived(frame), room))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Room<'_>> {
        let offload = self.has(GUEST_CHECKSUM);
        (!self.is_full()).then_some(Room { wire: &mut self.to_guest, offload, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        // Nothing on this cable damages a frame, so the guest's checksums are not looked at.
        let mut checksum = ChecksumCapabilities::ignored();
        checksum.ipv4 = Checksum::Tx;
        checksum.icmpv4 = Checksum::Tx;
        checksum.icmpv6 = Checksum::Tx;
        checksum.tcp = if self.has(GUEST_CHECKSUM) { Checksum::None } else { Checksum::Tx };
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = LARGEST;
        capabilities.checksum = checksum;
        let mut segmentation = SegmentationCapabilities::default();
        if self.has(GUEST_CHECKSUM) && self.has(GUEST_SEGMENTS) {
            segmentation.tcpv4 = NonZeroUsize::new(LARGEST_SEGMENT);
        }
        capabilities.segmentation = segmentation;
        capabilities
    }
}
