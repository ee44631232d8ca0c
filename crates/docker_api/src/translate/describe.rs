//! `GET /containers/{id}/json`: a container as Docker shows it.

use super::time::{NEVER, rfc3339};
use super::{health, mounts, network, resources};
use docker_wire::models::{
    ContainerConfig, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status, DeviceMapping,
    DeviceRequest, DriverData, HostConfig, HostConfigCgroupnsModeEnum as CgroupnsMode, HostConfigLogConfig, MountPoint,
    NetworkSettings, ResourcesUlimits,
};
use engine::Paths;
use engine::model::{
    CgroupMode, Container, ContainerSpec, DriverRequest, ExecId, IpcMode, LogDriver, LogKind, MountKind, NetworkMode,
    Phase, PidMode, SeccompChoice, UserMode, UtsMode, VolumesFrom,
};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

fn path_text(path: &Path) -> Option<String> {
    Some(path.to_string_lossy().into_owned())
}

/// The whole answer.
pub(crate) fn container(container: &Container, paths: &Paths, execs: &[ExecId]) -> ContainerInspectResponse {
    let spec = &container.spec;
    let (path, args) = container.process.args.split_first().map_or((String::new(), &[][..]), |(p, a)| (p.clone(), a));
    ContainerInspectResponse {
        id: Some(container.id.to_string()),
        created: Some(rfc3339(container.created_ns)),
        path: Some(path),
        args: Some(args.to_vec()),
        state: Some(state(container)),
        image: Some(container.image_id.clone()),
        resolv_conf_path: path_text(&paths.resolv_conf),
        hostname_path: path_text(&paths.hostname),
        hosts_path: path_text(&paths.hosts),
        log_path: match spec.log.driver {
            LogKind::JsonFile => path_text(&paths.log),
            _ => Some(String::new()),
        },
        name: Some(format!("/{}", container.name)),
        restart_count: Some(container.restart_count.into()),
        driver: Some(STORAGE.to_owned()),
        platform: Some("linux".to_owned()),
        mount_label: Some(String::new()),
        process_label: Some(String::new()),
        app_armor_profile: Some(spec.security.apparmor.clone().unwrap_or_default()),
        exec_ids: Some(execs.iter().map(ToString::to_string).collect::<Vec<_>>()).filter(|ids| !ids.is_empty()),
        host_config: Some(host_config(spec)),
        graph_driver: Some(graph_driver(container, paths)),
        mounts: Some(mount_points(container)),
        config: Some(config(container)),
        network_settings: Some(network_settings(container)),
        ..Default::default()
    }
}

/// The link-layer address that was asked for in the network that a container was made in.
fn main_mac(container: &Container) -> Option<String> {
    let NetworkMode::Networks(main) = &container.spec.network else { return None };
    Some(container.endpoints.get(main)?.request.mac?.to_string())
}

/// The whole answer as JSON, with the fields that only older clients read.
///
/// # Errors
/// Never for what [`container`] makes.
pub(crate) fn shown(record: &Container, paths: &Paths, execs: &[ExecId]) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(container(record, paths, execs))?;
    if let Some(settings) = value.get_mut("NetworkSettings").and_then(Value::as_object_mut) {
        settings.extend(network::old_settings(record));
    }
    whole(&mut value, WHOLE);
    for (part, fields) in [("Config", CONFIG), ("HostConfig", HOST), ("NetworkSettings", SETTINGS)] {
        whole(&mut value[part], fields);
    }
    // where clients look that are older than addresses of one's own in each network
    if let Some(mac) = main_mac(record) {
        value["Config"]["MacAddress"] = mac.into();
    }
    if let Some(networks) = value["NetworkSettings"]["Networks"].as_object_mut() {
        networks.values_mut().for_each(|network| whole(network, ENDPOINT));
    }
    if let Some(host) = value.get_mut("HostConfig").and_then(Value::as_object_mut) {
        let one = |text: &String| {
            let (name, alias) = text.split_once(':').unwrap_or((text, text));
            format!("/{}:/{}/{alias}", name.trim_start_matches('/'), record.name)
        };
        let links: Vec<String> = record.spec.links.iter().map(one).collect();
        host.insert("Links".to_owned(), if links.is_empty() { Value::Null } else { links.into() });
    }
    Ok(value)
}

/// Before API 1.45 a container's short id was shown among its aliases in networks of one's own, where it is known by it.
pub(crate) fn short_id_aliases(record: &Container, shown: &mut Value) {
    let Some(networks) = shown["NetworkSettings"]["Networks"].as_object_mut() else { return };
    for (name, network) in networks.iter_mut().filter(|(name, _)| *name != engine::model::DEFAULT_NETWORK) {
        if !record.endpoints.contains_key(name) {
            continue;
        }
        let id = Value::from(record.id.short());
        match network["Aliases"].as_array_mut() {
            Some(aliases) if !aliases.contains(&id) => aliases.push(id),
            Some(_) => {}
            None => network["Aliases"] = vec![id].into(),
        }
    }
}

