//! What a user asks a container to be.

use super::HealthCheck;
use super::network::{EndpointRequest, PublishRequest};
use oci::platform::Platform;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A container as it was asked for; the image's own settings are not merged in yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Its name; the engine makes one up if none.
    pub name: Option<String>,
    /// Image reference or id.
    pub image: String,
    /// Which of the images of that name; the one that runs here where none is asked for.
    pub platform: Option<Platform>,
    /// The command; empty for the image's.
    pub command: Vec<String>,
    /// The entry point; `None` for the image's, an empty list for none at all.
    pub entrypoint: Option<Vec<String>>,
    /// `KEY=value`; a bare `KEY` removes the image's.
    pub env: Vec<String>,
    /// Working folder in the container; `None` for the image's.
    pub working_dir: Option<String>,
    /// `user[:group]` by name or number; `None` for the image's.
    pub user: Option<String>,
    /// Host name; the short id if none.
    pub hostname: Option<String>,
    /// NIS domain name.
    pub domainname: Option<String>,
    /// Labels, the image's are added below them.
    pub labels: BTreeMap<String, String>,
    /// Exposed ports, `80/tcp`: recorded for clients.
    #[serde(with = "super::ranges::exposed")]
    pub exposed_ports: Vec<String>,
    /// The process has a terminal.
    pub tty: bool,
    /// The terminal's first size, rows and columns.
    pub console_size: Option<(u16, u16)>,
    /// The process has an input that clients can attach to.
    pub open_stdin: bool,
    /// The first client that ends its input ends the process's.
    pub stdin_once: bool,
    /// Which streams the creating client said it would attach; recorded for clients.
    pub attach_stdin: bool,
    /// See [`Self::attach_stdin`].
    pub attach_stdout: bool,
    /// See [`Self::attach_stdin`].
    pub attach_stderr: bool,
    /// Signal that asks the process to stop: name or number; `None` for the image's or SIGTERM.
    pub stop_signal: Option<String>,
    /// Seconds between that signal and SIGKILL; `None` for ten, below 0 for ever.
    pub stop_timeout_s: Option<i64>,
    /// Binds, volumes and tmpfs.
    pub mounts: Vec<Mount>,
    /// Limits and weights.
    pub resources: Resources,
    /// Devices of the host.
    pub devices: Vec<DeviceRequest>,
    /// Devices that drivers or the Container Device Interface give.
    pub device_requests: Vec<DriverRequest>,
    /// Containers whose mounts it gets too.
    pub volumes_from: Vec<VolumesFrom>,
    /// The runtime that was asked for by name; all names are ours.
    pub runtime: Option<String>,
    /// The control group that its own is to be in, if not the daemon's.
    #[serde(default)]
    pub cgroup_parent: Option<String>,
    /// Rules for the devices cgroup, `c 42:* rmw`.
    pub device_cgroup_rules: Vec<String>,
    /// Capabilities beyond the default set, `NET_ADMIN`, `CAP_NET_ADMIN` or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities to take from the default set.
    pub cap_drop: Vec<String>,
    /// All capabilities, all devices, no seccomp, nothing masked.
    pub privileged: bool,
    /// Seccomp, no_new_privs, security modules.
    pub security: Security,
    /// Which namespaces are the container's own.
    pub namespaces: NamespaceModes,
    /// The network.
    pub network: NetworkMode,
    /// Networks by name or id, and how it wants to be in each; the one of [`Self::network`] may be missing.
    pub endpoints: BTreeMap<String, EndpointRequest>,
    /// Ports that are to be reached through the host.
    #[serde(with = "super::ranges::publish")]
    pub publish: Vec<PublishRequest>,
    /// Every exposed port is to be reached through some port of the host.
    pub publish_all: bool,
    /// Containers of the default network and the names by which this one knows them, `db:database`.
    pub links: Vec<String>,
    /// Resource limits of its processes.
    pub ulimits: Vec<Ulimit>,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// A small init as process 1.
    pub init: bool,
    /// The root file system cannot be written.
    pub read_only_root: bool,
    /// The container is removed when it ends.
    pub auto_remove: bool,
    /// Size of /dev/shm in bytes; 64 MiB if none.
    pub shm_bytes: Option<u64>,
    /// Where its output is recorded.
    pub log: LogDriver,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// How it is seen whether it is well; what is missing is the image's.
    pub health: Option<HealthCheck>,
    /// Supplementary groups, by name or number.
    pub group_add: Vec<String>,
    /// `name:address` lines for /etc/hosts.
    pub extra_hosts: Vec<String>,
    /// Name servers for /etc/resolv.conf; the host's if empty.
    pub dns: Vec<String>,
    /// Search domains for /etc/resolv.conf.
    pub dns_search: Vec<String>,
    /// Options for /etc/resolv.conf.
    pub dns_options: Vec<String>,
    /// How the kernel ranks it when memory runs out, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Paths to mask; `None` for the default list.
    pub masked_paths: Option<Vec<String>>,
    /// Paths to make read-only; `None` for the default list.
    pub readonly_paths: Option<Vec<String>>,
    /// Annotations for the OCI configuration.
    pub annotations: BTreeMap<String, String>,
    /// What the facade wants to find again as it was given, in its own words; nobody else reads it.
    pub asked: Option<String>,
}

