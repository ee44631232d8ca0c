use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::testing::{Driver, Part};

const ROOT: u64 = 1;

struct Share {
    driver: Driver,
    folder: tempfile::TempDir,
}

/// A share with a file, a folder, and a link that leads out of it.
fn share(sharing: Sharing) -> Share {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), b"content of the file").unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    symlink("/etc/passwd", folder.path().join("way-out")).unwrap();
    let fs = Fs::new("share", folder.path(), sharing).unwrap();
    let mut share = Share { driver: Driver::start(Box::new(fs)), folder };
    share.start();
    share
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn header(operation: u32, node: u64) -> Vec<u8> {
    let user = [rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw(), 0, 0];
    [words(&[0, operation]), longs(&[7, node]), words(&user)].concat()
}

impl Share {
    fn start(&mut self) {
        let answer = self.ask(26, ROOT, &words(&[7, 36, 1 << 20, u32::MAX])).unwrap();
        assert_eq!((&answer[..8], answer.len()), (&words(&[7, 31])[..], 64));
    }

    /// Does a request; gives the answer, or the errno.
    fn ask(&mut self, operation: u32, node: u64, arguments: &[u8]) -> Result<Vec<u8>, i32> {
        let parts = [Part::Out(&header(operation, node)), Part::Out(arguments), Part::In(16), Part::In(8192)];
        let (answers, written) = self.driver.request(1, &parts);
        let answer = answers.concat()[..written as usize].to_vec();
        assert_eq!(u32::from_le_bytes(answer[..4].try_into().unwrap()), written);
        assert_eq!(long(&answer, 8), 7, "the answer to another request");
        match i32::from_le_bytes(answer[4..8].try_into().unwrap()) {
            0 => Ok(answer[16..].to_vec()),
            errno => Err(-errno),
        }
    }

    fn find(&mut self, folder: u64, name: &str) -> Result<u64, i32> {
        self.ask(1, folder, &[name.as_bytes(), &[0]].concat()).map(|entry| long(&entry, 0))
    }

    fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        self.ask(14, node, &words(&[flags as u32, 0])).map(|opened| long(&opened, 0))
    }

    fn read(&mut self, node: u64, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        self.ask(15, node, &[longs(&[handle, offset]), words(&[size, 0]), longs(&[0, 0])].concat())
    }

    fn write(&mut self, node: u64, handle: u64, offset: u64, data: &[u8]) -> Result<Vec<u8>, i32> {
        let head = [longs(&[handle, offset]), words(&[data.len() as u32, 0]), longs(&[0, 0])].concat();
        self.ask(16, node, &[&head, data].concat())
    }

    fn create(&mut self, name: &str) -> Result<(u64, u64), i32> {
        let how = words(&[libc_flags::RDWR as u32, 0o100_640, 0o022, 0]);
        let answer = self.ask(35, ROOT, &[&how, name.as_bytes(), &[0]].concat())?;
        Ok((long(&answer, 0), long(&answer, 128)))
    }

    /// The names in a folder.
    fn list(&mut self, node: u64, operation: u32) -> Vec<(String, u64)> {
        let handle = long(&self.ask(27, node, &words(&[0, 0])).unwrap(), 0);
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let arguments = [longs(&[handle, offset]), words(&[4096, 0]), longs(&[0, 0])].concat();
            let answer = self.ask(operation, node, &arguments).unwrap();
            if answer.is_empty() {
                self.ask(29, node, &longs(&[handle, 0, 0])).unwrap();
                names.sort();
                return names;
            }
            let mut at = 0;
            while at < answer.len() {
                let number = if operation == 44 { long(&answer, at) } else { 0 };
                let entry = at + if operation == 44 { 128 } else { 0 };
                offset = long(&answer, entry + 8);
                let length = u32::from_le_bytes(answer[entry + 16..entry + 20].try_into().unwrap()) as usize;
                let name = String::from_utf8(answer[entry + 24..entry + 24 + length].to_vec()).unwrap();
                names.push((name, number));
                at = (entry + 24 + length).next_multiple_of(8);
            }
        }
    }
}

