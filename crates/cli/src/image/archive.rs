//! `insula save`, `load` and `export`: images and containers as archives.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::client::{Client, Query, encode};
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table, terminal};

pub(crate) static OUTPUT: &[Flag] = &[Flag::value("output", "FILE", "Write to this file").short('o')];

/// One platform of those that an image's name stands for.
pub(super) const PLATFORM: Flag = Flag::value("platform", "OS/ARCH[/VARIANT]", "Only the image for this platform");

pub(crate) static SAVE: Command = Command {
    name: "save",
    usage: "[OPTIONS] IMAGE...",
    about: "Write images to an archive",
    flags: &[OUTPUT, &[PLATFORM]],
    arguments: (1, Command::MANY),
    action: Action::Run(save),
    ..Command::BLANK
};

pub(crate) static LOAD: Command = Command {
    name: "load",
    usage: "[OPTIONS]",
    about: "Take images from an archive",
    flags: &[&[
        Flag::value("input", "FILE", "Read this file").short('i'),
        PLATFORM,
        Flag::switch("quiet", "Accepted: only the images' names are shown").short('q'),
    ]],
    action: Action::Run(load),
    ..Command::BLANK
};

pub(crate) static EXPORT: Command = Command {
    name: "export",
    usage: "[OPTIONS] CONTAINER",
    about: "Write all files of a container to an archive",
    flags: &[OUTPUT],
    arguments: (1, 1),
    action: Action::Run(export),
    ..Command::BLANK
};

fn save(context: &Context, given: &Parsed) -> Outcome {
    let query = given.arguments.iter().fold(Query::default(), |query, name| query.with("names", name));
    let query = query.with_some("platform", platform(given)?.as_deref());
    fetch(context, &query.behind("/images/get"), given)
}

/// What `--platform` names, as the API wants it.
pub(super) fn platform(given: &Parsed) -> Result<Option<String>, Failure> {
    given.value("platform").map(platform_of).transpose()
}

/// A platform as the API wants it.
pub(super) fn platform_of(text: &str) -> Result<String, Failure> {
    let mut parts = text.split('/').map(str::to_lowercase);
    let (Some(os), Some(architecture), variant, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(Failure::new(format!(
            "invalid platform {text:?}; it must look like linux/amd64 or linux/arm64/v8"
        )));
    };
    let mut platform = json!({ "os": os, "architecture": architecture });
    if let Some(variant) = variant {
        platform["variant"] = variant.into();
    }
    Ok(platform.to_string())
}

fn export(context: &Context, given: &Parsed) -> Outcome {
    fetch(context, &format!("/containers/{}/export", encode(given.first())), given)
}

/// Writes an answer to the file that was given, which is there whole or not at all, or to standard output.
pub(crate) fn fetch(context: &Context, target: &str, given: &Parsed) -> Outcome {
    let cut = || "the archive was cut off; the daemon's log says why: insula daemon logs".to_owned();
    let Some(path) = given.value("output") else {
        if terminal::is_output() {
            return Err(Failure::new("an archive does not go to a terminal; use --output FILE"));
        }
        let mut answer = Client::new(context).stream("GET", target, None)?;
        io::copy(&mut answer.reader(), &mut io::stdout().lock()).during(cut)?;
        return Ok(0);
    };
    let mut answer = Client::new(context).stream("GET", target, None)?;
    if Path::new(path).exists() && !Path::new(path).is_file() {
        let mut file = File::options().write(true).open(path).during(|| format!("cannot write {path:?}"))?;
        io::copy(&mut answer.reader(), &mut file).during(cut)?;
        return Ok(0);
    }
    let staged = format!("{path}.{}", std::process::id());
    let written = File::create(&staged).during(|| format!("cannot write {staged:?}")).and_then(|mut file| {
        io::copy(&mut answer.reader(), &mut file).during(cut)?;
        file.flush()?;
        std::fs::rename(&staged, path).during(|| format!("cannot write {path:?}"))
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&staged);
    }
    written.map(|()| 0)
}

/// The archive that `--input` names, or standard input.
pub(crate) fn input(given: &Parsed) -> Result<Box<dyn Read>, Failure> {
    match given.value("input") {
        Some(path) => {
            let file = File::open(path).during(|| format!("cannot read the archive {path:?}"))?;
            Ok(Box::new(file))
        }
        None if terminal::is_input() => {
            Err(Failure::new("standard input is a terminal; give an archive with --input FILE"))
        }
        None => Ok(Box::new(io::stdin().lock())),
    }
}

fn load(context: &Context, given: &Parsed) -> Outcome {
    let mut body = input(given)?;
    let target = Query::default().with_some("platform", platform(given)?.as_deref()).behind("/images/load");
    let mut answer = Client::new(context).upload(&target, &mut body)?;
    for line in BufReader::new(answer.reader()).lines() {
        let line = line.during(|| "lost the daemon while it took the images".to_owned())?;
        if line.trim().is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(&line).during(|| "the daemon's answer is not JSON".to_owned())?;
        match table::text(&value, "/error") {
            "" => output::print(table::text(&value, "/stream")),
            error => return Err(Failure::new(error)),
        }
    }
    Ok(0)
}
