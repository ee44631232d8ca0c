//! Running other people's plugins.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use super::{CniError, Failure, VERSIONS};

/// A network's configuration: the plugins that make it, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    /// The network's name.
    pub name: String,
    /// The version of the interface that the plugins are spoken to in.
    pub version: String,
    /// Whether the configuration forbids CHECK.
    pub disable_check: bool,
    plugins: Vec<Map<String, Value>>,
}

/// A container's end of a network.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Target {
    /// The container.
    pub container: String,
    /// The path of its namespace; nothing when it is gone already.
    pub netns: Option<PathBuf>,
    /// The link's name in the container.
    pub link: String,
    /// `CNI_ARGS`: pairs for all plugins.
    pub arguments: Vec<(String, String)>,
    /// What plugins with the capability of the same name get: `portMappings`, `bandwidth`, `ips`, `mac`, …
    pub capabilities: Map<String, Value>,
}

/// The folders that have plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runner {
    folders: Vec<PathBuf>,
}

impl NetworkList {
    /// Reads a configuration: a list (`.conflist`) or one plugin's (`.conf`).
    ///
    /// # Errors
    /// [`CniError::Configuration`] with what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, CniError> {
        let fail =
            |name: &str, reason: &str| CniError::Configuration { name: name.to_owned(), reason: reason.to_owned() };
        let value: Map<String, Value> =
            serde_json::from_slice(text).map_err(|error| fail("(without name)", &error.to_string()))?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = text("name");
        if name.is_empty() || name.contains(['/', '\0']) {
            return Err(fail(&name, "it needs a name without slashes"));
        }
        let version = Some(text("cniVersion")).filter(|version| !version.is_empty());
        let version = version.unwrap_or_else(|| "0.2.0".to_owned());
        if !VERSIONS.contains(&version.as_str()) {
            return Err(fail(&name, &format!("version {version} is none of {}", VERSIONS.join(", "))));
        }
        let plugins = match value.get("plugins") {
            Some(Value::Array(plugins)) => plugins.iter().filter_map(|plugin| plugin.as_object().cloned()).collect(),
            Some(_) => return Err(fail(&name, "\"plugins\" is no list")),
            None => vec![value.clone()],
        };
        let typed = |plugin: &Map<String, Value>| {
            let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
            !kind.is_empty() && !kind.contains('/')
        };
        if plugins.is_empty() || !plugins.iter().all(typed) {
            return Err(fail(&name, "every plugin needs a type"));
        }
        let disable_check = value.get("disableCheck").and_then(Value::as_bool).unwrap_or(false);
        Ok(Self { name, version, disable_check, plugins })
    }

    /// Reads the file of a configuration.
    ///
    /// # Errors
    /// [`CniError::Read`], or as [`Self::parse`].
    pub fn read(path: &Path) -> Result<Self, CniError> {
        let text = std::fs::read(path).map_err(|source| CniError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Every configuration of a folder, such as `/etc/cni/net.d`, in the order of the files' names.
    ///
    /// # Errors
    /// As [`Self::read`], for the first file that fails.
    pub fn read_folder(folder: &Path) -> Result<Vec<Self>, CniError> {
        let failed = |source| CniError::Read { path: folder.to_owned(), source };
        let entries = std::fs::read_dir(folder).map_err(failed)?;
        let known = |path: &PathBuf| {
            let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            ["conflist", "conf", "json"].contains(&extension.as_str())
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(known).collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    /// Version 1.1.0 and later have GC and STATUS; 0.4.0 and later have CHECK.
    fn knows(&self, first: &str) -> bool {
        let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
        place(&self.version) >= place(first)
    }
}

impl Runner {
    /// Looks for plugins in `folders`, in order.
    #[must_use]
    pub fn new(folders: &[PathBuf]) -> Self {
        Self { folders: folders.to_vec() }
    }

    /// Adds a container to a network; the answer is the last plugin's result, which has to be kept for
    /// [`Self::check`] and [`Self::delete`].
    ///
    /// When a plugin fails, those before it and itself are told to undo.
    ///
    /// # Errors
    /// The first failure.
    pub fn add(&self, list: &NetworkList, target: &Target) -> Result<Value, CniError> {
        let mut result = Value::Null;
        for plugin in &list.plugins {
            match self.run("ADD", list, plugin, target, &result) {
                Ok(next) => result = next.unwrap_or(result),
                Err(error) => {
                    // The first failure is the one to tell.
                    let _ = self.delete(list, target, &result);
                    return Err(error);
                }
            }
        }
        Ok(result)
    }

    /// Takes a container out of a network, last plugin first, with the result of [`Self::add`] (null when it is lost).
    /// Every plugin is told, also after one has failed.
    ///
    /// # Errors
    /// The first failure.
    pub fn delete(&self, list: &NetworkList, target: &Target, result: &Value) -> Result<(), CniError> {
        let mut outcome = Ok(());
        for plugin in list.plugins.iter().rev() {
            let done = self.run("DEL", list, plugin, target, result).map(|_| ());
            outcome = outcome.and(done);
        }
        outcome
    }

    /// Has every plugin check that a container is still in the network as `result` says.
    ///
    /// # Errors
    /// The first failure.
    pub fn check(&self, list: &NetworkList, target: &Target, result: &Value) -> Result<(), CniError> {
        if list.disable_check || !list.knows("0.4.0") {
            return Ok(());
        }
        list.plugins.iter().try_for_each(|plugin| self.run("CHECK", list, plugin, target, result).map(|_| ()))
    }

    /// Has every plugin free what belongs to none of `valid` (container and link).
    ///
    /// # Errors
    /// The first failure; every plugin is told.
    pub fn collect(&self, list: &NetworkList, valid: &[(String, String)]) -> Result<(), CniError> {
        if !list.knows("1.1.0") {
            return Ok(());
        }
        let pair = |(container, link): &(String, String)| json!({"containerID": container, "ifname": link});
        let valid: Vec<Value> = valid.iter().map(pair).collect();
        let mut outcome = Ok(());
        for plugin in &list.plugins {
            let mut plugin = plugin.clone();
            plugin.insert("cni.dev/valid-attachments".to_owned(), valid.clone().into());
            let done = self.run("GC", list, &plugin, &Target::default(), &Value::Null).map(|_| ());
            outcome = outcome.and(done);
        }
        outcome
    }

    fn find(&self, kind: &str) -> Result<PathBuf, CniError> {
        let found = self.folders.iter().map(|folder| folder.join(kind)).find(|path| path.is_file());
        found.ok_or_else(|| CniError::Missing { kind: kind.to_owned(), folders: self.path() })
    }

    fn path(&self) -> String {
        let folders: Vec<String> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
        folders.join(":")
    }

    /// Runs one plugin; its result, when it printed one.
    pub(super) fn run(
        &self,
        command: &'static str,
        list: &NetworkList,
        plugin: &Map<String, Value>,
        target: &Target,
        result: &Value,
    ) -> Result<Option<Value>, CniError> {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        let input = Value::Object(configuration(list, plugin, target, result)).to_string();
        let path = self.find(kind)?;
        let arguments: Vec<String> = target.arguments.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let failed = |source| CniError::Run { path: path.clone(), source };
        let mut child = Command::new(&path)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &target.container)
            .env("CNI_NETNS", target.netns.as_deref().unwrap_or(Path::new("")))
            .env("CNI_IFNAME", &target.link)
            .env("CNI_ARGS", arguments.join(";"))
            .env("CNI_PATH", self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that reads nothing says so by its exit code.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).ok());
        }
        let failure = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| Failure {
            msg: format!("{} without a word", output.status),
            details: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            ..Failure::default()
        });
        Err(CniError::Plugin { kind: kind.to_owned(), command, failure })
    }
}

