//! `insula compose cp`: files between a service's containers and this machine.

use super::COMMON;
use super::exec::{hand_on, index};
use super::stack::{Kind, Member, Stack};
use crate::container;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};

pub(super) static COMMAND: Command = Command {
    name: "cp",
    usage: "[OPTIONS] SERVICE:PATH PATH|-, or PATH|- SERVICE:PATH",
    about: "Copy files between a service's containers and this machine",
    flags: &[
        COMMON,
        &[
            Flag::switch("all", "To containers of single programs as well"),
            Flag::switch("archive", "Keep owners").short('a'),
            Flag::switch("follow-link", "Copy what a symbolic link leads to").short('L'),
            Flag::value("index", "NUMBER", "The service's container of this number"),
        ],
    ],
    arguments: (2, 2),
    action: Action::Run(cp),
    ..Command::BLANK
};

/// `SERVICE:PATH`; what begins with a slash or a dot is none.
fn service_of(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(name, _)| !name.is_empty() && !name.starts_with(['/', '.']))
}

fn cp(context: &Context, given: &Parsed) -> Outcome {
    let [from, to] = given.arguments.as_slice() else { return Ok(1) };
    let flags: Vec<String> =
        ["archive", "follow-link"].into_iter().filter(|flag| given.on(flag)).map(|flag| format!("--{flag}")).collect();
    let copy = |from: String, to: String| {
        let words = [flags.clone(), vec!["--".to_owned(), from, to]].concat();
        hand_on(context, &container::cp::COMMAND, &words)
    };
    match (service_of(from), service_of(to)) {
        (Some((service, path)), None) => {
            let member = members(context, given, service)?.into_iter().next();
            let member = member.ok_or_else(|| Failure::new(format!("service {service:?} has no container")))?;
            copy(format!("{}:{path}", member.id), to.clone())
        }
        (None, Some((service, path))) => {
            let members = members(context, given, service)?;
            if members.is_empty() {
                return Err(Failure::new(format!("service {service:?} has no container")));
            }
            for member in members {
                copy(from.clone(), format!("{}:{path}", member.id))?;
            }
            Ok(0)
        }
        (None, None) => Err(Failure::new("neither side is a service's; name one as SERVICE:PATH")),
        (Some(_), Some(_)) => Err(Failure::new("both sides are services'; copy to this machine first")),
    }
}

fn members(context: &Context, given: &Parsed, service: &str) -> Result<Vec<Member>, Failure> {
    let service = service.to_owned();
    let stack = Stack::found(context, given, std::slice::from_ref(&service))?;
    let kind = if given.on("all") { Kind::All } else { Kind::Service };
    let number = index(given)?;
    let mut members = stack.members_of(&[service], kind)?;
    members.retain(|member| number.is_none_or(|number| member.number == number));
    Ok(members)
}
