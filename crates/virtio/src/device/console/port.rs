//! One port: the host's descriptors, and how far what moves between them and the guest has come.

use std::os::fd::OwnedFd;

use hv::vectored;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::device::{DeviceError, Running};
use crate::events::{Events, Interest, Watch};

/// A stream between guest and host.
#[derive(Debug)]
pub struct Port {
    pub(super) name: String,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    /// Whether the driver has the port in use: what comes before, waits.
    pub(super) open: bool,
    input_watch: Watch,
    output_watch: Watch,
    /// Bytes of the chain at the head of the transmit queue that are out already.
    sent: usize,
    pub(super) received: u64,
    pub(super) transmitted: u64,
}

impl Port {
    /// A port of this name. What comes from `input` goes to the guest, what the guest writes goes to `output`; without
    /// one, nothing comes, or is thrown away.
    ///
    /// Both are made non-blocking, so they have to be of an open file description of their own: open a terminal again.
    ///
    /// # Errors
    /// None that the kernel documents for open descriptors.
    pub fn new(name: &str, input: Option<OwnedFd>, output: Option<OwnedFd>) -> Result<Self, Errno> {
        for fd in input.iter().chain(&output) {
            fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
        }
        Ok(Self {
            name: name.to_owned(),
            input,
            output,
            open: false,
            input_watch: Watch::default(),
            output_watch: Watch::default(),
            sent: 0,
            received: 0,
            transmitted: 0,
        })
    }

    /// Moves what the host has to the guest, as far as the guest has room.
    pub(super) fn receive(&mut self, running: &mut Running, queue: u16, token: u64) -> Result<(), DeviceError> {
        let memory = running.memory.clone();
        let events = std::sync::Arc::clone(&running.events);
        let Some(queue) = running.queue(queue) else { return Ok(()) };
        let mut more = self.open && self.input.is_some();
        while more && let Some(input) = &self.input {
            let Some(chain) = queue.pop()? else {
                // No room: the driver notifies when there is some.
                more = false;
                break;
            };
            let mut writer = chain.writer(&memory);
            let room = writer.remaining();
            match vectored::read(input, &mut [], &writer.slices(room)) {
                Ok(count) if count > 0 || room == 0 => {
                    self.received += count as u64;
                    queue.complete(chain.head(), u32::try_from(count).unwrap_or(u32::MAX))?;
                }
                Err(Errno::AGAIN | Errno::INTR) => {
                    queue.unpop();
                    break;
                }
                // The other end is gone: nothing comes any more.
                Ok(_) | Err(_) => {
                    queue.unpop();
                    watch(&events, Some(input), &mut self.input_watch, token, Interest::empty())?;
                    more = false;
                    self.input = None;
                }
            }
        }
        queue.signal()?;
        let wanted = if more { Interest::IN } else { Interest::empty() };
        watch(&events, self.input.as_ref(), &mut self.input_watch, token, wanted)
    }

    /// Moves what the guest has written to the host, as far as the host takes it.
    pub(super) fn transmit(&mut self, running: &mut Running, queue: u16, token: u64) -> Result<(), DeviceError> {
        let memory = running.memory.clone();
        let events = std::sync::Arc::clone(&running.events);
        let Some(queue) = running.queue(queue) else { return Ok(()) };
        let mut full = false;
        while let Some(chain) = queue.pop()? {
            let mut reader = chain.reader(&memory);
            reader.skip(self.sent);
            let length = reader.remaining();
            let outcome = match &self.output {
                Some(output) if length > 0 => vectored::write(output, &[], &reader.slices(length)),
                _ => Ok(length),
            };
            match outcome {
                Ok(count) if count >= length => {
                    self.transmitted += count as u64;
                    self.sent = 0;
                    queue.complete(chain.head(), 0)?;
                }
                Ok(count) => {
                    self.transmitted += count as u64;
                    self.sent += count;
                    queue.unpop();
                }
                Err(Errno::AGAIN) => {
                    queue.unpop();
                    full = true;
                    break;
                }
                Err(Errno::INTR) => queue.unpop(),
                Err(_) => {
                    let output = self.output.take();
                    watch(&events, output.as_ref(), &mut self.output_watch, token, Interest::empty())?;
                    queue.unpop();
                }
            }
        }
        queue.signal()?;
        let wanted = if full { Interest::OUT } else { Interest::empty() };
        watch(&events, self.output.as_ref(), &mut self.output_watch, token, wanted)
    }

    pub(super) fn reset(&mut self, events: &Events) {
        for (fd, watch) in [(&self.input, &mut self.input_watch), (&self.output, &mut self.output_watch)] {
            if let (Some(fd), false) = (fd, watch.interest().is_empty()) {
                events.remove(fd);
            }
            *watch = Watch::default();
        }
        self.open = false;
        self.sent = 0;
    }
}

/// Watches a descriptor, if there is one.
fn watch(
    events: &Events,
    fd: Option<&OwnedFd>,
    watch: &mut Watch,
    token: u64,
    wanted: Interest,
) -> Result<(), DeviceError> {
    let Some(fd) = fd else { return Ok(()) };
    match watch.set(events, fd, token, wanted) {
        // A regular file: always ready, so there is nothing to wait for.
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(DeviceError::host("epoll_ctl")(errno)),
    }
}
