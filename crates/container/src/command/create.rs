//! `create`: makes a container, whose program waits for `start`.

use super::flags::{Command, Flag, Order, Parsed};
use super::foreground::{self, Stay, send_terminal};
use super::{Context, Failure, Outcome, notify};
use crate::create::Pivot;
use crate::runtime::config;
use crate::runtime::criu::Criu;
use crate::runtime::group::Driver;
use crate::runtime::life::{self, Keyring, Made, Readiness, Start};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use std::path::{Component, Path, PathBuf};
use sys::process::SingleThread;

/// What `create`, `run` and `restore` have in common.
pub(super) static BUNDLE: [Flag; 7] = [
    Flag::value("bundle", "the bundle's folder (default: the working folder)").letter('b'),
    Flag::value("console-socket", "a unix socket that is sent the terminal's master"),
    Flag::switch("no-new-keyring", "keep the caller's session keyring"),
    Flag::switch("no-pivot", "change the root by chroot(2), for a host whose root is a ramdisk"),
    Flag::value("pid-file", "a file for the first process's id"),
    Flag::value("pidfd-socket", "a unix socket that is sent the first process's pidfd"),
    Flag::value("preserve-fds", "how many descriptors behind the standard streams are kept"),
];

pub(super) static COMMAND: Command = Command {
    name: "create",
    usage: "[FLAGS] ID",
    about: "make a container",
    flags: &[&BUNDLE],
    order: Order::Mixed,
    arguments: (1, 1),
    failure_code: 1,
    run,
};

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    create(context, parsed).map_err(|failure| failure.doing("insula-oci create failed"))
}

fn create(context: &Context, parsed: &Parsed) -> Outcome {
    let mut asked = Asked::of(parsed)?;
    let spec = asked.load(context)?;
    let socket = foreground::console_socket(parsed, &spec, Stay::Detached)?;
    let watcher = foreground::watcher(parsed)?;
    let made = asked.make(context, &spec, Start::Later)?;
    let finish = || -> Result<(), Failure> {
        foreground::tell(watcher.as_ref(), &made.container.pidfd)?;
        if let (Some(master), Some(socket)) = (&made.container.streams.terminal, &socket) {
            send_terminal(socket, master)?;
        }
        asked.write_pid(made.container.pid)
    };
    if let Err(failure) = finish() {
        undo(context, &made);
        return Err(failure);
    }
    let Made { folder, container, .. } = made;
    let (group, pidfd) = (container.group.clone(), container.pidfd.try_clone());
    if let Err(error) = container.leave() {
        if let Ok(pidfd) = pidfd {
            crate::create::reap(&pidfd);
        }
        // the failure that brought us here is the one worth telling
        let _ = group.kill().and_then(|()| group.remove());
        let _ = folder.remove();
        return Err(error.into());
    }
    Ok(0)
}

/// Takes a container away that was made just now.
pub(super) fn undo(context: &Context, made: &Made<'_>) {
    life::abandon(&made.container, &|text| context.log.warn(text));
    if let Err(error) = made.folder.remove() {
        context.log.warn(&error.message);
    }
}

/// What the command line says of a container to be made.
pub(super) struct Asked<'a> {
    id: &'a str,
    stay: Stay,
    bundle: PathBuf,
    pid_file: Option<PathBuf>,
    pivot: Pivot,
    keyring: Keyring,
    preserved: u32,
    /// How many of the preserved descriptors are sockets that the caller listens on.
    listening: u32,
}

impl<'a> Asked<'a> {
    /// Reads the flags.
    pub(super) fn of(parsed: &'a Parsed) -> Result<Self, Failure> {
        crate::runtime::folder::check_id(parsed.id())?;
        let pid_file = pid_file(parsed)?;
        let (preserved, listening) = preserved(parsed)?;
        Ok(Self {
            id: parsed.id(),
            stay: if parsed.on("detach") { Stay::Detached } else { Stay::Foreground },
            bundle: parsed.value("bundle").filter(|bundle| !bundle.is_empty()).map_or(".", |bundle| bundle).into(),
            pid_file,
            pivot: if parsed.on("no-pivot") { Pivot::Move } else { Pivot::Root },
            keyring: if parsed.on("no-new-keyring") { Keyring::Callers } else { Keyring::Own },
            preserved,
            listening,
        })
    }

