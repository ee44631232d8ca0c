//! `insulad`: configuration, wiring, and the order in which things begin and end.
//!
//! ```text
//! settings ─ one of us only (pid file) ─ engine: state, recovery ─ sockets ─ READY=1 ─ serve
//! SIGHUP: the settings are read again; what a running daemon can change, changes
//! SIGUSR2: the program is executed anew, with the sockets: no client finds nobody
//! SIGTERM, SIGINT ─ no new connections ─ state to disk ─ sockets and pid file gone ─ exit 0; containers go on
//! ```

mod config;
mod credential;
mod dial;
mod listen;
mod pidfile;
mod registry;
mod systemd;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use config::{Flags, Resolved};
use docker_api::{Server, Tls};
use engine::{Config, Engine};
use listen::Sockets;
use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// How the present level of the log is changed.
type Level = reload::Handle<LevelFilter, Registry>;

/// How long what is at work on threads of its own may hold up the daemon's end.
const FAREWELL: Duration = Duration::from_secs(5);

/// The Insula daemon: keeps containers and images, and serves the Docker Engine API on a unix socket.
#[derive(Debug, Parser)]
#[command(name = "insulad", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    flags: Flags,
    /// As --version
    #[arg(short = 'v', action = clap::ArgAction::Version, hide = true)]
    short_version: Option<bool>,
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
    /// A TLS connection to a daemon elsewhere, for the command line
    Dial(dial::Dial),
}

/// How serving ended.
enum Ended {
    Stopped,
    /// The program is to be executed anew, with these sockets.
    Anew(Vec<OwnedFd>),
}

/// How long nobody asks for anything before what the last answers took is given back.
const QUIET: Duration = Duration::from_secs(10);

/// Layers on their way go through blocks of this size and more.
const LARGE_BLOCK: usize = 256 << 10;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = start_log();
    sys::process::free_at_once_from(LARGE_BLOCK);
    let done = match arguments.other {
        Some(Other::Registry(command)) => registry::run(command),
        Some(Other::Credential(command)) => credential::run(command),
        Some(Other::Dial(dial)) => dial::run(dial),
        None => start(&arguments.flags, &level),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_log() -> Level {
    let (filter, level) = reload::Layer::new(LevelFilter::INFO);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    level
}

fn start(flags: &Flags, level: &Level) -> Result<()> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // before there are threads: descriptors and environment are the process's
    let passed = sys::listen_fds::take().context("cannot take the sockets that systemd passed")?;
    let program = std::env::current_exe();
    let settings = flags.resolve()?;
    if flags.validate {
        settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        settings.tls.clone().map(Tls::load).transpose().context("cannot use the TLS files")?;
        println!("configuration OK");
        return Ok(());
    }
    settings.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    level.reload(settings.log_level).context("cannot set the log's level")?;
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("insulad")
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
        .context("cannot start the threads")?;
    let ended = runtime.block_on(serve(flags, settings, level, passed))?;
    runtime.shutdown_timeout(FAREWELL);
    match ended {
        Ended::Stopped => Ok(()),
        Ended::Anew(sockets) => Err(execute(&program.context("cannot find this program")?, sockets)),
    }
}

/// Executes the program, which may be another one by now, in this process; returns only if that fails.
fn execute(program: &Path, sockets: Vec<OwnedFd>) -> anyhow::Error {
    let count = sockets.len();
    if let Err(error) = sys::listen_fds::pass(sockets) {
        return anyhow::Error::new(error).context("cannot pass the sockets on");
    }
    let mut command = std::process::Command::new(program);
    command.args(std::env::args_os().skip(1)).env("LISTEN_FDS", count.to_string());
    let error = command.env("LISTEN_PID", std::process::id().to_string()).env(listen::OWN_SOCKETS, "1").exec();
    anyhow::Error::new(error).context(format!("cannot execute {}", program.display()))
}

/// Every container costs a few descriptors.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(errno) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%errno, "the limit of open files stays as it is");
    }
}

