//! `resume`: let the processes of a paused container go on.

use super::flags::{Command, Order, Parsed};
use super::{Context, Failure, Outcome};
use crate::error::Doing as _;
use crate::runtime::life::Known;
use crate::runtime::status::Status;

pub(super) static COMMAND: Command = Command {
    name: "resume",
    usage: "ID",
    about: "let the processes of a paused container go on",
    flags: &[],
    order: Order::Mixed,
    arguments: (1, 1),
    failure_code: 1,
    run,
};

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    let known = Known::find(&context.root, parsed.id())?;
    if known.status != Status::Paused {
        return Err(Failure::new("container not paused"));
    }
    known.group()?.thaw().doing(|| "cannot thaw the container")?;
    Ok(0)
}
