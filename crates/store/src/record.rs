//! Records of the log, in bytes. `docs/formats/store-log.md` is the description that this follows.

use crate::{Entry, LeaseId, MAX_KEY, MAX_VALUE, Revision};

/// The bytes before a record's payload: length and checksum.
pub(crate) const RECORD_HEADER: usize = 8;
/// The longest payload that is accepted: one value of the greatest length and room for its neighbours.
pub(crate) const MAX_PAYLOAD: usize = MAX_VALUE + (4 << 20);
/// The shortest payload: revision and operation count.
pub(crate) const MIN_PAYLOAD: usize = 12;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const GRANT: u8 = 3;
const REVOKE: u8 = 4;
const ENTRY: u8 = 5;
const LEASES: u8 = 6;

/// One operation of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// A key gets a value.
    Put { key: String, lease: Option<LeaseId>, value: Vec<u8> },
    /// A key goes.
    Delete { key: String },
    /// A lease begins.
    Grant { id: LeaseId, ttl_ms: u64 },
    /// A lease ends.
    Revoke { id: LeaseId },
    /// A key as it stood when the log was rewritten.
    Entry(Entry),
    /// The number of the last lease that was ever granted.
    Leases { last: u64 },
}

/// One record: a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) revision: Revision,
    pub(crate) ops: Vec<Op>,
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

fn length_u32(bytes: &[u8]) -> u32 {
    // lengths were checked against MAX_KEY and MAX_VALUE when the transaction was made
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length_u32(bytes).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

impl Op {
    /// The key that it touches.
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => Some(key),
            Self::Entry(entry) => Some(&entry.key),
            Self::Grant { .. } | Self::Revoke { .. } | Self::Leases { .. } => None,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Put { key, lease, value } => {
                out.push(PUT);
                put_bytes(out, key.as_bytes());
                put_u64(out, lease.map_or(0, |id| id.0));
                put_bytes(out, value);
            }
            Self::Delete { key } => {
                out.push(DELETE);
                put_bytes(out, key.as_bytes());
            }
            Self::Grant { id, ttl_ms } => {
                out.push(GRANT);
                put_u64(out, id.0);
                put_u64(out, *ttl_ms);
            }
            Self::Revoke { id } => {
                out.push(REVOKE);
                put_u64(out, id.0);
            }
            Self::Entry(entry) => encode_entry(entry, out),
            Self::Leases { last } => {
                out.push(LEASES);
                put_u64(out, *last);
            }
        }
    }

    fn decode(from: &mut Cursor<'_>) -> Result<Self, Malformed> {
        match from.u8()? {
            PUT => Ok(Self::Put { key: from.key()?, lease: from.lease()?, value: from.value()? }),
            DELETE => Ok(Self::Delete { key: from.key()? }),
            GRANT => Ok(Self::Grant { id: LeaseId(from.u64()?), ttl_ms: from.u64()? }),
            REVOKE => Ok(Self::Revoke { id: LeaseId(from.u64()?) }),
            ENTRY => Ok(Self::Entry(Entry {
                key: from.key()?,
                lease: from.lease()?,
                created: Revision(from.u64()?),
                modified: Revision(from.u64()?),
                version: from.u64()?,
                value: from.value()?,
            })),
            LEASES => Ok(Self::Leases { last: from.u64()? }),
            _ => Err(Malformed("unknown operation")),
        }
    }
}

fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.push(ENTRY);
    put_bytes(out, entry.key.as_bytes());
    put_u64(out, entry.lease.map_or(0, |id| id.0));
    put_u64(out, entry.created.0);
    put_u64(out, entry.modified.0);
    put_u64(out, entry.version);
    put_bytes(out, &entry.value);
}

/// How many bytes an entry takes in a rewritten log.
pub(crate) fn entry_size(entry: &Entry) -> u64 {
    (1 + 4 + entry.key.len() + 8 + 24 + 4 + entry.value.len()) as u64
}

/// Appends a whole record to `out`.
pub(crate) fn encode(revision: Revision, ops: &[Op], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; RECORD_HEADER]);
    put_u64(out, revision.0);
    out.extend_from_slice(&u32::try_from(ops.len()).unwrap_or(u32::MAX).to_le_bytes());
    for op in ops {
        op.encode(out);
    }
    seal(out, start);
}

/// Writes length and checksum of the record whose header begins at `start` and whose payload is all behind that.
pub(crate) fn seal(out: &mut [u8], start: usize) {
    let length = length_u32(&out[start + RECORD_HEADER..]).to_le_bytes();
    let sum = checksum(length, &out[start + RECORD_HEADER..]).to_le_bytes();
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + 8].copy_from_slice(&sum);
}

/// CRC32C over a record's length field and payload.
fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), payload)
}

/// Reads the record at the beginning of `bytes`: the record and how many bytes it takes.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Record, usize), Malformed> {
    let (payload, size) = verify(bytes)?;
    let mut from = Cursor(payload);
    let revision = Revision(from.u64()?);
    let count = from.u32()?;
    // the count is the file's word: memory grows with the operations that are really there
    let mut ops = Vec::with_capacity((count as usize).min(64));
    for _ in 0..count {
        ops.push(Op::decode(&mut from)?);
    }
    if !from.0.is_empty() {
        return Err(Malformed("bytes after the last operation"));
    }
    Ok((Record { revision, ops }, size))
}

/// Checks length and checksum of the record at the beginning of `bytes`: its payload and the record's size in bytes.
pub(crate) fn verify(bytes: &[u8]) -> Result<(&[u8], usize), Malformed> {
    let Some((head, rest)) = bytes.split_first_chunk::<RECORD_HEADER>() else {
        return Err(Malformed("the record's header is cut off"));
    };
    let [a, b, c, d, sum @ ..] = *head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if !(MIN_PAYLOAD..=MAX_PAYLOAD).contains(&length) {
        return Err(Malformed("the record's length is out of bounds"));
    }
    let Some(payload) = rest.get(..length) else { return Err(Malformed("the record is cut off")) };
    if checksum([a, b, c, d], payload) != u32::from_le_bytes(sum) {
        return Err(Malformed("the record's checksum does not match"));
    }
    Ok((payload, RECORD_HEADER + length))
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed("an operation is cut off"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("an operation is cut off"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn lease(&mut self) -> Result<Option<LeaseId>, Malformed> {
        Ok(Some(self.u64()?).filter(|id| *id != 0).map(LeaseId))
    }

    fn key(&mut self) -> Result<String, Malformed> {
        let length = self.u32()? as usize;
        if !(1..=MAX_KEY).contains(&length) {
            return Err(Malformed("a key's length is out of bounds"));
        }
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| Malformed("a key is not UTF-8"))
    }

    fn value(&mut self) -> Result<Vec<u8>, Malformed> {
        let length = self.u32()? as usize;
        if length > MAX_VALUE {
            return Err(Malformed("a value's length is out of bounds"));
        }
        Ok(self.take(length)?.to_vec())
    }
}
