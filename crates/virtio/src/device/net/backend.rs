//! What a card asks of whoever carries its frames.

use hv::vectored::GuestSlice;

use super::HEADER_BYTES;
use crate::device::DeviceError;
use crate::events::Events;
use crate::queue::Reader;

/// A frame that the guest sends, behind its header; it can be read once.
#[derive(Debug)]
pub struct Frame<'f, 'c> {
    pub(super) reader: &'f mut Reader<'c>,
}

impl<'c> Frame<'_, 'c> {
    /// Header and frame in one buffer.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        self.reader.rest(usize::MAX)
    }

    /// The frame without its header.
    #[must_use]
    pub fn content(self) -> Vec<u8> {
        self.reader.skip(HEADER_BYTES);
        self.reader.rest(usize::MAX)
    }

    /// Header and frame where they lie in the guest's memory.
    #[must_use]
    pub fn slices(self) -> Vec<GuestSlice<'c>> {
        let length = self.reader.remaining();
        self.reader.slices(length)
    }
}

/// Carries frames between a card and the world.
pub trait Backend: Send {
    /// Pairs of queues, at least one.
    fn pairs(&self) -> u16 {
        1
    }

    /// The features about checksums and segments that it can offer, see [`super::OFFLOADS`].
    fn offloads(&self) -> u64 {
        0
    }

    /// The driver takes these of them.
    ///
    /// # Errors
    /// The host refuses.
    fn set_offloads(&mut self, _features: u64) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Begins to watch for frames, with tokens from `token` on.
    ///
    /// # Errors
    /// The host refuses.
    fn start(&mut self, events: &Events, token: u64) -> Result<(), DeviceError>;

    /// Ends to watch.
    fn stop(&mut self, events: &Events);

    /// Watches a pair for frames no longer, or again: the guest has no room, or has room again.
    ///
    /// # Errors
    /// The host refuses.
    fn watch(&mut self, events: &Events, token: u64, pair: u16, want: Want) -> Result<(), DeviceError>;

    /// One of the watched descriptors is ready; says for which pair there may be frames.
    ///
    /// # Errors
    /// The host refuses.
    fn ready(&mut self, _events: &Events, first: u64, token: u64) -> Result<u16, DeviceError> {
        Ok(u16::try_from(token - first).unwrap_or_default())
    }

    /// Sends a frame; says whether it could.
    fn transmit(&mut self, pair: u16, frame: Frame<'_, '_>) -> bool;

    /// The guest has sent all it had for now.
    ///
    /// # Errors
    /// The host refuses.
    fn transmitted(&mut self, _events: &Events, _token: u64) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Whether frames for the guest may come out of [`Backend::transmit`] itself.
    fn answers(&self) -> bool {
        false
    }

    /// All frames were taken: says whether there are more now that there is room.
    ///
    /// # Errors
    /// The host refuses.
    fn drained(&mut self, _events: &Events) -> Result<bool, DeviceError> {
        Ok(false)
    }

    /// What a snapshot holds of it.
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Takes over what a snapshot held, before the start.
    ///
    /// # Errors
    /// It is none of this backend's.
    fn restore(&mut self, _state: serde_json::Value) -> Result<(), serde_json::Error> {
        Ok(())
    }

    /// Takes the next frame for the guest, header and frame, and gives its length; none when there is none now. `into` has room for the longest
    /// one; a backend that has the frame in a buffer of its own may leave that one in its place.
    fn receive(&mut self, pair: u16, into: &mut Vec<u8>) -> Option<usize>;
}

/// Whether frames are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// There is room for them.
    Frames,
    /// There is none.
    Nothing,
}

/// A header that says nothing: a whole frame in one buffer, its checksum in place.
pub const PLAIN_HEADER: [u8; HEADER_BYTES] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
