//! `insula rm` and `insula container prune`.

use std::io::{BufRead as _, Write as _};

use crate::client::{Client, Query, filters};
use crate::container::{each, path};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table};

pub(crate) static COMMAND: Command = Command {
    name: "rm",
    aliases: &["remove"],
    usage: "[OPTIONS] CONTAINER...",
    about: "Remove containers",
    flags: &[&[
        Flag::switch("force", "Kill a container that runs").short('f'),
        Flag::switch("link", "Remove a link; there are none"),
        Flag::switch("volumes", "Remove its volumes without a name").short('v'),
    ]],
    arguments: (1, Command::MANY),
    action: Action::Run(remove),
    ..Command::BLANK
};

pub(crate) static PRUNE: Command = Command {
    name: "prune",
    usage: "[OPTIONS]",
    about: "Remove all containers that do not run",
    flags: &[&[
        Flag::list("filter", "NAME=VALUE", "Only those with this: until=, label="),
        Flag::switch("force", "Do not ask").short('f'),
    ]],
    action: Action::Run(prune),
    ..Command::BLANK
};

fn remove(context: &Context, given: &Parsed) -> Outcome {
    let query =
        Query::default().flag("force", given.on("force")).flag("v", given.on("volumes")).flag("link", given.on("link"));
    each(context, given, |client, name| {
        match client.call("DELETE", &query.behind(&path(name, "")), None) {
            // What was to be gone is gone.
            Err(failure) if failure.status() == Some(404) && given.on("force") => {
                output::note(failure.text());
                Ok(name.to_owned())
            }
            other => other.map(|_| name.to_owned()),
        }
    })
}

/// Asks the user; anything but `y` is a no.
pub(crate) fn confirmed(given: &Parsed, warning: &str) -> Result<bool, Failure> {
    if given.on("force") {
        return Ok(true);
    }
    output::print(&format!("{warning}\nGo on? [y/N] "));
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().eq_ignore_ascii_case("y") || line.trim().eq_ignore_ascii_case("yes"))
}

fn prune(context: &Context, given: &Parsed) -> Outcome {
    if !confirmed(given, "This removes all containers that do not run.")? {
        return Ok(0);
    }
    let query = Query::default().with_some("filters", filters(given.values("filter"))?.as_deref());
    let answer = Client::new(context).post(&query.behind("/containers/prune"))?;
    let removed = table::elements(&answer, "/ContainersDeleted");
    if !removed.is_empty() {
        output::line("Deleted Containers:");
        removed.iter().filter_map(|id| id.as_str()).for_each(output::line);
        output::line("");
    }
    let freed = table::number(&answer, "/SpaceReclaimed");
    output::line(&format!("Total reclaimed space: {}", table::decimal_size(freed, 4)));
    Ok(0)
}
