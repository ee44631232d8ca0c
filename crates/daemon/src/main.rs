//! `insulad`: configuration, wiring, and the order in which things begin and end.
//!
//! ```text
//! arguments ─ one of us only (pid file) ─ engine: state, recovery ─ socket ─ READY=1 ─ serve
//! SIGTERM, SIGINT ─ no new connections ─ state to disk ─ socket and pid file gone ─ exit 0; containers go on
//! ```

mod credential;
mod listen;
mod pidfile;
mod registry;
mod systemd;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use engine::model::IdRange;
use engine::registry::client::{ClientConfig, Trust};
use engine::{Config, Distribution, Engine, KeepBlobs};
use std::io::IsTerminal;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::filter::LevelFilter;

/// The Insula daemon: keeps containers and images, and serves the Docker Engine API on a unix socket.
#[derive(Debug, Parser)]
#[command(name = "insulad", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    /// Folder for what survives a reboot: images, containers, volumes
    #[arg(long, value_name = "DIR", default_value = "/var/lib/insula")]
    root: PathBuf,
    /// Folder for sockets and what else ends with the boot
    #[arg(long, value_name = "DIR", default_value = "/run/insula")]
    run: PathBuf,
    /// Cgroup below which every container gets its own
    #[arg(long, value_name = "PATH", default_value = "/insula")]
    cgroup_parent: String,
    /// How many network namespaces are kept ready; 0 for none
    #[arg(long, value_name = "N", default_value_t = 4)]
    netns_pool: usize,
    /// Ids for containers' user namespaces: off, or the host's first user id, first group id and their number
    #[arg(long, value_name = "off|UID:GID:COUNT", default_value = "off", value_parser = remap)]
    userns_remap: Remap,
    /// The insula-shim program; by default the one beside this program, or in PATH
    #[arg(long, value_name = "PATH")]
    shim: Option<PathBuf>,
    /// What is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,
    /// Group that may use the socket
    #[arg(long, value_name = "NAME")]
    socket_group: Option<String>,
    /// Permission bits of the socket
    #[arg(long, value_name = "MODE", default_value = "0660", value_parser = mode)]
    socket_mode: u32,
    /// Another place with the content of a registry, asked first: docker.io=https://mirror:5000
    #[arg(long, value_name = "REGISTRY=URL", value_parser = mirror)]
    mirror: Vec<(String, String)>,
    /// Registry (host, host:port or a network such as 10.0.0.0/8) that may speak plain HTTP or have any certificate
    #[arg(long, value_name = "REGISTRY")]
    insecure_registry: Vec<String>,
    /// Folder with a folder for each registry that has authorities (*.crt) and client certificates (*.cert, *.key) of its own
    #[arg(long, value_name = "DIR", default_value = "/etc/docker/certs.d")]
    registry_certs: PathBuf,
    /// Whether pulled layers are kept compressed too, so that images go out byte for byte as they came
    #[arg(long, value_name = "yes|no", default_value = "yes", value_parser = keep)]
    keep_compressed: KeepBlobs,
    /// Seconds after the last pull until compressed layers are reduced to what the layers do not have; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    reduce_after: u64,
}

/// What else the program is.
#[derive(Debug, Subcommand)]
enum Other {
    /// A registry server
    #[command(subcommand)]
    Registry(registry::Command),
    /// The user's credentials for registries
    #[command(subcommand)]
    Credential(credential::Command),
}

fn mirror(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(registry, url)| !registry.is_empty() && url.contains("://"));
    let pair = pair.map(|(registry, url)| (registry.to_owned(), url.to_owned()));
    pair.ok_or_else(|| format!("{text:?} is not REGISTRY=URL, such as docker.io=https://mirror:5000"))
}

fn keep(text: &str) -> Result<KeepBlobs, String> {
    match text {
        "yes" => Ok(KeepBlobs::Yes),
        "no" => Ok(KeepBlobs::No),
        _ => Err(format!("{text:?} is neither yes nor no")),
    }
}

#[derive(Debug, Clone, Copy)]
struct Remap(Option<IdRange>);

fn remap(text: &str) -> Result<Remap, String> {
    if text == "off" {
        return Ok(Remap(None));
    }
    let wrong = || format!("{text:?} is neither off nor UID:GID:COUNT, such as 100000:100000:65536");
    let numbers: Vec<u32> = text.split(':').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
    let [first_uid, first_gid, count] = *numbers.as_slice() else { return Err(wrong()) };
    if count == 0 || first_uid.checked_add(count).is_none() || first_gid.checked_add(count).is_none() {
        return Err(format!("the range {text} is empty or goes beyond the largest id"));
    }
    Ok(Remap(Some(IdRange { first_uid, first_gid, count })))
}

