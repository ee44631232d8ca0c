//! `insula network ls`.

use serde_json::{Value, json};

use crate::client::{Client, Query, filters};
use crate::container::ps::short_id;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::output;
use crate::table::{self, Column};

pub(crate) static COMMAND: Command = Command {
    name: "ls",
    aliases: &["list"],
    usage: "[OPTIONS]",
    about: "List networks",
    flags: &[&[
        Flag::list(
            "filter",
            "NAME=VALUE",
            "Only those with this: driver=, id=, label=, name=, scope=, type=, dangling=",
        )
        .short('f'),
        Flag::value("format", "TEMPLATE", "Show as a template says: 'table …', '{{.Name}}' or json"),
        Flag::switch("no-trunc", "Shorten nothing"),
        Flag::switch("quiet", "Show only ids").short('q'),
    ]],
    action: Action::Run(list),
    ..Command::BLANK
};

const COLUMNS: &[Column] = &[
    ("CreatedAt", "CREATED AT"),
    ("Driver", "DRIVER"),
    ("ID", "NETWORK ID"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("Name", "NAME"),
    ("Scope", "SCOPE"),
];
const SHOWN: &str = "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}";

fn list(context: &Context, given: &Parsed) -> Outcome {
    let query = Query::default().with_some("filters", filters(given.values("filter"))?.as_deref());
    let answer = Client::new(context).get(&query.behind("/networks"))?;
    let mut rows: Vec<Value> =
        table::elements(&answer, "").iter().map(|network| row(network, given.on("no-trunc"))).collect();
    rows.sort_by(|one, other| table::text(one, "/Name").cmp(table::text(other, "/Name")));
    if given.on("quiet") && given.value("format").is_none() {
        rows.iter().map(|row| table::text(row, "/ID")).for_each(output::line);
        return Ok(0);
    }
    table::list(COLUMNS, SHOWN, &rows, given.value("format"))?;
    Ok(0)
}

fn row(network: &Value, whole: bool) -> Value {
    let id = table::text(network, "/Id");
    let labels = network.pointer("/Labels").and_then(Value::as_object);
    let mut labels: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    labels.sort_unstable();
    json!({
        "ID": if whole { id.to_owned() } else { short_id(id) },
        "Name": table::text(network, "/Name"),
        "Driver": table::text(network, "/Driver"),
        "Scope": table::text(network, "/Scope"),
        "IPv4": table::switch(network, "/EnableIPv4").to_string(),
        "IPv6": table::switch(network, "/EnableIPv6").to_string(),
        "Internal": table::switch(network, "/Internal").to_string(),
        "CreatedAt": table::text(network, "/Created"),
        "Labels": labels.join(","),
    })
}
