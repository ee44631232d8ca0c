//! The control queues of a console with several ports, virtio 1.2, 5.3.6.2.

use super::{CONTROL_RECEIVE, CONTROL_TRANSMIT, Console, DeviceError, Running};

const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// Messages that may wait; a driver that asks on without reading the answers breaks the protocol.
const MOST_WAITING: usize = 512;

fn message(port: usize, event: u16, value: u16, rest: &[u8]) -> Vec<u8> {
    let port = u32::try_from(port).unwrap_or(u32::MAX);
    [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes(), rest].concat()
}

impl Console {
    /// Reads what the driver has to say.
    pub(super) fn controlled(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        let memory = running.memory.clone();
        let mut opened = Vec::new();
        if let Some(queue) = running.queue(CONTROL_TRANSMIT) {
            while let Some(chain) = queue.pop()? {
                let bytes = chain.reader(&memory).array::<8>();
                let bytes = bytes.ok_or(DeviceError::Protocol("a console's control message is too short"))?;
                let [p0, p1, p2, p3, e0, e1, v0, v1] = bytes;
                let port = u32::from_le_bytes([p0, p1, p2, p3]) as usize;
                let (event, value) = (u16::from_le_bytes([e0, e1]), u16::from_le_bytes([v0, v1]));
                opened.extend(self.answer(port, event, value));
                if self.messages.len() > MOST_WAITING {
                    return Err(DeviceError::Protocol("the driver does not read a console's control messages"));
                }
                queue.complete(chain.head(), 0)?;
            }
            queue.signal()?;
        }
        self.deliver(running)?;
        opened.into_iter().try_for_each(|port| self.receive(running, port))
    }

    /// Answers one message; gives the port that it opened.
    fn answer(&mut self, port: usize, event: u16, value: u16) -> Option<usize> {
        match (event, value, self.ports.get_mut(port)) {
            (DEVICE_READY, 1, _) => {
                let ports = 0..self.ports.len();
                self.messages.extend(ports.map(|port| message(port, DEVICE_ADD, 1, &[])));
            }
            (PORT_READY, 1, Some(state)) => {
                if port == 0 {
                    self.messages.push_back(message(port, CONSOLE_PORT, 1, &[]));
                    let size = self.size_message();
                    self.messages.push_back(size);
                } else if !state.name.is_empty() {
                    self.messages.push_back(message(port, PORT_NAME, 1, state.name.as_bytes()));
                }
                self.messages.push_back(message(port, PORT_OPEN, 1, &[]));
            }
            (PORT_OPEN, value, Some(state)) => {
                state.open = value == 1;
                return state.open.then_some(port);
            }
            // The driver could not use a port, or names one that is not there: nothing to do for the device.
            _ => {}
        }
        None
    }

    /// Linux has the rows first here, unlike the standard's text; it is the only driver that reads the message.
    fn size_message(&self) -> Vec<u8> {
        let size = [self.size.rows.to_le_bytes(), self.size.columns.to_le_bytes()].concat();
        message(0, RESIZE, 1, &size)
    }

    pub(super) fn send_size(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        let size = self.size_message();
        self.messages.push_back(size);
        self.deliver(running)
    }

    /// Hands waiting messages over as far as the driver has room.
    pub(super) fn deliver(&mut self, running: &mut Running) -> Result<(), DeviceError> {
        let memory = running.memory.clone();
        let Some(queue) = running.queue(CONTROL_RECEIVE) else { return Ok(()) };
        while let Some(message) = self.messages.front() {
            let Some(chain) = queue.pop()? else { break };
            let mut writer = chain.writer(&memory);
            if !writer.write_all(message) {
                return Err(DeviceError::Protocol("no room for a console's control message"));
            }
            queue.complete(chain.head(), writer.written())?;
            self.messages.pop_front();
        }
        queue.signal()?;
        Ok(())
    }
}