mod libc_flags {
    pub(super) const RDONLY: i32 = 0;
    pub(super) const RDWR: i32 = 2;
}

const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
const EROFS: i32 = 30;
const ESTALE: i32 = 116;

#[test]
fn a_file_is_found_and_read() {
    let mut share = share(Sharing::ReadOnly);
    assert_eq!(&share.driver.config(0, 40)[..6], b"share\0");
    assert_eq!(share.driver.config(36, 4), [1, 0, 0, 0]);
    let node = share.find(ROOT, "file").unwrap();
    let handle = share.open(node, libc_flags::RDONLY).unwrap();
    assert_eq!(share.read(node, handle, 0, 4096).unwrap(), b"content of the file");
    assert_eq!(share.read(node, handle, 8, 2).unwrap(), b"of");
    assert_eq!(share.read(node, handle, 100, 10).unwrap(), b"");
    let attributes = share.ask(3, node, &longs(&[0, 0])).unwrap();
    assert_eq!(long(&attributes, 16 + 8), 19, "the size");
    share.ask(18, node, &longs(&[handle, 0, 0])).unwrap();
    assert_eq!(share.read(node, handle, 0, 10), Err(9), "it is closed");
}

#[test]
fn folders_are_listed_whatever_their_size() {
    let mut share = share(Sharing::ReadOnly);
    for number in 0..300 {
        fs::write(share.folder.path().join(format!("sub/file-with-a-name-{number:04}")), b"").unwrap();
    }
    let root: Vec<String> = share.list(ROOT, 28).into_iter().map(|entry| entry.0).collect();
    assert_eq!(root, [".", "..", "file", "sub", "way-out"]);
    let sub = share.find(ROOT, "sub").unwrap();
    assert_eq!(share.list(sub, 28).len(), 302);
    let all = share.list(sub, 44);
    assert_eq!(all.len(), 302);
    assert!(all.iter().all(|(name, number)| name.starts_with('.') == (*number == 0)), "numbers of all but the dots");
    assert_eq!(share.find(sub, "file-with-a-name-0007"), Ok(all[9].1));
}

#[test]
fn nothing_outside_the_folder_is_reached() {
    let mut share = share(Sharing::ReadWrite);
    for name in ["..", ".", "", "a/b", "/etc", &"x".repeat(256)] {
        let errno = share.find(ROOT, name).unwrap_err();
        assert!(errno == EINVAL || errno == 36, "{name:?} {errno}");
    }
    let link = share.find(ROOT, "way-out").unwrap();
    assert_eq!(share.ask(5, link, &[]).unwrap(), b"/etc/passwd", "the guest follows it, in its own tree");
    assert_eq!(share.open(link, libc_flags::RDONLY), Err(6));
    assert_eq!(share.ask(27, link, &words(&[0, 0])), Err(6), "nor as a folder");
    assert_eq!(share.find(link, "x"), Err(20));
    let device = [&words(&[0o020_666, 0x103, 0, 0])[..], b"null\0"].concat();
    assert_eq!(share.ask(8, ROOT, &device), Err(1), "a device");
    let fifo = [&words(&[0o010_666, 0, 0, 0])[..], b"fifo\0"].concat();
    let fifo = long(&share.ask(8, ROOT, &fifo).unwrap(), 0);
    assert_eq!(share.open(fifo, libc_flags::RDONLY), Err(6), "a FIFO of the host is not opened");
    assert_eq!(share.ask(3, 99, &longs(&[0, 0])), Err(ESTALE));
}

