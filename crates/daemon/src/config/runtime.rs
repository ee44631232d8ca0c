//! Settings of the runtimes that containers can be run by.

use anyhow::{Context, Result, bail};
use engine::{OWN_RUNTIME, Runtime, Runtimes};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What dockerd calls its own runtime's kind; others are programs of containerd's, which has no part here.
const RUNC_TYPE: &str = "io.containerd.runc.v2";

/// A runtime in the file.
///
/// # Source
/// dockerd's `daemon.json`, `runtimes`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Entry {
    path: Option<PathBuf>,
    runtime_args: Vec<String>,
    runtime_type: Option<String>,
    options: Options,
}

/// Options of runc's kind.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Options {
    binary_name: Option<PathBuf>,
}

impl Entry {
    fn program(self, name: &str) -> Result<Runtime> {
        match self.runtime_type.as_deref() {
            None | Some("") => {}
            Some(RUNC_TYPE) if self.path.is_none() => {
                let program = self.options.binary_name.unwrap_or_else(|| "runc".into());
                return Ok(Runtime { program, arguments: Vec::new() });
            }
            Some(RUNC_TYPE) => bail!("invalid runtime {name}: it has both path and runtimeType; leave one of them out"),
            Some(other) => bail!(
                "invalid runtime {name}: runtimeType {other:?} is a program of containerd's; give the path of a program \
                 with runc's command line"
            ),
        }
        let program = self.path.filter(|path| !path.as_os_str().is_empty());
        let program = program.with_context(|| format!("invalid runtime {name}: it has no path"))?;
        Ok(Runtime { program, arguments: self.runtime_args })
    }
}

/// A runtime on the command line.
pub(super) fn flag(text: &str) -> Result<(String, PathBuf), String> {
    let pair = text.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty());
    let pair = pair.map(|(name, path)| (name.trim().to_owned(), PathBuf::from(path.trim())));
    pair.ok_or_else(|| format!("invalid runtime {text:?}: write it NAME=PATH"))
}

/// All of them.
///
/// # Errors
/// A name that is taken, an entry without a program, a default that is none of them.
pub(super) fn all(
    flags: Vec<(String, PathBuf)>,
    file: BTreeMap<String, Entry>,
    default: Option<String>,
) -> Result<Runtimes> {
    let mut runtimes = Runtimes::default();
    let entries = file.into_iter().map(|(name, entry)| entry.program(&name).map(|program| (name, program)));
    let flags = flags.into_iter().map(|(name, program)| Ok((name, Runtime { program, arguments: Vec::new() })));
    for entry in entries.chain(flags) {
        let (name, program) = entry?;
        if name == OWN_RUNTIME {
            bail!("runtime name '{name}' is reserved");
        }
        if runtimes.programs.insert(name.clone(), program).is_some() {
            bail!("runtime {name} is specified twice; leave one of them out");
        }
    }
    if let Some(default) = default.filter(|name| !name.is_empty()) {
        runtimes.find(&default).with_context(|| format!("specified default runtime '{default}' does not exist"))?;
        runtimes.default = default;
    }
    Ok(runtimes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str, flags: &[&str], default: Option<&str>) -> Result<Runtimes> {
        let flags = flags.iter().map(|text| flag(text).unwrap()).collect();
        all(flags, serde_json::from_str(json).unwrap(), default.map(str::to_owned))
    }

    #[test]
    fn programs_come_from_the_file_and_from_flags() {
        let file = r#"{"crun": {"path": "/usr/bin/crun", "runtimeArgs": ["--debug"]},
                       "real": {"runtimeType": "io.containerd.runc.v2", "options": {"BinaryName": "/sbin/runc"}}}"#;
        let runtimes = of(file, &["other=/bin/other"], Some("crun")).unwrap();
        assert_eq!(runtimes.default, "crun");
        assert_eq!(runtimes.find("crun").unwrap().unwrap().arguments, ["--debug"]);
        assert_eq!(runtimes.find("real").unwrap().unwrap().program, PathBuf::from("/sbin/runc"));
        assert_eq!(runtimes.find("other").unwrap().unwrap().program, PathBuf::from("/bin/other"));
        assert_eq!(runtimes.find("runc").unwrap(), None);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |json: &str, flags: &[&str], default: Option<&str>, part: &str| {
            let error = format!("{:#}", of(json, flags, default).unwrap_err());
            assert!(error.contains(part), "{error}");
        };
        check("{}", &["insula=/x"], None, "reserved");
        check(r#"{"a": {"path": "/x"}}"#, &["a=/y"], None, "twice");
        check(r#"{"a": {}}"#, &[], None, "no path");
        check(r#"{"a": {"runtimeType": "io.containerd.kata.v2"}}"#, &[], None, "containerd's");
        check("{}", &[], Some("nope"), "specified default runtime 'nope' does not exist");
        assert!(flag("nope").unwrap_err().contains("NAME=PATH"));
    }
}
