//! The machine's life: nothing, configured, running, paused, ended.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use control::machine::{BackendChoice, MachineSpec, OnReset};
use serde::Serialize;

use super::Work;
use super::console::Console;
use crate::jail::Jail;
use crate::machine::{Check, ConsoleOutput, Event, Machine, MachineError, SnapshotError, Writing};

/// What the program does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    /// It ends with this code.
    End(u8),
}

/// The exit code after a machine that could not go on.
const FAILED: u8 = 70;

/// In which phase the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    Empty,
    Configured,
    Running,
    Paused,
}

/// What the API tells of the machine.
#[derive(Debug, Serialize)]
pub(super) struct Inspection<'a> {
    phase: Phase,
    backend: Option<hv::Backend>,
    /// How often the guest has booted.
    boots: u32,
    /// The snapshot that an incremental one would add to.
    snapshot: Option<&'a Path>,
    spec: Option<&'a MachineSpec>,
    /// How the program is confined; nothing, if it was told not to be.
    jail: Option<&'a Jail>,
    version: &'static str,
}

/// Why something is not possible now.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error("the machine is {}: {action} is possible only when it is {wanted}", phase_name(*phase))]
    Phase { phase: Phase, action: &'static str, wanted: &'static str },
    #[error(transparent)]
    Machine(#[from] MachineError),
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Empty => "not configured",
        Phase::Configured => "not booted",
        Phase::Running => "running",
        Phase::Paused => "paused",
    }
}

/// This process has a folder of its own, which a client can't mean.
fn whole(folder: &Path) -> Result<(), MachineError> {
    let named = folder.is_absolute() && folder.file_name().is_some();
    if named { Ok(()) } else { Err(SnapshotError::Path(folder.to_owned()).into()) }
}

pub(super) struct State {
    work: Sender<Work>,
    console: Console,
    spec: Option<MachineSpec>,
    machine: Option<Machine>,
    boots: u32,
    jail: Option<Jail>,
}

impl State {
    pub(super) fn new(work: Sender<Work>, console: Console, spec: Option<MachineSpec>, jail: Option<Jail>) -> Self {
        Self { work, console, spec, machine: None, boots: 0, jail }
    }

    fn phase(&self) -> Phase {
        match (&self.machine, &self.spec) {
            (Some(machine), _) if machine.running() => Phase::Running,
            (Some(_), _) => Phase::Paused,
            (None, Some(_)) => Phase::Configured,
            (None, None) => Phase::Empty,
        }
    }

