use super::*;
use docker_wire::models::ContainerCreateBody;
use engine::model::{
    Container, ContainerId, ContainerSpec, Finished, IpcMode, LogKind, Mount, MountKind, NetworkMode, Phase, PidMode,
    Process, Propagation, ReadOnlyDepth, RestartPolicy, Runtime, SeccompChoice, UserMode,
};
use hyper::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn parse(body: Value) -> Result<ContainerSpec, ApiError> {
    let body: ContainerCreateBody = serde_json::from_value(body).unwrap();
    create::spec(None, body)
}

fn with_host(host: Value) -> Result<ContainerSpec, ApiError> {
    parse(json!({ "Image": "web", "HostConfig": host }))
}

/// The body that a current `docker run` sends when nothing is asked for.
fn plain() -> Value {
    let text = r#"{
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": true, "AttachStderr": true,
        "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": null, "Cmd": ["true"], "Image": "web", "Volumes": {},
        "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": {},
        "HostConfig": {
            "Binds": null, "ContainerIDFile": "", "LogConfig": { "Type": "", "Config": {} }, "NetworkMode": "default",
            "PortBindings": {}, "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 }, "AutoRemove": true,
            "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [24, 80], "CapAdd": null, "CapDrop": null,
            "CgroupnsMode": "", "Dns": [], "DnsOptions": [], "DnsSearch": [], "ExtraHosts": null, "GroupAdd": null,
            "IpcMode": "", "Cgroup": "", "Links": null, "OomScoreAdj": 0, "PidMode": "", "Privileged": false,
            "PublishAllPorts": false, "ReadonlyRootfs": false, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "",
            "ShmSize": 0, "Isolation": "", "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "",
            "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": [], "BlkioDeviceWriteBps": [],
            "BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [], "CpuPeriod": 0, "CpuQuota": 0,
            "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": [],
            "DeviceCgroupRules": null, "DeviceRequests": null, "MemoryReservation": 0, "MemorySwap": 0,
            "MemorySwappiness": -1, "OomKillDisable": false, "PidsLimit": 0, "Ulimits": [], "CpuCount": 0,
            "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0, "MaskedPaths": null, "ReadonlyPaths": null
        },
        "NetworkingConfig": { "EndpointsConfig": { "default": { "IPAMConfig": null, "Links": null, "Aliases": null,
            "MacAddress": "", "DriverOpts": null, "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "",
            "IPPrefixLen": 0, "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": null } } }
    }"#;
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_plain_run_asks_for_nothing() {
    let expected = ContainerSpec {
        image: "web".into(),
        command: vec!["true".into()],
        attach_stdout: true,
        attach_stderr: true,
        auto_remove: true,
        console_size: Some((24, 80)),
        network: NetworkMode::Networks("bridge".into()),
        ..ContainerSpec::default()
    };
    assert_eq!(parse(plain()).unwrap(), expected);
}

