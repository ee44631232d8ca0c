//! `GET /containers/{id}/logs`

use crate::attach::media;
use crate::error::ApiError;
use crate::reply::{self, Result};
use crate::route::Version;
use crate::server::Call;
use crate::translate::time::rfc3339_fixed;
use bytes::Bytes;
use docker_wire::stdcopy::{self, HEADER, Stream};
use engine::model::{Container, Phase};
use engine::{LogLine, LogStream, Logs};
use hyper::header::USER_AGENT;
use std::io;
use std::time::{Duration, Instant};

/// Pieces of up to this size are gathered from lines that are there already.
const PIECE: usize = 32 << 10;
/// How old a container is before its output is read, and how often it is looked at until then.
const GRACE: Duration = Duration::from_millis(50);
const GLANCE: Duration = Duration::from_millis(5);

pub(crate) async fn logs(call: Call) -> Result {
    let query = &call.query;
    let which = Logs {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        follow: query.flag("follow"),
        since_ns: query.time_ns("since")?,
        until_ns: query.time_ns("until")?,
        tail: match query.text("tail") {
            None | Some("all") => None,
            // what is no number means all, as with Docker
            Some(text) => text.parse().ok(),
        },
    };
    if !which.stdout && !which.stderr {
        return Err(ApiError::invalid("Bad parameters: you must choose at least one stream: set stdout=1 or stderr=1"));
    }
    let container = call.engine().container(call.who())?;
    if !which.follow {
        first_words(&call, &container).await;
    }
    let shown = Shown { timestamps: query.flag("timestamps"), details: query.flag("details"), tty: container.spec.tty };
    let frames = if !which.follow && copies(&call) { Frames::Gathered } else { Frames::EachLine };
    let mut lines = call.engine().logs(container.id.as_str(), which).await?;
    let (sender, reply) = reply::stream(media(shown.tty, call.version >= Version::minor(42)));
    tokio::spawn(async move {
        let mut piece = Piece::new(frames);
        loop {
            let line = tokio::select! {
                line = lines.recv() => line,
                () = sender.closed() => return,
            };
            let mut next = match line {
                Some(line) => Some(line),
                None => return,
            };
            while let Some(line) = next {
                match line {
                    Ok(line) => piece.append(&line, shown),
                    Err(error) => {
                        let _ = sender.send(Err(io::Error::other(error.to_string()))).await;
                        return;
                    }
                }
                next = if piece.bytes.len() < PIECE { lines.try_recv().ok() } else { None };
            }
            if sender.send(Ok(Bytes::from(piece.take()))).await.is_err() {
                return;
            }
        }
    });
    Ok(reply)
}

/// Scripts ask for a container's output right behind its start. Docker's start takes so long that a quick program has
/// spoken by then; here it is given that time.
async fn first_words(call: &Call, container: &Container) {
    let age = container.runtime.as_ref().map_or(u64::MAX, |run| engine::now_ns().saturating_sub(run.started_ns));
    let end = Instant::now() + GRACE.saturating_sub(Duration::from_nanos(age));
    let runs = || call.engine().container(container.id.as_str()).is_ok_and(|now| now.phase == Phase::Running);
    while Instant::now() < end && runs() {
        tokio::time::sleep(GLANCE).await;
    }
}

/// Clients that only copy what comes; libraries hand each frame on as a line.
const COPYING: &[&str] = &["Docker-Client/", "compose/", "insula"];

fn copies(call: &Call) -> bool {
    let agent = call.request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    COPYING.iter().any(|known| agent.starts_with(known))
}

/// How lines are shown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Shown {
    pub(crate) timestamps: bool,
    pub(crate) details: bool,
    pub(crate) tty: bool,
}

/// What a frame of a stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frames {
    /// One line.
    EachLine,
    /// All lines of one stream that follow each other: clients write frame by frame, so few frames are fast.
    Gathered,
}

/// Lines on their way to a client.
#[derive(Debug)]
struct Piece {
    frames: Frames,
    bytes: Vec<u8>,
    /// Where the last frame begins, and whose it is.
    open: Option<(usize, LogStream)>,
}

