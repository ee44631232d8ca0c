//! Starting programs: each failure names the command, a program that hangs is ended, an interrupt ends the wait.
//!
//! The terminal sends Ctrl-C to the whole foreground group, so a program that we wait for ends by itself; we only note
//! the signal, stop waiting, and let the caller's `Drop` clean up.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Notes SIGINT, SIGTERM and SIGHUP from now on, in place of dying from them.
pub(crate) fn watch_signals() -> Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED)).context("cannot watch signals")?;
    }
    Ok(())
}

/// Whether the user asked us to stop.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Clean-up still starts programs after an interrupt; they must not be stopped by the old signal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interrupts {
    Heeded,
    Ignored,
}

/// A program with its arguments, to be run.
pub(crate) struct Run {
    command: Command,
    timeout: Duration,
    interrupts: Interrupts,
}

/// What a program that was captured left: its exit and both streams.
pub(crate) struct Captured {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Prepares `program`; it gets an hour unless [`Run::timeout`] says otherwise.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Self { command, timeout: Duration::from_secs(3600), interrupts: Interrupts::Heeded }
    }

    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// For clean-up: runs to its end also when the user has interrupted us.
    pub(crate) fn uninterruptible(mut self) -> Self {
        self.interrupts = Interrupts::Ignored;
        self
    }

    /// Throws away what the program prints.
    pub(crate) fn quiet(mut self) -> Self {
        self.command.stdout(Stdio::null()).stderr(Stdio::null());
        self
    }

    /// Appends both streams to `log`.
    pub(crate) fn log(mut self, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot open {}", log.display()))?;
        self.command.stdout(file.try_clone().context("cannot duplicate a descriptor")?).stderr(file);
        Ok(self)
    }

    /// Starts the program and leaves it running.
    pub(crate) fn spawn(mut self) -> Result<Child> {
        self.start()
    }

    /// Runs the program with our own output streams and returns how it ended.
    pub(crate) fn status(mut self) -> Result<ExitStatus> {
        let mut child = self.start()?;
        self.wait(&mut child)
    }

    /// Runs the program and fails unless it ends with 0.
    pub(crate) fn check(mut self) -> Result<()> {
        let mut child = self.start()?;
        let status = self.wait(&mut child)?;
        if !status.success() {
            bail!("`{self}` failed with {status}");
        }
        Ok(())
    }

    /// Runs the program and keeps what it prints, whatever its exit.
    pub(crate) fn capture(mut self) -> Result<Captured> {
        // Files, not pipes: a daemon that the program leaves behind would keep a pipe open for ever.
        let (mut out, mut err) = (unnamed_file()?, unnamed_file()?);
        self.command.stdout(out.try_clone().context("cannot duplicate a descriptor")?);
        self.command.stderr(err.try_clone().context("cannot duplicate a descriptor")?);
        let mut child = self.start()?;
        let status = self.wait(&mut child)?;
        Ok(Captured { status, stdout: text_of(&mut out)?, stderr: text_of(&mut err)? })
    }

    /// Runs the program and keeps what it prints; `each` sees every line of its standard output as it comes. The program must leave nobody
    /// behind who keeps that open.
    pub(crate) fn capture_lines(mut self, mut each: impl FnMut(&str) + Send) -> Result<Captured> {
        let mut err = unnamed_file()?;
        self.command.stdout(Stdio::piped()).stderr(err.try_clone().context("cannot duplicate a descriptor")?);
        let mut child = self.start()?;
        let output = child.stdout.take().context("the program has no output")?;
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let mut all = String::new();
                for line in BufReader::new(output).split(b'\n').map_while(std::io::Result::ok) {
                    let line = String::from_utf8_lossy(&line);
                    each(&line);
                    all.push_str(&line);
                    all.push('\n');
                }
                all
            });
            let status = self.wait(&mut child)?;
            let stdout = reader.join().map_err(|_| anyhow!("the reader of `{self}` panicked"))?;
            Ok(Captured { status, stdout, stderr: text_of(&mut err)? })
        })
    }

    /// Runs the program and returns its standard output; fails with its standard error unless it ends with 0.
    pub(crate) fn output(self) -> Result<String> {
        let shown = self.to_string();
        let captured = self.capture()?;
        if !captured.status.success() {
            bail!("`{shown}` failed with {}: {}", captured.status, captured.stderr.trim());
        }
        Ok(captured.stdout)
    }

    fn start(&mut self) -> Result<Child> {
        if self.interrupts == Interrupts::Heeded && interrupted() {
            bail!("interrupted");
        }
        self.command.spawn().with_context(|| format!("cannot start `{self}`"))
    }

    fn wait(&self, child: &mut Child) -> Result<ExitStatus> {
        let deadline = Instant::now() + self.timeout;
        let outcome = loop {
            match exited(child, deadline.saturating_duration_since(Instant::now()))? {
                Wait::Exited => break Ok(()),
                Wait::TimedOut => break Err(format!("took longer than {} s", self.timeout.as_secs())),
                Wait::Signalled if self.interrupts == Interrupts::Heeded && interrupted() => {
                    // A program at a terminal got the same signal and may be cleaning up after itself.
                    let _ = kill_process(Pid::from_child(child), Signal::TERM);
                    if matches!(exited(child, Duration::from_secs(10)), Ok(Wait::Exited)) {
                        let _ = child.wait();
                        bail!("interrupted");
                    }
                    break Err("did not end after an interrupt".to_owned());
                }
                Wait::Signalled => {}
            }
        };
        if let Err(reason) = outcome {
            let _ = child.kill();
            let _ = child.wait();
            bail!("`{self}` {reason} and was killed");
        }
        let status = child.wait().with_context(|| format!("cannot wait for `{self}`"))?;
        if self.interrupts == Interrupts::Heeded && interrupted() {
            bail!("interrupted");
        }
        Ok(status)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
        let line = words.join(" ");
        // A script given as an argument says nothing in a message beyond its beginning.
        let shown = line.lines().next().unwrap_or_default();
        f.write_str(shown)?;
        if shown.len() < line.len() { f.write_str(" …") } else { Ok(()) }
    }
}

