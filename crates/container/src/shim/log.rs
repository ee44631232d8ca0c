//! A container's output on disk: JSON lines, rotated by size.

use super::poll::Stream;
use rustix::fs::{Mode, OFlags};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Longer lines are recorded in parts.
const MAX_LINE: usize = 16 << 10;

/// The log of one container.
#[derive(Debug)]
pub(super) struct LogWriter {
    config: control::Log,
    file: Option<OwnedFd>,
    size: u64,
    partial: [Vec<u8>; 2],
    complained: bool,
}

impl LogWriter {
    /// Opens the log, going on after what is there.
    pub(super) fn open(config: control::Log) -> std::io::Result<Self> {
        let file = open(&config.path)?;
        let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        Ok(Self { config, file: Some(file), size, partial: [Vec::new(), Vec::new()], complained: false })
    }

    /// Records output; what does not end with a newline waits for its rest.
    pub(super) fn record(&mut self, stream: Stream, bytes: &[u8]) {
        let time = timestamp(super::now_ns());
        let mut batch = Vec::new();
        let partial = &mut self.partial[stream.index()];
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = MAX_LINE - partial.len();
            let window = &rest[..rest.len().min(room)];
            let (take, whole) = match window.iter().position(|&byte| byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (window.len(), window.len() == room),
            };
            if whole && partial.is_empty() {
                entry(&mut batch, stream, &rest[..take], &time);
            } else {
                partial.extend_from_slice(&rest[..take]);
                if whole {
                    entry(&mut batch, stream, partial, &time);
                    partial.clear();
                }
            }
            rest = &rest[take..];
        }
        self.write(&batch);
    }

    /// Records what had no newline at its end.
    pub(super) fn finish(&mut self) {
        let time = timestamp(super::now_ns());
        let mut batch = Vec::new();
        for stream in Stream::BOTH {
            let rest = std::mem::take(&mut self.partial[stream.index()]);
            if !rest.is_empty() {
                entry(&mut batch, stream, &rest, &time);
            }
        }
        self.write(&batch);
    }

    fn write(&mut self, batch: &[u8]) {
        if batch.is_empty() {
            return;
        }
        let limit = self.config.max_bytes;
        if limit > 0 && self.size > 0 && self.size + batch.len() as u64 > limit {
            self.rotate();
        }
        let outcome = match &self.file {
            Some(file) => write_all(file, batch),
            None => Err(std::io::ErrorKind::NotFound.into()),
        };
        match outcome {
            Ok(()) => self.size += batch.len() as u64,
            Err(error) if !self.complained => {
                self.complained = true;
                super::complain(&format!(
                    "log {}: {error}; output is lost until there is room",
                    self.config.path.display()
                ));
            }
            Err(_) => {}
        }
    }

    fn rotate(&mut self) {
        let name = |number: u32| {
            let mut path = self.config.path.clone().into_os_string();
            if number > 0 {
                path.push(format!(".{number}"));
            }
            PathBuf::from(path)
        };
        let kept = self.config.max_files.max(1);
        if kept == 1 {
            if let Some(file) = &self.file {
                // the only file begins anew
                let _ = rustix::fs::ftruncate(file, 0);
            }
        } else {
            for number in (0..kept - 1).rev() {
                // files that are not there yet
                let _ = std::fs::rename(name(number), name(number + 1));
            }
            match open(&self.config.path) {
                Ok(file) => self.file = Some(file),
                Err(error) => super::complain(&format!("log {}: {error}", self.config.path.display())),
            }
        }
        self.size = 0;
    }
}

fn open(path: &std::path::Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?)
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn entry(batch: &mut Vec<u8>, stream: Stream, line: &[u8], time: &str) {
    batch.extend_from_slice(b"{\"log\":\"");
    for chunk in line.utf8_chunks() {
        escape(batch, chunk.valid());
        if !chunk.invalid().is_empty() {
            batch.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    // writing to memory cannot fail
    let _ = writeln!(batch, "\",\"stream\":\"{name}\",\"time\":\"{time}\"}}");
}

fn escape(batch: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' => batch.extend_from_slice(b"\\\""),
            b'\\' => batch.extend_from_slice(b"\\\\"),
            b'\n' => batch.extend_from_slice(b"\\n"),
            b'\r' => batch.extend_from_slice(b"\\r"),
            b'\t' => batch.extend_from_slice(b"\\t"),
            0..0x20 | 0x7f => {
                let _ = write!(batch, "\\u{byte:04x}");
            }
            other => batch.push(other),
        }
    }
}

/// RFC 3339 in UTC with nanoseconds.
fn timestamp(ns: u64) -> String {
    let (seconds, nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // civil date from a count of days, in eras of 400 years that begin in March
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(max_bytes: u64, max_files: u32) -> (tempfile::TempDir, LogWriter) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = LogWriter::open(control::Log { path, max_bytes, max_files }).unwrap();
        (folder, log)
    }

    fn texts(folder: &tempfile::TempDir, name: &str) -> Vec<String> {
        let content = std::fs::read_to_string(folder.path().join(name)).unwrap();
        content
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["log"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn dates() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(timestamp(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(timestamp(1_798_761_599_999_999_999), "2026-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn lines_are_put_together_and_escaped() {
        let (folder, mut log) = log(0, 1);
        log.record(Stream::Stdout, b"a \"b\"\n\x01c");
        log.record(Stream::Stderr, b"\xff\n");
        log.record(Stream::Stdout, b"d\nrest");
        log.finish();
        assert_eq!(texts(&folder, "log"), ["a \"b\"\n", "\u{fffd}\n", "\u{1}cd\n", "rest"]);
    }

    #[test]
    fn long_lines_come_in_parts() {
        let (folder, mut log) = log(0, 1);
        log.record(Stream::Stdout, &[b'x'; MAX_LINE + 3]);
        log.record(Stream::Stdout, b"\n");
        let texts = texts(&folder, "log");
        assert_eq!(texts.iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, 4]);
    }

    #[test]
    fn rotation_keeps_as_many_files_as_asked() {
        let (folder, mut log) = log(100, 3);
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            log.record(Stream::Stdout, line.as_bytes());
        }
        assert_eq!(texts(&folder, "log"), ["four\n"]);
        assert_eq!(texts(&folder, "log.1"), ["three\n"]);
        assert_eq!(texts(&folder, "log.2"), ["two\n"]);
        assert!(!folder.path().join("log.3").exists());
    }
}
