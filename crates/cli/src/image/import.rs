//! `insula import`: an image from a tar file; and the progress lines of all that makes images.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};

use serde_json::Value;

use crate::client::{Answer, Client, Query};
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::image::split_tag;
use crate::{output, table, terminal};

pub(crate) static COMMAND: Command = Command {
    name: "import",
    usage: "[OPTIONS] TAR|- [NAME[:TAG]]",
    about: "Make an image of a tar file with a root file system",
    flags: &[&[
        Flag::list("change", "INSTRUCTION", "Set a property, as in 'CMD [\"/bin/sh\"]' or 'ENV A=1'").short('c'),
        Flag::value("message", "TEXT", "Say what it is").short('m'),
        Flag::value("platform", "OS/ARCH", "The platform of the image"),
        Flag::value("tag", "NAME[:TAG]", "The image's name").short('t'),
    ]],
    arguments: (1, 2),
    action: Action::Run(import),
    ..Command::BLANK
};

fn import(context: &Context, given: &Parsed) -> Outcome {
    let source = given.first();
    let name = given.value("tag").or(given.arguments.get(1).map(String::as_str));
    let (repository, tag) = name.map_or(("", None), split_tag);
    let mut query = Query::default()
        .with("fromSrc", "-")
        .with("repo", repository)
        .with_some("tag", tag)
        .with_some("message", given.value("message"))
        .with_some("platform", given.value("platform"));
    for change in given.values("change") {
        query = query.with("changes", change);
    }
    let mut file;
    let mut stdin;
    let body: &mut dyn Read = if source == "-" {
        if terminal::is_input() {
            return Err(Failure::new(
                "standard input is a terminal; give a tar file, or send one: cat x.tar | insula import -",
            ));
        }
        stdin = io::stdin().lock();
        &mut stdin
    } else if source.contains("://") {
        return Err(Failure::new(format!(
            "cannot import from the address {source:?}; fetch it first, then import the file"
        )));
    } else {
        file = File::open(source).during(|| format!("cannot read the tar file {source:?}"))?;
        if file.metadata()?.is_dir() {
            let text =
                format!("{source:?} is a folder; make a tar of it first: tar -C {source} -c . | insula import -");
            return Err(Failure::new(text));
        }
        &mut file
    };
    let answer = Client::new(context).upload(&query.behind("/images/create"), body)?;
    let last = progress(answer, |_| {})?;
    output::line(&last.status);
    Ok(0)
}

/// What the last progress lines said.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The last line's text.
    pub(crate) status: String,
    /// The image's id, where the daemon gives one.
    pub(crate) id: Option<String>,
}

/// Reads progress lines to their end, each a JSON value that reports no error. `lost` is said when the daemon is gone before.
///
/// # Errors
/// The error that the daemon reports in a line, or a connection that ends within one.
pub(crate) fn each_line(answer: Answer, lost: &str, mut take: impl FnMut(&Value)) -> Result<(), Failure> {
    each_line_until(answer, lost, |value| {
        take(value);
        true
    })
}

/// As [`each_line`], until `take` wants no more.
///
/// # Errors
/// As there.
pub(crate) fn each_line_until(
    mut answer: Answer,
    lost: &str,
    mut take: impl FnMut(&Value) -> bool,
) -> Result<(), Failure> {
    for line in BufReader::new(answer.reader()).lines() {
        let line = line.during(|| lost.to_owned())?;
        if line.trim().is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(&line).during(|| "the daemon's progress is not JSON".to_owned())?;
        let error = [table::text(&value, "/errorDetail/message"), table::text(&value, "/error")];
        if let Some(error) = error.into_iter().find(|error| !error.is_empty()) {
            return Err(Failure::new(error));
        }
        if !take(&value) {
            break;
        }
    }
    Ok(())
}

/// Follows progress lines to their end; `show` gets every text.
///
/// # Errors
/// The error that the daemon reports in a line, or a connection that ends within one.
pub(crate) fn progress(answer: Answer, show: impl Fn(&str)) -> Result<Progress, Failure> {
    let mut last = Progress::default();
    each_line(answer, "lost the daemon while it made the image", |value| {
        if let Some(id) = value.pointer("/aux/ID").and_then(Value::as_str) {
            last.id = Some(id.to_owned());
        }
        let status = table::text(value, "/status");
        if !status.is_empty() {
            show(status);
            status.clone_into(&mut last.status);
        }
    })?;
    Ok(last)
}
