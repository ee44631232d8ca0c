//! What the daemon's own settings mean for the API: what clients are told, and what containers get that ask for nothing else.

use crate::error::ApiError;
use docker_wire::models::{HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, ResourcesUlimits};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Settings of the daemon that a running one can change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `KEY=VALUE`.
    pub labels: Vec<String>,
    /// It writes more than usual.
    pub debug: bool,
    /// Registries that may be reached without TLS.
    pub insecure_registries: Vec<String>,
    /// Other places with the content of docker.io.
    pub mirrors: Vec<String>,
    /// Where virtual machines have their folders, which are none of the daemon's but for its metrics.
    pub machines: PathBuf,
    /// What containers get.
    pub defaults: Defaults,
    /// Options of networks that are made without them, by driver.
    pub network_options: BTreeMap<String, BTreeMap<String, String>>,
    /// Clients are told to build in the old way where they know both.
    pub classic_builds: bool,
    /// The proxies on the way to registries, as clients see them.
    pub proxies: Proxies,
}

/// The proxies on the way to registries, as clients see them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http://`.
    pub http: String,
    /// For `https://`.
    pub https: String,
    /// Hosts that are reached without one, with commas between them.
    pub none: String,
}

/// A filter of system calls other than ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Its file, or `unconfined`.
    pub name: String,
    /// What containers get: `unconfined`, or a profile's JSON.
    pub value: String,
}

/// What a container gets that does not ask for something else; nothing of it concerns containers that are there already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Where output is recorded.
    pub log_driver: Option<String>,
    /// The log driver's options; they go with this driver only.
    pub log_options: BTreeMap<String, String>,
    /// A small init as process 1.
    pub init: Option<bool>,
    /// Size of /dev/shm in bytes.
    pub shm_bytes: Option<i64>,
    /// Resource limits of its processes.
    pub ulimits: Vec<LimitDefault>,
    /// Name servers.
    pub dns: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// Options of the resolver.
    pub dns_options: Vec<String>,
    /// `private` or `shareable`.
    pub ipc_mode: Option<String>,
    /// `private` or `host`.
    pub cgroupns_mode: Option<String>,
    /// Its programs get no more privileges than they begin with.
    pub no_new_privileges: bool,
    /// The filter of system calls; ours where there is none.
    pub seccomp: Option<Filter>,
}

/// A resource limit of processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitDefault {
    /// `nofile`, `nproc`, …
    pub name: String,
    /// Soft limit, -1 for none.
    pub soft: i64,
    /// Hard limit, -1 for none.
    pub hard: i64,
}

impl Defaults {
    /// Fills in what a request leaves open.
    ///
    /// # Errors
    /// A default that the API has no such value for.
    pub(crate) fn fill(&self, host: &mut HostConfig) -> Result<(), ApiError> {
        let driver = self.log_driver.clone().unwrap_or_else(|| "json-file".to_owned());
        let log = host.log_config.get_or_insert(HostConfigLogConfig { typ: None, config: None });
        if log.typ.as_deref().unwrap_or_default().is_empty() {
            log.typ = Some(driver.clone());
        }
        if log.typ.as_deref() == Some(driver.as_str()) && !self.log_options.is_empty() {
            let options = log.config.get_or_insert_default();
            for (key, value) in &self.log_options {
                options.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        host.init = host.init.or(self.init);
        host.shm_size = host.shm_size.filter(|bytes| *bytes != 0).or(self.shm_bytes);
        if !self.ulimits.is_empty() {
            let limits = host.ulimits.get_or_insert_default();
            for limit in &self.ulimits {
                if !limits.iter().any(|asked| asked.name.as_deref() == Some(&limit.name)) {
                    let name = Some(limit.name.clone());
                    limits.push(ResourcesUlimits { name, soft: Some(limit.soft), hard: Some(limit.hard) });
                }
            }
        }
        let lists = [
            (&mut host.dns, &self.dns),
            (&mut host.dns_search, &self.dns_search),
            (&mut host.dns_options, &self.dns_options),
        ];
        for (asked, default) in lists {
            if asked.as_ref().is_none_or(Vec::is_empty) && !default.is_empty() {
                *asked = Some(default.clone());
            }
        }
        self.secure(host);
        if host.ipc_mode.as_deref().unwrap_or_default().is_empty() {
            host.ipc_mode.clone_from(&self.ipc_mode);
        }
        if let (None | Some(HostConfigCgroupnsModeEnum::EMPTY), Some(mode)) = (host.cgroupns_mode, &self.cgroupns_mode)
        {
            let known = mode.parse().map_err(|_| ApiError::internal(format!("bad default-cgroupns-mode: {mode}")))?;
            host.cgroupns_mode = Some(known);
        }
        Ok(())
    }

    fn secure(&self, host: &mut HostConfig) {
        let named = |option: &String, name: &str| option.split(['=', ':']).next() == Some(name);
        let asked = |name: &str| host.security_opt.iter().flatten().any(|option| named(option, name));
        let mut more = Vec::new();
        if self.no_new_privileges && !asked("no-new-privileges") {
            more.push("no-new-privileges".to_owned());
        }
        // who has all privileges is not filtered
        if let Some(filter) = self.seccomp.as_ref().filter(|_| !asked("seccomp") && host.privileged != Some(true)) {
            more.push(format!("seccomp={}", filter.value));
        }
        if !more.is_empty() {
            host.security_opt.get_or_insert_default().extend(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays() {
        let defaults = Defaults {
            log_driver: Some("json-file".into()),
            log_options: [("max-size".to_owned(), "1m".to_owned())].into(),
            init: Some(true),
            shm_bytes: Some(1 << 20),
            ulimits: vec![LimitDefault { name: "nofile".into(), soft: 1, hard: 2 }],
            dns: vec!["1.1.1.1".into()],
            cgroupns_mode: Some("host".into()),
            no_new_privileges: true,
            seccomp: Some(Filter { name: "/p.json".into(), value: "{}".into() }),
            ..Defaults::default()
        };
        let mut bare = HostConfig::default();
        defaults.fill(&mut bare).unwrap();
        let log = bare.log_config.clone().unwrap();
        assert_eq!((log.typ.as_deref(), log.config.unwrap()["max-size"].as_str()), (Some("json-file"), "1m"));
        assert_eq!((bare.init, bare.shm_size), (Some(true), Some(1 << 20)));
        assert_eq!(bare.ulimits.unwrap()[0].hard, Some(2));
        assert_eq!(bare.cgroupns_mode, Some(HostConfigCgroupnsModeEnum::HOST));
        assert_eq!(bare.security_opt.unwrap(), ["no-new-privileges", "seccomp={}"]);
        let mut asked = HostConfig {
            security_opt: Some(vec!["no-new-privileges:false".into(), "seccomp=unconfined".into()]),
            log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
            init: Some(false),
            dns: Some(vec!["9.9.9.9".into()]),
            shm_size: Some(5),
            ..HostConfig::default()
        };
        defaults.fill(&mut asked).unwrap();
        assert_eq!(asked.log_config.unwrap().config, None);
        assert_eq!(asked.security_opt.unwrap().len(), 2);
        assert_eq!((asked.init, asked.shm_size, asked.dns.unwrap()[0].as_str()), (Some(false), Some(5), "9.9.9.9"));
    }
}
