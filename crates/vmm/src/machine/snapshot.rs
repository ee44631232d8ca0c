//! Snapshots: a machine at rest, in a folder. `docs/formats/vm-snapshot.md` draws the files.
//!
//! A full snapshot has all memory that is not zero; an incremental one only what was written since the one before, its
//! parent, which has to stay. Memory is mapped from the file when a machine is restored, so it starts at once and reads what
//! it touches.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use control::machine::{BackendChoice, MachineSpec};
use hv::clock::ClockState;
use hv::cpu_model::CpuModel;
use hv::memory::{Backing, PAGE_SIZE, Range, RegionKind, Sharing};
use hv::{Backend, IrqchipState, Memory, VcpuState};
use serde::{Deserialize, Serialize};
use virtio::device::RestoreError;
use vm_memory::{Bytes, GuestAddress};

use super::devices::DeviceState;
use super::{Machine, MachineError};
use crate::device::SerialSaved;

const MAGIC: [u8; 8] = *b"INSULAVM";
/// Of the format; another one is refused.
const VERSION: u32 = 1;
/// Magic, version, checksum of the text, length of the text.
const HEADER: usize = 24;
/// No machine's state is longer.
const MOST_TEXT: u64 = 256 << 20;
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

/// A machine at rest, without its memory: the text of the state file.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    spec: MachineSpec,
    backend: Backend,
    model: CpuModel,
    clock: ClockState,
    vcpus: Vec<VcpuState>,
    irqchip: IrqchipState,
    devices: Vec<DeviceState>,
    serial: SerialSaved,
    pci_address: Option<u32>,
    ranges: Vec<Range>,
    /// The folder of the snapshot that this one adds to.
    parent: Option<PathBuf>,
    /// What the memory file has: offset and bytes. Everything else is the parent's, or zero.
    runs: Vec<(u64, u64)>,
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
}

fn file<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> SnapshotError + 'a {
    move |source| SnapshotError::File { doing, path: path.to_owned(), source }
}

/// Runs of marked pages of a region, as offsets into the memory's file.
fn dirty_runs(range: &Range, pages: &[u64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let marked = (0..range.size / PAGE_SIZE)
        .filter(|page| pages.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 != 0));
    for page in marked {
        let at = range.offset + page * PAGE_SIZE;
        match runs.last_mut() {
            Some((start, size)) if *start + *size == at => *size += PAGE_SIZE,
            _ => runs.push((at, PAGE_SIZE)),
        }
    }
    runs
}

fn is_zero(bytes: &[u8]) -> bool {
    // Whole words at once: this looks at all of the guest's memory.
    let (head, words, tail) = (bytes.len() % 16, bytes.chunks_exact(16), &bytes[bytes.len() - bytes.len() % 16..]);
    debug_assert_eq!(head, tail.len());
    words.into_iter().all(|word| u128::from_ne_bytes(word.try_into().unwrap_or([1; 16])) == 0)
        && tail.iter().all(|byte| *byte == 0)
}

/// Writes `size` bytes of guest memory at `gpa` to the file, leaving out pages of zeroes, and gives what was written.
fn write_memory(memory: &Memory, to: &File, gpa: u64, offset: u64, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    while done < size {
        let now = (size - done).min(buffer.len() as u64);
        let part = &mut buffer[..now as usize];
        memory.ram().read_slice(part, GuestAddress(gpa + done)).map_err(|error| io::Error::other(error.to_string()))?;
        for (n, page) in (0..).zip(part.chunks(PAGE_SIZE as usize)) {
            if is_zero(page) {
                continue;
            }
            let at = offset + done + n * PAGE_SIZE;
            to.write_all_at(page, at)?;
            match runs.last_mut() {
                Some((start, size)) if *start + *size == at => *size += PAGE_SIZE,
                _ => runs.push((at, PAGE_SIZE)),
            }
        }
        done += now;
    }
    Ok(runs)
}

