//! `system dial-stdio`: standard input and output as a connection to the daemon, for clients that come through ssh.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Parsed};
use crate::{client, output};

pub(crate) static COMMAND: Command = Command {
    name: "dial-stdio",
    about: "Connect standard input and output with the daemon, as clients over ssh ask",
    action: Action::Run(dial),
    ..Command::BLANK
};

fn dial(context: &Context, _: &Parsed) -> Outcome {
    let mut stream = client::connect(context)?;
    let mut to = stream.try_clone()?;
    // it ends with the process at the latest
    std::thread::spawn(move || {
        let sent = carry(&mut io::stdin().lock(), &mut to);
        // the daemon still answers to what it has
        let _ = to.shutdown(Shutdown::Write);
        sent
    });
    carry(&mut stream, &mut io::stdout().lock()).map_err(|error| Failure::new(format!("the connection: {error}")))?;
    output::print("");
    Ok(0)
}

/// Piece by piece, each at once.
fn carry(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(buffer.get(..count).unwrap_or_default())?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
