//! `insula network rm` and `prune`.

use super::path;
use crate::client::{Client, Query, filters};
use crate::container::each;
use crate::container::rm::confirmed;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table};

pub(crate) static COMMAND: Command = Command {
    name: "rm",
    aliases: &["remove"],
    usage: "[OPTIONS] NETWORK...",
    about: "Remove networks",
    flags: &[&[Flag::switch("force", "Say nothing about those that are not there").short('f')]],
    arguments: (1, Command::MANY),
    action: Action::Run(remove),
    ..Command::BLANK
};

pub(crate) static PRUNE: Command = Command {
    name: "prune",
    usage: "[OPTIONS]",
    about: "Remove all networks that no running container is in",
    flags: &[&[
        Flag::list("filter", "NAME=VALUE", "Only those with this: until=, label="),
        Flag::switch("force", "Do not ask").short('f'),
    ]],
    action: Action::Run(prune),
    ..Command::BLANK
};

fn remove(context: &Context, given: &Parsed) -> Outcome {
    each(context, given, |client, name| match client.call("DELETE", &path(name, ""), None) {
        Err(failure) if failure.status() == Some(404) && given.on("force") => Ok(name.to_owned()),
        other => other.map(|_| name.to_owned()),
    })
}

fn prune(context: &Context, given: &Parsed) -> Outcome {
    if !confirmed(given, "This removes all networks that no running container is in.")? {
        return Ok(0);
    }
    let query = Query::default().with_some("filters", filters(given.values("filter"))?.as_deref());
    let answer = Client::new(context).post(&query.behind("/networks/prune"))?;
    let removed = table::elements(&answer, "/NetworksDeleted");
    if !removed.is_empty() {
        output::line("Deleted Networks:");
        removed.iter().filter_map(|name| name.as_str()).for_each(output::line);
    }
    Ok(0)
}
