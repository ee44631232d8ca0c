//! What the fuzz targets call. The seeds in `fuzz/corpus-seeds` go through the same functions in this crate's tests.

use crate::build::{Asked, Job, read};
use crate::session::take;
use crate::wire::{control, gateway};
use engine::image::Limits;
use engine::image::build::{Arriving, Files};
use prost::Message;

/// The messages of a client that sends files. What is taken can be read.
pub fn files(bytes: &[u8]) {
    let limits = Limits { entries: 1000, archive_bytes: 1 << 20, file_bytes: 1 << 20, ..Limits::default() };
    let Ok(arriving) = Arriving::new(&std::env::temp_dir(), limits) else { return };
    if let Ok(context) = take(bytes, arriving) {
        let names = context.names(b"").unwrap_or_default();
        for name in names {
            assert!(name != b".." && !name.contains(&b'/'), "a name leads out");
            let _ = (context.look(&name), context.digest(&name), context.open(&name).is_ok());
        }
    }
}

/// A request for a build, as the gateway and as the control service take it.
pub fn solve(bytes: &[u8]) {
    let Ok(asked) = gateway::SolveRequest::decode(bytes) else { return };
    let mut job = Job::new("fuzz", String::new());
    if let Ok(whole) = control::SolveRequest::decode(bytes) {
        (job.exporters, job.entitlements) = (whole.exporters, whole.entitlements);
        job.cache_exports = whole.cache.unwrap_or_default().exports;
    }
    let inputs = asked.frontend_inputs;
    let asked = Asked::new(&asked.frontend, asked.frontend_opt, asked.cache_imports, false);
    match asked.and_then(|asked| asked.with_inputs(&inputs)) {
        Ok(asked) => drop(read(&job, asked)),
        Err(status) => assert!(!status.message.is_empty(), "a refusal without a reason"),
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::{Target, disturb, replay, seeds};
    use super::*;

    const TARGETS: &[Target] = &[("buildkit_files", files), ("buildkit_solve", solve)];

    #[test]
    fn seeds_replay() {
        replay(TARGETS);
    }

    #[test]
    fn noise_and_damaged_seeds_do_no_harm() {
        disturb(TARGETS);
    }

    #[test]
    fn the_seeds_are_understood() {
        for seed in seeds("buildkit_files") {
            let arriving = Arriving::new(&std::env::temp_dir(), Limits::default()).unwrap();
            assert!(!take(&seed, arriving).unwrap().names(b"").unwrap().is_empty());
        }
        for seed in seeds("buildkit_solve") {
            let asked = gateway::SolveRequest::decode(&seed[..]).unwrap();
            let asked = Asked::new(&asked.frontend, asked.frontend_opt, asked.cache_imports, false).unwrap();
            assert!(read(&Job::new("x", String::new()), asked).is_ok());
        }
    }
}
