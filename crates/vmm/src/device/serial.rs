//! The serial port: a 16550 by vm-superio, between the guest and the machine's console.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial, Trigger};

use super::Registers;

/// Bytes of input that wait for the guest; more are dropped, as on a line without flow control.
const MOST_WAITING: usize = 64 << 10;

/// Pulses the port's interrupt line.
pub(crate) type Pulse = Arc<dyn Fn() + Send + Sync>;
/// Takes what the guest sends.
pub(crate) type Output = Arc<dyn Fn(&[u8]) + Send + Sync>;

struct Line(Pulse);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        (self.0)();
        Ok(())
    }
}

struct Sink(Output);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct State {
    port: Serial<Line, NoEvents, Sink>,
    waiting: VecDeque<u8>,
}

impl State {
    /// Moves waiting input into the port, as far as there is room.
    fn feed(&mut self) {
        let room = self.port.fifo_capacity().min(self.waiting.len());
        if room > 0 {
            let bytes: Vec<u8> = self.waiting.drain(..room).collect();
            // In loopback mode the line is not connected: the bytes are lost, as on a real one.
            let _not_connected = self.port.enqueue_raw_bytes(&bytes);
        }
    }
}

/// The port's registers, as a snapshot keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SerialSaved {
    registers: [u8; 9],
    input: Vec<u8>,
}

/// The serial port.
pub(crate) struct SerialPort {
    state: Mutex<State>,
    line: Pulse,
    output: Output,
}

impl SerialPort {
    pub(crate) fn new(line: Pulse, output: Output) -> Self {
        let port = Serial::new(Line(Arc::clone(&line)), Sink(Arc::clone(&output)));
        Self { state: Mutex::new(State { port, waiting: VecDeque::new() }), line, output }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends input to the guest.
    pub(crate) fn input(&self, bytes: &[u8]) {
        let mut state = self.state();
        let room = MOST_WAITING - state.waiting.len().min(MOST_WAITING);
        state.waiting.extend(&bytes[..bytes.len().min(room)]);
        state.feed();
    }

    pub(crate) fn save(&self) -> SerialSaved {
        let state = self.state();
        let port = state.port.state();
        let registers = [
            port.baud_divisor_low,
            port.baud_divisor_high,
            port.interrupt_enable,
            port.interrupt_identification,
            port.line_control,
            port.line_status,
            port.modem_control,
            port.modem_status,
            port.scratch,
        ];
        SerialSaved { registers, input: port.in_buffer.iter().chain(&state.waiting).copied().collect() }
    }

    /// Takes a saved state over.
    pub(crate) fn restore(&self, saved: &SerialSaved) -> Result<(), &'static str> {
        let [low, high, enable, identification, control, status, modem, modem_status, scratch] = saved.registers;
        let state = SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: enable,
            interrupt_identification: identification,
            line_control: control,
            // Whether there is input, the port finds out itself.
            line_status: status & !1,
            modem_control: modem,
            modem_status,
            scratch,
            in_buffer: Vec::new(),
        };
        let port = Serial::from_state(&state, Line(Arc::clone(&self.line)), NoEvents, Sink(Arc::clone(&self.output)))
            .map_err(|_| "the serial port's state is damaged")?;
        *self.state() = State { port, waiting: saved.input.iter().copied().take(MOST_WAITING).collect() };
        self.state().feed();
        Ok(())
    }
}

impl Registers for SerialPort {
    fn read(&self, offset: u64, into: &mut [u8]) {
        let mut state = self.state();
        if let (Ok(offset), Some(byte)) = (u8::try_from(offset), into.first_mut()) {
            *byte = state.port.read(offset);
        }
        state.feed();
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        if let (Ok(offset), Some(byte)) = (u8::try_from(offset), bytes.first()) {
            // The output takes everything, and loopback without room loses bytes as the chip does.
            let _lost = state.port.write(offset, *byte);
        }
        state.feed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Sent = Arc<Mutex<Vec<u8>>>;

    fn port() -> (SerialPort, Sent, Arc<Mutex<u32>>) {
        let (out, pulses) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let (sink, count) = (Arc::clone(&out), Arc::clone(&pulses));
        let line: Pulse = Arc::new(move || *count.lock().unwrap() += 1);
        let output: Output = Arc::new(move |bytes: &[u8]| sink.lock().unwrap().extend_from_slice(bytes));
        (SerialPort::new(line, output), out, pulses)
    }

    fn read(port: &SerialPort, offset: u64) -> u8 {
        let mut byte = [0xff];
        port.read(offset, &mut byte);
        byte[0]
    }

    #[test]
    fn what_the_guest_sends_comes_out() {
        let (port, out, _) = port();
        for byte in b"hello" {
            port.write(0, &[*byte]);
        }
        assert_eq!(*out.lock().unwrap(), b"hello");
        assert_eq!(read(&port, 5) & 0x60, 0x60);
    }

    #[test]
    fn long_input_waits_for_room_and_interrupts() {
        let (port, _, pulses) = port();
        port.write(1, &[1]);
        let input: Vec<u8> = (0..1000).map(|n| n as u8).collect();
        port.input(&input);
        assert!(*pulses.lock().unwrap() > 0);
        let mut got = Vec::new();
        while read(&port, 5) & 1 != 0 {
            got.push(read(&port, 0));
        }
        assert_eq!(got, input);
    }

    #[test]
    fn states_go_round() {
        let ((port, ..), (other, ..)) = (port(), port());
        port.write(1, &[1]);
        port.write(7, &[0x5a]);
        port.input(b"waiting");
        let saved = port.save();
        other.restore(&saved).unwrap();
        assert_eq!(other.save(), saved);
        assert_eq!((read(&other, 7), read(&other, 0)), (0x5a, b'w'));
    }
}
