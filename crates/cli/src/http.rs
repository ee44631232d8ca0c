//! HTTP/1.1 as a client of a unix socket needs it: kept-alive requests, chunked bodies both ways, and connections that
//! become byte streams.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// The most bytes that a response's head may have.
const MAX_HEAD: usize = 64 * 1024;
/// The most headers that a response may have.
const MAX_HEADERS: usize = 64;
const BUFFER: usize = 16 * 1024;

/// What an exchange can fail with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// The socket failed.
    #[error("connection to the daemon")]
    Socket(#[source] io::Error),
    /// The daemon closed the connection in the middle of an answer.
    #[error("the daemon closed the connection before its answer was complete")]
    Closed,
    /// What came is not HTTP.
    #[error("the daemon's answer is not HTTP/1.1: {0}")]
    Malformed(String),
}

impl From<io::Error> for HttpError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Socket(error),
        }
    }
}

/// What a request carries.
pub(crate) enum Body<'a> {
    /// Nothing.
    Empty,
    /// A JSON document.
    Json(&'a [u8]),
    /// As many bytes as the reader gives, in chunks.
    Stream(&'a mut dyn Read),
}

/// Whether the connection is to become a byte stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// An answer is expected.
    Answer,
    /// The connection is to be handed over.
    Upgrade,
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    /// Chunked, with so many bytes left of the present chunk.
    Chunk {
        left: u64,
        first: bool,
    },
    UntilClose,
    Done,
}

/// The head of a response.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    /// What a container's file is, as the archive route says it: JSON in base 64.
    pub(crate) path_stat: String,
    framing: Framing,
    close: bool,
}

/// One connection to the daemon.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
    start: usize,
    /// Whether an earlier exchange was completed on it.
    pub(crate) used: bool,
    /// Who asks, at a registry or at several.
    pub(crate) proof: Option<Proof>,
}

/// What a user has for registries, as base64 of JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// For the one that is asked.
    One(String),
    /// For all, by their names.
    All(String),
}

impl Connection {
    /// Connects to a socket.
    ///
    /// # Errors
    /// What connect(2) says.
    pub(crate) fn open(socket: &Path) -> io::Result<Self> {
        Ok(Self::over(UnixStream::connect(socket)?))
    }

