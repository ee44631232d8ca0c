//! The part of a container's request that says what of the host it gets.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Found, device_requests, pairs, source};
use crate::project::{DeviceRate, Mount, ObjectSpec, Port, Project, Reference, Resource, Service, ServiceSpec};
use crate::short::SECRETS;

/// Settings that the Docker Engine API of a Linux host has no word for.
pub(super) fn check(project: &Project, service: &Service, found: &Found) -> Result<(), String> {
    let spec = &service.spec;
    let refuse = |field: &str, why: &str| Err(format!("services.{}.{field}: {why}", service.name));
    if spec.credential_spec.is_some() {
        return refuse("credential_spec", "exists on Windows only; remove it");
    }
    let health = spec.healthcheck.as_ref();
    if health.is_some_and(|health| health.start_interval.is_some() && health.start_period.is_none()) {
        return Err("healthcheck.start_interval requires healthcheck.start_period to be set".to_owned());
    }
    for (mode, what) in [(&spec.network_mode, "network"), (&spec.ipc, "IPC"), (&spec.pid, "PID")] {
        if let Some(other) = mode.as_deref().and_then(|mode| mode.strip_prefix("service:")) {
            return Err(format!("cannot share {what} namespace with service {other}: container missing"));
        }
    }
    // what has a container stands here with that one's id
    let is_service = |name: &&str| project.services.contains_key(*name) || project.disabled.contains_key(*name);
    let named = spec.volumes_from.iter().map(|from| from.split(':').next().unwrap_or_default());
    if let Some(other) = named.filter(is_service).find(|name| found.services.get(*name).is_none_or(Vec::is_empty)) {
        return Err(format!("cannot share volume with service {other}: container missing"));
    }
    Ok(())
}

pub(super) fn config(project: &Project, service: &Service, mode: &str, found: &Found) -> Value {
    let spec = &service.spec;
    let (binds, mounts) = mounts(project, service, found);
    let mut body = json!({
        "NetworkMode": mode,
        "Binds": binds,
        "Mounts": mounts,
        "PortBindings": ports(&spec.ports),
        "RestartPolicy": restart(spec),
        "CapAdd": some(&spec.cap_add),
        "CapDrop": some(&spec.cap_drop),
        "CgroupnsMode": spec.cgroup,
        "CgroupParent": spec.cgroup_parent,
        "Dns": some(&spec.dns),
        "DnsOptions": some(&spec.dns_opt),
        "DnsSearch": some(&spec.dns_search),
        "ExtraHosts": some(&spec.extra_hosts.iter().map(|host| host.replacen('=', ":", 1)).collect::<Vec<_>>()),
        "GroupAdd": some(&spec.group_add),
        "Init": spec.init,
        "IpcMode": spec.ipc,
        "PidMode": spec.pid,
        "UTSMode": spec.uts,
        "UsernsMode": spec.userns_mode,
        "Isolation": spec.isolation,
        "Privileged": spec.privileged,
        "ReadonlyRootfs": spec.read_only,
        "Runtime": spec.runtime,
        "SecurityOpt": some(&spec.security_opt),
        "ShmSize": spec.shm_size,
        "StorageOpt": filled(spec.storage_opt.iter().map(|(name, value)| (name.clone(), value.clone().unwrap_or_default()))),
        "Sysctls": filled(pairs(&spec.sysctls)),
        "Annotations": filled(pairs(&spec.annotations)),
        "Tmpfs": filled(spec.tmpfs.iter().map(|text| {
            let (path, options) = text.split_once(':').unwrap_or((text, ""));
            (path.to_owned(), options.to_owned())
        })),
        "VolumesFrom": some(&spec.volumes_from),
        "Links": links(service, mode, found),
        "LogConfig": spec.logging.as_ref().map(|logging| json!({
            "Type": logging.driver.clone().unwrap_or_default(),
            "Config": pairs(&logging.options),
        })),
    });
    if let (Some(body), Value::Object(limits)) = (body.as_object_mut(), resources(service)) {
        body.extend(limits);
    }
    body
}

/// Links, which only the default network knows; in other networks they are told to the network itself.
fn links(service: &Service, mode: &str, found: &Found) -> Option<Vec<String>> {
    let links = super::links(service, found);
    (matches!(mode, "bridge" | "default") && !links.is_empty()).then_some(links)
}

fn some(list: &[String]) -> Option<&[String]> {
    (!list.is_empty()).then_some(list)
}

fn filled(map: impl IntoIterator<Item = (String, String)>) -> Option<BTreeMap<String, String>> {
    let map: BTreeMap<String, String> = map.into_iter().collect();
    (!map.is_empty()).then_some(map)
}

