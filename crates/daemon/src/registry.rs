//! `insulad registry`: a registry of its own, in a process of its own.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use engine::registry::client::{Client, ClientConfig, Credentials};
use engine::registry::server::{Config, Server, TlsFiles, Upstream};
use engine::registry::storage::{Collection, DEFAULT_GRACE, Storage, Untagged};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;

/// What to do with a registry.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a registry until it is told to stop
    Serve(Serve),
    /// Remove what no manifest needs from a registry that is not being served
    Gc(Collect),
}

/// How a registry is served.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5000")]
    listen: SocketAddr,
    /// Folder that all is kept in
    #[arg(long, value_name = "DIR", default_value = "/var/lib/insula/registry")]
    root: PathBuf,
    /// Certificate in PEM form, with those that lead to its authority: serve HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key in PEM form
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Users and their bcrypt digests, as `htpasswd -B` writes them; everybody without
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// Be a cache of this registry, such as docker.io or host:5000; nothing can be pushed then
    #[arg(long, value_name = "UPSTREAM")]
    proxy: Option<String>,
    /// Hours between collections of garbage; 0 for none
    #[arg(long, value_name = "HOURS", default_value_t = 12)]
    gc_hours: u64,
    /// Collections remove manifests without a tag, too
    #[arg(long)]
    gc_untagged: bool,
}

/// How garbage is collected.
#[derive(Debug, clap::Args)]
pub(crate) struct Collect {
    /// The registry's folder
    #[arg(long, value_name = "DIR", default_value = "/var/lib/insula/registry")]
    root: PathBuf,
    /// Remove manifests without a tag, too
    #[arg(long)]
    untagged: bool,
    /// Spare what is younger than this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_GRACE.as_secs())]
    grace: u64,
}

fn untagged(remove: bool) -> Collection {
    let untagged = if remove { Untagged::Remove } else { Untagged::Keep };
    Collection { untagged, ..Collection::default() }
}

pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Serve(how) => {
            super::raise_descriptor_limit();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.context("cannot start the threads")?.block_on(serve(how))
        }
        Command::Gc(how) => collect(&how.root, Duration::from_secs(how.grace), untagged(how.untagged)),
    }
}

async fn serve(how: Serve) -> Result<()> {
    let mut stop_signals = super::Signals::new()?;
    let mut config = Config::new(how.listen, how.root.clone());
    config.tls = how.tls_cert.zip(how.tls_key).map(|(certificate, key)| TlsFiles { certificate, key, clients: None });
    config.htpasswd = how.htpasswd;
    let collection = untagged(how.gc_untagged);
    config.collect = (how.gc_hours > 0).then(|| (Duration::from_secs(how.gc_hours * 3600), collection));
    config.proxy = how.proxy.map(|domain| {
        let client = Client::new(ClientConfig::default(), Credentials::of_user());
        Upstream { domain, client }
    });
    let server = Server::bind(config).await.context("cannot serve the registry")?;
    let address = server.address().context("cannot serve the registry")?;
    // for scripts that asked for any port
    println!("{address}");
    tracing::info!(%address, root = %how.root.display(), "serving a registry");
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(server.run(stopped));
    stop_signals.stop().await;
    stop.send_replace(true);
    serving.await.context("the server ended")?.context("the registry failed")
}

fn collect(root: &Path, grace: Duration, how: Collection) -> Result<()> {
    if !root.is_dir() {
        bail!("there is no registry in {}; name its folder with --root", root.display());
    }
    let storage = Storage::open(root, grace).context("cannot open the registry; stop its server first")?;
    let done = storage.collect(how).context("cannot collect the garbage")?;
    let (manifests, blobs, bytes) = (done.manifests, done.blobs, done.bytes);
    println!("removed {manifests} manifests, {blobs} blobs ({bytes} bytes), {} uploads", done.uploads);
    Ok(())
}
