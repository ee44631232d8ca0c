//! Messages of a body.

use super::status::{Code, Status};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{HeaderMap, Response};
use prost::Message;
use std::pin::Pin;

/// The longest message that is taken, in bytes.
const LONGEST: usize = 16 << 20;
/// What stands before a message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// A message with its head.
pub(super) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(HEAD + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // there is room for all of it
    let _ = message.encode(&mut out);
    out.freeze()
}

/// An answer that has not come yet.
pub(super) type Later = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Status>> + Send>>;

enum Source {
    Later(Later),
    Body(Incoming),
}

/// The messages that come in one by one.
pub(crate) struct Frames {
    source: Source,
    buffer: BytesMut,
    /// What was said last: trailers, or the headers of a call that failed at once.
    last: HeaderMap,
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Frames").field("buffer", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl Frames {
    pub(super) fn new(body: Incoming) -> Self {
        Self { source: Source::Body(body), buffer: BytesMut::new(), last: HeaderMap::new() }
    }

    pub(super) fn later(answer: Later) -> Self {
        Self { source: Source::Later(answer), buffer: BytesMut::new(), last: HeaderMap::new() }
    }

    async fn body(&mut self) -> Result<&mut Incoming, Status> {
        if let Source::Later(later) = &mut self.source {
            let (head, body) = later.await?.into_parts();
            self.last = head.headers;
            self.source = Source::Body(body);
        }
        match &mut self.source {
            Source::Body(body) => Ok(body),
            Source::Later(_) => Err(Status::new(Code::INTERNAL, "the answer has no body")),
        }
    }

    /// The next message; nothing after the last one.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = split(&mut self.buffer)? {
                let message = M::decode(message);
                return message
                    .map(Some)
                    .map_err(|error| Status::invalid(format!("a message makes no sense: {error}")));
            }
            match self.body().await?.frame().await {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::unavailable("the connection ended within a message")),
                Some(Err(error)) => return Err(Status::unavailable(format!("the connection broke: {error}"))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if self.buffer.is_empty() => self.buffer = BytesMut::from(data),
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => self.last = frame.into_trailers().unwrap_or_default(),
                },
            }
        }
    }

    /// As [`Self::next`], for the side that called: what the trailers say is the end.
    pub(crate) async fn next_answer<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        if let Some(message) = self.next().await? {
            return Ok(Some(message));
        }
        Status::of_trailers(&self.last).map(|()| None)
    }

    /// Waits for the end; messages that still come are of no interest.
    pub(crate) async fn end(&mut self) -> Result<(), Status> {
        while self.next_answer::<crate::wire::Empty>().await?.is_some() {}
        Ok(())
    }

    /// The only message of a call.
    pub(crate) async fn only<M: Message + Default>(&mut self) -> Result<M, Status> {
        self.next().await?.ok_or_else(|| Status::invalid("the call has no message"))
    }
}

/// The message at the front of what has come, if it is all there.
pub(crate) fn next_in<M: Message + Default>(buffer: &mut BytesMut) -> Result<Option<M>, Status> {
    let Some(message) = split(buffer)? else { return Ok(None) };
    M::decode(message).map(Some).map_err(|error| Status::invalid(format!("a message makes no sense: {error}")))
}

/// Takes a whole message off the front.
fn split(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some((head, _)) = buffer.split_first_chunk::<HEAD>() else { return Ok(None) };
    let [compressed, length @ ..] = *head;
    if compressed != 0 {
        return Err(Status::new(Code::UNIMPLEMENTED, "compressed messages are not taken"));
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > LONGEST {
        return Err(Status::new(Code::EXHAUSTED, format!("a message of {length} bytes; the limit is {LONGEST}")));
    }
    if buffer.len() < HEAD + length {
        buffer.reserve(HEAD + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEAD);
    Ok(Some(buffer.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Piece;

    #[test]
    fn messages_come_whole_or_not_yet() {
        let piece = Piece { data: Bytes::from_static(b"abc") };
        let framed = frame(&piece);
        let mut buffer = BytesMut::from(&framed[..4]);
        assert_eq!(split(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(&framed[4..framed.len() - 1]);
        assert_eq!(split(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(&framed[framed.len() - 1..]);
        buffer.extend_from_slice(&[0, 0]);
        assert_eq!(Piece::decode(split(&mut buffer).unwrap().unwrap()).unwrap(), piece);
        assert_eq!((&buffer[..], split(&mut buffer.clone()).unwrap()), (&[0, 0][..], None));
        assert_eq!(split(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).unwrap_err().code, Code::UNIMPLEMENTED);
        assert_eq!(split(&mut BytesMut::from(&[0, 1, 0, 0, 1][..])).unwrap_err().code, Code::EXHAUSTED);
    }
}
