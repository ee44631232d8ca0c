//! RUN: a step's program in a container of its own, whose upper layer becomes the step's.

use super::execute::Build;
use super::mounts::{Mounted, Prepare};
use super::request::{BuildEvent, Entitlement};
use super::tree::Upper;
use crate::config::Paths;
use crate::error::{EngineError, ErrorClass, Result};
use crate::helper::{Helper, HelperError};
use crate::logs::LogStream;
use crate::model::{Container, ContainerId, ContainerSpec, NetworkMode, Process};
use crate::network;
use crate::plan::{self, Surroundings, namespaces::Joins, user};
use control::{Create, Event, Message, ProcessId, Reply, Request, Rootfs, Stdio, Streams};
use image::build::RunStep;
use image::dockerfile::{NetworkMode as StepNetwork, SecurityMode};
use image::{LayerId, Layers};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Output that an error shows, in bytes.
const SHOWN: usize = 4096;
/// How long output may take to arrive once the program has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long a helper may take to end.
const FAREWELL: Duration = Duration::from_secs(10);

/// How a step's program ended.
pub(super) struct Ended {
    /// Its exit code.
    pub(super) code: i32,
    /// The end of what it wrote.
    pub(super) last_output: String,
}

/// Which step it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) stage: usize,
    pub(super) step: usize,
}

/// A step's place in networks; it gives it up however the step ends.
struct Held {
    inner: Arc<crate::engine::Inner>,
    leaving: Option<network::Leaving>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(leaving) = self.leaving.take() {
            drop(network::leave(&self.inner, leaving));
        }
    }
}

impl Build {
    /// Runs a step's program over `layers`; what it writes is in `upper` afterwards.
    pub(super) async fn run(&self, step: &RunStep, layers: &[LayerId], upper: &Upper, at: At) -> Result<Ended> {
        self.entitled(step)?;
        let mounted = Prepare { build: self, step, layers, upper }.all().await?;
        let below = self.inner.images.mount_ids(layers, "of the build").map_err(crate::engine::image_error)?;
        let id = ContainerId::random().map_err(|error| EngineError::internal("cannot make an id", &error))?;
        let runtime = self.inner.config.shims().join(id.as_str());
        std::fs::create_dir(&runtime).map_err(|error| EngineError::internal("cannot make a runtime folder", &error))?;
        let outcome = self.run_in(step, &below, upper, &mounted, &runtime, &id, at).await;
        let _ = crate::sweep::folder(&runtime);
        if outcome.is_err() {
            let _ = crate::sweep::cgroup(&self.inner.cgroups, &self.cgroup(&id));
        }
        mounted.remove_stubs(upper, &below);
        outcome
    }

