//! The ways to a daemon: a socket of this host, TCP with or without TLS, or a shell on another host.
//!
//! All of them end in a stream socket. TLS is spoken by `insulad dial`, which is beside this program for the same reason as it
//! keeps credentials: this program links no cryptography. What leads through ssh is its standard input and output.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::daemon;
use crate::failure::Failure;

/// The ports that are meant where none is given, without and with TLS.
const PORTS: (u16, u16) = (2375, 2376);

/// Where a daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A socket of this host.
    Unix(PathBuf),
    /// A port.
    Tcp { host: String, port: u16, tls: Option<Tls> },
    /// The words behind `ssh`, with which a program there reaches its daemon.
    Ssh { host: String, words: Vec<String> },
}

/// How TLS is spoken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tls {
    /// The authority of the daemon's certificate; the system's where there is none.
    pub(crate) authority: Option<PathBuf>,
    /// Our certificate and its key.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
    /// Whether any certificate of the daemon's is taken.
    pub(crate) trust: Trust,
}

/// Whose certificates are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Trust {
    /// Those that the authority has signed for the host.
    #[default]
    Verified,
    /// Anybody's.
    Anybody,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(out, "{}", path.display()),
            Self::Tcp { host, port, .. } if host.contains(':') => write!(out, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(out, "tcp://{host}:{port}"),
            Self::Ssh { host, .. } => write!(out, "ssh://{host}"),
        }
    }
}

impl Endpoint {
    /// Reads `unix:///path`, a path, a folder with `docker.sock` in it, `tcp://host:port` or `ssh://user@host:port/path`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(host: &str, tls: Option<Tls>) -> Result<Self, Failure> {
        let bad = |why: &str| {
            Failure::new(format!(
                "cannot talk to host {host:?}: {why}; give unix:///path/to/docker.sock, tcp://host:port or ssh://user@host"
            ))
        };
        match host.split_once("://") {
            Some(("tcp" | "http" | "https", address)) => {
                let address = address.trim_end_matches('/');
                let usual = if tls.is_some() { PORTS.1 } else { PORTS.0 };
                let (name, port) = split_port(address).ok_or_else(|| bad("its port is no number"))?;
                let name = if name.is_empty() { "localhost" } else { name };
                Ok(Self::Tcp { host: name.to_owned(), port: port.unwrap_or(usual), tls })
            }
            Some(("ssh", address)) => ssh(address).ok_or_else(|| bad("it names no host, or its port is no number")),
            Some(("unix", "")) | None if host.is_empty() || host.starts_with("unix") => Err(bad("it names no socket")),
            Some(("unix", path)) => Ok(Self::Unix(socket(path))),
            Some((scheme, _)) => Err(bad(&format!("{scheme} is not supported"))),
            None => Ok(Self::Unix(socket(host))),
        }
    }

    /// A stream to the daemon.
    ///
    /// # Errors
    /// What connecting, or starting the program that leads there, says.
    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        match self {
            Self::Unix(path) => UnixStream::connect(path),
            Self::Tcp { host, port, tls: None } => {
                let stream = TcpStream::connect((host.as_str(), *port))?;
                // questions are short, and each waits for its answer
                let _ = stream.set_nodelay(true);
                // only what all stream sockets can do is asked of it
                Ok(UnixStream::from(OwnedFd::from(stream)))
            }
            Self::Tcp { host, port, tls: Some(tls) } => {
                let mut program = Command::new(daemon::find_program());
                program.arg("dial").args(tls_words(tls)).arg(host).arg(port.to_string());
                through(program)
            }
            Self::Ssh { words, .. } => {
                let mut program = Command::new("ssh");
                program.args(words);
                through(program)
            }
        }
    }

    /// The socket, if it is one of this host.
    pub(crate) fn socket(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            _ => None,
        }
    }
}

