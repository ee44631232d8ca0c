//! The small guests of `tests/guests`, on each tier.

use hv::clock::TimeSource;
use softcpu::Choices;

use std::time::Duration;

use crate::machine::{PATIENCE, TIERS, build, run};

const SUITE: &[&str] = &[
    "start.S",
    "guest.c",
    "apic.c",
    "code.c",
    "debug.c",
    "exceptions.c",
    "interrupts.c",
    "many.c",
    "modes.c",
    "narrow.c",
    "operands.c",
    "paging.c",
    "points.c",
    "registers.c",
    "rights.c",
    "segments.c",
    "strings.c",
];

#[test]
fn processors_do_what_the_manual_says() {
    let folder = tempfile::tempdir().unwrap();
    let Some(image) = build(folder.path(), SUITE) else { return };
    for tier in TIERS {
        for cpus in [1, 4] {
            let ended = run(&image, cpus, &[Choices { tier, ..Choices::default() }], PATIENCE);
            assert_eq!(ended.status, Ok(0), "{tier:?} with {cpus} processors: {}", ended.said);
        }
    }
}

#[test]
fn tiers_agree_in_instructions_and_memory_where_instructions_are_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let Some(image) = build(folder.path(), SUITE) else { return };
    let ends = TIERS.map(|tier| {
        let ended = run(&image, 1, &[Choices { tier, time: TimeSource::Instructions }], PATIENCE);
        assert_eq!(ended.status, Ok(0), "{tier:?}: {}", ended.said);
        (ended.instructions, ended.digest)
    });
    assert_eq!(ends[0], ends[1]);
}

#[test]
fn guests_with_several_processors_go_on_in_other_machines_and_on_the_other_tier() {
    let folder = tempfile::tempdir().unwrap();
    let Some(image) = build(folder.path(), SUITE) else { return };
    let choices = TIERS.map(|tier| Choices { tier, ..Choices::default() });
    let ended = run(&image, 3, &choices, Duration::from_millis(100));
    assert_eq!(ended.status, Ok(0), "after {} moves: {}", ended.moves, ended.said);
    assert!(ended.moves > 2, "only {} moves", ended.moves);
}
