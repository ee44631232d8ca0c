//! What the daemon is told: by its command line and by a file, which has the names that dockerd's `daemon.json` has.
//!
//! What both say is refused, as dockerd does, for nobody could tell which one counts.

mod network;
mod runtime;

use anyhow::{Context, Result, bail};
use clap::Args;
use docker_api::{Defaults, LimitDefault, Settings};
use engine::model::IdRange;
use engine::registry::client::{ClientConfig, Trust};
use engine::registry::server::TlsFiles;
use engine::{Distribution, KeepBlobs, NetworkDefaults, Runtimes};
use network::NetworkFlags;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;

/// The file that is read if there is one and no other is named.
const FILE: &str = "/etc/insula/daemon.json";
const ROOT: &str = "/var/lib/insula";
const RUN: &str = "/run/insula";
/// Below it, the folder of virtual machines, which need no daemon.
const MACHINES: &str = "vm";
const CGROUP_PARENT: &str = "/insula";
const CERTS: &str = "/etc/docker/certs.d";

/// The command line of the daemon itself.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Flags {
    /// Read settings from this JSON file, which has the names of dockerd's daemon.json; by default /etc/insula/daemon.json
    #[arg(long, alias = "config-file", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Look the settings over, and end
    #[arg(long)]
    pub(crate) validate: bool,
    /// Folder for what survives a reboot: images, containers, volumes; by default /var/lib/insula
    #[arg(long, alias = "data-root", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Folder for sockets and what else ends with the boot; by default /run/insula
    #[arg(long, alias = "exec-root", value_name = "DIR")]
    run: Option<PathBuf>,
    /// Cgroup below which every container gets its own; by default /insula
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Folders of files that describe CDI devices
    #[arg(long, value_name = "DIR", default_values = ["/etc/cdi", "/var/run/cdi"])]
    pub(crate) cdi_spec_dir: Vec<PathBuf>,
    /// How many network namespaces are kept ready; 0 for none
    #[arg(long, value_name = "N", default_value_t = 4)]
    netns_pool: usize,
    /// Ids for containers' user namespaces: off, or the host's first user id, first group id and their number; by default off
    #[arg(long, value_name = "off|UID:GID:COUNT", value_parser = Remap::from_str)]
    userns_remap: Option<Remap>,
    /// The insula-shim program; by default the one beside this program, or in PATH
    #[arg(long, value_name = "PATH")]
    pub(crate) shim: Option<PathBuf>,
    /// The insula-netd program; by default the one beside this program, or in PATH
    #[arg(long, value_name = "PATH")]
    pub(crate) netd: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkFlags,
    /// What is logged: error, warn, info, debug or trace; by default info
    #[arg(long, short = 'l', value_name = "LEVEL")]
    log_level: Option<LevelFilter>,
    /// Listen here, too: unix:///path or tcp://address:port
    #[arg(long, short = 'H', value_name = "HOST")]
    host: Vec<String>,
    /// Speak TLS over TCP; --tls=false is for those who let anybody in who can connect
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls: Option<bool>,
    /// Speak TLS over TCP, and only with clients whose certificate is signed by --tlscacert
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tlsverify: Option<bool>,
    /// The authority of clients' certificates, in PEM form
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// The daemon's certificate, in PEM form
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// The certificate's key, in PEM form
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Group that may use the sockets
    #[arg(long, short = 'G', alias = "group", value_name = "NAME")]
    socket_group: Option<String>,
    /// Permission bits of the sockets
    #[arg(long, value_name = "MODE", default_value = "0660", value_parser = mode)]
    socket_mode: u32,
    /// Serve metrics for Prometheus at http://ADDRESS:PORT/metrics
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_addr: Option<String>,
    /// A label of the daemon, which clients see
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Another place with the content of a registry, asked first: docker.io=https://mirror:5000
    #[arg(long, value_name = "REGISTRY=URL", value_parser = mirror)]
    mirror: Vec<(String, String)>,
    /// Registry (host, host:port or a network such as 10.0.0.0/8) that may speak plain HTTP or have any certificate
    #[arg(long, value_name = "REGISTRY")]
    insecure_registry: Vec<String>,
    /// Folder with a folder for each registry that has authorities (*.crt) and client certificates (*.cert, *.key) of its own
    #[arg(long, value_name = "DIR", default_value = CERTS)]
    registry_certs: PathBuf,
    /// Another OCI runtime, a program with runc's command line, for docker run --runtime NAME
    #[arg(long, value_name = "NAME=PATH", value_parser = runtime::flag)]
    add_runtime: Vec<(String, PathBuf)>,
    /// The runtime of containers that ask for none; by default insula
    #[arg(long, value_name = "NAME")]
    default_runtime: Option<String>,
    /// Whether pulled layers are kept compressed too, so that images go out byte for byte as they came
    #[arg(long, value_name = "yes|no", default_value = "yes", value_parser = keep)]
    keep_compressed: KeepBlobs,
    /// Seconds after the last pull until compressed layers are reduced to what the layers do not have; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 0.2, value_parser = seconds)]
    reduce_after: f64,
}

