//! Writing messages.

/// The answer is an acknowledgement.
pub const NLM_F_ACK: u16 = 0x4;
/// Every object is wanted, not one.
pub const NLM_F_DUMP: u16 = 0x300;
/// An object that is there is replaced.
pub const NLM_F_REPLACE: u16 = 0x100;
/// An object that is there is an error.
pub const NLM_F_EXCL: u16 = 0x200;
/// An object that is not there is made.
pub const NLM_F_CREATE: u16 = 0x400;

const NLM_F_REQUEST: u16 = 0x1;
const NLA_F_NESTED: u16 = 0x8000;
/// `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;

/// Messages for one `sendmsg`, numbered from 1.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// What each message is, for whoever reads an error.
    names: Vec<&'static str>,
}

impl Batch {
    /// One without messages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a message of `kind` with its fixed header; `name` says what it does. It ends when it is dropped.
    pub fn message(&mut self, name: &'static str, kind: u16, flags: u16, fixed: &[u8]) -> Message<'_> {
        self.names.push(name);
        let start = self.bytes.len();
        let sequence = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(fixed);
        pad(&mut self.bytes);
        Message { bytes: &mut self.bytes, start }
    }

    /// What is sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether there is no message in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// How many messages are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// What message number `sequence` does.
    #[must_use]
    pub fn name(&self, sequence: u32) -> &'static str {
        let index = usize::try_from(sequence).unwrap_or(0).wrapping_sub(1);
        self.names.get(index).copied().unwrap_or("netlink")
    }
}

/// A message that is being written.
#[derive(Debug)]
pub struct Message<'batch> {
    bytes: &'batch mut Vec<u8>,
    start: usize,
}

impl Message<'_> {
    /// Adds an attribute. A value longer than an attribute can be is a mistake of ours, and cut.
    pub fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        debug_assert_ne!(length, u16::MAX, "attribute {kind} is too long");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&value[..usize::from(length) - 4]);
        pad(self.bytes);
        self
    }

    /// Adds an attribute of a byte.
    pub fn put_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.put(kind, &[value])
    }

    /// Adds an attribute of a number of two bytes.
    pub fn put_u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Adds an attribute of a number of four bytes.
    pub fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Adds an attribute of a signed number of four bytes.
    pub fn put_i32(&mut self, kind: u16, value: i32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Numbers of nfnetlink are in network order.
    pub fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Adds a text, with the zero that ends it.
    pub fn put_text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Adds bytes that belong to the message as they are, such as a second fixed header inside an attribute.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        pad(self.bytes);
        self
    }

    /// Adds an attribute whose value is what `write` adds.
    pub fn nest(&mut self, kind: u16, write: impl FnOnce(&mut Message<'_>)) -> &mut Self {
        self.nest_as(kind | NLA_F_NESTED, write)
    }

    /// As [`Self::nest`], for the older kinds that want no mark for nesting.
    pub fn nest_as(&mut self, kind: u16, write: impl FnOnce(&mut Message<'_>)) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        {
            let mut inner = Message { bytes: self.bytes, start: usize::MAX };
            write(&mut inner);
        }
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        debug_assert_ne!(length, u16::MAX, "attribute {kind} is too long");
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        // A nested attribute writes its own length.
        if self.start != usize::MAX {
            let length = u32::try_from(self.bytes.len() - self.start).unwrap_or(u32::MAX);
            self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