/// Fields that are always there with Docker, so that clients read them without asking: null where there is nothing to say.
const WHOLE: &[&str] = &["ExecIDs"];
const CONFIG: &[&str] = &["Cmd", "Entrypoint", "Env", "Image", "Labels", "OnBuild", "Volumes", "WorkingDir"];
const HOST: &[&str] = &[
    "Binds",
    "BlkioDeviceReadBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps",
    "BlkioWeightDevice",
    "CapAdd",
    "CapDrop",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "MaskedPaths",
    "MemorySwappiness",
    "OomKillDisable",
    "PidsLimit",
    "ReadonlyPaths",
    "SecurityOpt",
    "Ulimits",
    "VolumesFrom",
];
const SETTINGS: &[&str] = &["Networks", "Ports"];
const ENDPOINT: &[&str] = &["Aliases", "DNSNames", "DriverOpts", "IPAMConfig", "Links"];

/// Adds the fields that are missing. What has none at all stays as it is.
fn whole(value: &mut Value, fields: &[&str]) {
    if let Some(map) = value.as_object_mut() {
        for field in fields {
            map.entry(*field).or_insert(Value::Null);
        }
    }
}

/// What Docker calls the storage driver.
pub(crate) const STORAGE: &str = "erofs-overlay";

fn graph_driver(container: &Container, paths: &Paths) -> DriverData {
    let mut data = HashMap::new();
    if !container.spec.read_only_root {
        data.insert("UpperDir".to_owned(), paths.dir.join("upper").to_string_lossy().into_owned());
        data.insert("WorkDir".to_owned(), paths.dir.join("work").to_string_lossy().into_owned());
    }
    DriverData { name: STORAGE.to_owned(), data }
}

/// Whether its policy has it run again: also while it is being started for that.
pub(crate) fn is_restarting(container: &Container) -> bool {
    container.restarting || (container.phase == Phase::Starting && container.restart_count > 0)
}

/// The phase as clients know it: one that is being started is as it was before.
pub(crate) fn phase(container: &Container) -> Phase {
    match container.phase {
        Phase::Starting if container.finished.is_some() => Phase::Exited,
        Phase::Starting => Phase::Created,
        phase => phase,
    }
}

/// The state, with Docker's names for the phases.
pub(crate) fn state(container: &Container) -> ContainerState {
    let finished = container.finished.as_ref();
    // a container that runs again shows the end of its last run, but neither its code nor its error
    let over = finished.filter(|_| !container.is_alive());
    ContainerState {
        status: Some(match phase(container) {
            Phase::Exited if is_restarting(container) => Status::RESTARTING,
            Phase::Created | Phase::Starting => Status::CREATED,
            Phase::Running => Status::RUNNING,
            Phase::Paused => Status::PAUSED,
            Phase::Exited => Status::EXITED,
            Phase::Removing => Status::REMOVING,
        }),
        running: Some(matches!(container.phase, Phase::Running | Phase::Paused) || is_restarting(container)),
        paused: Some(container.phase == Phase::Paused),
        restarting: Some(is_restarting(container)),
        oom_killed: Some(over.is_some_and(|end| end.oom_killed)),
        dead: Some(false),
        pid: Some(container.pid().into()),
        exit_code: Some(over.map_or(0, |end| end.code.into())),
        error: Some(over.map_or_else(String::new, |end| end.error.clone())),
        started_at: Some(container.runtime.as_ref().map_or_else(|| NEVER.to_owned(), |run| rfc3339(run.started_ns))),
        finished_at: Some(finished.map_or_else(|| NEVER.to_owned(), |end| rfc3339(end.at_ns))),
        health: container.health.as_ref().map(health::shown),
    }
}

