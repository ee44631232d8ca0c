//! Changes to an image's configuration, as import and commit take them.

use std::collections::BTreeMap;

use oci_spec::OciSpecError;
use oci_spec::image::{Config, ConfigBuilder, ImageConfiguration};

use crate::build::config::Health;
use crate::dockerfile::{Dockerfile, Kind};

/// Reads an image's configuration. One without layers may have nothing in place of their list, as some programs write it.
///
/// # Errors
/// A text that is no configuration.
pub fn read_configuration(bytes: &[u8]) -> Result<ImageConfiguration, OciSpecError> {
    let read = ImageConfiguration::from_reader(bytes);
    if read.is_ok() {
        return read;
    }
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return read };
    match value.get_mut("rootfs").and_then(serde_json::Value::as_object_mut) {
        Some(root) if root.get("diff_ids").is_none_or(serde_json::Value::is_null) => {
            root.insert("diff_ids".to_owned(), serde_json::json!([]));
        }
        _ => return read,
    }
    ImageConfiguration::from_reader(value.to_string().as_bytes())
}

/// What to set in an image's configuration; what is `None` or empty stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigChanges {
    /// The command or the entry point's default arguments.
    pub cmd: Option<Vec<String>>,
    /// What is run in any case.
    pub entrypoint: Option<Vec<String>>,
    /// Variables, later ones over earlier ones.
    pub env: Vec<(String, String)>,
    /// Where the process starts.
    pub working_dir: Option<String>,
    /// As whom it runs.
    pub user: Option<String>,
    /// Free-form labels.
    pub labels: BTreeMap<String, String>,
    /// Ports such as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Paths that get a volume.
    pub volumes: Vec<String>,
    /// How it wants to be stopped.
    pub stop_signal: Option<String>,
    /// How to see whether it is well.
    pub healthcheck: Option<Health>,
    /// What is done first when something is built on it, after what is there already.
    pub on_build: Vec<String>,
}

/// Why an instruction cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The instruction is none of those that apply here.
    #[error(
        "{instruction} is not a valid change command: it is none of CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR"
    )]
    Unknown {
        /// The word.
        instruction: String,
    },
    /// What follows the instruction makes no sense.
    #[error("\"{line}\" is not what {instruction} takes: {expected}")]
    Malformed {
        /// The whole line.
        line: String,
        /// Its first word.
        instruction: &'static str,
        /// What it takes.
        expected: &'static str,
    },
}