    /// Goes to the bundle, and reads its configuration.
    pub(super) fn load(&mut self, context: &Context) -> Result<Box<Spec>, Failure> {
        let (mut spec, warnings) = config::load(&self.bundle.join("config.json"))?;
        let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        if namespaces.iter().any(|one| one.typ() == LinuxNamespaceType::Pid && one.path().is_some()) {
            // others see our process there; relative paths of the command line are still what they were
            context.shield()?;
        }
        rustix::process::chdir(&self.bundle)
            .map_err(|errno| Failure::new(format!("chdir {}: {errno}", self.bundle.display())))?;
        let plain = self.bundle.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !plain || !self.bundle.is_absolute() {
            self.bundle = std::env::current_dir().map_err(|error| Failure::new(format!("working folder: {error}")))?;
        }
        warnings.iter().for_each(|text| context.log.warn(text));
        if self.listening > 0
            && let Some(process) = spec.process_mut()
        {
            let mut environment = process.env_mut().take().unwrap_or_default();
            environment.push(format!("LISTEN_FDS={}", self.listening));
            environment.push("LISTEN_PID=1".to_owned());
            process.set_env(Some(environment));
        }
        if notify::asked().is_some() {
            notify::add(&mut spec, &context.root.notify_of(self.id))?;
        }
        Ok(spec)
    }

    /// Makes the container.
    pub(super) fn make<'b>(&'b self, context: &'b Context, spec: &'b Spec, start: Start) -> Result<Made<'b>, Failure> {
        self.ordered(context, spec, start, life::make)
            .map_err(|failure| failure.doing("unable to start container process"))
    }

    /// Makes the container of what criu wrote down.
    pub(super) fn restore<'b>(&'b self, context: &'b Context, spec: &'b Spec, criu: Criu) -> Result<Made<'b>, Failure> {
        self.ordered(context, spec, Start::Here, |proof, order| life::restore(proof, order, criu))
    }

    fn ordered<'b>(
        &'b self,
        context: &'b Context,
        spec: &'b Spec,
        start: Start,
        make: impl FnOnce(SingleThread, &life::Order<'b>) -> crate::Result<Made<'b>>,
    ) -> Result<Made<'b>, Failure> {
        let proof = SingleThread::check().map_err(|error| Failure::new(error.to_string()))?;
        let order = life::Order {
            root: &context.root,
            id: self.id,
            bundle: &self.bundle,
            spec,
            stdio: foreground::stdio(if start == Start::Later { Stay::Detached } else { self.stay }),
            preserved: self.preserved,
            pivot: self.pivot,
            keyring: self.keyring,
            start,
            driver: if context.systemd { Driver::Systemd } else { Driver::Files },
            rootless: context.rootless,
            readiness: if notify::asked().is_some() { Readiness::Awaited } else { Readiness::Nobodys },
            log: &context.log,
        };
        make(proof, &order).map_err(Failure::from)
    }

    /// Writes the file that was asked for with the first process's id.
    pub(super) fn write_pid(&self, pid: i32) -> Result<(), Failure> {
        self.pid_file.as_ref().map_or(Ok(()), |path| write_pid(path, pid))
    }
}

/// The file that is to get a process id, from the root: the working folder changes.
pub(super) fn pid_file(parsed: &Parsed) -> Result<Option<PathBuf>, Failure> {
    let path = parsed.value("pid-file").filter(|path| !path.is_empty()).map(std::path::absolute);
    path.transpose().map_err(|error| Failure::new(format!("--pid-file: {error}")))
}

/// Writes a file with a process id, whole or not at all.
pub(super) fn write_pid(path: &Path, pid: i32) -> Result<(), Failure> {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let new = path.with_file_name(format!(".{name}"));
    let written = std::fs::write(&new, pid.to_string()).and_then(|()| std::fs::rename(&new, path));
    written.map_err(|error| {
        // may not be there
        let _ = std::fs::remove_file(&new);
        Failure::new(format!("--pid-file {}: {error}", path.display()))
    })
}

/// How many descriptors behind the standard streams are kept, and how many of these are sockets handed over by systemd.
pub(super) fn preserved(parsed: &Parsed) -> Result<(u32, u32), Failure> {
    let listening = std::env::var("LISTEN_FDS").ok().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    let asked = parsed.number::<u32>("preserve-fds")?.unwrap_or(0);
    let all = asked.saturating_add(listening);
    for fd in 3..3_u32.saturating_add(all) {
        let path = format!("/proc/self/fd/{fd}");
        if rustix::fs::readlink(&path, Vec::new()).is_err() {
            let at = fd - 3;
            return Err(Failure::new(format!(
                "--preserve-fds: preserved-fd {at} (of {all}), descriptor {fd}, is not open"
            )));
        }
    }
    Ok((all, listening))
}
