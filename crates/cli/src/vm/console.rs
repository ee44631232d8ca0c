//! `insula vm console`: the machine's serial console in this terminal.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::place::Place;
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Parsed};
use crate::output;
use crate::terminal::Raw;

/// Ctrl-], as telnet's and virsh's: leaves the console, not the machine.
const LEAVE: u8 = 0x1d;

/// How often the terminal's size is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_millis(500);

pub(crate) static COMMAND: Command = Command {
    name: "console",
    usage: "NAME",
    about: "Come to a machine's console; leave it with Ctrl-]",
    arguments: (1, 1),
    action: Action::Run(console),
    ..Command::BLANK
};

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The machine ended.
    Ended,
    /// The user left.
    Left,
}

/// A connection to a console.
pub(super) struct Session {
    stream: UnixStream,
}

impl Session {
    /// # Errors
    /// Nobody listens there.
    pub(super) fn open(socket: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(socket).during(|| "connecting to the machine's console".to_owned())?;
        Ok(Self { stream })
    }

    /// Joins it to the terminal until one side ends it.
    ///
    /// # Errors
    /// The terminal can't be made raw.
    pub(super) fn join(mut self, place: &Place) -> Result<End, Failure> {
        let raw = Raw::enter().during(|| "making the terminal raw".to_owned())?;
        let left = Arc::new(AtomicBool::new(false));
        let input = self.stream.try_clone().during(|| "copying a descriptor".to_owned())?;
        let (leaving, terminal) = (Arc::clone(&left), raw.is_some());
        // It ends with the program: reading a terminal can't be broken off.
        let _typing = std::thread::spawn(move || send(&input, terminal, &leaving));
        if raw.is_some() {
            let place = place.clone();
            // It ends with the program, too.
            let _watching = std::thread::spawn(move || tell_size(&place));
        }
        let mut buffer = vec![0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => output::write(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        drop(raw);
        Ok(if left.load(Ordering::SeqCst) { End::Left } else { End::Ended })
    }
}

/// Tells the machine the terminal's size, now and whenever it changes. A serial port does not know of sizes, and says so once.
fn tell_size(place: &Place) {
    let mut told = None;
    loop {
        let now = crate::terminal::size();
        if let (Some((rows, columns)), true) = (now, now != told) {
            let size = serde_json::json!({ "columns": columns, "rows": rows });
            if place.request("PUT", "/console", Some(&size)).is_err() && told.is_some() {
                return;
            }
            told = now;
        }
        std::thread::sleep(LOOK);
    }
}

/// Sends what is typed until there is no more, or the key to leave.
fn send(mut stream: &UnixStream, terminal: bool, left: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok(count) = std::io::stdin().read(&mut buffer) {
        let bytes = buffer.get(..count).unwrap_or_default();
        let leave = if terminal { bytes.iter().position(|byte| *byte == LEAVE) } else { None };
        let sent = stream.write_all(bytes.get(..leave.unwrap_or(count)).unwrap_or_default());
        if leave.is_some() {
            left.store(true, Ordering::SeqCst);
            // The reader sees the end.
            let _ended = stream.shutdown(Shutdown::Both);
        }
        // Input that has ended leaves the console open: the machine goes on.
        if count == 0 || sent.is_err() || leave.is_some() {
            return;
        }
    }
}

fn console(context: &Context, given: &Parsed) -> Outcome {
    let place = Place::find(context, given.first())?;
    if !place.alive() {
        return Err(Failure::new(format!("the machine {:?} is not running", place.name)));
    }
    Session::open(&place.file("console.sock"))?.join(&place)?;
    Ok(0)
}
