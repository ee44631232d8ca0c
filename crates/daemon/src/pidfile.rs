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
    /// Where others look for it.
    also: Option<PathBuf>,
    _locked: File,
}

/// Takes the folder for this process, and tells its id in one more file if there is to be one.
pub(crate) fn take(run: &Path, also: Option<&Path>) -> Result<PidFile> {
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
    if let Some(path) = also {
        tell(path)?;
    }
    Ok(PidFile { path, also: also.map(Path::to_owned), _locked: file })
}

/// Writes a pid file that names no other living process.
fn tell(path: &Path) -> Result<()> {
    let own = std::process::id();
    let known = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    if let Some(other) = known.filter(|pid| *pid != own && Path::new(&format!("/proc/{pid}")).exists()) {
        bail!(
            "process with PID {other} is still running: {} names it; stop it, or give another --pidfile",
            path.display()
        );
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, format!("{own}\n")))
        .with_context(|| format!("cannot write {}", path.display()))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // a stale file does no harm: the lock is what counts
        for path in [Some(&self.path), self.also.as_ref()].into_iter().flatten() {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::take;

    #[test]
    fn second_daemon_is_refused_and_told_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path(), None).unwrap();
        let error = take(dir.path(), None).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()) && error.contains("--run"), "{error}");
        drop(first);
        assert!(!dir.path().join("insulad.pid").exists());
        take(dir.path(), None).unwrap();
    }

    #[test]
    fn another_file_names_the_process_too() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("sub/docker.pid");
        let taken = take(dir.path(), Some(&other)).unwrap();
        assert_eq!(std::fs::read_to_string(&other).unwrap().trim(), std::process::id().to_string());
        drop(taken);
        assert!(!other.exists());
        std::fs::write(&other, "1").unwrap();
        let error = take(dir.path(), Some(&other)).map(drop).unwrap_err().to_string();
        assert!(error.contains("PID 1 is still running"), "{error}");
    }
}
