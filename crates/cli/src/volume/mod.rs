//! Commands about volumes.

mod archive;
pub(crate) mod list;

use docker_wire::models::VolumeCreateRequest;

use crate::client::{Client, Query, encode, filters};
use crate::container::rm::confirmed;
use crate::container::{each, inspect};
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::value::pair;
use crate::{output, table};

pub(crate) static GROUP: Command = Command {
    name: "volume",
    usage: "COMMAND",
    about: "Commands about volumes",
    action: Action::Group(&[
        &archive::BACKUP,
        &CREATE,
        &inspect::VOLUME,
        &list::COMMAND,
        &PRUNE,
        &archive::RESTORE,
        &RM,
    ]),
    ..Command::BLANK
};

static CREATE: Command = Command {
    name: "create",
    usage: "[OPTIONS] [NAME]",
    about: "Make a volume",
    flags: &[&[
        Flag::value("driver", "DRIVER", "The driver; there is local").short('d'),
        Flag::list("label", "KEY=VALUE", "A label"),
        Flag::value("name", "NAME", "Its name"),
        Flag::list("opt", "KEY=VALUE", "What it is: type=, device= and o= as mount(8) has them, or size=").short('o'),
    ]],
    arguments: (0, 1),
    action: Action::Run(create),
    ..Command::BLANK
};

static RM: Command = Command {
    name: "rm",
    aliases: &["remove"],
    usage: "[OPTIONS] VOLUME...",
    about: "Remove volumes that no container has",
    flags: &[&[Flag::switch("force", "No failure if one is not there").short('f')]],
    arguments: (1, Command::MANY),
    action: Action::Run(remove),
    ..Command::BLANK
};

static PRUNE: Command = Command {
    name: "prune",
    usage: "[OPTIONS]",
    about: "Remove volumes that nobody named and no container has",
    flags: &[&[
        Flag::switch("all", "Those that have a name, too").short('a'),
        Flag::list("filter", "NAME=VALUE", "Only those with this: label=, label!="),
        Flag::switch("force", "Do not ask").short('f'),
    ]],
    action: Action::Run(prune),
    ..Command::BLANK
};

/// The path of a volume's resource.
fn path(name: &str) -> String {
    format!("/volumes/{}", encode(name))
}

fn create(context: &Context, given: &Parsed) -> Outcome {
    let name = given.arguments.first().map(String::as_str).or_else(|| given.value("name"));
    let request = VolumeCreateRequest {
        name: name.map(str::to_owned),
        driver: Some(given.value("driver").unwrap_or("local").to_owned()),
        driver_opts: pair::map(given.read_list("opt", pair::option)?),
        labels: pair::map(given.read_list("label", pair::label)?),
        cluster_volume_spec: None,
    };
    let answer = Client::new(context).post_json("/volumes/create", &request)?;
    output::line(table::text(&answer, "/Name"));
    Ok(0)
}

fn remove(context: &Context, given: &Parsed) -> Outcome {
    let query = Query::default().flag("force", given.on("force"));
    each(context, given, |client, name| {
        client.call("DELETE", &query.behind(&path(name)), None).map(|_| name.to_owned())
    })
}

fn prune(context: &Context, given: &Parsed) -> Outcome {
    let which = if given.on("all") { "all volumes" } else { "all volumes that nobody named" };
    if !confirmed(given, &format!("This removes {which} and that no container has."))? {
        return Ok(0);
    }
    let all = given.on("all").then_some("all=true");
    let wanted = filters(all.into_iter().chain(given.values("filter")))?;
    let answer = Client::new(context)
        .post(&Query::default().with_some("filters", wanted.as_deref()).behind("/volumes/prune"))?;
    let removed = table::elements(&answer, "/VolumesDeleted");
    if !removed.is_empty() {
        output::line("Deleted Volumes:");
        removed.iter().filter_map(|name| name.as_str()).for_each(output::line);
        output::line("");
    }
    let freed = table::number(&answer, "/SpaceReclaimed");
    output::line(&format!("Total reclaimed space: {}", table::decimal_size(freed, 4)));
    Ok(0)
}
