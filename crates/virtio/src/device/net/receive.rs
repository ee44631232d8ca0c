//! Frames to the guest: into one of its buffers, or into several that it merges.

use super::backend::Want;
use super::{BACKEND, FEATURE_MERGE, HEADER_BYTES, LARGEST_FRAME, Net};
use crate::Memory;
use crate::device::{DeviceError, Running};
use crate::queue::{Chain, Queue};

/// Where the header counts the buffers that a frame takes.
const COUNT: usize = 10;
/// Frames handed over before others have their turn.
const BATCH: usize = 256;

/// What one pair of queues has on its way to the guest.
#[derive(Debug)]
pub(super) struct Receive {
    /// A frame that has come and found no room, header and frame.
    frame: Vec<u8>,
    length: usize,
    /// Whether the backend watches for more.
    watched: bool,
}

impl Default for Receive {
    fn default() -> Self {
        Self { frame: Vec::new(), length: 0, watched: true }
    }
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handed {
    Over,
    NoRoom,
    TooLong,
}

impl Net {
    /// Hands frames over while there are frames, room and budget.
    pub(super) fn receive(&mut self, running: &mut Running, pair: u16) -> Result<(), DeviceError> {
        if self.receive_limiter.blocked() || usize::from(pair) >= self.pairs.len() {
            return Ok(());
        }
        let merge = running.has(FEATURE_MERGE);
        let memory = running.memory.clone();
        let events = std::sync::Arc::clone(&running.events);
        let Some(queue) = running.queue(2 * pair) else { return Ok(()) };
        let state = &mut self.pairs[usize::from(pair)];
        if state.frame.is_empty() {
            state.frame = vec![0; HEADER_BYTES + LARGEST_FRAME];
        }
        let mut want = Want::Frames;
        for _ in 0..BATCH {
            if state.length == 0 {
                let Some(length) = self.backend.receive(pair, &mut state.frame) else {
                    if self.backend.drained(&events)? {
                        continue;
                    }
                    break;
                };
                if length < HEADER_BYTES {
                    continue;
                }
                state.length = length;
            }
            if !self.receive_limiter.take(state.length as u64)? {
                want = Want::Nothing;
                break;
            }
            let frame = &mut state.frame[..state.length];
            match if merge { merged(queue, &memory, frame)? } else { single(queue, &memory, frame)? } {
                Handed::NoRoom => {
                    want = Want::Nothing;
                    break;
                }
                Handed::TooLong => self.counters.dropped += 1,
                Handed::Over => {
                    self.counters.received += 1;
                    self.counters.received_bytes += (state.length - HEADER_BYTES) as u64;
                }
            }
            state.length = 0;
        }
        queue.signal()?;
        let watched = want == Want::Frames;
        if state.watched != watched {
            state.watched = watched;
            self.backend.watch(&events, BACKEND, pair, want)?;
        }
        Ok(())
    }
}

/// Hands a frame over in one buffer.
fn single(queue: &mut Queue, memory: &Memory, frame: &mut [u8]) -> Result<Handed, DeviceError> {
    let Some(chain) = queue.pop()? else { return Ok(Handed::NoRoom) };
    frame[COUNT..HEADER_BYTES].copy_from_slice(&1_u16.to_le_bytes());
    let mut writer = chain.writer(memory);
    let handed = if writer.write_all(frame) { Handed::Over } else { Handed::TooLong };
    match handed {
        Handed::Over => queue.complete(chain.head(), writer.written())?,
        // The buffer serves the next frame.
        _ => queue.unpop(),
    }
    Ok(handed)
}

/// Hands a frame over in as many buffers as it takes.
fn merged(queue: &mut Queue, memory: &Memory, frame: &mut [u8]) -> Result<Handed, DeviceError> {
    let mut chains: Vec<Chain> = Vec::with_capacity(1);
    let mut room = 0;
    while room < frame.len() {
        let Some(chain) = queue.pop()? else {
            chains.iter().for_each(|_| queue.unpop());
            // If even a full queue is too small, waiting for more would be for ever.
            let full = chains.len() >= usize::from(queue.state().size);
            return Ok(if full { Handed::TooLong } else { Handed::NoRoom });
        };
        let here = chain.writer(memory).remaining();
        if here < HEADER_BYTES {
            return Err(DeviceError::Protocol("a receive buffer has no room for a header"));
        }
        room += here;
        chains.push(chain);
    }
    let count = u16::try_from(chains.len()).unwrap_or(u16::MAX);
    frame[COUNT..HEADER_BYTES].copy_from_slice(&count.to_le_bytes());
    let mut rest = &*frame;
    // A driver that looks in between would miss the rest of the frame, and drop it (virtio 1.2, 5.1.6.4).
    queue.complete_together(chains.iter().map(|chain| {
        let mut writer = chain.writer(memory);
        let done = writer.write(rest);
        rest = &rest[done..];
        (chain.head(), writer.written())
    }))?;
    Ok(Handed::Over)
}