    /// Takes a connection that is there.
    pub(crate) fn over(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new(), start: 0, used: false, proof: None }
    }

    /// Sends one request.
    ///
    /// # Errors
    /// [`HttpError`] if the connection or the body's reader fails.
    pub(crate) fn send(
        &mut self,
        method: &str,
        target: &str,
        body: Body<'_>,
        purpose: Purpose,
    ) -> Result<(), HttpError> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: insula\r\nUser-Agent: insula\r\n");
        if let Some(proof) = &self.proof {
            head.push_str(&match proof {
                Proof::One(proof) => format!("X-Registry-Auth: {proof}\r\n"),
                Proof::All(proofs) => format!("X-Registry-Config: {proofs}\r\n"),
            });
        }
        if purpose == Purpose::Upgrade {
            head.push_str("Connection: Upgrade\r\nUpgrade: tcp\r\n");
        }
        match body {
            Body::Empty if method == "GET" || method == "HEAD" => head.push_str("\r\n"),
            Body::Empty => head.push_str("Content-Length: 0\r\n\r\n"),
            Body::Json(bytes) => {
                head.push_str("Content-Type: application/json\r\n");
                head.push_str(&format!("Content-Length: {}\r\n\r\n", bytes.len()));
                let mut request = head.into_bytes();
                request.extend_from_slice(bytes);
                return Ok(self.stream.write_all(&request)?);
            }
            Body::Stream(reader) => {
                head.push_str("Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n");
                self.stream.write_all(head.as_bytes())?;
                return self.send_chunks(reader);
            }
        }
        Ok(self.stream.write_all(head.as_bytes())?)
    }

    /// Sends a request with a JSON body and open files, under the names by which the receiver is to know them.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(crate) fn send_files(
        &mut self,
        method: &str,
        target: &str,
        body: &[u8],
        files: &[(&Path, BorrowedFd<'_>)],
    ) -> Result<(), HttpError> {
        let names: Vec<_> = files.iter().map(|(name, _)| name).collect();
        let names = serde_json::to_string(&names).map_err(|error| HttpError::Socket(error.into()))?;
        let mut request = format!(
            "{method} {target} HTTP/1.1\r\nHost: insula\r\nContent-Type: application/json\r\nFiles: {names}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        let fds: Vec<_> = files.iter().map(|(_, fd)| *fd).collect();
        let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(&fds).size()];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let sent = sendmsg(&self.stream, &[IoSlice::new(&request)], &mut ancillary, SendFlags::NOSIGNAL)
            .map_err(|errno| HttpError::from(io::Error::from(errno)))?;
        Ok(self.stream.write_all(request.get(sent..).unwrap_or_default())?)
    }

    fn send_chunks(&mut self, reader: &mut dyn Read) -> Result<(), HttpError> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(HttpError::Socket(error)),
            };
            let sent = if count == 0 {
                self.stream.write_all(b"0\r\n\r\n")
            } else {
                self.stream
                    .write_all(format!("{count:x}\r\n").as_bytes())
                    .and_then(|()| self.stream.write_all(buffer.get(..count).unwrap_or_default()))
                    .and_then(|()| self.stream.write_all(b"\r\n"))
            };
            match sent {
                // A server that refuses a body early answers and closes: the answer says why, so go and read it.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    return Ok(());
                }
                other => other?,
            }
            if count == 0 {
                return Ok(());
            }
        }
    }

    /// Reads the head of the answer.
    ///
    /// # Errors
    /// [`HttpError`] if the connection ends before, or carries something else.
    pub(crate) fn receive(&mut self) -> Result<Head, HttpError> {
        loop {
            if let Some(head) = self.parse_head()? {
                if head.status == 100 {
                    continue;
                }
                return Ok(head);
            }
            if self.buffer.len() - self.start > MAX_HEAD {
                return Err(HttpError::Malformed(format!("a head of more than {MAX_HEAD} bytes")));
            }
            if self.fill()? == 0 {
                return Err(HttpError::Closed);
            }
        }
    }

    fn parse_head(&mut self) -> Result<Option<Head>, HttpError> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let bytes = self.buffer.get(self.start..).unwrap_or_default();
        let parsed = response.parse(bytes).map_err(|error| HttpError::Malformed(error.to_string()))?;
        let httparse::Status::Complete(size) = parsed else { return Ok(None) };
        let status = response.code.unwrap_or(0);
        let mut head = Head {
            status,
            content_type: String::new(),
            path_stat: String::new(),
            framing: Framing::UntilClose,
            close: false,
        };
        for header in response.headers.iter() {
            let value = String::from_utf8_lossy(header.value).trim().to_ascii_lowercase();
            if header.name.eq_ignore_ascii_case("content-type") {
                head.content_type = value;
            } else if header.name.eq_ignore_ascii_case("x-docker-container-path-stat") {
                head.path_stat = String::from_utf8_lossy(header.value).trim().to_owned();
            } else if header.name.eq_ignore_ascii_case("content-length") {
                let length = value.parse().map_err(|_| HttpError::Malformed(format!("content-length {value}")))?;
                if head.framing == Framing::UntilClose {
                    head.framing = Framing::Length(length);
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") && value.contains("chunked") {
                head.framing = Framing::Chunk { left: 0, first: true };
            } else if header.name.eq_ignore_ascii_case("connection") && value.contains("close") {
                head.close = true;
            }
        }
        if matches!(status, 100 | 204 | 304) || head.framing == Framing::Length(0) {
            head.framing = Framing::Done;
        }
        self.start += size;
        Ok(Some(head))
    }

    fn fill(&mut self) -> io::Result<usize> {
        if self.start > 0 && self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        let old = self.buffer.len();
        self.buffer.resize(old + BUFFER, 0);
        let result = loop {
            match self.stream.read(self.buffer.get_mut(old..).unwrap_or_default()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(old + *result.as_ref().unwrap_or(&0));
        result
    }

    /// The body that follows a head.
    pub(crate) fn body<'a>(&'a mut self, head: &'a mut Head) -> BodyReader<'a> {
        BodyReader { connection: self, head }
    }

    /// Whether another request can be sent after `head` and its body.
    pub(crate) fn reusable(&self, head: &Head) -> bool {
        head.framing == Framing::Done && !head.close
    }

    /// The bare stream, and what was read of it already.
    pub(crate) fn into_stream(mut self) -> (UnixStream, Vec<u8>) {
        let rest = self.buffer.split_off(self.start);
        (self.stream, rest)
    }

    fn buffered(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.start == self.buffer.len() && self.fill()? == 0 {
            return Ok(0);
        }
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        let count = rest.len().min(into.len());
        for (to, from) in into.iter_mut().zip(rest) {
            *to = *from;
        }
        self.start += count;
        Ok(count)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            if self.buffered(&mut byte)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            match byte {
                [b'\n'] => break,
                [other] if line.len() < 256 => line.push(other),
                _ => return Err(io::Error::new(ErrorKind::InvalidData, "chunk size line too long")),
            }
        }
        Ok(String::from_utf8_lossy(&line).trim().to_owned())
    }
}

