//! What the daemon is told: by its command line and by a file, which has the names that dockerd's `daemon.json` has.
//!
//! What both say is refused, as dockerd does, for nobody could tell which one counts.

mod builder;
mod container;
mod foreign;
mod listen;
mod network;
mod registry;
mod runtime;
mod userns;

use anyhow::{Context, Result, bail};
use clap::Args;
use container::ContainerFlags;
use docker_api::{Proxies, Settings};
use engine::model::IdRange;
use engine::registry::server::TlsFiles;
use engine::{Distribution, NetworkDefaults, Runtimes};
use foreign::Foreign;
pub(crate) use listen::Host;
use listen::Listen;
use network::NetworkFlags;
use registry::RegistryFlags;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use tracing_subscriber::filter::LevelFilter;
use userns::Remap;

/// The file that is read if there is one and no other is named.
const FILE: &str = "/etc/insula/daemon.json";
const ROOT: &str = "/var/lib/insula";
const RUN: &str = "/run/insula";
/// Below it, the folder of virtual machines, which need no daemon.
const MACHINES: &str = "vm";
const CGROUP_PARENT: &str = "/insula";
/// Where CDI devices are described, the most important folder last.
const CDI: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

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
    /// Folders of files that describe CDI devices; by default /etc/cdi and /var/run/cdi
    #[arg(long, value_name = "DIR")]
    cdi_spec_dir: Vec<PathBuf>,
    /// How many network namespaces are kept ready; 0 for none
    #[arg(long, value_name = "N", default_value_t = 4)]
    netns_pool: usize,
    /// Ids for containers' user namespaces: off, the host's first user id, first group id and their number, or a user who has some in
    /// /etc/subuid and /etc/subgid (default stands for dockremap); by default off
    #[arg(long, value_name = "off|UID:GID:COUNT|default|USER[:GROUP]", value_parser = Remap::from_str)]
    userns_remap: Option<Remap>,
    /// The insula-shim program; by default the one beside this program, or in PATH
    #[arg(long, value_name = "PATH")]
    pub(crate) shim: Option<PathBuf>,
    /// The insula-netd program; by default the one beside this program, or in PATH
    #[arg(long, value_name = "PATH")]
    pub(crate) netd: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkFlags,
    #[command(flatten)]
    containers: ContainerFlags,
    #[command(flatten)]
    registries: RegistryFlags,
    #[command(flatten)]
    foreign: Foreign,
    /// Also write the process id to this file
    #[arg(long, short = 'p', value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Switch something on or off: cdi, buildkit
    #[arg(long, value_name = "NAME=BOOL", value_parser = feature)]
    feature: Vec<(String, bool)>,
    /// Log more
    #[arg(long, short = 'D', value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    debug: Option<bool>,
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
    /// Another OCI runtime, a program with runc's command line, for docker run --runtime NAME
    #[arg(long, value_name = "NAME=PATH", value_parser = runtime::flag)]
    add_runtime: Vec<(String, PathBuf)>,
    /// The runtime of containers that ask for none; by default insula
    #[arg(long, value_name = "NAME")]
    default_runtime: Option<String>,
}

