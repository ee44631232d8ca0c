//! `insula rmi` and `insula image prune`.

use serde_json::Value;

use super::archive::platform_of;
use crate::client::{Client, Query, encode, filters};
use crate::container::rm::confirmed;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table};

static FLAGS: &[Flag] = &[
    Flag::switch("force", "Remove it also when a stopped container uses it").short('f'),
    Flag::switch("no-prune", "Keep the images that it was made of"),
    Flag::list("platform", "OS/ARCH[/VARIANT]", "Only the images for these platforms; needs --force"),
];

pub(crate) static RMI: Command = Command {
    name: "rmi",
    usage: "[OPTIONS] IMAGE...",
    about: "Remove images",
    flags: &[FLAGS],
    arguments: (1, Command::MANY),
    action: Action::Run(remove),
    ..Command::BLANK
};

pub(crate) static RM: Command = Command {
    name: "rm",
    aliases: &["remove"],
    usage: "[OPTIONS] IMAGE...",
    about: "Remove images",
    flags: &[FLAGS],
    arguments: (1, Command::MANY),
    action: Action::Run(remove),
    ..Command::BLANK
};

pub(crate) static PRUNE: Command = Command {
    name: "prune",
    usage: "[OPTIONS]",
    about: "Remove images that nothing needs",
    flags: &[&[
        Flag::switch("all", "Remove those that have a name but no container, too").short('a'),
        Flag::list("filter", "NAME=VALUE", "Only those with this: until=, label="),
        Flag::switch("force", "Do not ask").short('f'),
    ]],
    action: Action::Run(prune),
    ..Command::BLANK
};

fn show(items: &[Value]) {
    for item in items {
        for (path, word) in [("/Untagged", "Untagged"), ("/Deleted", "Deleted")] {
            match table::text(item, path) {
                "" => {}
                name => output::line(&format!("{word}: {name}")),
            }
        }
    }
}

fn remove(context: &Context, given: &Parsed) -> Outcome {
    let mut query = Query::default().flag("force", given.on("force")).flag("noprune", given.on("no-prune"));
    for platform in given.values("platform").flat_map(|list| list.split(',')) {
        query = query.with("platforms", &platform_of(platform)?);
    }
    let mut client = Client::new(context);
    let mut code = 0;
    for name in &given.arguments {
        match client.call("DELETE", &query.behind(&format!("/images/{}", encode(name))), None) {
            Ok(answer) => show(table::elements(&answer, "")),
            Err(failure) => {
                output::note(failure.text());
                code = u8::from(failure.status() != Some(404) || !given.on("force"));
            }
        }
    }
    Ok(code)
}

fn prune(context: &Context, given: &Parsed) -> Outcome {
    let warning = if given.on("all") {
        "This removes all images without a container."
    } else {
        "This removes all images without a name."
    };
    if !confirmed(given, warning)? {
        return Ok(0);
    }
    let dangling = if given.on("all") { "dangling=false" } else { "dangling=true" };
    let wanted = filters(std::iter::once(dangling).chain(given.values("filter")))?;
    let query = Query::default().with_some("filters", wanted.as_deref());
    let answer = Client::new(context).post(&query.behind("/images/prune"))?;
    let removed = table::elements(&answer, "/ImagesDeleted");
    if !removed.is_empty() {
        output::line("Deleted Images:");
        show(removed);
        output::line("");
    }
    let freed = table::number(&answer, "/SpaceReclaimed");
    output::line(&format!("Total reclaimed space: {}", table::decimal_size(freed, 4)));
    Ok(0)
}
