//! Questions and answers of the domain name system, as far as names of containers need them.
//!
//! ```text
//! message  = id u16, flags u16, four counts u16, questions, answers, authorities, additions
//! question = name, type u16, class u16
//! record   = name, type u16, class u16, time to live u32, length u16, data
//! name     = labels, each a length and its bytes, and a zero; or a pointer to one that was written before
//! ```
//! Messages that are passed on are passed on as they came.
//!
//! # Source
//! RFC 1035, sections 4.1 and 3.2; RFC 3596 (AAAA); RFC 6891 (EDNS).

use std::net::IpAddr;

const HEADER: usize = 12;
const NAME_MAX: usize = 255;
/// What every client of UDP takes.
const UDP_MIN: u16 = 512;
/// What we offer ourselves: it passes every link without being cut.
const UDP_OFFER: u16 = 1232;
const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
const TYPE_ANY: u16 = 255;
const CLASS_IN: u16 = 1;
const FLAG_RESPONSE: u16 = 0x8000;
const FLAG_AUTHORITATIVE: u16 = 0x0400;
const FLAG_TRUNCATED: u16 = 0x0200;
const FLAG_RECURSION_DESIRED: u16 = 0x0100;
const FLAG_RECURSION_AVAILABLE: u16 = 0x0080;
const OPCODE: u16 = 0x7800;

/// What a question wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// The name of an address.
    Ptr,
    /// Whatever there is.
    Any,
    /// Something else.
    Other(u16),
}

/// A question with what the answer has to repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The client's number.
    pub id: u16,
    /// The name in lower case, without the last dot.
    pub name: String,
    /// What is wanted.
    pub kind: Kind,
    /// Whether it is about the internet, as all are.
    pub internet: bool,
    /// The longest answer over UDP, in bytes.
    pub udp_size: u16,
    /// Whether the client knows extensions.
    pub extended: bool,
    recursion_desired: bool,
    /// The question's bytes.
    question: Vec<u8>,
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// With records, or without any of the kind.
    Good = 0,
    /// The question was malformed.
    Format = 1,
    /// No server gave an answer.
    Failure = 2,
    /// There is no such name.
    NoName = 3,
    /// It was no question.
    NotImplemented = 4,
}

/// A record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An address of the name.
    Address(IpAddr),
    /// The name of the address.
    Name(String),
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads a name without pointers; gives it and what follows. Bytes that can't be in a container's name become `?`.
fn read_name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let start = at;
    let mut name = String::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return (at - start <= NAME_MAX).then_some((name, at));
        }
        if length > 63 || at - start + length > NAME_MAX {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        let label = bytes.get(at..at + length)?;
        name.extend(label.iter().map(|byte| match byte {
            b'.' => '?',
            byte if byte.is_ascii_graphic() => char::from(byte.to_ascii_lowercase()),
            _ => '?',
        }));
        at += length;
    }
}

