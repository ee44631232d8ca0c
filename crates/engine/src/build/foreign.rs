//! Programs of other processors: whether the kernel hands them to an emulator.
//!
//! # Source
//! The kernel's Documentation/admin-guide/binfmt-misc.rst: one file for each handler, `enabled`, then a word a line. With the flag
//! `F` the emulator was opened when the handler was made, and is found from within any root.

use crate::error::{EngineError, ErrorClass, Result};
use oci::platform::Platform;
use rustix::fs::{CWD, Dir, Mode, OFlags, openat};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where the handlers are listed, unless nobody has mounted it.
const LIST: &str = "/proc/sys/fs/binfmt_misc";
/// The longest handler's text, in bytes.
const LONGEST: u64 = 4096;
/// By architecture: bits and order of an ELF file, and its machine.
///
/// # Source
/// elf(5), linux/elf-em.h
const MACHINES: [(&str, u8, Order, u16); 13] = [
    ("386", 1, Order::Little, 3),
    ("amd64", 2, Order::Little, 62),
    ("arm", 1, Order::Little, 40),
    ("arm64", 2, Order::Little, 183),
    ("loong64", 2, Order::Little, 258),
    ("mips", 1, Order::Big, 8),
    ("mips64", 2, Order::Big, 8),
    ("mips64le", 2, Order::Little, 8),
    ("mipsle", 1, Order::Little, 8),
    ("ppc64", 2, Order::Big, 21),
    ("ppc64le", 2, Order::Little, 21),
    ("riscv64", 2, Order::Little, 243),
    ("s390x", 2, Order::Big, 22),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little = 1,
    Big = 2,
}

/// What becomes of a platform's programs here.
#[derive(Debug, PartialEq, Eq)]
enum Handled {
    /// They are run by an emulator.
    Yes,
    /// The emulator with this path would have to be in the image.
    Inside(String),
    /// They are not run.
    No,
}

/// Makes sure that programs for a platform can be run.
///
/// # Errors
/// [`ErrorClass::Unsupported`] where they cannot, with what to do.
pub(super) fn check(platform: &Platform) -> Result<()> {
    let host = Platform::host();
    // variants are a matter of the processor's model: a program that needs more says so itself
    let kin = platform.os == host.os && platform.architecture == host.architecture;
    if kin || platform.runs_on(&host) {
        return Ok(());
    }
    let why = match handled(&platform.architecture, &handlers()) {
        Handled::Yes => return Ok(()),
        Handled::Inside(emulator) => format!(
            "its programs are for the emulator {emulator}, which is not in the image: the handler has to be made with the \
             flag F; the package qemu-user-static does so"
        ),
        Handled::No => {
            "its programs do not run on this machine; install an emulator for them: apt install qemu-user-static \
             binfmt-support"
                .to_owned()
        }
    };
    let text = format!("cannot run a program for {platform} on {host}: {why}");
    Err(EngineError::new(ErrorClass::Unsupported, text))
}

