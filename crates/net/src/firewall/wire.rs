//! The messages of nftables that are needed here.
//!
//! # Source
//! Linux `include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h`.

use sys::netlink::{Batch, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
pub(super) const NFPROTO_INET: u8 = 1;

const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
pub(super) const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;

const LIST_ELEMENT: u16 = 1;
const DATA_VALUE: u16 = 1;

/// Elements go into one message up to about this many bytes: an attribute has 16 bits for its length.
const CHUNK: usize = 60_000;

/// A register of 4 bytes; those of 16 bytes lie over four of them.
pub(super) const R0: u32 = 8;
/// The first register of 16 bytes.
pub(super) const WIDE0: u32 = 1;

/// `struct nfgenmsg`.
fn header(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

/// The kind of a message of nftables.
pub(super) const fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

/// A transaction on one table.
pub(super) struct Transaction<'table> {
    batch: Batch,
    table: &'table str,
}

impl<'table> Transaction<'table> {
    pub(super) fn new(table: &'table str) -> Self {
        let mut batch = Batch::new();
        batch.message("begin", BATCH_BEGIN, 0, &[0, 0, 0, 10]);
        Self { batch, table }
    }

    /// The messages, and the number of the one that is acknowledged when all is done.
    pub(super) fn finish(mut self) -> (Batch, u32) {
        // An acknowledgement is given to a message that changes something, in every version of the kernel.
        let last = u32::try_from(self.batch.len() + 1).unwrap_or(u32::MAX);
        self.table("commit", NEWTABLE, NLM_F_ACK | NLM_F_CREATE, self.table);
        self.batch.message("end", BATCH_END, 0, &[0, 0, 0, 10]);
        (self.batch, last)
    }

    /// As [`Self::finish`], for a transaction after which there is no table.
    pub(super) fn finish_without(mut self) -> (Batch, u32) {
        self.add_table();
        let last = u32::try_from(self.batch.len() + 1).unwrap_or(u32::MAX);
        self.table("delete table", DELTABLE, NLM_F_ACK, self.table);
        self.batch.message("end", BATCH_END, 0, &[0, 0, 0, 10]);
        (self.batch, last)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.len() == 1
    }

    pub(super) fn add_table(&mut self) {
        self.table("add table", NEWTABLE, NLM_F_CREATE, self.table);
    }

    /// As [`Self::add_table`], with a comment, which a table that is there does not get.
    pub(super) fn add_commented_table(&mut self, comment: &str) {
        self.table("add table", NEWTABLE, NLM_F_CREATE, self.table).put(6, &note(comment));
    }

    /// Sees that there is no table of another name.
    pub(super) fn drop_other(&mut self, name: &str) {
        self.table("add table", NEWTABLE, NLM_F_CREATE, name);
        self.table("delete table", DELTABLE, 0, name);
    }

    /// As [`Self::add_table`]; one that is there is an error.
    pub(super) fn add_new_table(&mut self) {
        self.table("add table", NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, self.table);
    }

    pub(super) fn delete_table(&mut self) {
        self.table("delete table", DELTABLE, 0, self.table);
    }

    /// What concerns a table as a whole.
    fn table(&mut self, what: &'static str, message: u16, flags: u16, name: &str) -> Message<'_> {
        let mut message = self.batch.message(what, kind(message), flags, &header(NFPROTO_INET));
        message.put_text(1, name);
        message
    }

    /// A chain at a hook, which accepts what no rule drops.
    pub(super) fn add_chain(&mut self, chain: &Chain) {
        const ACCEPT: u32 = 1;
        self.batch
            .message("add chain", kind(NEWCHAIN), NLM_F_CREATE, &header(NFPROTO_INET))
            .put_text(1, self.table)
            .put_text(3, chain.name)
            .nest(4, |hook| {
                hook.put_be32(1, chain.hook).put_be32(2, chain.priority.cast_unsigned());
            })
            .put_be32(5, ACCEPT)
            .put_text(7, chain.kind);
    }

    /// A rule at the end of a chain.
    pub(super) fn add_rule(&mut self, chain: &str, comment: &str, expressions: &[Expression]) {
        const NLM_F_APPEND: u16 = 0x800;
        self.batch
            .message("add rule", kind(NEWRULE), NLM_F_CREATE | NLM_F_APPEND, &header(NFPROTO_INET))
            .put_text(1, self.table)
            .put_text(2, chain)
            .nest(4, |list| expressions.iter().for_each(|expression| expression.write(list)))
            .put(7, &note(comment));
    }

    pub(super) fn add_set(&mut self, set: &Set, id: u32) {
        const INTERVAL: u32 = 4;
        const MAP: u32 = 8;
        const CONCAT: u32 = 0x80;
        let mut flags = 0;
        if set.ranges {
            flags |= INTERVAL | CONCAT;
        }
        if !set.data.is_empty() {
            flags |= MAP;
        }
        let mut message = self.batch.message("add set", kind(NEWSET), NLM_F_CREATE, &header(NFPROTO_INET));
        message
            .put_text(1, self.table)
            .put_text(2, set.name)
            .put_be32(3, flags)
            .put_be32(4, type_of(set.key))
            .put_be32(5, length_of(set.key));
        if !set.data.is_empty() {
            message.put_be32(6, type_of(set.data)).put_be32(7, length_of(set.data));
        }
        message.put_be32(10, id);
        if set.ranges {
            message.nest(9, |description| {
                description.nest(2, |fields| {
                    for field in set.key {
                        fields.nest(LIST_ELEMENT, |part| {
                            part.put_be32(1, field.length());
                        });
                    }
                });
            });
        }
        // For whoever lists the set: the order of the bytes in key and data.
        let order = |fields: &[Field]| if fields == [Field::Name] { 1_u32 } else { 2 };
        let mut note = vec![0, 4];
        note.extend_from_slice(&order(set.key).to_ne_bytes());
        if !set.data.is_empty() {
            note.extend_from_slice(&[1, 4]);
            note.extend_from_slice(&order(set.data).to_ne_bytes());
        }
        message.put(13, &note);
    }

    pub(super) fn add_elements<'a>(&mut self, set: &str, elements: impl Iterator<Item = &'a Element>) {
        self.elements("add elements", NEWSETELEM, NLM_F_CREATE, set, elements);
    }

    pub(super) fn delete_elements<'a>(&mut self, set: &str, elements: impl Iterator<Item = &'a Element>) {
        self.elements("delete elements", DELSETELEM, 0, set, elements);
    }

    fn elements<'a>(
        &mut self,
        name: &'static str,
        message: u16,
        flags: u16,
        set: &str,
        elements: impl Iterator<Item = &'a Element>,
    ) {
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            let mut room = CHUNK;
            self.batch
                .message(name, kind(message), flags, &header(NFPROTO_INET))
                .put_text(1, self.table)
                .put_text(2, set)
                .nest(3, |list| {
                    while room > 0 {
                        let Some(element) = elements.next() else { break };
                        room = room.saturating_sub(2 * element.key.len() + element.data.len() + 48);
                        list.nest(LIST_ELEMENT, |item| element.write(item));
                    }
                });
        }
    }
}

