//! Running a command to its end, with a limit of time.

use std::io::{Read, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a command may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(110);

/// What a command's run gave.
#[derive(Debug)]
pub struct Run {
    /// The exit code, 128 and the signal's number when one ended it, -1 when it hung and was killed.
    pub code: i32,
    /// Standard output; what is no UTF-8 is replaced.
    pub out: String,
    /// Standard error, likewise.
    pub err: String,
}

impl Run {
    /// Checks the exit code, and shows everything when it is another.
    ///
    /// # Panics
    /// When it is another.
    #[track_caller]
    #[must_use]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\nstdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Checks that the command succeeded, and gives its standard output without the white space at the ends.
    ///
    /// # Panics
    /// When it failed.
    #[track_caller]
    #[must_use]
    pub fn ok(self) -> String {
        self.expect(0).out.trim().to_owned()
    }

    /// Both streams, for a look at all that was said.
    #[must_use]
    pub fn said(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// Runs a command to its end with `input` on its standard input.
///
/// The streams are read until the command itself has ended and then for what is still in the pipes: a process that it left
/// behind and that holds a pipe open holds nobody up.
///
/// # Panics
/// When it can't be started.
pub fn finish(command: &mut Command, input: &[u8]) -> Run {
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A program that does not read to the end closes the pipe, which is no mistake of the test.
        std::thread::spawn(move || drop(stdin.write_all(&input)));
    }
    let out = child.stdout.take().map(|stream| Reader::start(Box::new(stream)));
    let err = child.stderr.take().map(|stream| Reader::start(Box::new(stream)));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                // It may have ended just now.
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let text = |reader: Option<Reader>| reader.map(Reader::finish).unwrap_or_default();
    Run { code: status.map_or(-1, code_of), out: text(out), err: text(err) }
}

/// The exit code as a shell tells it.
fn code_of(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// A stream that is read beside the test.
struct Reader {
    bytes: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Reader {
    fn start(mut from: Box<dyn Read + Send>) -> Self {
        let bytes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let shared = std::sync::Arc::clone(&bytes);
        let thread = std::thread::spawn(move || {
            let mut part = [0; 16384];
            while let Ok(count @ 1..) = from.read(&mut part) {
                shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(&part[..count]);
            }
        });
        Self { bytes, thread }
    }

    /// What was read; the writer has ended, so what it wrote is in the pipe at the latest now.
    fn finish(self) -> String {
        let _ = crate::wait_for(Duration::from_millis(500), || self.thread.is_finished().then_some(()));
        let bytes = self.bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_streams_are_told_apart() {
        let mut command = Command::new("sh");
        command.args(["-c", "cat; echo wrong >&2; exit 3"]);
        let run = finish(&mut command, b"in");
        assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (3, "in", "wrong\n"));
        let run = finish(Command::new("sh").args(["-c", "kill -9 $$"]), b"");
        assert_eq!(run.code, 137);
    }

    #[test]
    fn a_process_left_behind_holds_nobody_up() {
        let run = finish(Command::new("sh").args(["-c", "sleep 5 & echo done"]), b"");
        assert_eq!((run.code, run.out.as_str()), (0, "done\n"));
    }
}
