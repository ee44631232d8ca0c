//! `insula registry`: a registry of its own, which `insulad` serves.

use std::process::Command as Program;

use crate::context::Context;
use crate::daemon;
use crate::failure::{During as _, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};

pub(crate) static GROUP: Command = Command {
    name: "registry",
    usage: "COMMAND",
    about: "Serve a registry",
    action: Action::Group(&[&GC, &SERVE]),
    ..Command::BLANK
};

static SERVE: Command = Command {
    name: "serve",
    usage: "[OPTIONS]",
    about: "Serve a registry until it is told to stop",
    flags: &[&[
        Flag::value("gc-hours", "HOURS", "Hours between collections of garbage (12); 0 for none"),
        Flag::switch("gc-untagged", "Collections remove manifests without a tag, too"),
        Flag::value("htpasswd", "FILE", "Users, as htpasswd -B writes them; everybody without"),
        Flag::value("listen", "ADDR", "Address and port (127.0.0.1:5000); port 0 takes a free one"),
        Flag::value("proxy", "UPSTREAM", "Be a cache of this registry, such as docker.io"),
        Flag::value("root", "DIR", "Folder that all is kept in (/var/lib/insula/registry)"),
        Flag::value("tls-cert", "FILE", "Certificate: serve HTTPS"),
        Flag::value("tls-key", "FILE", "The certificate's key"),
    ]],
    action: Action::Run(|context, given| run(context, given, "serve")),
    ..Command::BLANK
};

static GC: Command = Command {
    name: "gc",
    usage: "[OPTIONS]",
    about: "Remove what no manifest needs from a registry that is not being served",
    flags: &[&[
        Flag::value("grace", "SECONDS", "Spare what is younger"),
        Flag::value("root", "DIR", "The registry's folder (/var/lib/insula/registry)"),
        Flag::switch("untagged", "Remove manifests without a tag, too"),
    ]],
    action: Action::Run(|context, given| run(context, given, "gc")),
    ..Command::BLANK
};

/// Becomes the daemon's program.
fn run(context: &Context, given: &Parsed, verb: &str) -> Outcome {
    use std::os::unix::process::CommandExt as _;
    let mut program = Program::new(daemon::find_program());
    program.args(["registry", verb]);
    for flag in ["gc-hours", "grace", "htpasswd", "listen", "proxy", "tls-cert", "tls-key"] {
        if let Some(value) = given.value(flag) {
            program.arg(format!("--{flag}={value}"));
        }
    }
    for flag in ["gc-untagged", "untagged"] {
        if given.on(flag) {
            program.arg(format!("--{flag}"));
        }
    }
    let root = given.value("root").map_or_else(|| context.root.join("registry"), std::path::PathBuf::from);
    program.arg("--root").arg(root);
    let error = program.exec();
    Err(error).during(|| "cannot run insulad, which serves registries; install it beside insula".to_owned())
}
