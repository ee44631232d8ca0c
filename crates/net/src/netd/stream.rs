//! Questions over TCP: what is too long for a datagram. Each connection has a thread of the crew for its time.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::serve::{Answer, Shared};
use crate::dns::{Code, Query, Transport, Upstream, Via, is_failure};
use crate::netns;

const IDLE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(4);

/// Answers the questions of one connection from container `sandbox`.
pub(super) fn converse(shared: &Shared, sandbox: u64, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    loop {
        let bytes = read_message(&mut stream)?;
        let answer = match shared.answer(sandbox, &bytes, Transport::Tcp) {
            Answer::Reply(answer) => answer,
            Answer::Ignore => return stream.shutdown(Shutdown::Both),
            Answer::Ask { query, upstreams, namespace } => {
                pass_on(&query, &bytes, &upstreams, std::os::fd::AsFd::as_fd(&*namespace))
            }
        };
        write_message(&mut stream, &answer)?;
    }
}

fn pass_on(query: &Query, bytes: &[u8], upstreams: &[Upstream], namespace: BorrowedFd<'_>) -> Vec<u8> {
    let mut poor = None;
    for upstream in upstreams {
        let ask = || -> io::Result<Vec<u8>> {
            let mut server = TcpStream::connect_timeout(&upstream.address, PATIENCE)?;
            server.set_read_timeout(Some(PATIENCE))?;
            server.set_write_timeout(Some(PATIENCE))?;
            write_message(&mut server, bytes)?;
            read_message(&mut server)
        };
        let outcome = match upstream.via {
            Via::Host => ask(),
            Via::Inside => netns::within(namespace, ask).unwrap_or_else(|error| Err(io::Error::other(error))),
        };
        match outcome {
            Ok(answer) if query.is_answered_by(&answer) && !is_failure(&answer) => return answer,
            Ok(answer) if query.is_answered_by(&answer) => poor = Some(answer),
            Ok(_) | Err(_) => {}
        }
    }
    poor.unwrap_or_else(|| query.reply(Code::Failure, &[], Transport::Tcp, 0))
}

fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn write_message(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(bytes);
    stream.write_all(&frame)
}