fn config(container: &Container) -> ContainerConfig {
    let spec = &container.spec;
    let anonymous = spec.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Volume { name: None, .. }));
    let volumes: Vec<String> = anonymous.map(|mount| mount.target.clone()).collect();
    ContainerConfig {
        hostname: Some(spec.hostname.clone().unwrap_or_else(|| container.id.short().to_owned())),
        domainname: Some(spec.domainname.clone().unwrap_or_default()),
        user: Some(container.process.user.clone()),
        attach_stdin: Some(spec.attach_stdin),
        attach_stdout: Some(spec.attach_stdout),
        attach_stderr: Some(spec.attach_stderr),
        exposed_ports: Some(spec.exposed_ports.clone()).filter(|ports| !ports.is_empty()),
        tty: Some(spec.tty),
        open_stdin: Some(spec.open_stdin),
        stdin_once: Some(spec.stdin_once),
        // a bare name takes the image's variable away, and is shown
        env: Some(
            container.process.env.iter().chain(spec.env.iter().filter(|one| !one.contains('='))).cloned().collect(),
        ),
        cmd: Some(spec.command.clone()),
        image: Some(spec.image.clone()),
        volumes: Some(volumes).filter(|volumes| !volumes.is_empty()),
        working_dir: Some(container.process.cwd.clone()),
        entrypoint: spec.entrypoint.clone(),
        labels: Some(spec.labels.clone().into_iter().collect()),
        healthcheck: spec.health.as_ref().map(health::config),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: spec.stop_timeout_s,
        ..Default::default()
    }
}

/// The network mode as Docker writes it.
pub(crate) fn network_mode(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Container(name) => format!("container:{name}"),
        NetworkMode::Networks(name) => name.clone(),
    }
}

/// The request's host configuration, drawn again from what was understood of it.
pub(crate) fn host_config(spec: &ContainerSpec) -> HostConfig {
    let mut host = HostConfig::default();
    resources::show(&spec.resources, &mut host);
    host.cgroup_parent = Some(spec.cgroup_parent.clone().unwrap_or_default());
    mounts::Asked::show(spec.asked.as_deref(), &mut host);
    show_isolation(spec, &mut host);
    let device = |device: &engine::model::DeviceRequest| DeviceMapping {
        path_on_host: Some(device.host.clone()),
        path_in_container: Some(device.container.clone()),
        cgroup_permissions: Some(device.permissions.clone()),
    };
    let ulimit = |limit: &engine::model::Ulimit| ResourcesUlimits {
        name: Some(limit.name.clone()),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    };
    host.devices = Some(spec.devices.iter().map(device).collect());
    host.device_cgroup_rules = Some(spec.device_cgroup_rules.clone()).filter(|rules| !rules.is_empty());
    host.ulimits = Some(spec.ulimits.iter().map(ulimit).collect());
    host.log_config = Some(log_config(&spec.log));
    host.network_mode = Some(network_mode(&spec.network));
    host.port_bindings = Some(network::show_publish(&spec.publish));
    host.publish_all_ports = Some(spec.publish_all);
    host.restart_policy = Some(resources::show_restart(spec.restart));
    host.auto_remove = Some(spec.auto_remove);
    host.container_id_file = Some(String::new());
    let (rows, columns) = spec.console_size.unwrap_or_default();
    host.console_size = Some(vec![rows.into(), columns.into()]);
    host.annotations =
        Some(spec.annotations.clone().into_iter().collect()).filter(|map: &HashMap<_, _>| !map.is_empty());
    host.dns = Some(spec.dns.clone());
    host.dns_options = Some(spec.dns_options.clone());
    host.dns_search = Some(spec.dns_search.clone());
    host.extra_hosts = Some(spec.extra_hosts.clone()).filter(|hosts| !hosts.is_empty());
    host.group_add = Some(spec.group_add.clone()).filter(|groups| !groups.is_empty());
    host.oom_score_adj = Some(spec.oom_score_adj.unwrap_or(0).into());
    host.init = Some(spec.init);
    host.shm_size = Some(spec.shm_bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(64 << 20));
    host.sysctls = Some(spec.sysctls.clone().into_iter().collect()).filter(|map: &HashMap<_, _>| !map.is_empty());
    host.runtime = Some(spec.runtime.clone().unwrap_or_else(|| engine::OWN_RUNTIME.to_owned()));
    host.volumes_from =
        Some(spec.volumes_from.iter().map(volumes_from).collect()).filter(|list: &Vec<_>| !list.is_empty());
    host.device_requests =
        Some(spec.device_requests.iter().map(device_request).collect()).filter(|list: &Vec<_>| !list.is_empty());
    host
}

fn volumes_from(from: &VolumesFrom) -> String {
    if from.read_only { format!("{}:ro", from.container) } else { from.container.clone() }
}

fn device_request(request: &DriverRequest) -> DeviceRequest {
    DeviceRequest {
        driver: Some(request.driver.clone()),
        count: Some(request.count),
        device_ids: Some(request.ids.clone()),
        capabilities: Some(request.capabilities.clone()),
        options: Some(request.options.clone().into_iter().collect()),
    }
}

fn log_config(log: &LogDriver) -> HostConfigLogConfig {
    let name = super::create::log_name(log.driver).to_owned();
    HostConfigLogConfig { typ: Some(name), config: Some(log.options.clone().into_iter().collect()) }
}

