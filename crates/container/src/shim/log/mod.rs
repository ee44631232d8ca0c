//! Where a container's output goes beside its clients: a file that can be read again, and a service.
//!
//! Output is cut into lines here; each goes to all places at once. No service keeps the container waiting: what it does not take in time
//! is held back up to a bound, and lost beyond it.

mod file;
mod journald;
mod syslog;
#[cfg(test)]
mod tests;
mod time;

use super::poll::Stream;
use control::{Log, LogService};
use file::FileWriter;
use journald::Journal;
use sys::process::SingleThread;
use syslog::Sender;
use time::Time;

/// Longer lines are recorded in parts.
const MAX_LINE: usize = 16 << 10;
/// How soon a service is tried again that took nothing, in milliseconds.
const AGAIN_MS: u64 = 50;

/// A line, or a part of a long one, with its line feed if it had one.
#[derive(Debug, Clone, Copy)]
struct Line<'a> {
    stream: Stream,
    text: &'a [u8],
    time: Time,
}

impl<'a> Line<'a> {
    /// What it says, without the line feed.
    fn bare(&self) -> &'a [u8] {
        self.text.strip_suffix(b"\n").unwrap_or(self.text)
    }
}

/// A service of the host or the network.
#[derive(Debug)]
enum Service {
    Journald(Journal),
    Syslog(Sender),
}

/// The log of one container.
#[derive(Debug)]
pub(super) struct LogWriter {
    file: Option<FileWriter>,
    service: Option<Service>,
    partial: [Vec<u8>; 2],
}

impl LogWriter {
    /// Opens the file, going on after what is there, and reaches the service.
    pub(super) fn open(log: Log, proof: Option<SingleThread>) -> std::io::Result<Self> {
        let service = match log.service {
            None => None,
            Some(LogService::Journald { socket, fields }) => Some(Service::Journald(Journal::open(&socket, &fields)?)),
            Some(LogService::Syslog(config)) => Some(Service::Syslog(Sender::open(config)?)),
        };
        let file = log.file.map(|file| FileWriter::open(file, proof)).transpose()?;
        Ok(Self { file, service, partial: [Vec::new(), Vec::new()] })
    }

    /// Takes output; what does not end with a line feed waits for its rest.
    pub(super) fn record(&mut self, stream: Stream, bytes: &[u8]) {
        let time = Time::now();
        let mut partial = std::mem::take(&mut self.partial[stream.index()]);
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = MAX_LINE - partial.len();
            let window = &rest[..rest.len().min(room)];
            let (take, whole) = match window.iter().position(|&byte| byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (window.len(), window.len() == room),
            };
            if whole && partial.is_empty() {
                self.add(&Line { stream, text: &rest[..take], time });
            } else {
                partial.extend_from_slice(&rest[..take]);
                if whole {
                    self.add(&Line { stream, text: &partial, time });
                    partial.clear();
                }
            }
            rest = &rest[take..];
        }
        self.partial[stream.index()] = partial;
        self.flush();
    }

    /// Records what had no line feed at its end.
    pub(super) fn finish(&mut self) {
        let time = Time::now();
        for stream in Stream::BOTH {
            let text = std::mem::take(&mut self.partial[stream.index()]);
            if !text.is_empty() {
                self.add(&Line { stream, text: &text, time });
            }
        }
        self.flush();
        if let Some(Service::Syslog(sender)) = &mut self.service {
            sender.finish();
        }
    }

    fn add(&mut self, line: &Line<'_>) {
        if let Some(file) = &mut self.file {
            file.add(line);
        }
        match &mut self.service {
            None => {}
            Some(Service::Journald(journal)) => journal.add(line),
            Some(Service::Syslog(sender)) => sender.add(line),
        }
    }

    fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            file.flush();
        }
        self.push();
    }

    /// Sends what a service did not take before.
    pub(super) fn push(&mut self) {
        if let Some(Service::Syslog(sender)) = &mut self.service {
            sender.push();
        }
        if let Some(file) = &mut self.file {
            file.reap();
        }
    }

    /// When [`Self::push`] is of use again, in milliseconds from now.
    pub(super) fn again_ms(&self) -> Option<u64> {
        match &self.service {
            Some(Service::Syslog(sender)) if sender.has_unsent() => Some(AGAIN_MS),
            _ => None,
        }
    }
}