/// Writes the pages of an incremental snapshot: all of them, zeroes too, for the parent may have something else there.
fn write_runs(memory: &Memory, to: &File, range: &Range, runs: &[(u64, u64)]) -> io::Result<()> {
    for (at, size) in runs {
        let mut bytes = vec![0; *size as usize];
        let gpa = range.gpa + (at - range.offset);
        memory.ram().read_slice(&mut bytes, GuestAddress(gpa)).map_err(|error| io::Error::other(error.to_string()))?;
        to.write_all_at(&bytes, *at)?;
    }
    Ok(())
}

fn encode(state: &State) -> Result<Vec<u8>, SnapshotError> {
    let text = serde_json::to_vec(state).map_err(|_| SnapshotError::Damaged("the machine's state has no text"))?;
    let mut bytes = Vec::with_capacity(HEADER + text.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(crc32c::crc32c(&text).to_le_bytes());
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text);
    Ok(bytes)
}

fn decode(bytes: &[u8], path: &Path) -> Result<State, SnapshotError> {
    let header = bytes.get(..HEADER).filter(|header| header[..8] == MAGIC);
    let header = header.ok_or_else(|| SnapshotError::Format(path.to_owned()))?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if word(8) != VERSION {
        return Err(SnapshotError::Version(word(8)));
    }
    let length = u64::from(word(16)) | u64::from(word(20)) << 32;
    let text = &bytes[HEADER..];
    if length != text.len() as u64 {
        return Err(SnapshotError::Damaged("its state ends early"));
    }
    if crc32c::crc32c(text) != word(12) {
        return Err(SnapshotError::Checksum);
    }
    let state: State = serde_json::from_slice(text).map_err(|_| SnapshotError::Damaged("its state can't be read"))?;
    check(&state)?;
    Ok(state)
}

/// What the checksum does not say: whoever made the file may have meant harm.
fn check(state: &State) -> Result<(), SnapshotError> {
    let wanted = hv::memory::ranges(state.spec.memory).map_err(|_| SnapshotError::Damaged("its memory has no size"))?;
    if state.ranges != wanted {
        return Err(SnapshotError::Damaged("its memory is not that of its machine"));
    }
    let whole = |value: u64| value.is_multiple_of(PAGE_SIZE);
    let inside = |(at, size): &(u64, u64)| {
        whole(*at) && whole(*size) && at.checked_add(*size).is_some_and(|end| end <= state.spec.memory)
    };
    if !state.runs.iter().all(inside) {
        return Err(SnapshotError::Damaged("it has memory that its machine has not"));
    }
    Ok(())
}

fn read_state(folder: &Path) -> Result<State, SnapshotError> {
    let path = folder.join(STATE);
    let from = File::open(&path).map_err(file("opening", &path))?;
    let mut bytes = Vec::new();
    from.take(MOST_TEXT).read_to_end(&mut bytes).map_err(file("reading", &path))?;
    decode(&bytes, &path)
}

fn open_memory(folder: &Path, state: &State) -> Result<File, SnapshotError> {
    let path = folder.join(MEMORY);
    let memory = File::open(&path).map_err(file("opening", &path))?;
    let size = memory.metadata().map_err(file("reading", &path))?.len();
    if size != state.spec.memory {
        return Err(SnapshotError::Damaged("its memory has another size"));
    }
    Ok(memory)
}

/// Copies what an incremental snapshot has over its parent's memory.
fn apply(memory: &Memory, from: &File, runs: &[(u64, u64)]) -> io::Result<()> {
    for region in memory.regions() {
        let range = region.range;
        for (at, size) in runs.iter().filter(|(at, _)| (range.offset..range.offset + range.size).contains(at)) {
            let mut bytes = vec![0; *size as usize];
            from.read_exact_at(&mut bytes, *at)?;
            let gpa = GuestAddress(range.gpa + (at - range.offset));
            memory.ram().write_slice(&bytes, gpa).map_err(|error| io::Error::other(error.to_string()))?;
        }
    }
    Ok(())
}

