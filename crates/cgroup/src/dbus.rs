//! As much of D-Bus as it takes to ask systemd for a scope: calls, replies and signals on a unix socket.
//!
//! # Source
//! D-Bus Specification, "Type System", "Message Protocol" and "Authentication Protocol".

use std::io::{BufRead as _, BufReader, Error, ErrorKind, Read, Result, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// More than any message that systemd sends us.
const LONGEST_MESSAGE: u32 = 1 << 20;
/// More than any answer to who we are.
const LONGEST_LINE: u64 = 4096;
/// How long the other side may take to say something.
const PATIENCE: Duration = Duration::from_secs(30);

/// A value of a property or an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    #[cfg_attr(not(test), expect(dead_code, reason = "only replies have paths in them, which the fake manager writes"))]
    Path(String),
    Flag(bool),
    Int(i32),
    Long(i64),
    Word(u32),
    Double(u64),
    Bytes(Vec<u8>),
    Words(Vec<u32>),
    Texts(Vec<String>),
    Pairs(Vec<(String, String)>),
    /// Properties: names with values of any type.
    Properties(Vec<(String, Value)>),
    /// An array of structures of a name and properties; we only ever send it empty.
    NoUnits,
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Self::Text(_) => "s",
            Self::Path(_) => "o",
            Self::Flag(_) => "b",
            Self::Int(_) => "i",
            Self::Long(_) => "x",
            Self::Word(_) => "u",
            Self::Double(_) => "t",
            Self::Bytes(_) => "ay",
            Self::Words(_) => "au",
            Self::Texts(_) => "as",
            Self::Pairs(_) => "a(ss)",
            Self::Properties(_) => "a(sv)",
            Self::NoUnits => "a(sa(sv))",
        }
    }
}

/// A message being written; everything is aligned from its start.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn word(&mut self, word: u32) {
        self.align(4);
        self.0.extend_from_slice(&word.to_le_bytes());
    }

    fn double(&mut self, double: u64) {
        self.align(8);
        self.0.extend_from_slice(&double.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.word(length(text.len()));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    /// An array: its length in bytes, the padding of its elements, the elements.
    fn array(&mut self, align: usize, elements: impl FnOnce(&mut Self)) {
        self.word(0);
        let at = self.0.len();
        self.align(align);
        let start = self.0.len();
        elements(self);
        let size = length(self.0.len() - start).to_le_bytes();
        self.0[at - 4..at].copy_from_slice(&size);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Text(text) | Value::Path(text) => self.text(text),
            Value::Flag(flag) => self.word(u32::from(*flag)),
            Value::Int(int) => self.word(int.cast_unsigned()),
            Value::Long(long) => self.double(long.cast_unsigned()),
            Value::Word(word) => self.word(*word),
            Value::Double(double) => self.double(*double),
            Value::Bytes(bytes) => self.array(1, |to| to.0.extend_from_slice(bytes)),
            Value::Words(words) => self.array(4, |to| words.iter().for_each(|word| to.word(*word))),
            Value::Texts(texts) => self.array(4, |to| texts.iter().for_each(|text| to.text(text))),
            Value::Pairs(pairs) => self.array(8, |to| {
                for (first, second) in pairs {
                    to.align(8);
                    to.text(first);
                    to.text(second);
                }
            }),
            Value::Properties(properties) => self.array(8, |to| {
                for (name, value) in properties {
                    to.align(8);
                    to.text(name);
                    to.signature(value.signature());
                    to.value(value);
                }
            }),
            Value::NoUnits => self.array(8, |_| {}),
        }
    }
}

fn length(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

/// A message that came, with its body still in bytes.
#[derive(Debug, Default)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    #[cfg_attr(not(test), expect(dead_code, reason = "only who answers calls wants it, as the fake manager does"))]
    pub(crate) serial: u32,
    pub(crate) reply_to: u32,
    pub(crate) member: String,
    pub(crate) error: String,
    pub(crate) body: Vec<u8>,
}

/// Kinds of messages.
pub(crate) const CALL: u8 = 1;
pub(crate) const REPLY: u8 = 2;
pub(crate) const ERROR: u8 = 3;
pub(crate) const SIGNAL: u8 = 4;

/// Reads plain values from a body, in order.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    pub(crate) fn word(&mut self) -> Option<u32> {
        self.at = self.at.next_multiple_of(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        let size = usize::try_from(self.word()?).ok()?;
        let text = self.take(size)?.to_vec();
        self.take(1)?;
        String::from_utf8(text).ok()
    }

    pub(crate) fn signature(&mut self) -> Option<String> {
        let size = usize::from(*self.take(1)?.first()?);
        let text = self.take(size)?.to_vec();
        self.take(1)?;
        String::from_utf8(text).ok()
    }
}

