//! `insula update`.

use docker_wire::models::HostConfig;
use serde_json::Value;

use crate::container::{each, limits, path};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Parsed};
use crate::{output, table};

pub(crate) static COMMAND: Command = Command {
    name: "update",
    usage: "[OPTIONS] CONTAINER...",
    about: "Change the limits of containers",
    flags: &[limits::FLAGS],
    arguments: (1, Command::MANY),
    action: Action::Run(update),
    ..Command::BLANK
};

fn update(context: &Context, given: &Parsed) -> Outcome {
    let change = limits::read(given)?;
    if change == HostConfig::default() {
        return Err(Failure::new("nothing to change; give at least one option, as in --memory 512m"));
    }
    each(context, given, |client, name| {
        let answer = client.post_json(&path(name, "/update"), &change)?;
        for warning in table::elements(&answer, "/Warnings").iter().filter_map(Value::as_str) {
            output::note(&format!("warning: {warning}"));
        }
        Ok(name.to_owned())
    })
}
