//! What services, networks, volumes, secrets and configs are, typed. The fields are those of the Compose specification.

#![expect(missing_docs, reason = "the fields are described by the Compose specification, under the same names")]

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::unit;

/// Names and values; without a value, the user's own variable is meant, or nothing.
pub type Pairs = BTreeMap<String, Option<String>>;

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| unit::bytes(&text).map_err(serde::de::Error::custom)).transpose()
}

fn or_nothing<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn nanos<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| unit::span(&text).map_err(serde::de::Error::custom)).transpose()
}

/// A service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceSpec {
    pub profiles: Vec<String>,
    pub annotations: Pairs,
    pub attach: Option<bool>,
    pub build: Option<BuildSpec>,
    pub develop: Option<Develop>,
    pub blkio_config: Option<Blkio>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub cgroup_parent: Option<String>,
    pub cgroup: Option<String>,
    pub cpu_count: Option<i64>,
    pub cpu_percent: Option<f64>,
    pub cpu_period: Option<i64>,
    pub cpu_quota: Option<i64>,
    pub cpu_rt_period: Option<i64>,
    pub cpu_rt_runtime: Option<i64>,
    pub cpus: Option<f64>,
    pub cpuset: Option<String>,
    pub cpu_shares: Option<i64>,
    pub command: Option<Vec<String>>,
    pub configs: Vec<Reference>,
    pub container_name: Option<String>,
    pub credential_spec: Option<serde_json::Value>,
    pub depends_on: BTreeMap<String, Dependency>,
    pub deploy: Option<Deploy>,
    pub device_cgroup_rules: Vec<String>,
    pub devices: Vec<Device>,
    pub dns: Vec<String>,
    pub dns_opt: Vec<String>,
    pub dns_search: Vec<String>,
    pub domainname: Option<String>,
    pub entrypoint: Option<Vec<String>>,
    pub provider: Option<Provider>,
    pub environment: Pairs,
    pub env_file: Vec<EnvFile>,
    pub expose: Vec<String>,
    pub external_links: Vec<String>,
    pub extra_hosts: Vec<String>,
    pub group_add: Vec<String>,
    pub gpus: Vec<DeviceRequest>,
    pub hostname: Option<String>,
    pub healthcheck: Option<Health>,
    pub image: Option<String>,
    pub init: Option<bool>,
    pub ipc: Option<String>,
    pub isolation: Option<String>,
    pub labels: Pairs,
    pub label_file: Vec<String>,
    pub links: Vec<String>,
    pub logging: Option<Logging>,
    #[serde(deserialize_with = "bytes")]
    pub mem_limit: Option<i64>,
    #[serde(deserialize_with = "bytes")]
    pub mem_reservation: Option<i64>,
    #[serde(deserialize_with = "bytes")]
    pub memswap_limit: Option<i64>,
    #[serde(deserialize_with = "bytes")]
    pub mem_swappiness: Option<i64>,
    pub mac_address: Option<String>,
    pub models: BTreeMap<String, Option<ModelUse>>,
    pub network_mode: Option<String>,
    pub networks: BTreeMap<String, Option<Attachment>>,
    pub oom_kill_disable: bool,
    pub oom_score_adj: Option<i64>,
    pub pid: Option<String>,
    pub pids_limit: Option<i64>,
    pub platform: Option<String>,
    pub ports: Vec<Port>,
    pub privileged: bool,
    pub pull_policy: Option<String>,
    pub read_only: bool,
    pub restart: Option<String>,
    pub runtime: Option<String>,
    pub scale: Option<i64>,
    pub secrets: Vec<Reference>,
    pub security_opt: Vec<String>,
    #[serde(deserialize_with = "bytes")]
    pub shm_size: Option<i64>,
    pub stdin_open: bool,
    #[serde(deserialize_with = "nanos")]
    pub stop_grace_period: Option<i64>,
    pub stop_signal: Option<String>,
    pub storage_opt: BTreeMap<String, Option<String>>,
    pub sysctls: Pairs,
    pub tmpfs: Vec<String>,
    pub tty: bool,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub use_api_socket: bool,
    pub user: Option<String>,
    pub userns_mode: Option<String>,
    pub uts: Option<String>,
    pub volumes: Vec<Mount>,
    pub volumes_from: Vec<String>,
    pub working_dir: Option<String>,
    pub post_start: Vec<Hook>,
    pub pre_stop: Vec<Hook>,
}

