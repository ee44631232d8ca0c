//! Snapshots: a machine at rest, in a folder. `docs/formats/vm-snapshot.md` draws the files.
//!
//! A full snapshot has all memory that is not zero; an incremental one only what was written since the one before, its
//! parent, which has to stay. When a machine is restored, its memory is mapped from the file, copied, or read as it is touched
//! (`pages`); all but the plain mapping compare it with checksums.

mod content;
mod draft;
mod format;
mod pages;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use control::machine::{BackendChoice, MachineSpec};
use hv::clock::ClockState;
use hv::cpu_model::CpuModel;
use hv::memory::{Backing, Range, RegionKind, Sharing};
use hv::{Backend, IrqchipState, Memory, VcpuState};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sys::handed;
use sys::userfault::Userfault;
use virtio::device::RestoreError;

use super::devices::DeviceState;
use super::{Event, Machine, MachineError};
use crate::device::SerialSaved;
use content::{Layer, Writer};
use draft::Draft;
pub use format::Packing;
pub(crate) use format::decode_stranger;
use format::{State, encode, read_state};
pub(crate) use pages::Pages;

/// Of the format; another one is refused.
const VERSION: u32 = 2;
/// No chain of parents is longer.
const MOST_PARENTS: usize = 256;
const STATE: &str = "state";
const MEMORY: &str = "memory";

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file of it.
    #[error("{doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no snapshot.
    #[error("{} is no snapshot of a machine", .0.display())]
    Format(PathBuf),
    /// Another version of the format.
    #[error("the snapshot has version {0} of the format, and this program reads version {VERSION}")]
    Version(u32),
    /// A bit is not as it was written.
    #[error("the snapshot's state is damaged: its checksum is another")]
    Checksum,
    /// A bit of the memory is not as it was written.
    #[error("the snapshot's memory {} is damaged at byte {at}: its checksum is another", path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// Offset in the machine's memory.
        at: u64,
    },
    /// Pages can't be filled when they are touched.
    #[error("restoring on demand; without --check touch it is not needed")]
    Userfault(#[source] sys::SysError),
    /// `/dev/userfaultfd` is not there for this process.
    #[error("restoring on demand needs /dev/userfaultfd; without --check touch it is not needed")]
    NoUserfault(#[source] io::Error),
    /// A thread could not be started, or not wait.
    #[error("a thread for the snapshot's memory")]
    Thread(#[source] io::Error),
    /// Somebody else writes it.
    #[error("{} is being written by somebody else", .0.display())]
    Busy(PathBuf),
    /// It contradicts itself.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
    /// The guest has persistent memory, whose file goes on changing.
    #[error("a machine with persistent memory has no snapshots: give its file as a disk")]
    PersistentMemory,
    /// The processor here has less.
    #[error("the guest uses what the {backend} processor here does not have: {lost}")]
    Features {
        /// What is to run it.
        backend: Backend,
        /// Names of features.
        lost: String,
    },
    /// The time-stamp counter here runs at another speed.
    #[error("the guest's time-stamp counter runs at {saved} kHz and this host's at {here} kHz")]
    Counter {
        /// When it was saved.
        saved: u32,
        /// Here.
        here: u32,
    },
    /// A device.
    #[error(transparent)]
    Device(#[from] RestoreError),
    /// The machine still runs.
    #[error("pause the machine first")]
    Running,
    /// There is nothing that it could be based on.
    #[error("an incremental snapshot needs a machine made with track_dirty, and one of its snapshots before")]
    NoParent,
    /// Somebody else has taken one meanwhile.
    #[error("the machine's newest snapshot is another one by now; try again")]
    Parent,
    /// What it would add to was removed, or has another name.
    #[error("the snapshot before, {}, is gone: take a full one", .0.display())]
    ParentGone(PathBuf),
    /// It names no folder of its own.
    #[error("{0:?} is no folder for a snapshot: give its whole path, as in /folder")]
    Path(PathBuf),
    /// There is one already.
    #[error("{} is there already; give a folder that is not", .0.display())]
    Exists(PathBuf),
}

/// How much of the memory a snapshot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extent {
    /// All of it.
    #[default]
    Full,
    /// What was written since the one before.
    Incremental,
}

/// When the memory of a snapshot is compared with its checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// All of it, before the machine is there.
    #[default]
    All,
    /// What is touched, when it is touched: the machine starts at once.
    Touch,
    /// Never: the file is mapped, and the machine starts at once. A compressed one is read and compared all the same.
    None,
}

/// What is written of a machine, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Writing {
    /// How much of the memory.
    pub extent: Extent,
    /// How it is packed.
    pub packing: Packing,
}