impl Default for ContainerSpec {
    fn default() -> Self {
        Self {
            name: None,
            image: String::new(),
            platform: None,
            command: Vec::new(),
            entrypoint: None,
            env: Vec::new(),
            working_dir: None,
            user: None,
            hostname: None,
            domainname: None,
            labels: BTreeMap::new(),
            exposed_ports: Vec::new(),
            tty: false,
            console_size: None,
            open_stdin: false,
            stdin_once: false,
            attach_stdin: false,
            attach_stdout: false,
            attach_stderr: false,
            stop_signal: None,
            stop_timeout_s: None,
            mounts: Vec::new(),
            resources: Resources::default(),
            devices: Vec::new(),
            device_requests: Vec::new(),
            volumes_from: Vec::new(),
            runtime: None,
            cgroup_parent: None,
            device_cgroup_rules: Vec::new(),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            privileged: false,
            security: Security::default(),
            namespaces: NamespaceModes::default(),
            network: NetworkMode::None,
            endpoints: BTreeMap::new(),
            publish: Vec::new(),
            publish_all: false,
            links: Vec::new(),
            ulimits: Vec::new(),
            sysctls: BTreeMap::new(),
            init: false,
            read_only_root: false,
            auto_remove: false,
            shm_bytes: None,
            log: LogDriver::default(),
            restart: RestartPolicy::No,
            health: None,
            group_add: Vec::new(),
            extra_hosts: Vec::new(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            oom_score_adj: None,
            masked_paths: None,
            readonly_paths: None,
            annotations: BTreeMap::new(),
            asked: None,
        }
    }
}

/// One mount beside the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container.
    pub target: String,
    /// It cannot be written.
    pub read_only: bool,
    /// What is mounted.
    pub kind: MountKind,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MountKind {
    /// A file or folder of the host.
    Bind {
        /// Absolute path on the host.
        source: String,
        /// Make the source folder if it is missing (`-v` does, `--mount` does not).
        create_source: bool,
        /// How later mounts travel.
        propagation: Propagation,
        /// Leave mounts below the source out.
        non_recursive: bool,
        /// What a read-only bind means for mounts below the source.
        #[serde(default)]
        read_only_depth: ReadOnlyDepth,
    },
    /// The files of an image, read-only.
    Image {
        /// Image reference or id.
        image: String,
        /// The folder or file of the image that is shown; its root if none.
        subpath: Option<String>,
    },
    /// A named volume, made on first use; anonymous volumes have a random name and go with the container.
    Volume {
        /// Its name; `None` for an anonymous one.
        name: Option<String>,
        /// Do not fill an empty volume with what the image has there.
        no_copy: bool,
        /// The folder or file of the volume that is shown; its root if none. It has to be there at the start.
        #[serde(default)]
        subpath: Option<String>,
        /// Labels for the volume, if it is made for this mount.
        #[serde(default)]
        labels: BTreeMap<String, String>,
        /// Options of the local driver for the volume, if it is made for this mount.
        #[serde(default)]
        options: BTreeMap<String, String>,
    },
    /// Memory.
    Tmpfs {
        /// Size limit in bytes.
        bytes: Option<u64>,
        /// Permission bits.
        mode: Option<u32>,
        /// Further options as mount(8) has them: `noexec`, `uid=1000`.
        options: Vec<String>,
    },
}

impl MountKind {
    /// A volume by name, or an anonymous one, with nothing special about it.
    #[must_use]
    pub fn volume(name: Option<String>) -> Self {
        let (labels, options) = (BTreeMap::new(), BTreeMap::new());
        Self::Volume { name, no_copy: false, subpath: None, labels, options }
    }
}

/// What a read-only bind means for the mounts below its source; see mount_setattr(2), `AT_RECURSIVE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadOnlyDepth {
    /// They cannot be written either.
    #[default]
    Recursive,
    /// They stay as they are.
    Top,
    /// They cannot be written either, or the container does not start.
    Forced,
}

/// How mounts travel between a bind mount and its source; see mount_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the kernel's own words, explained in the page above")]
pub enum Propagation {
    /// Nothing was said: `rprivate`, but `rslave` where the daemon's own folder is concerned. No container's record has it.
    #[default]
    Unsaid,
    Rprivate,
    Private,
    Rshared,
    Shared,
    Rslave,
    Slave,
}