/// A connection to a bus, or to systemd itself.
#[derive(Debug)]
pub(crate) struct Bus {
    stream: BufReader<UnixStream>,
    serial: u32,
}

/// Who a call is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) destination: &'static str,
    pub(crate) path: &'static str,
    pub(crate) interface: &'static str,
}

impl Bus {
    /// Connects and proves who we are.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut own = Self { stream: BufReader::new(stream), serial: 0 };
        let digits = rustix::process::geteuid().as_raw().to_string();
        let uid: String = digits.bytes().map(|digit| format!("{digit:02x}")).collect();
        // In one piece, before the answer. systemd looks once at what it has read with the last line of this, and then waits for more:
        // a call that came together with it would never be heard.
        own.write(format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n").as_bytes())?;
        let mut line = Vec::new();
        Read::by_ref(&mut own.stream).take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\r\n") {
            return Err(Error::from(ErrorKind::InvalidData));
        }
        if !line.starts_with(b"OK ") {
            return Err(Error::from(ErrorKind::PermissionDenied));
        }
        Ok(own)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends a call and gives its serial number.
    pub(crate) fn send(&mut self, to: Target, member: &str, arguments: &[Value]) -> Result<u32> {
        self.serial += 1;
        let fields = [(1, "o", to.path), (2, "s", to.interface), (3, "s", member), (6, "s", to.destination)];
        let message = encode(CALL, self.serial, &fields, None, arguments);
        self.write(&message)?;
        Ok(self.serial)
    }

    /// The next message of any kind.
    pub(crate) fn receive(&mut self) -> Result<Message> {
        receive(&mut self.stream)
    }
}

/// A whole message.
pub(crate) fn encode(
    kind: u8,
    serial: u32,
    fields: &[(u8, &str, &str)],
    reply_to: Option<u32>,
    arguments: &[Value],
) -> Vec<u8> {
    let mut body = Writer::default();
    arguments.iter().for_each(|argument| body.value(argument));
    let signature: String = arguments.iter().map(Value::signature).collect();
    let mut message = Writer(vec![b'l', kind, 0, 1]);
    message.word(length(body.0.len()));
    message.word(serial);
    message.array(8, |to| {
        for (code, kind, value) in fields {
            to.align(8);
            to.0.push(*code);
            to.signature(kind);
            to.text(value);
        }
        if let Some(reply_to) = reply_to {
            to.align(8);
            to.0.push(5);
            to.signature("u");
            to.word(reply_to);
        }
        if !signature.is_empty() {
            to.align(8);
            to.0.push(8);
            to.signature("g");
            to.signature(&signature);
        }
    });
    message.align(8);
    message.0.extend_from_slice(&body.0);
    message.0
}

/// Reads one message from a stream.
pub(crate) fn receive(stream: &mut impl Read) -> Result<Message> {
    let broken = || Error::from(ErrorKind::InvalidData);
    let mut head = [0_u8; 16];
    stream.read_exact(&mut head)?;
    let mut reader = Reader::new(&head);
    reader.at = 4;
    let (Some(body), Some(serial), Some(fields)) = (reader.word(), reader.word(), reader.word()) else {
        return Err(broken());
    };
    if head[0] != b'l' || body > LONGEST_MESSAGE || fields > LONGEST_MESSAGE {
        return Err(broken());
    }
    let size = |count: u32| usize::try_from(count).map_err(|_| broken());
    let mut rest = vec![0_u8; size(fields)?.next_multiple_of(8) + size(body)?];
    stream.read_exact(&mut rest)?;
    let mut message = Message { kind: head[1], serial, ..Message::default() };
    let mut reader = Reader::new(rest.get(..size(fields)?).ok_or_else(broken)?);
    while reader.at < reader.bytes.len() {
        reader.at = reader.at.next_multiple_of(8);
        let Some(code) = reader.take(1).and_then(|byte| byte.first().copied()) else { break };
        match reader.signature().ok_or_else(broken)?.as_str() {
            "u" => {
                let word = reader.word().ok_or_else(broken)?;
                if code == 5 {
                    message.reply_to = word;
                }
            }
            "g" => drop(reader.signature().ok_or_else(broken)?),
            _ => {
                let text = reader.text().ok_or_else(broken)?;
                match code {
                    3 => message.member = text,
                    4 => message.error = text,
                    _ => {}
                }
            }
        }
    }
    message.body = rest.split_off(size(fields)?.next_multiple_of(8));
    Ok(message)
}