/// The file.
///
/// # Source
/// dockerd's `daemon.json`, whose names and meanings these are.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct File {
    bip: Option<String>,
    bip6: Option<String>,
    bridge: Option<String>,
    builder: builder::Entry,
    cdi_spec_dirs: Option<Vec<PathBuf>>,
    cgroup_parent: Option<String>,
    data_root: Option<PathBuf>,
    debug: Option<bool>,
    default_address_pools: Vec<network::PoolEntry>,
    default_cgroupns_mode: Option<String>,
    default_gateway: Option<IpAddr>,
    default_gateway_v6: Option<IpAddr>,
    default_ipc_mode: Option<String>,
    default_network_opts: BTreeMap<String, BTreeMap<String, String>>,
    default_runtime: Option<String>,
    default_shm_size: Option<container::Size>,
    default_ulimits: BTreeMap<String, container::UlimitEntry>,
    dns: Vec<IpAddr>,
    dns_opts: Vec<String>,
    dns_search: Vec<String>,
    exec_root: Option<PathBuf>,
    features: BTreeMap<String, bool>,
    fixed_cidr: Option<String>,
    fixed_cidr_v6: Option<String>,
    group: Option<String>,
    host_gateway_ip: Option<IpAddr>,
    host_gateway_ips: Vec<IpAddr>,
    hosts: Vec<String>,
    icc: Option<bool>,
    init: Option<bool>,
    insecure_registries: Vec<String>,
    ip: Option<IpAddr>,
    ip_forward: Option<bool>,
    ip_masq: Option<bool>,
    ipv6: Option<bool>,
    labels: Vec<String>,
    log_driver: Option<String>,
    log_level: Option<String>,
    log_opts: BTreeMap<String, String>,
    max_concurrent_downloads: Option<usize>,
    max_concurrent_uploads: Option<usize>,
    max_download_attempts: Option<u32>,
    metrics_addr: Option<String>,
    mtu: Option<u32>,
    no_new_privileges: Option<bool>,
    pidfile: Option<PathBuf>,
    proxies: registry::ProxyEntry,
    registry_mirrors: Vec<String>,
    runtimes: BTreeMap<String, runtime::Entry>,
    seccomp_profile: Option<String>,
    tls: Option<bool>,
    tlscacert: Option<PathBuf>,
    tlscert: Option<PathBuf>,
    tlskey: Option<PathBuf>,
    tlsverify: Option<bool>,
    userns_remap: Option<String>,
    /// Those that have no meaning here.
    #[serde(skip)]
    foreign: Foreign,
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
    pub(crate) cdi_folders: Vec<PathBuf>,
    pub(crate) pidfile: Option<PathBuf>,
    /// What results of builds may take, in bytes.
    pub(crate) cache_bytes: Option<u64>,
    pub(crate) settings: Settings,
    /// What of the settings has no effect, and why.
    pub(crate) warnings: Vec<String>,
}

