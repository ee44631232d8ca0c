//! containerd's CRI plugin, spoken to as a kubelet does.

use std::fs;

use testkit::wait_for;

use super::SOON;
use super::containerd::{Containerd, IMAGE};
use super::cri_api::{
    Client, ContainerConfig, ContainerId, CreateRequest, ExecRequest, ExecResponse, Image, Linux, Mount, Name,
    NamespaceOption, Nothing, Number, PodConfig, PodId, PodLinux, PodMetadata, PodSecurity, Resources, RunPodRequest,
    Security, StatsResponse, StatusResponse, StopRequest, UpdateRequest, VersionRequest, VersionResponse,
};

/// A pod of its own namespaces, but on the cell's network where `node_network` is 2.
fn pod(containerd: &Containerd, name: &str, network: i32) -> PodConfig {
    let namespaces = NamespaceOption { network, pid: 1, ipc: 0 };
    let hostname = if network == 2 { String::new() } else { name.to_owned() };
    PodConfig {
        metadata: Some(PodMetadata { name: name.to_owned(), uid: name.to_owned(), namespace: "default".to_owned() }),
        hostname,
        log_directory: containerd.cell.island().dir("logs").display().to_string(),
        linux: Some(PodLinux {
            cgroup_parent: "/kubelet".to_owned(),
            security: Some(PodSecurity { namespaces: Some(namespaces) }),
            sysctls: std::collections::HashMap::new(),
        }),
    }
}

/// A container with limits and a mount.
fn container(containerd: &Containerd, name: &str, command: &[&str]) -> ContainerConfig {
    let shared = containerd.cell.island().dir("shared").display().to_string();
    ContainerConfig {
        metadata: Some(Name { name: name.to_owned() }),
        image: Some(Image { image: IMAGE.to_owned() }),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        mounts: vec![Mount { container_path: "/shared".to_owned(), host_path: shared, readonly: false }],
        log_path: format!("{name}.log"),
        linux: Some(Linux {
            resources: Some(Resources {
                memory_limit: 64 << 20,
                cpu_shares: 512,
                oom_score_adj: 500,
                ..Resources::default()
            }),
            security: Some(Security {
                namespaces: Some(NamespaceOption { network: 0, pid: 1, ipc: 0 }),
                run_as_user: Some(Number { value: 1000 }),
                no_new_privs: true,
                masked_paths: vec!["/proc/kcore".to_owned()],
                ..Security::default()
            }),
        }),
    }
}

/// Makes and starts a container in a pod.
fn start(client: &Client, pod: &str, pod_config: &PodConfig, config: ContainerConfig) -> String {
    let request = CreateRequest { pod: pod.to_owned(), config: Some(config), pod_config: Some(pod_config.clone()) };
    let made: ContainerId = client.call("CreateContainer", request).unwrap();
    let _: Nothing = client.call("StartContainer", made.clone()).unwrap();
    made.id
}

fn exec(client: &Client, id: &str, script: &str) -> ExecResponse {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    client.call("ExecSync", ExecRequest { id: id.to_owned(), command, timeout_seconds: 20 }).unwrap()
}

fn text(answer: &ExecResponse) -> String {
    String::from_utf8_lossy(&answer.stdout).trim().to_owned()
}

/// Where network plugins are, a pod can have a network of its own.
fn network() -> i32 {
    let there = std::path::Path::new("/usr/lib/cni/ptp").exists();
    if !there {
        println!("a part is skipped: no CNI plugins in /usr/lib/cni, so pods use the cell's own network");
    }
    if there { 0 } else { 2 }
}

