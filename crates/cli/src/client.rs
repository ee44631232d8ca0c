//! The daemon's API as the commands use it: one kept-alive connection for questions, others for streams.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;

use crate::context::{Context, Ownership};
use crate::daemon;
use crate::failure::{During as _, Failure};
use crate::http::{Body, Connection, Head, HttpError, Proof, Purpose};
use crate::output;

/// The most bytes of an answer that is read whole.
const MAX_ANSWER: u64 = 256 * 1024 * 1024;

/// A line of communication with the daemon.
#[derive(Debug)]
pub(crate) struct Client {
    context: Context,
    idle: Option<Connection>,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(crate) struct Answer {
    connection: Connection,
    head: Head,
}

impl Answer {
    /// The body.
    pub(crate) fn reader(&mut self) -> impl Read + '_ {
        self.connection.body(&mut self.head)
    }

    /// What the archive route says of the file that follows.
    pub(crate) fn stat(&self) -> Result<Value, Failure> {
        stat_of(&self.head)
    }

    /// Whether the body is framed in two streams, if the daemon says so.
    pub(crate) fn multiplexed(&self) -> Option<bool> {
        match self.head.content_type.as_str() {
            docker_wire::MULTIPLEXED_STREAM => Some(true),
            _ => None,
        }
    }

    /// The whole body as JSON.
    pub(crate) fn json(mut self) -> Result<Value, Failure> {
        let mut bytes = Vec::new();
        self.reader().take(MAX_ANSWER).read_to_end(&mut bytes).map_err(HttpError::from)?;
        serde_json::from_slice(&bytes).during(|| "the daemon's answer is not JSON".to_owned())
    }
}

/// A connection that has become a byte stream.
#[derive(Debug)]
pub(crate) struct Upgraded {
    pub(crate) stream: UnixStream,
    /// What came with the head.
    pub(crate) early: Vec<u8>,
    /// Whether output is framed in two streams, if the daemon said so.
    pub(crate) multiplexed: Option<bool>,
}

impl Client {
    /// Makes a client; the daemon is reached, and started if need be, with the first request.
    pub(crate) fn new(context: &Context) -> Self {
        Self { context: context.clone(), idle: None }
    }

    fn connect(&mut self) -> Result<Connection, Failure> {
        connect(&self.context).map(Connection::over)
    }

