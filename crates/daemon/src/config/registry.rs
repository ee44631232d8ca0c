//! How registries are reached.

use super::{File, either, lists};
use anyhow::{Result, bail};
use clap::Args;
use engine::registry::client::{ClientConfig, Proxies, Trust};
use engine::{Distribution, KeepBlobs};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

const CERTS: &str = "/etc/docker/certs.d";

/// Flags of registries.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct RegistryFlags {
    /// Another place with the content of a registry, asked first: docker.io=https://mirror:5000
    #[arg(long, value_name = "REGISTRY=URL", value_parser = mirror)]
    mirror: Vec<(String, String)>,
    /// As --mirror docker.io=URL
    #[arg(long, value_name = "URL", value_parser = hub_mirror)]
    registry_mirror: Vec<(String, String)>,
    /// Registry (host, host:port or a network such as 10.0.0.0/8) that may speak plain HTTP or have any certificate
    #[arg(long, value_name = "REGISTRY")]
    insecure_registry: Vec<String>,
    /// Folder with a folder for each registry that has authorities (*.crt) and client certificates (*.cert, *.key) of its own
    #[arg(long, value_name = "DIR", default_value = CERTS)]
    registry_certs: PathBuf,
    /// Proxy on the way to http:// addresses; by default what HTTP_PROXY says
    #[arg(long, value_name = "URL")]
    http_proxy: Option<String>,
    /// Proxy on the way to https:// addresses; by default what HTTPS_PROXY says
    #[arg(long, value_name = "URL")]
    https_proxy: Option<String>,
    /// Hosts that are reached without a proxy, with commas between them; by default what NO_PROXY says
    #[arg(long, value_name = "HOSTS")]
    no_proxy: Option<String>,
    /// How many layers of a pull are fetched at a time; by default 3
    #[arg(long, value_name = "N")]
    max_concurrent_downloads: Option<usize>,
    /// How many layers of a push are sent at a time; by default 4
    #[arg(long, value_name = "N")]
    max_concurrent_uploads: Option<usize>,
    /// How often something that fails is tried; by default 6 times
    #[arg(long, value_name = "N")]
    max_download_attempts: Option<u32>,
    /// Whether pulled layers are kept compressed too, so that images go out byte for byte as they came
    #[arg(long, value_name = "yes|no", default_value = "yes", value_parser = keep)]
    keep_compressed: KeepBlobs,
    /// Seconds after the last pull until compressed layers are reduced to what the layers do not have; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 0.2, value_parser = seconds)]
    reduce_after: f64,
}

/// `proxies`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct ProxyEntry {
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    no_proxy: Option<String>,
}

impl RegistryFlags {
    /// Puts the command line and the file together.
    pub(super) fn with(self, file: &File) -> Result<Distribution> {
        let insecure = lists("insecure-registries", self.insecure_registry, file.insecure_registries.clone())?;
        let trust = Trust { certificates: Some(self.registry_certs), insecure };
        let around = Proxies::from_environment();
        let entry = &file.proxies;
        let proxies = Proxies {
            http: either("http-proxy", self.http_proxy, entry.http_proxy.clone())?.or(around.http),
            https: either("https-proxy", self.https_proxy, entry.https_proxy.clone())?.or(around.https),
            none: either("no-proxy", self.no_proxy, entry.no_proxy.clone())?.unwrap_or(around.none),
        };
        let attempts = either("max-download-attempts", self.max_download_attempts, file.max_download_attempts)?;
        let mut client = ClientConfig { trust, proxies, ..ClientConfig::default() };
        match attempts {
            Some(0) => bail!("invalid max download attempts: 0; it is 1 or more"),
            Some(attempts) => client.retries = attempts - 1,
            None => {}
        }
        let of_file = file.registry_mirrors.iter().map(|url| hub_mirror(url)).collect::<Result<_, _>>();
        let of_file = of_file.map_err(|why| anyhow::anyhow!("bad value of registry-mirrors: {why}"))?;
        let flags = self.mirror.into_iter().chain(self.registry_mirror).collect();
        for (registry, url) in lists("registry-mirrors", flags, of_file)? {
            client.mirrors.entry(registry).or_default().push(url);
        }
        let at_once = |name: &str, flag: Option<usize>, file: Option<usize>| match either(name, flag, file)? {
            Some(0) => bail!("bad value of {name}: 0; it is 1 or more"),
            count => Ok(count),
        };
        Ok(Distribution {
            client,
            keep: self.keep_compressed,
            downloads: at_once(
                "max-concurrent-downloads",
                self.max_concurrent_downloads,
                file.max_concurrent_downloads,
            )?,
            uploads: at_once("max-concurrent-uploads", self.max_concurrent_uploads, file.max_concurrent_uploads)?,
            reduce_after: (self.reduce_after > 0.0).then(|| Duration::from_secs_f64(self.reduce_after)),
        })
    }
}

fn mirror(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(registry, url)| !registry.is_empty() && url.contains("://"));
    let pair = pair.map(|(registry, url)| (registry.to_owned(), url.to_owned()));
    pair.ok_or_else(|| format!("{text:?} is not REGISTRY=URL, such as docker.io=https://mirror:5000"))
}

fn hub_mirror(url: &str) -> Result<(String, String), String> {
    let known =
        ["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
    if !known {
        return Err(format!("invalid mirror: {url:?} is no URL such as https://mirror:5000"));
    }
    Ok(("docker.io".to_owned(), url.to_owned()))
}

fn keep(text: &str) -> Result<KeepBlobs, String> {
    match text {
        "yes" => Ok(KeepBlobs::Yes),
        "no" => Ok(KeepBlobs::No),
        _ => Err(format!("{text:?} is neither yes nor no")),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1e9).contains(number));
    number.ok_or_else(|| format!("{text:?} is no number of seconds, such as 60 or 0.2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_and_words_are_checked() {
        assert_eq!(mirror("docker.io=https://m:5").unwrap().1, "https://m:5");
        assert!(mirror("docker.io").is_err() && mirror("=https://m").is_err() && mirror("a=m").is_err());
        assert_eq!(hub_mirror("http://m").unwrap().0, "docker.io");
        assert!(hub_mirror("m:5000").is_err() && hub_mirror("https://").is_err());
        assert!(keep("perhaps").is_err() && seconds("-1").is_err());
    }
}
