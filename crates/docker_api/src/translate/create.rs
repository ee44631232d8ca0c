//! `POST /containers/create`: Docker's configuration to a [`ContainerSpec`].

use super::mounts::Asked;
use super::{Filled, health, mounts, network, refuse, resources, text};
use crate::error::ApiError;
use docker_wire::models::{self, ContainerCreateBody, HostConfig, HostConfigCgroupnsModeEnum as CgroupnsMode};
use engine::model::{
    CgroupMode, ContainerSpec, DeviceRequest, DriverRequest, IpcMode, LogDriver, LogKind, NamespaceModes, PidMode,
    RestartPolicy, SeccompChoice, Security, Ulimit, UserMode, UtsMode, VolumesFrom,
};

/// Translates a request.
pub(crate) fn spec(name: Option<String>, body: ContainerCreateBody) -> Result<ContainerSpec, ApiError> {
    spec_with(name, body, None)
}

/// The same with what newer descriptions of the API leave out: a link-layer address beside the networks.
pub(crate) fn spec_with(
    name: Option<String>,
    mut body: ContainerCreateBody,
    mac_address: Option<String>,
) -> Result<ContainerSpec, ApiError> {
    let mut host = body.host_config.clone().unwrap_or_default();
    refuse_config(&body)?;
    refuse_host(&host)?;
    let image = image(&mut body)?;
    let disabled = body.network_disabled.unwrap_or(false);
    let (network, endpoints) = network::networks(&host, disabled, body.networking_config, mac_address)?;
    let resources = resources::take(&mut host)?;
    let auto_remove = host.auto_remove.unwrap_or(false);
    let restart = restart(&mut host)?;
    let asked = Asked::of(&host);
    let mounts = mounts::take(&mut host, body.volumes.unwrap_or_default())?;
    let env = variables(body.env.unwrap_or_default())?;
    let (security, bare_paths) = security(host.security_opt.take().unwrap_or_default())?;
    let masked_paths = if bare_paths { Some(Vec::new()) } else { host.masked_paths.take() };
    let readonly_paths = if bare_paths { Some(Vec::new()) } else { host.readonly_paths.take() };
    Ok(ContainerSpec {
        name,
        image,
        platform: None,
        command: body.cmd.unwrap_or_default(),
        // a list with one empty word is how clients say "none at all"
        entrypoint: body.entrypoint.map(|list| if list == [""] { Vec::new() } else { list }),
        env,
        working_dir: text(body.working_dir).map(|folder| cleaned(&folder)),
        user: text(body.user),
        hostname: text(body.hostname),
        domainname: text(body.domainname),
        labels: body.labels.unwrap_or_default().into_iter().collect(),
        exposed_ports: sorted(body.exposed_ports.unwrap_or_default()),
        tty: body.tty.unwrap_or(false),
        console_size: console_size(host.console_size.take())?,
        open_stdin: body.open_stdin.unwrap_or(false),
        stdin_once: body.stdin_once.unwrap_or(false),
        attach_stdin: body.attach_stdin.unwrap_or(false),
        attach_stdout: body.attach_stdout.unwrap_or(false),
        attach_stderr: body.attach_stderr.unwrap_or(false),
        stop_signal: text(body.stop_signal),
        stop_timeout_s: body.stop_timeout,
        mounts,
        resources,
        devices: devices(host.devices.take().unwrap_or_default())?,
        device_requests: device_requests(host.device_requests.take().unwrap_or_default()),
        volumes_from: volumes_from(host.volumes_from.take().unwrap_or_default())?,
        runtime: text(host.runtime.take()),
        cgroup_parent: cgroup_parent(host.cgroup_parent.take())?,
        device_cgroup_rules: host.device_cgroup_rules.take().unwrap_or_default(),
        cap_add: host.cap_add.take().unwrap_or_default(),
        cap_drop: host.cap_drop.take().unwrap_or_default(),
        privileged: host.privileged.unwrap_or(false),
        security,
        namespaces: namespaces(&host)?,
        network,
        endpoints,
        publish: network::publish(host.port_bindings.take())?,
        publish_all: host.publish_all_ports.unwrap_or(false),
        links: host.links.take().unwrap_or_default().into_iter().map(link).collect(),
        ulimits: ulimits(host.ulimits.take().unwrap_or_default())?,
        sysctls: host.sysctls.take().unwrap_or_default().into_iter().collect(),
        init: host.init.unwrap_or(false),
        read_only_root: host.readonly_rootfs.unwrap_or(false),
        auto_remove,
        shm_bytes: shm_bytes(host.shm_size)?,
        log: log(host.log_config.take())?,
        restart,
        health: body.healthcheck.map(health::asked).transpose()?,
        group_add: host.group_add.take().unwrap_or_default(),
        extra_hosts: extra_hosts(host.extra_hosts.take().unwrap_or_default())?,
        dns: dns(host.dns.take().unwrap_or_default())?,
        dns_search: host.dns_search.take().unwrap_or_default(),
        dns_options: host.dns_options.take().unwrap_or_default(),
        oom_score_adj: oom_score_adj(host.oom_score_adj)?,
        masked_paths,
        readonly_paths,
        annotations: host.annotations.take().unwrap_or_default().into_iter().collect(),
        asked,
    })
}

