//! Credentials: docker's `config.json`, and the helper programs that it names.
//!
//! # Source
//! Docker's documentation of `config.json`, and of the protocol of `docker-credential-*`.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ClientError;

/// What docker.io is called in `config.json`.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// What proves who we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and its password.
    Password {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
    /// A token that is given to the token service for one that is valid for a while.
    Identity(String),
    /// A token that goes to the registry as it is.
    Bearer(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Secrets do not belong into logs.
        match self {
            Self::Password { name, .. } => write!(f, "Password({name:?})"),
            Self::Identity(_) => f.write_str("Identity"),
            Self::Bearer(_) => f.write_str("Bearer"),
        }
    }
}

/// Where credentials come from.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    /// From nowhere: everything is asked for as nobody.
    #[default]
    None,
    /// The same for every registry: what a user gave with the request.
    Fixed(Credential),
    /// Docker's configuration, read each time.
    Docker(PathBuf),
}

impl Credentials {
    /// Docker's configuration of this user: `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    #[must_use]
    pub fn of_user() -> Self {
        let folder = std::env::var_os("DOCKER_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
        folder.or_else(home).map_or(Self::None, |folder| Self::Docker(folder.join("config.json")))
    }

    /// The credential for a registry's domain. Blocks: a helper program may ask the user's key ring.
    ///
    /// # Errors
    /// When the file or the helper does not work.
    pub fn get(&self, domain: &str) -> Result<Option<Credential>, ClientError> {
        match self {
            Self::None => Ok(None),
            Self::Fixed(credential) => Ok(Some(credential.clone())),
            Self::Docker(path) => DockerConfig::load(path)?.get(domain),
        }
    }
}

/// Docker's `config.json`. Fields that we don't know are kept.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    path: PathBuf,
    content: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperSecret {
    #[serde(default, rename = "ServerURL")]
    server_url: String,
    username: String,
    secret: String,
}

impl DockerConfig {
    /// Reads the file; an empty one if it is not there.
    ///
    /// # Errors
    /// When it cannot be read or is no JSON object.
    pub fn load(path: &Path) -> Result<Self, ClientError> {
        let content = match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| failure("all registries", path, &error))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(failure("all registries", path, &error)),
        };
        Ok(Self { path: path.to_owned(), content })
    }

    /// The program that keeps the credentials of a domain.
    fn helper(&self, domain: &str) -> Option<String> {
        let helpers = self.content.get("credHelpers").and_then(Value::as_object);
        let own = helpers.and_then(|helpers| keys(domain).into_iter().find_map(|key| helpers.get(&key)));
        let name = own.or_else(|| self.content.get("credsStore")).and_then(Value::as_str)?;
        // A name, not a path: the program is looked for as docker does.
        let fits = !name.is_empty() && !name.contains('/');
        fits.then(|| format!("docker-credential-{name}"))
    }

    /// The credential for a registry's domain.
    ///
    /// # Errors
    /// When the entry or the helper does not work.
    pub fn get(&self, domain: &str) -> Result<Option<Credential>, ClientError> {
        if let Some(helper) = self.helper(domain) {
            for key in keys(domain) {
                if let Some(credential) = ask_helper(&helper, domain, &key)? {
                    return Ok(Some(credential));
                }
            }
        }
        let Some(auths) = self.content.get("auths").and_then(Value::as_object) else { return Ok(None) };
        let wanted = keys(domain);
        let entry = wanted.iter().find_map(|key| auths.get(key)).or_else(|| {
            // Old entries have a scheme or a path: https://host/v1/
            auths.iter().find(|(key, _)| wanted.iter().any(|domain| host_of(key) == domain)).map(|(_, entry)| entry)
        });
        let Some(entry) = entry else { return Ok(None) };
        let entry = serde_json::from_value(entry.clone()).map_err(|error| failure(domain, &self.path, &error))?;
        self.credential(domain, entry)
    }

    /// The registries that there is a credential for, as [`DockerConfig::get`] takes them. An entry that does not work is
    /// left out.
    ///
    /// # Errors
    /// When the helper that keeps all of them does not work.
    pub fn domains(&self) -> Result<BTreeSet<String>, ClientError> {
        let named = |field: &str| {
            let object = self.content.get(field).and_then(Value::as_object);
            object.into_iter().flat_map(Map::keys).map(|key| host_of(key).to_owned()).collect::<Vec<_>>()
        };
        let mut domains: BTreeSet<String> = named("auths").into_iter().chain(named("credHelpers")).collect();
        let store = self.content.get("credsStore").and_then(Value::as_str);
        if let Some(store) = store.filter(|name| !name.is_empty() && !name.contains('/')) {
            let helper = format!("docker-credential-{store}");
            let text = run_helper(&helper, "list", "all registries", "")?;
            let listed: Map<String, Value> =
                serde_json::from_str(&text).map_err(|error| failure("all registries", Path::new(&helper), &error))?;
            domains.extend(listed.keys().map(|key| host_of(key).to_owned()));
        }
        Ok(domains)
    }

    fn credential(&self, domain: &str, entry: Entry) -> Result<Option<Credential>, ClientError> {
        if !entry.identitytoken.is_empty() {
            return Ok(Some(Credential::Identity(entry.identitytoken)));
        }
        if !entry.registrytoken.is_empty() {
            return Ok(Some(Credential::Bearer(entry.registrytoken)));
        }
        if entry.auth.is_empty() {
            let given = !entry.username.is_empty();
            return Ok(given.then_some(Credential::Password { name: entry.username, password: entry.password }));
        }
        let decoded = STANDARD.decode(entry.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        let (name, password) =
            pair.ok_or_else(|| failure(domain, &self.path, &"\"auth\" is not base64 of name:password"))?;
        let password = password.trim_end_matches('\0').to_owned();
        Ok(Some(Credential::Password { name: name.to_owned(), password }))
    }

    /// Keeps a credential, in the domain's helper or in the file; the file is replaced whole, readable by its owner only.
    ///
    /// # Errors
    /// When helper or file refuse.
    pub fn store(&mut self, domain: &str, credential: &Credential) -> Result<(), ClientError> {
        let key = keys(domain).swap_remove(0);
        if let Some(helper) = self.helper(domain) {
            let (username, secret) = match credential {
                Credential::Password { name, password } => (name.clone(), password.clone()),
                Credential::Identity(token) | Credential::Bearer(token) => ("<token>".to_owned(), token.clone()),
            };
            let secret = HelperSecret { server_url: key, username, secret };
            let input = serde_json::to_string(&secret).unwrap_or_default();
            return run_helper(&helper, "store", domain, &input).map(drop);
        }
        let entry = match credential {
            Credential::Password { name, password } => {
                serde_json::json!({ "auth": STANDARD.encode(format!("{name}:{password}")) })
            }
            Credential::Identity(token) => serde_json::json!({ "identitytoken": token }),
            Credential::Bearer(token) => serde_json::json!({ "registrytoken": token }),
        };
        let auths = self.content.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        if let Some(auths) = auths.as_object_mut() {
            auths.insert(key, entry);
        }
        self.save(domain)
    }

    /// Forgets a domain's credential; whether there was one.
    ///
    /// # Errors
    /// When helper or file refuse.
    pub fn erase(&mut self, domain: &str) -> Result<bool, ClientError> {
        let mut found = false;
        if let Some(helper) = self.helper(domain) {
            for key in keys(domain) {
                if ask_helper(&helper, domain, &key)?.is_some() {
                    run_helper(&helper, "erase", domain, &key)?;
                    found = true;
                }
            }
        }
        if let Some(auths) = self.content.get_mut("auths").and_then(Value::as_object_mut) {
            let before = auths.len();
            let wanted = keys(domain);
            auths.retain(|key, _| !wanted.iter().any(|domain| domain == key || host_of(key) == domain));
            if auths.len() != before {
                found = true;
                self.save(domain)?;
            }
        }
        Ok(found)
    }

    fn save(&self, domain: &str) -> Result<(), ClientError> {
        use std::os::unix::fs::OpenOptionsExt;
        let failed = |error: std::io::Error| failure(domain, &self.path, &error);
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let text = serde_json::to_vec_pretty(&self.content).unwrap_or_default();
        let staged = self.path.with_extension(format!("json.{}", std::process::id()));
        let mut options = std::fs::File::options();
        let written = options.write(true).create(true).truncate(true).mode(0o600).open(&staged).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        });
        written.and_then(|()| std::fs::rename(&staged, &self.path)).map_err(failed)
    }
}