    pub(super) fn inspect(&self) -> Inspection<'_> {
        Inspection {
            phase: self.phase(),
            backend: self.machine.as_ref().map(Machine::backend),
            boots: self.boots,
            snapshot: self.machine.as_ref().and_then(Machine::last_snapshot),
            spec: self.spec.as_ref(),
            jail: self.jail.as_ref(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    pub(super) fn configure(&mut self, spec: MachineSpec) -> Result<(), StateError> {
        if self.machine.is_some() {
            return Err(self.wrong("configuration", "not booted"));
        }
        crate::machine::check(&spec).map_err(MachineError::from)?;
        self.spec = Some(spec);
        Ok(())
    }

    fn wrong(&self, action: &'static str, wanted: &'static str) -> StateError {
        StateError::Phase { phase: self.phase(), action, wanted }
    }

    fn machine(&mut self, action: &'static str) -> Result<&mut Machine, StateError> {
        let wrong = self.wrong(action, "running or paused");
        self.machine.as_mut().ok_or(wrong)
    }

    pub(super) fn boot(&mut self) -> Result<(), StateError> {
        let (None, Some(spec)) = (&self.machine, self.spec.clone()) else {
            return Err(self.wrong("boot", "configured"));
        };
        self.assemble(&spec)
    }

    fn assemble(&mut self, spec: &MachineSpec) -> Result<(), StateError> {
        self.begin(|output, events| Machine::new(spec, output, events))?;
        self.boots += 1;
        self.resume()
    }

    /// Writes a snapshot; a machine that runs rests meanwhile. If it is to add to `parent`, that has to be the one before.
    pub(super) fn snapshot(
        &mut self,
        folder: &Path,
        parent: Option<&Path>,
        writing: Writing,
    ) -> Result<(), StateError> {
        let machine = self.machine("a snapshot")?;
        whole(folder)?;
        if parent.is_some() && parent != machine.last_snapshot() {
            return Err(MachineError::from(SnapshotError::Parent).into());
        }
        let ran = machine.running();
        machine.pause()?;
        let written = machine.snapshot(folder, writing);
        if ran {
            machine.resume()?;
        }
        Ok(written?)
    }

    /// Makes the machine of a snapshot; it rests.
    pub(super) fn restore(
        &mut self,
        folder: &Path,
        backend: Option<BackendChoice>,
        check: Check,
    ) -> Result<(), StateError> {
        if self.machine.is_some() {
            return Err(self.wrong("restoring", "not booted"));
        }
        whole(folder)?;
        self.begin(|output, events| Machine::restore(folder, backend, check, output, events))?;
        self.spec = self.machine.as_ref().map(|machine| machine.spec().clone());
        Ok(())
    }

    pub(super) fn set_balloon(&mut self, bytes: u64) -> Result<(), StateError> {
        Ok(self.machine("the balloon")?.set_balloon(bytes)?)
    }

    pub(super) fn resize_console(&mut self, columns: u16, rows: u16) -> Result<(), StateError> {
        Ok(self.machine("the console's size")?.resize_console(columns, rows)?)
    }

    fn begin(
        &mut self,
        make: impl FnOnce(ConsoleOutput, &Sender<Event>) -> Result<Machine, MachineError>,
    ) -> Result<(), StateError> {
        let console = self.console.clone();
        let output = Arc::new(move |bytes: &[u8]| console.write(bytes));
        // A machine of its own channel: what an old one says late is not taken for the new one's.
        let (events, told) = channel();
        let machine = make(output, &events)?;
        drop(events);
        let work = self.work.clone();
        std::thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || {
                hv::thread::begin();
                // One word is enough: whatever a machine says ends it.
                if let Ok(event) = told.recv() {
                    // At the program's end nobody listens.
                    let _nobody = work.send(Work::Machine(event));
                }
            })
            .map_err(MachineError::Thread)?;
        self.console.connect(Some(machine.input_line()));
        self.machine = Some(machine);
        Ok(())
    }

    pub(super) fn pause(&mut self) -> Result<(), StateError> {
        Ok(self.machine("pausing")?.pause()?)
    }

    pub(super) fn resume(&mut self) -> Result<(), StateError> {
        Ok(self.machine("resuming")?.resume()?)
    }

    pub(super) fn press_power(&mut self) -> Result<(), StateError> {
        Ok(self.machine("the power button")?.press_power()?)
    }

    pub(super) fn metrics(&mut self) -> Result<serde_json::Value, StateError> {
        let metrics = self.machine("metrics")?.metrics();
        Ok(metrics.into_iter().map(|(name, values)| (name, serde_json::json!(values))).collect())
    }

    /// Ends the machine, if there is one.
    pub(super) fn kill(&mut self) {
        self.console.connect(None);
        self.machine = None;
    }

    pub(super) fn happened(&mut self, event: Event) -> Next {
        if let Event::MemoryLost(why) = event {
            self.console.write(format!("\r\ninsula-vmm: the machine can't go on: {why}\r\n").as_bytes());
            // Its processors may wait for a page for ever; they end with the process.
            std::mem::forget(self.machine.take());
            return Next::End(FAILED);
        }
        let reset = self.spec.clone().filter(|spec| spec.on_reset == OnReset::Restart);
        self.kill();
        match (event, reset) {
            (Event::Failed(why), _) => {
                self.console.write(format!("\r\ninsula-vmm: the machine can't go on: {why}\r\n").as_bytes());
                Next::End(FAILED)
            }
            (Event::Exit(code), _) => Next::End(code),
            (Event::Reset, Some(spec)) => match self.assemble(&spec) {
                Ok(()) => Next::GoOn,
                Err(error) => {
                    self.console.write(format!("\r\ninsula-vmm: booting again: {error}\r\n").as_bytes());
                    Next::End(FAILED)
                }
            },
            (Event::Reset | Event::PowerOff | Event::MemoryLost(_), _) => Next::End(0),
        }
    }
}
