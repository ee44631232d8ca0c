//! `insula vm inspect` and `metrics`.

use super::place::Place;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Parsed};
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
    usage: "NAME",
    about: "Show what a machine's devices have counted, as JSON",
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
    output::line(&table::pretty(&place.request("GET", "/metrics", None)?));
    Ok(0)
}