impl Query {
    /// Reads a message that asks one question.
    ///
    /// # Errors
    /// The code to answer with, where an answer makes sense: nothing for what is too short or itself an answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, Option<Code>> {
        let header = |at| u16_at(bytes, at).ok_or(None);
        let (id, flags) = (header(0)?, header(2)?);
        let [questions, answers, authorities, additions] = [header(4)?, header(6)?, header(8)?, header(10)?];
        if flags & FLAG_RESPONSE != 0 {
            return Err(None);
        }
        if flags & OPCODE != 0 {
            return Err(Some(Code::NotImplemented));
        }
        let read = || {
            let (name, at) = read_name(bytes, HEADER)?;
            let kind = match u16_at(bytes, at)? {
                TYPE_A => Kind::A,
                TYPE_AAAA => Kind::Aaaa,
                TYPE_PTR => Kind::Ptr,
                TYPE_ANY => Kind::Any,
                other => Kind::Other(other),
            };
            let class = u16_at(bytes, at + 2)?;
            let end = at + 4;
            let question = bytes.get(HEADER..end)?.to_vec();
            // An OPT record has the root's name and stands first, where a client asks.
            let opt = answers == 0
                && authorities == 0
                && additions > 0
                && bytes.get(end) == Some(&0)
                && u16_at(bytes, end + 1) == Some(TYPE_OPT);
            let udp_size = if opt { u16_at(bytes, end + 3)?.max(UDP_MIN) } else { UDP_MIN };
            let recursion_desired = flags & FLAG_RECURSION_DESIRED != 0;
            let internet = class == CLASS_IN || class == 255;
            Some(Self { id, name, kind, internet, udp_size, extended: opt, recursion_desired, question })
        };
        if questions != 1 {
            return Err(Some(Code::Format));
        }
        read().ok_or(Some(Code::Format))
    }

    /// The address that a question for a name asks about (`2.0.17.172.in-addr.arpa`).
    ///
    /// # Source
    /// RFC 1035, section 3.5; RFC 3596, section 2.5.
    #[must_use]
    pub fn reversed(&self) -> Option<IpAddr> {
        if let Some(digits) = self.name.strip_suffix(".in-addr.arpa") {
            let mut parts = digits.split('.').map(|part| part.parse::<u8>().ok());
            let mut bytes = [0; 4];
            for byte in bytes.iter_mut().rev() {
                *byte = parts.next()??;
            }
            return parts.next().is_none().then_some(IpAddr::from(bytes));
        }
        let digits = self.name.strip_suffix(".ip6.arpa")?;
        let mut parts = digits.split('.').map(|part| {
            let digit = u8::from_str_radix(part, 16).ok()?;
            (part.len() == 1).then_some(digit)
        });
        let mut bytes = [0_u8; 16];
        for byte in bytes.iter_mut().rev() {
            let low = parts.next()??;
            *byte = parts.next()?? << 4 | low;
        }
        parts.next().is_none().then_some(IpAddr::from(bytes))
    }

    /// Whether `bytes` is an answer to this question.
    #[must_use]
    pub fn is_answered_by(&self, bytes: &[u8]) -> bool {
        let same_question = |range: &[u8]| range.eq_ignore_ascii_case(&self.question);
        u16_at(bytes, 0) == Some(self.id)
            && u16_at(bytes, 2).is_some_and(|flags| flags & FLAG_RESPONSE != 0)
            && match u16_at(bytes, 4) {
                Some(1) => bytes.get(HEADER..HEADER + self.question.len()).is_some_and(same_question),
                // Some servers leave the question out of their errors.
                Some(0) => bytes.get(3).is_some_and(|flags| flags & 0x0f != 0),
                _ => false,
            }
    }

    /// The answer, cut to what the client takes when it came over UDP.
    #[must_use]
    pub fn reply(&self, code: Code, records: &[Record], transport: Transport, ttl: u32) -> Vec<u8> {
        let limit = match transport {
            Transport::Udp => usize::from(self.udp_size.min(4096)),
            Transport::Tcp => usize::from(u16::MAX),
        };
        let mut bytes = self.head(code);
        bytes.extend_from_slice(&self.question);
        let room = limit - if self.extended { 11 } else { 0 };
        let mut count = 0_u16;
        for record in records {
            let mut one = vec![0xc0, 12];
            let (kind, data) = match record {
                Record::Address(IpAddr::V4(address)) => (TYPE_A, address.octets().to_vec()),
                Record::Address(IpAddr::V6(address)) => (TYPE_AAAA, address.octets().to_vec()),
                Record::Name(name) => (TYPE_PTR, write_name(name)),
            };
            one.extend_from_slice(&kind.to_be_bytes());
            one.extend_from_slice(&CLASS_IN.to_be_bytes());
            one.extend_from_slice(&ttl.to_be_bytes());
            one.extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
            one.extend_from_slice(&data);
            if bytes.len() + one.len() > room {
                let flags = u16_at(&bytes, 2).unwrap_or(0) | FLAG_TRUNCATED;
                bytes[2..4].copy_from_slice(&flags.to_be_bytes());
                break;
            }
            bytes.extend_from_slice(&one);
            count += 1;
        }
        bytes[6..8].copy_from_slice(&count.to_be_bytes());
        if self.extended {
            bytes[10..12].copy_from_slice(&1_u16.to_be_bytes());
            bytes.push(0);
            bytes.extend_from_slice(&TYPE_OPT.to_be_bytes());
            bytes.extend_from_slice(&UDP_OFFER.to_be_bytes());
            bytes.extend_from_slice(&[0; 6]);
        }
        bytes
    }

    fn head(&self, code: Code) -> Vec<u8> {
        let mut flags = FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | code as u16;
        if self.recursion_desired {
            flags |= FLAG_RECURSION_DESIRED;
        }
        if matches!(code, Code::Good | Code::NoName) {
            flags |= FLAG_AUTHORITATIVE;
        }
        let mut bytes = self.id.to_be_bytes().to_vec();
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        bytes
    }
}

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram: an answer may be too long.
    Udp,
    /// In a stream, each message after its length.
    Tcp,
}

/// The answer to what could not be understood: its number and the code.
#[must_use]
pub(crate) fn refusal(bytes: &[u8], code: Code) -> Option<Vec<u8>> {
    let mut answer = bytes.get(..2)?.to_vec();
    answer.extend_from_slice(&(FLAG_RESPONSE | code as u16).to_be_bytes());
    answer.extend_from_slice(&[0; 8]);
    Some(answer)
}

/// The code of an answer; a number that is none of ours counts as a failure.
#[must_use]
pub(crate) fn is_failure(answer: &[u8]) -> bool {
    // No such name is an answer; the server's failure or refusal asks for another server.
    answer.get(3).is_none_or(|flags| ![0, 3].contains(&(flags & 0x0f)))
}

fn write_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        if bytes.len() + label.len() + 2 > NAME_MAX {
            break;
        }
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    bytes
}
