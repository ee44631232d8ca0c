//! `delete`: takes a container away.

use super::flags::{Command, Flag, Order, Parsed};
use super::{Context, Outcome};
use crate::runtime::life::{self, Force};

static FLAGS: [Flag; 1] = [Flag::switch("force", "kill it first, if it runs").letter('f')];

pub(super) static COMMAND: Command = Command {
    name: "delete",
    usage: "[FLAGS] ID",
    about: "take away what is left of a container",
    flags: &[&FLAGS],
    order: Order::Mixed,
    arguments: (1, 1),
    failure_code: 1,
    run,
};

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    let force = if parsed.on("force") { Force::Yes } else { Force::No };
    life::delete(&context.root, parsed.id(), force, &|text| context.log.warn(text))?;
    Ok(0)
}
