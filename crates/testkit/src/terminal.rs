//! A person at a terminal: starts a program, types, reads, changes the window's size.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// A program on a pseudo-terminal of its own; it is killed when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    /// How much of the screen earlier expectations have consumed.
    read: usize,
    child: Child,
}

impl Terminal {
    /// Starts `command` on a terminal of 24 rows and 80 columns.
    ///
    /// The terminal is the program's controlling one, so that Ctrl-C and the window's size reach it as signals.
    ///
    /// # Panics
    /// When there is no terminal to be had or the program can't be started.
    #[must_use]
    pub fn spawn(command: &Command) -> Self {
        Self::open(command).unwrap_or_else(|error| panic!("{command:?} on a terminal: {error}"))
    }

    fn open(command: &Command) -> std::io::Result<Self> {
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        rustix::termios::tcsetwinsize(&slave, window(24, 80))?;
        let end = |slave: &OwnedFd| slave.try_clone().map(Stdio::from);
        // Making a session and taking the terminal must happen in the child; setsid(1) does both.
        let mut setsid = Command::new("setsid");
        setsid.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => setsid.env(name, value),
                None => setsid.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            setsid.current_dir(folder);
        }
        let child = setsid.stdin(end(&slave)?).stdout(end(&slave)?).stderr(end(&slave)?).spawn()?;
        let keyboard = File::from(master);
        let mut reader = keyboard.try_clone()?;
        let screen = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The terminal ends with an error when the last program on it has gone.
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                shown.lock().unwrap_or_else(PoisonError::into_inner).extend(&bytes[..count]);
            }
        });
        Ok(Self { keyboard, screen, read: 0, child })
    }

    /// Types `keys`; Ctrl-C is `\x03`, Ctrl-P Ctrl-Q is `\x10\x11`, Enter is `\r`.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn send(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap_or_else(|error| panic!("typing {keys:?}: {error}"));
    }

    /// Waits until `text` appears after what was expected before, and gives what stood before it.
    ///
    /// # Panics
    /// When it does not appear in time, with all that was shown.
    pub fn expect(&mut self, text: &str, timeout: Duration) -> String {
        let found = crate::wait_for(timeout, || {
            let shown = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            let rest = &shown[self.read..];
            let at = rest.windows(text.len().max(1)).position(|window| window == text.as_bytes())?;
            Some((String::from_utf8_lossy(&rest[..at]).into_owned(), self.read + at + text.len()))
        });
        let Some((before, read)) = found else { panic!("{text:?} did not appear in:\n{}", self.shown()) };
        self.read = read;
        before
    }

    /// All that was shown so far.
    #[must_use]
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Changes the window's size.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) {
        rustix::termios::tcsetwinsize(&self.keyboard, window(rows, columns))
            .unwrap_or_else(|error| panic!("resize: {error}"));
    }

    /// Waits for the program to end.
    ///
    /// # Panics
    /// When it has not ended in time, with all that was shown.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let status = crate::wait_for(timeout, || self.child.try_wait().ok().flatten());
        status.unwrap_or_else(|| panic!("still running after {timeout:?}; shown:\n{}", self.shown()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // One that has ended can't be killed; the hang-up reaches what is left of its session.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn window(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_shell_can_be_talked_to() {
        let mut command = Command::new("sh");
        // An interrupt that meets a program which ends well all the same does not end the shell.
        command.args(["-c", "stty size; read line; echo got $line; stty size; echo ready; exec sleep 60"]);
        let mut terminal = Terminal::spawn(&command);
        terminal.expect("24 80", SOON);
        terminal.resize(30, 100);
        terminal.send("hello\r");
        terminal.expect("got hello", SOON);
        terminal.expect("30 100", SOON);
        terminal.expect("ready", SOON);
        terminal.send("\x03");
        assert!(!terminal.wait(SOON).success());
    }
}