impl ConfigChanges {
    /// Takes one instruction in a Dockerfile's words: `CMD ["bash"]`, `ENV A=b C="d e"`, `WORKDIR /srv`.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn apply(&mut self, line: &str) -> Result<(), ChangeError> {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let malformed = |instruction, expected| ChangeError::Malformed { line: line.to_owned(), instruction, expected };
        match word.to_ascii_uppercase().as_str() {
            "CMD" => self.cmd = Some(command(rest).ok_or_else(|| malformed("CMD", "a list or a command"))?),
            "ENTRYPOINT" => {
                self.entrypoint = Some(command(rest).ok_or_else(|| malformed("ENTRYPOINT", "a list or a command"))?);
            }
            "ENV" => self.env.extend(pairs(rest).ok_or_else(|| malformed("ENV", "NAME=value"))?),
            "LABEL" => self.labels.extend(pairs(rest).ok_or_else(|| malformed("LABEL", "name=value"))?),
            "WORKDIR" if !rest.is_empty() => self.working_dir = Some(rest.to_owned()),
            "USER" if !rest.is_empty() => self.user = Some(rest.to_owned()),
            "STOPSIGNAL" if !rest.is_empty() => self.stop_signal = Some(rest.to_owned()),
            "HEALTHCHECK" => self.healthcheck = Some(health(line).ok_or_else(|| malformed("HEALTHCHECK", HEALTH))?),
            "ONBUILD" => self.on_build.push(trigger(rest).ok_or_else(|| malformed("ONBUILD", TRIGGER))?.to_owned()),
            "EXPOSE" => {
                for port in rest.split_whitespace() {
                    self.exposed_ports
                        .push(exposed(port).ok_or_else(|| malformed("EXPOSE", "PORT or PORT/tcp|udp|sctp"))?);
                }
            }
            "VOLUME" => self.volumes.extend(match serde_json::from_str::<Vec<String>>(rest) {
                Ok(list) => list,
                Err(_) => rest.split_whitespace().map(str::to_owned).collect(),
            }),
            "WORKDIR" => return Err(malformed("WORKDIR", "a path")),
            "USER" => return Err(malformed("USER", "a user name or number")),
            "STOPSIGNAL" => return Err(malformed("STOPSIGNAL", "a signal's name or number")),
            _ => return Err(ChangeError::Unknown { instruction: word.to_ascii_lowercase() }),
        }
        Ok(())
    }

    /// Adds to a configuration what Docker has there and the image specification has not.
    ///
    /// # Errors
    /// If the bytes are no JSON.
    pub(crate) fn beside(&self, configuration: Vec<u8>) -> serde_json::Result<Vec<u8>> {
        if self.healthcheck.is_none() && self.on_build.is_empty() {
            return Ok(configuration);
        }
        let mut document: serde_json::Value = serde_json::from_slice(&configuration)?;
        if let Some(health) = &self.healthcheck {
            document["config"]["Healthcheck"] = serde_json::to_value(health)?;
        }
        if !self.on_build.is_empty() {
            document["config"]["OnBuild"] = self.on_build.clone().into();
        }
        serde_json::to_vec(&document)
    }

    /// The changes over `base`.
    pub(crate) fn over(&self, base: Option<&Config>) -> Config {
        let mut config = base.cloned().unwrap_or_else(empty_config);
        if let Some(entrypoint) = &self.entrypoint {
            config.set_entrypoint(Some(entrypoint.clone()));
        }
        if let Some(cmd) = &self.cmd {
            config.set_cmd(Some(cmd.clone()));
        }
        if !self.env.is_empty() {
            let mut env = config.env().clone().unwrap_or_default();
            for (name, value) in &self.env {
                env.retain(|entry| entry.split('=').next() != Some(name));
                env.push(format!("{name}={value}"));
            }
            config.set_env(Some(env));
        }
        if let Some(dir) = &self.working_dir {
            config.set_working_dir(Some(dir.clone()));
        }
        if let Some(user) = &self.user {
            config.set_user(Some(user.clone()));
        }
        if !self.labels.is_empty() {
            let mut labels = config.labels().clone().unwrap_or_default();
            labels.extend(self.labels.iter().map(|(name, value)| (name.clone(), value.clone())));
            config.set_labels(Some(labels));
        }
        if !self.exposed_ports.is_empty() {
            config.set_exposed_ports(Some(sorted(config.exposed_ports(), &self.exposed_ports)));
        }
        if !self.volumes.is_empty() {
            config.set_volumes(Some(sorted(config.volumes(), &self.volumes)));
        }
        if let Some(signal) = &self.stop_signal {
            config.set_stop_signal(Some(signal.clone()));
        }
        config
    }
}

const HEALTH: &str =
    "NONE, or CMD with a command, after --interval, --timeout, --start-period, --start-interval and --retries";
const TRIGGER: &str = "an instruction other than FROM, MAINTAINER and ONBUILD";

fn health(line: &str) -> Option<Health> {
    match Dockerfile::parse_trigger(line).ok()?.kind {
        Kind::Healthcheck(health) => Some(Health::from(&health)),
        _ => None,
    }
}

/// What may be kept for later. Whether it can be carried out shows then, as it does in a Dockerfile.
fn trigger(text: &str) -> Option<&str> {
    let word = text.split_whitespace().next()?;
    (!["FROM", "MAINTAINER", "ONBUILD"].iter().any(|other| other.eq_ignore_ascii_case(word))).then_some(text)
}

