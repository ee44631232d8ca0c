//! `pause`: have all processes of a container stand still.

use super::flags::{Command, Order, Parsed};
use super::{Context, Failure, Outcome};
use crate::error::Doing as _;
use crate::runtime::life::Known;
use crate::runtime::status::Status;

pub(super) static COMMAND: Command = Command {
    name: "pause",
    usage: "ID",
    about: "have all processes of a container stand still",
    flags: &[],
    order: Order::Mixed,
    arguments: (1, 1),
    failure_code: 1,
    run,
};

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    let known = Known::find(&context.root, parsed.id())?;
    if !matches!(known.status, Status::Running | Status::Created) {
        return Err(Failure::new(format!("container not running: it is {}", known.status)));
    }
    known.group()?.freeze().doing(|| "cannot freeze the container")?;
    Ok(0)
}
