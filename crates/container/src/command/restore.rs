//! `restore`: makes a container of the processes that `checkpoint` wrote down, by criu.

use super::checkpoint::{IMAGES, common, folders};
use super::create::{Asked, BUNDLE, undo};
use super::flags::{Command, Flag, Order, Parsed};
use super::foreground::{self, Stay};
use super::{Context, Outcome};
use crate::runtime::criu::{Criu, Field, Verb, read_descriptors};

static FLAGS: [Flag; 4] = [
    Flag::switch("detach", "leave it running").letter('d'),
    Flag::value("lsm-mount-context", "the SELinux context of mounts"),
    Flag::value("lsm-profile", "TYPE:NAME, the security profile of the processes"),
    Flag::switch("no-subreaper", "do not become the parent of processes that lose theirs"),
];

pub(super) static COMMAND: Command = Command {
    name: "restore",
    usage: "[FLAGS] ID",
    about: "make a container of what a checkpoint wrote down",
    flags: &[&BUNDLE, &IMAGES, &FLAGS],
    order: Order::Mixed,
    arguments: (1, 1),
    failure_code: 1,
    run,
};

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    // before the bundle is entered: these are seen from where the caller stands
    let (images, work) = folders(parsed)?;
    let mut asked = Asked::of(parsed)?;
    let spec = asked.load(context)?;
    let stay = if parsed.on("detach") { Stay::Detached } else { Stay::Foreground };
    // a terminal of the caller's is found again by criu itself
    let socket = if parsed.on("shell-job") { None } else { foreground::console_socket(parsed, &spec, stay)? };
    let mut criu = Criu::new(Verb::Restore, &images, &work);
    common(&mut criu, parsed)?;
    criu.configuration(spec.annotations().as_ref());
    for (name, field) in [("lsm-profile", Field::SecurityProfile), ("lsm-mount-context", Field::MountContext)] {
        if let Some(value) = parsed.value(name).filter(|value| !value.is_empty()) {
            criu.text(field, value);
        }
    }
    for (fd, name) in (0..).zip(read_descriptors(&images)?) {
        if name.starts_with("pipe:") {
            criu.inherit(fd, &name);
        }
    }
    criu.binds(&spec);
    let _open = criu.namespaces(&spec)?;
    let mut made = asked.restore(context, &spec, criu)?;
    let terminal = made.container.streams.terminal.take();
    let sent = match (&terminal, &socket) {
        (Some(master), Some(socket)) => foreground::send_terminal(socket, master),
        _ => Ok(()),
    };
    if let Err(failure) = sent.and_then(|()| asked.write_pid(made.container.pid)) {
        undo(context, &made);
        return Err(failure);
    }
    if stay == Stay::Detached {
        return Ok(0);
    }
    sys::process::block_signals();
    let child = (&made.container.pidfd, made.container.pid);
    let code = foreground::attend(child, terminal.filter(|_| socket.is_none()), None)?;
    made.end(&|text| context.log.warn(text))?;
    Ok(code)
}
