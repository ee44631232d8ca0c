//! What a tree looks like, for comparing two of them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Everything about one name that must survive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    links: u64,
    size: u64,
    device: u64,
    target: Option<PathBuf>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    contents: Option<oci::digest::Digest>,
    /// The first name of the same file.
    same_as: PathBuf,
}

/// Every name below `root` with what it is.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut out = BTreeMap::new();
    let mut inodes: HashMap<u64, PathBuf> = HashMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = if path.as_os_str().is_empty() { root.join(".") } else { root.join(&path) };
        let stat = fs::symlink_metadata(&full).unwrap();
        if stat.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            pending.extend(names.into_iter().rev().map(|name| path.join(name)));
        }
        let same_as = inodes.entry(stat.ino()).or_insert_with(|| path.clone()).clone();
        let seen = Seen {
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            mtime: (stat.mtime(), stat.mtime_nsec()),
            links: if stat.is_dir() { 0 } else { stat.nlink() },
            size: if stat.is_dir() { 0 } else { stat.size() },
            device: stat.rdev(),
            target: stat.is_symlink().then(|| fs::read_link(&full).unwrap()),
            xattrs: xattrs(&full),
            contents: stat.is_file().then(|| oci::digest::Digest::of(&fs::read(&full).unwrap())),
            same_as,
        };
        out.insert(path, seen);
    }
    out
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    names.truncate(length);
    let mut out = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..]).unwrap();
        value.truncate(length);
        out.insert(name.to_vec(), value);
    }
    out
}

/// Fails with the first few differences.
pub(crate) fn assert_same(left: &BTreeMap<PathBuf, Seen>, right: &BTreeMap<PathBuf, Seen>) {
    let mut differences = Vec::new();
    for path in left.keys().chain(right.keys().filter(|path| !left.contains_key(*path))) {
        if left.get(path) != right.get(path) {
            let text = format!("{}:\n  {:?}\n  {:?}", path.display(), left.get(path), right.get(path));
            differences.push(text.chars().take(1500).collect::<String>());
        }
    }
    assert!(
        differences.is_empty(),
        "{} differences, the first:\n{}",
        differences.len(),
        differences.into_iter().take(5).collect::<Vec<_>>().join("\n")
    );
}
