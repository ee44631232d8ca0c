//! Console device: ports, each a stream of bytes both ways, the first of them the console.
//!
//! ```text
//! queues   receive 0, transmit 0, (control receive, control transmit, receive 1, transmit 1, ...) with several ports
//! control  id u32, event u16, value u16, (a name behind a PORT_NAME)
//! ```
//!
//! With one port there is no control queue and the terminal's size stands in the configuration space.
//!
//! # Source
//! Virtio 1.2, 5.3 "Console Device".

mod control;
mod port;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use super::{Device, DeviceError, Kind, Metrics, Running, Wake, read_space};
use crate::events::{Interest, Kick};
pub use port::Port;

const QUEUE_SIZE: u16 = 128;
const FEATURE_SIZE: u32 = 0;
const FEATURE_PORTS: u32 = 1;
/// The most ports: their queues have to fit the device's tokens and a person's patience.
pub const MOST_PORTS: usize = 31;

/// Token of the resize notification; ports have two each from [`PORT_TOKENS`].
const RESIZED: u64 = 0;
const PORT_TOKENS: u64 = 2;

const CONTROL_RECEIVE: u16 = 2;
const CONTROL_TRANSMIT: u16 = 3;

/// A terminal's size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

#[derive(Debug)]
struct Wanted {
    size: AtomicU32,
    kick: Kick,
}

/// Tells a console, from any thread, that its terminal has another size.
#[derive(Debug, Clone)]
pub struct Resizer(Arc<Wanted>);

impl Resizer {
    /// The terminal has this size now.
    pub fn resize(&self, size: Size) {
        self.0.size.store(u32::from(size.rows) << 16 | u32::from(size.columns), Ordering::SeqCst);
        self.0.kick.kick();
    }
}

/// The device.
#[derive(Debug)]
pub struct Console {
    ports: Vec<Port>,
    size: Size,
    wanted: Arc<Wanted>,
    /// Control messages that wait for a buffer of the driver's.
    messages: VecDeque<Vec<u8>>,
}

/// A port's two queues.
fn queues_of(port: usize) -> (u16, u16) {
    let port = u16::try_from(port).unwrap_or(u16::MAX);
    if port == 0 { (0, 1) } else { (2 * port + 2, 2 * port + 3) }
}

/// Which of a port's queues, or of the control queues, a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Receive(usize),
    Transmit(usize),
    ControlReceive,
    ControlTransmit,
}

fn role_of(queue: u16) -> Role {
    match queue {
        CONTROL_RECEIVE => Role::ControlReceive,
        CONTROL_TRANSMIT => Role::ControlTransmit,
        _ => {
            let port = if queue < 2 { 0 } else { usize::from(queue / 2 - 1) };
            if queue.is_multiple_of(2) { Role::Receive(port) } else { Role::Transmit(port) }
        }
    }
}

impl Console {
    /// A console with these ports, at most [`MOST_PORTS`], of which the first is the console.
    ///
    /// # Errors
    /// No descriptor is free, or there are too few or too many ports.
    pub fn new(ports: Vec<Port>) -> Result<(Self, Resizer), DeviceError> {
        if ports.is_empty() || ports.len() > MOST_PORTS {
            return Err(DeviceError::Host { doing: "a console has 1 to 31 ports", errno: Errno::INVAL });
        }
        let kick = Kick::new().map_err(DeviceError::host("eventfd"))?;
        let wanted = Arc::new(Wanted { size: AtomicU32::new(0), kick });
        let console = Self { ports, size: Size::default(), wanted: Arc::clone(&wanted), messages: VecDeque::new() };
        Ok((console, Resizer(wanted)))
    }

    fn resized(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        self.wanted.kick.take();
        let [columns, rows] = [0, 16].map(|shift| self.wanted.size.load(Ordering::SeqCst) >> shift & 0xffff);
        let size =
            Size { columns: u16::try_from(columns).unwrap_or_default(), rows: u16::try_from(rows).unwrap_or_default() };
        if size == self.size {
            return Ok(());
        }
        self.size = size;
        if running.has(FEATURE_PORTS) {
            return self.send_size(running);
        }
        running.interrupt.configuration();
        Ok(())
    }

    fn receive(&mut self, running: &mut Running, port: usize) -> Result<(), DeviceError> {
        let token = PORT_TOKENS + 2 * port as u64;
        let Some(port_state) = self.ports.get_mut(port) else { return Ok(()) };
        port_state.receive(running, queues_of(port).0, token)
    }

    fn transmit(&mut self, running: &mut Running, port: usize) -> Result<(), DeviceError> {
        let token = PORT_TOKENS + 2 * port as u64 + 1;
        let Some(port_state) = self.ports.get_mut(port) else { return Ok(()) };
        port_state.transmit(running, queues_of(port).1, token)
    }
}

impl Device for Console {
    fn kind(&self) -> Kind {
        Kind::Console
    }

    fn features(&self) -> u64 {
        1 << FEATURE_SIZE | u64::from(self.ports.len() > 1) << FEATURE_PORTS
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let queues = if self.ports.len() > 1 { 2 * (self.ports.len() + 1) } else { 2 };
        vec![QUEUE_SIZE; queues]
    }

    fn read_config(&self, offset: u64, into: &mut [u8]) {
        let mut space = [0; 12];
        space[..2].copy_from_slice(&self.size.columns.to_le_bytes());
        space[2..4].copy_from_slice(&self.size.rows.to_le_bytes());
        space[4..8].copy_from_slice(&u32::try_from(self.ports.len()).unwrap_or(1).to_le_bytes());
        read_space(&space, offset, into);
    }

    fn activate(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        let watch = running.events.add(&self.wanted.kick, RESIZED, Interest::IN);
        watch.map_err(DeviceError::host("epoll_ctl"))?;
        if !running.has(FEATURE_PORTS) {
            self.ports[0].open = true;
        }
        Ok(())
    }

    fn serve(&mut self, running: &mut Running, wake: Wake) -> Result<(), DeviceError> {
        match wake {
            Wake::Source(RESIZED, _) => self.resized(running),
            Wake::Source(token, _) => {
                let token = token - PORT_TOKENS;
                let port = usize::try_from(token / 2).unwrap_or(usize::MAX);
                if token.is_multiple_of(2) { self.receive(running, port) } else { self.transmit(running, port) }
            }
            Wake::Queue(queue) => match role_of(queue) {
                Role::Receive(port) => self.receive(running, port),
                Role::Transmit(port) => self.transmit(running, port),
                Role::ControlReceive => self.deliver(running),
                Role::ControlTransmit => self.controlled(running),
            },
        }
    }

    fn reset(&mut self, running: &Running) {
        running.events.remove(&self.wanted.kick);
        self.ports.iter_mut().for_each(|port| port.reset(&running.events));
        self.messages.clear();
    }

    fn save(&self) -> serde_json::Value {
        let open: Vec<bool> = self.ports.iter().map(|port| port.open).collect();
        serde_json::json!({ "open": open, "size": self.size })
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), serde_json::Error> {
        #[derive(serde::Deserialize)]
        struct Saved {
            open: Vec<bool>,
            size: Size,
        }
        let saved: Saved = serde_json::from_value(state)?;
        self.ports.iter_mut().zip(saved.open).for_each(|(port, open)| port.open = open);
        self.size = saved.size;
        Ok(())
    }

    fn metrics(&self) -> Metrics {
        let sum = |count: fn(&Port) -> u64| self.ports.iter().map(count).sum();
        Metrics::from([
            ("received_bytes", sum(|port| port.received)),
            ("transmitted_bytes", sum(|port| port.transmitted)),
        ])
    }
}
