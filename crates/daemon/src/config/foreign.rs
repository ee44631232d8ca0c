//! Settings of dockerd's that have no meaning here: they are known, so that a file or a command line that was written for it does,
//! and what is lost is told.

use anyhow::{Context, Result, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value};

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Switch,
    Number,
    Text,
    List,
}

/// What becomes of a value that asks for something else than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Nobody misses anything.
    Quiet,
    Warned,
    Refused,
}

/// One of those settings.
#[derive(Debug)]
struct Setting {
    /// In the file.
    key: &'static str,
    /// On the command line; nothing where it is only for the file.
    flag: &'static str,
    form: Form,
    /// Values that say how it is anyway.
    harmless: &'static [&'static str],
    outcome: Outcome,
    why: &'static str,
}

const fn setting(
    (key, flag): (&'static str, &'static str),
    form: Form,
    harmless: &'static [&'static str],
    (outcome, why): (Outcome, &'static str),
) -> Setting {
    Setting { key, flag, form, harmless, outcome, why }
}

use Form::{List, Number, Switch, Text};
use Outcome::{Quiet, Refused, Warned};

const NO_CONTAINERD: (Outcome, &str) = (Warned, "there is no containerd below this daemon");
const NO_SWARM: (Outcome, &str) = (Warned, "there are no swarms");

/// Sorted by key.
const SETTINGS: &[Setting] = &[
    setting(
        ("allow-direct-routing", "allow-direct-routing"),
        Switch,
        &["false"],
        (
            Warned,
            "links from where containers are reached at their own addresses are named for each network, by its option \
                  com.docker.network.bridge.trusted_host_interfaces",
        ),
    ),
    setting(
        ("allow-nondistributable-artifacts", "allow-nondistributable-artifacts"),
        List,
        &[],
        (Warned, "every layer that is here is pushed"),
    ),
    setting(
        ("authorization-plugins", "authorization-plugin"),
        List,
        &[],
        (Refused, "there are no plugins, and without them whoever reaches the daemon may do everything"),
    ),
    setting(("containerd", "containerd"), Text, &[], NO_CONTAINERD),
    setting(("containerd-namespace", "containerd-namespace"), Text, &[], NO_CONTAINERD),
    setting(("containerd-plugin-namespace", ""), Text, &[], NO_CONTAINERD),
    setting(("containerd-plugins-namespace", "containerd-plugins-namespace"), Text, &[], NO_CONTAINERD),
    setting(
        ("cpu-rt-period", "cpu-rt-period"),
        Number,
        &["0"],
        (Warned, "the parent control group keeps the real-time share that the host gives it"),
    ),
    setting(
        ("cpu-rt-runtime", "cpu-rt-runtime"),
        Number,
        &["0"],
        (Warned, "the parent control group keeps the real-time share that the host gives it"),
    ),
    setting(("cri-containerd", "cri-containerd"), Switch, &["false"], NO_CONTAINERD),
    setting(
        ("exec-opts", "exec-opt"),
        List,
        &["native.cgroupdriver=cgroupfs"],
        (Warned, "control groups are made in their file system, without systemd"),
    ),
    setting(("experimental", "experimental"), Switch, &[], (Quiet, "")),
    setting(("init-path", "init-path"), Text, &[], (Warned, "the small init of --init is part of insula-shim")),
    setting(
        ("ip-forward-no-drop", "ip-forward-no-drop"),
        Switch,
        &[],
        (Quiet, "the policies of others' chains are never changed"),
    ),
    setting(
        ("ip6tables", "ip6tables"),
        Switch,
        &["true"],
        (Warned, "the rules of networks are one table for both versions of IP"),
    ),
    setting(
        ("iptables", "iptables"),
        Switch,
        &["true"],
        (
            Refused,
            "the rules that keep networks apart and publish ports cannot be left out; they are a table of their own, \
                   beside other rules and without changing them",
        ),
    ),
    setting(
        ("live-restore", "live-restore"),
        Switch,
        &["true"],
        (Refused, "it cannot be switched off: containers always outlive the daemon"),
    ),
    setting(("log-format", "log-format"), Text, &["text"], (Warned, "the log is text")),
    setting(("network-control-plane-mtu", "network-control-plane-mtu"), Number, &[], NO_SWARM),
    setting(("node-generic-resources", "node-generic-resource"), List, &[], NO_SWARM),
    setting(
        ("oom-score-adjust", "oom-score-adjust"),
        Number,
        &["0"],
        (Warned, "say OOMScoreAdjust= in the daemon's service"),
    ),
    setting(("raw-logs", "raw-logs"), Switch, &[], (Quiet, "the log has colours only on a terminal")),
    setting(("rootless", "rootless"), Switch, &["false"], (Refused, "the daemon runs as root")),
    setting(
        ("selinux-enabled", "selinux-enabled"),
        Switch,
        &["false"],
        (Warned, "containers get no SELinux labels but those that they ask for"),
    ),
    setting(("shutdown-timeout", "shutdown-timeout"), Number, &[], (Warned, "containers go on when the daemon stops")),
    setting(
        ("storage-driver", "storage-driver"),
        Text,
        &["overlay2", "overlayfs"],
        (Warned, "layers are EROFS images under an overlay, whatever is asked for"),
    ),
    setting(
        ("storage-opts", "storage-opt"),
        List,
        &["overlay2.override_kernel_check=true"],
        (Warned, "there is one storage driver, without options"),
    ),
    setting(("swarm-default-advertise-addr", "swarm-default-advertise-addr"), Text, &[], NO_SWARM),
    setting(
        ("userland-proxy", "userland-proxy"),
        Switch,
        &[],
        (Quiet, "no process stands between a port and its container"),
    ),
    setting(("userland-proxy-path", "userland-proxy-path"), Text, &[], (Quiet, "as above")),
];