/// The keys that a domain's credentials may stand under.
fn keys(domain: &str) -> Vec<String> {
    match domain {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => {
            vec![DOCKER_HUB.to_owned(), "index.docker.io".to_owned(), "docker.io".to_owned()]
        }
        other => vec![other.to_owned(), format!("https://{other}")],
    }
}

fn host_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or_default()
}

fn failure(registry: &str, from: &Path, reason: &dyn std::fmt::Display) -> ClientError {
    ClientError::Credentials {
        registry: registry.to_owned(),
        from: from.display().to_string(),
        reason: reason.to_string(),
    }
}

fn ask_helper(helper: &str, domain: &str, key: &str) -> Result<Option<Credential>, ClientError> {
    let text = match run_helper(helper, "get", domain, key) {
        Ok(text) => text,
        // That is how helpers say that they have nothing.
        Err(ClientError::Credentials { reason, .. }) if reason.contains("credentials not found") => return Ok(None),
        Err(error) => return Err(error),
    };
    let secret: HelperSecret =
        serde_json::from_str(&text).map_err(|error| failure(domain, Path::new(helper), &error))?;
    if secret.username == "<token>" {
        return Ok(Some(Credential::Identity(secret.secret)));
    }
    Ok(Some(Credential::Password { name: secret.username, password: secret.secret }))
}

