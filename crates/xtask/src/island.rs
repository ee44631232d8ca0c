//! A private Insula: its own programs, state, sockets and control groups, gone when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::residue::{self, folders};
use crate::shell::Run;

/// A folder for one run of a task, with a daemon of its own once [`Island::start_daemon`] was called.
pub(crate) struct Island {
    bin: PathBuf,
    dir: PathBuf,
    socket: PathBuf,
}

impl Island {
    /// Makes the folders; `bin` holds `insula`, `insulad` and the helpers.
    pub(crate) fn create(bin: PathBuf, purpose: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("insula-{purpose}-{}", std::process::id()));
        for folder in ["root", "run", "work"] {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let socket = dir.join("run/docker.sock");
        Ok(Self { bin, dir, socket })
    }

    /// A folder for whatever the task makes.
    pub(crate) fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// The daemon's state.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Where the daemon listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// The daemon and its helper for networks.
    pub(crate) fn daemons(&self) -> Vec<i32> {
        let is_daemon = |pid: &i32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            ["insulad", "insula-netd"].contains(&name.trim_end())
        };
        let named = processes_naming(&self.dir).into_iter().map(|pid| pid.as_raw_nonzero().get());
        named.filter(is_daemon).collect()
    }

    /// `insula` with these arguments, talking to this island's daemon.
    pub(crate) fn insula(&self, arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Run {
        Run::new(self.bin.join("insula"))
            .env_remove("DOCKER_HOST")
            .env_remove("INSULA_HOST")
            .env("INSULA_ROOT", self.dir.join("root"))
            .env("INSULA_RUN", self.dir.join("run"))
            .args(arguments)
    }

    /// Starts `insulad` in the control group that this process is in, and waits until its socket answers.
    pub(crate) fn start_daemon(&self, cgroup_parent: &str) -> Result<()> {
        let log = self.dir.join("insulad.log");
        // A session of its own: Ctrl-C at our terminal is for us, and we stop the daemon ourselves.
        let mut child = Run::new("setsid")
            .args([self.bin.join("insulad").as_os_str()])
            .args(["--root".as_ref(), self.dir.join("root").as_os_str()])
            .args(["--run".as_ref(), self.dir.join("run").as_os_str()])
            .args(["--cgroup-parent", cgroup_parent])
            .log(&log)?
            .spawn()?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(&self.socket).is_err() {
            if child.try_wait().is_ok_and(|status| status.is_some()) || Instant::now() > deadline {
                let log = fs::read_to_string(&log).unwrap_or_default();
                bail!("insulad does not answer on {}; it said:\n{}", self.socket.display(), log.trim_end());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Removes every container, stops the daemon, and deletes the folders. What stays is named in the error.
    pub(crate) fn remove(&self) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        if self.socket.exists() {
            self.remove_containers();
            let stop = self.insula(["daemon", "stop"]).uninterruptible().quiet().timeout(Duration::from_secs(30));
            let _ = stop.status();
        }
        end_processes_naming(&self.dir);
        unmount_below(&self.dir);
        fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }

    fn remove_containers(&self) {
        let quick = |run: Run| run.uninterruptible().timeout(Duration::from_secs(60));
        let Ok(ids) = quick(self.insula(["ps", "-aq"])).output() else { return };
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            let _ = quick(self.insula(["rm", "-f"]).args(&ids)).quiet().status();
        }
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("warning: {error:#}");
        }
    }
}

/// Ends the processes whose command line names `dir`: the daemon and the helpers of this island, nobody else's.
fn end_processes_naming(dir: &Path) {
    for (signal, patience) in [(Signal::TERM, Duration::from_secs(5)), (Signal::KILL, Duration::from_secs(5))] {
        let deadline = Instant::now() + patience;
        let mut found = processes_naming(dir);
        for pid in &found {
            let _ = kill_process(*pid, signal);
        }
        while !found.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            found = processes_naming(dir);
        }
        if found.is_empty() {
            return;
        }
    }
}

fn processes_naming(dir: &Path) -> Vec<Pid> {
    let wanted = dir.as_os_str().as_encoded_bytes();
    let own = Pid::from_raw(i32::try_from(std::process::id()).unwrap_or(0));
    let naming = residue::processes().into_iter().filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(wanted.len()).any(|window| window == wanted)
    });
    naming.filter_map(Pid::from_raw).filter(|pid| Some(*pid) != own).collect()
}

/// Takes away every mount below `dir`, the innermost first.
pub(crate) fn unmount_below(dir: &Path) {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    let mut ours: Vec<&str> = points.filter(|point| Path::new(point).starts_with(dir)).collect();
    ours.reverse();
    for point in ours {
        let _ = Run::new("umount").args(["-l", point]).uninterruptible().quiet().status();
    }
}

/// Removes a control group of a task in every hierarchy, with the groups below it.
pub(crate) fn remove_groups(name: &str) {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = std::iter::once(top.to_owned()).chain(folders(top));
    for group in hierarchies.map(|hierarchy| hierarchy.join(name)).filter(|group| group.is_dir()) {
        remove_group(&group);
    }
}

fn remove_group(group: &Path) {
    for below in folders(group) {
        remove_group(&below);
    }
    // A group stays busy for a moment after its last process has gone.
    for _ in 0..50 {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processes_naming_the_folder_are_ended() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("wait");
        fs::write(&script, "read -r line < /dev/zero; sleep 0").unwrap();
        let mut named = Run::new("sh").args([&script]).spawn().unwrap();
        let mut other = Run::new("sleep").args(["60"]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while processes_naming(dir.path()).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(processes_naming(dir.path()), [Pid::from_child(&named)]);
        let _ = named.kill();
        let _ = named.wait();
        assert!(processes_naming(dir.path()).is_empty());
        assert!(other.try_wait().unwrap().is_none());
        let _ = other.kill();
        let _ = other.wait();
    }
}
