//! `insula volume backup` and `restore`.

use crate::client::{Client, encode};
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::image::archive::{OUTPUT, fetch, input};
use crate::output;

pub(super) static BACKUP: Command = Command {
    name: "backup",
    usage: "[OPTIONS] VOLUME",
    about: "Write all files of a volume to a tar archive",
    flags: &[OUTPUT],
    arguments: (1, 1),
    action: Action::Run(backup),
    ..Command::BLANK
};

pub(super) static RESTORE: Command = Command {
    name: "restore",
    usage: "[OPTIONS] VOLUME",
    about: "Replace all files of a volume by those of a tar archive, or none",
    flags: &[&[Flag::value("input", "FILE", "Read this file").short('i')]],
    arguments: (1, 1),
    action: Action::Run(restore),
    ..Command::BLANK
};

fn target(name: &str) -> String {
    format!("/insula/volumes/{}/archive", encode(name))
}

fn backup(context: &Context, given: &Parsed) -> Outcome {
    fetch(context, &target(given.first()), given)
}

fn restore(context: &Context, given: &Parsed) -> Outcome {
    let mut body = input(given)?;
    let answer = Client::new(context).upload(&target(given.first()), &mut body)?;
    answer.json()?;
    output::line(given.first());
    Ok(0)
}
