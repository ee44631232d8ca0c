//! Shared folders.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, XattrFlags};
use rustix::mount::MountFlags;

use crate::{MIB, Outcome, hold, pattern};

/// Files in the folder that the host has made.
const LARGE: usize = 10_000;

/// What programs expect of a file system, on a folder of the host.
pub(crate) fn share() -> Outcome {
    let root = Path::new("/mnt/rw");
    rustix::mount::mount("rw", root, "virtiofs", MountFlags::empty(), None)?;
    let path = |name: &str| root.join(name);
    hold(fs::read(path("given"))? == b"by the host", "a file of the host reads otherwise")?;
    fs::write(path("a"), pattern(3 * MIB, 9))?;
    hold(fs::read(path("a"))? == pattern(3 * MIB, 9), "a file reads otherwise than it was written")?;
    fs::rename(path("a"), path("b"))?;
    fs::hard_link(path("b"), path("c"))?;
    hold(fs::metadata(path("c"))?.nlink() == 2 && !path("a").exists(), "a link or a renaming went wrong")?;
    symlink("b", path("l"))?;
    hold(
        fs::read_link(path("l"))? == Path::new("b") && fs::metadata(path("l"))?.len() == 3 * MIB as u64,
        "a symbolic link",
    )?;
    fs::set_permissions(path("b"), fs::Permissions::from_mode(0o640))?;
    hold(fs::metadata(path("c"))?.mode() & 0o7777 == 0o640, "the mode was not changed")?;
    rustix::fs::setxattr(path("b"), "user.colour", b"green", XattrFlags::empty())?;
    let mut value = [0_u8; 16];
    let length = rustix::fs::getxattr(path("c"), "user.colour", &mut value)?;
    hold(&value[..length] == b"green", "an attribute reads otherwise")?;
    let mut log = OpenOptions::new().append(true).create(true).open(path("log"))?;
    let mut other = OpenOptions::new().append(true).open(path("log"))?;
    log.write_all(b"one")?;
    other.write_all(b"two")?;
    log.write_all(b"three")?;
    hold(fs::read(path("log"))? == b"onetwothree", "what is appended does not stand at the end")?;
    let mut open = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path("gone"))?;
    fs::remove_file(path("gone"))?;
    open.write_all(b"still here")?;
    open.seek(SeekFrom::Start(0))?;
    let mut text = String::new();
    open.read_to_string(&mut text)?;
    hold(text == "still here", "a file that was removed while open is lost")?;
    open.set_len(4)?;
    hold(open.metadata()?.len() == 4, "a file was not cut")?;
    let (first, second) = (File::open(path("b"))?, File::open(path("b"))?);
    rustix::fs::flock(&first, FlockOperation::NonBlockingLockExclusive)?;
    hold(rustix::fs::flock(&second, FlockOperation::NonBlockingLockExclusive).is_err(), "a lock does not hold")?;
    fs::remove_file(path("c"))?;
    hold(fs::metadata(path("b"))?.nlink() == 1, "a link that was removed counts still")?;
    fs::hard_link(path("b"), path("c"))?;
    renaming(root)?;
    attributes(&path("b"))?;
    writers(&path("lines"))?;
    pieces(root)?;
    many(root)?;
    outside(root)?;
    // A program is mapped from the share.
    fs::copy("/init", path("program"))?;
    fs::set_permissions(path("program"), fs::Permissions::from_mode(0o755))?;
    let mapped = std::process::Command::new(path("program")).arg("--nothing").status();
    hold(mapped.is_ok(), "a program on the share can't be run")
}

/// Folders of many files: one that the guest makes and removes, and a larger one that the host has made.
fn many(root: &Path) -> Outcome {
    let folder = root.join("many");
    fs::create_dir(&folder)?;
    for number in 0..500 {
        File::create(folder.join(format!("file-{number}")))?;
    }
    let names = |folder: &Path| -> Result<BTreeSet<_>, std::io::Error> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
    };
    hold(names(&folder)?.len() == 500, "not all files of a folder are listed")?;
    fs::remove_dir(&folder).err().ok_or("a folder with files was removed")?;
    // While it is read, it shrinks.
    for entry in fs::read_dir(&folder)? {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(&folder)?;
    hold(!folder.exists(), "a folder was not removed")?;
    let large = names(&root.join("large"))?.len();
    hold(large == LARGE, format!("{large} of {LARGE} files are listed"))
}

/// Renaming: over a file that somebody has open, not over one that must stay, and two at once.
fn renaming(root: &Path) -> Outcome {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let path = |name: &str| root.join(name);
    fs::write(path("old"), "old")?;
    fs::write(path("new"), "new")?;
    let mut open = File::open(path("old"))?;
    let kept = renameat_with(CWD, path("new"), CWD, path("old"), RenameFlags::NOREPLACE);
    hold(
        kept == Err(rustix::io::Errno::EXIST),
        format!("a file was renamed over another one that must stay: {kept:?}"),
    )?;
    fs::rename(path("new"), path("old"))?;
    let mut text = String::new();
    open.read_to_string(&mut text)?;
    hold(text == "old" && fs::read(path("old"))? == b"new", "renaming over an open file went wrong")?;
    hold(open.metadata()?.nlink() == 0, "a file that was renamed over has a name still")?;
    fs::create_dir_all(path("tree/below"))?;
    renameat_with(CWD, path("old"), CWD, path("tree"), RenameFlags::EXCHANGE)?;
    hold(path("old/below").is_dir() && fs::read(path("tree"))? == b"new", "two names were not exchanged")?;
    hold(fs::rename(path("old"), path("old/below/inside")).is_err(), "a folder was moved into itself")?;
    hold(fs::rename(path("tree"), path("old")).is_err(), "a file took the place of a folder")?;
    fs::remove_dir_all(path("old"))?;
    Ok(fs::remove_file(path("tree"))?)
}

