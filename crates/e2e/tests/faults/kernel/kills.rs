//! The runtime, or its child, is killed at a call: a forced removal takes away all that there is, and the id is free again.

use super::open;
use testkit::Dice;

/// How many points of a command a usual run tries.
const USUAL: usize = 30;

fn kill_everywhere(name: &'static str) {
    let Some(scenario) = open(name) else { return };
    let mut dice = Dice::new();
    let points = scenario.points();
    let total = points.len();
    let chosen = dice.choose(points, USUAL);
    println!("{name}: {} of {total} points, INSULA_E2E_SEED={}", chosen.len(), dice.seed);
    let (mut wrong, mut killed) = (Vec::new(), 0);
    for point in chosen {
        let outcome = scenario.attack(point, "signal=SIGKILL");
        killed += usize::from(outcome.attacked != 0);
        if outcome.deleted != 0 || outcome.again != 0 || outcome.settled != 0 || !outcome.left.is_empty() {
            wrong.push(format!("killed at {point:?}: {outcome:#?}"));
        }
    }
    assert!(wrong.is_empty(), "INSULA_E2E_SEED={}, {} wrong:\n{}", dice.seed, wrong.len(), wrong.join("\n"));
    assert!(killed > 0, "nothing was killed at any point");
}

#[test]
fn create_is_killed() {
    kill_everywhere("create");
}

#[test]
fn delete_is_killed() {
    kill_everywhere("delete");
}

#[test]
fn exec_is_killed() {
    kill_everywhere("exec");
}

#[test]
fn kill_is_killed() {
    kill_everywhere("kill");
}

#[test]
fn run_is_killed() {
    kill_everywhere("run");
}

#[test]
fn start_is_killed() {
    kill_everywhere("start");
}
