//! `insula vm ps`.

use serde_json::{Value, json};

use super::place::Place;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::output;
use crate::table::{self, Column};

const COLUMNS: &[Column] = &[
    ("Backend", "BACKEND"),
    ("Cpus", "CPUS"),
    ("Kernel", "KERNEL"),
    ("Memory", "MEMORY"),
    ("Name", "NAME"),
    ("Pid", "PID"),
    ("State", "STATE"),
];
const SHOWN: &str = "{{.Name}}\t{{.State}}\t{{.Backend}}\t{{.Cpus}}\t{{.Memory}}\t{{.Pid}}\t{{.Kernel}}";

pub(crate) static COMMAND: Command = Command {
    name: "ps",
    aliases: &["list", "ls"],
    usage: "[OPTIONS]",
    about: "Show virtual machines",
    flags: &[&[
        Flag::switch("all", "Also those that have ended").short('a'),
        Flag::value("format", "TEMPLATE", "Show each by a template, or as \"json\""),
        Flag::switch("quiet", "Show names only").short('q'),
    ]],
    action: Action::Run(ps),
    ..Command::BLANK
};

/// What is known of a machine: from itself, or from its record when it does not answer.
fn row(place: &Place) -> Value {
    let alive = place.alive();
    let told: Value = Some(place)
        .filter(|_| alive)
        .and_then(|place| place.request("GET", "/", None).ok())
        .and_then(|answer| serde_json::from_slice(&answer).ok())
        .unwrap_or_default();
    let spec = told.get("spec").filter(|spec| spec.is_object()).cloned().unwrap_or_else(|| place.spec());
    let state = match table::text(&told, "/phase") {
        _ if !alive => "ended",
        "" => "busy",
        phase => phase,
    };
    let number = |path: &str, default: i64| spec.pointer(path).and_then(Value::as_i64).unwrap_or(default);
    json!({
        "Backend": table::text(&told, "/backend"),
        "Cpus": number("/cpus", 1).to_string(),
        "Kernel": table::text(&spec, "/kernel"),
        "Memory": table::binary_size(number("/memory", 256 << 20), 4),
        "Name": place.name,
        "Pid": place.pid().filter(|_| alive).map_or_else(String::new, |pid| pid.to_string()),
        "State": state,
    })
}

fn ps(context: &Context, given: &Parsed) -> Outcome {
    let shown = |place: &Place| given.on("all") || place.alive();
    let places: Vec<_> = Place::list(context)?.into_iter().filter(shown).collect();
    if given.on("quiet") {
        places.iter().for_each(|place| output::line(&place.name));
        return Ok(0);
    }
    let rows: Vec<_> = places.iter().map(row).collect();
    table::list(COLUMNS, SHOWN, &rows, given.value("format"))?;
    Ok(0)
}
