//! From a record to a running process: everything that the helper needs, in one burst of frames.

use super::network::Later;
use super::{Actor, Pending, effects};
use crate::config::Paths;
use crate::decide::Input;
use crate::error::{EngineError, ErrorClass, Result};
use crate::files::has_upper;
use crate::model::{ContainerId, IpcMode, NetworkMode, PidMode, Runtime};
use crate::network::names::{Linked, link_variables};
use crate::plan::{self, Surroundings, namespaces::Joins, user};
use crate::volume::Ready;
use control::{Create, Created, Request, Rootfs, Stdio};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// What is known between the launch and the program's start.
#[derive(Default)]
pub(super) struct Launching {
    pub(super) created: Option<Created>,
    /// Held until the helper has opened all sources.
    pub(super) ready: Ready,
    /// What is to be done with the namespace before the program may run.
    pub(super) later: Option<Later>,
    /// When the program was let run.
    let_run_ns: Option<u64>,
}

impl Launching {
    /// The run as it is recorded once the program runs.
    pub(super) fn runtime(self, pid: i32) -> Runtime {
        // not when the answer came: the program may have written by then, and who asks for what it has written since its start
        // is to get all of it
        let started_ns = self.let_run_ns.unwrap_or_else(crate::clock::now_ns);
        let (namespaces, cgroup, warnings) =
            self.created.map(|created| (created.namespaces, created.cgroup, created.warnings)).unwrap_or_default();
        Runtime { pid, started_ns, namespaces, cgroup, warnings }
    }
}

/// A request with the descriptors that go along.
struct Prepared {
    create: Create,
    netns: Option<OwnedFd>,
}

impl Actor {
    pub(super) async fn launch(&mut self) {
        self.restart_due = None;
        self.launching = Some(Launching::default());
        self.start_failure = ErrorClass::Invalid;
        // whoever copies files of it has its layers mounted: not twice at once
        drop(self.inner.still(&self.container.id).await);
        if let Err(error) = self.try_launch().await {
            self.launching = None;
            self.start_failure = error.class();
            let input = Input::LaunchFailed { code: 128, error: error.to_string() };
            self.feed_quietly(input).await;
        }
    }

    async fn try_launch(&mut self) -> Result<()> {
        let cannot = |error| EngineError::internal("cannot mount the image's layers", &error);
        let image = self.inner.images.get(&self.container.image_id).map_err(cannot)?;
        let layers = self.inner.images.mount_layers(&image).map_err(cannot)?;
        let mounts = self.inner.ready_mounts(&self.container).await?;
        let ready = self.join_networks().await?;
        let restore = self.restoring.take();
        let mut prepared = self.prepare(&layers, &mounts, ready.netns, &ready.linked)?;
        prepared.create.restore = restore;
        if let Some(launching) = &mut self.launching {
            launching.ready = mounts;
        }
        let unreachable = |error| effects::unreachable_helper(&error);
        let mut helper = self.inner.zygote.helper().map_err(unreachable)?;
        let mut fds: Vec<BorrowedFd<'_>> = layers.fds.iter().map(|fd| fd.as_fd()).collect();
        fds.push(self.inner.skeleton.as_fd());
        fds.extend(prepared.netns.iter().map(AsFd::as_fd));
        let create = helper.send(&Request::Create(Box::new(prepared.create)), &fds).await.map_err(unreachable)?;
        self.helper = Some(helper);
        self.pending.insert(create, Pending::Create);
        for attachment in std::mem::take(&mut self.attachments) {
            self.send_attachment(attachment, Pending::Ignored).await;
        }
        self.layers = Some(layers);
        if let (Some(later), Some(launching)) = (ready.later, &mut self.launching) {
            launching.later = Some(later);
            return Ok(());
        }
        // not waiting for the answer to the creation: one round trip less, and a failure answers both
        self.let_run().await;
        Ok(())
    }

    async fn let_run(&mut self) {
        if let Some(launching) = &mut self.launching {
            launching.let_run_ns = Some(crate::clock::now_ns());
        }
        self.request(&Request::Start, &[], Pending::Start).await;
    }

    /// The container stands; one whose namespace could not be made ready before gets its links now, and then starts.
    pub(super) async fn on_created(&mut self, created: Created) {
        let Some(launching) = &mut self.launching else { return };
        let (pid, later) = (created.pid, launching.later.take());
        launching.created = Some(created);
        let Some(later) = later else { return };
        match self.join_late(later, pid).await {
            Ok(()) => self.let_run().await,
            Err(error) => {
                self.launching = None;
                self.start_failure = error.class();
                self.feed_quietly(Input::LaunchFailed { code: 128, error: error.to_string() }).await;
                self.tell_starters();
            }
        }
    }