/// Limits and weights; `None` leaves the kernel's default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Memory limit in bytes.
    pub memory_bytes: Option<i64>,
    /// Memory and swap together in bytes, -1 for no limit on swap.
    pub memory_swap_bytes: Option<i64>,
    /// Soft limit in bytes.
    pub memory_reservation_bytes: Option<i64>,
    /// 0 to 100.
    pub memory_swappiness: Option<i64>,
    /// Processes over the limit wait in place of being killed (v1).
    pub oom_kill_disable: bool,
    /// CPU time in billionths of a CPU.
    pub nano_cpus: Option<i64>,
    /// Relative weight, 1024 is normal.
    pub cpu_shares: Option<u64>,
    /// CFS period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// CFS quota in microseconds of each period.
    pub cpu_quota_us: Option<i64>,
    /// Real-time period in microseconds (v1).
    pub cpu_rt_period_us: Option<u64>,
    /// Real-time runtime in microseconds (v1).
    pub cpu_rt_runtime_us: Option<i64>,
    /// CPUs that may be used, `0-2,5`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that may be used.
    pub cpuset_mems: Option<String>,
    /// Number of processes and threads; 0 or below for no limit.
    pub pids_limit: Option<i64>,
    /// Relative weight of block I/O, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// The same for one device.
    pub blkio_weight_device: Vec<BlockLimit>,
    /// Bytes a second read from a device.
    pub device_read_bps: Vec<BlockLimit>,
    /// Bytes a second written to a device.
    pub device_write_bps: Vec<BlockLimit>,
    /// Reads a second from a device.
    pub device_read_iops: Vec<BlockLimit>,
    /// Writes a second to a device.
    pub device_write_iops: Vec<BlockLimit>,
}

/// A rate or weight of one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockLimit {
    /// The device's path on the host.
    pub path: String,
    /// Bytes or operations a second, or the weight.
    pub rate: u64,
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// Path on the host; a folder stands for all devices below it.
    pub host: String,
    /// Path in the container.
    pub container: String,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

/// Devices by driver, in place of paths.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DriverRequest {
    /// `cdi`, `nvidia`, or nothing for whichever driver has the capabilities.
    pub driver: String,
    /// How many; below 0 for all.
    pub count: i64,
    /// Which; for `cdi` `vendor/class=name`.
    pub ids: Vec<String>,
    /// Lists of which one has to be had in full.
    pub capabilities: Vec<Vec<String>>,
    /// For the driver.
    pub options: BTreeMap<String, String>,
}

/// Another container's mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesFrom {
    /// Whose.
    pub container: String,
    /// They cannot be written here.
    pub read_only: bool,
}

/// Seccomp, no_new_privs, security modules.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Security {
    /// Which system calls are allowed.
    pub seccomp: SeccompChoice,
    /// Set-user-id programs gain nothing.
    pub no_new_privileges: bool,
    /// AppArmor profile, `unconfined` for none; `None` for the default where AppArmor is on.
    pub apparmor: Option<String>,
    /// SELinux label options, as `--security-opt label=` has them.
    pub selinux: Vec<String>,
}

/// Which system calls are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompChoice {
    /// Our default profile.
    #[default]
    Default,
    /// All.
    Unconfined,
    /// A profile in Docker's JSON form.
    Profile(String),
}

/// Which namespaces are the container's own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceModes {
    /// User ids.
    pub user: UserMode,
    /// System V IPC and POSIX message queues.
    pub ipc: IpcMode,
    /// Process ids.
    pub pid: PidMode,
    /// Host name.
    pub uts: UtsMode,
    /// View of the cgroup tree.
    pub cgroup: CgroupMode,
}

/// The user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserMode {
    /// As the daemon is configured (`--userns-remap`).
    #[default]
    Default,
    /// The host's.
    Host,
    /// A range of ids of its own, from the pool of subordinate ids.
    Auto,
}

/// The IPC namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpcMode {
    /// Its own.
    #[default]
    Private,
    /// Its own, which others may join.
    Shareable,
    /// Its own, without /dev/shm.
    None,
    /// The host's.
    Host,
    /// Another container's.
    Container(String),
}

/// The PID namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Another container's.
    Container(String),
}

/// The UTS namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UtsMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
}

/// The cgroup namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
}

/// The network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// A network namespace of its own with loopback only.
    #[default]
    None,
    /// The host's.
    Host,
    /// Another container's.
    Container(String),
    /// A network namespace of its own with links into networks: first this one, by name or id.
    Networks(String),
}

/// A resource limit of processes; see setrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `nproc`, …
    pub name: String,
    /// Soft limit, -1 for none.
    pub soft: i64,
    /// Hard limit, -1 for none.
    pub hard: i64,
}

impl Ulimit {
    /// Reads `NAME=SOFT[:HARD]`; nothing if it is none.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (name, values) = text.split_once('=')?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        Some(Self { name: name.to_owned(), soft: soft.parse().ok()?, hard: hard.parse().ok()? })
    }
}

/// Where output is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogDriver {
    /// By what.
    pub driver: LogKind,
    /// The driver's options, `max-size` and others.
    pub options: BTreeMap<String, String>,
}

/// What records output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogKind {
    /// JSON lines in a file of the container, rotated by size.
    #[default]
    JsonFile,
    /// The same, with older files compressed.
    Local,
    /// Nothing.
    None,
    /// systemd's journal.
    Journald,
    /// A syslog server.
    Syslog,
}

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// Whenever it ends, unless it was stopped by hand; also when the daemon starts.
    Always,
    /// As always, but not when the daemon starts after it was stopped by hand.
    UnlessStopped,
    /// When it ends with a code other than 0.
    OnFailure {
        /// At most so many times; 0 for no bound.
        max_retries: u32,
    },
}
