//! `insula start`.

use crate::client::Client;
use crate::container::run::{DETACH_KEYS, Joined, Streams};
use crate::container::{each, path};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::table;

pub(crate) static COMMAND: Command = Command {
    name: "start",
    usage: "[OPTIONS] CONTAINER...",
    about: "Start containers that do not run",
    flags: &[&[
        Flag::switch("attach", "Join output, hand on signals, and end as the container ends").short('a'),
        Flag::value("detach-keys", "KEYS", "The keys that leave the container (ctrl-p,ctrl-q)"),
        Flag::switch("interactive", "Join standard input").short('i'),
    ]],
    arguments: (1, Command::MANY),
    action: Action::Run(start),
    ..Command::BLANK
};

fn start(context: &Context, given: &Parsed) -> Outcome {
    if !given.on("attach") && !given.on("interactive") {
        return each(context, given, |client, name| {
            client.post(&path(name, "/start"))?;
            Ok(name.to_owned())
        });
    }
    if given.arguments.len() > 1 {
        return Err(Failure::new("only one container can be started with --attach or --interactive"));
    }
    let mut client = Client::new(context);
    let container = client.get(&path(given.first(), "/json"))?;
    let id = table::text(&container, "/Id").to_owned();
    let streams = Streams {
        stdin: given.on("interactive") && table::switch(&container, "/Config/OpenStdin"),
        stdout: true,
        stderr: true,
        tty: table::switch(&container, "/Config/Tty"),
        proxy: true,
        detach_keys: given.value("detach-keys").unwrap_or(DETACH_KEYS).to_owned(),
    };
    streams.check_terminal()?;
    if table::switch(&container, "/State/Running") {
        return super::attach::join(&mut client, &id, &streams);
    }
    let condition = if table::switch(&container, "/HostConfig/AutoRemove") { "removed" } else { "next-exit" };
    let joined = Joined::new(&mut client, &id, &streams, condition)?;
    client.post(&path(&id, "/start"))?;
    joined.carry(&mut client, &streams)
}