#[test]
fn what_was_understood_is_shown_again() {
    let mut spec = parse(json!({
        "Image": "web", "Cmd": ["a", "b"], "Entrypoint": [""], "Env": ["A=1", "B"], "Labels": { "x": "y" },
        "Volumes": { "/anon": {} }, "ExposedPorts": { "80/tcp": {} }, "StopTimeout": 3,
        "HostConfig": {
            "Binds": ["/src:/dst:ro,rslave", "data:/data", "/p:/q"], "Tmpfs": { "/run": "size=64m,mode=1777,noexec,ro" },
            "Mounts": [{ "Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": { "Propagation": "rshared" } },
                       { "Type": "volume", "Source": "v1", "Target": "/v", "ReadOnly": true }],
            "Memory": 536870912, "MemorySwap": -1, "NanoCpus": 1500000000, "PidsLimit": 100, "BlkioWeight": 300,
            "BlkioDeviceReadBps": [{ "Path": "/dev/sda", "Rate": 1048576 }], "CpusetCpus": "0-1", "CpuShares": 512,
            "NetworkMode": "container:other", "IpcMode": "shareable", "PidMode": "host", "UsernsMode": "auto",
            "SecurityOpt": ["no-new-privileges", "seccomp=unconfined", "apparmor=x", "label=disable"],
            "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": 4 },
            "LogConfig": { "Type": "json-file", "Config": { "max-size": "1m", "max-file": "2" } },
            "Ulimits": [{ "Name": "nofile", "Soft": 10, "Hard": 20 }], "Sysctls": { "net.ipv4.ip_forward": "1" },
            "Devices": [{ "PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r" }],
            "CapAdd": ["NET_ADMIN"], "CapDrop": ["ALL"], "Init": true, "ReadonlyRootfs": true, "ShmSize": 1048576,
            "OomScoreAdj": -5, "ExtraHosts": ["db:10.0.0.1"], "GroupAdd": ["audio"], "MaskedPaths": ["/proc/x"], "ReadonlyPaths": []
        }
    }))
    .unwrap();
    // the engine fills it in for those who ask for none, and it is always shown
    spec.runtime = Some(engine::OWN_RUNTIME.to_owned());
    assert_eq!(spec.entrypoint, Some(Vec::new()));
    assert_eq!(spec.network, NetworkMode::Container("other".into()));
    assert_eq!((spec.namespaces.ipc.clone(), spec.namespaces.pid.clone()), (IpcMode::Shareable, PidMode::Host));
    assert_eq!(spec.namespaces.user, UserMode::Auto);
    assert_eq!(spec.security.seccomp, SeccompChoice::Unconfined);
    assert_eq!(spec.restart, RestartPolicy::OnFailure { max_retries: 4 });
    assert_eq!((spec.log.driver, spec.log.options.len()), (LogKind::JsonFile, 2));
    assert_eq!(spec.resources.memory_swap_bytes, Some(-1));
    assert_eq!(spec.mounts.len(), 7);
    // the shown host configuration asks for the very same container
    let shown = serde_json::to_value(describe::host_config(&spec)).unwrap();
    let again = parse(json!({
        "Image": "web", "Cmd": ["a", "b"], "Entrypoint": [], "Env": ["A=1", "B"], "Labels": { "x": "y" },
        "Volumes": { "/anon": {} }, "ExposedPorts": { "80/tcp": {} }, "StopTimeout": 3, "HostConfig": shown
    }))
    .unwrap();
    let by_target = |spec: &ContainerSpec| {
        let mut mounts = spec.mounts.clone();
        mounts.sort_by(|a, b| a.target.cmp(&b.target));
        mounts
    };
    assert_eq!(by_target(&again), by_target(&spec));
    assert_eq!(ContainerSpec { mounts: Vec::new(), ..again }, ContainerSpec { mounts: Vec::new(), ..spec });
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let check = |host: Value, status: StatusCode, part: &str| {
        let error = with_host(host.clone()).unwrap_err();
        assert_eq!(error.status, status, "{host}: {}", error.message);
        assert!(error.message.contains(part), "{host}: {}", error.message);
    };
    let (bad, missing) = (StatusCode::BAD_REQUEST, StatusCode::NOT_IMPLEMENTED);
    check(json!({ "CgroupParent": "/x/../y" }), bad, "CgroupParent");
    check(json!({ "VolumesFrom": ["x:maybe"] }), bad, "invalid mode: maybe");
    check(json!({ "StorageOpt": { "size": "1g" } }), missing, "StorageOpt");
    check(json!({ "CpuPercent": 5 }), missing, "CpuPercent");
    check(json!({ "IpcMode": "what" }), bad, "invalid IPC mode: what");
    check(json!({ "PidMode": "container:" }), bad, "invalid PID mode");
    check(json!({ "UTSMode": "x" }), bad, "UTS");
    check(json!({ "UsernsMode": "x" }), bad, "USER");
    check(json!({ "SecurityOpt": ["nope"] }), bad, "nope");
    check(json!({ "SecurityOpt": ["seccomp=/etc/p.json"] }), bad, "the client reads the file");
    check(json!({ "LogConfig": { "Type": "gelf" } }), bad, "no log driver named 'gelf' is registered");
    check(json!({ "NanoCpus": 1, "CpuQuota": 5 }), bad, "NanoCpus");
    check(json!({ "CpuShares": -1 }), bad, "CpuShares");
    check(json!({ "ShmSize": -1 }), bad, "ShmSize");
    check(json!({ "OomScoreAdj": 2000 }), bad, "2000");
    check(json!({ "Dns": ["x"] }), bad, "name server");
    check(json!({ "ExtraHosts": ["x"] }), bad, "NAME:ADDRESS");
    check(json!({ "Devices": [{ "PathOnHost": "/dev/x", "CgroupPermissions": "q" }] }), bad, "/dev/x");
    check(json!({ "Ulimits": [{ "Name": "nofile", "Soft": 5, "Hard": 4 }] }), bad, "nofile");
    check(json!({ "RestartPolicy": { "Name": "always", "MaximumRetryCount": 1 } }), bad, "on-failure");
    check(json!({ "RestartPolicy": { "Name": "always" }, "AutoRemove": true }), bad, "AutoRemove");
    check(json!({ "Binds": ["/a:/x", "/b:/x/"] }), bad, "Duplicate mount point: /x");
    check(json!({ "Mounts": [{ "Type": "npipe", "Target": "/x" }] }), missing, "npipe");
    check(json!({ "Mounts": [{ "Type": "bind", "Target": "/x" }] }), bad, "Source");
    check(json!({ "Mounts": [{ "Type": "bind", "Source": "a", "Target": "/x" }] }), bad, "absolute");
    check(json!({ "Mounts": [{ "Type": "tmpfs", "Target": "/x", "VolumeOptions": {} }] }), bad, "VolumeOptions");
    let error = parse(json!({ "Cmd": ["x"] })).unwrap_err();
    assert!(error.message.contains("no image"));
    let error = parse(json!({ "Image": "x", "Env": ["=a"] })).unwrap_err();
    assert!(error.message.contains("invalid environment variable: =a"));
}