#[test]
fn files_are_made_written_moved_and_removed() {
    let mut share = share(Sharing::ReadWrite);
    let path = |share: &Share, name: &str| share.folder.path().join(name);
    let (node, handle) = share.create("new").unwrap();
    assert_eq!(share.write(node, handle, 3, b"hello").unwrap()[..4], [5, 0, 0, 0]);
    assert_eq!(fs::read(path(&share, "new")).unwrap(), b"\0\0\0hello");
    assert_eq!(fs::metadata(path(&share, "new")).unwrap().permissions().mode() & 0o777, 0o640);
    share.ask(20, node, &[longs(&[handle]), words(&[0, 0])].concat()).unwrap();
    let folder = [&words(&[0o755, 0])[..], b"d\0"].concat();
    let folder = long(&share.ask(9, ROOT, &folder).unwrap(), 0);
    share.ask(12, ROOT, &[&longs(&[folder])[..], b"new\0moved\0"].concat()).unwrap();
    assert_eq!(share.find(ROOT, "new"), Err(ENOENT));
    assert_eq!(share.find(folder, "moved"), Ok(node), "it is the same file");
    let linked = share.ask(13, ROOT, &[&longs(&[node])[..], b"linked\0"].concat()).unwrap();
    assert_eq!((long(&linked, 0), fs::metadata(path(&share, "linked")).unwrap().nlink()), (node, 2));
    share.ask(6, ROOT, b"link\0some/where\0").unwrap();
    assert_eq!(fs::read_link(path(&share, "link")).unwrap().to_str(), Some("some/where"));
    let exchange = [&longs(&[ROOT])[..], &words(&[2, 0]), b"link\0linked\0"].concat();
    share.ask(45, ROOT, &exchange).unwrap();
    assert_eq!(fs::read(path(&share, "link")).unwrap(), b"\0\0\0hello");
    assert_eq!(share.ask(11, ROOT, b"d\0"), Err(39), "a folder with something in it");
    share.ask(10, folder, b"moved\0").unwrap();
    share.ask(11, ROOT, b"d\0").unwrap();
    assert!(!path(&share, "d").exists());
    assert_eq!(share.read(node, handle, 3, 5).unwrap(), b"hello", "an open file survives");
}

#[test]
fn attributes_are_changed() {
    let mut share = share(Sharing::ReadWrite);
    let node = share.find(ROOT, "file").unwrap();
    // Mode, size and both times.
    let change = [
        words(&[1 | 1 << 3 | 1 << 4 | 1 << 5, 0]),
        longs(&[0, 7, 0, 1000, 2000, 0]),
        words(&[5, 6, 0, 0o600, 0, 0, 0, 0]),
    ];
    let answer = share.ask(4, node, &change.concat()).unwrap();
    assert_eq!(long(&answer, 24), 7);
    let metadata = fs::metadata(share.folder.path().join("file")).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.len()), (0o600, 7));
    assert_eq!((metadata.atime(), metadata.atime_nsec(), metadata.mtime(), metadata.mtime_nsec()), (1000, 5, 2000, 6));
    let figures = share.ask(17, ROOT, &[]).unwrap();
    assert!(figures.len() == 80 && long(&figures, 0) > 0);
    let named = [&words(&[5, 0])[..], b"user.color\0green"].concat();
    match share.ask(21, node, &named) {
        Err(95) => println!("skipped: no extended attributes here"),
        outcome => {
            outcome.unwrap();
            let get = |size: u32| [&words(&[size, 0])[..], b"user.color\0"].concat();
            assert_eq!(share.ask(22, node, &get(0)).unwrap()[..4], [5, 0, 0, 0]);
            assert_eq!(share.ask(22, node, &get(64)).unwrap(), b"green");
            assert!(share.ask(23, node, &words(&[64, 0])).unwrap().ends_with(b"user.color\0"));
            share.ask(24, node, b"user.color\0").unwrap();
            assert_eq!(share.ask(22, node, &get(64)), Err(61));
        }
    }
}

