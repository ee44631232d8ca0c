//! `insula stats`.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Client, Query};
use crate::container::path;
use crate::container::ps::short_id;
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

#[expect(clippy::cast_precision_loss, reason = "percentages are shown with two digits")]
fn percent(part: i64, whole: i64, times: i64) -> f64 {
    if part <= 0 || whole <= 0 { 0.0 } else { part as f64 / whole as f64 * times as f64 * 100.0 }
}

fn row(name: &str, stats: &Value, whole: bool) -> Value {
    let delta = |path: &str| {
        table::number(stats, &format!("/cpu_stats{path}")) - table::number(stats, &format!("/precpu_stats{path}"))
    };
    let cpus = match table::number(stats, "/cpu_stats/online_cpus") {
        0 => i64::try_from(table::elements(stats, "/cpu_stats/cpu_usage/percpu_usage").len()).unwrap_or(1).max(1),
        cpus => cpus,
    };
    let cpu = percent(delta("/cpu_usage/total_usage"), delta("/system_cpu_usage"), cpus);
    // What the page cache could give back at once is not counted.
    let cached = ["/memory_stats/stats/total_inactive_file", "/memory_stats/stats/inactive_file"];
    let used = table::number(stats, "/memory_stats/usage");
    let cache = cached.iter().map(|path| table::number(stats, path)).find(|cache| *cache > 0).unwrap_or(0);
    let used = if cache < used { used - cache } else { used };
    let limit = table::number(stats, "/memory_stats/limit");
    let networks = stats.pointer("/networks").and_then(Value::as_object);
    let (mut received, mut sent) = (0, 0);
    for (_, network) in networks.into_iter().flatten() {
        received += table::number(network, "/rx_bytes");
        sent += table::number(network, "/tx_bytes");
    }
    let (mut read, mut written) = (0, 0);
    for entry in table::elements(stats, "/blkio_stats/io_service_bytes_recursive") {
        match table::text(entry, "/op").to_ascii_lowercase().as_str() {
            "read" => read += table::number(entry, "/value"),
            "write" => written += table::number(entry, "/value"),
            _ => {}
        }
    }
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
        "PIDs": table::number(stats, "/pids_stats/current").to_string(),
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
