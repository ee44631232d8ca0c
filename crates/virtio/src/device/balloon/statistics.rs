//! The guest's figures, virtio 1.2, 5.5.6.3: the device holds the driver's buffer, and gives it back when it wants new ones.

use crate::Memory;
use crate::device::{DeviceError, Metrics};
use crate::queue::Queue;

/// The figures' names by their tags.
const NAMES: [&str; 16] = [
    "guest_swapped_in_bytes",
    "guest_swapped_out_bytes",
    "guest_major_faults",
    "guest_minor_faults",
    "guest_free_bytes",
    "guest_total_bytes",
    "guest_available_bytes",
    "guest_cached_bytes",
    "guest_huge_page_allocations",
    "guest_huge_page_failures",
    "guest_oom_kills",
    "guest_allocation_stalls",
    "guest_async_scans",
    "guest_direct_scans",
    "guest_async_reclaims",
    "guest_direct_reclaims",
];
const ENTRY_BYTES: usize = 10;
/// More figures than that are not read.
const MOST_BYTES: usize = 256 * ENTRY_BYTES;

/// The figures, and the buffer they came in.
#[derive(Debug, Default)]
pub(super) struct Statistics {
    figures: Metrics,
    held: Option<u16>,
    /// How often new ones were asked for and came.
    answered: u64,
}

impl Statistics {
    /// Reads the driver's buffer and keeps it.
    pub(super) fn take(&mut self, queue: &mut Queue, memory: &Memory) -> Result<(), DeviceError> {
        while let Some(chain) = queue.pop()? {
            let bytes = chain.reader(memory).rest(MOST_BYTES);
            for entry in bytes.as_chunks::<ENTRY_BYTES>().0 {
                let [t0, t1, v0, v1, v2, v3, v4, v5, v6, v7] = *entry;
                let value = u64::from_le_bytes([v0, v1, v2, v3, v4, v5, v6, v7]);
                if let Some(name) = NAMES.get(usize::from(u16::from_le_bytes([t0, t1]))) {
                    self.figures.insert(name, value);
                }
            }
            // A driver has one buffer here; of a second one, the first goes back.
            if let Some(head) = self.held.replace(chain.head()) {
                queue.complete(head, 0)?;
            }
        }
        queue.signal()?;
        Ok(())
    }

    /// Asks for new figures, if that was not done for this request yet.
    pub(super) fn ask(&mut self, queue: &mut Queue, request: u64) -> Result<(), DeviceError> {
        if request > self.answered
            && let Some(head) = self.held.take()
        {
            self.answered = request;
            queue.complete(head, 0)?;
            queue.signal()?;
        }
        Ok(())
    }

    /// The buffer counts as not taken: it is found again after a restore.
    pub(super) fn put_back(&mut self, queue: &mut Queue) {
        if self.held.take().is_some() {
            queue.unpop();
        }
    }

    pub(super) fn figures(&self) -> Metrics {
        self.figures.clone()
    }
}