#[test]
fn a_read_only_share_is_not_changed() {
    let mut share = share(Sharing::ReadOnly);
    let node = share.find(ROOT, "file").unwrap();
    assert_eq!(share.create("new"), Err(EROFS));
    assert_eq!(share.open(node, libc_flags::RDWR), Err(EROFS));
    assert_eq!(share.open(node, 0o1000), Err(EROFS), "an open that cuts");
    assert_eq!(share.ask(10, ROOT, b"file\0"), Err(EROFS));
    assert_eq!(share.ask(4, node, &[0; 88]), Err(EROFS));
    assert_eq!(fs::read(share.folder.path().join("file")).unwrap(), b"content of the file");
}

#[test]
fn what_is_forgotten_is_closed() {
    let mut share = share(Sharing::ReadOnly);
    let node = share.find(ROOT, "file").unwrap();
    assert_eq!(share.find(ROOT, "file"), Ok(node));
    assert_eq!(share.driver.slot.metrics()["nodes"], 2);
    let (head, _) = share.driver.send(0, &[Part::Out(&[header(2, node), longs(&[1])].concat())]);
    assert_eq!(share.driver.used(0), (head, 0), "a forget has no answer");
    assert_eq!(share.driver.slot.metrics()["nodes"], 2, "the guest knows it once more");
    let many = [header(42, 0), words(&[2, 0]), longs(&[node, 1, ROOT, 5])].concat();
    share.driver.send(0, &[Part::Out(&many)]);
    share.driver.used(0);
    assert_eq!(share.driver.slot.metrics()["nodes"], 1, "the root is never forgotten");
    assert_eq!(share.ask(3, node, &longs(&[0, 0])), Err(ESTALE));
}

#[test]
fn a_restored_guest_goes_on_with_its_files() {
    let mut share = share(Sharing::ReadWrite);
    let node = share.find(ROOT, "file").unwrap();
    let handle = share.open(node, libc_flags::RDONLY).unwrap();
    let sub = share.find(ROOT, "sub").unwrap();
    let saved = share.driver.slot.save().device;
    let mut fs = Fs::new("share", share.folder.path(), Sharing::ReadWrite).unwrap();
    fs.restore(saved).unwrap();
    share.driver = Driver::start(Box::new(fs));
    assert_eq!(share.read(node, handle, 0, 7).unwrap(), b"content");
    assert_eq!(share.find(ROOT, "sub"), Ok(sub));
    assert!(share.find(ROOT, "way-out").unwrap() > sub, "a number is used twice");
}

#[test]
fn broken_requests_are_answered_or_ask_for_a_reset() {
    let mut broken = share(Sharing::ReadWrite);
    assert_eq!(broken.ask(99, ROOT, &[]), Err(38), "an unknown operation");
    assert_eq!(broken.ask(1, ROOT, b"no end"), Err(EINVAL));
    assert_eq!(broken.ask(15, ROOT, &[1]), Err(EINVAL));
    assert_eq!(broken.write(ROOT, 5, 0, b"x"), Err(9));
    assert_eq!(broken.ask(16, ROOT, &[longs(&[1, 0]), words(&[100, 0]), longs(&[0, 0])].concat()), Err(EINVAL));
    broken.driver.send(1, &[Part::Out(&[0; 39]), Part::In(100)]);
    broken.driver.slot.serve();
    assert!(broken.driver.broken());
    let mut narrow = share(Sharing::ReadWrite);
    narrow.driver.send(1, &[Part::Out(&header(3, ROOT)), Part::In(20)]);
    narrow.driver.slot.serve();
    assert!(narrow.driver.broken(), "no room for the attributes");
}

#[test]
fn what_cannot_be_shared_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let long = "x".repeat(37);
    for tag in ["", &long] {
        assert!(matches!(Fs::new(tag, folder.path(), Sharing::ReadOnly), Err(ShareError::Tag { .. })));
    }
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(matches!(Fs::new("x", &file, Sharing::ReadOnly), Err(ShareError::Open { .. })));
}
