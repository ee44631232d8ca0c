//! Other people's plugins, and our own called as one.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use net::cni::{NetworkList, Output, Runner, Target, main};
use serde_json::{Value, json};
use testkit::{Island, is_root_or_skip};

use crate::hosts::Host;

/// Debian's place for them.
const PLUGINS: &str = "/usr/lib/cni";

fn path_of(host: &Host) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), host.0.as_raw_fd()))
}

#[test]
fn standard_plugins_connect_check_and_disconnect() {
    if !is_root_or_skip() {
        return;
    }
    if !Path::new(PLUGINS).join("bridge").exists() {
        return println!("skipped: no {PLUGINS}/bridge");
    }
    let island = Island::new();
    let (host, one, two) = (Host::new(), Host::new(), Host::new());
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "net-test",
        "plugins": [
            {"type": "bridge", "bridge": "net-cni0", "isGateway": true, "capabilities": {"mac": true}, "ipam": {
                "type": "host-local", "dataDir": island.path("leases"),
                "ranges": [[{"subnet": "10.90.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "dataDir": island.path("tuning")},
        ],
    });
    let file = island.file("net.d/10-test.conflist", &list.to_string());
    let lists = NetworkList::read_folder(file.parent().unwrap()).unwrap();
    let (list, runner) = (&lists[0], Runner::new(&[island.path("none"), PLUGINS.into()]));
    let target = |container: &Host, name: &str, mac: &str| Target {
        container: format!("net-{name}"),
        netns: Some(path_of(container)),
        link: "eth0".to_owned(),
        arguments: vec![("IgnoreUnknown".to_owned(), "1".to_owned())],
        capabilities: [("mac".to_owned(), json!(mac))].into_iter().collect(),
    };
    let (first, second) = (target(&one, "one", "02:00:00:00:00:01"), target(&two, "two", "02:00:00:00:00:02"));
    let result = host.inside(|| runner.add(list, &first)).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.90.0.2/24", "{result}");
    assert_eq!(one.links().inspect("eth0").unwrap().unwrap().mac.unwrap().to_string(), "02:00:00:00:00:01");
    let other = host.inside(|| runner.add(list, &second)).unwrap();
    two.serve_tcp("10.90.0.3:80", "two");
    assert_eq!(one.ask_tcp_expecting("10.90.0.3:80", Some("two 10.90.0.2")).as_deref(), Some("two 10.90.0.2"));
    host.inside(|| runner.check(list, &first, &result)).unwrap();
    let again = host.inside(|| runner.add(list, &first)).unwrap_err().to_string();
    assert!(again.contains("plugin bridge refused ADD"), "{again}");
    host.inside(|| runner.collect(list, &[])).unwrap();
    for (target, result) in [(&first, &result), (&second, &other), (&second, &Value::Null)] {
        host.inside(|| runner.delete(list, target, result)).unwrap();
    }
    assert!(two.links().inspect("eth0").unwrap().is_none());
    assert!(host.inside(|| runner.check(list, &second, &other)).is_err());
    let missing = NetworkList::parse(br#"{"cniVersion":"1.0.0","name":"n","type":"net-no-such"}"#).unwrap();
    let error = host.inside(|| runner.add(&missing, &first)).unwrap_err().to_string();
    assert!(error.starts_with("there is no plugin \"net-no-such\""), "{error}");
}

/// A call of our plugin.
fn call(host: &Host, command: &str, container: &Host, name: &str, configuration: &Value) -> Output {
    let netns = path_of(container).display().to_string();
    let variable = |key: &str| match key {
        "CNI_COMMAND" => Some(command.to_owned()),
        "CNI_CONTAINERID" => Some(name.to_owned()),
        "CNI_IFNAME" => Some("eth0".to_owned()),
        "CNI_NETNS" => Some(netns.clone()),
        _ => None,
    };
    host.inside(|| main(&variable, configuration.to_string().as_bytes()))
}

#[test]
fn we_are_a_plugin() {
    if !is_root_or_skip() {
        return;
    }
    let island = Island::new();
    let (host, one, two) = (Host::new(), Host::new(), Host::new());
    let mut configuration = json!({
        "cniVersion": "1.0.0", "name": "net-own", "type": "insula", "bridge": "net-cni1", "ipMasq": true,
        "dataDir": island.path("cni"),
        "ipam": {"subnets": [{"subnet": "10.91.0.0/24"}, {"subnet": "fd91::/64"}]},
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
    });
    let added = call(&host, "ADD", &one, "one", &configuration);
    assert_eq!(added.code, 0, "{added:?}");
    let result: Value = serde_json::from_str(&added.stdout).unwrap();
    assert_eq!(
        (&result["ips"][0]["address"], &result["ips"][1]["address"]),
        (&json!("10.91.0.2/24"), &json!("fd91::2/64"))
    );
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    one.serve_tcp("[::]:80", "one");
    assert_eq!(
        host.ask_tcp_expecting("127.0.0.1:8080", Some("one ::ffff:10.91.0.1")).as_deref(),
        Some("one ::ffff:10.91.0.1")
    );
    let busy = call(&host, "ADD", &two, "two", &configuration);
    assert!(busy.code == 1 && busy.stdout.contains("port 8080/tcp is published already"), "{busy:?}");
    assert_eq!(call(&host, "ADD", &one, "one", &configuration).code, 1, "a second time");
    configuration["runtimeConfig"] = json!({"ips": ["10.91.0.77"], "mac": "02:00:00:00:00:77"});
    let added = call(&host, "ADD", &two, "two", &configuration);
    assert!(added.stdout.contains("10.91.0.77/24"), "{added:?}");
    assert!(two.ask_tcp_expecting("10.91.0.2:80", Some("")).is_some());
    let unchecked = call(&host, "CHECK", &one, "one", &configuration);
    assert!(unchecked.stdout.contains("prevResult"), "{unchecked:?}");
    configuration["prevResult"] = result;
    assert_eq!(call(&host, "CHECK", &one, "one", &configuration).code, 0);
    one.links().delete(&["eth0"]).unwrap();
    assert!(
        call(&host, "CHECK", &one, "one", &configuration).stdout.contains("the link of net-own/one/eth0 is not there")
    );
    assert_eq!(call(&host, "DEL", &one, "one", &configuration).code, 0);
    assert_eq!(call(&host, "DEL", &one, "one", &configuration).code, 0);
    assert_eq!(host.ask_tcp("127.0.0.1:8080"), None);
    configuration["cni.dev/valid-attachments"] = json!([]);
    assert_eq!(call(&host, "GC", &two, "two", &configuration).code, 0);
    assert!(two.links().inspect("eth0").unwrap().is_none() && host.links().inspect("net-cni1").unwrap().is_none());
    if let Some(tables) = host.run("nft", &["list", "tables"]) {
        assert_eq!(tables.trim(), "");
    }
    let version = call(&host, "VERSION", &one, "one", &json!({}));
    assert!(version.stdout.contains("\"1.1.0\""), "{version:?}");
    for (command, wrong, number) in [
        ("ADD", json!({}), 6),
        ("ADD", json!({"cniVersion": "9", "name": "x"}), 1),
        ("DANCE", configuration.clone(), 4),
    ] {
        let output = call(&host, command, &one, "one", &wrong);
        let failure: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!((output.code, &failure["code"]), (1, &json!(number)), "{output:?}");
    }
}
