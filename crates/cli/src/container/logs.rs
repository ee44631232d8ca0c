//! `insula logs`.

use std::io::Read as _;

use jiff::Timestamp;

use crate::client::{Client, Query};
use crate::container::path;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::session::Unframe;
use crate::table;
use crate::value::time;

pub(crate) static COMMAND: Command = Command {
    name: "logs",
    usage: "[OPTIONS] CONTAINER",
    about: "Show what a container has written",
    flags: &[&[
        Flag::switch("details", "Show the log's extra fields"),
        Flag::switch("follow", "Go on with what it writes from now").short('f'),
        Flag::value("since", "TIME", "Begin here: a span as in 10m, or a moment"),
        Flag::value("tail", "LINES", "Begin so many lines before the end (all)").short('n'),
        Flag::switch("timestamps", "Show the time of each line").short('t'),
        Flag::value("until", "TIME", "End here: a span as in 10m, or a moment"),
    ]],
    arguments: (1, 1),
    action: Action::Run(logs),
    ..Command::BLANK
};

fn logs(context: &Context, given: &Parsed) -> Outcome {
    let now = Timestamp::now();
    let tail = given.read("tail", |text| match text {
        "all" => Ok(text.to_owned()),
        text if text.parse::<i64>().is_ok() => Ok(text.to_owned()),
        _ => Err("give a number of lines, or all".to_owned()),
    })?;
    let query = Query::default()
        .with("stdout", "1")
        .with("stderr", "1")
        .flag("details", given.on("details"))
        .flag("follow", given.on("follow"))
        .flag("timestamps", given.on("timestamps"))
        .with_some("since", given.read("since", |text| time::moment(text, now))?.as_deref())
        .with_some("until", given.read("until", |text| time::moment(text, now))?.as_deref())
        .with("tail", tail.as_deref().unwrap_or("all"));
    let mut client = Client::new(context);
    let container = client.get(&path(given.first(), "/json"))?;
    let tty = table::switch(&container, "/Config/Tty");
    let mut answer = client.stream("GET", &query.behind(&path(given.first(), "/logs")), None)?;
    let framed = answer.multiplexed().unwrap_or(!tty);
    let mut unframe = if framed { Unframe::framed() } else { Unframe::Raw };
    let mut reader = answer.reader();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(0),
            count => unframe.feed(buffer.get(..count).unwrap_or_default())?,
        }
    }
}