impl Piece {
    fn new(frames: Frames) -> Self {
        Self { frames, bytes: Vec::new(), open: None }
    }

    fn append(&mut self, line: &LogLine, shown: Shown) {
        let start = self.bytes.len();
        append(&mut self.bytes, line, shown);
        if self.frames == Frames::EachLine || shown.tty {
            return;
        }
        match self.open {
            Some((frame, stream)) if stream == line.stream => {
                self.bytes.drain(start..start + HEADER);
                // a piece is far below 4 GiB
                let length = u32::try_from(self.bytes.len() - frame - HEADER).unwrap_or(u32::MAX);
                self.bytes[frame..frame + HEADER].copy_from_slice(&stdcopy::header(of(stream), length));
            }
            _ => self.open = Some((start, line.stream)),
        }
    }

    fn take(&mut self) -> Vec<u8> {
        self.open = None;
        std::mem::take(&mut self.bytes)
    }
}

fn of(stream: LogStream) -> Stream {
    match stream {
        LogStream::Stdout => Stream::Stdout,
        LogStream::Stderr => Stream::Stderr,
    }
}

/// Adds a line as clients read it.
pub(crate) fn append(out: &mut Vec<u8>, line: &LogLine, shown: Shown) {
    let mut stamp = if shown.timestamps { format!("{} ", rfc3339_fixed(line.at_ns)) } else { String::new() };
    if shown.details {
        let pair = |(key, value): (&String, &String)| format!("{}={}", escaped(key), escaped(value));
        stamp.push_str(&line.attributes.iter().map(pair).collect::<Vec<_>>().join(","));
        stamp.push(' ');
    }
    if !shown.tty {
        // recorded lines are far below 4 GiB
        let length = u32::try_from(stamp.len() + line.text.len()).unwrap_or(u32::MAX);
        out.reserve(HEADER + stamp.len() + line.text.len());
        out.extend_from_slice(&stdcopy::header(of(line.stream), length));
    }
    out.extend_from_slice(stamp.as_bytes());
    out.extend_from_slice(&line.text);
}

/// Written as in a query, so that neither a comma nor an equals sign misleads.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_stream_share_a_frame_where_nobody_follows() {
        let line = |stream, text: &str| LogLine { stream, at_ns: 0, text: text.into(), attributes: Default::default() };
        let check = |frames, expected: &[u8]| {
            let mut piece = Piece::new(frames);
            for (stream, text) in [(LogStream::Stdout, "a\n"), (LogStream::Stdout, "bc\n"), (LogStream::Stderr, "d\n")]
            {
                piece.append(&line(stream, text), Shown::default());
            }
            assert_eq!(piece.take(), expected);
            piece.append(&line(LogStream::Stderr, "e\n"), Shown::default());
            assert_eq!(piece.take(), b"\x02\0\0\0\0\0\0\x02e\n");
        };
        check(Frames::Gathered, b"\x01\0\0\0\0\0\0\x05a\nbc\n\x02\0\0\0\0\0\0\x02d\n");
        check(Frames::EachLine, b"\x01\0\0\0\0\0\0\x02a\n\x01\0\0\0\0\0\0\x03bc\n\x02\0\0\0\0\0\0\x02d\n");
    }

    #[test]
    fn lines_are_framed_unless_they_are_a_terminals() {
        let attributes = [("a".to_owned(), "b,c".to_owned())].into();
        let line = LogLine { stream: LogStream::Stderr, at_ns: 1_500_000_000, text: b"no\n".to_vec(), attributes };
        let mut out = Vec::new();
        append(&mut out, &line, Shown::default());
        assert_eq!(out, b"\x02\0\0\0\0\0\0\x03no\n");
        out.clear();
        append(&mut out, &line, Shown { timestamps: true, details: true, tty: true });
        assert_eq!(out, b"1970-01-01T00:00:01.500000000Z a=b%2Cc no\n");
    }
}
