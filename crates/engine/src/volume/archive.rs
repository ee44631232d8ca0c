//! A volume as an archive, and back.

use super::fill::fresh_folder;
use super::{Volume, open_folder};
use crate::error::{EngineError, ErrorClass, Result};
use std::io::{self, Read, Write};
use std::path::Path;

/// Where a mount's new content is gathered, and where its old one goes.
const NEW: &str = ".insula-restore-new";
const OLD: &str = ".insula-restore-old";

/// Writes a volume as a tar archive: owners, times, extended attributes, hard links, holes and device nodes included.
///
/// # Errors
/// If it cannot be read or `out` cannot be written.
pub(crate) fn backup(volume: &Volume, out: impl Write) -> Result<()> {
    let failed = |error: &dyn std::error::Error| {
        EngineError::internal(format!("cannot write volume {} to an archive", volume.name), error)
    };
    let folder = open_folder(&volume.path).map_err(|error| failed(&error))?;
    image::export::write_backup(&folder, out).map_err(|error| failed(&error))
}

/// Replaces a volume's content by that of an archive, which may be compressed: all of it once it is whole and on the disk, or
/// nothing.
///
/// # Errors
/// [`ErrorClass::Invalid`] for an archive that is damaged; the volume is as it was then.
pub(crate) fn restore(volume: &Volume, archive: impl Read + Send) -> Result<()> {
    if volume.is_mount() {
        return within_mount(volume, archive);
    }
    let fresh = fresh_folder(volume).map_err(|error| failed(volume, "cannot make a folder", &error))?;
    let done = unpacked(volume, archive, &fresh).and_then(|()| {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, &fresh, CWD, &volume.path, RenameFlags::EXCHANGE)
            .map_err(|error| failed(volume, "cannot put the new content in place", &error))
    });
    // the archive's content if that was refused, else what the volume held before
    let swept = crate::sweep::folder(&fresh);
    done?;
    swept.map_err(|error| failed(volume, "cannot delete the former content", &error))
}

/// A mount's root cannot be exchanged: what is in it is, name by name.
fn within_mount(volume: &Volume, archive: impl Read + Send) -> Result<()> {
    let (new, old) = (volume.path.join(NEW), volume.path.join(OLD));
    let cannot = |error: io::Error| failed(volume, "cannot exchange the content", &error);
    crate::sweep::folder(&new).and_then(|()| std::fs::create_dir(&new)).map_err(cannot)?;
    if let Err(error) = unpacked(volume, archive, &new) {
        let _ = crate::sweep::folder(&new);
        return Err(error);
    }
    let moved = |from: &Path, to: &Path| -> io::Result<()> {
        for entry in std::fs::read_dir(from)? {
            let name = entry?.file_name();
            if name != NEW && name != OLD && name != "lost+found" {
                std::fs::rename(from.join(&name), to.join(&name))?;
            }
        }
        Ok(())
    };
    crate::sweep::folder(&old).and_then(|()| std::fs::create_dir(&old)).map_err(cannot)?;
    moved(&volume.path, &old).and_then(|()| moved(&new, &volume.path)).map_err(cannot)?;
    let meta = std::fs::metadata(&new).map_err(cannot)?;
    std::fs::set_permissions(&volume.path, meta.permissions()).map_err(cannot)?;
    let (uid, gid) = (std::os::unix::fs::MetadataExt::uid(&meta), std::os::unix::fs::MetadataExt::gid(&meta));
    std::os::unix::fs::chown(&volume.path, Some(uid), Some(gid)).map_err(cannot)?;
    crate::sweep::folder(&old).and_then(|()| crate::sweep::folder(&new)).map_err(cannot)
}

fn unpacked(volume: &Volume, archive: impl Read + Send, folder: &Path) -> Result<()> {
    image::unpack(archive, folder, image::Limits::default()).map_err(|error| {
        EngineError::because(ErrorClass::Invalid, format!("volume {} stays as it is", volume.name), &error)
    })?;
    let fd = open_folder(folder).map_err(|error| failed(volume, "cannot open the new content", &error))?;
    rustix::fs::syncfs(&fd).map_err(|error| failed(volume, "cannot bring the new content to the disk", &error))
}

fn failed(volume: &Volume, what: &str, error: &dyn std::error::Error) -> EngineError {
    EngineError::internal(format!("cannot restore volume {}: {what}", volume.name), error)
}