/// A program that makes what the service stands for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Provider {
    #[serde(rename = "type")]
    pub kind: String,
    pub options: BTreeMap<String, Vec<String>>,
}

/// A language model of the project.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ModelSpec {
    pub name: Option<String>,
    pub model: String,
    pub context_size: Option<i64>,
    pub runtime_flags: Vec<String>,
}

/// The variables by which a service knows a model.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ModelUse {
    pub endpoint_var: Option<String>,
    pub model_var: Option<String>,
}

/// How an image is built.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct BuildSpec {
    pub context: String,
    pub dockerfile: Option<String>,
    pub dockerfile_inline: Option<String>,
    pub entitlements: Vec<String>,
    pub args: Pairs,
    pub ssh: Vec<String>,
    pub labels: Pairs,
    pub cache_from: Vec<String>,
    pub cache_to: Vec<String>,
    pub no_cache: bool,
    pub additional_contexts: Pairs,
    pub pull: bool,
    pub extra_hosts: Vec<String>,
    pub isolation: Option<String>,
    pub network: Option<String>,
    pub target: Option<String>,
    pub secrets: Vec<Reference>,
    #[serde(deserialize_with = "bytes")]
    pub shm_size: Option<i64>,
    pub tags: Vec<String>,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub platforms: Vec<String>,
    pub privileged: bool,
}

/// What `watch` does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Develop {
    pub watch: Vec<Trigger>,
}

/// What happens when a file below a path changes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Trigger {
    pub path: String,
    pub action: String,
    pub target: Option<String>,
    pub exec: Option<Hook>,
    pub include: Vec<String>,
    pub ignore: Vec<String>,
    pub initial_sync: bool,
}

/// A program that runs in a service's container when something happens.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Hook {
    #[serde(deserialize_with = "or_nothing")]
    pub command: Vec<String>,
    pub user: Option<String>,
    pub privileged: bool,
    pub working_dir: Option<String>,
    pub environment: Pairs,
}

/// Limits of block devices.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Blkio {
    pub weight: Option<u16>,
    pub weight_device: Vec<DeviceWeight>,
    pub device_read_bps: Vec<DeviceRate>,
    pub device_read_iops: Vec<DeviceRate>,
    pub device_write_bps: Vec<DeviceRate>,
    pub device_write_iops: Vec<DeviceRate>,
}

/// A device's share.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct DeviceWeight {
    pub path: String,
    pub weight: i64,
}

/// A device's limit.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DeviceRate {
    pub path: String,
    #[serde(deserialize_with = "bytes")]
    pub rate: Option<i64>,
}

/// A secret or config in a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Reference {
    pub source: String,
    pub target: Option<String>,
    pub uid: Option<String>,
    pub gid: Option<String>,
    pub mode: Option<String>,
}

/// What has to be before a service starts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Dependency {
    pub condition: String,
    pub restart: bool,
    pub required: bool,
}

/// How a service is deployed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Deploy {
    pub mode: Option<String>,
    pub replicas: Option<i64>,
    pub labels: Pairs,
    pub resources: Resources,
    pub restart_policy: Option<RestartPolicy>,
    pub placement: Option<serde_json::Value>,
    pub endpoint_mode: Option<String>,
    pub update_config: Option<serde_json::Value>,
    pub rollback_config: Option<serde_json::Value>,
}

/// Limits and reservations.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Resources {
    pub limits: Option<ResourceSet>,
    pub reservations: Option<ResourceSet>,
}

/// Amounts of resources.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ResourceSet {
    pub cpus: Option<f64>,
    #[serde(deserialize_with = "bytes")]
    pub memory: Option<i64>,
    pub pids: Option<i64>,
    pub devices: Vec<DeviceRequest>,
}

/// When a container is started again.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    pub condition: Option<String>,
    pub delay: Option<String>,
    pub max_attempts: Option<i64>,
    pub window: Option<String>,
}

/// A device of the host in a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Device {
    pub source: String,
    pub target: String,
    #[serde(default)]
    pub permissions: Option<String>,
}

