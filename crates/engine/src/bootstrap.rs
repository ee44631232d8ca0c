//! Base images from packages: the steps of `image::bootstrap`, with the packages' scripts run in a container of their own.

use crate::config::Config;
use crate::engine::Inner;
use crate::error::{EngineError, ErrorClass, Result};
use crate::model::{Container, ContainerId, ContainerSpec, Process};
use crate::plan::{self, Surroundings, namespaces::Joins, user};
use crate::zygote::Zygote;
use control::{Create, Event, LogFile, Message, ProcessId, Reply, Request, Rootfs, Stdio};
use image::bootstrap::{Prepared, Request as Asked};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Output of the packages' scripts that an error shows, in bytes.
const SHOWN: usize = 4096;

pub(crate) async fn run(
    inner: &Arc<Inner>,
    asked: crate::engine::Bootstrap,
    progress: mpsc::Sender<String>,
) -> Result<image::Image> {
    let request = request(&asked)?;
    let id = ContainerId::random().map_err(|error| EngineError::internal("cannot make an id", &error))?;
    let work = Work(inner.config.containers().join(id.as_str()));
    std::fs::create_dir(&work.0).map_err(|error| EngineError::internal("cannot make a work folder", &error))?;
    let prepared = prepare(request, &work.0, progress.clone()).await?;
    let _ = progress.send("Configuring the packages in a container".into()).await;
    configure(inner, &id, &work.0, &prepared).await?;
    let _ = progress.send("Packing the image".into()).await;
    let store = inner.images.clone();
    let finished = tokio::task::spawn_blocking(move || prepared.finish(&store)).await;
    finished.map_err(|error| EngineError::internal("packing was cut short", &error))?.map_err(wrong)
}

fn request(asked: &crate::engine::Bootstrap) -> Result<Asked> {
    let (distribution, suite) = asked.source.split_once(':').ok_or_else(|| {
        EngineError::invalid(format!("{:?}: give distribution and suite, for example debian:bookworm", asked.source))
    })?;
    Ok(Asked {
        reference: crate::engine::parse_reference(asked.tag.as_deref().unwrap_or(&asked.source))?,
        distribution: distribution.to_owned(),
        suite: suite.to_owned(),
        include: asked.include.clone(),
    })
}

async fn prepare(request: Asked, work: &Path, progress: mpsc::Sender<String>) -> Result<Prepared> {
    let work = work.to_owned();
    let prepared = tokio::task::spawn_blocking(move || {
        let mut tell = |words: &str| {
            let _ = progress.blocking_send(words.to_owned());
        };
        image::bootstrap::prepare(&request, &work, &mut tell)
    });
    prepared.await.map_err(|error| EngineError::internal("fetching was cut short", &error))?.map_err(wrong)
}

fn wrong(error: image::bootstrap::BootstrapError) -> EngineError {
    use image::bootstrap::BootstrapError as Wrong;
    let asked = matches!(error, Wrong::NoSource { .. } | Wrong::BadName { .. } | Wrong::UnknownPackage { .. });
    let class = if asked { ErrorClass::Invalid } else { ErrorClass::Internal };
    EngineError::new(class, crate::error::chain(&error))
}

/// The work folder goes, whatever happens.
struct Work(PathBuf);

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = crate::sweep::folder(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "cannot remove a work folder");
        }
    }
}

/// Runs the packages' own scripts as root of the new tree, with no network and the usual limits of a container.
async fn configure(inner: &Arc<Inner>, id: &ContainerId, work: &Path, prepared: &Prepared) -> Result<()> {
    let runtime = inner.config.shims().join(id.as_str());
    std::fs::create_dir(&runtime).map_err(|error| EngineError::internal("cannot make a runtime folder", &error))?;
    let outcome = configure_in(inner, id, work, &runtime, prepared).await;
    let _ = crate::sweep::folder(&runtime);
    if outcome.is_err() {
        let _ = crate::sweep::cgroup(&inner.cgroups, &inner.config.cgroup(id));
    }
    outcome
}

async fn configure_in(
    inner: &Arc<Inner>,
    id: &ContainerId,
    work: &Path,
    runtime: &Path,
    prepared: &Prepared,
) -> Result<()> {
    let container = container(id, prepared);
    let mut paths = Config::clone(&inner.config).paths(id);
    paths.runtime = runtime.to_owned();
    crate::files::make_below_etc(&container, &paths, &[])
        .map_err(|error| EngineError::internal("cannot make the container's files", &error))?;
    let around = Surroundings {
        host: &inner.host,
        paths: &paths,
        cgroup: inner.config.cgroup(id),
        user: user::User { uid: 0, gid: 0, groups: Vec::new(), home: "/root".into() },
        joins: Joins::default(),
        devices: Vec::new(),
    };
    let log = work.join("configure.log");
    let create = Create {
        version: control::VERSION,
        id: id.to_string(),
        spec: plan::oci(&container, &around)?,
        rootfs: Rootfs::Directory { path: prepared.root().to_owned() },
        seccomp: inner.seccomp(&container)?,
        netns: false,
        stdio: Stdio { open_stdin: false, stdin_once: false },
        log: LogFile::unbounded(log.clone()).into(),
        exit_file: None,
        runtime_dir: runtime.to_owned(),
        init: true,
        runtime: None,
        restore: None,
    };
    let code = to_the_end(&inner.zygote, create).await?;
    if code == 0 {
        return Ok(());
    }
    Err(EngineError::new(
        ErrorClass::Internal,
        format!("the packages could not be configured (exit code {code}); the last output was:\n{}", last_output(&log)),
    ))
}

fn container(id: &ContainerId, prepared: &Prepared) -> Container {
    let spec = ContainerSpec { hostname: Some("localhost".into()), ..ContainerSpec::default() };
    let process = Process {
        args: prepared.configure_command(),
        env: prepared.configure_env().into_iter().map(|(key, value)| format!("{key}={value}")).collect(),
        cwd: "/".into(),
        user: String::new(),
        stop_signal: 15,
    };
    Container::passing(id.clone(), "bootstrap", spec, process, crate::clock::now_ns())
}

/// Creates, starts, waits, lets go; the exit code.
async fn to_the_end(zygote: &Zygote, create: Create) -> Result<i32> {
    let lost = |error: crate::helper::HelperError| {
        EngineError::because(ErrorClass::Unavailable, "the helper that configures the packages failed", &error)
    };
    let mut helper = zygote.helper().map_err(lost)?;
    helper.send(&Request::Create(Box::new(create)), &[]).await.map_err(lost)?;
    helper.send(&Request::Start, &[]).await.map_err(lost)?;
    loop {
        let Some(frame) = helper.next().await.map_err(lost)? else {
            return Err(EngineError::new(
                ErrorClass::Unavailable,
                "the helper that configures the packages was killed",
            ));
        };
        match frame.body {
            Message::Reply(Reply::Failed(failure)) => {
                return Err(EngineError::because(ErrorClass::Internal, "cannot run the packages' scripts", &failure));
            }
            Message::Event(Event::Exited { process: ProcessId::Init, exit }) => {
                helper.send(&Request::Quit, &[]).await.map_err(lost)?;
                while let Ok(Some(_)) = helper.next().await {}
                return Ok(exit.code);
            }
            _ => {}
        }
    }
}

fn last_output(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let record: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(record.get("log")?.as_str()?.to_owned())
    });
    let all: String = lines.collect();
    let start = all.len().saturating_sub(SHOWN);
    let start = (start..all.len()).find(|at| all.is_char_boundary(*at)).unwrap_or(start);
    all[start..].to_owned()
}
