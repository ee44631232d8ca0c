//! `insula system prune`: stopped containers, then the networks, volumes, images and results of builds that nothing needs.

use crate::client::{Client, Query, filters};
use crate::container::rm::confirmed;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table};

pub(crate) static COMMAND: Command = Command {
    name: "prune",
    usage: "[OPTIONS]",
    about: "Remove stopped containers, and networks, images and results of builds that nothing needs",
    flags: &[&[
        Flag::switch("all", "Images that have a name but no container, too, and all results of builds").short('a'),
        Flag::list("filter", "NAME=VALUE", "Only those with this: label=, until= (not with --volumes)"),
        Flag::switch("force", "Do not ask").short('f'),
        Flag::switch("volumes", "Volumes that nobody named and no container has, too"),
    ]],
    action: Action::Run(prune),
    ..Command::BLANK
};

fn prune(context: &Context, given: &Parsed) -> Outcome {
    let images = if given.on("all") { "all images without a container" } else { "all images without a name" };
    let volumes = if given.on("volumes") { ", all volumes that nobody named and that have no container" } else { "" };
    let rest = "all networks without a container, the results of builds that no image has";
    if !confirmed(given, &format!("This removes all stopped containers{volumes}, {rest}, and {images}."))? {
        return Ok(0);
    }
    let wanted: Vec<&str> = given.values("filter").collect();
    if given.on("volumes") && wanted.iter().any(|filter| filter.starts_with("until")) {
        return Err(Failure::new("the filter until= does not go with --volumes"));
    }
    let common = filters(wanted.iter().copied())?;
    let dangling = if given.on("all") { "dangling=false" } else { "dangling=true" };
    let images = filters(wanted.iter().copied().chain([dangling]))?;
    let mut steps = vec![("/containers/prune", common.as_deref()), ("/networks/prune", common.as_deref())];
    if given.on("volumes") {
        steps.push(("/volumes/prune", common.as_deref()));
    }
    steps.push(("/images/prune", images.as_deref()));
    // labels are not for results of builds
    if wanted.iter().all(|filter| filter.starts_with("until")) {
        steps.push((if given.on("all") { "/build/prune?all=1" } else { "/build/prune" }, None));
    }
    let mut client = Client::new(context);
    let mut freed = 0;
    for (path, filters) in steps {
        let target = match filters {
            Some(_) => Query::default().with_some("filters", filters).behind(path),
            None => path.to_owned(),
        };
        let answer = client.post(&target)?;
        freed += table::number(&answer, "/SpaceReclaimed");
        for list in ["/ContainersDeleted", "/NetworksDeleted", "/VolumesDeleted", "/CachesDeleted"] {
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