/// A machine read from a snapshot.
pub(super) struct Saved {
    pub(super) spec: MachineSpec,
    pub(super) model: CpuModel,
    pub(super) clock: ClockState,
    pub(super) vcpus: Vec<VcpuState>,
    pub(super) irqchip: IrqchipState,
    pub(super) devices: Vec<DeviceState>,
    pub(super) serial: SerialSaved,
    pub(super) pci_address: Option<u32>,
    pub(super) memory: Memory,
    pub(super) pages: Option<Pages>,
}

fn file<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> SnapshotError + 'a {
    move |source| SnapshotError::File { doing, path: path.to_owned(), source }
}

/// Reads the state of a snapshot and opens its memory and its parents', the newest first.
fn layers(folder: &Path) -> Result<(State, Vec<Layer>), SnapshotError> {
    let state = read_state(folder)?;
    let mut layers = vec![Layer::open(folder, &state)?];
    let mut parent = state.parent.clone();
    while let Some(folder) = parent {
        if layers.len() > MOST_PARENTS {
            return Err(SnapshotError::Damaged("it has too many parents"));
        }
        let below = read_state(&folder)?;
        if below.ranges != state.ranges {
            return Err(SnapshotError::Damaged("its parent is of another machine"));
        }
        layers.push(Layer::open(&folder, &below)?);
        parent = below.parent;
    }
    Ok((state, layers))
}

/// Opens the files of a snapshot and of its parents; `sys::handed` keeps them. Gives its machine's specification.
pub(super) fn hand_over(folder: &Path) -> Result<MachineSpec, SnapshotError> {
    layers(folder).map(|(state, _)| state.spec)
}

/// Memory over the oldest layer's file, with the newer ones' pages over it.
fn mapped(state: &State, mut layers: Vec<Layer>, check: Check) -> Result<Memory, MachineError> {
    let base = layers.pop().ok_or(SnapshotError::Damaged("it has no memory"))?;
    let memory = if base.packing == Packing::None {
        if check == Check::All {
            base.check()?;
        }
        let backing =
            |range: &Range| Backing { range: *range, file: Arc::clone(&base.file), sharing: Sharing::Private };
        Memory::map(state.ranges.iter().map(backing).collect()).map_err(MachineError::Memory)?
    } else {
        let memory = Memory::new(state.spec.memory).map_err(MachineError::Memory)?;
        base.apply(&memory)?;
        memory
    };
    for layer in layers.iter().rev() {
        layer.apply(&memory)?;
    }
    // What was read in is not what the guest writes.
    memory.take_dirty();
    Ok(memory)
}

/// Reads a snapshot. `events` hears of memory that turns out to be damaged later.
pub(super) fn load(
    folder: &Path,
    backend: Option<BackendChoice>,
    check: Check,
    events: &Sender<Event>,
) -> Result<Saved, MachineError> {
    let (state, layers) = layers(folder)?;
    let (memory, pages) = if check == Check::Touch {
        let device = handed::open(Path::new("/dev/userfaultfd"), OFlags::RDWR).map_err(SnapshotError::NoUserfault)?;
        let faults = Userfault::new(&device).map_err(SnapshotError::Userfault)?;
        let memory = Memory::new(state.spec.memory).map_err(MachineError::Memory)?;
        let pages = Pages::serve(&memory, layers, faults, events)?;
        (memory, Some(pages))
    } else {
        (mapped(&state, layers, check)?, None)
    };
    let mut spec = state.spec;
    spec.backend = backend.unwrap_or(match state.backend {
        Backend::Kvm => BackendChoice::Kvm,
        Backend::Soft => BackendChoice::Soft,
    });
    let State { model, clock, vcpus, irqchip, devices, serial, pci_address, .. } = state;
    Ok(Saved { spec, model, clock, vcpus, irqchip, devices, serial, pci_address, memory, pages })
}

