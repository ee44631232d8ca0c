//! What every crate with fuzz targets does with their seeds on stable Rust: replays them, and feeds noise and damaged
//! seeds. Part of the tests of each (`#[path]`), since the lowest crates can use no other of ours.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// A target's name, which is its seeds' folder, and its entry.
pub(super) type Target = (&'static str, fn(&[u8]));

/// The seeds of a target.
pub(super) fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-seeds").join(target);
    fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}

/// Runs every seed of every target.
pub(super) fn replay(targets: &[Target]) {
    for (target, run) in targets {
        let seeds = seeds(target);
        assert!(!seeds.is_empty(), "{target} has no seeds");
        seeds.iter().for_each(|seed| run(seed));
    }
}

/// Runs every target over noise, and over its seeds with some bytes changed and the end cut off.
pub(super) fn disturb(targets: &[Target]) {
    let config = ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() };
    let input = (vec(any::<u8>(), 0..600), vec(any::<(u16, u8)>(), 1..5), any::<u16>());
    let outcome = TestRunner::new(config).run(&input, |(noise, edits, cut)| {
        for (target, run) in targets {
            run(&noise);
            run(String::from_utf8_lossy(&noise).as_bytes());
            for mut seed in seeds(target).into_iter().filter(|seed| !seed.is_empty()) {
                let length = seed.len();
                edits.iter().for_each(|(at, byte)| seed[usize::from(*at) % length] = *byte);
                run(&seed);
                run(&seed[..usize::from(cut) % length]);
            }
        }
        Ok(())
    });
    outcome.unwrap();
}
