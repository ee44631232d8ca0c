//! Settings from flags and from files.

use super::*;
use clap::Parser;
use docker_api::LimitDefault;
use std::net::Ipv4Addr;
use std::path::Path;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

fn resolve(words: &str, file: &str) -> Result<Resolved> {
    let line = Line::try_parse_from(std::iter::once("insulad").chain(words.split_whitespace()))?;
    line.flags.with(File::parse(file)?)
}

#[track_caller]
fn refused(words: &str, file: &str, part: &str) {
    let error = resolve(words, file).map(drop).unwrap_err();
    assert!(format!("{error:#}").contains(part), "{words} {file}: {error:#}");
}

#[test]
fn ranges_and_modes_are_checked() {
    let remap = |text: &str| text.parse::<Remap>();
    assert!(remap("off").unwrap().0.is_none());
    let range = remap("100000:200000:65536").unwrap().0.unwrap();
    assert_eq!((range.first_uid, range.first_gid, range.count), (100_000, 200_000, 65_536));
    for bad in ["1", "1:2", "1:2:3:4", "a:b:c", "0:0:0", "4294967295:0:2"] {
        assert!(remap(bad).is_err(), "{bad}");
    }
    assert_eq!(mode("0660"), Ok(0o660));
    assert!(mode("9").is_err() && mode("7777").is_err());
}

#[test]
fn a_file_says_what_flags_could() {
    let file = r#"{"data-root": "/data", "exec-root": "/exec", "group": "staff", "labels": ["a=b"], "debug": true,
        "hosts": ["unix:///x/y.sock"], "log-driver": "json-file", "log-opts": {"max-size": "1m"}, "live-restore": true,
        "default-shm-size": "1M", "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 5, "Hard": 9}},
        "registry-mirrors": ["https://m"], "insecure-registries": ["10.0.0.0/8"], "userns-remap": "5:5:5", "dns": ["1.1.1.1"]}"#;
    let all = resolve("", file).unwrap();
    assert_eq!((all.root.as_path(), all.run.as_path()), (Path::new("/data"), Path::new("/exec")));
    assert_eq!((all.group.as_deref(), all.log_level), (Some("staff"), LevelFilter::DEBUG));
    assert_eq!(all.hosts, [Host::Unix("/x/y.sock".into())]);
    assert_eq!(all.distribution.client.mirrors["docker.io"], ["https://m"]);
    let defaults = &all.settings.defaults;
    assert_eq!((defaults.shm_bytes, defaults.dns.len()), (Some(1 << 20), 1));
    assert_eq!(defaults.ulimits, [LimitDefault { name: "nofile".into(), soft: 5, hard: 9 }]);
    assert_eq!(all.userns.map(|range| range.count), Some(5));
    for file in [r#"{"host-gateway-ip": "192.0.2.1"}"#, r#"{"host-gateway-ips": ["192.0.2.1"]}"#] {
        assert_eq!(resolve("", file).unwrap().network.host_gateways, [Ipv4Addr::new(192, 0, 2, 1)], "{file}");
    }
    assert_eq!(
        resolve("--host-gateway-ip 192.0.2.1 --host-gateway-ip ::1", "").unwrap().network.host_gateways.len(),
        2
    );
    let bare = resolve("", "").unwrap();
    assert_eq!((bare.root.as_path(), bare.cgroup_parent.as_str()), (Path::new(ROOT), CGROUP_PARENT));
    assert_eq!(bare.fixed_differences(&bare), [""; 0]);
    assert!(bare.fixed_differences(&all).contains(&"hosts"));
}