impl Machine {
    /// The snapshot that an incremental one would add to.
    #[must_use]
    pub fn last_snapshot(&self) -> Option<&Path> {
        self.last_snapshot.as_deref().filter(|_| self.spec.track_dirty)
    }

    /// Writes the machine, which has to be at rest, to a new folder.
    ///
    /// # Errors
    /// It runs, the folder is there already, or something can't be written; then no folder is left.
    pub fn snapshot(&mut self, folder: &Path, writing: Writing) -> Result<(), MachineError> {
        if !self.spec.pmems.is_empty() {
            return Err(SnapshotError::PersistentMemory.into());
        }
        if self.stopped.is_none() {
            return Err(SnapshotError::Running.into());
        }
        let parent = match writing.extent {
            Extent::Full => None,
            Extent::Incremental => {
                let known = self.last_snapshot().map(Path::to_owned);
                Some(known.ok_or(SnapshotError::NoParent)?)
            }
        };
        let draft = Draft::begin(folder)?;
        // Who hands the files over has seen whether it is there.
        if let Some(gone) = parent.as_ref().filter(|parent| draft.is_own() && !draft::is_there(parent)) {
            let gone = gone.clone();
            draft.abandon();
            return Err(SnapshotError::ParentGone(gone).into());
        }
        if let Err(error) = self.write_snapshot(folder, &draft, parent, writing.packing) {
            draft.abandon();
            return Err(error);
        }
        draft.finish(folder)?;
        // A confined process does not see the folder, and is told its whole name.
        self.last_snapshot = Some(fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned()));
        Ok(())
    }

    fn write_snapshot(
        &mut self,
        folder: &Path,
        draft: &Draft,
        parent: Option<PathBuf>,
        packing: Packing,
    ) -> Result<(), MachineError> {
        let Some(stopped) = &self.stopped else { return Err(SnapshotError::Running.into()) };
        let clock = stopped.clock;
        let mut vcpus = Vec::new();
        for processor in &self.processors {
            vcpus.push(processor.vcpu().state().map_err(|source| self.backend_error(source))?);
        }
        let irqchip = self.vm.irqchip().map_err(|source| self.backend_error(source))?;
        // From here on pages count for the next snapshot; if this one fails, nothing knows any more what changed since the one before.
        let dirty = self.vm.take_dirty().map_err(|source| self.backend_error(source))?;
        self.last_snapshot = None;
        let path = folder.join(MEMORY);
        let writing = file("writing", &path);
        if packing == Packing::None {
            draft.memory.set_len(self.spec.memory).map_err(&writing)?;
        }
        let mut writer = Writer::new(&draft.memory, packing);
        let regions = self.vm.memory().regions().iter().zip(&dirty);
        for (region, marked) in regions.filter(|(region, _)| region.range.kind == RegionKind::Ram) {
            let pages = if parent.is_some() { content::Pages::Marked(marked) } else { content::Pages::Used };
            writer.region(self.vm.memory(), &region.range, pages).map_err(&writing)?;
        }
        let state = State {
            spec: self.spec.clone(),
            backend: self.vm.backend(),
            model: self.vm.cpu_model().clone(),
            clock,
            vcpus,
            irqchip,
            devices: self.devices.save(),
            serial: self.serial.save(),
            pci_address: self.devices.pci.as_ref().map(|bus| bus.address()),
            ranges: hv::memory::ranges(self.spec.memory).map_err(MachineError::Memory)?,
            parent,
            packing,
            pieces: writer.pieces,
        };
        let path = folder.join(STATE);
        (&draft.state).write_all(&encode(&state)?).map_err(file("writing", &path))?;
        Ok(())
    }
}
