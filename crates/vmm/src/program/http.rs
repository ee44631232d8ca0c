//! HTTP/1.1 for one client at a time on a unix socket: small requests with JSON, small answers.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde::Serialize;

/// The most bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;
/// The most bytes of a request's body.
const MAX_BODY: usize = 1 << 20;
/// The most files that come with a request.
const MOST_FILES: usize = 64;
/// A client whose request is not there after so long is sent away: others wait.
const PATIENCE: Duration = Duration::from_secs(5);
/// Headers that mean something here, and so only once.
const ONCE: [&str; 2] = ["content-length", "files"];

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) body: Vec<u8>,
    /// Files that came with it, by the names that the header `Files` gives them.
    pub(super) files: Vec<(PathBuf, OwnedFd)>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Response {
    /// Done, and there is nothing to say.
    pub(super) fn done() -> Self {
        Self { status: 204, body: Vec::new() }
    }

    pub(super) fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self { status: 200, body },
            Err(error) => Self::error(500, &error.to_string()),
        }
    }

    pub(super) fn error(status: u16, message: &str) -> Self {
        let body = serde_json::json!({ "message": message }).to_string().into_bytes();
        Self { status, body }
    }

    fn reason(&self) -> &'static str {
        match self.status {
            200 => "OK",
            204 => "No Content",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            409 => "Conflict",
            413 => "Content Too Large",
            _ => "Internal Server Error",
        }
    }
}

/// Reads one request; the answer to one that can't be read is the error.
pub(super) fn read(stream: &mut UnixStream) -> io::Result<Option<Result<Request, Response>>> {
    let end = Instant::now() + PATIENCE;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
    let mut buffer = [0; 4096];
    loop {
        match parse(&bytes) {
            Parsed::Whole(mut request, names) => {
                if names.len() != descriptors.len() {
                    let why = format!("{} names of files, and {} descriptors", names.len(), descriptors.len());
                    return Ok(Some(Err(Response::error(400, &why))));
                }
                request.files = names.into_iter().zip(descriptors).collect();
                return Ok(Some(Ok(request)));
            }
            Parsed::Bad(response) => return Ok(Some(Err(response))),
            Parsed::More => {}
        }
        // No time at all would be none to the socket.
        stream.set_read_timeout(Some(end.saturating_duration_since(Instant::now()).max(Duration::from_micros(1))))?;
        match receive(stream, &mut buffer, &mut descriptors)? {
            0 => return Ok(None),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Reads bytes, and the descriptors that came with them.
fn receive(stream: &UnixStream, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    descriptors.truncate(MOST_FILES);
    Ok(received.bytes)
}

enum Parsed {
    /// With the names of its files.
    Whole(Request, Vec<PathBuf>),
    More,
    Bad(Response),
}

/// A length is digits and nothing else, RFC 9110, 8.6; one that no number holds is too long.
fn length_of(value: &[u8]) -> Option<usize> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX))
}

/// # Source
/// RFC 9112, 6.3 "Message Body Length".
fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => return Parsed::More,
        Ok(httparse::Status::Partial) => return Parsed::Bad(Response::error(413, "the request's head is too long")),
        Err(error) => return Parsed::Bad(Response::error(400, &format!("this is not HTTP: {error}"))),
    };
    let headers = |name: &'static str| head.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    let header = |name: &'static str| headers(name).next().map(|header| header.value);
    if header("transfer-encoding").is_some() {
        return Parsed::Bad(Response::error(400, "send the body with a content length, not in chunks"));
    }
    // Who reads the first of two, and who reads the last, would see different requests.
    if let Some(twice) = ONCE.iter().find(|name| headers(name).count() > 1) {
        return Parsed::Bad(Response::error(400, &format!("the header {twice} comes twice")));
    }
    let size = match header("content-length").map(length_of) {
        None => 0,
        Some(Some(size)) if size <= MAX_BODY => size,
        Some(Some(_)) => return Parsed::Bad(Response::error(413, "the request's body is too long")),
        Some(None) => return Parsed::Bad(Response::error(400, "the content length is no number")),
    };
    let Ok(names) = header("files").map_or(Ok(Vec::new()), serde_json::from_slice) else {
        return Parsed::Bad(Response::error(400, "the header Files is no JSON list of paths"));
    };
    let Some(body) = bytes.get(length..length + size) else { return Parsed::More };
    let request = Request {
        method: head.method.unwrap_or("").to_owned(),
        path: head.path.unwrap_or("").to_owned(),
        body: body.to_vec(),
        files: Vec::new(),
    };
    Parsed::Whole(request, names)
}

/// For the fuzz target: what is taken for a request lies inside the bytes.
pub(super) fn parse_stranger(bytes: &[u8]) {
    if let Parsed::Whole(request, _) = parse(bytes) {
        assert!(request.body.len() <= bytes.len());
    }
}

pub(super) fn write(stream: &mut UnixStream, response: &Response) -> io::Result<()> {
    let mut bytes = format!("HTTP/1.1 {} {}\r\n", response.status, response.reason()).into_bytes();
    if response.status != 204 {
        bytes.extend(format!("Content-Type: application/json\r\nContent-Length: {}\r\n", response.body.len()).bytes());
    }
    bytes.extend(b"Connection: close\r\n\r\n");
    bytes.extend(&response.body);
    stream.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_come() {
        let whole = b"PUT /machine HTTP/1.1\r\nHost: x\r\ncontent-LENGTH: 2\r\n\r\n{}";
        for end in 0..whole.len() {
            assert!(matches!(parse(&whole[..end]), Parsed::More), "{end}");
        }
        let Parsed::Whole(request, _) = parse(whole) else { panic!("not whole") };
        assert_eq!(
            (request.method.as_str(), request.path.as_str(), request.body.as_slice()),
            ("PUT", "/machine", &b"{}"[..])
        );
    }

    #[test]
    fn bad_requests_get_their_status() {
        let status = |bytes: &[u8]| match parse(bytes) {
            Parsed::Bad(response) => response.status,
            _ => 0,
        };
        assert_eq!(status(b"\x16\x03\x01"), 400);
        assert_eq!(status(b"PUT / HTTP/1.1\r\ncontent-length: x\r\n\r\n"), 400);
        assert_eq!(status(b"PUT / HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n"), 413);
        assert_eq!(status(b"PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"), 400);
        for framing in [
            "content-length: 2\r\ncontent-length: 2",
            "content-length: 2\r\nContent-Length: 0",
            "content-length: 2, 2",
            "content-length: +2",
            "content-length: -0",
            "content-length: 0x2",
            "content-length:",
            "content-length: 2\r\ntransfer-encoding: chunked",
            "transfer-encoding: identity\r\ncontent-length: 2",
            "content-length : 2",
            "x: y\r\n content-length: 2",
            "files: []\r\nfiles: []",
        ] {
            assert_eq!(status(format!("PUT /kill HTTP/1.1\r\n{framing}\r\n\r\n{{}}").as_bytes()), 400, "{framing}");
        }
        assert_eq!(status(b"PUT / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n"), 413);
        assert_eq!(status(format!("GET /{} HTTP/1.1", "x".repeat(MAX_HEAD)).as_bytes()), 413);
    }
}
