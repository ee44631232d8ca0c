//! News that a group ran out of memory, as a descriptor to poll.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, inotify};
use rustix::io::Errno;
use sys::SysError;

use crate::hierarchy::Kind;
use crate::{CgroupError, Group, Result};

/// What a look at an [`OomWatch`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomNews {
    /// Nothing that is new.
    Nothing,
    /// The group ran out of memory since the last look.
    OutOfMemory,
    /// The group was removed or, in version 2, its last process has ended; nothing more will come.
    Gone,
}

/// A descriptor that becomes readable when the group may have run out of memory.
#[derive(Debug)]
pub struct OomWatch {
    group: Group,
    kind: Kind,
    file: String,
    fd: OwnedFd,
    kills: u64,
    /// The end was seen together with want of memory, and is still to be told.
    ended: Ended,
}

/// Whether the last process is known to have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Yes,
    NotYet,
}

impl Group {
    /// Watches the group for want of memory.
    ///
    /// In version 1 that is an eventfd that the kernel signals, in version 2 an inotify watch on `memory.events`.
    ///
    /// # Errors
    /// [`CgroupError::Unsupported`] without a memory controller; when the kernel refuses the watch.
    pub fn watch_oom(&self) -> Result<OomWatch> {
        let found = self.shared().v1("memory").or(self.shared().v2().filter(|own| own.has("memory")));
        let Some(hierarchy) = found else {
            return Err(CgroupError::Unsupported {
                what: "memory",
                controller: "memory",
                advice: "enable the controller in the kernel and mount it",
            });
        };
        let kind = hierarchy.kind;
        let name = if kind == Kind::V1 { "memory.oom_control" } else { "memory.events" };
        let file = self.file(hierarchy, name);
        let wrap = |call: &'static str| {
            let file = hierarchy.path(&file);
            move |errno: Errno| CgroupError::Read { file, source: SysError::new(call, errno) }
        };
        let kills = self.oom_kills()?;
        let fd = if kind == Kind::V1 {
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(wrap("eventfd2"))?;
            let control = hierarchy.open_file(&file, OFlags::RDONLY).map_err(wrap("openat"))?;
            let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            let target = self.file(hierarchy, "cgroup.event_control");
            let refused =
                |source| CgroupError::Write { file: hierarchy.path(&target), value: line.clone(), hint: "", source };
            hierarchy.write(&target, &line).map_err(refused)?;
            event
        } else {
            let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK);
            let watch = watch.map_err(wrap("inotify_init1"))?;
            let path = hierarchy.path(&file);
            let own = hierarchy.path(&self.file(hierarchy, "cgroup.events"));
            // Removing a group tells nobody; that it has no process any more is told by its other file of events.
            for path in [path, own] {
                inotify::add_watch(&watch, &path, inotify::WatchFlags::MODIFY).map_err(wrap("inotify_add_watch"))?;
            }
            watch
        };
        Ok(OomWatch { group: self.clone(), kind, file, fd, kills, ended: Ended::NotYet })
    }
}

impl OomWatch {
    /// Takes what has come since the last look, without waiting. To be called until it is [`OomNews::Nothing`] or
    /// [`OomNews::Gone`], since the descriptor may tell of two things at once.
    ///
    /// # Errors
    /// When the counter can't be read or understood.
    pub fn take(&mut self) -> Result<OomNews> {
        let mut buffer = [0_u8; 4096];
        let mut came = false;
        while rustix::io::read(&self.fd, &mut buffer).is_ok_and(|count| count > 0) {
            came = true;
            if self.kind == Kind::V1 {
                break;
            }
        }
        if self.ended == Ended::Yes {
            return Ok(OomNews::Gone);
        }
        if !came {
            return Ok(OomNews::Nothing);
        }
        let shared = self.group.shared();
        let hierarchy = shared.v1("memory").or(shared.v2());
        // Removing the group signals the descriptor as well.
        let Some(hierarchy) = hierarchy.filter(|own| own.exists(&self.file)) else {
            return Ok(OomNews::Gone);
        };
        if self.kind == Kind::V2 {
            let text = hierarchy.read_optional(&self.group.file(hierarchy, "cgroup.events"))?.unwrap_or_default();
            if text.lines().any(|line| line == "populated 0") {
                self.ended = Ended::Yes;
            }
        }
        let before = std::mem::replace(&mut self.kills, self.group.oom_kills()?);
        // Version 1 tells before it kills; version 2 tells of every event of the file, such as a limit that was reached.
        let out = self.kind == Kind::V1 || self.kills > before;
        Ok(match (out, self.ended) {
            (true, _) => OomNews::OutOfMemory,
            (false, Ended::Yes) => OomNews::Gone,
            (false, Ended::NotYet) => OomNews::Nothing,
        })
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
