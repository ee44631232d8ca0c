//! An attached client: its connection, what it still has to get, and its key sequence to detach.

use super::poll::{Source, Stream};
use control::{Framing, Streams};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

/// A client that lags behind by more than this makes us stop reading the process's output.
pub(super) const MAX_LAG: usize = 1 << 20;

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) task: u32,
    pub(super) streams: Streams,
    pub(super) framing: Framing,
    pub(super) keys: DetachKeys,
    /// It has ended its input.
    pub(super) input_ended: bool,
    /// Goes when everything is sent.
    pub(super) leaving: bool,
    source: Source,
    unsent: Vec<u8>,
    sent: usize,
}

/// What reading from a client brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Bytes(Vec<u8>),
    Nothing,
    End,
}

impl Client {
    pub(super) fn new(task: u32, source: Source, streams: Streams, framing: Framing, keys: Vec<u8>) -> Self {
        Self {
            task,
            streams,
            framing,
            keys: DetachKeys::new(keys),
            input_ended: false,
            leaving: false,
            source,
            unsent: Vec::new(),
            sent: 0,
        }
    }

    /// How much it has not got yet, in bytes.
    pub(super) fn lag(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// Queues output that it takes part in, and sends what the connection takes. False when the client has gone.
    pub(super) fn output(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        let wanted = match stream {
            Stream::Stdout => self.streams.stdout,
            Stream::Stderr => self.streams.stderr,
        };
        if !wanted {
            return true;
        }
        if self.framing == Framing::Multiplexed {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
            let number = match stream {
                Stream::Stdout => 1,
                Stream::Stderr => 2,
            };
            self.unsent.extend_from_slice(&[number, 0, 0, 0]);
            self.unsent.extend_from_slice(&length);
        }
        self.unsent.extend_from_slice(bytes);
        self.flush()
    }

    /// Sends what the connection takes. False when the client has gone.
    pub(super) fn flush(&mut self) -> bool {
        while self.sent < self.unsent.len() {
            match send(&self.source, &self.unsent[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return false,
            }
        }
        if self.sent == self.unsent.len() {
            self.unsent = Vec::new();
            self.sent = 0;
        } else if self.sent > 64 << 10 {
            self.unsent.drain(..self.sent);
            self.sent = 0;
        }
        true
    }

    /// Reads once.
    pub(super) fn hear(&mut self) -> Heard {
        let mut buffer = vec![0_u8; 16 << 10];
        loop {
            match recv(&self.source, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Heard::Nothing,
                Ok((0, _)) | Err(_) => return Heard::End,
                Ok((count, _)) => {
                    buffer.truncate(count);
                    return Heard::Bytes(buffer);
                }
            }
        }
    }

    /// Waits for what makes sense now.
    pub(super) fn watch(&mut self, input_has_room: bool) {
        let mut flags = EventFlags::empty();
        if !self.input_ended && !self.leaving && (input_has_room || !self.streams.stdin) {
            flags |= EventFlags::IN;
        }
        if self.lag() > 0 {
            flags |= EventFlags::OUT;
        }
        self.source.want(Some(flags));
    }

    /// Tells the peer that nothing more comes, whoever else holds the connection open.
    pub(super) fn part(self) {
        // the peer may have gone first
        let _ = shutdown(&self.source, Shutdown::Both);
    }
}

/// Recognises the key sequence in a stream of input.
#[derive(Debug)]
pub(super) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    pub(super) fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// What of the bytes goes on, and whether the sequence is complete.
    pub(super) fn filter(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (bytes.to_vec(), false);
        }
        let mut passed = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if self.keys.first() == Some(&byte) {
                self.matched = 1;
                if self.keys.len() == 1 {
                    return (passed, true);
                }
            } else {
                passed.push(byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_across_reads() {
        let mut keys = DetachKeys::new(vec![16, 17]);
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10x"), (b"\x10\x10\x10x".to_vec(), false));
        assert_eq!(keys.filter(b"y\x10"), (b"y".to_vec(), false));
        assert_eq!(keys.filter(b"\x11z"), (Vec::new(), true));
    }

    #[test]
    fn no_keys_let_everything_through() {
        assert_eq!(DetachKeys::new(Vec::new()).filter(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }
}
