//! `restore`: makes a container of the processes that `checkpoint` wrote down, by criu.

use super::checkpoint::{IMAGES, common, configuration, external_namespace, folders};
use super::create::{Asked, BUNDLE, undo};
use super::flags::{Command, Flag, Order, Parsed};
use super::foreground::{self, Stay};
use super::{Context, Failure, Outcome};
use crate::error::Doing as _;
use crate::runtime::criu::{Criu, Field, Verb, read_descriptors};
use crate::runtime::life;
use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsRawFd as _, OwnedFd};

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
    configuration(&mut criu, spec.annotations().as_ref());
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
    binds(&mut criu, &spec);
    let _open = namespaces(&mut criu, &spec)?;
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

/// Names the sources of what the container binds from outside.
fn binds(criu: &mut Criu, spec: &Spec) {
    let bound = |mount: &&Mount| life::is_bind(mount);
    for mount in spec.mounts().iter().flatten().filter(bound) {
        let source = mount.source().clone().unwrap_or_default();
        criu.text(Field::External, format!("mnt[{}]:{}", mount.destination().display(), source.display()));
    }
    for path in spec.linux().iter().flat_map(|linux| linux.masked_paths().iter().flatten()) {
        criu.text(Field::External, format!("mnt[{path}]:/dev/null"));
    }
}

/// Opens the namespaces that the container joins, and names them. They stay open until criu has run.
fn namespaces(criu: &mut Criu, spec: &Spec) -> Result<Vec<OwnedFd>, Failure> {
    let mut open = Vec::new();
    let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    for one in all {
        let (Some(path), Some((_, name))) = (one.path(), external_namespace(&one.typ().to_string())) else { continue };
        // criu inherits it
        let fd = rustix::fs::open(path, OFlags::RDONLY, Mode::empty());
        let fd = fd.doing(|| format!("namespace {}", path.display()))?;
        criu.inherit(fd.as_raw_fd(), name);
        open.push(fd);
    }
    Ok(open)
}
