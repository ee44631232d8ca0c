//! Commands about images.

pub(crate) mod archive;
pub(crate) mod bootstrap;
pub(crate) mod history;
pub(crate) mod import;
pub(crate) mod list;
pub(crate) mod registry;
pub(crate) mod remove;

use crate::client::{Client, Query, encode};
use crate::container::inspect;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Parsed};

pub(crate) static GROUP: Command = Command {
    name: "image",
    usage: "COMMAND",
    about: "Commands about images",
    action: Action::Group(&[
        &bootstrap::COMMAND,
        &history::COMMAND,
        &import::COMMAND,
        &inspect::IMAGE,
        &archive::LOAD,
        &list::LS,
        &remove::PRUNE,
        &registry::PULL,
        &registry::PUSH,
        &remove::RM,
        &archive::SAVE,
        &TAG,
    ]),
    ..Command::BLANK
};

pub(crate) static TAG: Command = Command {
    name: "tag",
    usage: "IMAGE NAME[:TAG]",
    about: "Give an image a further name",
    arguments: (2, 2),
    action: Action::Run(tag),
    ..Command::BLANK
};

fn tag(context: &Context, given: &Parsed) -> Outcome {
    let (repository, tag) = split_tag(given.arguments.get(1).map(String::as_str).unwrap_or_default());
    let query = Query::default().with("repo", repository).with_some("tag", tag);
    Client::new(context).post(&query.behind(&format!("/images/{}/tag", encode(given.first()))))?;
    Ok(0)
}

/// Splits `host:5000/name:tag` into name and tag.
pub(crate) fn split_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_split_off() {
        assert_eq!(split_tag("web"), ("web", None));
        assert_eq!(split_tag("web:2"), ("web", Some("2")));
        assert_eq!(split_tag("host:5000/web"), ("host:5000/web", None));
        assert_eq!(split_tag("host:5000/web:2"), ("host:5000/web", Some("2")));
    }
}
