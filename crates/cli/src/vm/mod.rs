//! Commands about virtual machines. No daemon is asked: each machine is a process, `insula-vmm`, that is found by its folder.

mod console;
mod device;
mod lifecycle;
mod place;
mod probe;
mod ps;
mod run;
mod show;
mod snapshot;

use crate::flags::{Action, Command};

pub(crate) use probe::check;

pub(crate) static GROUP: Command = Command {
    name: "vm",
    usage: "COMMAND",
    about: "Commands about virtual machines",
    action: Action::Group(&[
        &lifecycle::BALLOON,
        &console::COMMAND,
        &show::INSPECT,
        &lifecycle::KILL,
        &show::METRICS,
        &lifecycle::PAUSE,
        &ps::COMMAND,
        &run::RESTORE,
        &lifecycle::RESUME,
        &lifecycle::RM,
        &run::COMMAND,
        &snapshot::COMMAND,
        &lifecycle::STOP,
    ]),
    ..Command::BLANK
};
