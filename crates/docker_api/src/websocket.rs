//! Attaching over a WebSocket.
//!
//! A process's streams are bytes on a socket; a browser's are messages. So there is a pair of sockets, one end for the engine as
//! for any client, and a task that carries between the other and the client: each piece of output becomes a message, standard
//! output and error alike, and what messages hold is input.
//!
//! # Source
//! RFC 6455; the Engine API's `ContainerAttachWebsocket`.

use crate::attach::Client;
use crate::error::ApiError;
use crate::reply::{Body, Reply, Result};
use docker_wire::stdcopy;
use engine::Framing;
use futures_util::{SinkExt, Stream, StreamExt};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

/// The most that one message of output carries, in bytes.
const PIECE: usize = 16 << 10;
/// The longest message of input, in bytes.
const MAX_INPUT: usize = 1 << 20;
/// How long a client may take to answer the word that it is over.
const FAREWELL: Duration = Duration::from_secs(2);

/// What kind of message carries output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// Text, where bytes that are none are replaced.
    Text,
    /// Bytes as they are.
    Binary,
}

/// Answers the handshake; the far end of the pair is what the engine is given.
///
/// # Errors
/// 400 for a request that is no proper handshake.
pub(crate) fn accept(request: &mut Request<Incoming>, words: Words, framing: Framing) -> Result<(Client, Reply)> {
    let (key, protocol) = handshake(request.headers())?;
    let failed = |error: io::Error| ApiError::internal(format!("cannot make a pair of sockets: {error}"));
    let (near, far) = UnixStream::pair().map_err(failed)?;
    let far = far.into_std().map_err(failed)?;
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => carry(upgraded, near, words, framing).await,
            Err(error) => tracing::debug!(%error, "a client went away while it was being attached"),
        }
    });
    let mut reply = Response::new(Body::Full(None));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, key);
    if let Some(protocol) = protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok((Client::Pair(far.into()), reply))
}

/// The answer to a client's key, and the subprotocol if it knows one.
fn handshake(headers: &HeaderMap) -> Result<(HeaderValue, Option<HeaderValue>)> {
    let has = |name: HeaderName, word: &str| {
        let values = headers.get_all(name);
        let mut words = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        words.any(|have| have.trim().eq_ignore_ascii_case(word))
    };
    if !has(UPGRADE, "websocket") || !has(CONNECTION, "upgrade") {
        return Err(ApiError::invalid("not a WebSocket: send Connection: Upgrade and Upgrade: websocket"));
    }
    if !has(SEC_WEBSOCKET_VERSION, "13") {
        return Err(ApiError::invalid("unknown version of the WebSocket protocol; send Sec-WebSocket-Version: 13"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| ApiError::invalid("the WebSocket handshake has no Sec-WebSocket-Key"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|error| ApiError::internal(format!("cannot answer the WebSocket handshake: {error}")))?;
    // of several there would be one to choose, and none means more to us than another
    let protocol = headers.get(SEC_WEBSOCKET_PROTOCOL).filter(|protocol| !protocol.as_bytes().contains(&b','));
    Ok((accept, protocol.cloned()))
}

/// Carries until either side ends.
async fn carry(upgraded: Upgraded, near: UnixStream, words: Words, framing: Framing) {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_INPUT)).max_frame_size(Some(MAX_INPUT));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (mut to_client, mut from_client) = socket.split();
    let (mut output, mut input) = near.into_split();
    let outward = async {
        while let Some(piece) = next_piece(&mut output, framing).await? {
            let message = match words {
                Words::Binary => Message::binary(piece),
                Words::Text => Message::text(String::from_utf8_lossy(&piece).into_owned()),
            };
            to_client.send(message).await?;
        }
        to_client.send(Message::Close(None)).await
    };
    let mut inward = std::pin::pin!(feed(&mut from_client, &mut input));
    let ended = tokio::select! {
        // the client has ended; what it was attached to learns so by its end of the pair
        ended = &mut inward => ended,
        ended = outward => {
            if ended.is_ok() {
                // it answers; one that does not is left alone
                let _ = tokio::time::timeout(FAREWELL, inward).await;
            }
            ended
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an attached WebSocket ended early");
    }
}

/// Messages become input, until the client closes. Pings and the word of closing are answered by the library.
async fn feed(
    messages: &mut (impl Stream<Item = std::result::Result<Message, SocketError>> + Unpin),
    input: &mut OwnedWriteHalf,
) -> std::result::Result<(), SocketError> {
    while let Some(message) = messages.next().await {
        let written = match message? {
            Message::Text(text) => input.write_all(text.as_bytes()).await,
            Message::Binary(bytes) => input.write_all(&bytes).await,
            Message::Close(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        };
        // nobody reads it: there may be output to show yet
        if let Err(error) = written {
            tracing::debug!(%error, "input of an attached WebSocket is lost");
        }
    }
    Ok(())
}

/// The next piece of output; `None` at its end.
async fn next_piece(output: &mut OwnedReadHalf, framing: Framing) -> io::Result<Option<Vec<u8>>> {
    let mut piece = vec![0; PIECE];
    if framing == Framing::Raw {
        let count = output.read(&mut piece).await?;
        piece.truncate(count);
        return Ok((count > 0).then_some(piece));
    }
    let mut head = [0; stdcopy::HEADER];
    match output.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => drop(read?),
    }
    let (_, length) = stdcopy::parse(head).map_err(io::Error::other)?;
    // frames are ours, and a line of the log long at most
    piece.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
    output.read_exact(&mut piece).await?;
    Ok(Some(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_checked() {
        let check = |lines: &[(HeaderName, &'static str)], expect: std::result::Result<(&str, Option<&str>), &str>| {
            let headers = lines.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
            let found = handshake(&headers).map_err(|error| error.message);
            match (found, expect) {
                (Ok((accept, protocol)), Ok(expected)) => {
                    let protocol = protocol.as_ref().map(|protocol| protocol.to_str().unwrap());
                    assert_eq!((accept.to_str().unwrap(), protocol), expected);
                }
                (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
                (found, _) => panic!("{lines:?}: {found:?}"),
            }
        };
        let (upgrade, connection) = ((UPGRADE, "WebSocket"), (CONNECTION, "keep-alive, Upgrade"));
        // the example of RFC 6455, section 1.3
        let (version, key) = ((SEC_WEBSOCKET_VERSION, "13"), (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="));
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        let whole = [upgrade.clone(), connection.clone(), version.clone(), key.clone()];
        check(&whole, Ok((accept, None)));
        let with = |protocol| [&whole[..], &[(SEC_WEBSOCKET_PROTOCOL, protocol)]].concat();
        check(&with("chat"), Ok((accept, Some("chat"))));
        check(&with("chat, superchat"), Ok((accept, None)));
        check(&[connection.clone(), version.clone(), key.clone()], Err("not a WebSocket"));
        check(&[(UPGRADE, "tcp"), connection.clone(), version.clone(), key.clone()], Err("not a WebSocket"));
        check(&[upgrade.clone(), version.clone(), key.clone()], Err("not a WebSocket"));
        check(&[upgrade.clone(), connection.clone(), key], Err("unknown version"));
        check(&[upgrade, connection, version], Err("no Sec-WebSocket-Key"));
    }
}