fn variables(list: Vec<String>) -> Result<Vec<String>, ApiError> {
    match list.iter().find(|line| line.is_empty() || line.starts_with('=')) {
        Some(bad) => Err(ApiError::invalid(format!("invalid environment variable: {bad}"))),
        None => Ok(list),
    }
}

fn image(body: &mut ContainerCreateBody) -> Result<String, ApiError> {
    text(body.image.take()).ok_or_else(|| match (&body.cmd, &body.entrypoint) {
        // clients know these words
        (None, None) => {
            ApiError::invalid("No command specified, and no image that has one: set Image to a name or an id")
        }
        _ => ApiError::invalid("no image is named; set Image to a name or an id"),
    })
}

fn restart(host: &mut HostConfig) -> Result<RestartPolicy, ApiError> {
    let policy = resources::restart(host.restart_policy.take())?.unwrap_or_default();
    if host.auto_remove == Some(true) && policy != RestartPolicy::No {
        return Err(ApiError::invalid(
            "a container that is removed when it ends (AutoRemove) cannot have a restart policy",
        ));
    }
    Ok(policy)
}

/// A link as people ask for it, or as it is shown of a container: `/db:/web/data`.
fn link(text: String) -> String {
    match text.strip_prefix('/').and_then(|bare| bare.split_once(':')) {
        Some((name, alias)) => format!("{name}:{}", alias.rsplit('/').next().unwrap_or(alias)),
        None => text,
    }
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort_unstable();
    list
}

fn refuse_config(body: &ContainerCreateBody) -> Result<(), ApiError> {
    refuse(body.on_build.filled(), "OnBuild", "")?;
    refuse(body.args_escaped.unwrap_or(false), "ArgsEscaped", "it is for Windows containers")
}

fn refuse_host(host: &HostConfig) -> Result<(), ApiError> {
    if host.annotations.as_ref().is_some_and(|annotations| annotations.contains_key("")) {
        return Err(ApiError::invalid("invalid Annotations: the empty string is not permitted as an annotation key"));
    }
    refuse(host.cgroup.filled(), "HostConfig.Cgroup", "")?;
    refuse(host.storage_opt.filled(), "HostConfig.StorageOpt", "")?;
    let isolation = host.isolation.map(|isolation| isolation.to_string()).unwrap_or_default();
    refuse(!matches!(isolation.as_str(), "" | "default"), "HostConfig.Isolation", "it is for Windows containers")
}