/// Attributes are listed, refused where there is no room, replaced only where they are, and removed.
fn attributes(file: &Path) -> Outcome {
    use rustix::fs::{getxattr, listxattr, removexattr, setxattr};
    use rustix::io::Errno;
    setxattr(file, "user.size", &[7; 1000], XattrFlags::CREATE)?;
    let again = setxattr(file, "user.size", b"x", XattrFlags::CREATE);
    let absent = setxattr(file, "user.absent", b"x", XattrFlags::REPLACE);
    hold(again == Err(Errno::EXIST) && absent == Err(Errno::NODATA), format!("{again:?}, {absent:?}"))?;
    let narrow = getxattr(file, "user.size", &mut [0_u8; 10]);
    hold(narrow == Err(Errno::RANGE), format!("1000 bytes in room for ten: {narrow:?}"))?;
    let mut room = [0_u8; 4096];
    let length = listxattr(file, &mut room)?;
    let names: BTreeSet<&[u8]> = room[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    let wanted: [&[u8]; 2] = [b"user.colour", b"user.size"];
    hold(wanted.iter().all(|name| names.contains(name)), "an attribute is not listed")?;
    removexattr(file, "user.size")?;
    let gone = getxattr(file, "user.size", &mut room);
    hold(gone == Err(Errno::NODATA), format!("an attribute was not removed: {gone:?}"))
}

/// Many write to one file, each at its end, and nothing of it is lost or torn.
fn writers(file: &Path) -> Outcome {
    const LINES: usize = 100;
    std::thread::scope(|scope| {
        let write = |number: usize| -> std::io::Result<()> {
            let mut log = OpenOptions::new().append(true).create(true).open(file)?;
            (0..LINES)
                .try_for_each(|line| log.write_all(format!("{number} {line} {}\n", "x".repeat(number * 40)).as_bytes()))
        };
        let writers: Vec<_> = (0..4).map(|number| scope.spawn(move || write(number))).collect();
        writers.into_iter().try_for_each(|writer| writer.join().unwrap_or(Err(std::io::ErrorKind::Other.into())))
    })?;
    let text = fs::read_to_string(file)?;
    let mut next = [0; 4];
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number: usize = words[0].parse()?;
        hold(
            words.len() == 3 && words[1].parse() == Ok(next[number]) && words[2].len() == number * 40,
            "a line is torn",
        )?;
        next[number] += 1;
    }
    hold(next == [LINES; 4], format!("lines are lost: {next:?}"))
}

/// Holes, pieces copied inside the host, and records that are locked.
fn pieces(root: &Path) -> Outcome {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(root.join("pieces"))?;
    file.write_all_at(&pattern(MIB, 3), 4 * MIB as u64)?;
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0))?;
    let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(4 * MIB as u64))?;
    hold(data > 0 && data <= 4 * MIB as u64 && hole == 5 * MIB as u64, format!("data at {data}, a hole at {hole}"))?;
    let (mut from, mut to) = (4 * MIB as u64, 0);
    while from < 5 * MIB as u64 {
        let left = usize::try_from(5 * MIB as u64 - from)?;
        hold(
            rustix::fs::copy_file_range(&file, Some(&mut from), &file, Some(&mut to), left)? > 0,
            "nothing is copied",
        )?;
    }
    let mut bytes = vec![0; MIB];
    file.read_exact_at(&mut bytes, 0)?;
    hold(bytes == pattern(MIB, 3), "a piece was copied otherwise")?;
    rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, MIB as u64)?;
    file.read_exact_at(&mut bytes, 0)?;
    hold(bytes.iter().all(|byte| *byte == 0), "a hole has bytes in it")?;
    rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(rustix::fs::fcntl_lock(&file, FlockOperation::Unlock)?)
}

/// Nothing of the host beside the folder is reached, by whatever name.
fn outside(root: &Path) -> Outcome {
    hold(fs::read(root.join("../secret")).is_err(), "the folder above is reached")?;
    // A link of the host's that leads out is followed by the guest, in the guest.
    hold(fs::read(root.join("out")).is_err(), "a link leads out of the folder")?;
    symlink("../secret", root.join("mine"))?;
    hold(fs::read(root.join("mine")).is_err(), "a link of the guest's leads out of the folder")
}

pub(crate) fn share_read_only() -> Outcome {
    rustix::mount::mount("ro", "/mnt/ro", "virtiofs", MountFlags::empty(), None)?;
    hold(fs::read("/mnt/ro/given")? == b"by the host", "a file of the host reads otherwise")?;
    hold(fs::write("/mnt/ro/given", b"by the guest").is_err(), "a file can be written")?;
    hold(fs::remove_file("/mnt/ro/given").is_err(), "a file can be removed")?;
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open("/mnt/ro/new");
    hold(made.is_err(), "a file can be made")
}
