//! Requests as docker compose 2.40.3 makes them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::{Loader, Options};

fn project(text: &str) -> Project {
    let read = |path: &Path| match path.to_str() {
        Some("/p/compose.yaml") => Ok(text.to_owned()),
        _ => Err(ErrorKind::NotFound.into()),
    };
    let environment = [("KEY".to_owned(), "s3".to_owned())].into();
    let options = Options { current: PathBuf::from("/p"), environment, ..Options::default() };
    let mut project = Project::new(Loader::new(&read).load(&options).unwrap(), &[]).unwrap();
    project.resolve(&read).unwrap();
    project
}

fn body(text: &str) -> Value {
    let project = project(text);
    let found = Found { image: "sha256:1".to_owned(), ..Found::default() };
    container(&project, &project.services["a"], &Which::Number(1), &found).unwrap().body
}

/// Checks the host's part of a service's request, of which only what is named is looked at.
#[track_caller]
fn check_host(service: &str, expect: &Value) {
    let body = body(&format!(
        "services: {{a: {{image: x, network_mode: none, {service}}}}}\nvolumes: {{v: , w: {{name: other}}}}"
    ));
    for (name, value) in expect.as_object().unwrap() {
        assert_eq!(&body["HostConfig"][name], value, "{service}");
    }
}

#[test]
fn a_plain_service() {
    let project = project("services: {a: {image: x, command: sleep 5, ports: ['80:90']}}");
    let found = Found { image: "sha256:1".to_owned(), ..Found::default() };
    let made = container(&project, &project.services["a"], &Which::Number(2), &found).unwrap();
    assert_eq!(made.name, "p-a-2");
    let hash = hash::service(&project.services["a"].node);
    let expect = json!({
        "Image": "x", "Cmd": ["sleep", "5"], "Env": [], "Tty": false, "OpenStdin": false, "StdinOnce": false,
        "AttachStdin": false, "AttachStdout": true, "AttachStderr": true, "ExposedPorts": {"90/tcp": {}},
        "Labels": {
            "com.docker.compose.config-hash": hash, "com.docker.compose.container-number": "2",
            "com.docker.compose.depends_on": "", "com.docker.compose.image": "sha256:1", "com.docker.compose.oneoff": "False",
            "com.docker.compose.project": "p", "com.docker.compose.project.config_files": "/p/compose.yaml",
            "com.docker.compose.project.working_dir": "/p", "com.docker.compose.service": "a", "com.docker.compose.version": VERSION,
        },
        "HostConfig": {
            "NetworkMode": "p_default", "PortBindings": {"90/tcp": [{"HostIp": "", "HostPort": "80"}]},
            "Privileged": false, "ReadonlyRootfs": false,
        },
        "NetworkingConfig": {"EndpointsConfig": {"p_default": {"Aliases": ["p-a-2", "a"], "IPAMConfig": {}}}},
    });
    assert_eq!(made.body, expect);
}

#[test]
fn every_network_but_the_first_is_joined_later() {
    let text = "services: {a: {image: x, networks: {n: {aliases: [b], ipv4_address: 10.0.0.1}, m: {priority: 9}}}}\nnetworks: {n: , m: }";
    let project = project(text);
    let made = container(&project, &project.services["a"], &Which::Number(1), &Found::default()).unwrap();
    assert_eq!(made.body["HostConfig"]["NetworkMode"], "p_m");
    let endpoint = json!({"Aliases": ["p-a-1", "a", "b"], "IPAMConfig": {"IPv4Address": "10.0.0.1"}});
    assert_eq!(made.networks, [("p_n".to_owned(), endpoint)]);
    let once = container(&project, &project.services["a"], &Which::OneOff("77".to_owned()), &Found::default()).unwrap();
    assert_eq!((once.name.as_str(), &once.networks[0].1["Aliases"]), ("p-a-run-77", &json!(["p-a-run-77"])));
}

