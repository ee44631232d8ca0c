//! The small guests of `tests/guests`, on each tier.

use crate::machine::{TIERS, build, run};

const SUITE: &[&str] = &[
    "start.S",
    "guest.c",
    "code.c",
    "debug.c",
    "exceptions.c",
    "interrupts.c",
    "many.c",
    "modes.c",
    "paging.c",
    "registers.c",
    "strings.c",
];

#[test]
fn processors_do_what_the_manual_says() {
    let folder = tempfile::tempdir().unwrap();
    let Some(image) = build(folder.path(), SUITE) else { return };
    for tier in TIERS {
        for cpus in [1, 4] {
            let ended = run(&image, cpus, tier);
            assert_eq!(ended.status, Ok(0), "{tier:?} with {cpus} processors: {}", ended.said);
        }
    }
}
