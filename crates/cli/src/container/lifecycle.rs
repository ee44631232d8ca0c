//! `insula stop`, `kill`, `restart`, `pause`, `unpause`, `wait`, `rename`.

use crate::client::{Client, Query};
use crate::container::{each, path};
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::table;
use crate::value::number;

static STOP_FLAGS: &[Flag] = &[
    Flag::value("signal", "SIGNAL", "The signal to send first").short('s'),
    Flag::value("time", "SECONDS", "How long to wait before killing; -1 for ever (10)").short('t'),
    Flag::value("timeout", "SECONDS", "The same as --time"),
];

pub(crate) static STOP: Command = Command {
    name: "stop",
    usage: "[OPTIONS] CONTAINER...",
    about: "Stop containers: ask first, kill later",
    flags: &[STOP_FLAGS],
    arguments: (1, Command::MANY),
    action: Action::Run(|context, given| end(context, given, "/stop")),
    ..Command::BLANK
};

pub(crate) static RESTART: Command = Command {
    name: "restart",
    usage: "[OPTIONS] CONTAINER...",
    about: "Stop containers and start them again",
    flags: &[STOP_FLAGS],
    arguments: (1, Command::MANY),
    action: Action::Run(|context, given| end(context, given, "/restart")),
    ..Command::BLANK
};

pub(crate) static KILL: Command = Command {
    name: "kill",
    usage: "[OPTIONS] CONTAINER...",
    about: "Send a signal to containers, KILL if none is named",
    flags: &[&[Flag::value("signal", "SIGNAL", "The signal, by name or number (KILL)").short('s')]],
    arguments: (1, Command::MANY),
    action: Action::Run(kill),
    ..Command::BLANK
};

pub(crate) static PAUSE: Command = Command {
    name: "pause",
    usage: "CONTAINER...",
    about: "Halt all processes of containers",
    arguments: (1, Command::MANY),
    action: Action::Run(|context, given| plain(context, given, "/pause")),
    ..Command::BLANK
};

pub(crate) static UNPAUSE: Command = Command {
    name: "unpause",
    usage: "CONTAINER...",
    about: "Let paused containers go on",
    arguments: (1, Command::MANY),
    action: Action::Run(|context, given| plain(context, given, "/unpause")),
    ..Command::BLANK
};

pub(crate) static WAIT: Command = Command {
    name: "wait",
    usage: "CONTAINER...",
    about: "Wait until containers end, and print their exit codes",
    arguments: (1, Command::MANY),
    action: Action::Run(wait),
    ..Command::BLANK
};

pub(crate) static RENAME: Command = Command {
    name: "rename",
    usage: "CONTAINER NEW-NAME",
    about: "Give a container another name",
    arguments: (2, 2),
    action: Action::Run(rename),
    ..Command::BLANK
};

fn end(context: &Context, given: &Parsed, verb: &str) -> Outcome {
    let time = given.read("time", number::integer)?.or(given.read("timeout", number::integer)?);
    let time = time.map(|seconds| seconds.to_string());
    let query = Query::default().with_some("signal", given.value("signal")).with_some("t", time.as_deref());
    each(context, given, |client, name| {
        client.post(&query.behind(&path(name, verb)))?;
        Ok(name.to_owned())
    })
}

fn kill(context: &Context, given: &Parsed) -> Outcome {
    let query = Query::default().with("signal", given.value("signal").unwrap_or("KILL"));
    each(context, given, |client, name| {
        client.post(&query.behind(&path(name, "/kill")))?;
        Ok(name.to_owned())
    })
}

fn plain(context: &Context, given: &Parsed, verb: &str) -> Outcome {
    each(context, given, |client, name| {
        client.post(&path(name, verb))?;
        Ok(name.to_owned())
    })
}

fn wait(context: &Context, given: &Parsed) -> Outcome {
    each(context, given, |client, name| {
        let answer = client.post(&path(name, "/wait"))?;
        Ok(table::number(&answer, "/StatusCode").to_string())
    })
}

fn rename(context: &Context, given: &Parsed) -> Outcome {
    let new = given.arguments.get(1).map(String::as_str).unwrap_or_default();
    let query = Query::default().with("name", new);
    Client::new(context).post(&query.behind(&path(given.first(), "/rename")))?;
    Ok(0)
}