#[test]
fn mounts_have_the_form_that_can_say_them() {
    check_host(
        "volumes: [v:/v:ro, /h:/h:rshared, w:/w]",
        &json!({"Binds": ["p_v:/v:ro", "/h:/h:rw,rshared", "other:/w:rw"]}),
    );
    check_host("volumes: [/anon]", &json!({"Mounts": [{"Type": "volume", "Target": "/anon", "VolumeOptions": {}}]}));
    check_host(
        "volumes: [{type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 0700}}, {type: bind, source: /h, target: /h}, {type: image, source: i, target: /i}]",
        &json!({"Mounts": [
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o700}},
            {"Type": "bind", "Source": "/h", "Target": "/h"},
            {"Type": "image", "Source": "i", "Target": "/i"},
        ]}),
    );
    check_host("tmpfs: [/t, '/u:size=1m']", &json!({"Tmpfs": {"/t": "", "/u": "size=1m"}}));
}

#[test]
fn limits_and_policies() {
    check_host(
        "deploy: {resources: {limits: {cpus: 0.5, memory: 1g, pids: 9}, reservations: {memory: 1m}}, restart_policy: {condition: on-failure, max_attempts: 3}}",
        &json!({"NanoCpus": 500_000_000, "Memory": 1 << 30, "PidsLimit": 9, "MemoryReservation": 1 << 20,
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}),
    );
    check_host(
        "restart: on-failure:2, cpus: 1.5, mem_limit: 1k",
        &json!({"NanoCpus": 1_500_000_000, "Memory": 1024, "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}}),
    );
    check_host(
        "ulimits: {nofile: {soft: 1, hard: 2}, nproc: 3}",
        &json!({"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}, {"Name": "nproc", "Soft": 3, "Hard": 3}]}),
    );
    check_host(
        "gpus: all",
        &json!({"DeviceRequests": [{"Driver": "", "Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}]}),
    );
    check_host(
        "devices: [/dev/null:/dev/n:r]",
        &json!({"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/n", "CgroupPermissions": "r"}]}),
    );
    check_host(
        "extra_hosts: [a=1.2.3.4], blkio_config: {weight: 50, device_read_bps: [{path: /d, rate: 1k}]}",
        &json!({"ExtraHosts": ["a:1.2.3.4"], "BlkioWeight": 50, "BlkioDeviceReadBps": [{"Path": "/d", "Rate": 1024}]}),
    );
}

#[test]
fn health_and_entry_points() {
    let made = body(
        "services: {a: {image: x, healthcheck: {test: ok, interval: 2s, start_period: 1s, start_interval: 100ms}, entrypoint: '', command: [], stop_grace_period: 90s}}",
    );
    assert_eq!(
        made["Healthcheck"],
        json!({"Test": ["CMD-SHELL", "ok"], "Interval": 2_000_000_000_i64, "StartPeriod": 1_000_000_000, "StartInterval": 100_000_000})
    );
    assert_eq!((&made["Entrypoint"], &made["Cmd"], &made["StopTimeout"]), (&json!([""]), &json!([]), &json!(90)));
    let made = body("services: {a: {image: x, healthcheck: {disable: true}, environment: {A: , B: ''}}}");
    assert_eq!((&made["Healthcheck"], &made["Env"]), (&json!({"Test": ["NONE"]}), &json!(["A", "B="])));
}

/// What docker compose refuses once it makes the container.
#[test]
fn what_cannot_be_made_is_told() {
    #[track_caller]
    fn check(text: &str, expect: &str) {
        let (project, found) = (project(text), Found::default());
        let service = resolved(&project.services["a"], &found);
        let why = container(&project, &service, &Which::Number(1), &found).unwrap_err();
        assert_eq!(why, expect);
    }
    check(
        "services: {a: {image: x, healthcheck: {test: ok, start_interval: 1s}}}",
        "healthcheck.start_interval requires healthcheck.start_period to be set",
    );
    check(
        "services: {a: {image: x, network_mode: 'service:b'}, b: {image: x}}",
        "cannot share network namespace with service b: container missing",
    );
    check(
        "services: {a: {image: x, volumes_from: ['b:ro']}, b: {image: x}}",
        "cannot share volume with service b: container missing",
    );
}

/// The default network knows links by the host's configuration only.
#[test]
fn links_of_the_default_network() {
    let mut found = Found::default();
    found.services.insert("b".to_owned(), vec![("b-id".to_owned(), "p-b-1".to_owned())]);
    let made = |text: &str| {
        let project = project(text);
        container(&project, &project.services["a"], &Which::Number(1), &found).unwrap().body
    };
    let made_there = made("services: {a: {image: x, network_mode: bridge, links: [b]}, b: {image: x}}");
    assert_eq!(made_there["HostConfig"]["Links"], json!(["p-b-1:b", "p-b-1:p-b-1"]));
    let made_here = made("services: {a: {image: x, links: [b]}, b: {image: x}}");
    assert_eq!(made_here["HostConfig"]["Links"], json!(null));
}

#[test]
fn other_services_are_their_containers() {
    let text = "services: {a: {image: x, network_mode: 'service:b', volumes_from: ['b:ro', 'container:c'], links: [d:e]}, b: {image: x}, d: {image: x}}";
    let project = project(text);
    let mut found = Found::default();
    found.services.insert("b".to_owned(), vec![("b-id".to_owned(), "p-b-1".to_owned())]);
    let service = resolved(&project.services["a"], &found);
    let made = container(&project, &service, &Which::Number(1), &found).unwrap();
    assert_eq!(made.body["HostConfig"]["NetworkMode"], "container:b-id");
    assert_eq!(made.body["HostConfig"]["VolumesFrom"], json!(["b-id:ro", "c"]));
    assert_ne!(
        hash::service(&service.node),
        hash::service(&project.services["a"].node),
        "another container makes another hash"
    );
    assert_eq!(made.body["Labels"][label::DEPENDS_ON], "b:service_started:true,d:service_started:true");
}

#[test]
fn secrets_and_configs() {
    let text = "services: {a: {image: x, network_mode: none, secrets: [s, {source: f, target: other}], configs: [{source: c, target: /c, mode: 0400, uid: '7'}]}}\nsecrets: {s: {environment: KEY}, f: {file: ./f}}\nconfigs: {c: {content: hi}}";
    let project = project(text);
    let made = container(&project, &project.services["a"], &Which::Number(1), &Found::default()).unwrap();
    assert_eq!(
        made.body["HostConfig"]["Mounts"],
        json!([{"Type": "bind", "Source": "/p/f", "Target": "/run/secrets/other", "ReadOnly": true}])
    );
    let files = injected(&project, &project.services["a"]).unwrap();
    let shown: Vec<_> =
        files.iter().map(|file| (file.path.as_str(), file.content.as_str(), file.mode, file.owner)).collect();
    assert_eq!(shown, [("/c", "hi", 0o400, (7, 0)), ("/run/secrets/s", "s3", 0o444, (0, 0))]);
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |field: &str| {
        let project = project(&format!("services: {{a: {{image: x, {field}}}}}"));
        container(&project, &project.services["a"], &Which::Number(1), &Found::default()).unwrap_err()
    };
    assert!(refused("credential_spec: {file: f}").contains("Windows"));
}

#[test]
fn networks_and_volumes() {
    let project = project(
        "services: {a: {image: x, networks: [n], volumes: [v:/v]}}\nnetworks: {n: {internal: true, ipam: {config: [{subnet: 10.0.0.0/24}]}}}\nvolumes: {v: {driver_opts: {type: tmpfs}}}",
    );
    let made = network(&project, "n", &project.networks["n"]);
    assert_eq!(
        (&made["Name"], &made["Internal"], &made["IPAM"]["Config"]),
        (&json!("p_n"), &json!(true), &json!([{"Subnet": "10.0.0.0/24"}]))
    );
    assert_eq!(made["Labels"][label::NETWORK], "n");
    let made = volume(&project, "v", &project.volumes["v"]);
    assert_eq!((&made["Name"], &made["DriverOpts"]), (&json!("p_v"), &json!({"type": "tmpfs"})));
}
