//! What containers write, with a name before each line; and `insula compose logs`.

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use compose::create::label;
use docker_wire::stdcopy::Stream;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::COMMON;
use super::progress::Colour;
use super::stack::{Kind, Member, Stack, short_name};
use crate::client::{Client, Query};
use crate::container::path;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::session::Unframe;
use crate::value::time;
use crate::{output, table, terminal};

pub(super) static COMMAND: Command = Command {
    name: "logs",
    usage: "[OPTIONS] [SERVICE...]",
    about: "Show what services' containers have written",
    flags: &[
        COMMON,
        &[
            Flag::switch("follow", "Go on with what they write from now").short('f'),
            Flag::value("index", "NUMBER", "The container of this number only"),
            Flag::switch("no-color", "Without colours"),
            Flag::switch("no-log-prefix", "Without names before the lines"),
            Flag::value("since", "TIME", "Begin here: a span as in 10m, or a moment"),
            Flag::value("tail", "LINES", "Begin so many lines before the end (all)").short('n'),
            Flag::switch("timestamps", "Show the time of each line").short('t'),
            Flag::value("until", "TIME", "End here: a span as in 10m, or a moment"),
        ],
    ],
    arguments: (0, Command::MANY),
    action: Action::Run(logs),
    ..Command::BLANK
};

/// The terminal's colours that names get in turn.
const PALETTE: &[u8] = &[36, 33, 32, 35, 34, 96, 93, 92, 95, 94];

/// Writes lines of many containers, with their names before them.
pub(super) struct Printer {
    colour: Colour,
    prefix: bool,
    timestamps: bool,
    width: AtomicUsize,
    colours: Mutex<HashMap<String, u8>>,
    /// One line at a time.
    pen: Mutex<()>,
}

impl Printer {
    pub(super) fn new(given: &Parsed) -> Result<Arc<Self>, Failure> {
        Ok(Arc::new(Self {
            colour: Colour::find(given, terminal::is_output())?,
            prefix: !given.on("no-log-prefix"),
            timestamps: given.on("timestamps"),
            width: AtomicUsize::new(0),
            colours: Mutex::new(HashMap::new()),
            pen: Mutex::new(()),
        }))
    }

    /// Makes room for a name, so that lines stand below each other.
    pub(super) fn expect(&self, name: &str) {
        self.width.fetch_max(name.chars().count(), Ordering::Relaxed);
        let mut colours = self.colours.lock().unwrap_or_else(PoisonError::into_inner);
        let next = PALETTE.get(colours.len() % PALETTE.len()).copied().unwrap_or(36);
        colours.entry(name.to_owned()).or_insert(next);
    }

    /// Writes a line.
    pub(super) fn line(&self, name: &str, stream: Stream, line: &[u8]) {
        let mut whole = Vec::with_capacity(line.len() + 32);
        if self.prefix {
            let colours = self.colours.lock().unwrap_or_else(PoisonError::into_inner);
            let colour = colours.get(name).copied().unwrap_or(36);
            let width = self.width.load(Ordering::Relaxed);
            let prefix = format!("{name:<width$}  | ");
            whole.extend_from_slice(self.colour.paint(colour, &prefix).as_bytes());
        }
        whole.extend_from_slice(line);
        whole.push(b'\n');
        let _one = self.pen.lock().unwrap_or_else(PoisonError::into_inner);
        match stream {
            Stream::Stderr => output::write_error(&whole),
            _ => output::write(&whole),
        }
    }

    /// Says something of a container among its lines: `web-1 exited with code 0`.
    pub(super) fn say(&self, name: &str, text: &str) {
        let colours = self.colours.lock().unwrap_or_else(PoisonError::into_inner);
        let painted = self.colour.paint(colours.get(name).copied().unwrap_or(36), name);
        drop(colours);
        let _one = self.pen.lock().unwrap_or_else(PoisonError::into_inner);
        output::write(format!("{painted} {text}\n").as_bytes());
    }
}

