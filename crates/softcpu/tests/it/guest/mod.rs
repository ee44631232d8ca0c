//! The small guests of `tests/guests`, on each tier.

use hv::clock::TimeSource;
use std::time::{Duration, Instant};

use softcpu::{Choices, Tier};

use crate::machine::{Course, TIERS, build, run};
use crate::random::{Asked, Random};

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
    "suite.c",
];

/// Processors that run what others write at the same time.
const CROSSING: &[&str] = &["start.S", "guest.c", "crossing.c"];

#[test]
fn processors_do_what_the_manual_says() {
    let folder = tempfile::tempdir().unwrap();
    let Some(image) = build(folder.path(), SUITE) else { return };
    for tier in TIERS {
        for cpus in [1, 4] {
            let ended = run(&image, cpus, &[Choices { tier, ..Choices::default() }], Course::Calm);
            assert_eq!(ended.status, Ok(0), "{tier:?} with {cpus} processors: {}", ended.said);
        }
    }
}

#[test]
fn tiers_agree_in_instructions_and_memory_where_instructions_are_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let Some(image) = build(folder.path(), SUITE) else { return };
    let ends = TIERS.map(|tier| {
        let ended = run(&image, 1, &[Choices { tier, time: TimeSource::Instructions }], Course::Calm);
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
    let ended = run(&image, 3, &choices, Course::Moves(Duration::from_millis(100)));
    assert_eq!(ended.status, Ok(0), "after {} moves: {}", ended.moves, ended.said);
    assert!(ended.moves > 2, "only {} moves", ended.moves);
}

/// Code that one processor writes is run by others, in peace and while their machine rests and moves; `SOFTCPU_CROSSING=SECONDS[,SEED]` makes it
/// longer.
#[test]
fn code_that_others_write_is_run_as_it_is_by_then() {
    let folder = tempfile::tempdir().unwrap();
    let Some(image) = build(folder.path(), CROSSING) else { return };
    let choices =
        |tiers: &[Tier]| -> Vec<_> { tiers.iter().map(|&tier| Choices { tier, ..Choices::default() }).collect() };
    let Asked { time, first } = Asked::by("SOFTCPU_CROSSING");
    let (begun, mut turns) = (Instant::now(), 0);
    while time.map_or(turns < 3, |time| begun.elapsed() < time) {
        let seed = first + turns;
        let (tiers, course): (&[Tier], _) = match turns % 3 {
            0 => (&[Tier::Translate], Course::Calm),
            1 => (&[Tier::Translate], Course::Unrest(Random::new(seed))),
            _ => (&TIERS, Course::Unrest(Random::new(seed))),
        };
        let ended = run(&image, 4, &choices(tiers), course);
        assert_eq!(ended.status, Ok(0), "seed {seed}, after {} moves: {}", ended.moves, ended.said);
        turns += 1;
    }
}
