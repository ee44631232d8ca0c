//! Where the daemon listens, and who may connect.

use super::lists;
use anyhow::{Context, Result, bail};
use engine::registry::server::TlsFiles;
use std::path::PathBuf;

/// Another place to listen at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Unix(PathBuf),
    /// Address and port.
    Tcp(String),
}

impl Host {
    pub(super) fn parse(text: &str, default_port: u16) -> Result<Self> {
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("tcp", address)) => {
                let address = address.trim_end_matches('/');
                let (host, port) = match address.rsplit_once(':') {
                    Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
                    _ => (address, Some(default_port)),
                };
                let port: u16 = port.with_context(|| format!("host {text:?} has no port that is a number"))?;
                Ok(Self::Tcp(format!("{}:{port}", if host.is_empty() { "0.0.0.0" } else { host })))
            }
            _ => bail!("host {text:?} is neither unix:///PATH nor tcp://ADDRESS:PORT"),
        }
    }
}

/// All of it.
pub(super) struct Listen {
    pub(super) hosts: Vec<Host>,
    pub(super) tls: Option<TlsFiles>,
    /// TCP without TLS was asked for in so many words.
    pub(super) open: bool,
}

impl Listen {
    /// From the hosts of the command line and of the file, and what both say of TLS.
    pub(super) fn of(
        (flags, file): (Vec<String>, Vec<String>),
        on: Option<bool>,
        verify: Option<bool>,
        files: [(&str, Option<PathBuf>); 3],
    ) -> Result<Self> {
        let tls = tls(on, verify, files)?;
        let port = if tls.is_some() { 2376 } else { 2375 };
        let hosts = lists("hosts", flags, file)?;
        let hosts = hosts.iter().map(|host| Host::parse(host, port)).collect::<Result<Vec<_>>>()?;
        let open = tls.is_none() && (on == Some(false) || verify == Some(false));
        if !open && tls.is_none() && hosts.iter().any(|host| matches!(host, Host::Tcp(_))) {
            bail!(
                "whoever reaches a TCP port without TLS is root on this host: give --tlsverify with --tlscacert, --tlscert \
                 and --tlskey, or say --tls=false if that is what you want"
            );
        }
        Ok(Self { hosts, tls, open })
    }
}

fn tls(
    on: Option<bool>,
    verify: Option<bool>,
    [authority, certificate, key]: [(&str, Option<PathBuf>); 3],
) -> Result<Option<TlsFiles>> {
    let wanted = verify.or(on).unwrap_or(false);
    if !wanted {
        return Ok(None);
    }
    let needed = |(name, path): (&str, Option<PathBuf>)| {
        path.with_context(|| format!("TLS needs --{name}, the path of a PEM file"))
    };
    let clients = if verify == Some(true) { Some(needed(authority)?) } else { None };
    Ok(Some(TlsFiles { certificate: needed(certificate)?, key: needed(key)?, clients }))
}
