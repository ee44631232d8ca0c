//! `insula network`: networks, and who is in them.

mod create;
mod list;
mod member;
mod remove;

use crate::container::inspect;
use crate::flags::{Action, Command};

pub(crate) static GROUP: Command = Command {
    name: "network",
    usage: "COMMAND",
    about: "Networks of containers",
    action: Action::Group(&[
        &member::CONNECT,
        &create::COMMAND,
        &member::DISCONNECT,
        &inspect::NETWORK,
        &list::COMMAND,
        &remove::PRUNE,
        &remove::COMMAND,
    ]),
    ..Command::BLANK
};

/// The address of something about a network.
fn path(name: &str, rest: &str) -> String {
    format!("/networks/{}{rest}", crate::client::encode(name))
}
