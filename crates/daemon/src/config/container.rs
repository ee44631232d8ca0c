//! What containers get that do not say otherwise.

use super::{File, either, lists};
use anyhow::{Context, Result, bail};
use clap::Args;
use docker_api::{Defaults, Filter, LimitDefault};
use engine::model::Ulimit;
use serde::Deserialize;
use std::net::IpAddr;
use std::path::Path;

/// Flags of containers' defaults.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ContainerFlags {
    /// Name server of containers that name none
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<IpAddr>,
    /// Option of the resolver in containers that give none
    #[arg(long, value_name = "OPTION")]
    dns_opt: Vec<String>,
    /// Search domain of containers that name none
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Give containers a small init as process 1
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    init: Option<bool>,
    /// Where containers' output is recorded; by default json-file
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Option of that log driver
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    log_opt: Vec<(String, String)>,
    /// Size of /dev/shm; by default 64m
    #[arg(long, value_name = "BYTES")]
    default_shm_size: Option<String>,
    /// Resource limit of containers' processes
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit)]
    default_ulimit: Vec<LimitDefault>,
    /// IPC namespace of containers: private or shareable
    #[arg(long, value_name = "MODE")]
    default_ipc_mode: Option<String>,
    /// Control group namespace of containers: private or host
    #[arg(long, value_name = "MODE")]
    default_cgroupns_mode: Option<String>,
    /// Containers' programs get no more privileges than they begin with
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_new_privileges: Option<bool>,
    /// Filter of system calls: builtin, unconfined, or a profile's file
    #[arg(long, value_name = "builtin|unconfined|FILE")]
    seccomp_profile: Option<String>,
}

/// Bytes, as a number or as `64M`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum Size {
    Bytes(i64),
    Text(String),
}

/// An entry of `default-ulimits`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct UlimitEntry {
    #[serde(default)]
    name: Option<String>,
    hard: i64,
    soft: i64,
}

impl ContainerFlags {
    /// Puts the command line and the file together.
    pub(super) fn with(self, file: &File) -> Result<Defaults> {
        let texts = |list: &[IpAddr]| list.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        let pairs = file.log_opts.clone().into_iter().collect();
        let limits = file.default_ulimits.clone().into_iter();
        let limits = limits.map(|(name, limit)| LimitDefault {
            name: limit.name.unwrap_or(name),
            soft: limit.soft,
            hard: limit.hard,
        });
        let size = self.default_shm_size.map(Size::Text);
        let ipc_mode = either("default-ipc-mode", self.default_ipc_mode, file.default_ipc_mode.clone())?;
        let cgroupns = either("default-cgroupns-mode", self.default_cgroupns_mode, file.default_cgroupns_mode.clone())?;
        let filter = either("seccomp-profile", self.seccomp_profile, file.seccomp_profile.clone())?;
        let no_more = either("no-new-privileges", self.no_new_privileges, file.no_new_privileges)?;
        Ok(Defaults {
            log_driver: either("log-driver", self.log_driver, file.log_driver.clone())?,
            log_options: lists("log-opts", self.log_opt, pairs)?.into_iter().collect(),
            init: either("init", self.init, file.init)?,
            shm_bytes: either("default-shm-size", size, file.default_shm_size.clone())?.map(bytes).transpose()?,
            ulimits: lists("default-ulimits", self.default_ulimit, limits.collect())?,
            dns: lists("dns", texts(&self.dns), texts(&file.dns))?,
            dns_search: lists("dns-search", self.dns_search, file.dns_search.clone())?,
            dns_options: lists("dns-opts", self.dns_opt, file.dns_opts.clone())?,
            ipc_mode: one_of("default-ipc-mode", ipc_mode, &["private", "shareable"])?,
            cgroupns_mode: one_of("default-cgroupns-mode", cgroupns, &["private", "host"])?,
            no_new_privileges: no_more.unwrap_or(false),
            seccomp: filter.map(seccomp).transpose()?.flatten(),
        })
    }
}

fn one_of(name: &str, value: Option<String>, known: &[&str]) -> Result<Option<String>> {
    match value {
        Some(value) if !value.is_empty() && !known.contains(&value.as_str()) => {
            bail!("bad value of {name}: {value:?} is neither {}", known.join(" nor "))
        }
        value => Ok(value.filter(|value| !value.is_empty())),
    }
}

fn seccomp(name: String) -> Result<Option<Filter>> {
    match name.as_str() {
        "" | "builtin" => Ok(None),
        "unconfined" => Ok(Some(Filter { value: name.clone(), name })),
        path => {
            let read = || -> Result<String> {
                let text = std::fs::read_to_string(Path::new(path))?;
                // as small as can be: every container's record has it
                Ok(serde_json::from_str::<serde_json::Value>(&text)?.to_string())
            };
            let value = read().with_context(|| format!("cannot use the seccomp profile {path}"))?;
            Ok(Some(Filter { name, value }))
        }
    }
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| format!("{text:?} is not KEY=VALUE"))
}

fn ulimit(text: &str) -> Result<LimitDefault, String> {
    let fits = |limit: &Ulimit| limit.hard == -1 || (limit.soft != -1 && limit.soft <= limit.hard);
    let read = Ulimit::read(text).filter(|limit| !limit.name.is_empty() && fits(limit));
    read.map(|Ulimit { name, soft, hard }| LimitDefault { name, soft, hard })
        .ok_or_else(|| format!("{text:?} is not NAME=SOFT[:HARD], such as nofile=1024:4096"))
}

/// A size in bytes.
pub(super) fn bytes(size: Size) -> Result<i64> {
    match size {
        Size::Bytes(bytes) => Ok(bytes),
        Size::Text(text) => docker_api::parse_size(&text)
            .and_then(|bytes| i64::try_from(bytes).ok())
            .with_context(|| format!("invalid size: '{text}'")),
    }
}