/// Reads a snapshot; its memory, and its parents', stays in the files.
pub(super) fn load(folder: &Path, backend: Option<BackendChoice>) -> Result<Saved, MachineError> {
    let state = read_state(folder)?;
    let mut layers = vec![(open_memory(folder, &state)?, state.runs.clone())];
    let mut parent = state.parent.clone();
    while let Some(folder) = parent {
        if layers.len() > MOST_PARENTS {
            return Err(SnapshotError::Damaged("it has too many parents").into());
        }
        let below = read_state(&folder)?;
        if below.ranges != state.ranges {
            return Err(SnapshotError::Damaged("its parent is of another machine").into());
        }
        layers.push((open_memory(&folder, &below)?, below.runs));
        parent = below.parent;
    }
    let Some((base, _)) = layers.pop() else { return Err(SnapshotError::Damaged("it has no memory").into()) };
    let base = Arc::new(base);
    let backing = |range: &Range| Backing { range: *range, file: Arc::clone(&base), sharing: Sharing::Private };
    let memory = Memory::map(state.ranges.iter().map(backing).collect()).map_err(MachineError::Memory)?;
    for (layer, runs) in layers.iter().rev() {
        apply(&memory, layer, runs).map_err(file("reading", &folder.join(MEMORY)))?;
    }
    // What was read in is not what the guest writes.
    memory.take_dirty();
    let mut spec = state.spec;
    spec.backend = backend.unwrap_or(match state.backend {
        Backend::Kvm => BackendChoice::Kvm,
        Backend::Soft => BackendChoice::Soft,
    });
    let State { model, clock, vcpus, irqchip, devices, serial, pci_address, .. } = state;
    Ok(Saved { spec, model, clock, vcpus, irqchip, devices, serial, pci_address, memory })
}

impl Machine {
    /// Writes the machine, which has to be at rest, to a new folder.
    ///
    /// # Errors
    /// It runs, the folder is there already, or something can't be written; then no folder is left.
    pub fn snapshot(&mut self, folder: &Path, extent: Extent) -> Result<(), MachineError> {
        if !self.spec.pmems.is_empty() {
            return Err(SnapshotError::PersistentMemory.into());
        }
        let parent = match extent {
            Extent::Full => None,
            Extent::Incremental => {
                let known = self.last_snapshot.clone().filter(|_| self.spec.track_dirty);
                Some(known.ok_or(SnapshotError::NoParent)?)
            }
        };
        fs::create_dir(folder).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => SnapshotError::Exists(folder.to_owned()),
            _ => SnapshotError::File { doing: "making", path: folder.to_owned(), source },
        })?;
        let written = self.write_snapshot(folder, parent);
        match &written {
            Ok(()) => self.last_snapshot = fs::canonicalize(folder).ok(),
            Err(_) => {
                // What is half written is no snapshot; the error that led here is the one to be told.
                let _left = fs::remove_dir_all(folder);
            }
        }
        written
    }

    fn write_snapshot(&mut self, folder: &Path, parent: Option<PathBuf>) -> Result<(), MachineError> {
        let Some(stopped) = &self.stopped else { return Err(SnapshotError::Running.into()) };
        let clock = stopped.clock;
        let mut vcpus = Vec::new();
        for processor in &self.processors {
            vcpus.push(processor.vcpu().state().map_err(|source| self.backend_error(source))?);
        }
        let irqchip = self.vm.irqchip().map_err(|source| self.backend_error(source))?;
        // From here on pages count for the next snapshot.
        let dirty = self.vm.take_dirty().map_err(|source| self.backend_error(source))?;
        let path = folder.join(MEMORY);
        let memory = create(&path)?;
        memory.set_len(self.spec.memory).map_err(file("writing", &path))?;
        let mut runs = Vec::new();
        let regions = self.vm.memory().regions().iter().zip(&dirty);
        for (region, pages) in regions.filter(|(region, _)| region.range.kind == RegionKind::Ram) {
            let range = region.range;
            if parent.is_some() {
                let marked = dirty_runs(&range, pages);
                write_runs(self.vm.memory(), &memory, &range, &marked).map_err(file("writing", &path))?;
                runs.extend(marked);
            } else {
                let wrote = write_memory(self.vm.memory(), &memory, range.gpa, range.offset, range.size);
                runs.extend(wrote.map_err(file("writing", &path))?);
            }
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
            runs,
        };
        // The state comes last: with it the snapshot is whole.
        memory.sync_data().map_err(file("writing", &path))?;
        let path = folder.join(STATE);
        let mut to = create(&path)?;
        to.write_all(&encode(&state)?).map_err(file("writing", &path))?;
        to.sync_all().map_err(file("writing", &path))?;
        Ok(())
    }
}

