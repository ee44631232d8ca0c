//! Reading messages; nothing that comes makes it panic.

use super::batch::HEADER;

const NLMSG_ERROR: u16 = 2;
/// The kinds' two upper bits are marks.
const KIND_MASK: u16 = 0x3fff;

/// A message that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received<'bytes> {
    /// What it is, of the protocol's list.
    pub kind: u16,
    /// Its marks.
    pub flags: u16,
    /// The number of the message that it answers.
    pub sequence: u32,
    /// The socket that caused it.
    pub sender: u32,
    /// What follows the header.
    pub body: &'bytes [u8],
}

impl<'bytes> Received<'bytes> {
    /// The errno in an acknowledgement, 0 for success; `None` for anything else.
    #[must_use]
    pub fn acknowledged(&self) -> Option<i32> {
        if self.kind != NLMSG_ERROR {
            return None;
        }
        let code = u32_at(self.body, 0)?.cast_signed();
        (code <= 0).then(|| code.saturating_neg())
    }

    /// The attributes after a fixed header of `fixed` bytes.
    #[must_use]
    pub fn attributes(&self, fixed: usize) -> Attributes<'bytes> {
        Attributes(self.body.get(fixed..).unwrap_or_default())
    }
}

/// The messages of a datagram.
#[derive(Debug, Clone)]
pub struct Messages<'bytes>(
    /// Its bytes.
    pub &'bytes [u8],
);

impl<'bytes> Iterator for Messages<'bytes> {
    type Item = Received<'bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::try_from(u32_at(self.0, 0)?).ok()?;
        let body = self.0.get(HEADER..length)?;
        let message = Received {
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, 6)?,
            sequence: u32_at(self.0, 8)?,
            sender: u32_at(self.0, 12)?,
            body,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// Attributes, one after the other; as an iterator, kind and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes<'bytes>(
    /// Their bytes.
    pub &'bytes [u8],
);

impl<'bytes> Attributes<'bytes> {
    /// The value of the first attribute of `kind`.
    #[must_use]
    pub fn get(self, kind: u16) -> Option<&'bytes [u8]> {
        self.into_iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The attributes inside the first attribute of `kind`; none when it is not there.
    #[must_use]
    pub fn nested(self, kind: u16) -> Attributes<'bytes> {
        Attributes(self.get(kind).unwrap_or_default())
    }

    /// The first byte of the first attribute of `kind`.
    #[must_use]
    pub fn u8(self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    /// The number in the first attribute of `kind`.
    #[must_use]
    pub fn u32(self, kind: u16) -> Option<u32> {
        u32_at(self.get(kind)?, 0)
    }

    /// The text in the first attribute of `kind`, without the zero that ends it.
    #[must_use]
    pub fn text(self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

impl<'bytes> Iterator for Attributes<'bytes> {
    type Item = (u16, &'bytes [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & KIND_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
