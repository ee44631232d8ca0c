//! The daemon's own settings, as flags that dockerd has as well.

use testkit::Island;

use crate::subject::{IMAGE, Subject, image_tar};

fn start(words: &[&str]) -> Option<Subject> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let subject = Subject::bare_with(|_: &Island| words)?;
    subject.insula(&["import", image_tar().to_str().unwrap(), IMAGE]).expect(0);
    Some(subject)
}

#[track_caller]
fn shell(subject: &Subject, options: &[&str], script: &str) -> String {
    let words = [&["run", "--rm"][..], options, &[IMAGE, "sh", "-c", script]].concat();
    subject.insula(&words).expect(0).text().to_owned()
}

#[test]
fn what_containers_get() {
    let Some(subject) = start(&[
        "--dns=192.0.2.53",
        "--dns-search=far.example",
        "--dns-opt=ndots:3",
        "--default-ulimit=nofile=77:88",
        "--default-shm-size=9m",
        "--no-new-privileges",
        "--init",
        "--bip=10.254.3.1/24",
        "--fixed-cidr=10.254.3.128/25",
        "--default-gateway=10.254.3.9",
        "--mtu=1300",
        "--ip=127.0.0.1",
        "--log-driver=json-file",
        "--log-opt=max-size=5m",
        "--label=a=b",
    ]) else {
        return;
    };
    let names = shell(&subject, &[], "cat /etc/resolv.conf");
    for line in ["nameserver 192.0.2.53", "search far.example", "options ndots:3"] {
        assert!(names.lines().any(|one| one == line), "{line} in {names}");
    }
    let asked = shell(&subject, &["--dns", "192.0.2.54"], "cat /etc/resolv.conf");
    assert!(asked.contains("192.0.2.54") && !asked.contains("192.0.2.53") && asked.contains("far.example"), "{asked}");
    assert_eq!(shell(&subject, &["--network", "none"], "ulimit -Sn; ulimit -Hn"), "77\n88");
    let shared = shell(&subject, &["--network", "none"], "df -k /dev/shm");
    assert_eq!(shared.lines().last().unwrap().split_whitespace().nth(1), Some("9216"), "{shared}");
    let more = |options: &[&str]| shell(&subject, options, "grep NoNewPrivs /proc/self/status");
    assert!(more(&["--network", "none"]).ends_with('1'));
    assert!(more(&["--network", "none", "--security-opt", "no-new-privileges=false"]).ends_with('0'));
    // the gateway and the first address of the range, as the kernel writes them
    let routes = shell(&subject, &[], "cat /proc/net/route; cat /sys/class/net/eth0/mtu; hostname -i");
    assert!(
        routes.contains("\t0903FE0A\t") && routes.contains("\n1300\n") && routes.contains("10.254.3.1"),
        "{routes}"
    );
    subject.insula(&["run", "-d", "--name", "web", "-p", "18083:80", IMAGE, "sleep", "1000"]).expect(0);
    assert_eq!(subject.field("web", "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostIp}}"), "127.0.0.1");
    assert_eq!(subject.field("web", "{{index .HostConfig.LogConfig.Config \"max-size\"}}"), "5m");
    subject.finish();
}

#[test]
fn no_default_network() {
    let Some(mut subject) = start(&[]) else { return };
    subject.insula(&["create", "--name", "old", IMAGE, "sh", "-c", "ls /sys/class/net"]).expect(0);
    subject.end_daemon(rustix::process::Signal::TERM);
    subject.extra.push("--bridge=none".to_owned());
    subject.start_daemon();
    assert_eq!(subject.insula(&["start", "-a", "old"]).expect(0).text(), "lo", "made while there was one");
    subject.insula(&["rm", "old"]).expect(0);
    assert_eq!(shell(&subject, &[], "ls /sys/class/net"), "lo");
    assert_eq!(shell(&subject, &["-p", "18084:80"], "ls /sys/class/net"), "lo");
    let listed = subject.insula(&["network", "ls", "--format", "{{.Name}}"]).expect(0).out;
    assert!(!listed.lines().any(|name| name == "bridge"), "{listed}");
    subject.insula(&["network", "create", "own"]).expect(0);
    assert!(shell(&subject, &["--network", "own"], "ls /sys/class/net").contains("eth0"));
    subject.insula(&["network", "rm", "own"]).expect(0);
    subject.finish();
}

#[test]
fn another_way_out_of_a_network() {
    let Some(subject) = start(&[]) else { return };
    let words = ["--subnet", "10.254.4.0/24", "--aux-address", "DefaultGatewayIPv4=10.254.4.7", "own"];
    subject.insula(&[&["network", "create"][..], &words].concat()).expect(0);
    let routes = shell(&subject, &["--network", "own"], "cat /proc/net/route");
    assert!(routes.contains("\t0704FE0A\t"), "{routes}");
    subject.insula(&["network", "rm", "own"]).expect(0);
    subject.finish();
}