    fn prepare(
        &self,
        layers: &image::Layers,
        ready: &Ready,
        netns: Option<OwnedFd>,
        linked: &[Linked],
    ) -> Result<Prepared> {
        let mut container = (*self.container).clone();
        container.process.env = link_variables(&container, linked).into_iter().chain(container.process.env).collect();
        let container = &container;
        let spec = &container.spec;
        let paths = self.inner.config.paths(&container.id);
        let cannot = |what: &str, error: &std::io::Error| {
            EngineError::internal(format!("cannot {what} of container {}", container.id), error)
        };
        std::fs::create_dir_all(&paths.runtime).map_err(|error| cannot("make the runtime folder", &error))?;
        match std::fs::remove_file(&paths.exit) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(cannot("remove the last exit", &error));
            }
            _ => {}
        }
        if spec.auto_remove {
            // what is never to be on the disk may be mounted once, as the kernel notes there; this one is restarted
            let noted = paths.dir.join("work/work/incompat");
            crate::sweep::folder(&noted).map_err(|error| cannot("use the writable layer again", &error))?;
        }
        let around = Surroundings {
            host: &self.inner.host,
            paths: &self.shown_files(&paths)?,
            cgroup: self.inner.config.cgroup_of(container),
            user: user::resolve(&container.process.user, &spec.group_add, &self.accounts(layers))?,
            joins: self.joins()?,
            devices: plan::cdi::resolve(&spec.device_requests, &self.inner.config.cdi_folders)?,
        };
        let mut oci = plan::oci(container, &around)?;
        ready.redirect(&mut oci);
        let runtimes = self.inner.runtimes();
        let runtime = runtimes.find(spec.runtime.as_deref().unwrap_or(crate::OWN_RUNTIME))?.cloned();
        let seccomp = match (&runtime, oci.linux_mut()) {
            (Some(_), Some(linux)) => {
                linux.set_seccomp(self.inner.seccomp_profile(container)?);
                None
            }
            _ => self.inner.seccomp(container)?,
        };
        // of use once it has ended, if it is still there then
        if !spec.auto_remove {
            let json = serde_json::to_vec(&oci)
                .map_err(|error| EngineError::internal("cannot write the configuration", &error))?;
            std::fs::write(&paths.config, json).map_err(|error| cannot("write the configuration", &error))?;
        }
        let create = Create {
            version: control::VERSION,
            id: container.id.to_string(),
            rootfs: Rootfs::Overlay {
                layers: layers.fds.len() + 1,
                writable: has_upper(spec).then(|| paths.dir.clone()),
                volatile: spec.auto_remove,
            },
            seccomp,
            netns: netns.is_some(),
            stdio: Stdio { open_stdin: spec.open_stdin, stdin_once: spec.stdin_once },
            log: crate::logs::plan(container, &self.inner.config)?,
            exit_file: (!spec.auto_remove).then(|| paths.exit.clone()),
            runtime_dir: paths.runtime.clone(),
            init: spec.init,
            spec: oci,
            runtime,
            restore: None,
        };
        Ok(Prepared { create, netns })
    }

    /// Its files, but for those below /etc of a container that shares another's network: it sees that one's.
    fn shown_files(&self, own: &Paths) -> Result<Paths> {
        let NetworkMode::Container(who) = &self.container.spec.network else { return Ok(own.clone()) };
        let theirs = self.inner.config.paths(&self.inner.container(who)?.id);
        let Paths { hosts, hostname, resolv_conf, .. } = theirs;
        Ok(Paths { hosts, hostname, resolv_conf, ..own.clone() })
    }

    /// The container's own accounts: what an earlier run wrote, else the image's.
    fn accounts(&self, layers: &image::Layers) -> user::Accounts {
        use rustix::fs::{Mode, OFlags};
        let upper = self.inner.config.paths(&self.container.id).dir.join("upper");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let upper = rustix::fs::open(&upper, flags, Mode::empty()).ok().map(Arc::new);
        let roots: Vec<Arc<OwnedFd>> = upper.into_iter().chain(layers.fds.iter().cloned()).collect();
        user::Accounts::read(&roots)
    }

    /// The folder of the host that is the shared memory of a running container.
    fn shared_memory(&self, who: &str) -> Result<PathBuf> {
        let refused = || {
            EngineError::invalid(format!(
                "cannot join IPC of container {who}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
            ))
        };
        let mut other = self.inner.container(who)?;
        // who joined somebody else's has that one's
        for _ in 0..self.inner.all_containers().len() {
            other = match &other.spec.namespaces.ipc {
                IpcMode::Container(next) => self.inner.container(next)?,
                IpcMode::Shareable => return Ok(crate::shm::place(&self.inner.config.paths(&other.id).runtime)),
                IpcMode::Host => return Ok("/dev/shm".into()),
                IpcMode::Private | IpcMode::None => return Err(refused()),
            };
        }
        Err(refused())
    }

    /// The processes whose namespaces are joined must run.
    fn joins(&self) -> Result<Joins> {
        let pid_of = |who: &str, refused: &dyn Fn(&ContainerId) -> EngineError| {
            let other = self.inner.container(who)?;
            if other.pid() == 0 { Err(refused(&other.id)) } else { Ok(other.pid()) }
        };
        let cannot_join = |kind: &'static str| {
            move |id: &ContainerId| {
                let text = format!("failed to join {kind} namespace: container {id} is not running");
                EngineError::new(ErrorClass::Internal, text)
            }
        };
        let spec = &self.container.spec;
        let mut joins = Joins::default();
        match &spec.namespaces.ipc {
            IpcMode::Container(who) => {
                joins.ipc = Some(pid_of(who, &cannot_join("IPC"))?);
                joins.shm = Some(self.shared_memory(who)?);
            }
            IpcMode::Shareable => {
                let runtime = self.inner.config.paths(&self.container.id).runtime;
                joins.shm = Some(crate::shm::mount(&runtime, spec.shm_bytes)?);
            }
            IpcMode::Private | IpcMode::None | IpcMode::Host => {}
        }
        if let PidMode::Container(who) = &spec.namespaces.pid {
            joins.pid = Some(pid_of(who, &cannot_join("PID"))?);
        }
        if let NetworkMode::Container(who) = &spec.network {
            if self.inner.container(who).is_ok_and(|other| other.id == self.container.id) {
                return Err(EngineError::invalid("cannot join own network"));
            }
            joins.network = Some(pid_of(who, &|id| {
                EngineError::conflict(format!("cannot join network of a non running container: {id}"))
            })?);
        }
        Ok(joins)
    }
}
