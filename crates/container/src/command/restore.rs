//! `restore`: makes a container of the processes that `checkpoint` wrote down, by criu.

use super::checkpoint::{IMAGES, common, external_namespace, folders};
use super::create::{Asked, BUNDLE, undo};
use super::flags::{Command, Flag, Order, Parsed};
use super::foreground;
use super::{Context, Failure, Outcome};
use crate::error::Doing as _;
use crate::runtime::criu::{Criu, read_descriptors};
use crate::runtime::life;
use oci_spec::runtime::{Mount, Process, Spec};
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
    if spec.process().as_ref().and_then(Process::terminal).unwrap_or(false) && !parsed.on("shell-job") {
        return Err(Failure::new(
            "a container with a terminal is restored with --shell-job only, on the caller's terminal",
        ));
    }
    let mut criu = Criu::new("restore", &images, &work);
    common(&mut criu, parsed)?;
    for name in ["lsm-profile", "lsm-mount-context"] {
        if let Some(value) = parsed.value(name).filter(|value| !value.is_empty()) {
            criu.value(&format!("--{name}"), value);
        }
    }
    for (fd, name) in read_descriptors(&images)?.iter().enumerate() {
        if name.starts_with("pipe:") {
            criu.value("--inherit-fd", format!("fd[{fd}]:{name}"));
        }
    }
    binds(&mut criu, &spec);
    let _open = namespaces(&mut criu, &spec)?;
    let made = asked.restore(context, &spec, criu)?;
    if let Err(failure) = asked.write_pid(made.container.pid) {
        undo(context, &made);
        return Err(failure);
    }
    if parsed.on("detach") {
        return Ok(0);
    }
    sys::process::block_signals();
    let code = foreground::attend((&made.container.pidfd, made.container.pid), None, None)?;
    made.end(&|text| context.log.warn(text))?;
    Ok(code)
}

/// Names the sources of what the container binds from outside.
fn binds(criu: &mut Criu, spec: &Spec) {
    let bound = |mount: &&Mount| life::is_bind(mount);
    for mount in spec.mounts().iter().flatten().filter(bound) {
        let source = mount.source().clone().unwrap_or_default();
        criu.value("--external", format!("mnt[{}]:{}", mount.destination().display(), source.display()));
    }
    for path in spec.linux().iter().flat_map(|linux| linux.masked_paths().iter().flatten()) {
        criu.value("--external", format!("mnt[{path}]:/dev/null"));
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
        criu.value("--inherit-fd", format!("fd[{}]:{name}", fd.as_raw_fd()));
        open.push(fd);
    }
    Ok(open)
}
