//! `insula volume ls`.

use serde_json::{Value, json};

use crate::client::{Client, Query, filters};
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::output;
use crate::table::{self, Column};

pub(super) static COMMAND: Command = Command {
    name: "ls",
    aliases: &["list"],
    usage: "[OPTIONS]",
    about: "List volumes",
    flags: &[&[
        Flag::list("filter", "NAME=VALUE", "Only those with this: dangling=, driver=, label=, name=").short('f'),
        Flag::value("format", "TEMPLATE", "Show as a template says: 'table …', '{{.Name}}' or json"),
        Flag::switch("quiet", "Show only names").short('q'),
    ]],
    action: Action::Run(list),
    ..Command::BLANK
};

pub(crate) const COLUMNS: &[Column] = &[
    ("Availability", "AVAILABILITY"),
    ("Driver", "DRIVER"),
    ("Group", "GROUP"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Size", "SIZE"),
    ("Status", "STATUS"),
];
const SHOWN: &str = "{{.Driver}}\t{{.Name}}";

fn list(context: &Context, given: &Parsed) -> Outcome {
    let query = Query::default().with_some("filters", filters(given.values("filter"))?.as_deref());
    let answer = Client::new(context).get(&query.behind("/volumes"))?;
    let mut volumes: Vec<&Value> = table::elements(&answer, "/Volumes").iter().collect();
    volumes.sort_by_key(|volume| table::text(volume, "/Name"));
    if given.on("quiet") && given.value("format").is_none() {
        volumes.iter().for_each(|volume| output::line(table::text(volume, "/Name")));
        return Ok(0);
    }
    let rows: Vec<Value> = volumes.into_iter().map(row).collect();
    table::list(COLUMNS, SHOWN, &rows, given.value("format"))?;
    Ok(0)
}

/// What lists show of a volume; sizes are known only to `system df`.
pub(crate) fn row(volume: &Value) -> Value {
    let labels = volume.get("Labels").and_then(Value::as_object).into_iter().flatten();
    let mut labels: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    labels.sort();
    let (size, links) = match volume.get("UsageData").filter(|usage| usage.is_object()) {
        None => ("N/A".to_owned(), "N/A".to_owned()),
        Some(usage) => {
            (table::decimal_size(table::number(usage, "/Size"), 4), table::number(usage, "/RefCount").to_string())
        }
    };
    json!({
        "Availability": "N/A", "Driver": table::text(volume, "/Driver"), "Group": "N/A", "Labels": labels.join(","),
        "Links": links, "Mountpoint": table::text(volume, "/Mountpoint"), "Name": table::text(volume, "/Name"),
        "Scope": table::text(volume, "/Scope"), "Size": size, "Status": "N/A",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_a_value() {
        let volume = json!({"Name": "data", "Driver": "local", "Scope": "local", "Labels": {"b": "2", "a": ""},
            "Mountpoint": "/m", "UsageData": {"Size": 2_500_000, "RefCount": 1}});
        let shown = row(&volume);
        for (name, _) in COLUMNS {
            assert!(shown.get(name).is_some_and(Value::is_string), "{name}");
        }
        assert_eq!((table::text(&shown, "/Labels"), table::text(&shown, "/Size")), ("a=,b=2", "2.5MB"));
        assert_eq!(table::text(&row(&json!({"Name": "x", "Labels": null})), "/Links"), "N/A");
    }
}
