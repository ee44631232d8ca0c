//! What the fuzz targets call. The seeds in `fuzz/corpus-seeds` go through the same functions in this crate's tests.

/// A request to the program.
pub fn http(bytes: &[u8]) {
    crate::program::parse_stranger(bytes);
}

/// A kernel's file.
pub fn kernel(bytes: &[u8]) {
    crate::boot::load_stranger(bytes);
}

/// A snapshot's state file.
pub fn snapshot(bytes: &[u8]) {
    crate::machine::snapshot::decode_stranger(bytes);
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::{Target, disturb, replay};

    const TARGETS: &[Target] =
        &[("vmm_http", super::http), ("vmm_kernel", super::kernel), ("vmm_snapshot", super::snapshot)];

    #[test]
    fn seeds_pass() {
        replay(TARGETS);
    }

    #[test]
    fn noise_and_damage_never_panic() {
        disturb(TARGETS);
    }
}
