//! An archive's files put into a folder as they are: no whiteouts, no layer, nothing kept of the archive.

use std::io::{BufReader, Read};
use std::path::Path;

use crate::directory;
use crate::erofs::Node;
use crate::layer::{LayerError, Shape, Sink, is_kept_xattr};
use crate::model::Limits;
use crate::path;
use crate::pipeline;
use crate::tar::{Kind, Reader};

/// Puts the files of an archive, which may be compressed, into an empty folder. Owners, times, extended attributes, hard
/// links, holes and device nodes are as in the archive; nothing outside the folder is touched, whatever names it has. Returns the
/// bytes of all files once they are on the disk.
///
/// # Errors
/// [`LayerError`]: the archive is damaged or leads outside, or the folder cannot be written. What was written by then stays.
pub fn unpack(archive: impl Read + Send, folder: &Path, limits: Limits) -> Result<u64, LayerError> {
    let (bytes, _) = pipeline::run(archive, limits, |pieces| fill(pieces, folder, limits))?;
    Ok(bytes)
}

fn fill(pieces: impl Read, folder: &Path, limits: Limits) -> Result<u64, LayerError> {
    let mut writer = directory::Writer::within(folder);
    let mut reader = Reader::new(BufReader::with_capacity(1 << 18, pieces), limits);
    while let Some(entry) = reader.next_entry()? {
        if writer.written() > limits.layer_bytes {
            return Err(LayerError::TooLarge { path: path::show(&entry.path), limit: limits.layer_bytes });
        }
        let (at, mut stat) = (entry.path, entry.stat);
        stat.xattrs.retain(|name, _| is_kept_xattr(name));
        match entry.kind {
            Kind::File { size, segments } => {
                let shape = Shape { size, segments: segments.as_deref() };
                writer.file(&at, stat, shape, &mut reader.contents())?;
            }
            Kind::Directory => writer.add(&at, stat, Node::Directory)?,
            Kind::Symlink(target) => writer.add(&at, stat, Node::Symlink(target))?,
            Kind::Hardlink(target) => writer.link(&at, &target)?,
            Kind::Device { kind, major, minor } => writer.add(&at, stat, Node::Device { kind, major, minor })?,
            Kind::Fifo => writer.add(&at, stat, Node::Fifo)?,
        }
    }
    reader.drain()?;
    Ok(writer.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::write_backup;
    use std::fs::{self, File};
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

    fn open(folder: &Path) -> std::os::fd::OwnedFd {
        use rustix::fs::{Mode, OFlags};
        rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn a_folder_comes_back_as_it_was() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| from.path().join(name);
        fs::write(at("plain"), "text").unwrap();
        fs::hard_link(at("plain"), at("again")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("folder/.wh.kept"), "no whiteout here").unwrap();
        fs::set_permissions(at("folder"), fs::Permissions::from_mode(0o1750)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        let sparse = File::create(at("sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
        sparse.write_all_at(b"middle", 32 << 20).unwrap();
        File::create(at("hole")).unwrap().set_len(1 << 20).unwrap();
        drop(sparse);
        let mut archive = Vec::new();
        write_backup(&open(from.path()), &mut archive).unwrap();
        assert!(archive.len() < 1 << 20, "holes were written: {} bytes", archive.len());
        unpack(&archive[..], to.path(), Limits::default()).unwrap();
        let got = |name: &str| fs::symlink_metadata(to.path().join(name)).unwrap();
        assert_eq!(fs::read(to.path().join("plain")).unwrap(), b"text");
        assert_eq!((got("plain").ino(), got("plain").nlink()), (got("again").ino(), 2));
        assert_eq!(got("folder").mode() & 0o7777, 0o1750);
        assert!(to.path().join("folder/.wh.kept").is_file());
        assert_eq!(fs::read_link(to.path().join("link")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::read(to.path().join("sparse")).unwrap(), fs::read(at("sparse")).unwrap());
        assert!(got("sparse").blocks() * 512 < 1 << 20, "the holes are filled");
        assert_eq!((got("hole").len(), got("hole").mtime()), (1 << 20, fs::metadata(at("hole")).unwrap().mtime()));
        let mut twice = Vec::new();
        write_backup(&open(to.path()), &mut twice).unwrap();
        assert!(archive == twice, "a copy's archive differs");
    }

    #[test]
    fn damaged_archives_are_refused() {
        let to = tempfile::tempdir().unwrap();
        assert!(unpack(&b"no archive at all"[..], to.path(), Limits::default()).is_err());
        assert!(unpack(&[][..], to.path(), Limits::default()).is_err());
    }
}
