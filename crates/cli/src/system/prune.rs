//! `insula system prune`: stopped containers, then the images that nothing needs.

use crate::client::{Client, Query, filters};
use crate::container::rm::confirmed;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table};

pub(crate) static COMMAND: Command = Command {
    name: "prune",
    usage: "[OPTIONS]",
    about: "Remove stopped containers, and images that nothing needs",
    flags: &[&[
        Flag::switch("all", "Images that have a name but no container, too").short('a'),
        Flag::switch("force", "Do not ask").short('f'),
        Flag::switch("volumes", "Volumes that no container has, too"),
    ]],
    action: Action::Run(prune),
    ..Command::BLANK
};

fn prune(context: &Context, given: &Parsed) -> Outcome {
    let images = if given.on("all") { "all images without a container" } else { "all images without a name" };
    let volumes = if given.on("volumes") { ", and all volumes without a container" } else { "" };
    if !confirmed(given, &format!("This removes all stopped containers, {images}{volumes}."))? {
        return Ok(0);
    }
    let dangling = filters(std::iter::once(if given.on("all") { "dangling=false" } else { "dangling=true" }))?;
    let everything = filters(std::iter::once("all=true"))?;
    let mut steps = vec![("/containers/prune", None)];
    if given.on("volumes") {
        steps.push(("/volumes/prune", everything.as_deref()));
    }
    steps.push(("/images/prune", dangling.as_deref()));
    let mut client = Client::new(context);
    let mut freed = 0;
    for (path, filters) in steps {
        let answer = client.post(&Query::default().with_some("filters", filters).behind(path))?;
        freed += table::number(&answer, "/SpaceReclaimed");
        for list in ["/ContainersDeleted", "/VolumesDeleted"] {
            table::elements(&answer, list).iter().filter_map(|name| name.as_str()).for_each(output::line);
        }
        for image in table::elements(&answer, "/ImagesDeleted") {
            for (path, word) in [("/Untagged", "Untagged"), ("/Deleted", "Deleted")] {
                match table::text(image, path) {
                    "" => {}
                    name => output::line(&format!("{word}: {name}")),
                }
            }
        }
    }
    output::line(&format!("Total reclaimed space: {}", table::decimal_size(freed, 4)));
    Ok(0)
}