fn create(path: &Path) -> Result<File, SnapshotError> {
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(file("making", path))
}

/// For the fuzz target: reads a state file's bytes, and a text that a stranger has given the right checksum.
pub(crate) fn decode_stranger(bytes: &[u8]) {
    let path = Path::new(STATE);
    let _whole = decode(bytes, path);
    let mut sealed = Vec::from(MAGIC);
    sealed.extend(VERSION.to_le_bytes());
    sealed.extend(crc32c::crc32c(bytes).to_le_bytes());
    sealed.extend((bytes.len() as u64).to_le_bytes());
    sealed.extend(bytes);
    let read = decode(&sealed, path);
    assert!(!matches!(read, Err(SnapshotError::Checksum | SnapshotError::Format(_) | SnapshotError::Version(_))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined() {
        let range = Range { gpa: 0x1_0000_0000, size: 128 * PAGE_SIZE, offset: 0x4000, kind: RegionKind::Ram };
        let pages = [1 << 63 | 0b110, 1];
        assert_eq!(dirty_runs(&range, &pages), [(0x5000, 0x2000), (0x4000 + 63 * 4096, 0x2000)]);
    }

    #[test]
    fn damage_is_named() {
        let path = Path::new("state");
        let mut bytes = Vec::from(MAGIC);
        assert!(matches!(decode(b"", path), Err(SnapshotError::Format(_))));
        assert!(matches!(decode(b"INSULAVX0123456789012345", path), Err(SnapshotError::Format(_))));
        bytes.extend(7u32.to_le_bytes());
        bytes.extend([0; 12]);
        assert!(matches!(decode(&bytes, path), Err(SnapshotError::Version(7))));
        bytes[8] = 1;
        bytes.extend(b"{}");
        assert!(matches!(decode(&bytes, path), Err(SnapshotError::Damaged(_))));
        bytes[16] = 2;
        assert!(matches!(decode(&bytes, path), Err(SnapshotError::Checksum)));
        bytes[12..16].copy_from_slice(&crc32c::crc32c(b"{}").to_le_bytes());
        assert!(matches!(decode(&bytes, path), Err(SnapshotError::Damaged(_))));
    }

    #[test]
    fn zeroes_are_left_out() {
        assert!(is_zero(&[0; 4096]));
        let mut page = [0; 4096];
        page[4095] = 1;
        assert!(!is_zero(&page));
        let memory = Memory::new(16 * PAGE_SIZE).unwrap();
        memory.ram().write_obj(1u8, GuestAddress(3 * PAGE_SIZE)).unwrap();
        memory.ram().write_obj(1u8, GuestAddress(4 * PAGE_SIZE)).unwrap();
        let file = tempfile::tempfile().unwrap();
        let runs = write_memory(&memory, &file, 0, 0, 16 * PAGE_SIZE).unwrap();
        assert_eq!(runs, [(3 * PAGE_SIZE, 2 * PAGE_SIZE)]);
    }
}