fn resources(service: &Service) -> Value {
    let spec = &service.spec;
    let deployed = spec.deploy.as_ref().map(|deploy| &deploy.resources);
    let limits = deployed.and_then(|resources| resources.limits.as_ref());
    let reserved = deployed.and_then(|resources| resources.reservations.as_ref());
    let requests = device_requests(service);
    let devices: Vec<Value> = spec
        .devices
        .iter()
        .map(|device| json!({"PathOnHost": device.source, "PathInContainer": device.target, "CgroupPermissions": device.permissions.as_deref().unwrap_or("rwm")}))
        .collect();
    let ulimits: Vec<Value> = spec
        .ulimits
        .iter()
        .map(|(name, limit)| {
            let (soft, hard) = limit.both();
            json!({"Name": name, "Soft": soft, "Hard": hard})
        })
        .collect();
    let mut body = json!({
        "NanoCpus": limits.and_then(|limits| limits.cpus).or(spec.cpus).map(nano_cpus),
        "Memory": limits.and_then(|limits| limits.memory).or(spec.mem_limit),
        "MemoryReservation": reserved.and_then(|reserved| reserved.memory).or(spec.mem_reservation),
        "MemorySwap": spec.memswap_limit,
        "MemorySwappiness": spec.mem_swappiness,
        "PidsLimit": limits.and_then(|limits| limits.pids).or(spec.pids_limit),
        "CpuCount": spec.cpu_count,
        "CpuPercent": spec.cpu_percent,
        "CpuPeriod": spec.cpu_period,
        "CpuQuota": spec.cpu_quota,
        "CpuRealtimePeriod": spec.cpu_rt_period,
        "CpuRealtimeRuntime": spec.cpu_rt_runtime,
        "CpusetCpus": spec.cpuset,
        "CpuShares": spec.cpu_shares,
        "OomKillDisable": spec.oom_kill_disable.then_some(true),
        "OomScoreAdj": spec.oom_score_adj,
        "DeviceCgroupRules": some(&spec.device_cgroup_rules),
        "Devices": (!devices.is_empty()).then_some(devices),
        "DeviceRequests": (!requests.is_empty()).then_some(requests),
        "Ulimits": (!ulimits.is_empty()).then_some(ulimits),
    });
    if let (Some(blkio), Some(body)) = (&spec.blkio_config, body.as_object_mut()) {
        let rates = |rates: &[DeviceRate]| -> Value {
            rates.iter().map(|rate| json!({"Path": rate.path, "Rate": rate.rate.unwrap_or(0)})).collect()
        };
        let weights: Vec<Value> =
            blkio.weight_device.iter().map(|weight| json!({"Path": weight.path, "Weight": weight.weight})).collect();
        body.insert("BlkioWeight".to_owned(), json!(blkio.weight));
        body.insert("BlkioWeightDevice".to_owned(), json!(weights));
        body.insert("BlkioDeviceReadBps".to_owned(), rates(&blkio.device_read_bps));
        body.insert("BlkioDeviceReadIOps".to_owned(), rates(&blkio.device_read_iops));
        body.insert("BlkioDeviceWriteBps".to_owned(), rates(&blkio.device_write_bps));
        body.insert("BlkioDeviceWriteIOps".to_owned(), rates(&blkio.device_write_iops));
    }
    body
}

#[expect(clippy::cast_possible_truncation, reason = "a billion processors would be needed")]
fn nano_cpus(cpus: f64) -> i64 {
    (cpus * 1e9).round() as i64
}

fn restart(spec: &ServiceSpec) -> Option<Value> {
    if let Some(policy) = spec.restart.as_deref().filter(|policy| !policy.is_empty()) {
        let (name, times) = policy.split_once(':').unwrap_or((policy, "0"));
        return Some(json!({"Name": name, "MaximumRetryCount": times.parse::<i64>().unwrap_or(0)}));
    }
    let policy = spec.deploy.as_ref()?.restart_policy.as_ref()?;
    let name = match policy.condition.as_deref() {
        Some("none") => "no",
        None | Some("any" | "") => "always",
        Some(other) => other,
    };
    let times = if name == "on-failure" { policy.max_attempts.unwrap_or(0) } else { 0 };
    Some(json!({"Name": name, "MaximumRetryCount": times}))
}

fn ports(ports: &[Port]) -> Value {
    let mut map = Map::new();
    for port in ports {
        let list = map.entry(format!("{}/{}", port.target, port.protocol)).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(json!({
                "HostIp": port.host_ip.clone().unwrap_or_default(),
                "HostPort": port.published.clone().unwrap_or_default(),
            }));
        }
    }
    if map.is_empty() { Value::Null } else { map.into() }
}

type Mounted = (Option<Vec<String>>, Option<Vec<Value>>);

fn mounts(project: &Project, service: &Service, found: &Found) -> Mounted {
    let (mut binds, mut mounts) = (Vec::new(), Vec::new());
    let mut left = found.volumes.clone();
    for mount in &service.spec.volumes {
        let mut mount = mount.clone();
        let former = left.remove(&mount.target);
        // a volume without a name goes on with what the former container had
        if mount.kind == "volume" && mount.source.is_none() {
            mount.source = former;
        }
        match bind(project, &mount) {
            Some(bind) => binds.push(bind),
            None => mounts.push(long_mount(project, &mount)),
        }
    }
    for (target, volume) in left {
        mounts.push(json!({"Type": "volume", "Source": volume, "Target": target}));
    }
    for (objects, folder, references) in
        [(&project.configs, "/", &service.spec.configs), (&project.secrets, SECRETS, &service.spec.secrets)]
    {
        for reference in references {
            let Some(Resource { spec: ObjectSpec { file: Some(file), .. }, .. }) = objects.get(&reference.source)
            else {
                continue;
            };
            mounts.push(json!({"Type": "bind", "Source": file, "Target": target(reference, folder), "ReadOnly": true}));
        }
    }
    ((!binds.is_empty()).then_some(binds), (!mounts.is_empty()).then_some(mounts))
}

