//! Checkpoints of containers that the helper makes itself, by criu: processes are written down and made again.

use super::foreign::show;
use crate::create::{self, Container};
use crate::error::{Doing, Result, SetupError};
use crate::hooks::{self, State};
use crate::namespaces::{inodes, kind_of};
use crate::runtime::criu::{self, Criu, Field, Verb};
use crate::runtime::{group, life};
use crate::stdio::{self, Ends, Input, Stdio};
use control::{Afterwards, CgroupValue, Create, Created, FailureKind};
use oci_spec::runtime::{LinuxResources, Process, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::DirBuilder;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use sys::process::Namespaces;

/// What of a container comes from outside, kept while it runs.
#[derive(Debug, Default)]
pub(super) struct Outside {
    binds: Box<[PathBuf]>,
    masked: Box<[PathBuf]>,
    /// Kinds of the namespaces that were there before it, and where to look at them below its first process.
    joined: Box<[(String, &'static str)]>,
}

impl Outside {
    pub(super) fn of(request: &Create) -> Self {
        let spec = &request.spec;
        let linux = spec.linux().as_ref();
        let mounts = spec.mounts().iter().flatten().filter(|mount| life::is_bind(mount));
        let masked = linux.and_then(|linux| linux.masked_paths().as_deref()).unwrap_or_default();
        let all = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        let given = |kind: &str| request.netns && kind == "network";
        let joined = all.iter().filter_map(|one| {
            let kind = one.typ().to_string();
            (one.path().is_some() || given(&kind)).then(|| (kind, kind_of(one.typ()).1))
        });
        Self {
            binds: mounts.map(|mount| mount.destination().clone()).collect(),
            masked: masked.iter().map(PathBuf::from).collect(),
            joined: joined.collect(),
        }
    }
}

/// Has a folder written beside its place, and puts it there when it is whole and on the disk.
///
/// # Errors
/// What `write` says, or the file system; nothing is left then.
pub(super) fn write_beside(place: &Path, write: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let fresh = place.with_file_name(format!(".{name}.new"));
    let shown = || fresh.display().to_string();
    // of a helper that was killed
    let _ = std::fs::remove_dir_all(&fresh);
    DirBuilder::new().mode(0o700).create(&fresh).doing(shown)?;
    let whole = write(&fresh).and_then(|()| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&fresh, flags, Mode::empty()).doing(shown)?;
        rustix::fs::syncfs(&folder).doing(shown)?;
        std::fs::rename(&fresh, place).doing(shown)
    });
    whole.inspect_err(|_| {
        let _ = std::fs::remove_dir_all(&fresh);
    })
}

/// Writes a container's processes down.
///
/// # Errors
/// [`FailureKind::Unsupported`] without criu, [`FailureKind::Internal`] with what it says; the container goes on then.
pub(super) fn dump(container: &Container, outside: &Outside, (images, then): (&Path, Afterwards)) -> Result<()> {
    let mut criu = Criu::new(Verb::Dump, images, images);
    criu.number(Field::Pid, u64::try_from(container.pid).unwrap_or(0));
    criu.configuration(None);
    criu.flag(Field::ManageGroups);
    criu.number(Field::GroupsMode, criu::SOFT);
    if then == Afterwards::Runs {
        criu.flag(Field::LeaveRunning);
    }
    if let Some(folder) = group::freezer(&container.group).as_deref().and_then(Path::parent) {
        criu.text(Field::FreezeGroup, folder);
    }
    criu.externals(&criu::Outside { binds: &outside.binds, masked: &outside.masked }, container.pid);
    let at =
        |(kind, name): &(String, &str)| (kind.clone(), PathBuf::from(format!("/proc/{}/ns/{name}", container.pid)));
    criu.joined(&outside.joined.iter().map(at).collect::<Vec<_>>())?;
    criu::write_descriptors(images, container.pid)?;
    criu.run(&mut |_, _| Ok(())).map(|_| ())
}

/// Makes a container of processes that were written down. They run already when this returns.
///
/// # Errors
/// As [`dump`]; nothing is left then.
pub(super) fn restore(
    request: &Create,
    folder: &Path,
    images: &Path,
    (layers, netns): (&[OwnedFd], Option<OwnedFd>),
) -> Result<(Container, Created)> {
    let spec = &request.spec;
    let rootfs = folder.join("bundle/rootfs");
    std::fs::create_dir_all(&rootfs).doing(|| rootfs.display().to_string())?;
    // criu goes over to it, and what is mounted here goes when this ends
    let _shown = show(request, layers, &rootfs)?;
    let mut criu = Criu::new(Verb::Restore, images, folder);
    criu.configuration(spec.annotations().as_ref());
    criu.flag(Field::ManageGroups);
    criu.number(Field::GroupsMode, criu::SOFT);
    criu.text(Field::Root, &rootfs);
    criu.flag(Field::Notify);
    criu.flag(Field::Sibling);
    criu.binds(spec);
    let _open = criu.namespaces(spec)?;
    if let Some(netns) = &netns {
        rustix::io::fcntl_setfd(netns, FdFlags::empty()).doing(|| "fcntl")?;
        criu.inherit(netns.as_raw_fd(), criu::NETWORK);
    }
    let terminal = spec.process().as_ref().and_then(Process::terminal).unwrap_or(false);
    let input = if request.stdio.open_stdin { Input::Open } else { Input::Null };
    let (mut streams, ends) = stdio::ends(Stdio::Pipes(input), terminal)?;
    inherit(&mut criu, images, &ends)?;
    let host = create::cgroups()?;
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().clone()).unwrap_or_default();
    let default = LinuxResources::default();
    let resources = linux.and_then(|linux| linux.resources().as_ref()).unwrap_or(&default);
    let (group, applied) = host.create(&path.to_string_lossy(), resources).doing(|| "cannot make the control group")?;
    for root in group::roots(host, &group) {
        criu.group(&root);
    }
    let made = run(&criu, request, folder).inspect_err(|_| {
        // the failure that brought us here is the one worth telling
        let _ = group.kill().and_then(|()| group.remove());
    });
    let (pid, pidfd, master) = made?;
    streams.terminal = master;
    let listed = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let namespaces = listed.iter().fold(Namespaces::empty(), |all, one| all | kind_of(one.typ()).0);
    let mut container = Container::restored(pidfd, pid, group, namespaces);
    container.streams = streams;
    let cgroup = applied.values.into_iter().map(|(path, value)| CgroupValue { path, value }).collect();
    Ok((container, Created { pid, namespaces: inodes(pid), cgroup, warnings: applied.warnings }))
}

