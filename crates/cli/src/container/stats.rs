//! `insula stats`.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Client, Query};
use crate::container::path;
use crate::container::ps::short_id;
use crate::container::sample::{Processors, Sample, percent};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::table::{self, Column};
use crate::{output, terminal};

pub(crate) static COMMAND: Command = Command {
    name: "stats",
    usage: "[OPTIONS] [CONTAINER...]",
    about: "Show what containers use",
    flags: &[&[
        Flag::switch("all", "Show those that do not run, too").short('a'),
        Flag::value("format", "TEMPLATE", "Show as a template says: 'table …', '{{.CPUPerc}}' or json"),
        Flag::switch("no-stream", "Show once, and end"),
        Flag::switch("no-trunc", "Shorten nothing"),
    ]],
    arguments: (0, Command::MANY),
    action: Action::Run(stats),
    ..Command::BLANK
};

const COLUMNS: &[Column] = &[
    ("BlockIO", "BLOCK I/O"),
    ("CPUPerc", "CPU %"),
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("MemPerc", "MEM %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("Name", "NAME"),
    ("NetIO", "NET I/O"),
    ("PIDs", "PIDS"),
];
const SHOWN: &str =
    "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

fn stats(context: &Context, given: &Parsed) -> Outcome {
    let mut client = Client::new(context);
    let clears = terminal::is_output() && !given.on("no-stream");
    loop {
        let names = if given.arguments.is_empty() {
            let query = Query::default().flag("all", given.on("all"));
            let list = client.get(&query.behind("/containers/json"))?;
            table::elements(&list, "").iter().map(|container| table::text(container, "/Id").to_owned()).collect()
        } else {
            given.arguments.clone()
        };
        let rows = sample(context, &names, given.on("no-trunc"), !given.arguments.is_empty())?;
        if clears {
            output::print("\x1b[H\x1b[J");
        }
        table::list(COLUMNS, SHOWN, &rows, given.value("format"))?;
        if given.on("no-stream") {
            return Ok(0);
        }
        if names.is_empty() {
            thread::sleep(Duration::from_millis(500));
        }
    }
}

/// Samples all containers at once, because each sample takes the daemon about a second.
fn sample(context: &Context, names: &[String], whole: bool, named: bool) -> Result<Vec<Value>, Failure> {
    thread::scope(|scope| {
        let samples: Vec<_> = names
            .iter()
            .map(|name| {
                scope.spawn(move || {
                    let answer = Client::new(context).get(&path(name, "/stats?stream=0"))?;
                    Ok::<_, Failure>(row(name, &answer, whole))
                })
            })
            .collect();
        let mut rows = Vec::new();
        for sample in samples {
            match sample.join() {
                Ok(Ok(row)) => rows.push(row),
                // One from the list may have gone in between.
                Ok(Err(failure)) if failure.status() == Some(404) && !named => {}
                Ok(Err(failure)) => return Err(failure),
                Err(_) => return Err(Failure::new("a sample could not be taken")),
            }
        }
        Ok(rows)
    })
}

fn row(name: &str, stats: &Value, whole: bool) -> Value {
    let sample = Sample::read(stats);
    let cpu = sample.cpu_percent(&Processors::read(stats, "/precpu_stats"));
    let Sample { used, limit, received, sent, read, written, .. } = sample;
    let id = match table::text(stats, "/id") {
        "" => name,
        id => id,
    };
    let shown_name = table::text(stats, "/name");
    json!({
        "Container": name,
        "ID": if whole { id.to_owned() } else { short_id(id) },
        "Name": shown_name.strip_prefix('/').unwrap_or(shown_name),
        "CPUPerc": format!("{cpu:.2}%"),
        "MemUsage": format!("{} / {}", table::binary_size(used, 4), table::binary_size(limit, 4)),
        "MemPerc": format!("{:.2}%", percent(used, limit, 1)),
        "NetIO": format!("{} / {}", table::decimal_size(received, 3), table::decimal_size(sent, 3)),
        "BlockIO": format!("{} / {}", table::decimal_size(read, 3), table::decimal_size(written, 3)),
        "PIDs": sample.pids.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_computed_from_two_samples() {
        let stats = json!({
            "id": "0123456789abcdef", "name": "/web",
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 3 << 20, "limit": 8 << 20, "stats": {"total_inactive_file": 1 << 20}},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 1000}, {"op": "write", "value": 2000}]},
            "pids_stats": {"current": 4},
        });
        let got = row("web", &stats, false);
        let check = |name: &str, expect: &str| assert_eq!(table::text(&got, name), expect, "{name}");
        check("/CPUPerc", "40.00%");
        check("/MemUsage", "2MiB / 8MiB");
        check("/MemPerc", "25.00%");
        check("/BlockIO", "1kB / 2kB");
        check("/NetIO", "0B / 0B");
        check("/PIDs", "4");
        check("/Name", "web");
    }
}
