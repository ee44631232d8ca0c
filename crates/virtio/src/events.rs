//! What wakes a device: its queues' notifications, timers, sockets. One epoll set a device, so that whoever runs the device
//! has one descriptor to watch, whatever comes and goes behind it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};

pub use rustix::event::epoll::EventFlags as Interest;

/// How many events are taken at once.
const BATCH: usize = 32;

/// A notification that any thread and the kernel (ioeventfd) can give: an eventfd.
#[derive(Debug)]
pub struct Kick(OwnedFd);

impl Kick {
    /// A new one.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn new() -> Result<Self, Errno> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Self)
    }

    /// Notifies. One that is already pending is enough.
    pub fn kick(&self) {
        // The only failure is a counter that is full, so a notification is pending.
        let _full = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Whether there was a notification; there is none afterwards.
    pub fn take(&self) -> bool {
        rustix::io::read(&self.0, &mut [0_u8; 8]).is_ok()
    }
}

impl AsFd for Kick {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A timer that is readable when it has run out.
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// A timer that does not run.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn new() -> Result<Self, Errno> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags).map(Self)
    }

    /// Lets the timer run out once after `delay`, not earlier than a nanosecond from now.
    ///
    /// # Errors
    /// None that the kernel documents for valid times.
    pub fn set(&self, delay: Duration) -> Result<(), Errno> {
        let delay = delay.max(Duration::from_nanos(1));
        let seconds = i64::try_from(delay.as_secs()).unwrap_or(i64::MAX);
        self.arm(Timespec { tv_sec: seconds, tv_nsec: delay.subsec_nanos().into() })
    }

    /// Stops the timer.
    ///
    /// # Errors
    /// None that the kernel documents.
    pub fn stop(&self) -> Result<(), Errno> {
        self.arm(Timespec { tv_sec: 0, tv_nsec: 0 })
    }

    /// Whether the timer has run out since the last time.
    pub fn take(&self) -> bool {
        rustix::io::read(&self.0, &mut [0_u8; 8]).is_ok()
    }

    fn arm(&self, value: Timespec) -> Result<(), Errno> {
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        rustix::time::timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once).map(drop)
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a device waits for. Each descriptor has a token of the device's choice.
#[derive(Debug)]
pub struct Events(OwnedFd);

impl Events {
    /// An empty set.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn new() -> Result<Self, Errno> {
        epoll::create(CreateFlags::CLOEXEC).map(Self)
    }

    /// Watches a descriptor.
    ///
    /// # Errors
    /// It is watched already, or can't be (`EPERM`: a regular file).
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), Errno> {
        epoll::add(&self.0, fd, EventData::new_u64(token), interest)
    }

    /// Watches a descriptor for something else.
    ///
    /// # Errors
    /// It is not watched.
    pub fn change(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), Errno> {
        epoll::modify(&self.0, fd, EventData::new_u64(token), interest)
    }

    /// Watches a descriptor no longer. One that is not watched is no failure.
    pub fn remove(&self, fd: impl AsFd) {
        let _not_watched = epoll::delete(&self.0, fd);
    }

    /// What has happened, without waiting: tokens, each with what its descriptor is ready for.
    ///
    /// # Errors
    /// None that the kernel documents for a set of one's own.
    pub fn take(&self) -> Result<Vec<(u64, Interest)>, Errno> {
        self.wait(Some(Duration::ZERO))
    }

    /// What has happened, waiting for it as long as `limit`, or for good.
    ///
    /// # Errors
    /// None that the kernel documents for a set of one's own.
    pub fn wait(&self, limit: Option<Duration>) -> Result<Vec<(u64, Interest)>, Errno> {
        let limit = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        let mut room = [Event { flags: Interest::empty(), data: EventData::new_u64(0) }; BATCH];
        match epoll::wait(&self.0, &mut room[..], limit.as_ref()) {
            Ok(count) => Ok(room[..count].iter().map(|event| (event.data.u64(), event.flags)).collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a descriptor is watched for just now, so that the kernel is told of changes only. One that is wanted for nothing is
/// not watched at all, since a hang-up would be told again and again.
#[derive(Debug)]
pub struct Watch(Interest);

impl Default for Watch {
    fn default() -> Self {
        Self(Interest::empty())
    }
}

impl Watch {
    /// What it is watched for.
    #[must_use]
    pub fn interest(&self) -> Interest {
        self.0
    }

    /// Watches for `wanted` from now on.
    ///
    /// # Errors
    /// As [`Events::add`]; then it is as if nothing were wanted.
    pub fn set(&mut self, events: &Events, fd: impl AsFd, token: u64, wanted: Interest) -> Result<(), Errno> {
        let before = std::mem::replace(&mut self.0, wanted);
        let outcome = match (before.is_empty(), wanted.is_empty()) {
            _ if before == wanted => Ok(()),
            (true, _) => events.add(fd, token, wanted),
            (_, true) => {
                events.remove(fd);
                Ok(())
            }
            _ => events.change(fd, token, wanted),
        };
        if outcome.is_err() {
            self.0 = Interest::empty();
        }
        outcome
    }
}