#[test]
fn wrong_settings_are_named() {
    refused("", r#"{"colour": "red"}"#, "colour");
    refused("", r#"{"debug": "yes"}"#, "expected a boolean");
    refused("", "{", "EOF");
    refused("--root /a", r#"{"data-root": "/b"}"#, "both as a flag and in the configuration file: data-root");
    refused("-H unix:///a", r#"{"hosts": ["unix:///b"]}"#, "hosts");
    refused("", r#"{"live-restore": false}"#, "always outlive");
    refused("", r#"{"labels": ["bare"]}"#, "bare");
    refused("", r#"{"log-level": "loud"}"#, "loud");
    refused("", r#"{"host-gateway-ip": "here"}"#, "IP address");
    refused("--host-gateway-ip 1.1.1.1", r#"{"host-gateway-ips": ["::1"]}"#, "host-gateway-ips");
    refused("--host-gateway-ip 1.1.1.1 --host-gateway-ip 1.1.1.2", "", "only one IPv4 host gateway");
    refused("--cgroup-parent relative", "", "absolute");
    refused("-H http://x", "", "neither unix");
    refused("-H tcp://x:y", "", "port");
}

#[test]
fn tcp_needs_tls_or_a_clear_word() {
    refused("-H tcp://127.0.0.1:2375", "", "root on this host");
    assert!(resolve("-H tcp://127.0.0.1 --tls=false", "").unwrap().open);
    refused("-H tcp://127.0.0.1 --tlsverify", "", "--tlscacert");
    refused("-H tcp://127.0.0.1 --tls --tlscert c", "", "--tlskey");
    let verified = resolve("-H tcp://:2376 --tlsverify --tlscacert a --tlscert c --tlskey k", "").unwrap();
    assert_eq!(verified.hosts, [Host::Tcp("0.0.0.0:2376".into())]);
    assert_eq!(verified.tls.unwrap().clients.unwrap(), Path::new("a"));
    let file = r#"{"tls": true, "tlscert": "c", "tlskey": "k", "hosts": ["tcp://[::1]"]}"#;
    let unverified = resolve("", file).unwrap();
    assert!(unverified.tls.unwrap().clients.is_none());
    assert_eq!(unverified.hosts, [Host::Tcp("[::1]:2376".into())]);
}

#[test]
fn flags_say_what_the_file_could() {
    let all = resolve(
        "-D -b none --dns 1.1.1.1 --dns-opt ndots:2 --dns-search a.b --log-driver local --log-opt max-size=1m --init \
         --default-shm-size 1m --default-ulimit nofile=5:9 --no-new-privileges --seccomp-profile unconfined -p /x/y.pid \
         --registry-mirror https://m --default-network-opt bridge=a.b=c=d --feature cdi=false --max-download-attempts 1",
        "",
    )
    .unwrap();
    let defaults = &all.settings.defaults;
    assert_eq!((defaults.dns[0].as_str(), defaults.dns_options[0].as_str()), ("1.1.1.1", "ndots:2"));
    assert_eq!((defaults.log_driver.as_deref(), defaults.log_options["max-size"].as_str()), (Some("local"), "1m"));
    assert_eq!(defaults.ulimits, [LimitDefault { name: "nofile".into(), soft: 5, hard: 9 }]);
    assert!(defaults.no_new_privileges && defaults.init == Some(true) && all.network.absent);
    assert_eq!(defaults.seccomp.as_ref().unwrap().value, "unconfined");
    assert_eq!(all.settings.network_options["bridge"]["a.b"], "c=d");
    assert_eq!((all.cdi_folders.len(), all.distribution.client.retries), (0, 0));
    assert_eq!((all.pidfile.as_deref(), all.log_level), (Some(Path::new("/x/y.pid")), LevelFilter::DEBUG));
    assert_eq!(all.distribution.client.mirrors["docker.io"], ["https://m"]);
    refused("--dns x", "", "invalid value");
    refused("--dns 1.1.1.1", r#"{"dns": ["1.1.1.1"]}"#, "dns");
    refused("", r#"{"dns": ["x"]}"#, "IP address");
    refused("--default-ulimit nofile=9:5", "", "NAME=SOFT");
    refused("--default-network-opt bridge=x", "", "DRIVER=OPTION=VALUE");
    refused("--default-ipc-mode host", "", "private nor shareable");
    refused("--max-download-attempts 0", "", "invalid max download attempts");
    refused("--seccomp-profile /nowhere/p.json", "", "/nowhere/p.json");
}

#[test]
fn the_default_network_is_told() {
    let network = |file: &str| resolve("", file).unwrap().network;
    let all = network(
        r#"{"bip": "10.9.0.1/16", "fixed-cidr": "10.9.1.0/24", "ipv6": true, "bip6": "fd00:9::1/64", "icc": false,
            "fixed-cidr-v6": "fd00:9::/80", "default-gateway": "10.9.0.9", "ip": "127.0.0.1", "ip-masq": false, "ip-forward": false}"#,
    );
    assert_eq!((all.addresses.len(), all.ranges.len(), all.gateways.len()), (2, 2, 1));
    assert!(all.separate && all.unmasked && all.leave_forwarding && all.v6 && !all.absent);
    assert_eq!(all.publish_at, Some(Ipv4Addr::LOCALHOST.into()));
    refused("", r#"{"bip": "fd00::1/64"}"#, "bip: it is an address of the other version");
    refused("--fixed-cidr-v6 10.0.0.0/8", "", "fixed-cidr-v6");
}

#[test]
fn settings_without_a_meaning_here_are_known() {
    let told = |words: &str, file: &str| resolve(words, file).unwrap().warnings;
    assert_eq!(told("--userland-proxy=false --iptables=true -s overlay2 --live-restore", ""), [""; 0]);
    assert_eq!(
        told("", r#"{"live-restore": true, "builder": {"gc": {"enabled": true}}, "storage-driver": "overlay2"}"#),
        [""; 0]
    );
    let some = told(
        "-s zfs",
        r#"{"exec-opts": ["native.cgroupdriver=systemd"], "features": {"containerd-snapshotter": true}}"#,
    );
    assert!(
        some[0].contains("storage-driver (zfs)") && some[1].contains("systemd") && some[2].contains("by their content")
    );
    assert_eq!(some.len(), 3);
    refused("", r#"{"iptables": false}"#, "iptables (false) is not possible");
    refused("--authorization-plugin x", "", "there are no plugins");
    refused("-s a", r#"{"storage-driver": "b"}"#, "both as a flag and in the configuration file: storage-driver");
    refused("", r#"{"shutdown-timeout": "x"}"#, "bad value of shutdown-timeout");
    refused("--shutdown-timeout x", "", "shutdown-timeout");
    refused("", r#"{"iptables": true, "colour": 1}"#, "colour");
}