    fn exchange(
        &mut self,
        method: &str,
        target: &str,
        body: Option<&[u8]>,
        purpose: Purpose,
    ) -> Result<(Connection, Head), Failure> {
        if self.context.debug {
            output::note(&format!("debug: {method} {target}"));
        }
        loop {
            let reusable = if purpose == Purpose::Answer { self.idle.take() } else { None };
            let mut connection = match reusable {
                Some(connection) => connection,
                None => self.connect()?,
            };
            let sent = connection.send(method, target, body.map_or(Body::Empty, Body::Json), purpose);
            let head = sent.and_then(|()| connection.receive());
            match head {
                Ok(head) => return Ok((connection, head)),
                // The daemon closed a connection that had stood idle; nothing of the request was answered, so ask anew.
                Err(HttpError::Closed) if connection.used && method == "GET" => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn open(&mut self, method: &str, target: &str, body: Option<&[u8]>) -> Result<Answer, Failure> {
        let (connection, head) = self.exchange(method, target, body, Purpose::Answer)?;
        self.checked(connection, head)
    }

    fn checked(&mut self, connection: Connection, head: Head) -> Result<Answer, Failure> {
        let mut answer = Answer { connection, head };
        if answer.head.status < 400 {
            return Ok(answer);
        }
        let status = answer.head.status;
        let mut bytes = Vec::new();
        answer.reader().take(MAX_ANSWER).read_to_end(&mut bytes).map_err(HttpError::from)?;
        self.keep(answer);
        let message = serde_json::from_slice::<Value>(&bytes)
            .ok()
            .and_then(|value| value.get("message").and_then(Value::as_str).map(str::to_owned))
            .unwrap_or_else(|| format!("the daemon answered {status}: {}", String::from_utf8_lossy(&bytes).trim()));
        Err(Failure::daemon(status, message))
    }

    fn keep(&mut self, answer: Answer) {
        if answer.connection.reusable(&answer.head) {
            let mut connection = answer.connection;
            connection.used = true;
            self.idle = Some(connection);
        }
    }

    fn whole(&mut self, mut answer: Answer) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        answer.reader().take(MAX_ANSWER).read_to_end(&mut bytes).map_err(HttpError::from)?;
        self.keep(answer);
        Ok(bytes)
    }

    /// Asks a question and gives the answer as it came.
    pub(crate) fn get_bytes(&mut self, target: &str) -> Result<Vec<u8>, Failure> {
        let answer = self.open("GET", target, None)?;
        self.whole(answer)
    }

    /// Asks a question.
    pub(crate) fn get(&mut self, target: &str) -> Result<Value, Failure> {
        let bytes = self.get_bytes(target)?;
        serde_json::from_slice(&bytes).during(|| format!("the daemon's answer to {target} is not JSON"))
    }

    /// Asks for something to be done; an answer without a body is `null`.
    pub(crate) fn call(&mut self, method: &str, target: &str, body: Option<&[u8]>) -> Result<Value, Failure> {
        let answer = self.open(method, target, body)?;
        let bytes = self.whole(answer)?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).during(|| format!("the daemon's answer to {target} is not JSON"))
    }

    /// Asks for something to be done.
    pub(crate) fn post(&mut self, target: &str) -> Result<Value, Failure> {
        self.call("POST", target, None)
    }

    /// Asks for something to be done with a JSON document.
    pub(crate) fn post_json(&mut self, target: &str, body: &impl Serialize) -> Result<Value, Failure> {
        self.call("POST", target, Some(&serde_json::to_vec(body)?))
    }

    /// Asks for something whose answer comes bit by bit, on a connection of its own.
    pub(crate) fn stream(&mut self, method: &str, target: &str, body: Option<&[u8]>) -> Result<Answer, Failure> {
        let idle = self.idle.take();
        let answer = self.open(method, target, body);
        self.idle = self.idle.take().or(idle);
        answer
    }

    /// As [`Self::stream`], without a body, in the name of somebody at a registry.
    pub(crate) fn stream_as(&mut self, method: &str, target: &str, proof: Option<&str>) -> Result<Answer, Failure> {
        if self.context.debug {
            output::note(&format!("debug: {method} {target}"));
        }
        let mut connection = self.connect()?;
        connection.proof = proof.map(|proof| Proof::One(proof.to_owned()));
        connection.send(method, target, Body::Empty, Purpose::Answer)?;
        let head = connection.receive()?;
        let mut answer = self.checked(connection, head)?;
        // Other requests on this connection are nobody's.
        answer.connection.proof = None;
        Ok(answer)
    }

    /// What the archive route says of a container's file; `None` if there is none.
    pub(crate) fn path_stat(&mut self, target: &str) -> Result<Option<Value>, Failure> {
        let (connection, head) = self.exchange("HEAD", target, None, Purpose::Answer)?;
        // a refusal of this kind has no body that would say why
        drop(connection);
        match head.status {
            200 => stat_of(&head).map(Some),
            404 => Ok(None),
            // asked in the other way, the daemon says what is wrong
            _ => self.get_bytes(target).map(|_| None),
        }
    }

    /// Sends a stream of bytes; the answer comes bit by bit.
    pub(crate) fn upload(&mut self, target: &str, body: &mut dyn Read) -> Result<Answer, Failure> {
        self.send_stream("POST", target, body, None)
    }

    /// As [`Self::upload`], with what the user has for all registries.
    pub(crate) fn upload_as(
        &mut self,
        target: &str,
        body: &mut dyn Read,
        proofs: Option<String>,
    ) -> Result<Answer, Failure> {
        self.send_stream("POST", target, body, proofs)
    }

    /// As [`Self::upload`], to a place that is named.
    pub(crate) fn put(&mut self, target: &str, body: &mut dyn Read) -> Result<Answer, Failure> {
        self.send_stream("PUT", target, body, None)
    }

    fn send_stream(
        &mut self,
        method: &str,
        target: &str,
        body: &mut dyn Read,
        proofs: Option<String>,
    ) -> Result<Answer, Failure> {
        if self.context.debug {
            output::note(&format!("debug: {method} {target}"));
        }
        let mut connection = self.connect()?;
        connection.proof = proofs.map(Proof::All);
        connection.send(method, target, Body::Stream(body), Purpose::Answer)?;
        connection.proof = None;
        let head = connection.receive()?;
        self.checked(connection, head)
    }

    /// Turns a new connection into a byte stream.
    pub(crate) fn upgrade(&mut self, target: &str, body: Option<&[u8]>) -> Result<Upgraded, Failure> {
        let (connection, head) = self.exchange("POST", target, body, Purpose::Upgrade)?;
        let answer = self.checked(connection, head)?;
        let multiplexed = match answer.head.content_type.as_str() {
            docker_wire::MULTIPLEXED_STREAM => Some(true),
            // Before API 1.42 both kinds are called raw, so this name says nothing.
            _ => None,
        };
        let (stream, early) = answer.connection.into_stream();
        Ok(Upgraded { stream, early, multiplexed })
    }
}

/// Connects to the daemon, and starts it if it is ours to start.
pub(crate) fn connect(context: &Context) -> Result<UnixStream, Failure> {
    let endpoint = &context.endpoint;
    match endpoint.connect() {
        Ok(stream) => Ok(stream),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory
            ) && endpoint.socket().is_some() =>
        {
            if context.ownership == Ownership::Named {
                let text =
                    format!("no daemon answers at {endpoint}; start one there, or leave --host and INSULA_HOST out");
                return Err(Failure::new(text));
            }
            daemon::start_for_command(context)?;
            endpoint.connect().during(|| format!("cannot connect to {endpoint}"))
        }
        Err(error) => {
            let hint = if error.kind() == ErrorKind::PermissionDenied { "; try as root" } else { "" };
            Err(Failure::new(format!("cannot connect to {endpoint}: {error}{hint}")))
        }
    }
}

