//! The small guests of `tests/guests`, on each tier.

use hv::clock::TimeSource;
use softcpu::Choices;

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
            let ended = run(&image, cpus, Choices { tier, ..Choices::default() });
            assert_eq!(ended.status, Ok(0), "{tier:?} with {cpus} processors: {}", ended.said);
        }
    }
}

#[test]
fn tiers_agree_in_instructions_and_memory_where_instructions_are_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let Some(image) = build(folder.path(), SUITE) else { return };
    let ends = TIERS.map(|tier| {
        let ended = run(&image, 1, Choices { tier, time: TimeSource::Instructions });
        assert_eq!(ended.status, Ok(0), "{tier:?}: {}", ended.said);
        (ended.instructions, ended.digest)
    });
    assert_eq!(ends[0], ends[1]);
}
