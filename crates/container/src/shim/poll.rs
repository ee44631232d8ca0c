//! Readiness: an epoll set and the descriptors in it.

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use sys::{Result, SysError};

/// What became ready, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Listener,
    Memory,
    Daemon(u32),
    Client(u32),
    End(u32),
    Input(u32),
    Output(u32, Stream),
}

/// Which output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(super) const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];

    pub(super) fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }
}

impl Token {
    fn pack(self) -> u64 {
        let of = |kind: u64, key: u32| kind << 32 | u64::from(key);
        match self {
            Self::Listener => of(0, 0),
            Self::Memory => of(1, 0),
            Self::Daemon(key) => of(2, key),
            Self::Client(key) => of(3, key),
            Self::End(key) => of(4, key),
            Self::Input(key) => of(5, key),
            Self::Output(key, Stream::Stdout) => of(6, key),
            Self::Output(key, Stream::Stderr) => of(7, key),
        }
    }

    fn unpack(packed: u64) -> Self {
        let key = (packed & u64::from(u32::MAX)) as u32;
        match packed >> 32 {
            0 => Self::Listener,
            1 => Self::Memory,
            2 => Self::Daemon(key),
            3 => Self::Client(key),
            4 => Self::End(key),
            5 => Self::Input(key),
            6 => Self::Output(key, Stream::Stdout),
            _ => Self::Output(key, Stream::Stderr),
        }
    }
}

/// The set.
#[derive(Debug, Clone)]
pub(super) struct Poller(Rc<Inner>);

struct Inner {
    epoll: OwnedFd,
    events: RefCell<Vec<Event>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

impl Poller {
    pub(super) fn new() -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(SysError::of("epoll_create1"))?;
        Ok(Self(Rc::new(Inner { epoll, events: RefCell::new(Vec::with_capacity(16)) })))
    }

    /// Waits, at most `timeout_ms` if given; what became ready.
    pub(super) fn wait(&self, timeout_ms: Option<u64>) -> Result<Vec<(Token, EventFlags)>> {
        let timeout = timeout_ms.map(|ms| Timespec {
            tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
        });
        let mut events = self.0.events.borrow_mut();
        events.clear();
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.0.epoll, spare, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(SysError::new("epoll_wait", errno)),
        }
        Ok(events.iter().map(|event| (Token::unpack(event.data.u64()), event.flags)).collect())
    }

    /// Takes a descriptor in, waiting for nothing yet.
    pub(super) fn source(&self, fd: OwnedFd, token: Token) -> Source {
        Source { fd, token, interest: None, poller: self.clone() }
    }
}

/// A descriptor of the set; leaves it when dropped, even where another process holds it open too.
#[derive(Debug)]
pub(super) struct Source {
    fd: OwnedFd,
    token: Token,
    interest: Option<EventFlags>,
    poller: Poller,
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Source {
    /// Waits for these from now on; `None` for not even the peer's end.
    pub(super) fn want(&mut self, interest: Option<EventFlags>) {
        if self.interest == interest {
            return;
        }
        let epoll = &self.poller.0.epoll;
        let data = EventData::new_u64(self.token.pack());
        // a regular file in place of a pipe cannot be waited for; nothing we make is one
        let _ = match (self.interest, interest) {
            (None, Some(flags)) => epoll::add(epoll, &self.fd, data, flags),
            (Some(_), Some(flags)) => epoll::modify(epoll, &self.fd, data, flags),
            (_, None) => epoll::delete(epoll, &self.fd),
        };
        self.interest = interest;
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.want(None);
    }
}
