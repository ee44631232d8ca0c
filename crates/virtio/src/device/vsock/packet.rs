//! The header of a packet, virtio 1.2, 5.10.6.

use crate::queue::{Reader, Writer};

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 44;
/// The guest will not receive any more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// The guest will not send any more.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// A stream, the only kind of socket here.
pub(super) const STREAM: u16 = 1;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Operation {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
    Unknown = 0,
}

const OPERATIONS: [Operation; 7] = [
    Operation::Request,
    Operation::Response,
    Operation::Reset,
    Operation::Shutdown,
    Operation::Data,
    Operation::CreditUpdate,
    Operation::CreditRequest,
];

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) source_cid: u64,
    pub(super) target_cid: u64,
    pub(super) source_port: u32,
    pub(super) target_port: u32,
    pub(super) length: u32,
    pub(super) kind: u16,
    pub(super) operation: Operation,
    pub(super) flags: u32,
    /// Bytes that the sender holds for the stream.
    pub(super) buffer: u32,
    /// Bytes of the stream that the sender has passed on, modulo 2^32.
    pub(super) forwarded: u32,
}

impl Packet {
    /// Reads a header, none if it is too short.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let source_cid = u64::from_le_bytes(reader.array()?);
        let target_cid = u64::from_le_bytes(reader.array()?);
        let source_port = u32::from_le_bytes(reader.array()?);
        let target_port = u32::from_le_bytes(reader.array()?);
        let length = u32::from_le_bytes(reader.array()?);
        let kind = u16::from_le_bytes(reader.array()?);
        let number = usize::from(u16::from_le_bytes(reader.array()?));
        let operation = number.checked_sub(1).and_then(|place| OPERATIONS.get(place));
        Some(Self {
            source_cid,
            target_cid,
            source_port,
            target_port,
            length,
            kind,
            operation: operation.copied().unwrap_or(Operation::Unknown),
            flags: u32::from_le_bytes(reader.array()?),
            buffer: u32::from_le_bytes(reader.array()?),
            forwarded: u32::from_le_bytes(reader.array()?),
        })
    }

    pub(super) fn bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.source_cid.to_le_bytes());
        put(&self.target_cid.to_le_bytes());
        put(&self.source_port.to_le_bytes());
        put(&self.target_port.to_le_bytes());
        put(&self.length.to_le_bytes());
        put(&self.kind.to_le_bytes());
        put(&(self.operation as u16).to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.buffer.to_le_bytes());
        put(&self.forwarded.to_le_bytes());
        bytes
    }

    /// Writes the header; the caller has seen that there is room.
    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        writer.write(&self.bytes());
    }
}