/// Where a secret or config is in a container.
pub(super) fn target(reference: &Reference, folder: &str) -> String {
    match reference.target.as_deref().filter(|target| !target.is_empty()) {
        None => format!("{folder}{}", reference.source),
        Some(target) if target.starts_with('/') => target.to_owned(),
        Some(target) => format!("{folder}{target}"),
    }
}

/// `SOURCE:TARGET:OPTIONS`, for what that form can say.
fn bind(project: &Project, mount: &Mount) -> Option<String> {
    let mut options = vec![if mount.read_only { "ro" } else { "rw" }.to_owned()];
    match mount.kind.as_str() {
        "bind" => {
            let bind = mount.bind.as_ref()?;
            if !bind.create_host_path || bind.recursive.is_some() {
                return None;
            }
            options.extend(bind.selinux.iter().chain(&bind.propagation).cloned());
        }
        "volume" => {
            mount.source.as_ref()?;
            let detail = mount.volume.clone().unwrap_or_default();
            if !detail.labels.is_empty() || detail.subpath.is_some() {
                return None;
            }
            if detail.nocopy {
                options.push("nocopy".to_owned());
            }
        }
        _ => return None,
    }
    let source = source(project, mount)?;
    // a colon would end it
    if source.contains(':') || mount.target.contains(':') {
        return None;
    }
    Some(format!("{source}:{}:{}", mount.target, options.join(",")))
}

fn long_mount(project: &Project, mount: &Mount) -> Value {
    let mut body = json!({
        "Type": mount.kind,
        "Target": mount.target,
        "Source": source(project, mount),
        "ReadOnly": mount.read_only.then_some(true),
        "Consistency": mount.consistency,
    });
    let detail = match mount.kind.as_str() {
        "bind" => mount.bind.as_ref().map(|bind| {
            let recursive = bind.recursive.as_deref();
            let options = json!({
                "Propagation": bind.propagation,
                "CreateMountpoint": bind.create_host_path.then_some(true),
                "NonRecursive": (recursive == Some("disabled")).then_some(true),
                "ReadOnlyNonRecursive": (recursive == Some("writable")).then_some(true),
                "ReadOnlyForceRecursive": (recursive == Some("readonly")).then_some(true),
            });
            ("BindOptions", options)
        }),
        "volume" => mount.volume.as_ref().map(|volume| {
            let options = json!({
                "NoCopy": volume.nocopy.then_some(true),
                "Labels": filled(pairs(&volume.labels)),
                "Subpath": volume.subpath,
            });
            ("VolumeOptions", options)
        }),
        "tmpfs" => {
            mount.tmpfs.as_ref().map(|tmpfs| ("TmpfsOptions", json!({"SizeBytes": tmpfs.size, "Mode": tmpfs.mode})))
        }
        "image" => mount.image.as_ref().map(|image| ("ImageOptions", json!({"Subpath": image.subpath}))),
        _ => None,
    };
    if let (Some((name, options)), Some(body)) = (detail, body.as_object_mut()) {
        body.insert(name.to_owned(), options);
    }
    super::prune(&mut body);
    body
}

/// A file that is put into a container before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// Where it goes.
    pub path: String,
    /// What is in it.
    pub content: String,
    /// Its mode.
    pub mode: u32,
    /// Its user and group.
    pub owner: (u32, u32),
}

/// Secrets and configs that are no files of the host.
///
/// # Errors
/// One whose content is nowhere.
pub fn injected(project: &Project, service: &Service) -> Result<Vec<Injected>, String> {
    let mut files = Vec::new();
    for (objects, what, folder, references) in [
        (&project.configs, "config", "/", &service.spec.configs),
        (&project.secrets, "secret", SECRETS, &service.spec.secrets),
    ] {
        for reference in references {
            let Some(Resource { spec, .. }) = objects.get(&reference.source) else { continue };
            let content = match (&spec.content, &spec.environment) {
                _ if spec.file.is_some() => continue,
                (Some(content), _) => content.clone(),
                (None, Some(variable)) => project.variable_of_object(variable).cloned().ok_or_else(|| {
                    format!("{what} {:?}: the variable {variable:?} is not set; set it", reference.source)
                })?,
                (None, None) => {
                    return Err(format!(
                        "{what} {:?} is external, which only a swarm has; give it a file, a variable or content",
                        reference.source
                    ));
                }
            };
            let number = |text: &Option<String>| text.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
            let mode = reference.mode.as_deref().and_then(|mode| u32::from_str_radix(mode, 8).ok());
            files.push(Injected {
                path: target(reference, folder),
                content,
                mode: mode.unwrap_or(0o444),
                owner: (number(&reference.uid), number(&reference.gid)),
            });
        }
    }
    Ok(files)
}