#[test]
fn a_pod_with_two_containers() {
    let Some(containerd) = Containerd::start() else { return };
    let client = Client::connect(&containerd.socket());
    let version: VersionResponse = client.call("Version", VersionRequest::default()).unwrap();
    assert_eq!(version.runtime_name, "containerd");
    let config = pod(&containerd, "web", network());
    let sandbox = client.call("RunPodSandbox", RunPodRequest { config: Some(config.clone()) });
    let sandbox: PodId = sandbox.unwrap_or_else(|error| panic!("{error}\n{}", containerd.log()));
    let writer = container(&containerd, "writer", &["sh", "-c", "echo started; cd /tmp; sleep 1000"]);
    let first = start(&client, &sandbox.id, &config, writer);
    let second = start(&client, &sandbox.id, &config, container(&containerd, "other", &["sleep", "1000"]));
    let spaces = "for name in net ipc uts; do readlink /proc/self/ns/$name; done";
    assert_eq!(text(&exec(&client, &first, spaces)), text(&exec(&client, &second, spaces)));
    let answer = exec(
        &client,
        &first,
        "id -u; cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status; echo e >&2; exit 3",
    );
    assert_eq!(
        (text(&answer).as_str(), answer.stderr.as_slice(), answer.exit_code),
        ("1000\n500\nNoNewPrivs:\t1", &b"e\n"[..], 3)
    );
    let memory = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    assert_eq!(text(&exec(&client, &first, memory)), (64 << 20).to_string());
    let linux = Some(Resources { memory_limit: 96 << 20, ..Resources::default() });
    let _: Nothing = client.call("UpdateContainerResources", UpdateRequest { id: first.clone(), linux }).unwrap();
    assert_eq!(text(&exec(&client, &first, memory)), (96 << 20).to_string());
    if config.linux.as_ref().is_some_and(|linux| linux.security.as_ref().is_some_and(is_apart)) {
        let routes = text(&exec(&client, &first, "cat /proc/net/route"));
        assert!(routes.contains("eth0"), "{routes}");
    }
    let stats: StatsResponse = client.call("ContainerStats", ContainerId { id: first.clone() }).unwrap();
    let stats = stats.stats.unwrap();
    assert!(stats.cpu.and_then(|cpu| cpu.usage_ns).is_some_and(|usage| usage.value > 0));
    assert!(stats.memory.and_then(|memory| memory.working_set).is_some_and(|usage| usage.value > 0));
    let log = fs::read_to_string(containerd.cell.island().path("logs/writer.log")).unwrap();
    assert!(log.contains("stdout F started"), "{log}");
    for id in [first, second] {
        let _: Nothing = client.call("StopContainer", StopRequest { id: id.clone(), timeout_seconds: 0 }).unwrap();
        let status: StatusResponse = client.call("ContainerStatus", ContainerId { id: id.clone() }).unwrap();
        assert_eq!(status.status.map(|status| (status.state, status.exit_code)), Some((2, 137)));
        let _: Nothing = client.call("RemoveContainer", ContainerId { id }).unwrap();
    }
    let _: Nothing = client.call("StopPodSandbox", sandbox.clone()).unwrap();
    let _: Nothing = client.call("RemovePodSandbox", sandbox).unwrap();
    remove_parent(&containerd);
    containerd.finish();
}

/// Whether a pod has a network of its own.
fn is_apart(security: &PodSecurity) -> bool {
    security.namespaces.as_ref().is_some_and(|namespaces| namespaces.network == 0)
}

/// The kubelet makes and removes the parent groups of its pods.
fn remove_parent(containerd: &Containerd) {
    for group in containerd.cell.groups() {
        let _ = fs::remove_dir(group.join("kubelet"));
    }
}

#[test]
fn containers_that_end_or_never_start() {
    let Some(containerd) = Containerd::start() else { return };
    let client = Client::connect(&containerd.socket());
    let config = pod(&containerd, "node", 2);
    let sandbox: PodId = client.call("RunPodSandbox", RunPodRequest { config: Some(config.clone()) }).unwrap();
    let ended = start(&client, &sandbox.id, &config, container(&containerd, "ended", &["sh", "-c", "exit 42"]));
    let code = wait_for(SOON, || {
        let status: StatusResponse = client.call("ContainerStatus", ContainerId { id: ended.clone() }).unwrap();
        status.status.filter(|status| status.state == 2).map(|status| status.exit_code)
    });
    assert_eq!(code, Some(42));
    let missing = container(&containerd, "missing", &["/no/such"]);
    let request = CreateRequest { pod: sandbox.id.clone(), config: Some(missing), pod_config: Some(config) };
    let made: ContainerId = client.call("CreateContainer", request).unwrap();
    let wrong: Result<Nothing, String> = client.call("StartContainer", made.clone());
    let wrong = wrong.err().unwrap_or_default();
    assert!(wrong.contains("/no/such") && wrong.contains("no such file"), "{wrong}");
    // Removing the pod takes its containers along.
    let _: Nothing = client.call("StopPodSandbox", sandbox.clone()).unwrap();
    let _: Nothing = client.call("RemovePodSandbox", sandbox).unwrap();
    remove_parent(&containerd);
    containerd.finish();
}
