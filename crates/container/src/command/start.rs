//! `start`: lets the program of a container run.

use super::flags::{Command, Order, Parsed};
use super::notify::{self, Notify};
use super::{Context, Outcome};
use crate::runtime::life::{self, Known};
use crate::runtime::status::Status;
use std::os::fd::AsFd as _;

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
    let Some(_) = notify::asked() else {
        life::start(&context.root, parsed.id())?;
        return Ok(0);
    };
    let known = Known::find(&context.root, parsed.id())?;
    let notify = if known.status == Status::Created { Notify::open(&known.folder)? } else { None };
    let process = known.init().map(|(birth, process)| (birth.pid, process));
    life::start(&context.root, parsed.id())?;
    if let (Some(notify), Ok((pid, process))) = (notify, process) {
        notify.wait(process.as_fd(), pid)?;
    }
    Ok(0)
}
