//! Output on disk: JSON lines, rotated by size.

use super::super::poll::Stream;
use super::Line;
use control::{Compress, LogFile};
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, WaitOptions};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use sys::process::SingleThread;

/// The log of one container.
#[derive(Debug)]
pub(super) struct FileWriter {
    config: LogFile,
    /// `,"attrs":{…}`, or nothing.
    attributes: String,
    file: Option<OwnedFd>,
    size: u64,
    complained: bool,
    /// Where there is one, files are compressed beside us.
    proof: Option<SingleThread>,
    /// Compresses the file that was current before.
    compressing: Option<Pid>,
    batch: Vec<u8>,
}

impl FileWriter {
    /// Opens the log, going on after what is there.
    pub(super) fn open(config: LogFile, proof: Option<SingleThread>) -> std::io::Result<Self> {
        if let Some(folder) = config.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = open(&config.path)?;
        let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        let attributes = match config.attributes.is_empty() {
            true => String::new(),
            false => format!(",\"attrs\":{}", serde_json::to_string(&config.attributes).unwrap_or_default()),
        };
        let file = Some(file);
        Ok(Self { config, attributes, file, size, complained: false, proof, compressing: None, batch: Vec::new() })
    }

    /// Takes a line in.
    pub(super) fn add(&mut self, line: &Line<'_>) {
        entry(&mut self.batch, line, &self.attributes);
    }

    /// Writes the lines that were taken in.
    pub(super) fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.write(&batch);
        // the room is of use again, unless it was a flood
        if batch.capacity() <= 64 << 10 {
            self.batch = batch;
            self.batch.clear();
        }
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
                super::super::complain(&format!(
                    "log {}: {error}; output is lost until there is room",
                    self.config.path.display()
                ));
            }
            Err(_) => {}
        }
    }

    fn rotate(&mut self) {
        // one at a time: what is compressed is about to be renamed
        self.await_compression(WaitOptions::empty());
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
                let _ = std::fs::rename(packed(&name(number)), packed(&name(number + 1)));
            }
            match open(&self.config.path) {
                Ok(file) => self.file = Some(file),
                Err(error) => super::super::complain(&format!("log {}: {error}", self.config.path.display())),
            }
            if self.config.compress == Compress::Gzip {
                self.compress(&name(1));
            }
        }
        self.size = 0;
    }

    /// Compresses a file in a process of its own: the container's output does not wait for it.
    fn compress(&mut self, path: &Path) {
        let Some(proof) = self.proof else {
            let _ = gzip(path);
            return;
        };
        match sys::process::fork(proof) {
            Ok(Some(child)) => self.compressing = Pid::from_raw(child),
            Ok(None) => sys::process::exit_now(i32::from(gzip(path).is_err())),
            Err(error) => super::super::complain(&format!("log {}: cannot compress: {error}", path.display())),
        }
    }

    /// Learns of the end of a compression.
    pub(super) fn reap(&mut self) {
        self.await_compression(WaitOptions::NOHANG);
    }

    fn await_compression(&mut self, options: WaitOptions) {
        let Some(child) = self.compressing else { return };
        match rustix::process::waitpid(Some(child), options) {
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Ok(Some(_)) | Err(_) => self.compressing = None,
        }
    }
}

/// The compressed form of a file.
fn packed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    PathBuf::from(name)
}

/// Puts a compressed file in the place of a plain one; both are never gone.
fn gzip(path: &Path) -> std::io::Result<()> {
    let target = packed(path);
    let half = target.with_extension("half");
    let mut source = File::open(path)?;
    let mut encoder = GzEncoder::new(File::create(&half)?, Compression::fast());
    std::io::copy(&mut source, &mut encoder)?;
    encoder.finish()?;
    std::fs::rename(&half, &target)?;
    std::fs::remove_file(path)
}

fn open(path: &Path) -> std::io::Result<OwnedFd> {
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

fn entry(batch: &mut Vec<u8>, line: &Line<'_>, attributes: &str) {
    batch.extend_from_slice(b"{\"log\":\"");
    for chunk in line.text.utf8_chunks() {
        escape(batch, chunk.valid());
        if !chunk.invalid().is_empty() {
            batch.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    let name = match line.stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    // writing to memory cannot fail
    let _ = writeln!(batch, "\",\"stream\":\"{name}\"{attributes},\"time\":\"{}\"}}", line.time.rfc3339(9));
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
