//! `insula compose commit`, `export` and `viz`: what a service's container has become, and how services hang together.

use std::io::Write as _;

use compose::project::{Dependencies, Port, Service};

use super::COMMON;
use super::exec::{hand_on, index};
use super::stack::{Kind, Member, Mode, Stack};
use crate::container::commit;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::image::archive;
use crate::value::number;
use crate::{output, terminal};

const INDEX: &[Flag] = &[Flag::value("index", "NUMBER", "The service's container of this number")];

pub(super) static COMMIT: Command = Command {
    name: "commit",
    usage: "[OPTIONS] SERVICE [NAME[:TAG]]",
    about: "Make an image of the changes of a service's container",
    flags: &[COMMON, INDEX, commit::FLAGS],
    arguments: (1, 2),
    action: Action::Run(commit),
    ..Command::BLANK
};

pub(super) static EXPORT: Command = Command {
    name: "export",
    usage: "[OPTIONS] SERVICE",
    about: "Write the files of a service's container as a tar archive",
    flags: &[COMMON, INDEX, archive::OUTPUT],
    arguments: (1, 1),
    action: Action::Run(export),
    ..Command::BLANK
};

pub(super) static VIZ: Command = Command {
    name: "viz",
    usage: "[OPTIONS]",
    about: "Draw what needs what, in Graphviz's language",
    flags: &[
        COMMON,
        &[
            Flag::switch("image", "Show images' names"),
            Flag::value("indentation-size", "NUMBER", "How many tabs or blanks stand before a line (1)"),
            Flag::switch("networks", "Show networks"),
            Flag::switch("ports", "Show published ports"),
            Flag::switch("spaces", "Blanks, not tabs"),
        ],
    ],
    action: Action::Run(viz),
    ..Command::BLANK
};

fn found(context: &Context, given: &Parsed) -> Result<(Stack, Member), Failure> {
    let service = given.first().to_owned();
    let stack = Stack::found(context, given, std::slice::from_ref(&service))?;
    let member = stack.member(&service, index(given)?, Kind::All)?;
    Ok((stack, member))
}

fn commit(context: &Context, given: &Parsed) -> Outcome {
    let (stack, member) = found(context, given)?;
    if stack.mode == Mode::DryRun {
        stack.board.done("Container", &member.name, "Committed");
        return Ok(0);
    }
    let mut words = Vec::new();
    for flag in ["author", "message", "pause"] {
        words.extend(given.value(flag).map(|value| format!("--{flag}={value}")));
    }
    words.extend(given.values("change").map(|change| format!("--change={change}")));
    words.push(member.id);
    words.extend(given.arguments.get(1).cloned());
    hand_on(context, &commit::COMMAND, &words)
}

fn export(context: &Context, given: &Parsed) -> Outcome {
    let (stack, member) = found(context, given)?;
    if given.value("output").is_none() && terminal::is_output() {
        return Err(Failure::new("the archive is not for a terminal; name a file: --output FILE"));
    }
    if stack.mode == Mode::DryRun {
        stack.board.done("Container", &member.name, "Exported");
        return Ok(0);
    }
    let mut words = Vec::new();
    words.extend(given.value("output").map(|file| format!("--output={file}")));
    words.push(member.id);
    hand_on(context, &archive::EXPORT, &words)
}

fn viz(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::new(context, given, &[], Dependencies::Included)?;
    let size = given.read("indentation-size", number::integer)?.unwrap_or(1);
    let size = usize::try_from(size).map_err(|_| Failure::new("bad value for --indentation-size: give 0 or more"))?;
    let indent = if given.on("spaces") { " " } else { "\t" }.repeat(size);
    let project = &stack.project;
    let mut out = Vec::new();
    writeln!(out, "digraph {:?} {{\n{indent}layout=dot;", project.name)?;
    for service in project.services.values() {
        writeln!(out, "{indent}{:?} [style=\"filled\" label=<{}>];", service.name, label(&stack, given, service))?;
    }
    writeln!(out)?;
    for service in project.services.values() {
        for other in service.spec.depends_on.keys() {
            writeln!(out, "{indent}{:?} -> {other:?};", service.name)?;
        }
    }
    writeln!(out, "}}\n")?;
    output::write(&out);
    Ok(0)
}

/// What stands in a service's box.
fn label(stack: &Stack, given: &Parsed, service: &Service) -> String {
    let mut text = format!("<font point-size=\"15\">{}</font>", service.name);
    let mut add = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let lines: String = lines.iter().map(|line| format!("<br/>{line}")).collect();
            text.push_str(&format!("<font point-size=\"10\"><br/><br/><b>{title}:</b>{lines}</font>"));
        }
    };
    if given.on("networks") {
        add("Networks", service.networks().iter().map(|(name, _)| (*name).to_owned()).collect());
    }
    if given.on("ports") {
        add("Ports", service.spec.ports.iter().map(port).collect());
    }
    if given.on("image") {
        add("Image", vec![service.image(&stack.project)]);
    }
    text
}

fn port(port: &Port) -> String {
    let host = port.host_ip.as_ref().map(|host| format!("{host}:")).unwrap_or_default();
    let published = port.published.as_deref().unwrap_or_default();
    format!("{host}{published}:{} ({}, {})", port.target, port.protocol, port.mode)
}