/// The file.
///
/// # Source
/// dockerd's `daemon.json`, whose names and meanings these are.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct File {
    bip: Option<String>,
    bridge: Option<String>,
    cgroup_parent: Option<String>,
    data_root: Option<PathBuf>,
    debug: Option<bool>,
    default_address_pools: Vec<network::PoolEntry>,
    default_cgroupns_mode: Option<String>,
    default_ipc_mode: Option<String>,
    default_runtime: Option<String>,
    default_shm_size: Option<Size>,
    default_ulimits: BTreeMap<String, Ulimit>,
    dns: Vec<String>,
    dns_opts: Vec<String>,
    dns_search: Vec<String>,
    exec_root: Option<PathBuf>,
    fixed_cidr: Option<String>,
    group: Option<String>,
    host_gateway_ip: Option<IpAddr>,
    host_gateway_ips: Vec<IpAddr>,
    hosts: Vec<String>,
    init: Option<bool>,
    insecure_registries: Vec<String>,
    ipv6: Option<bool>,
    labels: Vec<String>,
    live_restore: Option<bool>,
    log_driver: Option<String>,
    log_level: Option<String>,
    log_opts: BTreeMap<String, String>,
    metrics_addr: Option<String>,
    mtu: Option<u32>,
    registry_mirrors: Vec<String>,
    runtimes: BTreeMap<String, runtime::Entry>,
    tls: Option<bool>,
    tlscacert: Option<PathBuf>,
    tlscert: Option<PathBuf>,
    tlskey: Option<PathBuf>,
    tlsverify: Option<bool>,
    userns_remap: Option<String>,
}

/// Bytes, as a number or as `64M`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(i64),
    Text(String),
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Ulimit {
    #[serde(default)]
    name: Option<String>,
    hard: i64,
    soft: i64,
}

/// All settings, from wherever they came.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    pub(crate) root: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) cgroup_parent: String,
    pub(crate) netns_pool: usize,
    pub(crate) userns: Option<IdRange>,
    pub(crate) log_level: LevelFilter,
    pub(crate) hosts: Vec<Host>,
    pub(crate) tls: Option<TlsFiles>,
    /// TCP without TLS was asked for in so many words.
    pub(crate) open: bool,
    pub(crate) group: Option<String>,
    pub(crate) mode: u32,
    pub(crate) metrics: Option<String>,
    pub(crate) distribution: Distribution,
    pub(crate) network: NetworkDefaults,
    pub(crate) runtimes: Runtimes,
    pub(crate) settings: Settings,
}

/// Another place to listen at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Unix(PathBuf),
    /// Address and port.
    Tcp(String),
}

#[derive(Debug, Clone, Copy)]
struct Remap(Option<IdRange>);

impl FromStr for Remap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if matches!(text, "off" | "") {
            return Ok(Self(None));
        }
        let wrong = || format!("{text:?} is neither off nor UID:GID:COUNT, such as 100000:100000:65536");
        let numbers: Vec<u32> = text.split(':').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
        let [first_uid, first_gid, count] = *numbers.as_slice() else { return Err(wrong()) };
        if count == 0 || first_uid.checked_add(count).is_none() || first_gid.checked_add(count).is_none() {
            return Err(format!("the range {text} is empty or goes beyond the largest id"));
        }
        Ok(Self(Some(IdRange { first_uid, first_gid, count })))
    }
}

fn mirror(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(registry, url)| !registry.is_empty() && url.contains("://"));
    let pair = pair.map(|(registry, url)| (registry.to_owned(), url.to_owned()));
    pair.ok_or_else(|| format!("{text:?} is not REGISTRY=URL, such as docker.io=https://mirror:5000"))
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

fn mode(text: &str) -> Result<u32, String> {
    let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o777);
    bits.ok_or_else(|| format!("{text:?} is no file mode; write it in octal, such as 0660"))
}

