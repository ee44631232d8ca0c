//! Folders: open and list, with or without the attributes of what is in them.

use std::mem::MaybeUninit;

use rustix::fs::{FileType, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::attributes::entry;
use super::nodes::Handle;
use super::{Answer, Arguments, Call, Outcome, Server};
use crate::queue::Writer;

/// The most bytes of one listing.
const MOST: usize = 256 << 10;
/// Bytes of an entry's attributes in front of its name, where they are asked for.
const ENTRY_BYTES: usize = 128;

/// The kind of an entry as readdir(3) has it.
fn kind(file_type: FileType) -> u32 {
    match file_type {
        FileType::Fifo => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::RegularFile => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
        FileType::Unknown => 0,
    }
}

/// What a listing has of each entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    Name,
    Attributes,
}

impl Server {
    pub(super) fn open_folder(&mut self, call: Call, _: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let file = self.reopen(call.node, flags)?;
        Ok(Answer::Bytes(self.opened(Handle { file, node: call.node, flags })))
    }

    pub(super) fn list(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, writer: &mut Writer<'_>) -> Outcome {
        self.listing(call.node, arguments, writer, Detail::Name)
    }

    pub(super) fn list_with_attributes(
        &mut self,
        call: Call,
        arguments: &mut Arguments<'_, '_>,
        writer: &mut Writer<'_>,
    ) -> Outcome {
        self.listing(call.node, arguments, writer, Detail::Attributes)
    }

    fn listing(
        &mut self,
        folder: u64,
        arguments: &mut Arguments<'_, '_>,
        writer: &mut Writer<'_>,
        detail: Detail,
    ) -> Outcome {
        let (handle, offset, size) = (arguments.long()?, arguments.long()?, arguments.word()? as usize);
        let size = size.min(MOST).min(writer.remaining().saturating_sub(super::OUT_HEADER));
        let file = self.handles.get(handle)?;
        rustix::fs::seek(file, SeekFrom::Start(offset))?;
        let mut buffer = vec![MaybeUninit::uninit(); size.clamp(1024, MOST)];
        let mut entries = RawDir::new(file, &mut buffer);
        let mut found = Vec::new();
        // One read of the folder is one answer: what does not fit is asked for again, by its offset.
        while let Some(next) = entries.next() {
            let next = next?;
            found.push((
                next.ino(),
                next.next_entry_cookie(),
                kind(next.file_type()),
                next.file_name().to_bytes().to_vec(),
            ));
            if entries.is_buffer_empty() {
                break;
            }
        }
        let mut answer = Vec::new();
        for (inode, next, kind, name) in found {
            let head = if detail == Detail::Attributes { ENTRY_BYTES } else { 0 };
            let length = (head + 24 + name.len()).next_multiple_of(8);
            if answer.len() + length > size {
                break;
            }
            let start = answer.len();
            if detail == Detail::Attributes {
                answer.extend(self.entry_for_listing(folder, &name));
            }
            answer.extend([inode, next].iter().flat_map(|long| long.to_le_bytes()));
            let length_of_name = u32::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
            answer.extend([length_of_name, kind].iter().flat_map(|word| word.to_le_bytes()));
            answer.extend(&name);
            answer.resize(start + length, 0);
        }
        Ok(Answer::Bytes(answer))
    }

    /// An entry's attributes; without a number where the guest has to look by itself: the folder and the one above it, and
    /// what has gone meanwhile.
    fn entry_for_listing(&mut self, folder: u64, name: &[u8]) -> Vec<u8> {
        let found = if name == b"." || name == b".." { Err(Errno::INVAL) } else { self.nodes.find(folder, name) };
        found.map_or_else(|_| vec![0; ENTRY_BYTES], |(node, stat)| entry(node, &stat))
    }
}