/// What was said of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Foreign(Vec<(&'static Setting, Vec<String>)>);

impl Foreign {
    /// Takes them out of the file's object.
    ///
    /// # Errors
    /// A value of another form.
    pub(super) fn take(file: &mut Map<String, Value>) -> Result<Self> {
        let mut all = Vec::new();
        for setting in SETTINGS {
            let Some(value) = file.remove(setting.key).filter(|value| !value.is_null()) else { continue };
            let values = setting.form.values(&value);
            let values = values.with_context(|| format!("bad value of {}: {value}", setting.key))?;
            all.push((setting, values));
        }
        Ok(Self(all))
    }

    /// Whether a file has any.
    pub(super) fn any_in(file: &Map<String, Value>) -> bool {
        SETTINGS.iter().any(|setting| file.contains_key(setting.key))
    }

    /// What is to be told, of the command line's and of the file's.
    ///
    /// # Errors
    /// What can't be done without, and what both say.
    pub(super) fn warnings(self, file: Self) -> Result<Vec<String>> {
        let twice = |key: &str| self.0.iter().any(|(setting, _)| setting.key == key);
        if let Some((setting, _)) = file.0.iter().find(|(setting, _)| twice(setting.key)) {
            super::either(setting.key, Some(()), Some(()))?;
        }
        let mut warnings = Vec::new();
        for (setting, values) in self.0.iter().chain(&file.0) {
            let Setting { key, why, .. } = setting;
            let Some(strange) = values.iter().find(|value| !setting.harmless.contains(&value.as_str())) else {
                continue;
            };
            match setting.outcome {
                Quiet => {}
                Warned => warnings.push(format!("the setting {key} ({strange}) has no effect: {why}")),
                Refused => bail!("the setting {key} ({strange}) is not possible: {why}; take it out"),
            }
        }
        Ok(warnings)
    }
}

impl Form {
    fn values(self, value: &Value) -> Option<Vec<String>> {
        match (self, value) {
            (Switch, Value::Bool(_)) | (Number, Value::Number(_)) => Some(vec![value.to_string()]),
            (Text, Value::String(text)) => {
                Some(vec![text.clone()].into_iter().filter(|text| !text.is_empty()).collect())
            }
            (List, Value::Array(list)) => list.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
            _ => None,
        }
    }

    /// A word of the command line as the file would have it.
    fn word(self, text: &str) -> Option<String> {
        match self {
            Switch => match text {
                "true" | "1" | "t" | "T" | "TRUE" | "True" => Some("true".to_owned()),
                "false" | "0" | "f" | "F" | "FALSE" | "False" => Some("false".to_owned()),
                _ => None,
            },
            Number => text.parse::<i64>().ok().map(|number| number.to_string()),
            Text | List => Some(text.to_owned()),
        }
    }
}

impl clap::Args for Foreign {
    fn augment_args(command: Command) -> Command {
        SETTINGS.iter().filter(|setting| !setting.flag.is_empty()).fold(command, |command, setting| {
            let arg = Arg::new(setting.flag).long(setting.flag).hide(true).action(ArgAction::Append);
            let arg = match setting.form {
                Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                _ if setting.flag == "storage-driver" => arg.short('s'),
                _ => arg,
            };
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Foreign {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut all = Vec::new();
        for setting in SETTINGS.iter().filter(|setting| !setting.flag.is_empty()) {
            let Some(words) = matches.get_many::<String>(setting.flag) else { continue };
            let word = |text: &String| {
                setting.form.word(text).ok_or_else(|| {
                    let text = format!("bad value of --{}: {text:?}\n", setting.flag);
                    clap::Error::raw(clap::error::ErrorKind::InvalidValue, text)
                })
            };
            all.push((setting, words.map(word).collect::<Result<Vec<_>, _>>()?));
        }
        Ok(Self(all))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(SETTINGS.windows(2).all(|two| two[0].key < two[1].key));
    }
}
