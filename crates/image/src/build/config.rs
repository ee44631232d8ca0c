//! An image's configuration while it is built: what each instruction makes of it, as a pure function.
//!
//! # Source
//! OCI image specification, "config"; the fields Healthcheck, OnBuild and Shell from Docker's image specification v1.2.
//! The texts in the history are what BuildKit's Dockerfile front end writes, as `docker history` shows them.

use std::collections::BTreeMap;
use std::time::Duration;

use oci::digest::Digest;
use oci::platform::Platform;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ignore::clean;
use crate::dockerfile::duration;
use crate::dockerfile::{Command, Healthcheck};

/// What an image without a base has in `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What stands in the history's comments.
pub const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";
/// The shell of RUN, CMD and ENTRYPOINT unless SHELL says otherwise.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The part of an image's configuration that says how to run it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// As whom.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub user: String,
    /// Ports such as `80/tcp`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub exposed_ports: BTreeMap<String, Nothing>,
    /// Variables, `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// What is run in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The command, or the entry point's arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// What gets a volume.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub volumes: BTreeMap<String, Nothing>,
    /// Where it is run.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub working_dir: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// How it is stopped.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_default")]
    pub stop_signal: String,
    /// How to see whether it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Health>,
    /// What is done first when something is built on it.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub on_build: Vec<String>,
    /// The shell.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub shell: Vec<String>,
}

/// An empty object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Nothing {}

/// `null` is as good as a missing field.
fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A health check as images have it; times in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Health {
    /// What to do.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub test: Vec<String>,
    /// How often.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: u64,
    /// How long it may take.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// How long failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: u64,
    /// How often until then.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    /// How many failures make it ill.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One line of an image's history.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, as RFC 3339 has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which instruction.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// A remark.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether there is no layer for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// What a build knows of an image but its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// What it runs on.
    pub platform: Platform,
    /// Who made it.
    pub author: String,
    /// How to run it.
    pub config: Config,
    /// How it came to be; one line without `empty_layer` for each layer, in order.
    pub history: Vec<History>,
}

/// Bytes that are no configuration.
#[derive(Debug, thiserror::Error)]
#[error("the image's configuration makes no sense")]
pub struct ConfigError(#[source] serde_json::Error);

#[derive(Deserialize)]
struct Document {
    #[serde(flatten)]
    platform: Platform,
    #[serde(default)]
    author: Option<String>,
    #[serde(default)]
    config: Option<Config>,
    #[serde(default)]
    history: Option<Vec<History>>,
}

impl ImageSpec {
    /// An image with nothing in it.
    #[must_use]
    pub fn scratch(platform: Platform) -> Self {
        let config =
            Config { env: vec![format!("PATH={DEFAULT_PATH}")], working_dir: "/".to_owned(), ..Config::default() };
        Self { platform, author: String::new(), config, history: Vec::new() }
    }

    /// Reads the configuration of an image as registries have it.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, ConfigError> {
        let document: Document = serde_json::from_slice(bytes).map_err(ConfigError)?;
        Ok(Self {
            platform: document.platform,
            author: document.author.unwrap_or_default(),
            config: document.config.unwrap_or_default(),
            history: document.history.unwrap_or_default(),
        })
    }

    /// The configuration with its layers, the same bytes for the same input; times are RFC 3339.
    #[must_use]
    pub fn to_json(&self, layers: &[Digest], created: Option<&str>) -> Vec<u8> {
        let mut document = json!({
            "architecture": self.platform.architecture,
            "os": self.platform.os,
            "config": self.config,
            "history": self.history,
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(Digest::to_string).collect::<Vec<_>>() },
        });
        if let Some(variant) = &self.platform.variant {
            document["variant"] = Value::from(variant.as_str());
        }
        if !self.author.is_empty() {
            document["author"] = Value::from(self.author.as_str());
        }
        if let Some(created) = created {
            document["created"] = Value::from(created);
        }
        document.to_string().into_bytes()
    }

    /// The argument list of a command: a line goes through the shell.
    #[must_use]
    pub fn argv(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(line) => {
                let mut argv = self.config.shell.clone();
                if argv.is_empty() {
                    argv.extend(SHELL.map(str::to_owned));
                }
                argv.push(line.clone());
                argv
            }
        }
    }

    /// Adds a line to the history.
    pub(crate) fn note(&mut self, created_by: String, layer: Layer, created: Option<&str>) {
        self.history.push(History {
            created: created.map(str::to_owned),
            created_by,
            author: String::new(),
            comment: HISTORY_COMMENT.to_owned(),
            empty_layer: layer == Layer::None,
        });
    }

    /// A directory as WORKDIR has it, seen from the present one.
    #[must_use]
    pub fn directory(&self, path: &str) -> String {
        if path.starts_with('/') {
            return clean(path);
        }
        clean(&format!("/{}/{path}", self.config.working_dir))
    }
}

/// Whether a line of the history has a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    /// It has.
    One,
    /// It has none.
    None,
}

/// An instruction that changes nothing but the configuration, variables replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// CMD.
    Cmd(Command),
    /// ENTRYPOINT; whether an earlier CMD of the same stage stays.
    Entrypoint(Command, EarlierCmd),
    /// ENV.
    Env(Vec<(String, String)>),
    /// EXPOSE, checked: `80/tcp`.
    Expose(Vec<String>),
    /// HEALTHCHECK.
    Healthcheck(Healthcheck),
    /// LABEL.
    Label(Vec<(String, String)>),
    /// MAINTAINER.
    Maintainer(String),
    /// ONBUILD.
    OnBuild(String),
    /// SHELL.
    Shell(Vec<String>),
    /// STOPSIGNAL.
    StopSignal(String),
    /// USER.
    User(String),
    /// VOLUME.
    Volume(Vec<String>),
}

