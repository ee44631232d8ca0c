//! The user's terminal: raw while a container has it, and surely put back.

use std::io::{self, IsTerminal as _};

use rustix::termios::{self, OptionalActions, Termios};

/// Whether standard input is a terminal.
pub(crate) fn is_input() -> bool {
    io::stdin().is_terminal()
}

/// Whether standard output is a terminal.
pub(crate) fn is_output() -> bool {
    io::stdout().is_terminal()
}

/// Whether standard error is a terminal.
pub(crate) fn is_error() -> bool {
    io::stderr().is_terminal()
}

/// The size of the terminal in rows and columns, if there is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    let stdout = io::stdout();
    let stdin = io::stdin();
    let size = termios::tcgetwinsize(&stdout).or_else(|_| termios::tcgetwinsize(&stdin)).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// The terminal without an echo, for passwords; dropping this puts it back as it was.
pub(crate) struct Silent(Option<Termios>);

impl Silent {
    /// Stops the echo of standard input, if it is a terminal.
    ///
    /// # Errors
    /// What tcsetattr(3) says.
    pub(crate) fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self(None));
        }
        let before = termios::tcgetattr(&stdin)?;
        let mut silent = before.clone();
        silent.local_modes.remove(termios::LocalModes::ECHO);
        termios::tcsetattr(&stdin, OptionalActions::Now, &silent)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, before);
        }
    }
}

/// The terminal in raw mode; dropping this puts it back as it was, also when the program unwinds.
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// Makes standard input raw; `None` if it is no terminal.
    ///
    /// # Errors
    /// What tcsetattr(3) says.
    pub(crate) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone, and then there is nothing to put back.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}
