//! `insula compose`: the services of Compose files, as docker compose runs them.
//!
//! What files say is the `compose` crate's matter; here the daemon is asked. [`stack`] joins the two: a project and its
//! containers. [`converge`] brings containers to what the file says, [`progress`] tells of it, [`follow`] shows what they write,
//! and one file for each kind of command has the commands, all of them listed in [`COMMANDS`].

mod build;
mod config;
mod converge;
mod copy;
mod down;
mod events;
mod exec;
mod follow;
mod image;
mod lifecycle;
mod list;
mod one_off;
mod plugin;
mod progress;
mod resource;
mod snapshot;
mod socket;
mod stack;
mod start;
mod tar;
mod up;
mod wait;
mod watch;

use crate::flags::{Action, Command, Flag, Order};

pub(crate) static COMMAND: Command = Command {
    name: "compose",
    usage: "[OPTIONS] COMMAND",
    about: "Run the services of Compose files",
    flags: &[GLOBALS],
    order: Order::FlagsFirst,
    arguments: (0, Command::MANY),
    action: Action::Nested(COMMANDS),
    ..Command::BLANK
};

/// The commands, sorted by name.
static COMMANDS: &[&Command] = &[
    &exec::ATTACH,
    &build::COMMAND,
    &snapshot::COMMIT,
    &config::COMMAND,
    &copy::COMMAND,
    &up::CREATE,
    &down::COMMAND,
    &events::COMMAND,
    &exec::COMMAND,
    &snapshot::EXPORT,
    &image::IMAGES,
    &lifecycle::KILL,
    &follow::COMMAND,
    &list::LS,
    &lifecycle::PAUSE,
    &list::PORT,
    &list::COMMAND,
    &image::PULL,
    &image::PUSH,
    &lifecycle::RESTART,
    &down::RM,
    &one_off::COMMAND,
    &up::SCALE,
    &lifecycle::START,
    &list::STATS,
    &lifecycle::STOP,
    &list::TOP,
    &lifecycle::UNPAUSE,
    &up::COMMAND,
    &config::VERSION,
    &snapshot::VIZ,
    &list::VOLUMES,
    &wait::COMMAND,
    &watch::COMMAND,
];

/// The options before the command's name.
static GLOBALS: &[Flag] = &[
    Flag::switch("all-resources", "Include networks and volumes that no service uses"),
    Flag::value("ansi", "WHEN", "When to use colours and move the cursor: auto, always or never"),
    Flag::switch("compatibility", "Name containers as docker-compose 1 did"),
    Flag::switch("dry-run", "Say what would be done, and do nothing"),
    Flag::list("env-file", "FILE", "A file of variables, in place of .env"),
    Flag::list("file", "FILE", "A Compose file; given again, it is laid over (COMPOSE_FILE)").short('f'),
    Flag::switch("no-ansi", "As --ansi never"),
    Flag::value("parallel", "NUMBER", "How much is done at once; -1 for no limit"),
    Flag::list("profile", "NAME", "Activate a profile; * for all (COMPOSE_PROFILES)"),
    Flag::value("progress", "KIND", "How to show what happens: auto, tty, plain, json or quiet"),
    Flag::value("project-directory", "DIR", "The folder that relative paths begin at"),
    Flag::value("project-name", "NAME", "The project's name (COMPOSE_PROJECT_NAME)").short('p'),
    Flag::switch("verbose", "Accepted; `insula --debug` shows the requests"),
];

/// What every command takes as well as its own.
static COMMON: &[Flag] = &[Flag::switch("dry-run", "Say what would be done, and do nothing")];