fn stat_of(head: &Head) -> Result<Value, Failure> {
    let bytes = STANDARD.decode(&head.path_stat).during(|| "the daemon's word on a file is unreadable".to_owned())?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Writes a value into a query or a path.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A query string: `?a=1&b=2`, or nothing.
#[derive(Debug, Default)]
pub(crate) struct Query(String);

impl Query {
    /// Adds one parameter.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&encode(value));
        self
    }

    /// Adds one parameter if there is a value for it.
    pub(crate) fn with_some(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds `name=1` if `on`.
    pub(crate) fn flag(self, name: &str, on: bool) -> Self {
        if on { self.with(name, "1") } else { self }
    }

    /// The query behind a path.
    pub(crate) fn behind(&self, path: &str) -> String {
        format!("{path}{}", self.0)
    }
}

/// The filters of a list as the API wants them: `{"name": ["a", "b"]}`.
pub(crate) fn filters<'a>(given: impl Iterator<Item = &'a str>) -> Result<Option<String>, Failure> {
    let mut map = serde_json::Map::new();
    for filter in given {
        let Some((name, value)) = filter.split_once('=') else {
            return Err(Failure::new(format!("bad filter {filter:?}; give it as name=value")));
        };
        let name = name.trim().to_lowercase();
        let list = map.entry(name).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(Value::String(value.trim().to_owned()));
        }
    }
    if map.is_empty() { Ok(None) } else { Ok(Some(serde_json::to_string(&map)?)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        let query = Query::default().with("name", "a b&c/d").flag("rm", true).flag("v", false).with_some("t", None);
        assert_eq!(query.behind("/x"), "/x?name=a%20b%26c%2Fd&rm=1");
        assert_eq!(Query::default().behind("/x"), "/x");
    }

    #[test]
    fn filters_gather_by_name() {
        let given = ["status=running", "Status=exited", "label=a=b"];
        let text = filters(given.into_iter()).unwrap().unwrap();
        assert_eq!(text, r#"{"label":["a=b"],"status":["running","exited"]}"#);
        assert!(filters(["nonsense"].into_iter()).is_err());
        assert_eq!(filters(std::iter::empty()).unwrap(), None);
    }
}
