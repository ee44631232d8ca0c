//! One daemon for each run folder.

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The pid file, locked; removed when dropped.
pub(crate) struct PidFile {
    path: PathBuf,
    _locked: File,
}

/// Takes the folder for this process.
pub(crate) fn take(run: &Path) -> Result<PidFile> {
    let path = run.join("insulad.pid");
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(&path).with_context(
            || format!("cannot open {}; run as root, or give another folder with --run", path.display()),
        )?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        // only for the message
        let _ = file.read_to_string(&mut pid);
        let pid = pid.trim();
        bail!(
            "a daemon runs already for {} (process {pid}); stop it first, or give another folder with --run",
            run.display()
        );
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(PidFile { path, _locked: file })
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // a stale file does no harm: the lock is what counts
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::take;

    #[test]
    fn second_daemon_is_refused_and_told_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path()).unwrap();
        let error = take(dir.path()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()) && error.contains("--run"), "{error}");
        drop(first);
        assert!(!dir.path().join("insulad.pid").exists());
        take(dir.path()).unwrap();
    }
}
