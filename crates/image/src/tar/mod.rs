//! A strict, streaming tar reader for archives from strangers, and a writer for trees of our own.
//!
//! Read are ustar, pax and GNU archives: long names, 64-bit numbers, nanosecond times, extended attributes and all four
//! sparse formats. Names come out clean and relative; what could reach outside of the archive's own tree is an error that
//! names the entry and its place. Nothing here touches a file system.
//!
//! # Source
//! POSIX.1-2017, `pax` ("ustar Interchange Format", "pax Extended Header"); GNU tar manual, "Basic Tar Format" and "Storing
//! Sparse Files"; star's `SCHILY.xattr.` keywords.

mod header;
mod pax;
mod reader;
mod sparse;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{Contents, Entry, Kind, Reader};
pub use writer::Writer;

use crate::path::PathError;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The source of the archive failed.
    #[error("cannot read the archive at byte {at}")]
    Read {
        /// How far reading came.
        at: u64,
        /// What the source said.
        #[source]
        source: std::io::Error,
    },
    /// Nothing is there.
    #[error("the archive is empty: not even an end mark is there")]
    Empty,
    /// The archive stops early.
    #[error("the archive is cut off at byte {at}, {place}; get a complete copy of it")]
    Truncated {
        /// How long the archive is.
        at: u64,
        /// In the middle of what.
        place: String,
    },
    /// What should be a header is none.
    #[error("no tar header at byte {at} ({place}): the checksum is wrong; the archive is damaged or is no tar archive")]
    Checksum {
        /// Where the header begins.
        at: u64,
        /// Behind which entry.
        place: String,
    },
    /// A field of a header makes no sense.
    #[error("entry \"{path}\" (header at byte {at}) has a bad {field}")]
    Field {
        /// The entry.
        path: String,
        /// Where its header begins.
        at: u64,
        /// Which field.
        field: &'static str,
    },
    /// A name that cannot be used.
    #[error("entry \"{path}\" (header at byte {at}) has a name that is refused")]
    Name {
        /// The name.
        path: String,
        /// Where its header begins.
        at: u64,
        /// Why.
        #[source]
        source: PathError,
    },
    /// A hard link to something that cannot be in the archive.
    #[error("hard link \"{path}\" points at \"{target}\", which is refused")]
    Link {
        /// The link.
        path: String,
        /// Its target.
        target: String,
        /// Why.
        #[source]
        source: PathError,
    },
    /// A kind of entry that has no meaning in a file system tree.
    #[error("entry \"{path}\" has the unknown type {kind:?}")]
    Kind {
        /// The entry.
        path: String,
        /// The type byte as a character.
        kind: char,
    },
    /// A limit was hit.
    #[error(
        "{what} at entry \"{path}\": more than the limit of {limit}; if the archive is to be trusted, raise the limit"
    )]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// Where it was noticed.
        path: String,
        /// How much is allowed.
        limit: u64,
    },
}
