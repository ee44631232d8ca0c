//! `start`: lets the program of a container run.

use super::flags::{Command, Order, Parsed};
use super::{Context, Outcome};
use crate::runtime::life;

pub(super) static COMMAND: Command = Command {
    name: "start",
    usage: "ID",
    about: "run the program of a container that was made",
    flags: &[],
    order: Order::Mixed,
    arguments: (1, 1),
    failure_code: 1,
    run,
};

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    life::start(&context.root, parsed.id())?;
    Ok(0)
}