impl Host {
    fn parse(text: &str, default_port: u16) -> Result<Self> {
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("tcp", address)) => {
                let address = address.trim_end_matches('/');
                let (host, port) = match address.rsplit_once(':') {
                    Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
                    _ => (address, Some(default_port)),
                };
                let port: u16 = port.with_context(|| format!("host {text:?} has no port that is a number"))?;
                Ok(Self::Tcp(format!("{}:{port}", if host.is_empty() { "0.0.0.0" } else { host })))
            }
            _ => bail!("host {text:?} is neither unix:///PATH nor tcp://ADDRESS:PORT"),
        }
    }
}

impl File {
    fn read(flags: &Flags) -> Result<Self> {
        let path = flags.config.clone().unwrap_or_else(|| FILE.into());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && flags.config.is_none() => {
                return Ok(Self::default());
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read the settings in {}", path.display())),
        };
        Self::parse(&text).with_context(|| format!("unable to configure the daemon with file {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        Ok(serde_json::from_str(text)?)
    }
}

/// What one place says or the other; both is a mistake.
fn either<T>(name: &str, flag: Option<T>, file: Option<T>) -> Result<Option<T>> {
    match (flag, file) {
        (Some(_), Some(_)) => bail!(
            "the following directives are specified both as a flag and in the configuration file: {name}; leave one of them out"
        ),
        (flag, file) => Ok(flag.or(file)),
    }
}

/// As [`either`], for lists.
fn lists<T>(name: &str, flag: Vec<T>, file: Vec<T>) -> Result<Vec<T>> {
    let some = |list: Vec<T>| (!list.is_empty()).then_some(list);
    Ok(either(name, some(flag), some(file))?.unwrap_or_default())
}

impl Flags {
    /// Puts the command line, the file and the defaults together.
    ///
    /// # Errors
    /// What is wrong, with the setting's name.
    pub(crate) fn resolve(&self) -> Result<Resolved> {
        let mut resolved = self.clone().with(File::read(self)?)?;
        resolved.settings.machines = resolved.run.join(MACHINES);
        Ok(resolved)
    }

    fn with(self, file: File) -> Result<Resolved> {
        if file.live_restore == Some(false) {
            bail!("live-restore cannot be switched off: containers always outlive the daemon; take it out of the file");
        }
        let network = self.network.with(&file)?;
        let cgroup_parent = either("cgroup-parent", self.cgroup_parent, file.cgroup_parent)?;
        let cgroup_parent = cgroup_parent.unwrap_or_else(|| CGROUP_PARENT.to_owned());
        if !cgroup_parent.starts_with('/') || cgroup_parent.split('/').any(|part| part == "..") {
            bail!("the cgroup parent {cgroup_parent:?} is not an absolute path without ..");
        }
        let absolute = |path: PathBuf| std::path::absolute(path).context("cannot find the working folder");
        let remap = file.userns_remap.as_deref().map(Remap::from_str).transpose();
        let remap = remap.map_err(|why| anyhow::anyhow!("bad value of userns-remap: {why}"))?;
        let level = file.log_level.as_deref().map(level).transpose()?;
        let debug = file.debug.unwrap_or(false);
        let log_level = either("log-level", self.log_level, level)?.unwrap_or(LevelFilter::INFO);
        let labels = lists("labels", self.label, file.labels)?;
        if let Some(bad) = labels.iter().find(|label| !label.contains('=')) {
            bail!("bad attribute format: {bad}; a label is KEY=VALUE");
        }
        let tls_flag = either("tls", self.tls, file.tls)?;
        let verify = either("tlsverify", self.tlsverify, file.tlsverify)?;
        let files = [
            ("tlscacert", either("tlscacert", self.tlscacert, file.tlscacert)?),
            ("tlscert", either("tlscert", self.tlscert, file.tlscert)?),
            ("tlskey", either("tlskey", self.tlskey, file.tlskey)?),
        ];
        let tls = tls(tls_flag, verify, files)?;
        let port = if tls.is_some() { 2376 } else { 2375 };
        let hosts = lists("hosts", self.host, file.hosts)?;
        let hosts = hosts.iter().map(|host| Host::parse(host, port)).collect::<Result<Vec<_>>>()?;
        let open = tls.is_none() && (tls_flag == Some(false) || verify == Some(false));
        if !open && tls.is_none() && hosts.iter().any(|host| matches!(host, Host::Tcp(_))) {
            bail!(
                "whoever reaches a TCP port without TLS is root on this host: give --tlsverify with --tlscacert, --tlscert \
                 and --tlskey, or say --tls=false if that is what you want"
            );
        }
        let defaults = Defaults {
            log_driver: file.log_driver,
            log_options: file.log_opts,
            init: file.init,
            shm_bytes: file.default_shm_size.map(bytes).transpose()?,
            ulimits: file.default_ulimits.into_iter().map(limit).collect(),
            dns: file.dns,
            dns_search: file.dns_search,
            dns_options: file.dns_opts,
            ipc_mode: file.default_ipc_mode,
            cgroupns_mode: file.default_cgroupns_mode,
        };
        let insecure_registries = lists("insecure-registries", self.insecure_registry, file.insecure_registries)?;
        let trust = Trust { certificates: Some(self.registry_certs), insecure: insecure_registries.clone() };
        let mut client = ClientConfig { trust, ..ClientConfig::default() };
        let mirrors = file.registry_mirrors.into_iter().map(|url| ("docker.io".to_owned(), url)).collect();
        let mirrors = lists("registry-mirrors", self.mirror, mirrors)?;
        for (registry, url) in &mirrors {
            client.mirrors.entry(registry.clone()).or_default().push(url.clone());
        }
        let mirrors = client.mirrors.get("docker.io").cloned().unwrap_or_default();
        let default_runtime = either("default-runtime", self.default_runtime, file.default_runtime)?;
        let runtimes = runtime::all(self.add_runtime, file.runtimes, default_runtime)?;
        let reduce_after = (self.reduce_after > 0.0).then(|| Duration::from_secs_f64(self.reduce_after));
        Ok(Resolved {
            root: absolute(either("data-root", self.root, file.data_root)?.unwrap_or_else(|| ROOT.into()))?,
            run: absolute(either("exec-root", self.run, file.exec_root)?.unwrap_or_else(|| RUN.into()))?,
            cgroup_parent,
            netns_pool: self.netns_pool,
            userns: either("userns-remap", self.userns_remap, remap)?.and_then(|remap| remap.0),
            log_level: if debug { log_level.max(LevelFilter::DEBUG) } else { log_level },
            hosts,
            tls,
            open,
            group: either("group", self.socket_group, file.group)?,
            mode: self.socket_mode,
            metrics: either("metrics-addr", self.metrics_addr, file.metrics_addr)?,
            distribution: Distribution { client, keep: self.keep_compressed, reduce_after },
            network,
            runtimes,
            settings: Settings { labels, debug, insecure_registries, mirrors, machines: PathBuf::new(), defaults },
        })
    }
}

/// The words that dockerd and we have for levels.
fn level(text: &str) -> Result<LevelFilter> {
    match text {
        "fatal" | "panic" => Ok(LevelFilter::ERROR),
        _ => text.parse().map_err(|_| anyhow::anyhow!("invalid logging level: {text:?}")),
    }
}

fn tls(
    on: Option<bool>,
    verify: Option<bool>,
    [authority, certificate, key]: [(&str, Option<PathBuf>); 3],
) -> Result<Option<TlsFiles>> {
    let wanted = verify.or(on).unwrap_or(false);
    if !wanted {
        return Ok(None);
    }
    let needed = |(name, path): (&str, Option<PathBuf>)| {
        path.with_context(|| format!("TLS needs --{name}, the path of a PEM file"))
    };
    let clients = if verify == Some(true) { Some(needed(authority)?) } else { None };
    Ok(Some(TlsFiles { certificate: needed(certificate)?, key: needed(key)?, clients }))
}

fn limit((name, limit): (String, Ulimit)) -> LimitDefault {
    LimitDefault { name: limit.name.unwrap_or(name), soft: limit.soft, hard: limit.hard }
}

fn bytes(size: Size) -> Result<i64> {
    match size {
        Size::Bytes(bytes) => Ok(bytes),
        Size::Text(text) => docker_api::parse_size(&text)
            .and_then(|bytes| i64::try_from(bytes).ok())
            .with_context(|| format!("invalid size: '{text}'")),
    }
}

impl Resolved {
    /// The names of the settings that only a new start can change, and that differ from `other`'s.
    pub(crate) fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        let same_tls = |a: &Option<TlsFiles>, b: &Option<TlsFiles>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => (&a.certificate, &a.key, &a.clients) == (&b.certificate, &b.key, &b.clients),
            _ => false,
        };
        let all = [
            ("data-root", self.root != other.root),
            ("exec-root", self.run != other.run),
            ("cgroup-parent", self.cgroup_parent != other.cgroup_parent),
            ("the default network", self.network != other.network),
            ("userns-remap", self.userns != other.userns),
            ("hosts", self.hosts != other.hosts),
            ("group", self.group != other.group),
            ("metrics-addr", self.metrics != other.metrics),
            ("tls", !same_tls(&self.tls, &other.tls) || self.open != other.open),
            ("insecure-registries", self.settings.insecure_registries != other.settings.insecure_registries),
            ("registry-mirrors", self.settings.mirrors != other.settings.mirrors),
        ];
        all.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests;