/// The start of an architecture's programs; nothing for one that is not known.
fn header(architecture: &str) -> Option<[u8; 20]> {
    let (_, bits, order, machine) = MACHINES.into_iter().find(|(name, ..)| *name == architecture)?;
    let half = |number: u16| if order == Order::Big { number.to_be_bytes() } else { number.to_le_bytes() };
    let mut out = [0; 20];
    out[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', bits, order as u8, 1]);
    out[16..18].copy_from_slice(&half(2));
    out[18..].copy_from_slice(&half(machine));
    Some(out)
}

fn handled(architecture: &str, handlers: &[String]) -> Handled {
    let Some(program) = header(architecture) else { return Handled::No };
    let mut out = Handled::No;
    for handler in handlers.iter().filter_map(|text| Handler::parse(text)).filter(|one| one.takes(&program)) {
        if handler.is_opened {
            return Handled::Yes;
        }
        out = Handled::Inside(handler.interpreter);
    }
    out
}

/// A handler that is enabled and goes by a file's first bytes.
struct Handler {
    interpreter: String,
    is_opened: bool,
    offset: usize,
    magic: Vec<u8>,
    mask: Vec<u8>,
}

impl Handler {
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some("enabled") {
            return None;
        }
        let (mut out, mut offset) = (Self::blank(), 0);
        for line in lines {
            match line.split_once([' ', ':']).map(|(name, value)| (name, value.trim())) {
                Some(("interpreter", path)) => path.clone_into(&mut out.interpreter),
                Some(("flags", flags)) => out.is_opened = flags.contains('F'),
                Some(("offset", number)) => offset = number.parse().ok()?,
                Some(("magic", digits)) => out.magic = bytes(digits)?,
                Some(("mask", digits)) => out.mask = bytes(digits)?,
                _ => {}
            }
        }
        out.offset = offset;
        (!out.magic.is_empty()).then_some(out)
    }

    fn blank() -> Self {
        Self { interpreter: String::new(), is_opened: false, offset: 0, magic: Vec::new(), mask: Vec::new() }
    }

    fn takes(&self, program: &[u8]) -> bool {
        let Some(found) = program.get(self.offset..self.offset.saturating_add(self.magic.len())) else { return false };
        found.iter().zip(&self.magic).enumerate().all(|(at, (have, want))| {
            let mask = self.mask.get(at).copied().unwrap_or(u8::MAX);
            have & mask == want & mask
        })
    }
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// The texts of all handlers. Where nobody has mounted their list, it is looked at without a place.
fn handlers() -> Vec<String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mounted = openat(CWD, LIST, flags, Mode::empty()).ok();
    let found = mounted.map(|list| read_all(list.as_fd())).unwrap_or_default();
    if !found.is_empty() {
        return found;
    }
    let unplaced = || -> std::result::Result<OwnedFd, sys::mount::FsError> {
        let context = sys::mount::FsContext::open("binfmt_misc")?;
        context.create()?;
        context.mount(sys::mount::MountAttr::empty())
    };
    let opened = unplaced().ok().and_then(|list| openat(&list, ".", flags, Mode::empty()).ok());
    opened.map(|list| read_all(list.as_fd())).unwrap_or_default()
}

fn read_all(list: BorrowedFd<'_>) -> Vec<String> {
    let Ok(entries) = Dir::read_from(list) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_owned());
    let handlers = names.filter(|name| !matches!(name.to_bytes(), b"." | b".." | b"register" | b"status"));
    let read = |name: std::ffi::CString| {
        let file = openat(list, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(file).take(LONGEST).read_to_string(&mut text).ok()?;
        Some(text)
    };
    handlers.filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM64: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\n\
                         magic 7f454c460201010000000000000000000200b700\n\
                         mask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn handlers_are_told_by_what_they_take() {
        let check = |architecture: &str, text: &str, expect: Handled| {
            assert_eq!(handled(architecture, &[text.to_owned()]), expect, "{architecture} {text}");
        };
        check("arm64", ARM64, Handled::Yes);
        check("arm", ARM64, Handled::No);
        check("s390x", ARM64, Handled::No);
        check("arm64", &ARM64.replace("enabled", "disabled"), Handled::No);
        let path = "/usr/bin/qemu-aarch64-static".to_owned();
        check("arm64", &ARM64.replace("OCF", "OC"), Handled::Inside(path));
        check("arm64", "enabled\ninterpreter /x\nflags: F\nextension .exe\n", Handled::No);
        check("arm64", "enabled\ninterpreter /x\nflags: F\noffset 99999\nmagic 7f\n", Handled::No);
        check("arm64", "enabled\ninterpreter /x\nflags: F\noffset 0\nmagic 7g\n", Handled::No);
        let s390x = "enabled\ninterpreter /q\nflags: F\noffset 0\nmagic 7f454c4602020100000000000000000000020016\n\
                     mask ffffffffffffff00fffffffffffffffffffeffff\n";
        check("s390x", s390x, Handled::Yes);
        check("abacus", s390x, Handled::No);
    }

    #[test]
    fn the_hosts_own_programs_need_nobody() {
        check(&Platform::host()).unwrap();
        let older = Platform { variant: Some("v1".to_owned()), ..Platform::host() };
        check(&older).unwrap();
        let other = Platform { architecture: "abacus".to_owned(), ..Platform::host() };
        let error = check(&other).unwrap_err().to_string();
        assert!(error.contains("qemu-user-static") && error.contains("linux/abacus"), "{error}");
    }
}
