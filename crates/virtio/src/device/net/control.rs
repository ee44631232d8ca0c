//! The control queue, virtio 1.2, 5.1.6.5: class u8, command u8, what it is about, and room for an answer.

use super::{Announcement, DeviceError, Net, OFFLOADS, Running};
use crate::queue::Reader;

const OK: u8 = 0;
const ERROR: u8 = 1;

/// What the device does for a command: it gives whether it could.
type Command = fn(&mut Net, &Running, &mut Reader<'_>) -> bool;

/// Commands by class and number. Filters are hints here: the backend passes on what it has.
const COMMANDS: &[((u8, u8), Command)] = &[
    // Receive everything; everything multicast; and their opposites.
    ((0, 0), accepted),
    ((0, 1), accepted),
    ((1, 0), filtered),
    ((1, 1), Net::set_address),
    ((3, 0), Net::announced),
    ((4, 0), Net::set_pairs),
    ((5, 0), Net::change_offloads),
];

fn accepted(_net: &mut Net, _running: &Running, data: &mut Reader<'_>) -> bool {
    data.array::<1>().is_some()
}

/// Addresses to be received: a table of those of one card and one of those of many.
fn filtered(_net: &mut Net, _running: &Running, data: &mut Reader<'_>) -> bool {
    let mut table = || {
        let count = u32::from_le_bytes(data.array()?) as usize;
        let bytes = count.checked_mul(6).filter(|bytes| *bytes <= data.remaining())?;
        data.skip(bytes);
        Some(())
    };
    table().and_then(|()| table()).is_some() && data.remaining() == 0
}

impl Net {
    /// The driver's own address, which is one card's.
    fn set_address(&mut self, _running: &Running, data: &mut Reader<'_>) -> bool {
        let address = data.array::<6>().filter(|mac| mac[0] & 1 == 0 && data.remaining() == 0);
        self.mac = address.unwrap_or(self.mac);
        address.is_some()
    }

    /// The driver has announced itself.
    fn announced(&mut self, _running: &Running, _data: &mut Reader<'_>) -> bool {
        let told = self.announcement == Announcement::Told;
        self.announcement = Announcement::None;
        told
    }

    pub(super) fn control(&mut self, running: &mut Running, index: u16) -> Result<(), DeviceError> {
        let memory = running.memory.clone();
        loop {
            let Some(queue) = running.queue(index) else { return Ok(()) };
            let Some(chain) = queue.pop()? else {
                queue.signal()?;
                return Ok(());
            };
            let mut reader = chain.reader(&memory);
            let mut answer = chain.writer(&memory);
            let ([class, number], 1..) = (reader.array().unwrap_or([u8::MAX; 2]), answer.remaining()) else {
                return Err(DeviceError::Protocol("a network control command without room for its answer"));
            };
            let command = COMMANDS.binary_search_by_key(&(class, number), |entry| entry.0);
            let done = command.is_ok_and(|place| COMMANDS[place].1(self, running, &mut reader));
            answer.write(&[if done { OK } else { ERROR }]);
            if let Some(queue) = running.queue(index) {
                queue.complete(chain.head(), answer.written())?;
            }
        }
    }

    fn set_pairs(&mut self, _running: &Running, data: &mut Reader<'_>) -> bool {
        let Some(pairs) = data.array().map(u16::from_le_bytes) else { return false };
        let fits = (1..=self.pair_count()).contains(&pairs);
        if fits {
            self.active = pairs;
        }
        fits
    }

    fn change_offloads(&mut self, running: &Running, data: &mut Reader<'_>) -> bool {
        let Some(offloads) = data.array().map(u64::from_le_bytes) else { return false };
        let agreed = running.features & OFFLOADS;
        offloads & !agreed == 0 && self.backend.set_offloads(offloads).is_ok()
    }
}