fn empty_config() -> Config {
    ConfigBuilder::default().build().unwrap_or_default()
}

fn sorted(old: &Option<Vec<String>>, new: &[String]) -> Vec<String> {
    let all: std::collections::BTreeSet<String> = old.iter().flatten().chain(new).cloned().collect();
    all.into_iter().collect()
}

/// A JSON list, or a line for the shell.
fn command(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[')
        && let Ok(list) = serde_json::from_str(text)
    {
        return Some(list);
    }
    (!text.is_empty()).then(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

/// `a=b "c d"=e f='g h'`, or the old form `a b c`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let words = words(text)?;
    let first = words.first()?;
    if !first.contains('=') {
        let (name, value) = text.split_once(char::is_whitespace)?;
        return Some(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: &String| {
        let (name, value) = word.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    words.iter().map(pair).collect()
}

/// Words between blanks; quotes keep blanks, a backslash keeps the next character.
fn words(text: &str) -> Option<Vec<String>> {
    let (mut out, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => out.extend(word.take()),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().push(characters.next()?),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    if quote.is_some() { None } else { Some(out) }
}

/// `80` is `80/tcp`.
fn exposed(port: &str) -> Option<String> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let known = ["tcp", "udp", "sctp"].contains(&protocol);
    let range = number.split('-').all(|part| part.parse::<u16>().is_ok_and(|port| port > 0));
    (known && range).then(|| format!("{number}/{protocol}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_of_every_kind() {
        let mut changes = ConfigChanges::default();
        for line in [
            r#"CMD ["sh", "-l"]"#,
            "entrypoint echo hi",
            r#"ENV A=1 B="two words" C=it\ is"#,
            "ENV OLD old form",
            "WORKDIR /srv",
            "USER 7:8",
            "LABEL a.b=c",
            "EXPOSE 80 53/udp",
            r#"VOLUME ["/data"]"#,
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN make",
            "onbuild /usr/bin/python-build --dir /app",
            "HEALTHCHECK --interval=5s --retries=2 CMD test -e /up",
        ] {
            changes.apply(line).unwrap();
        }
        assert_eq!(changes.on_build, ["RUN make", "/usr/bin/python-build --dir /app"]);
        let health = changes.healthcheck.clone().unwrap();
        assert_eq!((health.interval, health.retries), (5_000_000_000, 2));
        assert_eq!(health.test, ["CMD-SHELL", "test -e /up"]);
        let config = changes.over(None);
        assert_eq!(config.cmd().as_deref(), Some(&["sh".to_owned(), "-l".to_owned()][..]));
        assert_eq!(config.entrypoint().as_deref().unwrap()[2], "echo hi");
        assert_eq!(config.env().as_deref().unwrap(), ["A=1", "B=two words", "C=it is", "OLD=old form"]);
        assert_eq!(config.exposed_ports().as_deref().unwrap(), ["53/udp", "80/tcp"]);
        assert_eq!(config.volumes().as_deref().unwrap(), ["/data"]);
    }

    #[test]
    fn nonsense_is_named() {
        let mut changes = ConfigChanges::default();
        let say = |changes: &mut ConfigChanges, line: &str| changes.apply(line).unwrap_err().to_string();
        assert!(say(&mut changes, "RUN make").contains("run is not a valid change command"));
        assert!(say(&mut changes, "ONBUILD onbuild RUN x").contains("other than FROM"));
        assert!(say(&mut changes, "HEALTHCHECK curl").contains("NONE, or CMD"));
        assert!(say(&mut changes, "EXPOSE 70000").contains("EXPOSE takes"));
        assert!(say(&mut changes, "ENV =x").contains("NAME=value"));
        assert!(say(&mut changes, "WORKDIR").contains("a path"));
    }
}
