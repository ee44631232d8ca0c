//! Commands about containers.

pub(crate) mod attach;
pub(crate) mod commit;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod inspect;
pub(crate) mod lifecycle;
mod limits;
pub(crate) mod logs;
mod networks;
pub(crate) mod ps;
pub(crate) mod rm;
pub(crate) mod run;
pub(crate) mod sample;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod top;
pub(crate) mod update;

use crate::client::Client;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Parsed};
use crate::output;

pub(crate) static GROUP: Command = Command {
    name: "container",
    usage: "COMMAND",
    about: "Commands about containers",
    action: Action::Group(&[
        &attach::COMMAND,
        &commit::COMMAND,
        &cp::COMMAND,
        &create::COMMAND,
        &commit::DIFF,
        &exec::COMMAND,
        &crate::image::archive::EXPORT,
        &inspect::CONTAINER,
        &lifecycle::KILL,
        &logs::COMMAND,
        &ps::LS,
        &lifecycle::PAUSE,
        &top::PORT,
        &rm::PRUNE,
        &lifecycle::RENAME,
        &lifecycle::RESTART,
        &rm::COMMAND,
        &run::COMMAND,
        &start::COMMAND,
        &stats::COMMAND,
        &lifecycle::STOP,
        &top::COMMAND,
        &lifecycle::UNPAUSE,
        &update::COMMAND,
        &lifecycle::WAIT,
    ]),
    ..Command::BLANK
};

/// Does something with each of the named containers; one that fails does not keep the others from it.
pub(crate) fn each(
    context: &Context,
    given: &Parsed,
    act: impl Fn(&mut Client, &str) -> Result<String, Failure>,
) -> Outcome {
    let mut client = Client::new(context);
    let mut code = 0;
    for name in &given.arguments {
        match act(&mut client, name) {
            Ok(line) => output::line(&line),
            Err(failure) => {
                output::note(failure.text());
                code = 1;
            }
        }
    }
    Ok(code)
}

/// The path of a container's resource, the name written so that it stays one element.
pub(crate) fn path(name: &str, rest: &str) -> String {
    format!("/containers/{}{rest}", crate::client::encode(name))
}
