//! The status of a container, as the kernel shows it.

use super::record::{Birth, Mark, Origin};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fmt::{self, Display};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// The file system of pidfds, where they have one of their own: linux/magic.h.
const PIDFS: u64 = 0x5049_4446;
/// Forked, has not executed anything yet: `PF_FORKNOEXEC` of linux/sched.h.
const FORK_NO_EXEC: u64 = 0x40;

/// A container's status, in the specification's words and runc's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It is being made, or what made it was killed.
    Creating,
    /// The first process waits.
    Created,
    /// The program runs.
    Running,
    /// All its processes stand still.
    Paused,
    /// The first process has ended.
    Stopped,
}

impl Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// What the kernel says of a process: proc_pid_stat(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) state: u8,
    pub(crate) flags: u64,
    /// In ticks since boot.
    pub(crate) start: u64,
}

impl Seen {
    /// Looks at a process; `None` when it is gone.
    pub(crate) fn at(pid: i32) -> Option<Self> {
        // the kernel's line is a few hundred bytes
        let mut line = [0; 1024];
        let file =
            rustix::fs::open(format!("/proc/{pid}/stat"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let count = rustix::io::read(&file, &mut line).ok()?;
        sys::process::close_later(file);
        Self::parse(line.get(..count)?)
    }

    pub(crate) fn parse(stat: &[u8]) -> Option<Self> {
        // the name may have anything in it, so the fields are counted from its end
        let name_end = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let flags = fields.nth(5)?.parse().ok()?;
        let start = fields.nth(12)?.parse().ok()?;
        Some(Self { state, flags, start })
    }
}

impl Mark {
    /// The mark of the process behind a pidfd; `None` when it is gone.
    pub(crate) fn of(pid: i32, process: BorrowedFd<'_>) -> Option<Self> {
        let own = rustix::fs::fstatfs(process).is_ok_and(|system| u64::try_from(system.f_type) == Ok(PIDFS));
        if own {
            return rustix::fs::fstat(process).ok().map(|stat| Self::Inode(stat.st_ino));
        }
        Seen::at(pid).map(|seen| Self::Start(seen.start))
    }

    /// The mark of a living process that nobody reaps meanwhile.
    pub(crate) fn at(pid: i32) -> Option<Self> {
        let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        Self::of(pid, pidfd.as_fd())
    }

    /// Whether the process of this number is the one that was marked; what is seen of it was seen after the pidfd was opened.
    fn is_of(self, process: BorrowedFd<'_>, seen: &Seen) -> bool {
        match self {
            Self::Inode(inode) => rustix::fs::fstat(process).is_ok_and(|stat| stat.st_ino == inode),
            Self::Start(start) => seen.start == start,
        }
    }
}

/// The recorded first process, while it lives, and what is seen of it.
fn first(birth: &Birth) -> Option<(OwnedFd, Seen)> {
    let pidfd = pidfd_open(Pid::from_raw(birth.pid)?, PidfdFlags::empty()).ok()?;
    // opened first, looked at afterwards: the number cannot be used again now
    let seen = Seen::at(birth.pid).filter(|seen| !matches!(seen.state, b'Z' | b'X'))?;
    birth.mark.is_of(pidfd.as_fd(), &seen).then_some((pidfd, seen))
}

/// The status of a container by its first process, and that process while it lives.
pub(crate) fn look(birth: Option<&Birth>) -> (Status, Option<OwnedFd>) {
    let Some(birth) = birth else { return (Status::Creating, None) };
    let Some((process, seen)) = first(birth) else { return (Status::Stopped, None) };
    // criu's processes never execute what they are: they are forked and filled
    let waits = seen.flags & FORK_NO_EXEC != 0 && birth.origin == Origin::Made;
    let status = match () {
        () if frozen(birth) => Status::Paused,
        () if waits => Status::Created,
        () => Status::Running,
    };
    (status, Some(process))
}

/// The status of a container by its first process.
pub(crate) fn of(birth: Option<&Birth>) -> Status {
    look(birth).0
}

fn frozen(birth: &Birth) -> bool {
    let text = birth.freezer.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    text.is_some_and(|text| matches!(text.trim(), "FROZEN" | "FREEZING" | "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_understood_whatever_the_name() {
        let line = "7 (a) (b c) S 1 7 7 0 -1 4194368 90 0 0 0 0 0 0 0 20 0 1 0 31337 1000 200";
        let seen = Seen::parse(line.as_bytes()).unwrap();
        assert_eq!(seen, Seen { state: b'S', flags: 4_194_368, start: 31337 });
        assert_ne!(seen.flags & FORK_NO_EXEC, 0);
        assert_eq!(Seen::parse(b"7 (a"), None);
    }

    #[test]
    fn this_process_has_been_executed() {
        let own = Seen::at(rustix::process::getpid().as_raw_nonzero().get()).unwrap();
        assert_eq!(own.flags & FORK_NO_EXEC, 0);
        let pid = rustix::process::getpid();
        let birth = |mark: Mark| -> Birth {
            let mut text =
                serde_json::json!({"pid": pid.as_raw_nonzero().get(), "namespaces": 0, "group": {"hierarchies": []}});
            let mark = serde_json::to_value(mark).unwrap();
            text.as_object_mut().unwrap().extend(mark.as_object().unwrap().clone());
            serde_json::from_value(text).unwrap()
        };
        assert_eq!(of(Some(&birth(Mark::Start(own.start)))), Status::Running);
        assert_eq!(of(Some(&birth(Mark::Start(own.start + 1)))), Status::Stopped);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let mark = Mark::of(pid.as_raw_nonzero().get(), pidfd.as_fd()).unwrap();
        assert_eq!(of(Some(&birth(mark))), Status::Running);
        if let Mark::Inode(inode) = mark {
            assert_eq!(of(Some(&birth(Mark::Inode(inode + 1)))), Status::Stopped);
        }
        assert_eq!(of(None), Status::Creating);
    }
}
