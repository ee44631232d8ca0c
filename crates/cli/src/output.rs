//! Standard output and error: a reader that has gone ends the program quietly, as the signal would have.

use std::io::{self, ErrorKind, Write};

/// The exit code of a program that a broken pipe has ended: 128 + SIGPIPE.
const BROKEN_PIPE: i32 = 141;

/// Writes bytes to standard output at once.
pub(crate) fn write(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    settle(out.write_all(bytes).and_then(|()| out.flush()));
}

/// Writes bytes to standard error at once.
pub(crate) fn write_error(bytes: &[u8]) {
    settle(io::stderr().lock().write_all(bytes));
}

/// Writes a text to standard output.
pub(crate) fn print(text: &str) {
    write(text.as_bytes());
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// Tells the user something beside the output.
pub(crate) fn note(text: &str) {
    write_error(format!("insula: {text}\n").as_bytes());
}

fn settle(result: io::Result<()>) {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(BROKEN_PIPE),
        // There is nowhere left to say it.
        Err(_) => std::process::exit(1),
        Ok(()) => {}
    }
}
