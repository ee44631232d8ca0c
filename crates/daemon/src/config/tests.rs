//! Settings from flags and from files.

use super::*;
use clap::Parser;
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
fn ranges_modes_and_mirrors_are_checked() {
    let remap = |text: &str| text.parse::<Remap>();
    assert!(remap("off").unwrap().0.is_none());
    let range = remap("100000:200000:65536").unwrap().0.unwrap();
    assert_eq!((range.first_uid, range.first_gid, range.count), (100_000, 200_000, 65_536));
    for bad in ["1", "1:2", "1:2:3:4", "a:b:c", "0:0:0", "4294967295:0:2"] {
        assert!(remap(bad).is_err(), "{bad}");
    }
    assert_eq!(mode("0660"), Ok(0o660));
    assert!(mode("9").is_err() && mode("7777").is_err());
    assert_eq!(mirror("docker.io=https://m:5").unwrap().1, "https://m:5");
    assert!(mirror("docker.io").is_err() && mirror("=https://m").is_err() && mirror("a=m").is_err());
    assert!(keep("perhaps").is_err());
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
    refused("", r#"{"live-restore": false}"#, "live-restore");
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