fn show_isolation(spec: &ContainerSpec, host: &mut HostConfig) {
    let modes = &spec.namespaces;
    host.ipc_mode = Some(match &modes.ipc {
        IpcMode::Private => "private".to_owned(),
        IpcMode::Shareable => "shareable".to_owned(),
        IpcMode::None => "none".to_owned(),
        IpcMode::Host => "host".to_owned(),
        IpcMode::Container(name) => format!("container:{name}"),
    });
    host.pid_mode = Some(match &modes.pid {
        PidMode::Private => String::new(),
        PidMode::Host => "host".to_owned(),
        PidMode::Container(name) => format!("container:{name}"),
    });
    host.uts_mode = Some(match modes.uts {
        UtsMode::Private => String::new(),
        UtsMode::Host => "host".to_owned(),
    });
    host.userns_mode = Some(match modes.user {
        UserMode::Default => String::new(),
        UserMode::Host => "host".to_owned(),
        UserMode::Auto => "auto".to_owned(),
    });
    host.cgroupns_mode = Some(match modes.cgroup {
        CgroupMode::Private => CgroupnsMode::PRIVATE,
        CgroupMode::Host => CgroupnsMode::HOST,
    });
    let security = &spec.security;
    let mut options = Vec::new();
    options.extend(security.no_new_privileges.then(|| "no-new-privileges".to_owned()));
    match &security.seccomp {
        SeccompChoice::Default => {}
        SeccompChoice::Unconfined => options.push("seccomp=unconfined".to_owned()),
        SeccompChoice::Profile(json) => options.push(format!("seccomp={json}")),
    }
    options.extend(security.apparmor.iter().map(|profile| format!("apparmor={profile}")));
    options.extend(security.selinux.iter().map(|label| format!("label={label}")));
    host.security_opt = Some(options).filter(|options| !options.is_empty());
    host.cap_add = Some(spec.cap_add.clone()).filter(|caps| !caps.is_empty());
    host.cap_drop = Some(spec.cap_drop.clone()).filter(|caps| !caps.is_empty());
    host.privileged = Some(spec.privileged);
    host.readonly_rootfs = Some(spec.read_only_root);
    // null is what a privileged one has
    let shown =
        |own: &Option<Vec<String>>, list: Vec<String>| own.clone().or(Some(list).filter(|list| !list.is_empty()));
    host.masked_paths = shown(&spec.masked_paths, engine::masked_paths(spec));
    host.readonly_paths = shown(&spec.readonly_paths, engine::readonly_paths(spec));
}

/// The mounts with what they have become: names and folders of volumes.
pub(crate) fn mount_points(container: &Container) -> Vec<MountPoint> {
    let aside = mounts::Asked::tmpfs(container.spec.asked.as_deref());
    let shown = container.spec.mounts.iter().filter(|mount| !aside.contains(&mount.target));
    let binds = shown.filter_map(|mount| {
        let (kind, source, propagation) = match &mount.kind {
            MountKind::Bind { source, propagation, .. } => {
                ("bind", source.clone(), mounts::propagation_word(*propagation))
            }
            MountKind::Image { image, .. } => ("image", image.clone(), ""),
            MountKind::Tmpfs { .. } => ("tmpfs", String::new(), ""),
            MountKind::Volume { .. } => return None,
        };
        let short = matches!(mount.kind, MountKind::Bind { create_source: true, .. });
        Some(MountPoint {
            typ: Some(kind.to_owned()),
            source: Some(source),
            destination: Some(mount.target.clone()),
            mode: Some(if short && mount.read_only { "ro" } else { "" }.to_owned()),
            rw: Some(!mount.read_only && kind != "image"),
            propagation: Some(propagation.to_owned()),
            ..Default::default()
        })
    });
    let volumes = container.volumes.iter().map(|volume| MountPoint {
        typ: Some("volume".to_owned()),
        name: Some(volume.name.clone()),
        source: Some(volume.source.clone()),
        destination: Some(volume.target.clone()),
        driver: Some("local".to_owned()),
        mode: Some("z".to_owned()),
        rw: Some(!volume.read_only),
        propagation: Some(String::new()),
    });
    binds.chain(volumes).collect()
}

fn network_settings(container: &Container) -> NetworkSettings {
    let pid = container.pid();
    let key = if pid > 0 { format!("/proc/{pid}/ns/net") } else { String::new() };
    NetworkSettings {
        sandbox_id: Some(String::new()),
        sandbox_key: Some(key),
        ports: Some(network::ports(container)),
        networks: Some(network::endpoints(container)),
    }
}
