//! `insula compose events`.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::stack::Stack;
use super::{COMMON, follow};
use crate::client::Query;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::image::import::each_line;
use crate::value::time;
use crate::{output, table};

pub(super) static COMMAND: Command = Command {
    name: "events",
    usage: "[OPTIONS] [SERVICE...]",
    about: "Show what happens to the project's containers",
    flags: &[
        COMMON,
        &[
            Flag::switch("json", "One JSON object a line"),
            Flag::value("since", "TIME", "Begin here: a span as in 10m, or a moment"),
            Flag::value("until", "TIME", "End here: a span as in 10m, or a moment"),
        ],
    ],
    arguments: (0, Command::MANY),
    action: Action::Run(events),
    ..Command::BLANK
};

fn events(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::found(context, given, &given.arguments)?;
    let now = Timestamp::now();
    let query = Query::default()
        .with_some("since", given.read("since", |text| time::moment(text, now))?.as_deref())
        .with_some("until", given.read("until", |text| time::moment(text, now))?.as_deref());
    let answer = follow::events(&stack, query)?;
    each_line(answer, "lost the daemon", |event| {
        let (id, _, service, one_off) = follow::actor(event);
        let action = table::text(event, "/Action");
        // programs beside a container's own are not the container
        if one_off
            || action.starts_with("exec_")
            || (!given.arguments.is_empty() && !given.arguments.contains(&service))
        {
            return;
        }
        let attributes = attributes(event);
        let nanos = event.pointer("/timeNano").and_then(Value::as_i64).unwrap_or_default();
        let moment = Timestamp::from_nanosecond(nanos.into()).unwrap_or(Timestamp::UNIX_EPOCH);
        if given.on("json") {
            let attributes: serde_json::Map<String, Value> =
                attributes.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            let line = json!({"time": moment.to_string(), "type": "container", "service": service, "id": id, "action": action, "attributes": attributes});
            output::line(&line.to_string());
            return;
        }
        let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
        let when = moment.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S.%6f");
        let attributes: Vec<String> = attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        output::line(&format!("{when} container {action} {id} ({})", attributes.join(", ")));
    })?;
    Ok(0)
}

/// What an event says of its container beside the project's labels.
fn attributes(event: &Value) -> Vec<(String, String)> {
    let attributes = event.pointer("/Actor/Attributes").and_then(Value::as_object).into_iter().flatten();
    let own = attributes.filter(|(name, _)| !name.starts_with("com.docker.compose."));
    own.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}