enum Wait {
    Exited,
    Signalled,
    TimedOut,
}

fn exited(child: &Child, timeout: Duration) -> Result<Wait> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).context("cannot open a pidfd")?;
    let timeout = Timespec::try_from(timeout).context("the time limit is out of range")?;
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) => Ok(Wait::TimedOut),
        Ok(_) => Ok(Wait::Exited),
        Err(rustix::io::Errno::INTR) => Ok(Wait::Signalled),
        Err(error) => Err(error).context("cannot poll a pidfd"),
    }
}

fn unnamed_file() -> Result<File> {
    let fd = rustix::fs::memfd_create(c"xtask-output", rustix::fs::MemfdFlags::CLOEXEC);
    Ok(File::from(fd.context("cannot create a memory file")?))
}

fn text_of(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).context("cannot rewind captured output")?;
    file.read_to_end(&mut bytes).context("cannot read captured output")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether `program` is somewhere in `PATH`, or in the folders of system programs that a user's `PATH` may lack.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Prints a heading and the seconds the step took.
pub(crate) fn step<T>(title: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("==> {title}");
    let _ = std::io::stdout().flush();
    let begin = Instant::now();
    let outcome = action().with_context(|| format!("step failed: {title}"))?;
    println!("    {:.2} s", begin.elapsed().as_secs_f64());
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_last_words() {
        let error = Run::new("sh").args(["-c", "echo broken >&2; exit 3"]).output().unwrap_err().to_string();
        assert!(error.contains("`sh -c") && error.contains("exit status: 3") && error.ends_with("broken"), "{error}");
    }

    #[test]
    fn a_hanging_program_is_ended() {
        let begin = Instant::now();
        let error = Run::new("sleep").args(["60"]).timeout(Duration::from_millis(50)).check().unwrap_err();
        assert!(error.to_string().contains("was killed"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_child_left_behind_does_not_hold_up_the_capture() {
        let begin = Instant::now();
        let output = Run::new("sh").args(["-c", "sleep 3 & echo done"]).output().unwrap();
        assert_eq!(output, "done\n");
        assert!(begin.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn finds_programs_in_the_path() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-program-has-this-name").is_none());
    }
}
