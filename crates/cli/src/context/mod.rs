//! Where the daemon is: from the options before the command's name, the environment, and the defaults.

use std::env;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

const DEFAULT_ROOT: &str = "/var/lib/insula";
const DEFAULT_RUN: &str = "/run/insula";

/// Whether the daemon is ours to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// The socket in the run folder: a daemon may be started for it.
    Local,
    /// A socket that was named: whoever named it cares for it.
    Named,
}

/// What every command needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The daemon's state folder.
    pub(crate) root: PathBuf,
    /// The folder of its sockets.
    pub(crate) run: PathBuf,
    /// The socket to talk to.
    pub(crate) socket: PathBuf,
    /// Whether the daemon behind it is ours to start.
    pub(crate) ownership: Ownership,
    /// Whether requests are shown.
    pub(crate) debug: bool,
}

/// The options before the command's name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Globals {
    pub(crate) host: Option<String>,
    pub(crate) root: Option<String>,
    pub(crate) run: Option<String>,
    pub(crate) debug: bool,
    pub(crate) help: bool,
    pub(crate) version: bool,
}

impl Globals {
    /// Reads the options before the command's name; the rest of the words is returned.
    ///
    /// # Errors
    /// An unknown option, or one without its value.
    pub(crate) fn split(words: &[String]) -> Result<(Self, &[String]), String> {
        let mut globals = Self::default();
        let mut rest = words;
        while let [word, tail @ ..] = rest {
            let (name, inline) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            if !name.starts_with('-') {
                break;
            }
            rest = tail;
            match name {
                "--debug" | "-D" => globals.debug = true,
                "--help" | "-h" => globals.help = true,
                "--version" | "-v" => globals.version = true,
                "--host" | "-H" | "--root" | "--run" | "--config" => {
                    let value = match (inline, rest) {
                        (Some(value), _) => value,
                        (None, [value, tail @ ..]) => {
                            rest = tail;
                            value.clone()
                        }
                        (None, []) => return Err(format!("option {name} needs a value")),
                    };
                    match name {
                        "--root" => globals.root = Some(value),
                        "--run" => globals.run = Some(value),
                        // Accepted for scripts that name a folder of client settings; there are none to read.
                        "--config" => {}
                        _ => globals.host = Some(value),
                    }
                }
                other => return Err(format!("unknown option {other:?} before the command")),
            }
        }
        Ok((globals, rest))
    }

    /// Fills in the environment and the defaults.
    ///
    /// # Errors
    /// [`Failure`] if the host is no unix socket.
    pub(crate) fn context(self) -> Result<Context, Failure> {
        let folder = |given: Option<String>, variable: &str, default: &str| {
            let value = given.or_else(|| env::var(variable).ok().filter(|value| !value.is_empty()));
            absolute(Path::new(value.as_deref().unwrap_or(default)))
        };
        let named_run = self.run.is_some();
        let run = folder(self.run, "INSULA_RUN", DEFAULT_RUN);
        let root = folder(self.root, "INSULA_ROOT", DEFAULT_ROOT);
        // A run folder on the command line is nearer than a host in the environment.
        let inherited = if named_run { None } else { env::var("INSULA_HOST").ok().filter(|value| !value.is_empty()) };
        let ours = run.join("docker.sock");
        let (socket, ownership) = match self.host.or(inherited) {
            None => (ours, Ownership::Local),
            Some(host) => match socket_of(&host)? {
                path if path == ours => (path, Ownership::Local),
                path => (path, Ownership::Named),
            },
        };
        Ok(Context { root, run, socket, ownership, debug: self.debug })
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The socket that a host names: `unix:///path`, a path, or a folder with `docker.sock` in it.
fn socket_of(host: &str) -> Result<PathBuf, Failure> {
    let path = match host.split_once("://") {
        Some(("unix", path)) => path,
        Some((scheme, _)) => {
            let text =
                format!("cannot talk to host {host:?}: {scheme} is not supported; give unix:///path/to/docker.sock");
            return Err(Failure::new(text));
        }
        None => host,
    };
    if path.is_empty() {
        return Err(Failure::new(format!("host {host:?} names no socket; give unix:///path/to/docker.sock")));
    }
    let path = absolute(Path::new(path));
    Ok(if path.is_dir() { path.join("docker.sock") } else { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_before_the_command_are_split_off() {
        let line = words("-H unix:///a/b.sock --root=/s --debug run -H x");
        let (globals, rest) = Globals::split(&line).unwrap();
        assert_eq!(globals.host.as_deref(), Some("unix:///a/b.sock"));
        assert_eq!(globals.root.as_deref(), Some("/s"));
        assert!(globals.debug);
        assert_eq!(rest, words("run -H x"));
        assert_eq!(
            Globals::split(&words("--nonsense ps")).unwrap_err(),
            "unknown option \"--nonsense\" before the command"
        );
        assert_eq!(Globals::split(&words("-H")).unwrap_err(), "option -H needs a value");
    }

    #[test]
    fn hosts_are_sockets() {
        assert_eq!(socket_of("unix:///a/b.sock").unwrap(), Path::new("/a/b.sock"));
        assert_eq!(socket_of("/a/b.sock").unwrap(), Path::new("/a/b.sock"));
        assert_eq!(socket_of("unix:///tmp").unwrap(), Path::new("/tmp/docker.sock"));
        assert!(socket_of("tcp://1.2.3.4:2375").unwrap_err().text().contains("tcp is not supported"));
        assert!(socket_of("unix://").is_err());
    }
}
