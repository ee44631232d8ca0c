//! The processes of a group: listed, signalled, frozen.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Group, RACES, Tenancy, refused};
use crate::hierarchy::Hierarchy;
use crate::plan::NO_CONTROLLER;
use crate::{CgroupError, Result};

/// How long a freeze or thaw may take.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

impl Group {
    /// Stops every process of the group where it is, and returns when all of them stand still.
    ///
    /// # Errors
    /// When the host can't freeze groups, or the group is not frozen after ten seconds.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen("frozen")
    }

    /// Lets the processes of a frozen group go on.
    ///
    /// # Errors
    /// When the host can't freeze groups, or the group is not thawed after ten seconds.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen("thawed")
    }

    /// The processes of the group and of the groups below it, sorted.
    ///
    /// # Errors
    /// When a file can't be read or has no numbers in it. A group that is gone has no processes.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let shared = &self.shared;
        let best = shared.v2().filter(|_| shared.hierarchies.len() == 1).or_else(|| shared.v1("pids"));
        let Some(hierarchy) = best.or_else(|| shared.v1("freezer")).or(shared.hierarchies.first().map(Arc::as_ref))
        else {
            return Ok(Vec::new());
        };
        let mut pids = BTreeSet::new();
        collect_pids(hierarchy, self.at(hierarchy), &mut pids)?;
        Ok(pids.into_iter().collect())
    }

    /// Sends a signal to every process of the group and of the groups below it, and says to how many.
    ///
    /// # Errors
    /// When a process can't be signalled for another reason than that it is gone.
    pub fn signal_all(&self, signal: i32) -> Result<usize> {
        let mut reached = 0;
        for pid in self.pids()? {
            match sys::signal::kill(pid, signal) {
                Ok(()) => reached += 1,
                Err(error) if error.errno == Errno::SRCH => {}
                Err(source) => return Err(CgroupError::Signal { pid, signal, source }),
            }
        }
        Ok(reached)
    }

    /// Kills every process of the group and of the groups below it, also when they fork meanwhile or are frozen; none where some
    /// are others'.
    ///
    /// # Errors
    /// When a process can't be signalled.
    pub fn kill(&self) -> Result<()> {
        const SIGKILL: i32 = 9;
        if self.tenancy == Tenancy::Shared {
            return Ok(());
        }
        let whole = self.shared.v2().filter(|own| !self.shared.is_aside(own));
        let at_once = whole.is_some_and(|own| own.write(&self.file(own, "cgroup.kill"), "1").is_ok());
        // Each round reaches what was forked before it; only a process killed twice has not been reaped yet.
        let mut killed = BTreeSet::new();
        let rounds = if at_once { 0 } else { RACES };
        for _ in 0..rounds {
            let before = killed.len();
            for pid in self.pids()? {
                match sys::signal::kill(pid, SIGKILL) {
                    Ok(()) => killed.insert(pid),
                    Err(error) if error.errno == Errno::SRCH => false,
                    Err(source) => return Err(CgroupError::Signal { pid, signal: SIGKILL, source }),
                };
            }
            if killed.len() == before {
                break;
            }
        }
        if let Some(freezer) = self.shared.v1("freezer") {
            // A frozen process of version 1 dies only after it is thawed; groups that were never frozen don't mind.
            let _ = freezer.write(&self.file(freezer, "freezer.state"), "THAWED");
        }
        Ok(())
    }

    fn set_frozen(&self, state: &'static str) -> Result<()> {
        let freeze = state == "frozen";
        let unsupported =
            || CgroupError::Unsupported { what: "running processes", controller: "freezer", advice: NO_CONTROLLER };
        let (hierarchy, write, value, read, done) = if let Some(own) = self.shared.v1("freezer") {
            let word = if freeze { "FROZEN" } else { "THAWED" };
            (own, self.file(own, "freezer.state"), word, self.file(own, "freezer.state"), word)
        } else {
            let own = self.shared.v2().ok_or_else(unsupported)?;
            let (value, done) = if freeze { ("1", "frozen 1") } else { ("0", "frozen 0") };
            (own, self.file(own, "cgroup.freeze"), value, self.file(own, "cgroup.events"), done)
        };
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        let mut pause = Duration::from_micros(50);
        loop {
            // Version 1 can lose the race with a process that forks; writing again freezes what it left.
            hierarchy.write(&write, value).map_err(|source| refused(hierarchy, &write, value.to_owned(), source))?;
            if hierarchy.read(&read)?.lines().any(|line| line.trim() == done) {
                return Ok(());
            }
            if Instant::now() > deadline {
                if freeze {
                    // Half frozen is worse than not frozen.
                    let _ = self.thaw();
                }
                let timeout_ms = u64::try_from(FREEZE_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
                return Err(CgroupError::StateTimeout { dir: hierarchy.path(self.at(hierarchy)), state, timeout_ms });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}

pub(super) fn collect_pids(hierarchy: &Hierarchy, path: &str, pids: &mut BTreeSet<i32>) -> Result<()> {
    let file = format!("{path}/cgroup.procs");
    for line in hierarchy.read_optional(&file)?.unwrap_or_default().lines() {
        let pid: i32 = line
            .trim()
            .parse()
            .map_err(|_| CgroupError::Parse { file: hierarchy.path(&file), text: line.to_owned() })?;
        // 0 is a process of another pid namespace, and as a target of kill it would be our own process group.
        if pid > 0 {
            pids.insert(pid);
        }
    }
    for child in hierarchy.children(path) {
        collect_pids(hierarchy, &format!("{path}/{child}"), pids)?;
    }
    Ok(())
}
