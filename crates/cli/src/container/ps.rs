//! `insula ps`.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::client::{Client, Query, filters};
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::output;
use crate::table::{self, Column};
use crate::value::{number, time};

static FLAGS: &[Flag] = &[
    Flag::switch("all", "Show those that do not run, too").short('a'),
    Flag::list("filter", "NAME=VALUE", "Only those with this: name=, status=, label=, id=, ancestor=, exited=")
        .short('f'),
    Flag::value("format", "TEMPLATE", "Show as a template says: 'table …', '{{.Names}}' or json"),
    Flag::value("last", "COUNT", "Show the last so many, whatever their state").short('n'),
    Flag::switch("latest", "Show the last one").short('l'),
    Flag::switch("no-trunc", "Shorten nothing"),
    Flag::switch("quiet", "Show only ids").short('q'),
    Flag::switch("size", "Show sizes").short('s'),
];

pub(crate) static COMMAND: Command = Command {
    name: "ps",
    usage: "[OPTIONS]",
    about: "List containers",
    flags: &[FLAGS],
    action: Action::Run(list),
    ..Command::BLANK
};

pub(crate) static LS: Command = Command {
    name: "ls",
    aliases: &["ps", "list"],
    usage: "[OPTIONS]",
    about: "List containers",
    flags: &[FLAGS],
    action: Action::Run(list),
    ..Command::BLANK
};

pub(crate) const COLUMNS: &[Column] = &[
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Labels", "LABELS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mounts", "MOUNTS"),
    ("Names", "NAMES"),
    ("Networks", "NETWORKS"),
    ("Ports", "PORTS"),
    ("RunningFor", "CREATED"),
    ("Size", "SIZE"),
    ("State", "STATE"),
    ("Status", "STATUS"),
];
const SHOWN: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";
/// The most letters of a command that are shown.
const COMMAND_WIDTH: usize = 20;

fn list(context: &Context, given: &Parsed) -> Outcome {
    let last =
        if given.on("latest") { Some(1) } else { given.read("last", number::integer)?.filter(|count| *count > 0) };
    let format = given.value("format");
    let sized = given.on("size") || format.is_some_and(|format| format.contains(".Size"));
    let query = Query::default()
        .flag("all", given.on("all"))
        .flag("size", sized)
        .with_some("limit", last.map(|count| count.to_string()).as_deref())
        .with_some("filters", filters(given.values("filter"))?.as_deref());
    let answer = Client::new(context).get(&query.behind("/containers/json"))?;
    let whole = given.on("no-trunc");
    let rows: Vec<Value> =
        table::elements(&answer, "").iter().map(|container| row(container, whole, Timestamp::now())).collect();
    if given.on("quiet") && format.is_none() {
        rows.iter().for_each(|row| output::line(table::text(row, "/ID")));
        return Ok(0);
    }
    let shown = if given.on("size") { format!("{SHOWN}\t{{{{.Size}}}}") } else { SHOWN.to_owned() };
    table::list(COLUMNS, &shown, &rows, format)?;
    Ok(0)
}

/// The first letters of a text, with a mark for what was left out.
fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width - 1).collect();
    format!("{kept}…")
}

/// The short form of an id or digest.
pub(crate) fn short_id(id: &str) -> String {
    id.strip_prefix("sha256:").unwrap_or(id).chars().take(12).collect()
}

/// Labels as lists show them.
pub(crate) fn labels(value: &Value) -> String {
    let pairs = value.pointer("/Labels").and_then(Value::as_object).into_iter().flatten();
    pairs.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
}