/// A path without what changes nothing about it: `/srv/./a/../` is `/srv`. One that does not begin at the root is left alone.
fn cleaned(path: &str) -> String {
    if !path.starts_with('/') {
        return path.to_owned();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn console_size(size: Option<Vec<usize>>) -> Result<Option<(u16, u16)>, ApiError> {
    match size.as_deref() {
        None | Some([] | [0, 0]) => Ok(None),
        Some([rows, columns]) if u16::try_from(*rows).is_ok() && u16::try_from(*columns).is_ok() => {
            Ok(u16::try_from(*rows).ok().zip(u16::try_from(*columns).ok()))
        }
        Some(other) => Err(ApiError::invalid(format!("invalid console size {other:?}; it is [rows, columns]"))),
    }
}

/// As [`console_size`], for an exec's configuration.
pub(crate) fn exec_console_size(size: Option<Vec<usize>>) -> Result<Option<(u16, u16)>, ApiError> {
    console_size(size)
}

fn namespaces(host: &HostConfig) -> Result<NamespaceModes, ApiError> {
    let other = |text: &str| text.strip_prefix("container:").filter(|name| !name.is_empty()).map(str::to_owned);
    let bad = |kind: &str, mode: &str| ApiError::invalid(format!("invalid {kind} mode: {mode}"));
    let ipc = match host.ipc_mode.as_deref().unwrap_or_default() {
        "" | "private" => IpcMode::Private,
        "shareable" => IpcMode::Shareable,
        "none" => IpcMode::None,
        "host" => IpcMode::Host,
        mode => IpcMode::Container(other(mode).ok_or_else(|| bad("IPC", mode))?),
    };
    let pid = match host.pid_mode.as_deref().unwrap_or_default() {
        "" | "private" => PidMode::Private,
        "host" => PidMode::Host,
        mode => PidMode::Container(other(mode).ok_or_else(|| bad("PID", mode))?),
    };
    let uts = match host.uts_mode.as_deref().unwrap_or_default() {
        "" | "private" => UtsMode::Private,
        "host" => UtsMode::Host,
        mode => return Err(bad("UTS", mode)),
    };
    let user = match host.userns_mode.as_deref().unwrap_or_default() {
        "" => UserMode::Default,
        "host" => UserMode::Host,
        "auto" | "private" => UserMode::Auto,
        mode => return Err(bad("USER", mode)),
    };
    let cgroup = match host.cgroupns_mode {
        None | Some(CgroupnsMode::EMPTY | CgroupnsMode::PRIVATE) => CgroupMode::Private,
        Some(CgroupnsMode::HOST) => CgroupMode::Host,
    };
    Ok(NamespaceModes { user, ipc, pid, uts, cgroup })
}

/// The security options; also whether all system paths shall be left as they are.
fn security(options: Vec<String>) -> Result<(Security, bool), ApiError> {
    let (mut security, mut bare_paths) = (Security::default(), false);
    for option in options {
        let bad = || ApiError::invalid(format!("invalid --security-opt: {option:?}"));
        // the colon is the older way to write it
        let cut = option.find(['=', ':']);
        let (key, value) = cut.map_or((option.as_str(), None), |at| (&option[..at], Some(&option[at + 1..])));
        match (key, value) {
            ("no-new-privileges", None | Some("true")) => security.no_new_privileges = true,
            ("no-new-privileges", Some("false")) => security.no_new_privileges = false,
            ("seccomp", Some("unconfined")) => security.seccomp = SeccompChoice::Unconfined,
            ("seccomp", Some("builtin" | "default")) => security.seccomp = SeccompChoice::Default,
            ("seccomp", Some(profile)) if profile.trim_start().starts_with('{') => {
                security.seccomp = SeccompChoice::Profile(profile.to_owned());
            }
            ("seccomp", Some(_)) => {
                return Err(ApiError::invalid(format!(
                    "invalid --security-opt: {option:?}; seccomp is unconfined, builtin, or a profile's JSON (the client reads the file)"
                )));
            }
            ("apparmor", Some(profile)) if !profile.is_empty() => security.apparmor = Some(profile.to_owned()),
            ("label", Some(label)) if !label.is_empty() => security.selinux.push(label.to_owned()),
            ("systempaths", Some("unconfined")) => bare_paths = true,
            ("writable-cgroups", Some("false")) => {}
            ("writable-cgroups", _) => {
                return Err(ApiError::unsupported("--security-opt writable-cgroups is not supported"));
            }
            _ => return Err(bad()),
        }
    }
    Ok((security, bare_paths))
}

fn devices(list: Vec<models::DeviceMapping>) -> Result<Vec<DeviceRequest>, ApiError> {
    let device = |mapping: models::DeviceMapping| {
        let host = text(mapping.path_on_host).ok_or_else(|| ApiError::invalid("a device has no PathOnHost"))?;
        let permissions = text(mapping.cgroup_permissions).unwrap_or_else(|| "rwm".to_owned());
        if permissions.chars().any(|letter| !"rwm".contains(letter)) {
            return Err(ApiError::invalid(format!(
                "invalid permissions {permissions:?} for device {host}: any of r, w and m"
            )));
        }
        let container = text(mapping.path_in_container).unwrap_or_else(|| host.clone());
        Ok(DeviceRequest { host, container, permissions })
    };
    list.into_iter().map(device).collect()
}

fn device_requests(list: Vec<models::DeviceRequest>) -> Vec<DriverRequest> {
    let one = |request: models::DeviceRequest| DriverRequest {
        driver: request.driver.unwrap_or_default(),
        count: request.count.unwrap_or(0),
        ids: request.device_ids.unwrap_or_default(),
        capabilities: request.capabilities.unwrap_or_default(),
        options: request.options.unwrap_or_default().into_iter().collect(),
    };
    list.into_iter().map(one).collect()
}

fn volumes_from(list: Vec<String>) -> Result<Vec<VolumesFrom>, ApiError> {
    let one = |text: String| {
        let (container, mode) = text.split_once(':').unwrap_or((&text, "rw"));
        if mode.split(',').any(|word| !["ro", "rw", "z", "Z"].contains(&word)) {
            return Err(ApiError::invalid(format!("invalid mode: {mode}")));
        }
        Ok(VolumesFrom { container: container.to_owned(), read_only: mode.split(',').any(|word| word == "ro") })
    };
    list.into_iter().map(one).collect()
}

/// A control group's path; one that does not begin at the root is meant to, as for dockerd without systemd.
pub(crate) fn cgroup_parent(parent: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(parent) = text(parent) else { return Ok(None) };
    if parent.split('/').any(|part| matches!(part, "." | "..")) || parent.contains('\0') {
        return Err(ApiError::invalid(format!("invalid CgroupParent {parent:?}: no part of the path may be . or ..")));
    }
    // the root itself holds the default
    Ok(Some(parent).filter(|parent| !parent.trim_matches('/').is_empty()))
}

fn ulimits(list: Vec<models::ResourcesUlimits>) -> Result<Vec<Ulimit>, ApiError> {
    let ulimit = |limit: models::ResourcesUlimits| {
        let name = text(limit.name).ok_or_else(|| ApiError::invalid("a ulimit has no Name"))?;
        let soft = limit.soft.or(limit.hard).unwrap_or(0);
        let hard = limit.hard.unwrap_or(soft);
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(ApiError::invalid(format!(
                "invalid ulimit {name}: soft limit {soft} is above hard limit {hard}"
            )));
        }
        Ok(Ulimit { name, soft, hard })
    };
    list.into_iter().map(ulimit).collect()
}

fn shm_bytes(size: Option<i64>) -> Result<Option<u64>, ApiError> {
    let size = size.filter(|size| *size != 0);
    size.map(u64::try_from).transpose().map_err(|_| ApiError::invalid("SHM size can not be less than 0 (ShmSize)"))
}

fn oom_score_adj(value: Option<i64>) -> Result<Option<i32>, ApiError> {
    match value {
        None | Some(0) => Ok(None),
        Some(number @ -1000..=1000) => Ok(i32::try_from(number).ok()),
        Some(number) => {
            Err(ApiError::invalid(format!("Invalid value {number}, range for oom score adj is [-1000, 1000]")))
        }
    }
}

fn dns(list: Vec<String>) -> Result<Vec<String>, ApiError> {
    match list.iter().find(|address| address.parse::<std::net::IpAddr>().is_err()) {
        Some(bad) => Err(ApiError::invalid(format!("{bad:?} is not an IP address of a name server"))),
        None => Ok(list),
    }
}

fn extra_hosts(list: Vec<String>) -> Result<Vec<String>, ApiError> {
    for line in &list {
        let parts = line.split_once([':', '=']).filter(|(name, _)| !name.is_empty());
        let Some((_, address)) = parts else {
            return Err(ApiError::invalid(format!("invalid extra host {line:?}; write it NAME:ADDRESS")));
        };
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        if bare != engine::net::HOST_GATEWAY && bare.parse::<std::net::IpAddr>().is_err() {
            return Err(ApiError::invalid(format!("invalid IP address in extra host {line:?}")));
        }
    }
    Ok(list)
}

fn log(config: Option<models::HostConfigLogConfig>) -> Result<LogDriver, ApiError> {
    let config = config.unwrap_or_default();
    let driver = match config.typ.as_deref().unwrap_or_default() {
        "" | "json-file" => LogKind::JsonFile,
        "journald" => LogKind::Journald,
        "local" => LogKind::Local,
        "none" => LogKind::None,
        "syslog" => LogKind::Syslog,
        other => return Err(ApiError::invalid(format!("logger: no log driver named '{other}' is registered"))),
    };
    Ok(LogDriver { driver, options: config.config.unwrap_or_default().into_iter().collect() })
}

/// Docker's name of a log driver.
pub(crate) fn log_name(kind: LogKind) -> &'static str {
    match kind {
        LogKind::JsonFile => "json-file",
        LogKind::Journald => "journald",
        LogKind::Local => "local",
        LogKind::None => "none",
        LogKind::Syslog => "syslog",
    }
}
