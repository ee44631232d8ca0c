//! Where the daemon is: from the options before the command's name, the environment, docker's contexts, and the defaults.
//!
//! The nearest counts: `--host`, `--context`, `--run`, `INSULA_HOST`, `DOCKER_HOST`, `DOCKER_CONTEXT`, the current context, the socket in the
//! run folder.

pub(crate) mod command;
pub(crate) mod endpoint;
mod store;

use std::env;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use endpoint::{Endpoint, Tls, Trust};
use store::Store;

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
    /// Where to talk to it.
    pub(crate) endpoint: Endpoint,
    /// The name of docker's context that says so, or `default`.
    pub(crate) name: String,
    /// Docker's folder of settings, where contexts are.
    store: Option<Store>,
    /// Whether the daemon behind it is ours to start.
    pub(crate) ownership: Ownership,
    /// Whether requests are shown.
    pub(crate) debug: bool,
}

impl Context {
    /// Docker's folder of settings, if there can be one.
    pub(crate) fn settings_folder(&self) -> Option<&Path> {
        self.store.as_ref().map(Store::folder)
    }
}

/// The options before the command's name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Globals {
    pub(crate) host: Option<String>,
    pub(crate) context: Option<String>,
    pub(crate) config: Option<String>,
    pub(crate) tls: TlsOptions,
    pub(crate) root: Option<String>,
    pub(crate) run: Option<String>,
    pub(crate) debug: bool,
    pub(crate) help: bool,
    pub(crate) version: bool,
}

/// The options about TLS.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsOptions {
    on: Option<bool>,
    verify: Option<bool>,
    authority: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl TlsOptions {
    /// Takes a switch; false if it is none of these.
    fn switch(&mut self, name: &str, value: Option<&str>) -> Result<bool, String> {
        let on = || match value.unwrap_or("true") {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => Err(format!("option {name} is true or false, not {other:?}")),
        };
        match name {
            "--tls" => self.on = Some(on()?),
            "--tlsverify" => self.verify = Some(on()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What they and the environment say; files that are not named are those in the folder of certificates, if they are there.
    fn resolve(self, folder: Option<&Path>) -> Option<Tls> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let verify = self.verify.unwrap_or_else(|| set("DOCKER_TLS_VERIFY").is_some());
        let on = self.on.unwrap_or_else(|| set("DOCKER_TLS").is_some());
        if !verify && !on {
            return None;
        }
        let folder = set("DOCKER_CERT_PATH").map(PathBuf::from).or_else(|| folder.map(Path::to_owned));
        let file = |given: Option<String>, usual: &str| {
            let given = given.map(|path| absolute(Path::new(&path)));
            given.or_else(|| folder.as_ref().map(|folder| folder.join(usual)).filter(|path| path.is_file()))
        };
        Some(Tls {
            authority: file(self.authority, "ca.pem"),
            certificate: file(self.certificate, "cert.pem").zip(file(self.key, "key.pem")),
            trust: if verify { Trust::Verified } else { Trust::Anybody },
        })
    }
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
                _ if globals.tls.switch(name, inline.as_deref())? => {}
                "--host" | "-H" | "--root" | "--run" | "--config" | "--context" | "-c" | "--tlscacert"
                | "--tlscert" | "--tlskey" => {
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
                        "--config" => globals.config = Some(value),
                        "--context" | "-c" => globals.context = Some(value),
                        "--tlscacert" => globals.tls.authority = Some(value),
                        "--tlscert" => globals.tls.certificate = Some(value),
                        "--tlskey" => globals.tls.key = Some(value),
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
    /// [`Failure`] for a host that cannot be read, and for a context that is not there.
    pub(crate) fn context(self) -> Result<Context, Failure> {
        let set = |variable: &str| env::var(variable).ok().filter(|value| !value.is_empty());
        let folder = |given: Option<String>, variable: &str, default: &str| {
            absolute(Path::new(given.or_else(|| set(variable)).as_deref().unwrap_or(default)))
        };
        if self.host.is_some() && self.context.is_some() {
            return Err(Failure::new("conflicting options: cannot specify both --host and --context"));
        }
        let named_run = self.run.is_some();
        let run = folder(self.run, "INSULA_RUN", DEFAULT_RUN);
        let root = folder(self.root, "INSULA_ROOT", DEFAULT_ROOT);
        let settings = self.config.map(|folder| absolute(Path::new(&folder)));
        let store = settings.map(|folder| Store::at(&folder)).or_else(Store::of_user);
        // A run folder on the command line is nearer than a host in the environment.
        let inherited = || if named_run { None } else { set("INSULA_HOST").or_else(|| set("DOCKER_HOST")) };
        let host = self.host.or_else(|| if self.context.is_some() { None } else { inherited() });
        let chosen = self.context.or_else(|| {
            let ask = host.is_none() && !named_run;
            if ask { set("DOCKER_CONTEXT").or_else(|| store.as_ref()?.current()) } else { None }
        });
        let name = chosen.filter(|name| name != store::DEFAULT);
        let ours = Endpoint::Unix(run.join("docker.sock"));
        let endpoint = match (&name, &store, host) {
            (Some(name), Some(store), _) => store.endpoint(name)?,
            (Some(name), None, _) => {
                return Err(Failure::new(format!(
                    "context {name:?} does not exist: there is neither HOME nor DOCKER_CONFIG"
                )));
            }
            (None, _, Some(host)) => Endpoint::parse(&host, self.tls.resolve(store.as_ref().map(Store::folder)))?,
            (None, ..) => ours.clone(),
        };
        let ownership = if endpoint == ours { Ownership::Local } else { Ownership::Named };
        let name = name.unwrap_or_else(|| store::DEFAULT.to_owned());
        Ok(Context { root, run, endpoint, name, store, ownership, debug: self.debug })
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_before_the_command_are_split_off() {
        let line = words("-H unix:///a/b.sock --root=/s --debug --tlsverify --tls=false -c box run -H x");
        let (globals, rest) = Globals::split(&line).unwrap();
        assert_eq!(globals.host.as_deref(), Some("unix:///a/b.sock"));
        assert_eq!(globals.root.as_deref(), Some("/s"));
        assert!(globals.debug);
        assert_eq!((globals.tls.verify, globals.tls.on), (Some(true), Some(false)));
        assert_eq!(globals.context.as_deref(), Some("box"));
        assert!(Globals::split(&words("--tls=maybe ps")).unwrap_err().contains("true or false"));
        assert!(globals.context().unwrap_err().text().contains("both --host and --context"));
        assert_eq!(rest, words("run -H x"));
        assert_eq!(
            Globals::split(&words("--nonsense ps")).unwrap_err(),
            "unknown option \"--nonsense\" before the command"
        );
        assert_eq!(Globals::split(&words("-H")).unwrap_err(), "option -H needs a value");
    }
}
