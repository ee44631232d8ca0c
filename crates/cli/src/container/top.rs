//! `insula top` and `insula port`.

use serde_json::Value;

use crate::client::{Client, Query};
use crate::container::path;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Order, Parsed};
use crate::{output, table};

pub(crate) static COMMAND: Command = Command {
    name: "top",
    usage: "[OPTIONS] [CONTAINER [PS-OPTIONS]]",
    about: "Watch what containers use; or list the processes of one",
    flags: &[crate::top::FLAGS],
    order: Order::FlagsFirst,
    arguments: (0, Command::MANY),
    action: Action::Run(top),
    ..Command::BLANK
};

pub(crate) static PORT: Command = Command {
    name: "port",
    usage: "CONTAINER",
    about: "List the published ports of a container",
    arguments: (1, 2),
    action: Action::Run(port),
    ..Command::BLANK
};

fn top(context: &Context, given: &Parsed) -> Outcome {
    if given.arguments.is_empty() {
        return crate::top::watch(context, given);
    }
    let options = given.arguments.get(1..).unwrap_or_default().join(" ");
    let query = Query::default().with_some("ps_args", Some(options.as_str()).filter(|options| !options.is_empty()));
    let answer = Client::new(context).get(&query.behind(&path(given.first(), "/top")))?;
    let cells = |row: &Value| {
        let cells = row.as_array().into_iter().flatten();
        cells.map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let mut rows = vec![cells(answer.pointer("/Titles").unwrap_or(&Value::Null))];
    rows.extend(table::elements(&answer, "/Processes").iter().map(cells));
    output::print(&table::align(&rows));
    Ok(0)
}

fn port(context: &Context, given: &Parsed) -> Outcome {
    let container = Client::new(context).get(&path(given.first(), "/json"))?;
    let ports = container.pointer("/NetworkSettings/Ports").and_then(Value::as_object);
    let wanted = given.arguments.get(1);
    for (inside, bindings) in ports.into_iter().flatten() {
        if wanted.is_some_and(|wanted| wanted != inside && Some(wanted.as_str()) != inside.strip_suffix("/tcp")) {
            continue;
        }
        for binding in bindings.as_array().into_iter().flatten() {
            let address = table::text(binding, "/HostIp");
            let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            let outside = format!("{address}:{}", table::text(binding, "/HostPort"));
            output::line(&if wanted.is_some() { outside } else { format!("{inside} -> {outside}") });
        }
    }
    Ok(0)
}
