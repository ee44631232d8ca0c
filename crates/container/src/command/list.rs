//! `list`: all containers.

use super::flags::{Command, Flag, Order, Parsed};
use super::state::Shown;
use super::{Context, Failure, Outcome, print};
use crate::runtime::life::Known;
use control::FailureKind;

static FLAGS: [Flag; 2] = [
    Flag::value("format", "table or json (default: table)").letter('f'),
    Flag::switch("quiet", "only the ids").letter('q'),
];

pub(super) static COMMAND: Command = Command {
    name: "list",
    usage: "[FLAGS]",
    about: "list the containers of this root folder",
    flags: &[&FLAGS],
    order: Order::Mixed,
    arguments: (0, 0),
    failure_code: 1,
    run,
};

/// Cells are at least this wide, and this far apart.
const LEAST: usize = 12;
const GAP: usize = 3;

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    let mut all = Vec::new();
    for id in context.root.ids()? {
        match Known::find(&context.root, &id) {
            Ok(known) => all.push(known),
            // it is being made or deleted
            Err(error) if error.kind == FailureKind::NotFound => {}
            Err(error) => context.log.warn(&format!("container {id}: {}", error.message)),
        }
    }
    let shown: Vec<Shown<'_>> = all.iter().map(Shown::of).collect();
    if parsed.on("quiet") {
        print(&all.iter().map(|known| format!("{}\n", known.record.id)).collect::<String>());
        return Ok(0);
    }
    match parsed.value("format").unwrap_or("table") {
        "table" => print(&table(&shown)),
        "json" if shown.is_empty() => print("null\n"),
        "json" => {
            let text = serde_json::to_string(&shown).map_err(|error| Failure::new(error.to_string()))?;
            print(&format!("{text}\n"));
        }
        other => return Err(Failure::new(format!("invalid format option {other:?}: table and json are known"))),
    }
    Ok(0)
}

fn table(shown: &[Shown<'_>]) -> String {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(shown.iter().map(Shown::row)).collect();
    let width = |at: usize| {
        let longest = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
        LEAST.max(longest.unwrap_or(0) + GAP)
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (at, cell) in row.iter().enumerate() {
            let width = widths.get(at).copied().unwrap_or(0);
            text += &format!("{cell:<width$}");
        }
        text.push('\n');
    }
    text
}
