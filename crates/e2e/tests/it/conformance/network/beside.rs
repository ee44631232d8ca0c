//! Two daemons on one host, each with its own bridges, addresses and table.

use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use super::{docker, fetch, helper, serve, shell, subject, subject_with};
use crate::subject::{SOON, Subject, skip_unless_insula};
use testkit::wait_for;

/// Each daemon's published port.
const PORTS: [u16; 2] = [8080, 8081];

/// A machine outside of the host, at the other end of a wire; it goes with this.
struct Outside(Child);

impl Outside {
    fn new() -> Self {
        let one = Self(Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap());
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", one.0.id());
        let there = wait_for(SOON, || std::fs::read_link(&path).ok().filter(|other| *other != own));
        assert!(there.is_some(), "a namespace outside");
        for words in [
            &format!("ip link add wire type veth peer name card netns {}", one.0.id()),
            "ip link set wire up",
            "ip addr add 192.0.2.1/24 dev wire",
        ] {
            run(Command::new("sh").args(["-c", words]));
        }
        run(&mut one
            .command("ip link set card up; ip addr add 192.0.2.9/24 dev card; ip route add default via 192.0.2.1"));
        one
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.id())).args(["sh", "-c", script]);
        command
    }

    fn fetch(&self, url: &str) -> String {
        let retry = "--max-time 5 --retry 5 --retry-delay 0 --retry-all-errors";
        let output = self.command(&format!("curl -s {retry} {url}")).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A server behind a port, that says the port's number.
fn web(subject: &Subject, port: u16) {
    serve(subject, "web", &["-p", &format!("{port}:80")]);
    let script = format!("echo {port} > /www/index.html");
    docker(subject, &["exec", "web", "sh", "-c", &script]).expect(0);
}

/// Everybody reaches both daemons' ports.
fn check(when: &str, both: [&Subject; 2], outside: &Outside) {
    for port in PORTS {
        let said = format!("{port}\n");
        assert_eq!(fetch(&format!("http://127.0.0.1:{port}/")), said, "{when}: {port} from this host");
        assert_eq!(outside.fetch(&format!("http://192.0.2.1:{port}/")), said, "{when}: {port} from outside");
        for one in both {
            let script = format!("timeout 5 wget -qO- http://192.0.2.1:{port}/");
            let got = docker(one, &["exec", "asker", "sh", "-c", &script]);
            assert_eq!(got.out, said, "{when}: {port} from a container: {}", got.err);
        }
    }
}

/// No network of a daemon reaches another of it.
fn check_apart(both: [&Subject; 2]) {
    for one in both {
        let own = docker(one, &["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"]).expect(0);
        let script = format!("timeout 1 wget -qO- http://{}/", own.text());
        let street = docker(one, &["exec", "asker", "sh", "-c", &script]);
        assert_ne!(street.code, 0, "from one network of a daemon into another: {}", street.out);
    }
}

/// Replaces both daemons and their helpers, in this order.
fn restart(one: &mut Subject, other: &mut Subject, signals: [Signal; 2]) {
    let olds = [&*one, &*other].map(|subject| helper(subject).expect("a helper"));
    one.end_daemon(signals[0]);
    other.end_daemon(signals[1]);
    for old in olds {
        rustix::process::kill_process(old, Signal::KILL).unwrap();
    }
    for (subject, old) in [(one, olds[0]), (other, olds[1])] {
        assert!(wait_for(SOON, || helper(subject).is_none_or(|pid| pid != old).then_some(())).is_some());
        subject.start_daemon();
        let new = wait_for(SOON, || helper(subject).filter(|pid| *pid != old));
        assert!(new.is_some(), "a new helper");
    }
}

#[test]
fn two_daemons_share_a_host() {
    if skip_unless_insula() {
        return;
    }
    let Some(mut first) = subject() else { return };
    let mut second = subject_with(&["--bridge", "insula1"]).unwrap();
    let outside = Outside::new();
    for (one, port) in [(&first, PORTS[0]), (&second, PORTS[1])] {
        docker(one, &["network", "create", "street"]).expect(0);
        web(one, port);
        docker(one, &["run", "-d", "--name", "asker", "--network", "street", super::NET, "sleep", "1000"]).expect(0);
    }
    check("both new", [&first, &second], &outside);
    let taken = shell(&second, &["-p", "8080:80"], "true");
    assert!(taken.code != 0 && taken.err.contains("8080"), "the other's port: {}", taken.err);
    restart(&mut first, &mut second, [Signal::TERM, Signal::TERM]);
    check("restarted", [&first, &second], &outside);
    restart(&mut second, &mut first, [Signal::KILL, Signal::TERM]);
    check("in the other order, one of them killed", [&first, &second], &outside);
    // only one of them has anything to do: the other's ports stay
    second.end_daemon(Signal::KILL);
    docker(&first, &["rm", "-f", "web"]).expect(0);
    web(&first, PORTS[0]);
    assert_eq!(outside.fetch("http://192.0.2.1:8081/"), "8081\n", "while its daemon is away");
    second.start_daemon();
    check("after all", [&first, &second], &outside);
    check_apart([&first, &second]);
    let doctor = first.insula(&["doctor"]).out;
    assert!(doctor.contains("table inet insula of ") && doctor.contains(", table inet insula_"), "{doctor}");
    // a third that was not told of another bridge
    let third = subject().unwrap();
    let refused = shell(&third, &[], "true");
    assert!(refused.err.contains("--bridge") && refused.code != 0, "{}", refused.err);
    shell(&third, &["--network", "none"], "true").expect(0);
    third.finish();
    second.finish();
    first.finish();
}
