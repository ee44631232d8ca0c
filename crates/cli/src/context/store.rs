//! Docker's store of contexts, which is ours as well: whoever has contexts for docker has them here.
//!
//! ```text
//! FOLDER/config.json                                      {"currentContext": NAME, ...}
//! FOLDER/contexts/meta/SHA256(NAME)/meta.json             {"Name", "Metadata": {"Description"}, "Endpoints": {"docker": {"Host", ...}}}
//! FOLDER/contexts/tls/SHA256(NAME)/docker/{ca,cert,key}.pem
//! ```
//!
//! # Source
//! What docker's client 20.10 and newer write, as observed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::endpoint::{Endpoint, Tls, Trust};
use crate::failure::{During as _, Failure};

/// The context that is always there: the environment and the defaults.
pub(crate) const DEFAULT: &str = "default";
/// The files of a context's TLS material.
const FILES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

/// The store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Store(PathBuf);

/// One context.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub(crate) name: String,
    /// The whole record; others may have put more into it.
    pub(crate) record: Value,
}

impl Stored {
    pub(crate) fn new(name: &str, description: &str, host: &str, trust: Trust) -> Self {
        let mut metadata = json!({});
        if !description.is_empty() {
            metadata = json!({ "Description": description });
        }
        let docker = json!({ "Host": host, "SkipTLSVerify": trust == Trust::Anybody });
        let record = json!({ "Name": name, "Metadata": metadata, "Endpoints": { "docker": docker } });
        Self { name: name.to_owned(), record }
    }

    pub(crate) fn host(&self) -> &str {
        self.record.pointer("/Endpoints/docker/Host").and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn description(&self) -> &str {
        self.record.pointer("/Metadata/Description").and_then(Value::as_str).unwrap_or_default()
    }

    fn trust(&self) -> Trust {
        match self.record.pointer("/Endpoints/docker/SkipTLSVerify").and_then(Value::as_bool) {
            Some(true) => Trust::Anybody,
            _ => Trust::Verified,
        }
    }
}

impl Store {
    /// The one in a folder of settings.
    pub(crate) fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The user's folder of settings.
    pub(crate) fn of_user() -> Option<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker"))).map(Self)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// The context that `config.json` names, if it names one.
    pub(crate) fn current(&self) -> Option<String> {
        let config: Value = serde_json::from_slice(&fs::read(self.0.join("config.json")).ok()?).ok()?;
        let name = config.get("currentContext")?.as_str()?;
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// Has `config.json` name another one, or none.
    pub(crate) fn set_current(&self, name: Option<&str>) -> Result<(), Failure> {
        let path = self.0.join("config.json");
        let mut config = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).during(|| path.display().to_string())?,
            Err(error) if error.kind() == ErrorKind::NotFound => json!({}),
            Err(error) => return Err(error).during(|| path.display().to_string()),
        };
        let Some(map) = config.as_object_mut() else {
            return Err(Failure::new(format!("{} is no JSON object", path.display())));
        };
        match name {
            Some(name) => map.insert("currentContext".to_owned(), Value::String(name.to_owned())),
            None => map.remove("currentContext"),
        };
        fs::create_dir_all(&self.0).during(|| self.0.display().to_string())?;
        write(&path, &serde_json::to_vec_pretty(&config)?)
    }

    pub(crate) fn meta(&self, name: &str) -> PathBuf {
        self.0.join("contexts/meta").join(digest(name))
    }

    pub(crate) fn tls(&self, name: &str) -> PathBuf {
        self.0.join("contexts/tls").join(digest(name))
    }

    /// A context by its name.
    ///
    /// # Errors
    /// If there is none, or its file is damaged.
    pub(crate) fn find(&self, name: &str) -> Result<Stored, Failure> {
        let path = self.meta(name).join("meta.json");
        match fs::read(&path) {
            Ok(bytes) => {
                let record = serde_json::from_slice(&bytes).during(|| path.display().to_string())?;
                Ok(Stored { name: name.to_owned(), record })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(Failure::new(format!("context {name:?} does not exist; see: insula context ls")))
            }
            Err(error) => Err(error).during(|| path.display().to_string()),
        }
    }