/// A comment as the program `nft` writes and shows it: kind 0, length, text, zero.
fn note(comment: &str) -> Vec<u8> {
    let mut note = vec![0, u8::try_from(comment.len() + 1).unwrap_or(0)];
    note.extend_from_slice(comment.as_bytes());
    note.push(0);
    note
}

/// The comment that somebody wrote as [`note`] does.
pub(super) fn read_comment(note: &[u8]) -> Option<String> {
    let [0, length, text @ ..] = note else { return None };
    let text = text.get(..usize::from(*length).checked_sub(1)?)?;
    std::str::from_utf8(text).ok().map(str::to_owned)
}

/// Asks for one table, or for all of this family.
pub(super) fn get_tables(name: Option<&str>) -> Batch {
    let mut batch = Batch::new();
    let flags = if name.is_some() { 0 } else { NLM_F_DUMP };
    let mut message = batch.message("get table", kind(GETTABLE), flags, &header(NFPROTO_INET));
    if let Some(name) = name {
        message.put_text(1, name);
    }
    drop(message);
    batch
}

/// Asks for the elements of a set.
pub(super) fn get_elements(table: &str, set: &str) -> Batch {
    let mut batch = Batch::new();
    batch
        .message("get elements", kind(GETSETELEM), NLM_F_DUMP, &header(NFPROTO_INET))
        .put_text(1, table)
        .put_text(2, set);
    batch
}