/// What ENTRYPOINT does with CMD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierCmd {
    /// It was set in this stage, and stays.
    Keep,
    /// It came with the base, and goes: it was meant for another entry point.
    Drop,
}

impl ImageSpec {
    /// Applies a change and writes its line of the history; `created` is when, if that is to be written.
    pub fn apply(&mut self, change: &Change, created: Option<&str>) {
        let line = self.change(change);
        if let Some(line) = line {
            self.note(line, Layer::None, created);
        }
    }

    fn change(&mut self, change: &Change) -> Option<String> {
        let pairs = |pairs: &[(String, String)]| {
            pairs.iter().map(|(name, value)| format!(" {name}={value}")).collect::<String>()
        };
        Some(match change {
            Change::Cmd(command) => {
                let argv = self.argv(command);
                let line = format!("CMD {}", quoted_list(&argv));
                self.config.cmd = Some(argv);
                line
            }
            Change::Entrypoint(command, earlier) => {
                let argv = self.argv(command);
                let line = format!("ENTRYPOINT {}", quoted_list(&argv));
                self.config.entrypoint = Some(argv);
                if *earlier == EarlierCmd::Drop {
                    self.config.cmd = None;
                }
                line
            }
            Change::Env(variables) => {
                variables.iter().for_each(|(name, value)| set_variable(&mut self.config.env, name, value));
                format!("ENV{}", pairs(variables))
            }
            Change::Expose(ports) => {
                let mut ports = ports.clone();
                ports.sort();
                let line = format!("EXPOSE [{}]", ports.join(" "));
                self.config.exposed_ports.extend(ports.into_iter().map(|port| (port, Nothing {})));
                line
            }
            Change::Healthcheck(health) => {
                let line = format!("HEALTHCHECK {}", health_text(health));
                self.config.healthcheck = Some(Health::from(health));
                line
            }
            Change::Label(labels) => {
                self.config.labels.extend(labels.iter().cloned());
                format!("LABEL{}", pairs(labels))
            }
            Change::Maintainer(name) => {
                self.author.clone_from(name);
                format!("MAINTAINER {name}")
            }
            Change::OnBuild(trigger) => {
                self.config.on_build.push(trigger.clone());
                return None;
            }
            Change::Shell(shell) => {
                self.config.shell.clone_from(shell);
                format!("SHELL [{}]", shell.join(" "))
            }
            Change::StopSignal(signal) => {
                self.config.stop_signal.clone_from(signal);
                format!("STOPSIGNAL {signal}")
            }
            Change::User(user) => {
                self.config.user.clone_from(user);
                format!("USER {user}")
            }
            Change::Volume(paths) => {
                self.config.volumes.extend(paths.iter().map(|path| (path.clone(), Nothing {})));
                format!("VOLUME [{}]", paths.join(" "))
            }
        })
    }
}

/// Sets a variable in its old place, or at the end.
pub(crate) fn set_variable(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    match env.iter_mut().find(|entry| entry.split('=').next() == Some(name)) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

impl From<&Healthcheck> for Health {
    fn from(health: &Healthcheck) -> Self {
        let nanoseconds =
            |time: Option<Duration>| time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        Self {
            test: health.test.clone(),
            interval: nanoseconds(health.interval),
            timeout: nanoseconds(health.timeout),
            start_period: nanoseconds(health.start_period),
            start_interval: nanoseconds(health.start_interval),
            retries: health.retries.unwrap_or(0).into(),
        }
    }
}

/// A health check as Go prints a structure.
fn health_text(health: &Healthcheck) -> String {
    let time = |time: Option<Duration>| duration::show(time.unwrap_or_default());
    format!(
        "{{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        health.test.join(" "),
        time(health.interval),
        time(health.timeout),
        time(health.start_period),
        time(health.start_interval),
        health.retries.unwrap_or(0)
    )
}

/// `["a" "b"]`, as Go quotes a list.
fn quoted_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(" "))
}

/// A text as Go quotes it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The ports of one word of EXPOSE: `80`, `80/udp`, `8000-8010`; addresses and host ports in front are left away, as
/// Docker does.
pub(crate) fn ports(word: &str) -> Option<Vec<String>> {
    let (numbers, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return None;
    }
    let numbers = numbers.rsplit(':').next()?;
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (from, to) = match numbers.split_once('-') {
        Some((from, to)) => (number(from)?, number(to)?),
        None => (number(numbers)?, number(numbers)?),
    };
    (from <= to).then(|| (from..=to).map(|port| format!("{port}/{protocol}")).collect())
}

/// Whether it is a signal's number or name.
pub(crate) fn is_signal(text: &str) -> bool {
    const NAMES: [&str; 34] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
        "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
        "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    ];
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |text: &str, sign: char, most: u8| {
        text.is_empty()
            || text.strip_prefix(sign).and_then(|n| n.parse().ok()).is_some_and(|n: u8| (1..=most).contains(&n))
    };
    NAMES.contains(&name)
        || name.strip_prefix("RTMIN").is_some_and(|rest| realtime(rest, '+', 15))
        || name.strip_prefix("RTMAX").is_some_and(|rest| realtime(rest, '-', 14))
}
