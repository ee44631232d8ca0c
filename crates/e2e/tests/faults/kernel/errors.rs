//! A call fails: the command copes, or fails with a message and leaves nothing that a retry trips over.

use super::open;
use testkit::Dice;

use super::point::REMOVING;

/// How many points of a command a usual run tries.
const USUAL: usize = 30;

/// What the calls fail with.
const ERRORS: &[&str] = &["ENOSPC", "EPERM", "ENOMEM", "EIO"];

fn fail_everywhere(name: &'static str) {
    let Some(scenario) = open(name) else { return };
    let mut dice = Dice::new();
    let points = scenario.points();
    let all: Vec<_> = points.iter().flat_map(|point| ERRORS.iter().map(move |error| (*point, *error))).collect();
    let total = all.len();
    let chosen = dice.choose(all, USUAL);
    println!("{name}: {} of {total} points, INSULA_E2E_SEED={}", chosen.len(), dice.seed);
    let (mut wrong, mut failed) = (Vec::new(), 0);
    for (point, error) in chosen {
        let outcome = scenario.attack(point, &format!("error={error}"));
        failed += usize::from(outcome.attacked != 0);
        // What could not be taken away, because just that failed, may be in the way of a run with the same id.
        let retry = outcome.at_once.is_none_or(|code| code == 0) || REMOVING.contains(&point.call);
        let code = outcome.attacked > 0 && !(128..255).contains(&outcome.attacked);
        // each process's call fails: where it is a write, that is the message, too
        let said = code && (point.call == "write" || !outcome.said.trim().is_empty());
        let clear = outcome.attacked == 0 || said && !outcome.said.contains("panicked");
        let clean = outcome.deleted == 0 && outcome.settled == 0 && outcome.again == 0 && outcome.left.is_empty();
        if !(retry && clear && clean) {
            wrong.push(format!("{error} at {point:?}: {outcome:#?}"));
        }
    }
    assert!(wrong.is_empty(), "INSULA_E2E_SEED={}, {} wrong:\n{}", dice.seed, wrong.len(), wrong.join("\n"));
    assert!(failed > 0, "nothing failed at any point");
}

#[test]
fn create_fails() {
    fail_everywhere("create");
}

#[test]
fn delete_fails() {
    fail_everywhere("delete");
}

#[test]
fn exec_fails() {
    fail_everywhere("exec");
}

#[test]
fn kill_fails() {
    fail_everywhere("kill");
}

#[test]
fn run_fails() {
    fail_everywhere("run");
}

#[test]
fn start_fails() {
    fail_everywhere("start");
}
