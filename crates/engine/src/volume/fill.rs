//! The first use of a volume: what the image has in its place is copied into it.

use super::{Volume, is_empty, open_folder};
use crate::error::{EngineError, Result};
use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Whether a container that runs sees the volume's folder by now, so that it must stay the same folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The folder may be replaced.
    No,
    /// It must stay, and so must a mount's root.
    Yes,
}

/// Fills an empty volume with what the folder `target` of `root` holds, its owner and mode included. A volume that has something,
/// and a target that is not there or no folder, are left alone.
///
/// # Errors
/// If something cannot be read or written; a volume that nobody sees is still empty then.
pub(crate) fn fill(volume: &Volume, root: BorrowedFd<'_>, target: &str, seen: Seen) -> Result<()> {
    let failed = |what: &str, error: &dyn std::error::Error| {
        EngineError::internal(format!("cannot fill volume {} with the image's {target}: {what}", volume.name), error)
    };
    if !is_empty(&volume.path).map_err(|error| failed("reading it", &error))? {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = target.trim_start_matches('/');
    let from = match rustix::fs::openat2(root, inside, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(from) => from,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(error) => return Err(failed("opening it", &error)),
    };
    let source = PathBuf::from(format!("/proc/self/fd/{}/.", from.as_raw_fd()));
    if is_empty(&source).map_err(|error| failed("reading it", &error))? {
        return like(&from, &volume.path).map_err(|error| failed("setting its owner", &error));
    }
    if seen == Seen::Yes {
        return copy(&from, &volume.path).map_err(|error| failed("copying", &*error));
    }
    let fresh = fresh_folder(volume).map_err(|error| failed("making a folder", &error))?;
    copy(&from, &fresh).map_err(|error| failed("copying", &*error))?;
    // an empty folder is replaced at once, so that a volume has all of it or nothing
    std::fs::rename(&fresh, &volume.path).map_err(|error| failed("putting it in place", &error))
}

/// An empty folder beside a volume's own, to be filled and to take its place.
pub(super) fn fresh_folder(volume: &Volume) -> io::Result<PathBuf> {
    let fresh = volume.home().join(".fresh");
    crate::sweep::folder(&fresh)?;
    std::fs::create_dir(&fresh)?;
    Ok(fresh)
}

/// Gives a folder the owner and mode of another.
fn like(from: &OwnedFd, to: &Path) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let to = open_folder(to)?;
    rustix::fs::fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode))
}

fn copy(from: &OwnedFd, to: &Path) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let (reader, writer) = io::pipe()?;
    std::thread::scope(|scope| {
        let read = scope.spawn(move || image::export::write_backup(from, writer));
        let written = image::unpack(reader, to, image::Limits { compression_ratio: u64::MAX, ..Default::default() });
        // a walk that fails leaves an archive without an end, which is then refused for that
        match (read.join(), written) {
            (Ok(Err(error @ image::export::ExportError::Read { .. })), _) => Err(error.into()),
            (_, Err(error)) => Err(error.into()),
            (_, Ok(_)) => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn volume(home: &Path) -> Volume {
        std::fs::create_dir_all(home.join("_data")).unwrap();
        Volume {
            name: "v".into(),
            path: home.join("_data"),
            created_ns: 0,
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
            anonymous: false,
            made_for: None,
            project: None,
        }
    }

    #[test]
    fn only_an_empty_volume_is_filled() {
        let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let image = |name: &str| root.path().join(name);
        std::fs::create_dir_all(image("data/sub")).unwrap();
        std::fs::write(image("data/sub/file"), "from the image").unwrap();
        std::fs::set_permissions(image("data"), std::fs::Permissions::from_mode(0o1770)).unwrap();
        std::fs::create_dir(image("bare")).unwrap();
        std::fs::set_permissions(image("bare"), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink("/data", image("link")).unwrap();
        let fd = open_folder(root.path()).unwrap();
        let fd = std::os::fd::AsFd::as_fd(&fd);
        let volume = volume(home.path());
        fill(&volume, fd, "/nowhere", Seen::No).unwrap();
        fill(&volume, fd, "/bare", Seen::No).unwrap();
        assert_eq!(volume.path.metadata().unwrap().mode() & 0o7777, 0o700);
        // a link leads to a folder of the image, not of the host
        fill(&volume, fd, "/link", Seen::No).unwrap();
        assert_eq!(std::fs::read(volume.path.join("sub/file")).unwrap(), b"from the image");
        assert_eq!(volume.path.metadata().unwrap().mode() & 0o7777, 0o1770);
        std::fs::write(volume.path.join("sub/file"), "the user's").unwrap();
        fill(&volume, fd, "/data", Seen::Yes).unwrap();
        assert_eq!(std::fs::read(volume.path.join("sub/file")).unwrap(), b"the user's");
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_folder_that_is_seen_stays_the_same() {
        let (root, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(root.path().join("data")).unwrap();
        std::fs::write(root.path().join("data/file"), "x").unwrap();
        let volume = volume(home.path());
        let before = volume.path.metadata().unwrap().ino();
        let fd = open_folder(root.path()).unwrap();
        fill(&volume, std::os::fd::AsFd::as_fd(&fd), "/data", Seen::Yes).unwrap();
        assert_eq!(volume.path.metadata().unwrap().ino(), before);
        assert!(volume.path.join("file").is_file());
    }
}
