//! Streams between guest and host that need no network.

use std::io::{Read, Write};
use std::net::Shutdown;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::{MIB, Outcome, hold, pattern};

/// Streams at the same time, each way.
const STREAMS: usize = 16;
const HOST: u32 = 2;
/// `VMADDR_CID_ANY`.
const ANY: u32 = u32::MAX;
/// The guest listens on the first, the host on the second.
const PORTS: [u32; 2] = [5000, 6000];

fn socket() -> std::io::Result<Socket> {
    Socket::new(Domain::VSOCK, Type::STREAM, None)
}

/// Sends everything back once its other end has sent all: then only one direction is left.
fn back(mut stream: Socket) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    stream.write_all(&bytes)?;
    stream.shutdown(Shutdown::Both)
}

/// A stream to the host's program that sends back at once.
pub(crate) fn to_host() -> std::io::Result<Socket> {
    let stream = socket()?;
    stream.connect(&SockAddr::vsock(HOST, PORTS[1] + 2))?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20)))?;
    Ok(stream)
}

/// Many streams in both directions at once.
pub(crate) fn vsock() -> Outcome {
    let listener = socket()?;
    listener.bind(&SockAddr::vsock(ANY, PORTS[0]))?;
    listener.listen(128)?;
    crate::say("LISTENING FOR STREAMS")?;
    std::thread::scope(|scope| -> Outcome {
        let answering = scope.spawn(|| -> std::io::Result<()> {
            for _ in 0..STREAMS {
                let (stream, _) = listener.accept()?;
                std::thread::spawn(move || back(stream));
            }
            Ok(())
        });
        let asking: Vec<_> = (0..STREAMS)
            .map(|number| {
                scope.spawn(move || -> std::io::Result<bool> {
                    let mut stream = socket()?;
                    stream.connect(&SockAddr::vsock(HOST, PORTS[1]))?;
                    let sent = pattern(MIB / 4 + number, number);
                    stream.write_all(&sent)?;
                    stream.shutdown(Shutdown::Write)?;
                    let mut got = Vec::new();
                    stream.read_to_end(&mut got)?;
                    Ok(got == sent)
                })
            })
            .collect();
        for asked in asking {
            hold(asked.join().map_err(|_| "a thread panicked")??, "a stream came back otherwise")?;
        }
        Ok(answering.join().map_err(|_| "a thread panicked")??)
    })?;
    let refused = socket()?.connect(&SockAddr::vsock(HOST, PORTS[1] + 1));
    hold(refused.is_err(), "somebody listens where nobody does")
}