/// Cuts what two streams give into lines.
struct Lines<'a> {
    printer: &'a Printer,
    name: &'a str,
    timestamps: bool,
    open: [Vec<u8>; 2],
}

impl Lines<'_> {
    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        let Some(open) = self.open.get_mut(usize::from(stream == Stream::Stderr)) else { return };
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            open.extend_from_slice(part);
            if open.last() == Some(&b'\n') {
                open.pop();
                if open.last() == Some(&b'\r') {
                    open.pop();
                }
                let line = std::mem::take(open);
                if self.timestamps {
                    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ ").to_string();
                    self.printer.line(self.name, stream, &[now.as_bytes(), &line].concat());
                } else {
                    self.printer.line(self.name, stream, &line);
                }
            }
        }
    }

    fn end(&mut self) {
        for (index, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            let rest = self.open.get_mut(index).map(std::mem::take).unwrap_or_default();
            if !rest.is_empty() {
                self.printer.line(self.name, stream, &rest);
            }
        }
    }
}

/// When lines get the time at which they come: the log's own lines have theirs already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    Here,
    Daemon,
}

fn carry(printer: &Printer, name: &str, mut unframe: Unframe, stamp: Stamp, early: &[u8], reader: &mut dyn Read) {
    let timestamps = printer.timestamps && stamp == Stamp::Here;
    let mut lines = Lines { printer, name, timestamps, open: [Vec::new(), Vec::new()] };
    let mut buffer = vec![0; 64 * 1024];
    let mut fine = unframe.sort(early, &mut |stream, bytes| lines.take(stream, bytes)).is_ok();
    while fine {
        match reader.read(&mut buffer) {
            // the daemon has gone, or the container has
            Ok(0) | Err(_) => break,
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                fine = unframe.sort(bytes, &mut |stream, bytes| lines.take(stream, bytes)).is_ok();
            }
        }
    }
    lines.end();
}

/// Joins a container's output before it starts, and writes its lines on a thread of its own.
pub(super) fn join(
    context: &Context,
    printer: &Arc<Printer>,
    member: &Member,
    name: &str,
) -> Result<JoinHandle<()>, Failure> {
    let mut client = Client::new(context);
    let container = client.get(&path(&member.id, "/json"))?;
    let tty = table::switch(&container, "/Config/Tty");
    let query = Query::default().with("stream", "1").with("stdout", "1").with("stderr", "1");
    let upgraded = client.upgrade(&query.behind(&path(&member.id, "/attach")), None)?;
    printer.expect(name);
    let framed = upgraded.multiplexed.unwrap_or(!tty);
    let unframe = if framed { Unframe::framed() } else { Unframe::Raw };
    let (printer, name) = (Arc::clone(printer), name.to_owned());
    let mut stream = upgraded.stream;
    let early = upgraded.early;
    Ok(std::thread::spawn(move || carry(&printer, &name, unframe, Stamp::Here, &early, &mut stream)))
}

/// Writes the lines of a container's log to its end.
pub(super) fn log(context: &Context, printer: &Printer, id: &str, name: &str, query: &Query) -> Result<(), Failure> {
    let mut client = Client::new(context);
    let container = client.get(&path(id, "/json"))?;
    let tty = table::switch(&container, "/Config/Tty");
    let mut answer = client.stream("GET", &query.behind(&path(id, "/logs")), None)?;
    let framed = answer.multiplexed().unwrap_or(!tty);
    let unframe = if framed { Unframe::framed() } else { Unframe::Raw };
    carry(printer, name, unframe, Stamp::Daemon, b"", &mut answer.reader());
    Ok(())
}

/// What is asked of a log.
pub(super) fn log_query(given: &Parsed, follow: bool, tail: &str) -> Result<Query, Failure> {
    let now = Timestamp::now();
    Ok(Query::default()
        .with("stdout", "1")
        .with("stderr", "1")
        .flag("follow", follow)
        .flag("timestamps", given.on("timestamps"))
        .with_some("since", given.read("since", |text| time::moment(text, now))?.as_deref())
        .with_some("until", given.read("until", |text| time::moment(text, now))?.as_deref())
        .with("tail", tail))
}