/// Names the new pipes for the old ones.
fn inherit(criu: &mut Criu, images: &Path, ends: &Ends) -> Result<()> {
    let Ends::Pipes { stdin, stdout, stderr } = ends else { return Ok(()) };
    for (fd, name) in [stdin, stdout, stderr].into_iter().zip(criu::read_descriptors(images)?) {
        if name.starts_with("pipe:") {
            // criu inherits it
            rustix::io::fcntl_setfd(fd, FdFlags::empty()).doing(|| "fcntl")?;
            criu.inherit(fd.as_raw_fd(), &name);
        }
    }
    Ok(())
}

fn run(criu: &Criu, request: &Create, folder: &Path) -> Result<(i32, OwnedFd, Option<OwnedFd>)> {
    let spec: &Spec = &request.spec;
    let all = spec.hooks().as_ref();
    // hooks see a process whose namespaces are there, as with a new container
    let done = criu.run(&mut |script, pid| {
        if script != "setup-namespaces" || pid == 0 {
            return Ok(());
        }
        let state = State {
            oci_version: spec.version(),
            id: &request.id,
            status: "creating",
            pid: Some(pid),
            bundle: folder,
            annotations: spec.annotations().as_ref(),
        };
        hooks::run_all("prestart", all.and_then(hooks::prestart), &state)?;
        hooks::run_all("createRuntime", all.and_then(|all| all.create_runtime().as_ref()), &state)
    })?;
    let number = done.pid.and_then(Pid::from_raw);
    let number = number.ok_or_else(|| SetupError::new(FailureKind::Internal, "criu told no process id"))?;
    let pidfd = pidfd_open(number, PidfdFlags::empty()).doing(|| "pidfd_open")?;
    Ok((number.as_raw_nonzero().get(), pidfd, done.terminal))
}