    fn entitled(&self, step: &RunStep) -> Result<()> {
        let wanted = [
            (step.network == StepNetwork::Host, Entitlement::NetworkHost),
            (step.security == SecurityMode::Insecure, Entitlement::SecurityInsecure),
        ];
        match wanted.iter().find(|(asked, right)| *asked && !self.allow.contains(right)) {
            None => Ok(()),
            Some((_, right)) => Err(EngineError::new(
                ErrorClass::Denied,
                format!(
                    "the step asks for the right {0}, which the build was not given; give it with: --allow {0}",
                    right.name()
                ),
            )),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is one thing that the container is made of")]
    async fn run_in(
        &self,
        step: &RunStep,
        below: &Layers,
        upper: &Upper,
        mounted: &Mounted,
        runtime: &Path,
        id: &ContainerId,
        at: At,
    ) -> Result<Ended> {
        let mut container = self.container(step, mounted, id);
        let paths = paths(upper.path(), runtime);
        let cannot = |error: std::io::Error| EngineError::internal("cannot make the step's files", &error);
        crate::files::make_below_etc(&container, &paths, &self.inner.networks.host_gateways()).map_err(cannot)?;
        let mut leaving = None;
        let netns = match container.spec.network {
            NetworkMode::Networks(_) => {
                let (netns, held) = network::join_passing(&self.inner, &mut container, &paths).await?;
                leaving = Some(Held { inner: Arc::clone(&self.inner), leaving: Some(held) });
                Some(netns)
            }
            NetworkMode::None => self.inner.netns.as_ref().and_then(|pool| pool.take().ok()),
            _ => None,
        };
        let around = Surroundings {
            host: &self.inner.host,
            paths: &paths,
            cgroup: self.cgroup(id),
            user: user::resolve(&step.user, &[], &user::Accounts::read(&below.fds))?,
            joins: Joins::default(),
            devices: Vec::new(),
        };
        plan::check(&container.spec, &self.inner.host)?;
        let create = Create {
            version: control::VERSION,
            id: id.to_string(),
            spec: plan::oci(&container, &around)?,
            rootfs: Rootfs::Overlay {
                layers: below.fds.len() + 1,
                writable: Some(upper.path().to_owned()),
                volatile: true,
            },
            seccomp: self.inner.seccomp(&container)?,
            netns: netns.is_some(),
            stdio: Stdio { open_stdin: false, stdin_once: false },
            log: control::Log::default(),
            exit_file: None,
            runtime_dir: runtime.to_owned(),
            init: true,
            runtime: None,
            restore: None,
        };
        let mut fds: Vec<BorrowedFd<'_>> = below.fds.iter().map(|fd| fd.as_fd()).collect();
        fds.push(self.inner.skeleton.as_fd());
        fds.extend(netns.iter().map(AsFd::as_fd));
        let ended = self.follow(create, &fds, at).await;
        drop(leaving);
        ended
    }

    fn container(&self, step: &RunStep, mounted: &Mounted, id: &ContainerId) -> Container {
        let mut env: Vec<String> = step.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        env.extend(step.proxies.iter().map(|(name, value)| format!("{name}={value}")));
        env.extend(mounted.env.iter().cloned());
        let spec = ContainerSpec {
            hostname: Some("build".into()),
            network: match step.network {
                StepNetwork::None => NetworkMode::None,
                StepNetwork::Host => NetworkMode::Host,
                StepNetwork::Default => self.network.clone(),
            },
            privileged: step.security == SecurityMode::Insecure,
            mounts: mounted.mounts.clone(),
            resources: self.resources.clone(),
            shm_bytes: self.shm_bytes,
            extra_hosts: self.extra_hosts.clone(),
            ulimits: self.ulimits.clone(),
            ..ContainerSpec::default()
        };
        let process = Process {
            args: step.argv.clone(),
            env,
            cwd: step.directory.clone(),
            user: step.user.clone(),
            stop_signal: 15,
        };
        Container::passing(id.clone(), "build", spec, process, crate::clock::now_ns())
    }

    /// Creates, starts, passes output on, waits, lets go.
    async fn follow(&self, create: Create, fds: &[BorrowedFd<'_>], at: At) -> Result<Ended> {
        let mut helper = self.inner.zygote.helper().map_err(lost)?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()
            .map_err(|error| EngineError::internal("cannot make a connection for a step's output", &error))?;
        helper.send(&Request::Create(Box::new(create)), fds).await.map_err(lost)?;
        let streams = Streams { stdin: false, stdout: true, stderr: true };
        let attach = Request::Attach { process: ProcessId::Init, streams, ahead: Vec::new(), detach_keys: Vec::new() };
        let theirs = OwnedFd::from(theirs);
        helper.send(&attach, &[theirs.as_fd()]).await.map_err(lost)?;
        drop(theirs);
        helper.send(&Request::Start, &[]).await.map_err(lost)?;
        let mut output = Output::new(ours)?;
        let mut code = None;
        let mut stop = self.stop.clone();
        let mut stopping = false;
        while code.is_none() {
            tokio::select! {
                message = helper.next() => match message.map_err(lost)? {
                    None => return Err(EngineError::new(ErrorClass::Unavailable, "the helper that ran the step was killed")),
                    Some(frame) => match frame.body {
                        Message::Reply(Reply::Failed(failure)) if !stopping => {
                            let error = EngineError::because(ErrorClass::Invalid, "cannot run the step's program", &failure);
                            // a created container that never started goes with its helper
                            let _ = leave(&mut helper).await;
                            return Err(error);
                        }
                        Message::Event(Event::Exited { process: ProcessId::Init, exit }) => code = Some(exit.code),
                        _ => {}
                    },
                },
                more = output.next(), if !output.ended => {
                    if let Some((stream, bytes)) = more {
                        self.tell(BuildEvent::Output { stage: at.stage, step: at.step, stream, bytes }).await;
                    }
                }
                () = stopped(&mut stop), if !stopping => {
                    stopping = true;
                    helper.send(&Request::Signal { signal: 9, all: true }, &[]).await.map_err(lost)?;
                }
            }
        }
        let rest = async {
            while let Some((stream, bytes)) = output.next().await {
                self.tell(BuildEvent::Output { stage: at.stage, step: at.step, stream, bytes }).await;
            }
        };
        let told = leave(&mut helper).await;
        let _ = tokio::time::timeout(LAST_WORDS, rest).await;
        told?;
        if stopping {
            return Err(super::execute::interrupted());
        }
        Ok(Ended { code: code.unwrap_or(0), last_output: output.last() })
    }
}

fn lost(error: HelperError) -> EngineError {
    EngineError::because(ErrorClass::Unavailable, "the helper that runs the step failed", &error)
}

/// Lets a helper go and waits until it has.
async fn leave(helper: &mut Helper) -> Result<()> {
    helper.send(&Request::Quit, &[]).await.map_err(lost)?;
    let farewell = async { while let Ok(Some(_)) = helper.next().await {} };
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
    Ok(())
}

/// Returns when the build is to be stopped; never if there is nobody to say so.
async fn stopped(stop: &mut tokio::sync::watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn paths(folder: &Path, runtime: &Path) -> Paths {
    Paths {
        dir: folder.to_owned(),
        log: folder.join("log"),
        local_log: folder.join("local-log"),
        exit: folder.join("exit"),
        hosts: folder.join("hosts"),
        hostname: folder.join("hostname"),
        resolv_conf: folder.join("resolv.conf"),
        config: folder.join("config"),
        runtime: runtime.to_owned(),
    }
}

/// A step's output, taken out of its frames: `[stream, 0, 0, 0, length: u32be] payload`.
struct Output {
    socket: tokio::net::UnixStream,
    unread: Vec<u8>,
    /// How much of the present frame is still to come.
    left: usize,
    /// Whose the present frame is.
    stream: LogStream,
    tail: Vec<u8>,
    ended: bool,
}

impl Output {
    fn new(socket: std::os::unix::net::UnixStream) -> Result<Self> {
        let cannot = |error: std::io::Error| EngineError::internal("cannot read a step's output", &error);
        socket.set_nonblocking(true).map_err(cannot)?;
        let socket = tokio::net::UnixStream::from_std(socket).map_err(cannot)?;
        Ok(Self { socket, unread: Vec::new(), left: 0, stream: LogStream::Stdout, tail: Vec::new(), ended: false })
    }

    /// The next piece, of one stream. Cancelling it loses nothing.
    async fn next(&mut self) -> Option<(LogStream, Vec<u8>)> {
        loop {
            let bytes = self.payload();
            if !bytes.is_empty() {
                return Some((self.stream, bytes));
            }
            let mut piece = [0; 16 << 10];
            match self.socket.read(&mut piece).await {
                Ok(count) if count > 0 => self.unread.extend_from_slice(&piece[..count]),
                _ => {
                    self.ended = true;
                    return None;
                }
            }
        }
    }

    /// The payload that has been read, up to a frame of the other stream.
    fn payload(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut at = 0;
        loop {
            let now = self.left.min(self.unread.len() - at);
            out.extend_from_slice(&self.unread[at..at + now]);
            (at, self.left) = (at + now, self.left - now);
            match self.unread[at..] {
                [kind, _, _, _, a, b, c, d, ..] if self.left == 0 => {
                    let stream = if kind == 2 { LogStream::Stderr } else { LogStream::Stdout };
                    if stream != self.stream && !out.is_empty() {
                        break;
                    }
                    self.stream = stream;
                    self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                    at += 8;
                }
                _ => break,
            }
        }
        self.unread.drain(..at);
        self.tail.extend_from_slice(&out);
        let spare = self.tail.len().saturating_sub(SHOWN);
        self.tail.drain(..spare);
        out
    }

    fn last(&self) -> String {
        String::from_utf8_lossy(&self.tail).into_owned()
    }
}