fn tls_words(tls: &Tls) -> Vec<std::ffi::OsString> {
    let mut words = Vec::new();
    if let Some(authority) = &tls.authority {
        words.extend(["--ca".into(), authority.into()]);
    }
    if let Some((certificate, key)) = &tls.certificate {
        words.extend(["--cert".into(), certificate.into(), "--key".into(), key.into()]);
    }
    if tls.trust == Trust::Anybody {
        words.push("--insecure".into());
    }
    words
}

/// A program's standard input and output as one stream. It ends when the stream does.
fn through(mut program: Command) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let input = OwnedFd::from(theirs.try_clone()?);
    program.stdin(Stdio::from(input)).stdout(Stdio::from(OwnedFd::from(theirs))).stderr(Stdio::inherit());
    program.spawn().map_err(|error| {
        let name = program.get_program().to_string_lossy().into_owned();
        io::Error::new(error.kind(), format!("cannot run {name}: {error}"))
    })?;
    Ok(ours)
}

fn socket(path: &str) -> PathBuf {
    let path = super::absolute(Path::new(path));
    if path.is_dir() { path.join("docker.sock") } else { path }
}

/// A host and its port: `host`, `host:1`, `[::1]:1`; `None` for a port that is no number.
fn split_port(address: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok()?)),
        _ => (address, None),
    };
    Some((host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port))
}

/// `[user@]host[:port][/path of the socket there]`.
fn ssh(address: &str) -> Option<Endpoint> {
    let (place, path) = match address.split_once('/') {
        Some((place, "")) => (place, None),
        Some((place, path)) => (place, Some(format!("/{path}"))),
        None => (address, None),
    };
    let (user, rest) = place.rsplit_once('@').map_or((None, place), |(user, rest)| (Some(user), rest));
    let (host, port) = split_port(rest)?;
    // a name with a dash in front would be an option of ssh's
    if host.is_empty() || host.starts_with('-') || user.is_some_and(|user| user.is_empty() || user.starts_with('-')) {
        return None;
    }
    let mut words = vec!["-o".to_owned(), "ConnectTimeout=30".to_owned(), "-T".to_owned()];
    if let Some(user) = user {
        words.extend(["-l".to_owned(), user.to_owned()]);
    }
    if let Some(port) = port {
        words.extend(["-p".to_owned(), port.to_string()]);
    }
    words.extend(["--".to_owned(), host.to_owned(), "insula".to_owned()]);
    if let Some(path) = path {
        words.extend(["--host".to_owned(), quoted(&format!("unix://{path}"))]);
    }
    words.extend(["system".to_owned(), "dial-stdio".to_owned()]);
    Some(Endpoint::Ssh { host: place.to_owned(), words })
}

/// A word as the shell on the other side reads it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read() {
        let check = |host: &str, shown: &str| assert_eq!(Endpoint::parse(host, None).unwrap().to_string(), shown);
        check("unix:///a/b.sock", "/a/b.sock");
        check("/a/b.sock", "/a/b.sock");
        check("unix:///tmp", "/tmp/docker.sock");
        check("tcp://1.2.3.4:99", "tcp://1.2.3.4:99");
        check("tcp://box", "tcp://box:2375");
        check("tcp://[::1]:4/", "tcp://[::1]:4");
        check("tcp://:5", "tcp://localhost:5");
        check("ssh://me@box:22/run/x.sock", "ssh://me@box:22");
        let secure = Endpoint::parse("tcp://box", Some(Tls::default())).unwrap();
        assert_eq!(secure.to_string(), "tcp://box:2376");
        for bad in ["", "unix://", "tcp://a:b", "npipe:////./pipe/x", "ssh://", "ssh://-oProxyCommand=x", "ssh://-l@x"]
        {
            assert!(Endpoint::parse(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_shell_elsewhere_is_asked_in_its_own_words() {
        let Endpoint::Ssh { words, .. } = Endpoint::parse("ssh://me@box:2222/it's", None).unwrap() else { panic!() };
        let line = words.join(" ");
        let expect = "-o ConnectTimeout=30 -T -l me -p 2222 -- box insula --host 'unix:///it'\\''s' system dial-stdio";
        assert_eq!(line, expect);
    }
}
