//! Names: find, make, move and remove what is in a folder.

use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags};
use rustix::io::Errno;

use super::attributes::entry;
use super::{Answer, Arguments, Call, Outcome, Server};
use crate::queue::Writer;

/// The longest target of a link.
const MOST_TARGET: usize = 4095;

impl Server {
    /// Finds a name; gives its number, and `struct fuse_entry_out`.
    pub(super) fn entry(&mut self, folder: u64, name: &[u8]) -> Result<(u64, Vec<u8>), Errno> {
        let (node, stat) = self.nodes.find(folder, name)?;
        Ok((node, entry(node, &stat)))
    }

    fn entry_answer(&mut self, folder: u64, name: &[u8]) -> Outcome {
        self.entry(folder, name).map(|(_, bytes)| Answer::Bytes(bytes))
    }

    pub(super) fn lookup(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let name = arguments.name()?;
        self.entry_answer(call.node, &name)
    }

    pub(super) fn forget(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        if let Ok(lookups) = arguments.long() {
            self.nodes.forget(call.node, lookups);
        }
        Ok(Answer::Silence)
    }

    pub(super) fn forget_many(&mut self, _: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        arguments.skip(8);
        while let (Ok(node), Ok(lookups)) = (arguments.long(), arguments.long()) {
            self.nodes.forget(node, lookups);
        }
        Ok(Answer::Silence)
    }

    pub(super) fn read_link(&mut self, call: Call, _: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let target = rustix::fs::readlinkat(self.nodes.fd(call.node)?, "", Vec::new())?;
        Ok(Answer::Bytes(target.into_bytes()))
    }

    pub(super) fn symlink(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let (name, target) = (arguments.name()?, arguments.text(MOST_TARGET)?);
        let folder = self.nodes.fd(call.node)?;
        rustix::fs::symlinkat(&target[..], folder, &name[..])?;
        self.give(folder, &name, call)?;
        self.entry_answer(call.node, &name)
    }

    /// Makes a file, a FIFO or a socket. A device would be one of the host's.
    pub(super) fn make_node(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let (mode, _device, umask) = (arguments.word()?, arguments.word()?, arguments.word()?);
        arguments.skip(4);
        let name = arguments.name()?;
        let kind = FileType::from_raw_mode(mode);
        if !matches!(kind, FileType::RegularFile | FileType::Fifo | FileType::Socket) {
            return Err(Errno::PERM);
        }
        let folder = self.nodes.fd(call.node)?;
        rustix::fs::mknodat(folder, &name[..], kind, Mode::from_raw_mode(mode & !umask & 0o7777), 0)?;
        self.give(folder, &name, call)?;
        self.entry_answer(call.node, &name)
    }

    pub(super) fn make_folder(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let (mode, umask) = (arguments.word()?, arguments.word()?);
        let name = arguments.name()?;
        let folder = self.nodes.fd(call.node)?;
        rustix::fs::mkdirat(folder, &name[..], Mode::from_raw_mode(mode & !umask & 0o7777))?;
        self.give(folder, &name, call)?;
        self.entry_answer(call.node, &name)
    }

    pub(super) fn unlink(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let name = arguments.name()?;
        rustix::fs::unlinkat(self.nodes.fd(call.node)?, &name[..], AtFlags::empty())?;
        Ok(Answer::Bytes(Vec::new()))
    }

    pub(super) fn remove_folder(
        &mut self,
        call: Call,
        arguments: &mut Arguments<'_, '_>,
        _: &mut Writer<'_>,
    ) -> Outcome {
        let name = arguments.name()?;
        rustix::fs::unlinkat(self.nodes.fd(call.node)?, &name[..], AtFlags::REMOVEDIR)?;
        Ok(Answer::Bytes(Vec::new()))
    }

    pub(super) fn rename(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let target = arguments.long()?;
        self.move_to(call.node, target, arguments, RenameFlags::empty())
    }

    pub(super) fn rename_with(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let (target, flags) = (arguments.long()?, arguments.word()?);
        arguments.skip(4);
        let known = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
        let flags = RenameFlags::from_bits(flags).filter(|flags| known.contains(*flags)).ok_or(Errno::INVAL)?;
        self.move_to(call.node, target, arguments, flags)
    }

    fn move_to(&self, from: u64, to: u64, arguments: &mut Arguments<'_, '_>, flags: RenameFlags) -> Outcome {
        let (old, new) = (arguments.name()?, arguments.name()?);
        rustix::fs::renameat_with(self.nodes.fd(from)?, &old[..], self.nodes.fd(to)?, &new[..], flags)?;
        Ok(Answer::Bytes(Vec::new()))
    }

    pub(super) fn link(&mut self, call: Call, arguments: &mut Arguments<'_, '_>, _: &mut Writer<'_>) -> Outcome {
        let node = arguments.long()?;
        let name = arguments.name()?;
        let path: PathBuf = self.proc_path(node)?;
        rustix::fs::linkat(CWD, &path, self.nodes.fd(call.node)?, &name[..], AtFlags::SYMLINK_FOLLOW)?;
        self.entry_answer(call.node, &name)
    }
}
