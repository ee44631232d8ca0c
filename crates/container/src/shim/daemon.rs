//! A connection to a daemon: frames in, frames out.

use super::poll::Source;
use control::{Envelope, Event, Frame, FrameReader, Message, ReadOutcome, Reply, Request, WireError};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use std::os::fd::AsFd;

/// One connection.
#[derive(Debug)]
pub(super) struct Daemon {
    source: Source,
    reader: FrameReader,
    unsent: Vec<u8>,
}

impl Daemon {
    pub(super) fn new(mut source: Source) -> Self {
        source.want(Some(EventFlags::IN));
        Self { source, reader: FrameReader::new(), unsent: Vec::new() }
    }

    /// Reads what is there; false at the end of the connection.
    pub(super) fn receive(&mut self) -> Result<bool, WireError> {
        Ok(self.reader.read(&self.source)? != ReadOutcome::End)
    }

    /// The next request, if a whole one has come.
    pub(super) fn request(&mut self) -> Result<Option<Frame<Request>>, WireError> {
        self.reader.next_frame()
    }

    pub(super) fn reply(&mut self, id: u64, reply: Reply) -> bool {
        self.say(id, Message::Reply(reply))
    }

    pub(super) fn event(&mut self, event: Event) -> bool {
        self.say(0, Message::Event(event))
    }

    /// Sends a message, or queues it; false when the daemon has gone.
    fn say(&mut self, id: u64, body: Message) -> bool {
        match control::encode(&Envelope { id, fds: 0, body }) {
            Ok(frame) => self.unsent.extend_from_slice(&frame),
            Err(error) => super::complain(&format!("cannot encode a message: {error}")),
        }
        self.flush()
    }

    /// Sends what the connection takes; false when the daemon has gone.
    pub(super) fn flush(&mut self) -> bool {
        while !self.unsent.is_empty() {
            match control::send(self.source.as_fd(), &self.unsent, &[]) {
                Ok(count) => {
                    self.unsent.drain(..count);
                }
                Err(WireError::Socket(Errno::AGAIN)) => break,
                Err(_) => return false,
            }
        }
        let out = if self.unsent.is_empty() { EventFlags::empty() } else { EventFlags::OUT };
        if self.unsent.is_empty() {
            self.unsent = Vec::new();
        }
        self.source.want(Some(EventFlags::IN | out));
        true
    }
}