#[test]
fn binds_are_read() {
    let bound = |source: &str, travel| MountKind::Bind {
        source: source.into(),
        create_source: true,
        propagation: travel,
        non_recursive: false,
        read_only_depth: ReadOnlyDepth::default(),
    };
    let check = |spec: &str, target: &str, read_only, kind| {
        assert_eq!(mounts::bind(spec).unwrap(), Mount { target: target.into(), read_only, kind }, "{spec}");
    };
    check("/a:/b", "/b", false, bound("/a", Propagation::Unsaid));
    check("/a:/b/:ro", "/b", true, bound("/a", Propagation::Unsaid));
    check("/a:/b:rw,shared,z", "/b", false, bound("/a", Propagation::Shared));
    let mut uncopied = MountKind::volume(Some("vol".into()));
    if let MountKind::Volume { no_copy, .. } = &mut uncopied {
        *no_copy = true;
    }
    check("vol:/b:nocopy", "/b", false, uncopied);
    check("/b", "/b", false, MountKind::volume(None));
    for bad in [
        "",
        ":",
        "a",
        "/a:b",
        "/a:/b:what",
        "/a:/b:ro,rw",
        ":/b",
        "./a:/b",
        "/a:/",
        "/a:/b/../c",
        "/a:/b:ro:x",
        "v:/b:shared",
    ] {
        let error = mounts::bind(bad).unwrap_err();
        assert_eq!(error.status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[test]
fn sizes_have_suffixes() {
    let check = |text: &str, expect| assert_eq!(parse_bytes(text), expect, "{text}");
    check("64m", Some(64 << 20));
    check("1.5GiB", Some(3 << 29));
    check("4096", Some(4096));
    check("1kb", Some(1024));
    check(" 2 g", Some(2 << 30));
    check("", None);
    check("x", None);
    check("1x", None);
    check("-1", None);
    check("99999999999p", None);
    check("1.2.3m", None);
}

#[test]
fn durations_are_worded_as_docker_does() {
    let check = |seconds: u64, expect: &str| assert_eq!(time::human(seconds * 1_000_000_000), expect);
    check(0, "Less than a second");
    check(1, "1 second");
    check(59, "59 seconds");
    check(60, "About a minute");
    check(119, "About a minute");
    check(120, "2 minutes");
    check(3599, "59 minutes");
    check(3600, "About an hour");
    check(7200, "2 hours");
    check(47 * 3600, "47 hours");
    check(48 * 3600, "2 days");
    check(13 * 86400, "13 days");
    check(14 * 86400, "2 weeks");
    check(61 * 86400, "2 months");
    check(800 * 86400, "2 years");
}

fn container(phase: Phase, finished: Option<Finished>) -> Container {
    Container {
        id: ContainerId::known(&"ab".repeat(32)),
        name: "web".into(),
        spec: ContainerSpec { image: "debian:12".into(), ..ContainerSpec::default() },
        image_id: "sha256:00".into(),
        process: Process {
            args: vec!["sleep".into(), "1".into()],
            cwd: "/".into(),
            stop_signal: 15,
            ..Process::default()
        },
        created_ns: 1_000_000_000,
        phase,
        runtime: (phase != Phase::Created).then(|| Runtime {
            pid: 42,
            started_ns: 2_000_000_000,
            namespaces: Vec::new(),
            cgroup: Vec::new(),
            warnings: Vec::new(),
        }),
        finished,
        restart_count: 0,
        restarting: false,
        stopped_by_user: false,
        start_again: false,
        stop_untold: false,
        restart_untold: false,
        remove_at_end: false,
        health: None,
        remove_volumes: false,
        anonymous_volumes: Vec::new(),
        volumes: Vec::new(),
        ids: None,
        endpoints: BTreeMap::new(),
        published: engine::net::firewall::Published::new(),
    }
}

#[test]
fn states_have_dockers_words() {
    let end = |code, oom_killed| Some(Finished { code, oom_killed, at_ns: 3_000_000_000, error: String::new() });
    let check = |phase, finished, expect: &str| {
        assert_eq!(list::status(&container(phase, finished), 5_000_000_000), expect);
    };
    check(Phase::Created, None, "Created");
    check(Phase::Running, None, "Up 3 seconds");
    check(Phase::Paused, None, "Up 3 seconds (Paused)");
    check(Phase::Exited, end(0, false), "Exited (0) 2 seconds ago");
    check(Phase::Exited, end(137, true), "Exited (137) 2 seconds ago (OOM killed)");
    let state = serde_json::to_value(describe::state(&container(Phase::Exited, end(137, true)))).unwrap();
    assert_eq!(
        state,
        json!({
            "Status": "exited", "Running": false, "Paused": false, "Restarting": false, "OOMKilled": true, "Dead": false,
            "Pid": 0, "ExitCode": 137, "Error": "", "StartedAt": "1970-01-01T00:00:02Z", "FinishedAt": "1970-01-01T00:00:03Z",
        })
    );
    let state = serde_json::to_value(describe::state(&container(Phase::Created, None))).unwrap();
    assert_eq!((&state["StartedAt"], &state["FinishedAt"]), (&json!(time::NEVER), &json!(time::NEVER)));
}

#[test]
fn listings_are_filtered() {
    let check = |query: &str, all: bool, phase: Phase, expect: bool| {
        let end = Some(Finished { code: 3, oom_killed: false, at_ns: 0, error: String::new() });
        let mut container = container(phase, end);
        container.spec.labels.insert("tier".into(), "db".into());
        let filters = crate::query::Query::parse(Some(&format!("filters={query}"))).filters(list::FILTERS).unwrap();
        let find = |_: &str| Err(ApiError::not_found("none"));
        let choice = list::Choice::new(filters, all, Vec::new(), find).unwrap();
        assert_eq!(choice.shows(&container), expect, "{query} {all} {phase:?}");
    };
    check("{}", false, Phase::Running, true);
    check("{}", false, Phase::Exited, false);
    check("{}", true, Phase::Exited, true);
    check(r#"{"status":["exited"]}"#, false, Phase::Exited, true);
    check(r#"{"status":["paused"]}"#, false, Phase::Exited, false);
    check(r#"{"exited":["3"]}"#, false, Phase::Exited, true);
    check(r#"{"exited":["4"]}"#, false, Phase::Exited, false);
    check(r#"{"name":["we"]}"#, false, Phase::Running, true);
    check(r#"{"name":["^/eb"]}"#, false, Phase::Running, false);
    check(r#"{"id":["abab"]}"#, false, Phase::Running, true);
    check(r#"{"label":["tier=db"]}"#, false, Phase::Running, true);
    check(r#"{"label":["tier=web"]}"#, false, Phase::Running, false);
    check(r#"{"ancestor":["debian:12"]}"#, false, Phase::Running, true);
    check(r#"{"ancestor":["other"]}"#, false, Phase::Running, false);
    check(r#"{"network":["none"]}"#, false, Phase::Running, true);
    for bad in [r#"{"status":["odd"]}"#, r#"{"exited":["x"]}"#, r#"{"since":["gone"]}"#] {
        let filters = crate::query::Query::parse(Some(&format!("filters={bad}"))).filters(list::FILTERS).unwrap();
        assert!(list::Choice::new(filters, true, Vec::new(), |_: &str| Err(ApiError::not_found("none"))).is_err());
    }
}