/// What a plugin reads: its own part, with the list's name and version, the result so far, and the capabilities that it
/// says it has.
fn configuration(
    list: &NetworkList,
    plugin: &Map<String, Value>,
    target: &Target,
    result: &Value,
) -> Map<String, Value> {
    let mut input = plugin.clone();
    input.insert("name".to_owned(), list.name.clone().into());
    input.insert("cniVersion".to_owned(), list.version.clone().into());
    if !result.is_null() {
        input.insert("prevResult".to_owned(), result.clone());
    }
    let wanted = input.remove("capabilities");
    let wanted = wanted.as_ref().and_then(Value::as_object);
    let has = |name: &str| wanted.is_some_and(|wanted| wanted.get(name).and_then(Value::as_bool) == Some(true));
    let given: Map<String, Value> = target
        .capabilities
        .iter()
        .filter(|(name, _)| has(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !given.is_empty() {
        input.insert("runtimeConfig".to_owned(), given.into());
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_read_or_refused() {
        let list = NetworkList::parse(br#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge","capabilities":{"mac":true}},{"type":"portmap"}]}"#)
            .unwrap();
        assert_eq!((list.name.as_str(), list.plugins.len()), ("n", 2));
        let target = Target {
            capabilities: [("mac".to_owned(), json!("02:00:00:00:00:01")), ("ips".to_owned(), json!([]))]
                .into_iter()
                .collect(),
            ..Target::default()
        };
        let input = configuration(&list, &list.plugins[0], &target, &json!({"ips": []}));
        assert_eq!(input["runtimeConfig"], json!({"mac": "02:00:00:00:00:01"}));
        assert_eq!(
            (&input["name"], &input["cniVersion"], &input["prevResult"]),
            (&json!("n"), &json!("1.0.0"), &json!({"ips": []}))
        );
        assert!(!configuration(&list, &list.plugins[1], &target, &Value::Null).contains_key("runtimeConfig"));
        let single = NetworkList::parse(br#"{"cniVersion":"0.3.1","name":"n","type":"bridge"}"#).unwrap();
        assert_eq!(single.plugins.len(), 1);
        assert!(!single.knows("0.4.0") && list.knows("0.4.0") && !list.knows("1.1.0"));
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"name":"n"}"#,
            r#"{"name":"n","cniVersion":"9.0.0","type":"x"}"#,
            r#"{"name":"a/b","cniVersion":"1.0.0","type":"x"}"#,
            r#"{"name":"n","cniVersion":"1.0.0","plugins":[]}"#,
            r#"{"name":"n","cniVersion":"1.0.0","type":"../x"}"#,
            r#"{"name":"n","cniVersion":"1.0.0","plugins":7}"#,
        ] {
            assert!(NetworkList::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
