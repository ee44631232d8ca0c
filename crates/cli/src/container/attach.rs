//! `insula attach`.

use crate::client::Client;
use crate::container::path;
use crate::container::run::{DETACH_KEYS, Joined, Streams};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::table;

pub(crate) static COMMAND: Command = Command {
    name: "attach",
    usage: "[OPTIONS] CONTAINER",
    about: "Join the streams of a running container",
    flags: &[&[
        Flag::value("detach-keys", "KEYS", "The keys that leave the container (ctrl-p,ctrl-q)"),
        Flag::switch("no-stdin", "Leave standard input alone"),
        Flag::switch("sig-proxy", "Hand signals on to the container (on; turn off with =false)"),
    ]],
    arguments: (1, 1),
    action: Action::Run(attach),
    ..Command::BLANK
};

fn attach(context: &Context, given: &Parsed) -> Outcome {
    let mut client = Client::new(context);
    let name = given.first();
    let container = client.get(&path(name, "/json"))?;
    if !table::switch(&container, "/State/Running") {
        return Err(Failure::new(format!(
            "cannot attach to container {name:?}, which does not run; start it with: insula start -a {name}"
        )));
    }
    if table::switch(&container, "/State/Paused") {
        return Err(Failure::new(format!(
            "cannot attach to container {name:?}, which is paused; let it go on with: insula unpause {name}"
        )));
    }
    let streams = Streams {
        stdin: !given.on("no-stdin") && table::switch(&container, "/Config/OpenStdin"),
        stdout: true,
        stderr: true,
        tty: table::switch(&container, "/Config/Tty"),
        proxy: !given.off("sig-proxy"),
        detach_keys: given.value("detach-keys").unwrap_or(DETACH_KEYS).to_owned(),
    };
    streams.check_terminal()?;
    join(&mut client, table::text(&container, "/Id"), &streams)
}

/// Joins a container that runs, and ends as it ends.
pub(crate) fn join(client: &mut Client, id: &str, streams: &Streams) -> Outcome {
    Joined::new(client, id, streams, "not-running")?.carry(client, streams)
}
