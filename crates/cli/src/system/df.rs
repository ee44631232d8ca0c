//! `insula system df`.

use serde_json::{Value, json};

use crate::client::Client;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::table::{self, Column};

pub(crate) static COMMAND: Command = Command {
    name: "df",
    usage: "[OPTIONS]",
    about: "Show what takes room on the disk",
    flags: &[&[Flag::value("format", "TEMPLATE", "Show as a template says: 'table …', '{{.Size}}' or json")]],
    action: Action::Run(df),
    ..Command::BLANK
};

const COLUMNS: &[Column] = &[
    ("Active", "ACTIVE"),
    ("Reclaimable", "RECLAIMABLE"),
    ("Size", "SIZE"),
    ("TotalCount", "TOTAL"),
    ("Type", "TYPE"),
];
const SHOWN: &str = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";

fn df(context: &Context, given: &Parsed) -> Outcome {
    let answer = Client::new(context).get("/system/df")?;
    let images = table::elements(&answer, "/Images");
    let containers = table::elements(&answer, "/Containers");
    let used = |image: &&Value| table::number(image, "/Containers") > 0;
    let sum = |list: &[&Value], path: &str| list.iter().map(|item| table::number(item, path)).sum::<i64>();
    let image_size = match table::number(&answer, "/LayersSize") {
        0 => sum(&images.iter().collect::<Vec<_>>(), "/Size"),
        size => size,
    };
    let active: Vec<&Value> = images.iter().filter(used).collect();
    let running: Vec<&Value> = containers.iter().filter(|item| table::text(item, "/State") == "running").collect();
    let container_size = sum(&containers.iter().collect::<Vec<_>>(), "/SizeRw");
    let rows = [
        row("Images", images.len(), active.len(), image_size, image_size - sum(&active, "/Size")),
        row("Containers", containers.len(), running.len(), container_size, container_size - sum(&running, "/SizeRw")),
    ];
    table::list(COLUMNS, SHOWN, &rows, given.value("format"))?;
    Ok(0)
}

fn row(kind: &str, total: usize, active: usize, size: i64, reclaimable: i64) -> Value {
    let reclaimable = reclaimable.max(0);
    let share = if size > 0 { format!(" ({}%)", reclaimable * 100 / size) } else { String::new() };
    json!({
        "Type": kind, "TotalCount": total.to_string(), "Active": active.to_string(),
        "Size": table::decimal_size(size, 4), "Reclaimable": format!("{}{share}", table::decimal_size(reclaimable, 4)),
    })
}