    /// All of them, by name; damaged ones are left out.
    pub(crate) fn all(&self) -> Vec<Stored> {
        let entries = fs::read_dir(self.0.join("contexts/meta")).into_iter().flatten().flatten();
        let read = |entry: fs::DirEntry| {
            let record: Value = serde_json::from_slice(&fs::read(entry.path().join("meta.json")).ok()?).ok()?;
            let name = record.get("Name")?.as_str()?.to_owned();
            Some(Stored { name, record })
        };
        let mut all: Vec<Stored> = entries.filter_map(read).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Writes a context with its TLS material, by the names of [`FILES`]; what it had is replaced.
    pub(crate) fn save(&self, stored: &Stored, material: &[(&str, Vec<u8>)]) -> Result<(), Failure> {
        if !material.is_empty() {
            let folder = self.tls(&stored.name).join("docker");
            fs::create_dir_all(&folder).during(|| folder.display().to_string())?;
            for (name, bytes) in material {
                write(&folder.join(name), bytes)?;
            }
        }
        let folder = self.meta(&stored.name);
        fs::create_dir_all(&folder).during(|| folder.display().to_string())?;
        write(&folder.join("meta.json"), &serde_json::to_vec(&stored.record)?)
    }

    /// Forgets a context.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Failure> {
        for folder in [self.meta(name), self.tls(name)] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).during(|| folder.display().to_string());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The TLS material that a context has: its files' names.
    pub(crate) fn material(&self, name: &str) -> Vec<&'static str> {
        let folder = self.tls(name).join("docker");
        FILES.into_iter().filter(|file| folder.join(file).is_file()).collect()
    }

    /// Where a context leads.
    pub(crate) fn endpoint(&self, name: &str) -> Result<Endpoint, Failure> {
        let stored = self.find(name)?;
        let (folder, have) = (self.tls(name).join("docker"), self.material(name));
        let file = |name: &str| have.contains(&name).then(|| folder.join(name));
        let tls = (!have.is_empty() || stored.trust() == Trust::Anybody).then(|| Tls {
            authority: file("ca.pem"),
            certificate: file("cert.pem").zip(file("key.pem")),
            trust: stored.trust(),
        });
        Endpoint::parse(stored.host(), tls)
    }
}

/// Whole or not at all, and for its owner's eyes only.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let fresh = path.with_extension("new");
    let written = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh);
    written
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&fresh, path))
        .during(|| path.display().to_string())
}

fn digest(name: &str) -> String {
    Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_kept_as_docker_keeps_them() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), r#"{"auths": {"x": {}}}"#).unwrap();
        let store = Store::at(folder.path());
        assert_eq!((store.current(), store.all().len()), (None, 0));
        let stored = Stored::new("box", "the box", "tcp://box:2376", Trust::Verified);
        store.save(&stored, &[("ca.pem", b"one".to_vec())]).unwrap();
        // sha256 of "box"
        let meta = folder.path().join("contexts/meta").join(digest("box")).join("meta.json");
        assert_eq!(serde_json::from_slice::<Value>(&fs::read(meta).unwrap()).unwrap(), stored.record);
        assert_eq!(store.all(), std::slice::from_ref(&stored));
        assert_eq!((store.find("box").unwrap().host(), stored.description()), ("tcp://box:2376", "the box"));
        let Endpoint::Tcp { tls: Some(tls), .. } = store.endpoint("box").unwrap() else { panic!() };
        assert!(tls.authority.is_some() && tls.certificate.is_none());
        store.set_current(Some("box")).unwrap();
        assert_eq!(store.current().as_deref(), Some("box"));
        store.set_current(None).unwrap();
        let config: Value = serde_json::from_slice(&fs::read(folder.path().join("config.json")).unwrap()).unwrap();
        assert_eq!(config, json!({ "auths": { "x": {} } }));
        store.remove("box").unwrap();
        assert!(store.find("box").unwrap_err().text().contains("does not exist"));
        assert_eq!(digest("default"), "37a8eec1ce19687d132fe29051dca629d164e2c4958ba141d5f4133a33f0688f");
    }
}