fn run_helper(helper: &str, verb: &str, domain: &str, input: &str) -> Result<String, ClientError> {
    let failed = |reason: &dyn std::fmt::Display| failure(domain, Path::new(helper), reason);
    let mut command = Command::new(helper);
    command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read closes the pipe, and says itself what it wants.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let words = if text.trim().is_empty() { String::from_utf8_lossy(&output.stderr).into_owned() } else { text };
        return Err(failed(&words.trim()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, DockerConfig) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let config = DockerConfig::load(&path).unwrap();
        (folder, config)
    }

    fn password(name: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { name: name.into(), password: password.into() })
    }

    #[test]
    fn entries_are_found_in_all_their_forms() {
        let (_folder, config) = config(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YTpiOmM="},"https://old.example/v1/":{"auth":"eDp5"},
                "plain:5000":{"username":"n","password":"p"},"id":{"auth":"YTpi","identitytoken":"t"},"bad":{"auth":"%"}}}"#,
        );
        assert_eq!(config.get("docker.io").unwrap(), password("a", "b:c"));
        assert_eq!(config.get("old.example").unwrap(), password("x", "y"));
        assert_eq!(config.get("plain:5000").unwrap(), password("n", "p"));
        assert_eq!(config.get("id").unwrap(), Some(Credential::Identity("t".into())));
        assert_eq!(config.get("plain").unwrap(), None);
        assert!(config.get("bad").unwrap_err().to_string().contains("not base64"));
    }

    #[test]
    fn what_is_stored_is_found_and_the_rest_stays() {
        let (_folder, mut config) = config(r#"{"psFormat":"x"}"#);
        let credential = password("anna", "geheim").unwrap();
        config.store("localhost:5000", &credential).unwrap();
        let mut again = DockerConfig::load(&config.path).unwrap();
        assert_eq!(again.get("localhost:5000").unwrap(), Some(credential));
        assert_eq!(again.content["psFormat"], "x");
        assert!(again.erase("localhost:5000").unwrap());
        assert!(!again.erase("localhost:5000").unwrap());
        assert_eq!(DockerConfig::load(&config.path).unwrap().get("localhost:5000").unwrap(), None);
    }

    #[test]
    fn all_registries_are_listed() {
        let (_folder, config) = config(
            r#"{"auths":{"https://index.docker.io/v1/":{},"https://old.example/v1/":{"auth":"eDp5"}},
                "credHelpers":{"helped:5000":"x"}}"#,
        );
        let listed = config.domains().unwrap();
        assert_eq!(listed.into_iter().collect::<Vec<_>>(), ["helped:5000", "index.docker.io", "old.example"]);
    }

    #[test]
    fn a_missing_helper_is_named() {
        let (_folder, config) = config(r#"{"credHelpers":{"a":"insula-is-not-there"}}"#);
        let error = config.get("a").unwrap_err().to_string();
        assert!(error.contains("docker-credential-insula-is-not-there"), "{error}");
        assert_eq!(config.get("b").unwrap(), None);
    }
}
