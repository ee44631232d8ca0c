//! The state file: a header, and the machine without its memory as text. `docs/formats/vm-snapshot.md` draws it.

use std::io::Read;
use std::path::{Path, PathBuf};

use control::machine::MachineSpec;
use hv::clock::ClockState;
use hv::cpu_model::CpuModel;
use hv::memory::{PAGE_SIZE, Range};
use hv::{Backend, IrqchipState, VcpuState};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sys::handed;

use super::content::{PIECE, Piece};
use super::{STATE, SnapshotError, VERSION, file};
use crate::device::SerialSaved;
use crate::machine::devices::DeviceState;

const MAGIC: [u8; 8] = *b"INSULAVM";
/// Magic, version, checksum of the text, length of the text.
const HEADER: usize = 24;
/// No machine's state is longer.
const MOST_TEXT: u64 = 256 << 20;

/// How the memory file keeps its pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// Each where it lies in memory, with holes between them.
    #[default]
    None,
    /// One behind the other, each compressed.
    Zstd,
}

/// A machine at rest, without its memory: the text of the state file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) spec: MachineSpec,
    pub(super) backend: Backend,
    pub(super) model: CpuModel,
    pub(super) clock: ClockState,
    pub(super) vcpus: Vec<VcpuState>,
    pub(super) irqchip: IrqchipState,
    pub(super) devices: Vec<DeviceState>,
    pub(super) serial: SerialSaved,
    pub(super) pci_address: Option<u32>,
    pub(super) ranges: Vec<Range>,
    /// The folder of the snapshot that this one adds to.
    pub(super) parent: Option<PathBuf>,
    pub(super) packing: Packing,
    /// What the memory file has, in ascending order. Everything else is the parent's, or zero.
    pub(super) pieces: Vec<Piece>,
}

/// A header for this text, and the text.
fn seal(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + text.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(crc32c::crc32c(text).to_le_bytes());
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text);
    bytes
}

pub(super) fn encode(state: &State) -> Result<Vec<u8>, SnapshotError> {
    let text = serde_json::to_vec(state).map_err(|_| SnapshotError::Damaged("the machine's state has no text"))?;
    Ok(seal(&text))
}

pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<State, SnapshotError> {
    let header = bytes.get(..HEADER).filter(|header| header[..8] == MAGIC);
    let header = header.ok_or_else(|| SnapshotError::Format(path.to_owned()))?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if word(8) != VERSION {
        return Err(SnapshotError::Version(word(8)));
    }
    let length = u64::from(word(16)) | u64::from(word(20)) << 32;
    let text = &bytes[HEADER..];
    if length != text.len() as u64 {
        return Err(SnapshotError::Damaged("its state has another length than it says"));
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
    let mut end = 0;
    for piece in &state.pieces {
        let whole = piece.at.is_multiple_of(PAGE_SIZE) && u64::from(piece.size).is_multiple_of(PAGE_SIZE);
        let fits = piece.at >= end && piece.size != 0 && piece.at / PIECE == (piece.end() - 1) / PIECE;
        let kept = state.packing == Packing::Zstd || (piece.place == piece.at && piece.stored == piece.size);
        let inside = |range: &Range| piece.at >= range.offset && piece.end() <= range.offset + range.size;
        if !whole || !fits || !kept || !state.ranges.iter().any(inside) {
            return Err(SnapshotError::Damaged("it has memory that its machine has not"));
        }
        end = piece.end();
    }
    Ok(())
}

pub(super) fn read_state(folder: &Path) -> Result<State, SnapshotError> {
    let path = folder.join(STATE);
    let from = handed::open(&path, OFlags::RDONLY).map_err(file("opening", &path))?;
    let mut bytes = Vec::new();
    from.take(MOST_TEXT).read_to_end(&mut bytes).map_err(file("reading", &path))?;
    decode(&bytes, &path)
}

/// For the fuzz target: reads a state file's bytes, and a text that a stranger has given the right checksum.
pub(crate) fn decode_stranger(bytes: &[u8]) {
    let path = Path::new(STATE);
    let _whole = decode(bytes, path);
    let read = decode(&seal(bytes), path);
    assert!(!matches!(read, Err(SnapshotError::Checksum | SnapshotError::Format(_) | SnapshotError::Version(_))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_named() {
        let path = Path::new("state");
        let mut bytes = Vec::from(MAGIC);
        assert!(matches!(decode(b"", path), Err(SnapshotError::Format(_))));
        assert!(matches!(decode(b"INSULAVX0123456789012345", path), Err(SnapshotError::Format(_))));
        bytes.extend(7u32.to_le_bytes());
        bytes.extend([0; 12]);
        assert!(matches!(decode(&bytes, path), Err(SnapshotError::Version(7))));
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes.extend(b"{}");
        assert!(matches!(decode(&bytes, path), Err(SnapshotError::Damaged(_))));
        bytes[16] = 2;
        assert!(matches!(decode(&bytes, path), Err(SnapshotError::Checksum)));
        assert!(matches!(decode(&seal(b"{}"), path), Err(SnapshotError::Damaged(_))));
    }
}
