//! `insula inspect`, for containers, images and volumes.

use crate::client::{Client, Query, encode};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::template::Template;
use crate::{output, table};

static FLAGS: &[Flag] = &[
    Flag::value("format", "TEMPLATE", "Show as a template says, as in '{{.State.ExitCode}}', or json").short('f'),
    Flag::switch("size", "Show sizes").short('s'),
];

pub(crate) static COMMAND: Command = Command {
    name: "inspect",
    usage: "[OPTIONS] NAME...",
    about: "Show all that is known of containers, images, networks and volumes",
    flags: &[FLAGS, &[Flag::value("type", "KIND", "Look only for this: container, image, network or volume")]],
    arguments: (1, Command::MANY),
    action: Action::Run(any),
    ..Command::BLANK
};

pub(crate) static CONTAINER: Command = Command {
    name: "inspect",
    usage: "[OPTIONS] CONTAINER...",
    about: "Show all that is known of containers",
    flags: &[FLAGS],
    arguments: (1, Command::MANY),
    action: Action::Run(|context, given| inspect(context, given, &["container"])),
    ..Command::BLANK
};

pub(crate) static IMAGE: Command = Command {
    name: "inspect",
    usage: "[OPTIONS] IMAGE...",
    about: "Show all that is known of images",
    flags: &[FLAGS],
    arguments: (1, Command::MANY),
    action: Action::Run(|context, given| inspect(context, given, &["image"])),
    ..Command::BLANK
};

pub(crate) static VOLUME: Command = Command {
    name: "inspect",
    usage: "[OPTIONS] VOLUME...",
    about: "Show all that is known of volumes",
    flags: &[FLAGS],
    arguments: (1, Command::MANY),
    action: Action::Run(|context, given| inspect(context, given, &["volume"])),
    ..Command::BLANK
};

pub(crate) static NETWORK: Command = Command {
    name: "inspect",
    usage: "[OPTIONS] NETWORK...",
    about: "Show all that is known of networks",
    flags: &[FLAGS, &[Flag::switch("verbose", "Say more; there is no more").short('v')]],
    arguments: (1, Command::MANY),
    action: Action::Run(|context, given| inspect(context, given, &["network"])),
    ..Command::BLANK
};

fn any(context: &Context, given: &Parsed) -> Outcome {
    match given.value("type") {
        None | Some("") => inspect(context, given, &["container", "image", "volume", "network"]),
        Some("container") => inspect(context, given, &["container"]),
        Some("image") => inspect(context, given, &["image"]),
        Some("network") => inspect(context, given, &["network"]),
        Some("volume") => inspect(context, given, &["volume"]),
        Some(other) => {
            Err(Failure::new(format!("bad value {other:?} for --type: give container, image, network or volume")))
        }
    }
}

fn inspect(context: &Context, given: &Parsed, kinds: &[&str]) -> Outcome {
    let template = match given.value("format") {
        None | Some("") => None,
        Some(format) => Some(Template::parse(format).map_err(Failure::new)?),
    };
    let query = Query::default().flag("size", given.on("size"));
    let mut client = Client::new(context);
    let mut found = Vec::new();
    let mut code = 0;
    for name in &given.arguments {
        match look_up(&mut client, name, kinds, &query) {
            Ok(raw) => match &template {
                None => found.push(raw),
                Some(template) => {
                    let value = serde_json::from_slice(&raw)?;
                    output::line(
                        &template
                            .fill(&value)
                            .map_err(|why| Failure::new(format!("cannot fill in the template: {why}")))?,
                    );
                }
            },
            Err(failure) => {
                output::note(failure.text());
                code = 1;
            }
        }
    }
    if template.is_none() {
        let all = [b"[".to_vec(), found.join(&b","[..]), b"]".to_vec()].concat();
        output::line(&table::pretty(&all));
    }
    Ok(code)
}

fn look_up(client: &mut Client, name: &str, kinds: &[&str], query: &Query) -> Result<Vec<u8>, Failure> {
    for kind in kinds {
        let tail = if matches!(*kind, "network" | "volume") { "" } else { "/json" };
        match client.get_bytes(&query.behind(&format!("/{kind}s/{}{tail}", encode(name)))) {
            Err(failure) if failure.status() == Some(404) => {}
            other => return other,
        }
    }
    Err(Failure::daemon(
        404,
        format!(
            "no {} {name:?} here; see: insula ps -a, insula images, insula network ls, insula volume ls",
            kinds.join(" or ")
        ),
    ))
}
