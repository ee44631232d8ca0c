//! A machine with what it said.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use control::machine::{BackendChoice, MachineSpec};
use vmm::backend::{Kvm, probe_kvm};
use vmm::{Check, ConsoleOutput, Event, Machine, MachineError};

/// Long enough for a guest on a machine that does many other things; a guest that works needs a hundredth of it.
const PATIENCE: Duration = Duration::from_secs(200);

type Said = Arc<(Mutex<Vec<u8>>, Condvar)>;

pub(crate) struct Running {
    pub(crate) machine: Machine,
    pub(crate) events: Receiver<Event>,
    said: Said,
}

pub(crate) fn spec(kernel: &Path, backend: BackendChoice) -> MachineSpec {
    let mut spec: MachineSpec = serde_json::from_value(serde_json::json!({ "kernel": kernel })).unwrap();
    (spec.backend, spec.memory) = (backend, 32 << 20);
    spec
}

impl Running {
    pub(crate) fn begin(
        make: impl FnOnce(ConsoleOutput, &Sender<Event>) -> Result<Machine, MachineError>,
    ) -> Result<Self, MachineError> {
        let said = Said::default();
        let sink = Arc::clone(&said);
        let output: ConsoleOutput = Arc::new(move |bytes: &[u8]| {
            sink.0.lock().unwrap().extend_from_slice(bytes);
            sink.1.notify_all();
        });
        let (sender, events) = channel();
        let mut machine = make(output, &sender)?;
        machine.resume()?;
        Ok(Self { machine, events, said })
    }

    pub(crate) fn boot(spec: &MachineSpec) -> Self {
        Self::begin(|output, events| Machine::new(spec, output, events)).unwrap()
    }

    pub(crate) fn restore(folder: &Path, backend: Option<BackendChoice>) -> Result<Self, MachineError> {
        Self::restore_checked(folder, backend, Check::All)
    }

    pub(crate) fn restore_checked(
        folder: &Path,
        backend: Option<BackendChoice>,
        check: Check,
    ) -> Result<Self, MachineError> {
        Self::begin(|output, events| Machine::restore(folder, backend, check, output, events))
    }

    pub(crate) fn input(&self, text: &str) {
        (self.machine.input_line())(text.as_bytes());
    }

    /// Waits until the guest has said `text`, and takes everything up to there.
    pub(crate) fn expect(&self, text: &str) -> String {
        let since = Instant::now();
        let mut said = self.said.0.lock().unwrap();
        loop {
            let now = String::from_utf8_lossy(&said).into_owned();
            if let Some(at) = said.windows(text.len()).position(|window| window == text.as_bytes()) {
                let rest = said.split_off(at + text.len());
                let before = std::mem::replace(&mut *said, rest);
                return String::from_utf8_lossy(&before).into_owned();
            }
            assert!(since.elapsed() < PATIENCE, "the guest never said {text:?}, but:\n{now}");
            said = self.said.1.wait_timeout(said, Duration::from_secs(1)).unwrap().0;
        }
    }

    /// Waits for so many bytes from the guest, and takes them.
    pub(crate) fn bytes(&self, count: usize) -> Vec<u8> {
        let since = Instant::now();
        let mut said = self.said.0.lock().unwrap();
        while said.len() < count {
            assert!(since.elapsed() < PATIENCE, "the guest said only {} bytes of {count}", said.len());
            said = self.said.1.wait_timeout(said, Duration::from_secs(1)).unwrap().0;
        }
        said.drain(..count).collect()
    }

    pub(crate) fn event(&self) -> Event {
        self.events.recv_timeout(PATIENCE).unwrap()
    }
}

/// The software CPU, and KVM where it is.
pub(crate) fn backends() -> Vec<BackendChoice> {
    match probe_kvm() {
        Kvm::Unusable(why) => {
            println!("skipped on KVM: {why}");
            vec![BackendChoice::Soft]
        }
        _ => vec![BackendChoice::Soft, BackendChoice::Kvm],
    }
}
