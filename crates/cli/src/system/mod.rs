//! Commands about the daemon and the host.

pub(crate) mod check;
pub(crate) mod df;
pub(crate) mod dial;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod info;
pub(crate) mod prune;
pub(crate) mod version;

use crate::flags::{Action, Command};

pub(crate) static GROUP: Command = Command {
    name: "system",
    usage: "COMMAND",
    about: "Commands about the daemon and the host",
    action: Action::Group(&[
        &check::COMMAND,
        &df::COMMAND,
        &dial::COMMAND,
        &events::COMMAND,
        &info::COMMAND,
        &prune::COMMAND,
    ]),
    ..Command::BLANK
};