/// Devices by what they can do.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    pub capabilities: Vec<String>,
    pub driver: Option<String>,
    pub count: Option<i64>,
    pub device_ids: Vec<String>,
    pub options: Pairs,
}

/// A file of variables.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct EnvFile {
    pub path: String,
    #[serde(default)]
    pub required: Option<bool>,
    #[serde(default)]
    pub format: Option<String>,
}

/// How a container's health is checked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Health {
    pub test: Vec<String>,
    #[serde(deserialize_with = "nanos")]
    pub timeout: Option<i64>,
    #[serde(deserialize_with = "nanos")]
    pub interval: Option<i64>,
    pub retries: Option<i64>,
    #[serde(deserialize_with = "nanos")]
    pub start_period: Option<i64>,
    #[serde(deserialize_with = "nanos")]
    pub start_interval: Option<i64>,
    pub disable: bool,
}

/// Where logs go.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Logging {
    pub driver: Option<String>,
    pub options: Pairs,
}

/// How a service is on a network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Attachment {
    pub aliases: Vec<String>,
    pub driver_opts: Pairs,
    pub gw_priority: Option<i64>,
    pub interface_name: Option<String>,
    pub ipv4_address: Option<String>,
    pub ipv6_address: Option<String>,
    pub link_local_ips: Vec<String>,
    pub mac_address: Option<String>,
    pub priority: i64,
}

/// A port that is published.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Port {
    pub name: Option<String>,
    pub mode: String,
    pub host_ip: Option<String>,
    pub target: u16,
    pub published: Option<String>,
    pub protocol: String,
    pub app_protocol: Option<String>,
}

/// A limit of a process: one number for both, or two.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub enum Ulimit {
    Single(i64),
    Pair { soft: i64, hard: i64 },
}

impl Ulimit {
    /// Soft and hard limit.
    #[must_use]
    pub fn both(self) -> (i64, i64) {
        match self {
            Self::Single(value) => (value, value),
            Self::Pair { soft, hard } => (soft, hard),
        }
    }
}

/// A mount of a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Mount {
    #[serde(rename = "type")]
    pub kind: String,
    pub source: Option<String>,
    pub target: String,
    pub read_only: bool,
    pub consistency: Option<String>,
    pub bind: Option<MountBind>,
    pub volume: Option<MountVolume>,
    pub tmpfs: Option<MountTmpfs>,
    pub image: Option<MountImage>,
}

/// How a path of the host is mounted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct MountBind {
    pub selinux: Option<String>,
    pub propagation: Option<String>,
    pub create_host_path: bool,
    pub recursive: Option<String>,
}

/// How a volume is mounted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct MountVolume {
    pub labels: Pairs,
    pub nocopy: bool,
    pub subpath: Option<String>,
}

/// A file system in memory.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct MountTmpfs {
    #[serde(deserialize_with = "bytes")]
    pub size: Option<i64>,
    pub mode: Option<i64>,
}

/// An image that is mounted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct MountImage {
    pub subpath: Option<String>,
}

/// A network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    pub name: String,
    pub driver: Option<String>,
    pub driver_opts: Pairs,
    pub ipam: Ipam,
    pub external: bool,
    pub internal: bool,
    pub attachable: bool,
    pub labels: Pairs,
    pub enable_ipv4: Option<bool>,
    pub enable_ipv6: Option<bool>,
}

/// How a network's addresses are given out.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Ipam {
    pub driver: Option<String>,
    pub config: Vec<Pool>,
    pub options: Pairs,
}

/// A range of addresses.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Pool {
    pub subnet: Option<String>,
    pub gateway: Option<String>,
    pub ip_range: Option<String>,
    pub aux_addresses: Pairs,
}

/// A volume.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct VolumeSpec {
    pub name: String,
    pub driver: Option<String>,
    pub driver_opts: Pairs,
    pub external: bool,
    pub labels: Pairs,
}

/// A secret or config.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ObjectSpec {
    pub name: String,
    pub file: Option<String>,
    pub environment: Option<String>,
    pub content: Option<String>,
    pub external: bool,
    pub labels: Pairs,
    pub driver: Option<String>,
}