/// The log from a container's last start on.
pub(super) fn since_start(context: &Context, printer: &Printer, id: &str, name: &str) -> Result<(), Failure> {
    let container = Client::new(context).get(&path(id, "/json"))?;
    let query = Query::default()
        .with("stdout", "1")
        .with("stderr", "1")
        .with("follow", "1")
        .flag("timestamps", printer.timestamps);
    let started = table::text(&container, "/State/StartedAt").parse::<Timestamp>().ok();
    let since = started.map(|moment| format!("{}.{:09}", moment.as_second(), moment.subsec_nanosecond()));
    log(context, printer, id, name, &query.with_some("since", since.as_deref()))
}

/// The events of the project's containers from now on.
pub(super) fn events(stack: &Stack, query: Query) -> Result<crate::client::Answer, Failure> {
    let filters = json!({"type": ["container"], "label": [format!("{}={}", label::PROJECT, stack.project.name)]});
    stack.client().stream("GET", &query.with("filters", &filters.to_string()).behind("/events"), None)
}

/// An event's container: id, name, service, and whether it runs a single program.
pub(super) fn actor(event: &Value) -> (String, String, String, bool) {
    let attribute = |name: &str| {
        let attributes = event.pointer("/Actor/Attributes").and_then(|attributes| attributes.get(name));
        attributes.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let one_off = attribute(label::ONE_OFF).eq_ignore_ascii_case("true");
    (table::text(event, "/Actor/ID").to_owned(), attribute("name"), attribute(label::SERVICE), one_off)
}

fn logs(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::found(context, given, &given.arguments)?;
    let printer = Printer::new(given)?;
    let follow = given.on("follow");
    let tail = given.read("tail", |text| match text {
        "all" => Ok(text.to_owned()),
        text if text.parse::<i64>().is_ok() => Ok(text.to_owned()),
        _ => Err("give a number of lines, or all".to_owned()),
    })?;
    let query = log_query(given, follow, tail.as_deref().unwrap_or("all"))?;
    let index =
        given.read("index", |text| text.parse::<usize>().map_err(|_| "give a container's number".to_owned()))?;
    let mut members = stack.members_of(&given.arguments, Kind::Service)?;
    members.retain(|member| index.is_none_or(|index| member.number == index));
    let names: Vec<String> = members.iter().map(|member| member.short_name(&stack.project.name)).collect();
    names.iter().for_each(|name| printer.expect(name));
    if !follow {
        for (member, name) in members.iter().zip(&names) {
            log(context, &printer, &member.id, name, &query)?;
        }
        return Ok(0);
    }
    let news = events(&stack, Query::default())?;
    std::thread::scope(|scope| {
        for (member, name) in members.iter().zip(&names) {
            let (printer, query) = (&printer, &query);
            scope.spawn(move || log(context, printer, &member.id, name, query));
        }
        let running = members.iter().filter(|member| member.is_running()).count();
        if running == 0 {
            return Ok(0);
        }
        // what is started later belongs to it; what has ended leaves it, and with the last one it ends
        let mut alive = running;
        crate::image::import::each_line_until(news, "lost the daemon", |event| {
            let (id, name, service, one_off) = actor(event);
            if one_off || (!given.arguments.is_empty() && !given.arguments.contains(&service)) {
                return true;
            }
            match table::text(event, "/Action") {
                "start" => {
                    alive += 1;
                    let short = short_name(&stack.project.name, &name).to_owned();
                    printer.expect(&short);
                    let printer = &printer;
                    scope.spawn(move || since_start(context, printer, &id, &short));
                }
                "die" => alive = alive.saturating_sub(1),
                _ => {}
            }
            alive > 0
        })?;
        Ok(0)
    })
}
