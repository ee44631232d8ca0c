//! What is shown: each container's use, as rates between two looks.

use std::collections::HashMap;
use std::time::Instant;

use serde_json::Value;

use crate::client::Client;
use crate::container::path;
use crate::container::ps::short_id;
use crate::container::sample::{Sample, percent};
use crate::failure::Failure;
use crate::table;

/// So many looks are remembered for the curve.
const HISTORY: usize = 120;

/// By what the rows are put in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Order {
    #[default]
    Cpu,
    Memory,
    Network,
    Disk,
    Name,
}

impl Order {
    /// Reads a column's name.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "memory" | "mem" => Ok(Self::Memory),
            "net" | "network" => Ok(Self::Network),
            "io" | "disk" => Ok(Self::Disk),
            "name" => Ok(Self::Name),
            _ => Err("give cpu, memory, net, io or name".to_owned()),
        }
    }
}

/// One container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) status: String,
    /// 100 is one processor.
    pub(crate) cpu: f64,
    pub(crate) used: i64,
    pub(crate) limit: i64,
    pub(crate) memory: f64,
    /// Bytes a second.
    pub(crate) received: i64,
    pub(crate) sent: i64,
    pub(crate) read: i64,
    pub(crate) written: i64,
    pub(crate) pids: i64,
}

/// All containers that run.
#[derive(Debug)]
pub(crate) struct Board {
    client: Client,
    before: HashMap<String, (Instant, Sample)>,
    pub(crate) order: Order,
    pub(crate) rows: Vec<Row>,
    pub(crate) selected: usize,
    /// Processor use of all together at the last looks, in hundredths of a processor.
    pub(crate) history: Vec<u64>,
    pub(crate) cpus: i64,
}

impl Board {
    pub(crate) fn new(client: Client, order: Order) -> Self {
        let (before, rows, history) = (HashMap::new(), Vec::new(), Vec::new());
        Self { client, before, order, rows, selected: 0, history, cpus: 1 }
    }

    /// Takes a sample of every container.
    pub(crate) fn look(&mut self) -> Result<(), Failure> {
        let list = self.client.get("/containers/json")?;
        let mut rows = Vec::new();
        let mut samples = HashMap::new();
        for container in table::elements(&list, "") {
            let id = table::text(container, "/Id").to_owned();
            let stats = match self.client.get(&path(&id, "/stats?stream=0&one-shot=1")) {
                Ok(stats) => stats,
                // it has gone since
                Err(failure) if failure.status() == Some(404) => continue,
                Err(failure) => return Err(failure),
            };
            let (now, sample) = (Instant::now(), Sample::read(&stats));
            self.cpus = sample.cpus;
            rows.push(row(
                container,
                &sample,
                self.before.get(&id).map(|(then, before)| (now.duration_since(*then), before)),
            ));
            samples.insert(id, (now, sample));
        }
        self.before = samples;
        self.rows = rows;
        self.sort();
        let all: f64 = self.rows.iter().map(|row| row.cpu).sum();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small number that is not below 0"
        )]
        self.history.push(all.round() as u64);
        let surplus = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..surplus);
        Ok(())
    }

    fn sort(&mut self) {
        let order = self.order;
        self.rows.sort_by(|a, b| {
            let most = match order {
                Order::Cpu => b.cpu.total_cmp(&a.cpu),
                Order::Memory => b.used.cmp(&a.used),
                Order::Network => (b.received + b.sent).cmp(&(a.received + a.sent)),
                Order::Disk => (b.read + b.written).cmp(&(a.read + a.written)),
                Order::Name => std::cmp::Ordering::Equal,
            };
            most.then_with(|| a.name.cmp(&b.name))
        });
        self.selected = self.selected.min(self.rows.len().saturating_sub(1));
    }

    /// A key of the user's.
    pub(crate) fn press(&mut self, letter: u8) {
        match letter {
            b'c' => self.order = Order::Cpu,
            b'm' => self.order = Order::Memory,
            b'n' => self.order = Order::Network,
            b'i' => self.order = Order::Disk,
            b'a' => self.order = Order::Name,
            b'j' => self.selected += 1,
            b'k' => self.selected = self.selected.saturating_sub(1),
            _ => return,
        }
        self.sort();
    }

    /// The board as plain cells, the titles first.
    pub(crate) fn plain(&self) -> Vec<Vec<String>> {
        let titles = [
            "CONTAINER ID",
            "NAME",
            "STATUS",
            "CPU %",
            "MEM USAGE / LIMIT",
            "MEM %",
            "NET I/O /s",
            "BLOCK I/O /s",
            "PIDS",
        ];
        let mut all = vec![titles.map(str::to_owned).to_vec()];
        all.extend(self.rows.iter().map(|row| {
            vec![
                row.id.clone(),
                row.name.clone(),
                row.status.clone(),
                format!("{:.2}%", row.cpu),
                format!("{} / {}", table::binary_size(row.used, 4), table::binary_size(row.limit, 4)),
                format!("{:.2}%", row.memory),
                rate(row.received, row.sent),
                rate(row.read, row.written),
                row.pids.to_string(),
            ]
        }));
        all
    }
}

/// Two rates, in and out.
pub(crate) fn rate(into: i64, out: i64) -> String {
    format!("{} / {}", table::decimal_size(into, 3), table::decimal_size(out, 3))
}

fn row(container: &Value, sample: &Sample, before: Option<(std::time::Duration, &Sample)>) -> Row {
    let name = table::elements(container, "/Names").first().and_then(Value::as_str).unwrap_or_default();
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "rates are shown with three digits"
    )]
    let a_second =
        |now: i64, then: i64, passed: f64| if passed > 0.0 { ((now - then).max(0) as f64 / passed) as i64 } else { 0 };
    let mut row = Row {
        id: short_id(table::text(container, "/Id")),
        name: name.strip_prefix('/').unwrap_or(name).to_owned(),
        status: table::text(container, "/Status").to_owned(),
        used: sample.used,
        limit: sample.limit,
        memory: percent(sample.used, sample.limit, 1),
        pids: sample.pids,
        ..Row::default()
    };
    if let Some((passed, then)) = before {
        let passed = passed.as_secs_f64();
        row.cpu = sample.cpu_percent(&then.processors);
        row.received = a_second(sample.received, then.received, passed);
        row.sent = a_second(sample.sent, then.sent, passed);
        row.read = a_second(sample.read, then.read, passed);
        row.written = a_second(sample.written, then.written, passed);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::sample::Processors;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn rates_are_between_two_looks() {
        let then = Sample { processors: Processors { own: 100, host: 1000 }, received: 1000, ..Sample::default() };
        let now = Sample {
            processors: Processors { own: 200, host: 2000 },
            cpus: 2,
            used: 1 << 20,
            limit: 4 << 20,
            received: 5000,
            ..Sample::default()
        };
        let container = json!({ "Id": "0123456789abcdef", "Names": ["/web"], "Status": "Up 3 seconds" });
        let got = row(&container, &now, Some((Duration::from_secs(2), &then)));
        assert_eq!((got.name.as_str(), got.received, got.sent), ("web", 2000, 0));
        assert!((got.cpu - 20.0).abs() < 0.01 && (got.memory - 25.0).abs() < 0.01, "{got:?}");
        assert!(row(&container, &now, None).cpu.abs() < f64::EPSILON);
    }

    #[test]
    fn orders_have_names() {
        assert_eq!(Order::read("mem"), Ok(Order::Memory));
        assert!(Order::read("colour").is_err());
    }
}
