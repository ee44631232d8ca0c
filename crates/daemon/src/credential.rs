//! `insulad credential`: what docker's `config.json` and its helper programs know, for the command line, which has no registry
//! client. It runs as the user, not in the daemon.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use engine::registry::client::{Credential, Credentials, DockerConfig};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

/// What to do with a registry's credential.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print it as JSON, or nothing if there is none
    Get { domain: String },
    /// Print all as one JSON object, by registry
    List,
    /// Keep the one that comes as JSON on standard input
    Store { domain: String },
    /// Forget it; says whether there was one
    Erase { domain: String },
}

/// A credential as the API's clients send it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Auth {
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    password: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    identitytoken: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    registrytoken: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    serveraddress: String,
}

impl Auth {
    fn of(credential: Credential, domain: String) -> Self {
        let auth = Self { serveraddress: domain, ..Self::default() };
        match credential {
            Credential::Password { name, password } => Self { username: name, password, ..auth },
            Credential::Identity(identitytoken) => Self { identitytoken, ..auth },
            Credential::Bearer(registrytoken) => Self { registrytoken, ..auth },
        }
    }

    fn credential(self) -> Option<Credential> {
        if !self.identitytoken.is_empty() {
            return Some(Credential::Identity(self.identitytoken));
        }
        (!self.username.is_empty()).then_some(Credential::Password { name: self.username, password: self.password })
    }
}

fn config_path() -> Result<PathBuf> {
    match Credentials::of_user() {
        Credentials::Docker(path) => Ok(path),
        _ => bail!("neither DOCKER_CONFIG nor HOME says where the credentials are"),
    }
}

pub(crate) fn run(command: Command) -> Result<()> {
    let mut config = DockerConfig::load(&config_path()?).context("cannot read docker's configuration")?;
    match command {
        Command::Get { domain } => {
            if let Some(credential) = config.get(&domain)? {
                println!("{}", serde_json::to_string(&Auth::of(credential, domain))?);
            }
        }
        Command::List => {
            let mut all = BTreeMap::new();
            for domain in config.domains()? {
                // a build may need none of those that do not work
                if let Ok(Some(credential)) = config.get(&domain) {
                    all.insert(domain.clone(), Auth::of(credential, domain));
                }
            }
            println!("{}", serde_json::to_string(&all)?);
        }
        Command::Store { domain } => {
            let mut text = String::new();
            std::io::stdin().take(1 << 20).read_to_string(&mut text).context("cannot read the credential")?;
            let auth: Auth = serde_json::from_str(&text).context("the credential is not JSON")?;
            let credential = auth.credential().context("the credential has neither a user name nor a token")?;
            config.store(&domain, &credential)?;
        }
        Command::Erase { domain } => println!("{}", config.erase(&domain)?),
    }
    Ok(())
}
