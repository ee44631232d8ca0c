//! `insula commit` and `insula diff`: what a container made of its image.

use crate::client::{Client, Query, encode};
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::image::split_tag;
use crate::{output, table};

/// How an image is made of a container.
pub(crate) static FLAGS: &[Flag] = &[
    Flag::value("author", "TEXT", "Who makes it").short('a'),
    Flag::list("change", "INSTRUCTION", "Set a property, as in 'CMD [\"/bin/sh\"]' or 'ENV A=1'").short('c'),
    Flag::value("message", "TEXT", "Say what it is").short('m'),
    Flag::switch("pause", "Let the container stand still meanwhile (the default)").short('p'),
];

pub(crate) static COMMAND: Command = Command {
    name: "commit",
    usage: "[OPTIONS] CONTAINER [NAME[:TAG]]",
    about: "Make an image of a container's changes",
    flags: &[FLAGS],
    arguments: (1, 2),
    action: Action::Run(commit),
    ..Command::BLANK
};

pub(crate) static DIFF: Command = Command {
    name: "diff",
    usage: "CONTAINER",
    about: "Show what a container changed about its image's files",
    arguments: (1, 1),
    action: Action::Run(diff),
    ..Command::BLANK
};

fn commit(context: &Context, given: &Parsed) -> Outcome {
    let name = given.arguments.get(1).map(String::as_str);
    let (repository, tag) = name.map_or((None, None), |name| {
        let (repository, tag) = split_tag(name);
        (Some(repository), tag)
    });
    let mut query = Query::default()
        .with("container", given.first())
        .with_some("repo", repository)
        .with_some("tag", tag)
        .with_some("author", given.value("author"))
        .with_some("comment", given.value("message"));
    if given.off("pause") {
        query = query.with("pause", "0");
    }
    for change in given.values("change") {
        query = query.with("changes", change);
    }
    let answer = Client::new(context).post(&query.behind("/commit"))?;
    output::line(table::text(&answer, "/Id"));
    Ok(0)
}

fn diff(context: &Context, given: &Parsed) -> Outcome {
    let answer = Client::new(context).get(&format!("/containers/{}/changes", encode(given.first())))?;
    for change in table::elements(&answer, "") {
        let letter = match table::number(change, "/Kind") {
            1 => 'A',
            2 => 'D',
            _ => 'C',
        };
        output::line(&format!("{letter} {}", table::text(change, "/Path")));
    }
    Ok(0)
}
