//! `insula events`.

use std::io::{BufRead as _, BufReader};

use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

use crate::client::{Client, Query, filters};
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::template::Template;
use crate::value::time;
use crate::{output, table};

pub(crate) static COMMAND: Command = Command {
    name: "events",
    usage: "[OPTIONS]",
    about: "Show what happens, as it happens",
    flags: &[&[
        Flag::list("filter", "NAME=VALUE", "Only those with this: event=, container=, image=, type=, label=")
            .short('f'),
        Flag::value("format", "TEMPLATE", "Show as a template says, as in '{{.Action}}', or json"),
        Flag::value("since", "TIME", "Begin here: a span as in 10m, or a moment"),
        Flag::value("until", "TIME", "End here: a span as in 10m, or a moment"),
    ]],
    action: Action::Run(events),
    ..Command::BLANK
};

fn events(context: &Context, given: &Parsed) -> Outcome {
    let now = Timestamp::now();
    let template = given.value("format").map(Template::parse).transpose().map_err(Failure::new)?;
    let query = Query::default()
        .with_some("since", given.read("since", |text| time::moment(text, now))?.as_deref())
        .with_some("until", given.read("until", |text| time::moment(text, now))?.as_deref())
        .with_some("filters", filters(given.values("filter"))?.as_deref());
    let mut answer = Client::new(context).stream("GET", &query.behind("/events"), None)?;
    for line in BufReader::new(answer.reader()).lines() {
        let line = line.during(|| "lost the daemon".to_owned())?;
        if line.trim().is_empty() {
            continue;
        }
        let event: Value = serde_json::from_str(&line).during(|| "the daemon's event is not JSON".to_owned())?;
        match &template {
            // As it came, because the order of its members is the daemon's.
            Some(_) if given.value("format") == Some("json") || given.value("format") == Some("{{json .}}") => {
                output::line(&line)
            }
            Some(template) => output::line(&template.fill(&event).map_err(Failure::new)?),
            None => output::line(&shown(&event)),
        }
    }
    Ok(0)
}

fn shown(event: &Value) -> String {
    let nanos = event.pointer("/timeNano").and_then(Value::as_i64).unwrap_or_default();
    let moment = Timestamp::from_nanosecond(nanos.into()).unwrap_or(Timestamp::UNIX_EPOCH);
    let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
    let when = moment.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string();
    let attributes = event.pointer("/Actor/Attributes").and_then(Value::as_object).into_iter().flatten();
    let attributes: Vec<String> =
        attributes.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect();
    let what = format!(
        "{when} {} {} {}",
        table::text(event, "/Type"),
        table::text(event, "/Action"),
        table::text(event, "/Actor/ID")
    );
    if attributes.is_empty() { what } else { format!("{what} ({})", attributes.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_read_as_dockers_do() {
        let event = json!({"Type": "container", "Action": "die", "timeNano": 1_500_000_000_i64,
            "Actor": {"ID": "abc", "Attributes": {"exitCode": "137", "name": "web"}}});
        let text = shown(&event);
        assert!(text.starts_with("19") && text.contains("01.500000000"), "{text}");
        assert!(text.ends_with(" container die abc (exitCode=137, name=web)"), "{text}");
    }
}
