//! `insulad dial`: standard input, a stream socket, as a TLS connection to a daemon elsewhere, for the command line, which
//! links no cryptography. It runs as the user, not in the daemon.

use anyhow::{Context, Result, bail};
use clap::Args;
use engine::registry::client::dial::{Tls, connect};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Where to, and whom to trust there.
#[derive(Debug, Args)]
pub(crate) struct Dial {
    /// The host
    host: String,
    /// The port
    port: u16,
    /// The authority of its certificate, in PEM form; by default the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Our certificate, in PEM form
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key, in PEM form
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Take any certificate
    #[arg(long)]
    insecure: bool,
}

pub(crate) fn run(dial: Dial) -> Result<()> {
    let stream = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot wait for events")?.block_on(carry(dial, stream))
}

async fn carry(dial: Dial, stream: OwnedFd) -> Result<()> {
    let stream = UnixStream::from(stream);
    if stream.local_addr().is_err() {
        bail!("standard input is no socket; the command line runs this program");
    }
    stream.set_nonblocking(true).context("standard input")?;
    let mut stream = tokio::net::UnixStream::from_std(stream).context("standard input is no socket")?;
    let (host, port) = (dial.host, dial.port);
    let tls = Tls { authority: dial.ca, certificate: dial.cert.zip(dial.key), insecure: dial.insecure };
    let there = connect(&host, port, &tls).await.map_err(anyhow::Error::from_boxed);
    let mut there = there.with_context(|| format!("cannot connect to tcp://{host}:{port}"))?;
    // either may end in the middle; whoever reads sees it
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
    Ok(())
}