async fn serve(flags: &Flags, settings: Resolved, level: &Level, passed: Vec<OwnedFd>) -> Result<Ended> {
    let mut signals = Signals::new()?;
    make_folder(&settings.run)?;
    let pidfile = pidfile::take(&settings.run, settings.pidfile.as_deref())?;
    let tls = settings.tls.clone().map(Tls::load).transpose().context("cannot use the TLS files")?;
    let opening = Engine::open(engine_config(flags, &settings)?);
    let engine = tokio::select! {
        engine = opening => engine.context("cannot open the engine")?,
        () = signals.stop() => bail!("stopped before it was ready"),
    };
    let sockets = Sockets::open(&settings, tls.as_ref(), passed).await?;
    let (stop, stopped) = watch::channel(false);
    let server = Server::with_settings(engine.clone(), settings.settings.clone());
    let mut serving = JoinSet::new();
    let tidying = tokio::spawn(give_memory_back(server.answers()));
    for listener in sockets.listeners {
        let (server, stopped) = (server.clone(), stopped.clone());
        serving.spawn(async move { server.serve(listener, stopped).await });
    }
    if let Some(address) = &settings.metrics {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("cannot serve metrics on {address}"))?;
        let at = listener.local_addr().context("cannot serve metrics")?;
        tracing::info!(address = %at, "serving metrics");
        let (server, stopped) = (server.clone(), stopped.clone());
        serving.spawn(async move { server.serve_metrics(listener, stopped).await });
    }
    systemd::notify("READY=1");
    tracing::info!(run = %settings.run.display(), root = %settings.root.display(), "ready");
    let mut present = settings;
    let (ended, how) = loop {
        tokio::select! {
            how = signals.next() => match how {
                Told::Reload => {
                    present = reload(flags, present, level, &server, tls.as_ref());
                    engine.set_runtimes(present.runtimes.clone());
                    engine.set_distribution(&present.distribution);
                }
                told => break (Ok(()), told),
            },
            Some(ended) = serving.join_next() => {
                let ended = ended.context("a server task ended")?.context("cannot accept connections");
                break (ended, Told::Stop);
            }
        }
    };
    let anew = matches!(how, Told::Anew);
    if anew {
        systemd::notify("RELOADING=1");
        tracing::info!("executing the program anew; containers go on");
        sockets.files.into_iter().for_each(listen::SocketFile::leave);
    } else {
        systemd::notify("STOPPING=1");
        tracing::info!("stopping; containers go on");
        // before the last requests end: new clients shall not wait for a daemon that goes
        drop(sockets.files);
    }
    stop.send_replace(true);
    tidying.abort();
    while serving.join_next().await.is_some() {}
    engine.close().await.context("cannot bring the state to the disk")?;
    drop(pidfile);
    ended.map(|()| if anew { Ended::Anew(sockets.spare) } else { Ended::Stopped })
}

/// Reads the settings again and changes what can be changed while it runs; what is in force now.
fn reload(flags: &Flags, present: Resolved, level: &Level, server: &Server, tls: Option<&Tls>) -> Resolved {
    let fresh = match flags.resolve() {
        Ok(fresh) => fresh,
        Err(error) => {
            tracing::error!("the settings stay as they are: {error:#}");
            return present;
        }
    };
    let fixed = present.fixed_differences(&fresh);
    if !fixed.is_empty() {
        tracing::warn!("these settings change only with a new start: {}", fixed.join(", "));
    }
    if let Some(Err(error)) = tls.map(Tls::reload) {
        tracing::error!("the certificate stays as it is: {:#}", anyhow::Error::new(error));
    }
    if level.reload(fresh.log_level).is_err() {
        tracing::error!("the log's level stays as it is");
    }
    for warning in fresh.warnings.iter().filter(|warning| !present.warnings.contains(warning)) {
        tracing::warn!("{warning}");
    }
    server.change(fresh.settings.clone());
    tracing::info!("the settings were read again");
    let Resolved { settings, log_level, runtimes, distribution, warnings, .. } = fresh;
    Resolved { settings, log_level, runtimes, distribution, warnings, ..present }
}

fn engine_config(flags: &Flags, settings: &Resolved) -> Result<Config> {
    Ok(Config {
        root: settings.root.clone(),
        run: settings.run.clone(),
        shim: program("insula-shim", "--shim", flags.shim.as_deref())?,
        netd: program("insula-netd", "--netd", flags.netd.as_deref())?,
        network: settings.network.clone(),
        cgroup_parent: settings.cgroup_parent.clone(),
        netns_pool: settings.netns_pool,
        userns: settings.userns,
        cdi_folders: settings.cdi_folders.clone(),
        runtimes: settings.runtimes.clone(),
        cache_bytes: settings.cache_bytes,
        distribution: settings.distribution.clone(),
    })
}

/// Gives memory back whenever the daemon has come to rest: most of it were buffers of what was asked, and code that ran once.
async fn give_memory_back(mut answers: watch::Receiver<u64>) {
    loop {
        tokio::time::sleep(QUIET).await;
        if matches!(answers.has_changed(), Ok(true)) {
            answers.mark_unchanged();
            continue;
        }
        // a thread of its own, as looking through the heap may take some milliseconds
        let _ = tokio::task::spawn_blocking(sys::process::trim_memory).await;
        if answers.changed().await.is_err() {
            return;
        }
    }
}

fn make_folder(path: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path);
    made.with_context(|| {
        format!("cannot make the folder {}; run as root, or give another one with --run", path.display())
    })
}

/// A helper program: as told, beside this program, or in PATH.
fn program(name: &str, flag: &str, told: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = told {
        let path = std::path::absolute(path).context("cannot find the working folder")?;
        if !path.is_file() {
            bail!("there is no program {}; give the path of {name} with {flag}", path.display());
        }
        return Ok(path);
    }
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join(name)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join(name));
    let found = beside.into_iter().chain(in_path).find(|candidate| candidate.is_file());
    found.with_context(|| format!("cannot find {name} beside insulad or in PATH; give its path with {flag}"))
}

/// What a signal tells the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Stop,
    Reload,
    Anew,
}

/// The signals that the daemon hears.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    user: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            user: listen(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hangup.recv() => Told::Reload,
            _ = self.user.recv() => Told::Anew,
        }
    }

    async fn stop(&mut self) {
        while self.next().await != Told::Stop {}
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
}
