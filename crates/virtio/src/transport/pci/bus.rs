//! The root bus: configuration cycles and memory accesses find their function.
//!
//! ```text
//! ECAM     bus << 20 | device << 15 | function << 12 | register
//! 0xcf8    1 << 31 | bus << 16 | device << 11 | function << 8 | register      then the data at 0xcfc to 0xcff
//! ```
//!
//! There is one bus. Device 0 is the bridge to the host; each other device has one function.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::space::Space;
use super::{Function, WINDOW_BYTES};

/// The devices of a bus, the bridge included.
pub const DEVICES: usize = 32;
/// The bytes of a bus's configuration space in memory.
pub const ECAM_BYTES: u64 = 1 << 20;
/// The port that takes an address.
pub const ADDRESS_PORT: u16 = 0xcf8;
/// The first of four ports that read and write what the address names.
pub const DATA_PORT: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;

/// The bus has no place for another device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the PCI bus is full: it has places for 31 devices")]
pub struct Full;

/// The bus.
#[derive(Debug)]
pub struct Bus {
    bridge: Mutex<Space>,
    functions: Vec<Arc<Function>>,
    address: AtomicU32,
    next_window: u32,
}

impl Bus {
    /// An empty bus, whose devices' windows are placed from `windows` on, a multiple of [`WINDOW_BYTES`].
    #[must_use]
    pub fn new(windows: u32) -> Self {
        Self {
            bridge: Mutex::new(Space::of_bridge()),
            functions: Vec::new(),
            address: AtomicU32::new(0),
            next_window: windows,
        }
    }

    /// Places a function; gives its device number.
    ///
    /// # Errors
    /// The bus is full.
    pub fn add(&mut self, function: Arc<Function>) -> Result<u8, Full> {
        let number = self.functions.len() + 1;
        if number >= DEVICES {
            return Err(Full);
        }
        function.place(self.next_window);
        self.next_window = self.next_window.saturating_add(u32::try_from(WINDOW_BYTES).unwrap_or(u32::MAX));
        self.functions.push(function);
        u8::try_from(number).map_err(|_| Full)
    }

    /// The functions, from device 1 on.
    #[must_use]
    pub fn functions(&self) -> &[Arc<Function>] {
        &self.functions
    }

    /// The guest reads the configuration space through memory, at `offset` in the bus's [`ECAM_BYTES`].
    pub fn read_ecam(&self, offset: u64, into: &mut [u8]) {
        self.read_config(ecam(offset), into);
    }

    /// The guest writes the configuration space through memory.
    pub fn write_ecam(&self, offset: u64, bytes: &[u8]) {
        self.write_config(ecam(offset), bytes);
    }

    /// The guest reads a port from [`ADDRESS_PORT`] to the last of [`DATA_PORT`].
    pub fn read_port(&self, port: u16, into: &mut [u8]) {
        into.fill(0xff);
        match port.checked_sub(DATA_PORT) {
            Some(byte @ 0..4) => self.read_config(self.named(byte), into),
            _ if port == ADDRESS_PORT && into.len() == 4 => {
                into.copy_from_slice(&self.address.load(Ordering::SeqCst).to_le_bytes());
            }
            _ => {}
        }
    }

    /// The guest writes a port.
    pub fn write_port(&self, port: u16, bytes: &[u8]) {
        match (port.checked_sub(DATA_PORT), bytes.try_into().map(u32::from_le_bytes)) {
            (Some(byte @ 0..4), _) => self.write_config(self.named(byte), bytes),
            (_, Ok(address)) if port == ADDRESS_PORT => self.address.store(address, Ordering::SeqCst),
            _ => {}
        }
    }

    /// The address register as a snapshot keeps it.
    #[must_use]
    pub fn address(&self) -> u32 {
        self.address.load(Ordering::SeqCst)
    }

    /// Sets the address register as a snapshot has it.
    pub fn set_address(&self, address: u32) {
        self.address.store(address, Ordering::SeqCst);
    }

    /// The function whose window `gpa` is in, and the offset there.
    #[must_use]
    pub fn find(&self, gpa: u64) -> Option<(&Arc<Function>, u64)> {
        self.functions.iter().find_map(|function| {
            let offset = gpa.checked_sub(function.window()?)?;
            (offset < WINDOW_BYTES).then_some((function, offset))
        })
    }

    /// The device and register that the address register names, if it names any.
    fn named(&self, byte: u16) -> Option<(usize, u16)> {
        let address = self.address.load(Ordering::SeqCst);
        let [register, device, bus, _] = address.to_le_bytes();
        let device = (address & ENABLE != 0 && bus == 0 && device & 7 == 0).then_some(device >> 3)?;
        Some((usize::from(device), u16::from(register & 0xfc) + byte))
    }

    fn read_config(&self, target: Option<(usize, u16)>, into: &mut [u8]) {
        into.fill(0xff);
        let Some((device, register)) = target else { return };
        match device.checked_sub(1) {
            None => self.bridge.lock().unwrap_or_else(PoisonError::into_inner).read(register, into),
            Some(place) => {
                if let Some(function) = self.functions.get(place) {
                    function.read_config(register, into);
                }
            }
        }
    }

    fn write_config(&self, target: Option<(usize, u16)>, bytes: &[u8]) {
        if let Some((device, register)) = target
            && let Some(function) = device.checked_sub(1).and_then(|place| self.functions.get(place))
        {
            function.write_config(register, bytes);
        }
    }
}

/// The device and register of an offset, if it is on the bus and of a device's only function.
fn ecam(offset: u64) -> Option<(usize, u16)> {
    let device = usize::try_from(offset >> 15).ok()?;
    let function = offset >> 12 & 7;
    (device < DEVICES && function == 0).then_some((device, u16::try_from(offset & 0xfff).ok()?))
}