/// The body of a response.
#[derive(Debug)]
pub(crate) struct BodyReader<'a> {
    connection: &'a mut Connection,
    head: &'a mut Head,
}

impl Read for BodyReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunk { left: 0, first } = self.head.framing {
            if !first {
                self.connection.line()?;
            }
            let line = self.connection.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let left = u64::from_str_radix(size, 16)
                .map_err(|_| io::Error::new(ErrorKind::InvalidData, format!("bad chunk size {size:?}")))?;
            self.head.framing = Framing::Chunk { left, first: false };
            if left == 0 {
                while !self.connection.line()?.is_empty() {}
                self.head.framing = Framing::Done;
            }
        }
        let room = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        match self.head.framing {
            Framing::Done => Ok(0),
            Framing::UntilClose => {
                let count = self.connection.buffered(into)?;
                if count == 0 {
                    self.head.framing = Framing::Done;
                    self.head.close = true;
                }
                Ok(count)
            }
            Framing::Length(left) | Framing::Chunk { left, .. } => {
                let room = room(left);
                let count = self.connection.buffered(into.get_mut(..room).unwrap_or_default())?;
                if count == 0 && room > 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                let left = left - count as u64;
                self.head.framing = match self.head.framing {
                    Framing::Length(_) if left == 0 => Framing::Done,
                    Framing::Length(_) => Framing::Length(left),
                    _ => Framing::Chunk { left, first: false },
                };
                Ok(count)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sends a request to a server that gives `answer`, and returns status and body.
    fn exchange(answer: &[u8]) -> Result<(u16, Vec<u8>, bool), HttpError> {
        let (client, mut server) = UnixStream::pair().unwrap();
        let mut connection = Connection { stream: client, buffer: Vec::new(), start: 0, used: false, proof: None };
        connection.send("GET", "/x", Body::Empty, Purpose::Answer)?;
        server.write_all(answer).unwrap();
        drop(server.shutdown(std::net::Shutdown::Write));
        let mut head = connection.receive()?;
        let mut body = Vec::new();
        connection.body(&mut head).read_to_end(&mut body)?;
        let reusable = connection.reusable(&head);
        Ok((head.status, body, reusable))
    }

    #[test]
    fn bodies_end_where_they_should() {
        let check = |answer: &[u8], status: u16, body: &[u8], reusable: bool| {
            assert_eq!(exchange(answer).unwrap(), (status, body.to_vec(), reusable));
        };
        check(b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", true);
        check(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", 200, b"abc", true);
        check(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc", 200, b"abc", false);
        check(b"HTTP/1.1 200 OK\r\n\r\nabc", 200, b"abc", false);
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        check(chunked, 200, b"abcde", true);
        check(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n", 404, b"", true);
    }

    #[test]
    fn broken_answers_are_errors() {
        assert!(matches!(exchange(b""), Err(HttpError::Closed)));
        assert!(matches!(exchange(b"HTTP/1.1 200"), Err(HttpError::Closed)));
        assert!(matches!(exchange(b"220 smtp ready\r\n\r\n"), Err(HttpError::Malformed(_))));
        assert!(matches!(exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), Err(HttpError::Closed)));
        let chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        assert!(matches!(exchange(chunk), Err(HttpError::Socket(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever comes, the exchange ends, and the body holds nothing that did not come.
        #[test]
        fn any_answer_comes_to_an_end(
            head in "(HTTP/1[.][01x] [0-9]{0,4}( [A-Za-z ]{0,9})?\r\n){0,2}",
            header in "(|Content-Length: -?[0-9]{1,21}\r\n|Transfer-Encoding: chunked\r\n|Connection: close\r\n|[ -~]{0,40}\r\n){0,3}",
            chunk in "(|\r\n|[0-9a-f]{1,2}(;[a-z]{0,3})?\r\n|[f+-]{16,18}\r\n)",
            noise in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let answer = [head.as_bytes(), header.as_bytes(), b"\r\n", chunk.as_bytes(), &noise].concat();
            for bytes in [&answer[..], &noise] {
                if let Ok((_, body, _)) = exchange(bytes) {
                    prop_assert!(body.len() <= bytes.len());
                }
            }
        }
    }
}
