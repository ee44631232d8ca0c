//! Eventfds that are interrupts: one thread waits for all of them.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use hv::{Level, Msi};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::lock;
use crate::irqchip::Irqchip;

#[derive(Default)]
struct Table {
    /// By descriptor of our duplicate: the event and its number.
    events: HashMap<RawFd, (EventFd, u32)>,
    /// By descriptor of the caller's event and number: our duplicate.
    ours: HashMap<(RawFd, u32), RawFd>,
    routes: HashMap<u32, Msi>,
    stop: bool,
}

/// The eventfds of a machine; their thread ends with them.
pub(super) struct Irqfds {
    epoll: Arc<Epoll>,
    table: Arc<Mutex<Table>>,
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

fn readable(fd: RawFd) -> EpollEvent {
    EpollEvent::new(EventSet::IN, fd as u64)
}

impl Irqfds {
    pub(super) fn new(irqchip: Arc<Irqchip>) -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new()?);
        let table = Arc::new(Mutex::new(Table::default()));
        let stop = EventFd::new(EFD_NONBLOCK)?;
        epoll.ctl(ControlOperation::Add, stop.as_raw_fd(), readable(stop.as_raw_fd()))?;
        let (own_epoll, own_table) = (Arc::clone(&epoll), Arc::clone(&table));
        let thread = std::thread::Builder::new().name("soft-irqfd".into()).spawn(move || {
            hv::thread::begin();
            serve(&own_epoll, &own_table, &irqchip);
        })?;
        Ok(Self { epoll, table, stop, thread: Some(thread) })
    }

    pub(super) fn add(&mut self, event: &EventFd, gsi: u32) -> io::Result<()> {
        let copy = event.try_clone()?;
        let fd = copy.as_raw_fd();
        let mut t = lock(&self.table);
        self.epoll.ctl(ControlOperation::Add, fd, readable(fd))?;
        t.ours.insert((event.as_raw_fd(), gsi), fd);
        t.events.insert(fd, (copy, gsi));
        Ok(())
    }

    pub(super) fn remove(&mut self, event: &EventFd, gsi: u32) -> io::Result<()> {
        let mut t = lock(&self.table);
        let fd = t.ours.remove(&(event.as_raw_fd(), gsi)).ok_or(io::ErrorKind::NotFound)?;
        self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default())?;
        t.events.remove(&fd);
        Ok(())
    }

    pub(super) fn route(&mut self, gsi: u32, msi: Option<Msi>) {
        let mut t = lock(&self.table);
        match msi {
            Some(m) => t.routes.insert(gsi, m),
            None => t.routes.remove(&gsi),
        };
    }
}

impl Drop for Irqfds {
    fn drop(&mut self) {
        lock(&self.table).stop = true;
        // The counter of a fresh eventfd has room for one.
        let _ = self.stop.write(1);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

fn serve(epoll: &Epoll, table: &Mutex<Table>, irqchip: &Irqchip) {
    let mut ready = [EpollEvent::default(); 32];
    loop {
        let n = match epoll.wait(-1, &mut ready) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let t = lock(table);
        if t.stop {
            return;
        }
        for e in &ready[..n] {
            let Some((event, gsi)) = t.events.get(&(e.data() as RawFd)) else { continue };
            // Somebody else may have drained it: then there is nothing to tell.
            if event.read().is_err() {
                continue;
            }
            if let Some(msi) = t.routes.get(gsi) {
                irqchip.signal_msi(*msi);
            } else {
                irqchip.set_line(*gsi, Level::High);
                irqchip.set_line(*gsi, Level::Low);
            }
        }
    }
}