pub(crate) fn row(container: &Value, whole: bool, now: Timestamp) -> Value {
    let id = table::text(container, "/Id");
    let image = table::text(container, "/Image");
    let command = format!(
        "\"{}\"",
        if whole {
            table::text(container, "/Command").to_owned()
        } else {
            shortened(table::text(container, "/Command"), COMMAND_WIDTH)
        }
    );
    let created = table::number(container, "/Created");
    let names: Vec<&str> = table::elements(container, "/Names")
        .iter()
        .filter_map(|name| name.as_str())
        .map(|name| name.strip_prefix('/').unwrap_or(name))
        .filter(|name| !name.contains('/'))
        .collect();
    let mounts: Vec<String> = table::elements(container, "/Mounts")
        .iter()
        .map(|mount| match table::text(mount, "/Name") {
            "" => table::text(mount, "/Source").to_owned(),
            name => name.to_owned(),
        })
        .map(|name| if whole { name } else { shortened(&name, 15) })
        .collect();
    let networks = container.pointer("/NetworkSettings/Networks").and_then(Value::as_object);
    let networks: Vec<&str> = networks.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let (written, total) = (table::number(container, "/SizeRw"), table::number(container, "/SizeRootFs"));
    let size = match total {
        0 => table::decimal_size(written, 3),
        total => format!("{} (virtual {})", table::decimal_size(written, 3), table::decimal_size(total, 3)),
    };
    json!({
        "ID": if whole { id.to_owned() } else { short_id(id) },
        "Image": if !whole && image.starts_with("sha256:") { short_id(image) } else { image.to_owned() },
        "Command": command,
        "CreatedAt": time::shown(created),
        "RunningFor": format!("{} ago", time::in_words(now.as_second() - created)),
        "Ports": ports(table::elements(container, "/Ports")),
        "State": table::text(container, "/State"),
        "Status": table::text(container, "/Status"),
        "Size": size,
        "Names": names.join(","),
        "Labels": labels(container),
        "LocalVolumes": "0",
        "Mounts": mounts.join(","),
        "Networks": networks.join(","),
    })
}

/// The host's address, the protocol, and the first port outside and inside.
type First<'a> = (String, &'a str, i64, i64);

/// Ports as Docker's client shows them, those that follow each other as one range.
pub(crate) fn ports(ports: &[Value]) -> String {
    let mut all: Vec<First<'_>> = ports
        .iter()
        .map(|port| {
            let address = table::text(port, "/IP");
            let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            (
                address,
                table::text(port, "/Type"),
                table::number(port, "/PublicPort"),
                table::number(port, "/PrivatePort"),
            )
        })
        .collect();
    all.sort();
    let mut ranges: Vec<(First<'_>, i64)> = Vec::new();
    for (address, kind, outside, inside) in all {
        if let Some(((last_address, last_kind, first_outside, first_inside), count)) = ranges.last_mut()
            && (last_address.as_str(), *last_kind) == (address.as_str(), kind)
            && *first_inside + *count == inside
            && (outside == 0 && *first_outside == 0 || *first_outside + *count == outside)
        {
            *count += 1;
        } else {
            ranges.push(((address, kind, outside, inside), 1));
        }
    }
    let range = |first: i64, count: i64| {
        if count == 1 { first.to_string() } else { format!("{first}-{}", first + count - 1) }
    };
    // those that are published nowhere come last
    ranges.sort_by_key(|((_, _, outside, _), _)| *outside == 0);
    let one = |((address, kind, outside, inside), count): (First<'_>, i64)| {
        let inside = format!("{}/{kind}", range(inside, count));
        if outside == 0 { inside } else { format!("{address}:{}->{inside}", range(outside, count)) }
    };
    ranges.into_iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_read_as_dockers_do() {
        let container = json!({
            "Id": "0123456789abcdef", "Names": ["/web"], "Image": "sha256:fedcba9876543210", "Command": "sh -c 'sleep 1000000'",
            "Created": 1000, "State": "running", "Status": "Up 3 seconds", "Labels": {"a": "b"},
            "Ports": [{"PrivatePort": 80, "PublicPort": 8080, "IP": "0.0.0.0", "Type": "tcp"}, {"PrivatePort": 443, "Type": "tcp"}],
        });
        let got = row(&container, false, Timestamp::from_second(1060).unwrap());
        let check = |name: &str, expect: &str| assert_eq!(table::text(&got, name), expect, "{name}");
        check("/ID", "0123456789ab");
        check("/Image", "fedcba987654");
        check("/Command", "\"sh -c 'sleep 100000…\"");
        check("/RunningFor", "About a minute ago");
        check("/Ports", "0.0.0.0:8080->80/tcp, 443/tcp");
        check("/Labels", "a=b");
        check("/Names", "web");
    }

    #[test]
    fn every_column_has_a_value() {
        let got = row(&json!({}), true, Timestamp::UNIX_EPOCH);
        for (name, _) in COLUMNS {
            assert!(got.get(name).is_some(), "{name}");
        }
    }
}