/// Asks for the rules of a table.
pub(super) fn get_rules(table: &str) -> Batch {
    let mut batch = Batch::new();
    batch.message("get rules", kind(GETRULE), NLM_F_DUMP, &header(NFPROTO_INET)).put_text(1, table);
    batch
}

/// Asks for every chain of every table.
pub(super) fn get_chains() -> Batch {
    let mut batch = Batch::new();
    batch.message("get chains", kind(GETCHAIN), NLM_F_DUMP, &header(0));
    batch
}

/// A chain at a hook.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) hook: u32,
    pub(super) priority: i32,
}

/// What a part of a key or of data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    V4,
    V6,
    Protocol,
    Port,
    Name,
}

impl Field {
    /// Its number in the program `nft`, which shows sets by it.
    fn id(self) -> u32 {
        match self {
            Self::V4 => 7,
            Self::V6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Name => 41,
        }
    }

    /// In bytes.
    fn length(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 | Self::Name => 16,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }
}

fn type_of(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |all, field| all << 6 | field.id())
}

/// Parts are padded to registers where there is more than one.
fn length_of(fields: &[Field]) -> u32 {
    match fields {
        [one] => one.length(),
        many => many.iter().map(|field| field.length().next_multiple_of(4)).sum(),
    }
}

/// A set, or a map when it has data.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) key: &'static [Field],
    pub(super) data: &'static [Field],
    /// Whether each part of a key is a range.
    pub(super) ranges: bool,
}

/// An element of a set: the bytes as registers hold them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    /// The end of the range, in a set of ranges.
    pub(super) end: Vec<u8>,
    pub(super) data: Vec<u8>,
}

impl Element {
    fn write(&self, item: &mut Message<'_>) {
        item.nest(1, |key| {
            key.put(DATA_VALUE, &self.key);
        });
        if !self.end.is_empty() {
            item.nest(10, |key| {
                key.put(DATA_VALUE, &self.end);
            });
        }
        if !self.data.is_empty() {
            item.nest(2, |data| {
                data.put(DATA_VALUE, &self.data);
            });
        }
    }
}

/// What a meta expression reads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meta {
    InName = 6,
    OutName = 7,
    Family = 15,
    Protocol = 16,
}

/// Whether something has to fit or must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Is,
    Not,
}

/// From where a payload expression reads.
#[derive(Debug, Clone, Copy)]
pub(super) enum Base {
    Network = 1,
    Transport = 2,
}

