//! A function's configuration space: its bytes, and which of their bits the guest may write.

use super::{CONFIG, NOTIFY, NOTIFY_STEP, PENDING, STATUS, TABLE, WINDOW_BYTES};
use crate::device::Kind;

/// The only base address register.
pub(super) const BAR: u16 = 0x10;
const BYTES: usize = 256;
const COMMAND: usize = 0x04;
const COMMAND_MEMORY: u8 = 1 << 1;
/// Memory decoding, bus mastering; in the second byte, no interrupt pin.
const COMMAND_WRITABLE: [u8; 2] = [1 << 1 | 1 << 2, 1 << 2];
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const FIRST_CAPABILITY: usize = 0x40;

const VENDOR: u16 = 0x1af4;
/// A device's number on the bus is its number in virtio above this.
const DEVICE_BASE: u16 = 0x1040;

const MSIX: u8 = 0x11;
const VENDOR_SPECIFIC: u8 = 0x09;
/// Enable and mask, in the second byte of MSI-X's control.
const MSIX_WRITABLE: u8 = 0xc0;

/// The structures of virtio in the window: kind, where, how long.
const STRUCTURES: [(u8, u64, u32); 4] = [(1, 0, 0x38), (2, NOTIFY, 0x1000), (3, STATUS, 1), (4, CONFIG, 0x1000)];
/// The window through the configuration space.
const WINDOW_STRUCTURE: u8 = 5;

/// Class codes as other virtio functions have them, so that guests show the right picture.
const CLASSES: &[(Kind, u32)] = &[
    (Kind::Net, 0x02_0000),
    (Kind::Block, 0x01_8000),
    (Kind::Console, 0x07_8000),
    (Kind::Fs, 0x01_8000),
    (Kind::Vsock, 0x02_8000),
];
const OTHER_CLASS: u32 = 0xff_0000;

/// The space.
#[derive(Debug, Clone)]
pub(super) struct Space {
    bytes: [u8; BYTES],
    writable: [u8; BYTES],
    msix: usize,
    /// Where the capability that shows the window stands.
    through: usize,
}

impl Space {
    /// An empty function.
    fn empty(vendor: u16, device: u16, class: u32) -> Self {
        let mut space = Self { bytes: [0; BYTES], writable: [0; BYTES], msix: 0, through: 0 };
        space.put(0x00, &vendor.to_le_bytes());
        space.put(0x02, &device.to_le_bytes());
        space.put(0x08, &[1]);
        space.put(0x09, &class.to_le_bytes()[..3]);
        space
    }

    /// The bridge to the host, which guests look for first.
    pub(super) fn of_bridge() -> Self {
        Self::empty(0x8086, 0x0d57, 0x06_0000)
    }

    /// The function of a device with this many MSI-X vectors.
    pub(super) fn of_device(kind: Kind, vectors: u16) -> Self {
        let class = CLASSES.iter().find(|entry| entry.0 == kind).map_or(OTHER_CLASS, |entry| entry.1);
        let number = DEVICE_BASE + kind as u16;
        let mut space = Self::empty(VENDOR, number, class);
        space.writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_WRITABLE);
        // There is a list of capabilities.
        space.put(0x06, &[1 << 4]);
        space.put(0x2c, &VENDOR.to_le_bytes());
        space.put(0x2e, &number.to_le_bytes());
        // Pin A.
        space.put(0x3d, &[1]);
        space.writable[INTERRUPT_LINE] = 0xff;
        let size_mask = u32::try_from(WINDOW_BYTES - 1).unwrap_or(0);
        space.writable[usize::from(BAR)..usize::from(BAR) + 4].copy_from_slice(&(!size_mask).to_le_bytes());
        space.add_capabilities(vectors);
        space
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn add_capabilities(&mut self, vectors: u16) {
        self.put(CAPABILITIES, &[FIRST_CAPABILITY.to_le_bytes()[0]]);
        let low = |value: u64| u32::try_from(value).unwrap_or(0).to_le_bytes();
        let msix = [&(vectors - 1).to_le_bytes()[..], &low(TABLE), &low(PENDING)].concat();
        let mut at = FIRST_CAPABILITY;
        self.msix = at;
        self.writable[at + 3] = MSIX_WRITABLE;
        at = self.add(at, MSIX, &msix);
        for (structure, offset, length) in STRUCTURES {
            let step: &[u8] = if offset == NOTIFY { &NOTIFY_STEP.to_le_bytes() } else { &[] };
            let size = 16 + step.len().to_le_bytes()[0];
            let body = [&[size, structure, 0, 0, 0, 0][..], &low(offset), &length.to_le_bytes(), step].concat();
            at = self.add(at, VENDOR_SPECIFIC, &body);
        }
        self.through = at;
        let end = self.add(at, VENDOR_SPECIFIC, &[&[20, WINDOW_STRUCTURE][..], &[0; 16]].concat());
        // The last one has no next.
        self.bytes[at + 1] = 0;
        // The bar's number, offset and length are the guest's; the data is never stored.
        self.writable[at + 4] = 0xff;
        self.writable[at + 8..end - 4].fill(0xff);
    }

    /// Adds a capability; gives where the next one starts.
    fn add(&mut self, at: usize, id: u8, body: &[u8]) -> usize {
        let next = (at + 2 + body.len()).next_multiple_of(4);
        self.put(at, &[id, next.to_le_bytes()[0]]);
        self.put(at + 2, body);
        next
    }

    pub(super) fn read(&self, register: u16, into: &mut [u8]) {
        for (byte, at) in into.iter_mut().zip(usize::from(register)..) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
    }

    pub(super) fn write(&mut self, register: u16, bytes: &[u8]) {
        for (byte, at) in bytes.iter().zip(usize::from(register)..) {
            if let (Some(old), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *old = *old & !mask | byte & mask;
            }
        }
    }

    /// The whole space, for a snapshot.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// Where the window is, if the guest has it decoded.
    pub(super) fn window(&self) -> Option<u64> {
        let at = usize::from(BAR);
        let base = self.bytes[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        (self.bytes[COMMAND] & COMMAND_MEMORY != 0 && base != 0).then_some(u64::from(base))
    }

    /// Whether MSI-X is on, and whether all of it is masked.
    pub(super) fn msix_control(&self) -> (bool, bool) {
        let control = self.bytes[self.msix + 3];
        (control & 0x80 != 0, control & 0x40 != 0)
    }

    pub(super) fn line_is_masked(&self) -> bool {
        self.bytes[COMMAND + 1] & COMMAND_WRITABLE[1] != 0
    }

    /// The place in the window that an access to the capability's data means, and its length.
    pub(super) fn window_access(&self, register: u16, width: usize) -> Option<(u64, usize)> {
        let field = |at: usize| self.bytes[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        if self.through == 0 || usize::from(register) != self.through + 16 || self.bytes[self.through + 4] != 0 {
            return None;
        }
        let (offset, length) = (u64::from(field(self.through + 8)), field(self.through + 12) as usize);
        let fits = matches!(length, 1 | 2 | 4) && length == width && offset.is_multiple_of(length as u64);
        (fits && offset + (length as u64) <= WINDOW_BYTES).then_some((offset, length))
    }
}
