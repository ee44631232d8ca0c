//! Trees there and back, and what strangers try.

use super::*;
use crate::tar::Kind;
use crate::tar::Writer;
use crate::tree::Stat;
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::io::Cursor;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn rules(naming: Naming) -> Rules {
    Rules { replace: Replace::SameKind, owner: Owner::Caller, naming, shift: None }
}

fn packed(root: &Path, path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack(open(root), &Wanted::new(path).unwrap(), None, &mut bytes).unwrap();
    bytes
}

fn names(bytes: &[u8]) -> Vec<String> {
    let mut reader = crate::tar::Reader::new(bytes, crate::Limits::default());
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        names.push(String::from_utf8(entry.path).unwrap());
    }
    names
}

fn tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("etc/sub")).unwrap();
    fs::write(at("etc/a"), b"first").unwrap();
    fs::set_permissions(at("etc/a"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(at("etc/a"), at("etc/b")).unwrap();
    fs::write(at("etc/sub/c"), vec![7; 100_000]).unwrap();
    symlink("/etc/a", at("etc/link")).unwrap();
    symlink("/nowhere/far", at("out")).unwrap();
    folder
}

#[test]
fn the_end_of_a_path_says_what_is_meant() {
    let check = |given: &str, folder: &str, name: Option<&str>, shown: &str| {
        let wanted = Wanted::new(given).unwrap();
        assert_eq!(
            (wanted.folder.as_path(), wanted.name.as_deref(), wanted.shown.as_str()),
            (Path::new(folder), name, shown)
        );
    };
    check("/etc/passwd", "etc", Some("passwd"), "passwd");
    check("etc/../../b", "", Some("b"), "b");
    check("/etc/", "etc", None, "etc");
    check("/etc/.", "etc", None, ".");
    check("/", "", None, "/");
    check("/etc/./", "etc", None, ".");
    check(".", "", None, ".");
    check("/.//", "", None, ".");
    check("/..", "", None, "/");
    assert_eq!(Wanted::new(""), None);
}

#[test]
fn names_begin_with_the_source() {
    let tree = tree();
    assert_eq!(names(&packed(tree.path(), "/etc")), ["etc", "etc/a", "etc/b", "etc/link", "etc/sub", "etc/sub/c"]);
    assert_eq!(names(&packed(tree.path(), "etc/.")), ["", "a", "b", "link", "sub", "sub/c"]);
    assert_eq!(names(&packed(tree.path(), "/etc/link")), ["link"]);
    assert_eq!(names(&packed(tree.path(), "/"))[..3], ["", "etc", "etc/a"]);
}

#[test]
fn a_tree_survives_the_way() {
    let (tree, target) = (tree(), tempfile::tempdir().unwrap());
    let naming = Naming { strip: "etc".into(), prefix: "new".into() };
    unpack(open(target.path()).as_fd(), Path::new(""), &rules(naming), Cursor::new(packed(tree.path(), "/etc")))
        .unwrap();
    let meta = |name: &str| fs::symlink_metadata(target.path().join("new").join(name)).unwrap();
    assert_eq!(fs::read(target.path().join("new/sub/c")).unwrap().len(), 100_000);
    assert_eq!((meta("a").mode() & 0o7777, meta("a").ino()), (0o4751, meta("b").ino()));
    assert_eq!(fs::read_link(target.path().join("new/link")).unwrap(), Path::new("/etc/a"));
    let mtime = |root: &Path, name: &str| fs::symlink_metadata(root.join(name)).unwrap().mtime_nsec();
    assert_eq!(mtime(target.path(), "new/sub"), mtime(tree.path(), "etc/sub"));
}

#[test]
fn links_in_an_archive_lead_nowhere_outside() {
    let (outside, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut writer = Writer::new(Vec::new());
    let stat = Stat { mode: 0o644, ..Stat::default() };
    let link = Kind::Symlink(outside.path().as_os_str().as_encoded_bytes().to_vec());
    writer.add(b"door", &stat, &link, &mut std::io::empty()).unwrap();
    writer.add(b"door/stolen", &stat, &Kind::File { size: 1, segments: None }, &mut &b"x"[..]).unwrap();
    let bytes = writer.finish().unwrap();
    // the link's target is looked for, and made, below the root
    unpack(open(target.path()).as_fd(), Path::new(""), &rules(Naming::default()), Cursor::new(bytes)).unwrap_err();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn kinds_do_not_take_each_others_place() {
    let (tree, target) = (tree(), tempfile::tempdir().unwrap());
    fs::create_dir(target.path().join("a")).unwrap();
    let root = open(target.path());
    let wrong =
        unpack(root.as_fd(), Path::new(""), &rules(Naming::default()), Cursor::new(packed(tree.path(), "/etc/a")));
    assert!(wrong.unwrap_err().to_string().starts_with("cannot overwrite directory"));
    fs::write(target.path().join("etc"), b"").unwrap();
    let wrong =
        unpack(root.as_fd(), Path::new(""), &rules(Naming::default()), Cursor::new(packed(tree.path(), "/etc")));
    assert!(wrong.unwrap_err().to_string().starts_with("cannot overwrite non-directory"));
    let anything = Rules { replace: Replace::Anything, ..rules(Naming::default()) };
    unpack(root.as_fd(), Path::new(""), &anything, Cursor::new(packed(tree.path(), "/etc"))).unwrap();
    assert_eq!(fs::read(target.path().join("etc/a")).unwrap(), b"first");
}

#[test]
fn damaged_archives_are_refused_and_empty_ones_are_nothing() {
    let target = tempfile::tempdir().unwrap();
    let root = open(target.path());
    let try_one =
        |bytes: &[u8]| unpack(root.as_fd(), Path::new(""), &rules(Naming::default()), Cursor::new(bytes.to_vec()));
    try_one(b"").unwrap();
    assert!(matches!(try_one(&[b'x'; 600]), Err(UnpackError::Archive(_))));
    let mut writer = Writer::new(Vec::new());
    writer.add(b"f", &Stat::default(), &Kind::File { size: 3, segments: None }, &mut &b"abc"[..]).unwrap();
    let whole = writer.finish().unwrap();
    assert!(try_one(&whole[..514]).is_err());
}