fn mode(text: &str) -> Result<u32, String> {
    let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o777);
    bits.ok_or_else(|| format!("{text:?} is no file mode; write it in octal, such as 0660"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_max_level(arguments.log_level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let done = match arguments.other {
        Some(Other::Registry(command)) => registry::run(command),
        Some(Other::Credential(command)) => credential::run(command),
        None => start(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> Result<()> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // before there are threads: descriptors and environment are the process's
    let passed = sys::listen_fds::take().context("cannot take the sockets that systemd passed")?;
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("insulad")
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
        .context("cannot start the threads")?;
    runtime.block_on(serve(arguments, passed))
}

/// Every container costs a few descriptors.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(errno) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%errno, "the limit of open files stays as it is");
    }
}

async fn serve(arguments: Arguments, passed: Vec<std::os::fd::OwnedFd>) -> Result<()> {
    let mut stop_signals = Signals::new()?;
    let run = std::path::absolute(&arguments.run).context("cannot find the working folder")?;
    make_folder(&run)?;
    let pidfile = pidfile::take(&run)?;
    let config = config(&arguments, &run)?;
    let opening = Engine::open(config);
    let engine = tokio::select! {
        engine = opening => engine.context("cannot open the engine")?,
        () = stop_signals.stop() => bail!("stopped before it was ready"),
    };
    let sockets = if passed.is_empty() {
        let place = listen::Place {
            path: run.join("docker.sock"),
            mode: arguments.socket_mode,
            group: arguments.socket_group.as_deref(),
        };
        listen::bind(&place)?
    } else {
        listen::adopt(passed)?
    };
    let (stop, stopped) = watch::channel(false);
    let server = docker_api::Server::new(engine.clone());
    let mut serving = tokio::task::JoinSet::new();
    for listener in sockets.listeners {
        let (server, stopped) = (server.clone(), stopped.clone());
        serving.spawn(async move { server.serve(listener, stopped).await });
    }
    systemd::notify("READY=1");
    tracing::info!(run = %run.display(), root = %arguments.root.display(), "ready");
    let ended = tokio::select! {
        () = stop_signals.stop() => Ok(()),
        Some(ended) = serving.join_next() => ended.context("a server task ended")?.context("cannot accept connections"),
    };
    systemd::notify("STOPPING=1");
    tracing::info!("stopping; containers go on");
    // before the last requests end: new clients shall not wait for a daemon that goes
    drop(sockets.path);
    stop.send_replace(true);
    while serving.join_next().await.is_some() {}
    engine.close().await.context("cannot bring the state to the disk")?;
    drop(pidfile);
    ended
}

fn config(arguments: &Arguments, run: &Path) -> Result<Config> {
    if !arguments.cgroup_parent.starts_with('/') || arguments.cgroup_parent.split('/').any(|part| part == "..") {
        bail!("the cgroup parent {:?} is not an absolute path without ..", arguments.cgroup_parent);
    }
    Ok(Config {
        root: std::path::absolute(&arguments.root).context("cannot find the working folder")?,
        run: run.to_owned(),
        shim: shim(arguments.shim.as_deref())?,
        cgroup_parent: arguments.cgroup_parent.clone(),
        netns_pool: arguments.netns_pool,
        userns: arguments.userns_remap.0,
        distribution: distribution(arguments),
    })
}

fn distribution(arguments: &Arguments) -> Distribution {
    let insecure = arguments.insecure_registry.clone();
    let trust = Trust { certificates: Some(arguments.registry_certs.clone()), insecure };
    let mut client = ClientConfig { trust, ..ClientConfig::default() };
    for (registry, url) in &arguments.mirror {
        client.mirrors.entry(registry.clone()).or_default().push(url.clone());
    }
    let reduce_after = (arguments.reduce_after > 0).then(|| Duration::from_secs(arguments.reduce_after));
    Distribution { client, keep: arguments.keep_compressed, reduce_after }
}

fn make_folder(path: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path);
    made.with_context(|| {
        format!("cannot make the folder {}; run as root, or give another one with --run", path.display())
    })
}

/// The helper program: as told, beside this program, or in PATH.
fn shim(told: Option<&Path>) -> Result<PathBuf> {
    const NAME: &str = "insula-shim";
    if let Some(path) = told {
        let path = std::path::absolute(path).context("cannot find the working folder")?;
        if !path.is_file() {
            bail!("there is no program {}; give the path of insula-shim with --shim", path.display());
        }
        return Ok(path);
    }
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join(NAME)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join(NAME));
    let found = beside.into_iter().chain(in_path).find(|candidate| candidate.is_file());
    found.context("cannot find insula-shim beside insulad or in PATH; give its path with --shim")
}

/// The signals that end the daemon, and one that shall not.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// Held so that a closed terminal does not take the daemon along.
    _hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            _hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn ranges_and_modes_are_checked() {
        assert!(remap("off").unwrap().0.is_none());
        let range = remap("100000:200000:65536").unwrap().0.unwrap();
        assert_eq!((range.first_uid, range.first_gid, range.count), (100_000, 200_000, 65_536));
        for bad in ["", "1", "1:2", "1:2:3:4", "a:b:c", "0:0:0", "4294967295:0:2"] {
            assert!(remap(bad).is_err(), "{bad}");
        }
        assert_eq!(mode("0660"), Ok(0o660));
        assert_eq!(mirror("docker.io=https://m:5").unwrap().1, "https://m:5");
        assert!(mirror("docker.io").is_err() && mirror("=https://m").is_err() && mirror("a=m").is_err());
        assert!(keep("perhaps").is_err());
        assert!(mode("9").is_err() && mode("7777").is_err());
    }
}
