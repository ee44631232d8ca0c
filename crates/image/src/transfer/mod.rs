//! Files between a tree on disk and an archive, while others may change the tree.
//!
//! Everything goes through descriptors: no path is resolved outside the root that was opened, whatever links are put in the way.
//! openat2(2) with `RESOLVE_IN_ROOT`, `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`.

mod pack;
mod path;
#[cfg(test)]
mod tests;
mod unpack;

pub use pack::pack;
pub use path::{Wanted, clean, ensure_folder, resolve};
pub use unpack::{Naming, Owner, Replace, Rules, UnpackError, unpack};

/// Where ids of an archive stand for other ones in the tree: 0 for the first one, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shift {
    /// The tree's user id for 0.
    pub uid: u32,
    /// The tree's group id for 0.
    pub gid: u32,
    /// How many ids.
    pub count: u32,
}

impl Shift {
    fn archived(id: u32, shift: Option<Self>, first: fn(Self) -> u32) -> u32 {
        match shift {
            Some(shift) => id.checked_sub(first(shift)).filter(|id| *id < shift.count).unwrap_or(id),
            None => id,
        }
    }

    fn stored(id: u32, shift: Option<Self>, first: fn(Self) -> u32) -> u32 {
        match shift {
            Some(shift) if id < shift.count => first(shift).saturating_add(id),
            _ => id,
        }
    }
}
