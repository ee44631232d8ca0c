//! `insula image bootstrap`: a base image from a distribution's packages.

use docker_wire::extra::Bootstrap;

use crate::client::Client;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::{Action, Command, Flag, Parsed};
use crate::image::import::progress;
use crate::output;

pub(crate) static COMMAND: Command = Command {
    name: "bootstrap",
    usage: "[OPTIONS] DISTRIBUTION:SUITE",
    about: "Make a base image from a distribution's packages, as in debian:bookworm",
    flags: &[&[
        Flag::list("include", "PACKAGE,...", "Add packages to the minimal set"),
        Flag::switch("quiet", "Say nothing but the image's id").short('q'),
        Flag::value("tag", "NAME[:TAG]", "The image's name (the distribution's)").short('t'),
    ]],
    arguments: (1, 1),
    action: Action::Run(bootstrap),
    ..Command::BLANK
};

fn bootstrap(context: &Context, given: &Parsed) -> Outcome {
    let include = given.values("include").flat_map(|list| list.split(','));
    let request = Bootstrap {
        source: given.first().to_owned(),
        include: include.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        tag: given.value("tag").map(str::to_owned),
    };
    let body = serde_json::to_vec(&request)?;
    let answer = Client::new(context).stream("POST", "/insula/images/bootstrap", Some(&body))?;
    let quiet = given.on("quiet");
    let last = progress(answer, |status| {
        if !quiet {
            output::write_error(format!("{status}\n").as_bytes());
        }
    })?;
    output::line(&last.id.unwrap_or(last.status));
    Ok(0)
}