fn mode(text: &str) -> Result<u32, String> {
    let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o777);
    bits.ok_or_else(|| format!("{text:?} is no file mode; write it in octal, such as 0660"))
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
        let Ok(Value::Object(mut map)) = serde_json::from_str(text) else { return Ok(serde_json::from_str(text)?) };
        if !Foreign::any_in(&map) {
            // read as it is: what is wrong is then told with its line
            return Ok(serde_json::from_str(text)?);
        }
        let foreign = Foreign::take(&mut map)?;
        Ok(Self { foreign, ..serde_json::from_value(Value::Object(map))? })
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
        let (network, network_options) = self.network.with(&file)?;
        let defaults = self.containers.with(&file)?;
        let distribution = self.registries.with(&file)?;
        let mut warnings = self.foreign.warnings(file.foreign)?;
        let cgroup_parent = either("cgroup-parent", self.cgroup_parent, file.cgroup_parent)?;
        let cgroup_parent = cgroup_parent.unwrap_or_else(|| CGROUP_PARENT.to_owned());
        if !cgroup_parent.starts_with('/') || cgroup_parent.split('/').any(|part| part == "..") {
            bail!("the cgroup parent {cgroup_parent:?} is not an absolute path without ..");
        }
        let absolute = |path: PathBuf| std::path::absolute(path).context("cannot find the working folder");
        let remap = file.userns_remap.as_deref().map(Remap::from_str).transpose();
        let remap = remap.map_err(|why| anyhow::anyhow!("bad value of userns-remap: {why}"))?;
        let level = file.log_level.as_deref().map(level).transpose()?;
        let debug = either("debug", self.debug, file.debug)?.unwrap_or(false);
        let log_level = either("log-level", self.log_level, level)?.unwrap_or(LevelFilter::INFO);
        let labels = lists("labels", self.label, file.labels)?;
        if let Some(bad) = labels.iter().find(|label| !label.contains('=')) {
            bail!("bad attribute format: {bad}; a label is KEY=VALUE");
        }
        let cache_bytes = file.builder.limit(&mut warnings)?;
        let features = lists("features", self.feature, file.features.into_iter().collect())?;
        let features: BTreeMap<String, bool> = features.into_iter().collect();
        warnings.extend(features.keys().filter_map(|name| pointless(name)));
        let feature = |name: &str| features.get(name).copied().unwrap_or(true);
        let folders = file.cdi_spec_dirs.unwrap_or_else(|| CDI.map(PathBuf::from).to_vec());
        let mut cdi_folders = if self.cdi_spec_dir.is_empty() { folders } else { self.cdi_spec_dir };
        // an empty word stands for no folder at all
        cdi_folders.retain(|folder| feature("cdi") && !folder.as_os_str().is_empty());
        let listen = Listen::of(
            (self.host, file.hosts),
            either("tls", self.tls, file.tls)?,
            either("tlsverify", self.tlsverify, file.tlsverify)?,
            [
                ("tlscacert", either("tlscacert", self.tlscacert, file.tlscacert)?),
                ("tlscert", either("tlscert", self.tlscert, file.tlscert)?),
                ("tlskey", either("tlskey", self.tlskey, file.tlskey)?),
            ],
        )?;
        let default_runtime = either("default-runtime", self.default_runtime, file.default_runtime)?;
        let client = &distribution.client;
        let proxies = &client.proxies;
        let settings = Settings {
            labels,
            debug,
            insecure_registries: client.trust.insecure.clone(),
            mirrors: client.mirrors.get("docker.io").cloned().unwrap_or_default(),
            machines: PathBuf::new(),
            defaults,
            network_options,
            classic_builds: !feature("buildkit"),
            proxies: Proxies {
                http: proxies.http.clone().unwrap_or_default(),
                https: proxies.https.clone().unwrap_or_default(),
                none: proxies.none.clone(),
            },
        };
        Ok(Resolved {
            root: absolute(either("data-root", self.root, file.data_root)?.unwrap_or_else(|| ROOT.into()))?,
            run: absolute(either("exec-root", self.run, file.exec_root)?.unwrap_or_else(|| RUN.into()))?,
            cgroup_parent,
            netns_pool: self.netns_pool,
            userns: either("userns-remap", self.userns_remap, remap)?.and_then(|remap| remap.0),
            log_level: if debug { log_level.max(LevelFilter::DEBUG) } else { log_level },
            hosts: listen.hosts,
            tls: listen.tls,
            open: listen.open,
            group: either("group", self.socket_group, file.group)?,
            mode: self.socket_mode,
            metrics: either("metrics-addr", self.metrics_addr, file.metrics_addr)?,
            distribution,
            network,
            runtimes: runtime::all(self.add_runtime, file.runtimes, default_runtime)?,
            cdi_folders,
            cache_bytes,
            pidfile: either("pidfile", self.pidfile, file.pidfile)?.map(absolute).transpose()?,
            settings,
            warnings,
        })
    }
}

fn feature(text: &str) -> Result<(String, bool), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, "true"));
    let value = value.parse().map_err(|_| format!("{text:?} is not NAME=true or NAME=false"))?;
    Ok((name.to_owned(), value))
}

/// What is to be told of a feature that nothing depends on.
fn pointless(name: &str) -> Option<String> {
    let why = match name {
        "buildkit" | "cdi" => return None,
        "containerd-snapshotter" => "images are always kept by their content, with all their platforms",
        _ => "it is not known here",
    };
    Some(format!("the feature {name} has no effect: {why}"))
}

/// The words that dockerd and we have for levels.
fn level(text: &str) -> Result<LevelFilter> {
    match text {
        "fatal" | "panic" => Ok(LevelFilter::ERROR),
        _ => text.parse().map_err(|_| anyhow::anyhow!("invalid logging level: {text:?}")),
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
            ("cdi-spec-dirs", self.cdi_folders != other.cdi_folders),
            ("builder", self.cache_bytes != other.cache_bytes),
            ("pidfile", self.pidfile != other.pidfile),
        ];
        all.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests;