/// A step of a rule.
#[derive(Debug, Clone)]
pub(super) enum Expression {
    Meta(Meta, u32),
    Payload(Base, u32, u32, u32),
    /// Writes a register into the payload; the last number is where the checksum is.
    SetPayload(u32, Base, u32, u32, u32),
    Compare(u32, Fit, Vec<u8>),
    Mask(u32, Vec<u8>),
    /// Reads the state of the tracked connection.
    ConnectionState(u32),
    /// Reads the status of the tracked connection.
    ConnectionStatus(u32),
    Lookup(&'static str, u32, Fit),
    Map(&'static str, u32, u32),
    /// Reads what kind of address the destination is.
    DestinationKind(u32),
    /// Loads bytes.
    Load(u32, Vec<u8>),
    /// Sends the connection to the address and port in registers.
    Redirect(u8, u32, u32),
    /// Gives the connection the source address in a register.
    Leave(u8, u32),
    Masquerade,
    Accept,
    Drop,
}

impl Expression {
    fn write(&self, list: &mut Message<'_>) {
        list.nest(LIST_ELEMENT, |item| {
            item.put_text(1, self.name()).nest(2, |data| self.write_data(data));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Meta(..) => "meta",
            Self::Payload(..) | Self::SetPayload(..) => "payload",
            Self::Compare(..) => "cmp",
            Self::Mask(..) => "bitwise",
            Self::ConnectionState(_) | Self::ConnectionStatus(_) => "ct",
            Self::Lookup(..) | Self::Map(..) => "lookup",
            Self::DestinationKind(_) => "fib",
            Self::Redirect(..) | Self::Leave(..) => "nat",
            Self::Masquerade => "masq",
            Self::Load(..) | Self::Accept | Self::Drop => "immediate",
        }
    }

    fn write_data(&self, data: &mut Message<'_>) {
        let verdict = |data: &mut Message<'_>, code: u32| {
            data.put_be32(1, 0).nest(2, |value| {
                value.nest(2, |verdict| {
                    verdict.put_be32(1, code);
                });
            });
        };
        let bytes = |data: &mut Message<'_>, kind: u16, value: &[u8]| {
            data.nest(kind, |inner| {
                inner.put(DATA_VALUE, value);
            });
        };
        match self {
            Self::Meta(key, to) => drop(data.put_be32(2, *key as u32).put_be32(1, *to)),
            Self::Payload(base, offset, length, to) => {
                data.put_be32(1, *to).put_be32(2, *base as u32).put_be32(3, *offset).put_be32(4, *length);
            }
            Self::SetPayload(from, base, offset, length, checksum) => {
                data.put_be32(5, *from).put_be32(2, *base as u32).put_be32(3, *offset).put_be32(4, *length);
                data.put_be32(6, 1).put_be32(7, *checksum);
            }
            Self::Compare(from, fit, value) => {
                data.put_be32(1, *from).put_be32(2, u32::from(*fit == Fit::Not));
                bytes(data, 3, value);
            }
            Self::Mask(register, mask) => {
                let length = u32::try_from(mask.len()).unwrap_or(0);
                data.put_be32(1, *register).put_be32(2, *register).put_be32(3, length);
                bytes(data, 4, mask);
                bytes(data, 5, &vec![0; mask.len()]);
            }
            Self::ConnectionState(to) => drop(data.put_be32(1, *to).put_be32(2, 0)),
            Self::ConnectionStatus(to) => drop(data.put_be32(1, *to).put_be32(2, 2)),
            Self::Lookup(set, from, fit) => {
                data.put_text(1, set).put_be32(2, *from).put_be32(5, u32::from(*fit == Fit::Not));
            }
            Self::Map(set, from, to) => drop(data.put_text(1, set).put_be32(2, *from).put_be32(3, *to)),
            Self::DestinationKind(to) => drop(data.put_be32(1, *to).put_be32(2, 3).put_be32(3, 2)),
            Self::Load(to, value) => {
                data.put_be32(1, *to);
                bytes(data, 2, value);
            }
            Self::Redirect(family, address, port) => {
                data.put_be32(1, 1).put_be32(2, u32::from(*family)).put_be32(3, *address).put_be32(5, *port);
            }
            Self::Leave(family, address) => {
                data.put_be32(1, 0).put_be32(2, u32::from(*family)).put_be32(3, *address);
            }
            Self::Masquerade => {}
            Self::Accept => verdict(data, 1),
            Self::Drop => verdict(data, 0),
        }
    }
}
