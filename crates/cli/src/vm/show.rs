//! `insula vm inspect` and `metrics`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::place::Place;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table};

pub(crate) static INSPECT: Command = Command {
    name: "inspect",
    usage: "NAME",
    about: "Show what a machine is and does, as JSON",
    arguments: (1, 1),
    action: Action::Run(inspect),
    ..Command::BLANK
};

pub(crate) static METRICS: Command = Command {
    name: "metrics",
    usage: "[OPTIONS] NAME",
    about: "Show what a machine's devices have counted",
    flags: &[&[Flag::value("format", "json|prometheus", "In which form (default json)")]],
    arguments: (1, 1),
    action: Action::Run(metrics),
    ..Command::BLANK
};

fn inspect(context: &Context, given: &Parsed) -> Outcome {
    let place = Place::find(context, given.first())?;
    let answer = if place.alive() {
        place.request("GET", "/", None)?
    } else {
        serde_json::json!({ "phase": "ended", "spec": place.spec() }).to_string().into_bytes()
    };
    output::line(&table::pretty(&answer));
    Ok(0)
}

fn metrics(context: &Context, given: &Parsed) -> Outcome {
    let place = Place::find(context, given.first())?;
    let answer = place.request("GET", "/metrics", None)?;
    match given.value("format") {
        None | Some("json") => output::line(&table::pretty(&answer)),
        Some("prometheus") => {
            let told = serde_json::from_slice(&answer).unwrap_or_default();
            output::write(prometheus(&place.name, &told).as_bytes());
        }
        Some(other) => return Err(Failure::new(format!("bad format {other:?}: give json or prometheus"))),
    }
    Ok(0)
}

/// Counters of devices in Prometheus' text format: a family for each counter, its samples next to each other.
fn prometheus(machine: &str, told: &Value) -> String {
    let mut families: BTreeMap<&str, String> = BTreeMap::new();
    for (device, counters) in told.as_object().into_iter().flatten() {
        for (counter, value) in counters.as_object().into_iter().flatten() {
            let lines = families.entry(counter).or_default();
            // A machine's name has no character that would have to be escaped, and a device's neither.
            let _fits = writeln!(lines, "insula_vm_{counter}{{machine=\"{machine}\",device=\"{device}\"}} {value}");
        }
    }
    families.iter().map(|(name, lines)| format!("# TYPE insula_vm_{name} untyped\n{lines}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_stand_together() {
        let told = serde_json::json!({ "block0": { "reads": 3, "errors": 0 }, "net1": { "errors": 2 } });
        let text = "# TYPE insula_vm_errors untyped
insula_vm_errors{machine=\"a\",device=\"block0\"} 0
insula_vm_errors{machine=\"a\",device=\"net1\"} 2
# TYPE insula_vm_reads untyped
insula_vm_reads{machine=\"a\",device=\"block0\"} 3
";
        assert_eq!(prometheus("a", &told), text);
    }
}
