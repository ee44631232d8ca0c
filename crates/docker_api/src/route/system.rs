//! The daemon itself: ping, version, info, events, disk usage.

use crate::error::ApiError;
use crate::query::Filters;
use crate::reply::{self, Result};
use crate::route::Version;
use crate::server::Call;
use crate::settings::{Proxies, Settings};
use crate::translate::describe::STORAGE;
use crate::translate::time::{now_ns, rfc3339, unix_seconds};
use bytes::Bytes;
use docker_wire::models::{self, EventActor, EventMessage, SystemInfo, SystemVersion, SystemVersionComponents};
use docker_wire::{API_VERSION, MIN_API_VERSION};
use engine::model::{Event, EventKind};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue, PRAGMA};
use serde_json::Value;
use std::time::Duration;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET` and `HEAD /_ping`
pub(crate) async fn ping(call: Call) -> Result {
    let builder = if call.settings().classic_builds { "1" } else { "2" };
    let mut reply = reply::whole(StatusCode::OK, "text/plain; charset=utf-8", Bytes::from_static(b"OK"));
    let headers = reply.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("builder-version"), HeaderValue::from_static(builder));
    headers.insert(HeaderName::from_static("swarm"), HeaderValue::from_static("inactive"));
    Ok(reply)
}

/// Go's name for a machine, which Docker's clients compare with.
pub(crate) fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" | "armv6l" => "arm",
        "i686" => "386",
        other => other,
    }
}

/// `GET /version`
pub(crate) async fn version(call: Call) -> Result {
    let host = call.engine().info();
    let details = [
        ("ApiVersion", API_VERSION),
        ("MinAPIVersion", MIN_API_VERSION),
        ("Arch", architecture(&host.machine)),
        ("Os", "linux"),
        ("KernelVersion", &host.kernel),
    ];
    let details = details.map(|(key, value)| (key.to_owned(), value.to_owned()));
    reply::json(&SystemVersion {
        platform: Some(models::SystemVersionPlatform { name: "Insula".to_owned() }),
        components: Some(vec![SystemVersionComponents {
            name: "Engine".to_owned(),
            version: VERSION.to_owned(),
            details: Some(details.into()),
        }]),
        version: Some(VERSION.to_owned()),
        api_version: Some(API_VERSION.to_owned()),
        min_api_version: Some(MIN_API_VERSION.to_owned()),
        git_commit: Some(String::new()),
        go_version: Some(String::new()),
        os: Some("linux".to_owned()),
        arch: Some(architecture(&host.machine).to_owned()),
        kernel_version: Some(host.kernel),
        experimental: Some(true),
        build_time: Some(String::new()),
    })
}

fn count(number: usize) -> Option<i64> {
    i64::try_from(number).ok()
}

/// `GET /info`
pub(crate) async fn info(call: Call) -> Result {
    let settings = call.settings();
    let host = call.engine().info();
    let (running, paused, stopped) = host.containers;
    let filter = settings.defaults.seccomp.as_ref().map_or("builtin", |filter| &filter.name);
    let security = host.security.iter().map(|name| match *name {
        "seccomp" => format!("name=seccomp,profile={filter}"),
        other => format!("name={other}"),
    });
    let security = security.chain(settings.defaults.no_new_privileges.then(|| "name=no-new-privileges".to_owned()));
    let runtimes = call.engine().runtimes();
    let runtime = |program: Option<&engine::Runtime>| models::Runtime {
        path: Some(program.map_or_else(|| "insula-shim".to_owned(), |own| own.program.display().to_string())),
        runtime_args: program.map(|own| own.arguments.clone()).filter(|arguments| !arguments.is_empty()),
        ..Default::default()
    };
    let info = SystemInfo {
        id: Some(host.id),
        containers: count(running + paused + stopped),
        containers_running: count(running),
        containers_paused: count(paused),
        containers_stopped: count(stopped),
        images: count(host.images),
        driver: Some(STORAGE.to_owned()),
        driver_status: Some(Vec::new()),
        docker_root_dir: Some(host.root.to_string_lossy().into_owned()),
        memory_limit: Some(true),
        swap_limit: Some(true),
        cpu_cfs_period: Some(true),
        cpu_cfs_quota: Some(true),
        cpu_shares: Some(true),
        cpu_set: Some(true),
        pids_limit: Some(true),
        oom_kill_disable: Some(host.cgroup_version == "1"),
        debug: Some(settings.debug),
        nfd: count(std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)),
        ipv4_forwarding: Some(switched_on("/proc/sys/net/ipv4/ip_forward")),
        index_server_address: Some("https://index.docker.io/v1/".to_owned()),
        system_time: Some(rfc3339(now_ns())),
        logging_driver: Some(settings.defaults.log_driver.clone().unwrap_or_else(|| "json-file".to_owned())),
        cgroup_driver: Some(models::SystemInfoCgroupDriverEnum::CGROUPFS),
        cgroup_version: host.cgroup_version.parse().ok(),
        kernel_version: Some(host.kernel),
        operating_system: Some(host.os),
        os_type: Some("linux".to_owned()),
        architecture: Some(host.machine),
        ncpu: Some(host.cpus.into()),
        mem_total: i64::try_from(host.memory_bytes).ok(),
        name: Some(host.name),
        labels: Some(settings.labels.clone()),
        experimental_build: Some(true),
        server_version: Some(VERSION.to_owned()),
        runtimes: Some(runtimes.all().map(|(name, program)| (name.to_owned(), runtime(program))).collect()),
        default_runtime: Some(runtimes.default.clone()),
        live_restore_enabled: Some(true),
        init_binary: Some("insula-shim".to_owned()),
        security_options: Some(security.collect()),
        warnings: Some(Vec::new()),
        ..Default::default()
    };
    let devices = host.cdi_devices;
    let mut value =
        serde_json::to_value(info).map_err(|error| ApiError::internal(format!("cannot write info: {error}")))?;
    if let Some(map) = value.as_object_mut() {
        fill_info(map, &settings);
        by_version(map, call.version, &devices);
        if call.version < Version::minor(25) {
            map.insert("ExecutionDriver".to_owned(), "<not supported>".into());
        }
    }
    reply::json(&value)
}

/// What clients look into without asking whether it is there.
fn fill_info(map: &mut serde_json::Map<String, Value>, settings: &Settings) {
    let swarm = serde_json::json!({
        "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "",
        "RemoteManagers": null,
    });
    let plugins = serde_json::json!({
        "Volume": ["local"], "Authorization": null,
        "Network": ["bridge", "host", "ipvlan", "macvlan", "null", "vxlan"],
        "Log": ["journald", "json-file", "local", "none", "syslog"],
    });
    map.insert("Swarm".to_owned(), swarm);
    map.insert("Plugins".to_owned(), plugins);
    map.insert("RegistryConfig".to_owned(), registry_config(settings));
    let Proxies { http, https, none } = &settings.proxies;
    for (field, value) in [("HttpProxy", http), ("HttpsProxy", https), ("NoProxy", none)] {
        map.insert(field.to_owned(), masked(value).into());
    }
    for text in ["Isolation", "OSVersion"] {
        map.entry(text).or_insert_with(|| "".into());
    }
    for number in ["NEventsListener", "NGoroutines"] {
        map.entry(number).or_insert_with(|| 0.into());
    }
    for commit in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
        map.insert(commit.to_owned(), serde_json::json!({ "ID": "" }));
    }
}

/// What came, and what went, with versions of the API.
fn by_version(map: &mut serde_json::Map<String, Value>, version: Version, devices: &[String]) {
    if version >= Version::minor(49) {
        map.insert("FirewallBackend".to_owned(), serde_json::json!({ "Driver": "nftables" }));
    }
    if version >= Version::minor(50) && !devices.is_empty() {
        let one = |id: &String| serde_json::json!({ "Source": "cdi", "ID": id });
        map.insert("DiscoveredDevices".to_owned(), devices.iter().map(one).collect());
    }
}

/// A proxy that the daemon uses, without what only it and the proxy may know.
fn masked(value: &str) -> String {
    match (value.find("://"), value.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}xxxxx:xxxxx{}", &value[..scheme + 3], &value[at..]),
        _ => value.to_owned(),
    }
}

fn switched_on(path: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

/// What clients are told of registries: which may be reached without TLS, and which have mirrors.
fn registry_config(settings: &Settings) -> Value {
    let index = |name: &str, mirrors: &[String], secure: bool, official: bool| serde_json::json!({ "Name": name, "Mirrors": mirrors, "Secure": secure, "Official": official });
    let mut indexes = serde_json::Map::new();
    // as Docker has them, with a slash at their end
    let mirrors: Vec<String> =
        settings.mirrors.iter().map(|mirror| format!("{}/", mirror.trim_end_matches('/'))).collect();
    indexes.insert("docker.io".to_owned(), index("docker.io", &mirrors, true, true));
    let (networks, hosts): (Vec<&String>, Vec<&String>) =
        settings.insecure_registries.iter().partition(|registry| registry.contains('/'));
    for host in hosts {
        indexes.insert(host.clone(), index(host, &[], false, false));
    }
    let local = ["::1/128".to_owned(), "127.0.0.0/8".to_owned()];
    let networks: Vec<&String> = local.iter().chain(networks).collect();
    serde_json::json!({ "IndexConfigs": indexes, "InsecureRegistryCIDRs": networks, "Mirrors": mirrors })
}

const EVENT_FILTERS: &[&str] = &[
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "scope",
    "type",
    "volume",
    "node",
    "service",
    "plugin",
    "config",
    "secret",
];

fn kind_word(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Container => "container",
        EventKind::Image => "image",
        EventKind::Volume => "volume",
        EventKind::Network => "network",
        EventKind::Daemon => "daemon",
    }
}

/// A name without its tag.
fn untagged(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((bare, tag)) if !tag.contains('/') => bare,
        _ => name,
    }
}

fn shows(filters: &Filters, event: &Event) -> bool {
    let of = |key: &str, kind: EventKind| {
        filters.matches(key, |value| {
            // as Docker: a beginning is enough, of a name too, and nothing is everybody's
            let begins = || event.attributes.get("name").is_some_and(|name| name.starts_with(value));
            event.kind == kind && (event.id.starts_with(value) || begins())
        })
    };
    // a container's events are its image's, too, and a name without a tag is that of all its tags
    let image = |value: &str| {
        let attribute = if event.kind == EventKind::Image { "name" } else { "image" };
        let name = event.attributes.get(attribute).map(String::as_str).unwrap_or_default();
        event.id == value || name == value || untagged(name) == value
    };
    filters.matches("type", |kind| kind == kind_word(event.kind))
        && filters.matches("event", |action| {
            // `exec_start: sh -c …` is found as `exec_start` too
            event.action == action || event.action.split_once(": ").is_some_and(|(word, _)| word == action)
        })
        && filters.matches("scope", |scope| scope == "local")
        && of("container", EventKind::Container)
        && filters.matches("image", image)
        && of("volume", EventKind::Volume)
        && of("network", EventKind::Network)
        && of("daemon", EventKind::Daemon)
        && filters.match_labels(|key| event.attributes.get(key).map(String::as_str))
}

fn event_line(event: &Event) -> Result<Bytes> {
    let message = EventMessage {
        typ: kind_word(event.kind).parse().ok(),
        action: Some(event.action.clone()),
        actor: Some(EventActor {
            id: Some(event.id.clone()),
            attributes: Some(event.attributes.clone().into_iter().collect()),
        }),
        scope: "local".parse().ok(),
        time: Some(unix_seconds(event.at_ns)),
        time_nano: i64::try_from(event.at_ns).ok(),
    };
    let mut value = serde_json::to_value(&message)
        .map_err(|error| ApiError::internal(format!("cannot write an event as JSON: {error}")))?;
    // older clients know events by these names
    if matches!(event.kind, EventKind::Container | EventKind::Image) {
        value["status"] = event.action.clone().into();
        value["id"] = event.id.clone().into();
        if let Some(image) = event.attributes.get("image").filter(|_| event.kind == EventKind::Container) {
            value["from"] = image.clone().into();
        }
    }
    reply::json_line(&value)
}

/// `GET /events`: past ones from `since`, then live ones until `until`.
pub(crate) async fn events(call: Call) -> Result {
    let filters = call.query.filters(EVENT_FILTERS)?;
    // the beginning of time is a time here
    let since = call.query.time_ns("since")?.or_else(|| call.query.text("since").map(|_| 0));
    let until = call.query.time_ns("until")?;
    if let (Some(since), Some(until)) = (since, until)
        && until < since
    {
        return Err(ApiError::invalid(format!(
            "`since` time ({since}) cannot be after `until` time ({until}), in nanoseconds"
        )));
    }
    // an end asks for the past as well as a beginning does
    let mut events = call.engine().events(since.or(until.map(|_| 0)));
    let (sender, reply) = reply::stream("application/json");
    tokio::spawn(async move {
        let left_ns = until.map(|until| until.saturating_sub(now_ns()));
        let over = async {
            match left_ns {
                Some(left) => tokio::time::sleep(Duration::from_nanos(left)).await,
                None => std::future::pending().await,
            }
        };
        let mut over = std::pin::pin!(over);
        loop {
            let event = tokio::select! {
                biased;
                event = events.next() => event,
                () = &mut over => None,
                () = sender.closed() => None,
            };
            let Some(event) = event.filter(|event| until.is_none_or(|until| event.at_ns <= until)) else { return };
            if shows(&filters, &event) {
                let line = event_line(&event).map_err(std::io::Error::other);
                if sender.send(line).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(reply)
}

/// `GET /system/df`
pub(crate) async fn disk_usage(call: Call) -> Result {
    const KINDS: [&str; 4] = ["container", "image", "volume", "build-cache"];
    let asked: Vec<&str> = call.query.all("type").filter(|kind| !kind.is_empty()).collect();
    if let Some(other) = asked.iter().find(|kind| !KINDS.contains(kind)) {
        return Err(ApiError::invalid(format!("unknown object type: {other}")));
    }
    let wanted = |kind: &str| asked.is_empty() || asked.contains(&kind);
    // what was not asked for is not looked for
    let mut usage = serde_json::json!({
        "LayersSize": 0, "Images": null, "Containers": null, "Volumes": null, "BuildCache": null,
    });
    if wanted("container") {
        let now = now_ns();
        let all = call.engine().containers();
        let shown: Vec<_> = all.iter().map(|container| crate::translate::list::summary(container, now)).collect();
        usage["Containers"] = json(&shown)?;
    }
    if wanted("image") {
        usage["Images"] = json(&super::image::summaries(&call).await?)?;
        // What compressed layers are kept as takes room, too.
        let found = call.engine().image_usage().await?;
        usage["LayersSize"] = (found.layer_bytes + found.blob_bytes).into();
    }
    if wanted("volume") {
        usage["Volumes"] = super::volume::volumes(&call).await?.into();
    }
    if wanted("build-cache") {
        let cache = super::build::cache(&call);
        let size: i64 = cache.iter().filter_map(|entry| entry["Size"].as_i64()).sum();
        usage["BuildCache"] = cache.into();
        if call.version < Version::minor(42) {
            usage["BuilderSize"] = size.into();
        }
    }
    reply::json(&usage)
}

fn json(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| ApiError::internal(format!("cannot write usage as JSON: {error}")))
}

/// `GET /metrics`
pub(crate) async fn metrics(call: Call) -> Result {
    let text = call.api.metrics.text(call.engine(), &call.settings().machines).await;
    Ok(reply::whole(StatusCode::OK, crate::metrics::MEDIA, Bytes::from(text)))
}

/// `GET /plugins`
pub(crate) async fn plugins(_: Call) -> Result {
    reply::json(&serde_json::json!([]))
}

/// Requests about one plugin: there are none.
pub(crate) async fn no_plugin(call: Call) -> Result {
    Err(ApiError::not_found(format!("plugin {:?} not found", call.who())))
}

/// Requests that would bring plugins.
pub(crate) async fn no_plugins(_: Call) -> Result {
    Err(ApiError::unsupported(
        "plugins are not supported: drivers of volumes, networks and logs are part of the daemon",
    ))
}

/// Swarm's routes: 503, as an engine answers that is in no swarm, in the words that clients know.
pub(crate) async fn no_swarm(_: Call) -> Result {
    Err(ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and \
         try again.",
    ))
}

/// `POST /swarm/leave`
pub(crate) async fn no_swarm_to_leave(_: Call) -> Result {
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "This node is not part of a swarm"))
}

/// `POST /swarm/init`, `POST /swarm/join`
pub(crate) async fn no_swarm_mode(_: Call) -> Result {
    Err(ApiError::unsupported("swarm mode is not supported; for several nodes use Kubernetes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_an_image_are_those_of_its_containers_too() {
        let event = |kind, attribute: &str, name: &str| Event {
            at_ns: 1,
            kind,
            action: "start".to_owned(),
            id: "abc".to_owned(),
            attributes: [(attribute.to_owned(), name.to_owned())].into(),
        };
        let check = |wanted: &str, event: &Event, expect| {
            let filters = Filters::parse(&serde_json::json!({ "image": [wanted] }).to_string()).unwrap();
            assert_eq!(shows(&filters, event), expect, "{wanted} {event:?}");
        };
        let container = event(EventKind::Container, "image", "here:5000/web:1");
        for (wanted, expect) in [
            ("here:5000/web", true),
            ("here:5000/web:1", true),
            ("abc", true),
            ("here", false),
            ("here:5000/we", false),
            ("", false),
        ] {
            check(wanted, &container, expect);
        }
        check("here:5000/web", &event(EventKind::Container, "image", "here:5000/web"), true);
        check("web", &event(EventKind::Image, "name", "web:1"), true);
        check("web", &event(EventKind::Network, "name", "web:1"), false);
    }
}
