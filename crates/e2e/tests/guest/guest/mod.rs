//! Boots the guests and reads what they say.

mod debian;

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::guest::{Guest, Outcome, is_inside};
use testkit::rootfs;

use debian::{Debian, First, built};

/// pivot_root(2) refuses the root that the kernel began with, so the tests see a mount of it.
const ENTER: &str = "#!/bin/busybox sh
# whoever reads has the kernel look for randomness, which a machine like this one has little of; whoever only waits does not
head -c 1 /dev/random > /dev/null
mount --rbind / /mnt && cd /mnt && mount --move . / || exit 1
export INSULA_E2E_RUNTIME=/bin/insula-oci
exec chroot . \"$@\"
";
/// What criu calls, beside itself: namespaces of the network and file systems in memory are written down by programs.
const CRIU: &[&str] = &[
    "criu",
    "gzip",
    "ip",
    "ip6tables",
    "ip6tables-restore",
    "ip6tables-save",
    "iptables",
    "iptables-restore",
    "iptables-save",
    "setpriv",
    "strace",
    "tar",
];
/// Where the programs for the packet filter have what they open by name, and what criu uses of it.
const MATCHES: &str = "/usr/lib/x86_64-linux-gnu/xtables";
const MATCH: &[&str] = &["libxt_mark.so", "libxt_standard.so", "libxt_tcp.so"];

/// The daemon's programs, and the packages that they are built by.
const DAEMON: &[(&str, &str)] = &[("insula-netd", "net"), ("insula-shim", "container"), ("insulad", "daemon")];

/// One of ours without what is for debuggers, most of it: all that a kernel unpacks to memory by software counts.
fn stripped(folder: &Path, name: &str, package: &str) -> PathBuf {
    let (path, small) = (built(name, package), folder.join(name));
    let stripped = Command::new("strip").arg("-o").arg(&small).arg(&path).status();
    if stripped.is_ok_and(|status| status.success()) { small } else { path }
}

/// A guest with criu and this test; nothing where one can't be had, with the reason printed.
fn with_criu() -> Option<Guest> {
    if is_inside() {
        println!("skipped: this is the guest");
        return None;
    }
    let mut guest = Guest::new_or_skip()?;
    let own = std::env::current_exe().unwrap();
    guest = guest.program(&own, "inside").file("bin/enter", 0o755, ENTER.as_bytes());
    for name in CRIU {
        let Some(path) = rootfs::find(name) else {
            println!("skipped: {name} is not installed");
            return None;
        };
        guest = guest.program(&path, name);
    }
    for name in MATCH {
        let path = Path::new(MATCHES).join(name);
        if let Ok(content) = std::fs::read(&path) {
            guest = guest.file(path.to_string_lossy().trim_start_matches('/'), 0o755, &content);
        }
    }
    let accounts = [("etc/passwd", "root:x:0:0::/:/bin/sh\n"), ("etc/group", "root:x:0:\n"), ("mnt/.keep", "")];
    Some(accounts.into_iter().fold(guest, |guest, (name, text)| guest.file(name, 0o644, text.as_bytes())))
}

#[test]
fn the_daemon_with_criu() {
    let Some(mut guest) = with_criu() else { return };
    let Some(docker) = rootfs::find("docker") else {
        println!("skipped: no docker client in PATH");
        return;
    };
    guest = guest.program(&docker, "docker");
    let folder = tempfile::tempdir().unwrap();
    for (name, package) in DAEMON {
        guest = guest.program(&stripped(folder.path(), name, package), name);
    }
    let words = ["/bin/enter", "/bin/inside", "engine::", "--ignored", "--test-threads=1", "--nocapture"];
    good(&guest.memory_mib(2048).run(&words));
}

#[test]
fn the_runtime_on_version_2_and_with_criu() {
    let Some(mut guest) = with_criu() else { return };
    guest = guest.program(&built("insula-oci", "container"), "insula-oci");
    // for whoever works at one of them
    let only = std::env::var("INSULA_GUEST_TESTS").unwrap_or_else(|_| "inside::".to_owned());
    let words = ["/bin/enter", "/bin/inside", &only, "--ignored", "--test-threads=2", "--nocapture"];
    let outcome = guest.disk_mib(16).memory_mib(1024).run(&words);
    good(&outcome);
}

/// What a Debian runs: the tests of some modules, with each of the runtimes.
fn suite(before: &str, modules: &str) -> String {
    // for whoever works at one of them
    let runtimes = std::env::var("INSULA_E2E_RUNTIME").unwrap_or_else(|_| "insula-oci runc crun".to_owned());
    let only = std::env::var("INSULA_GUEST_TESTS");
    let modules = only.as_deref().unwrap_or(modules);
    format!(
        "{before}\ncode=0\nfor one in {runtimes}; do echo runtime: $one; \
        INSULA_E2E_RUNTIME=$(command -v $one) inside {modules} --ignored --test-threads=2 --nocapture || code=1; done; exit $code"
    )
}

/// A Debian with what the tests need; `None` where there is none, with the reason printed.
fn debian() -> Option<Debian> {
    if is_inside() {
        println!("skipped: this is the guest");
        return None;
    }
    let debian = Debian::new_or_skip()?;
    let own = std::env::current_exe().unwrap();
    Some(debian.program(&own, "inside").program(&built("insula-oci", "container"), "insula-oci"))
}

#[track_caller]
fn good(outcome: &Outcome) {
    println!("{}", outcome.output);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    // a skip in there would make this test say nothing
    assert!(!outcome.output.contains("skipped:"), "{}", outcome.output);
}

#[test]
fn a_debian_with_systemd_and_apparmor() {
    let Some(debian) = debian() else { return };
    let before = "apparmor_parser -K -r /etc/apparmor.d/insula-test
        useradd -m user && loginctl enable-linger user && systemctl start user@1000.service";
    let debian = debian.file("etc/apparmor.d/insula-test", 0o644, include_bytes!("../booted/profiles"));
    let modules = "booted::apparmor booted::session booted::systemd";
    good(&debian.run(First::Systemd, "security=apparmor", &suite(before, modules)));
}

/// Boots a Debian with the daemon in it.
fn daemon_in(cmdline: &str) {
    let Some(mut debian) = debian() else { return };
    let Some(docker) = rootfs::find("docker") else {
        println!("skipped: no docker client in PATH");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (name, package) in DAEMON.iter().chain(&[("insula", "cli")]) {
        debian = debian.program(&stripped(folder.path(), name, package), name);
    }
    let only = std::env::var("INSULA_GUEST_TESTS").unwrap_or_else(|_| "booted::daemon engine::layers".to_owned());
    // a container's layer lies on no file system that is an overlay itself
    let script = format!(
        "uname -r; mount -t ext4 /dev/vdd /tmp && chmod 1777 /tmp && \
        inside {only} --ignored --test-threads=1 --nocapture"
    );
    good(&debian.program(&docker, "docker").run(First::Systemd, cmdline, &script));
}

#[test]
fn a_debian_with_the_daemon() {
    daemon_in("");
}

#[test]
fn a_debian_with_the_daemon_and_both_versions_of_control_groups() {
    daemon_in("systemd.unified_cgroup_hierarchy=0");
}

#[test]
fn a_debian_with_selinux() {
    let Some(debian) = debian() else { return };
    let before = "
        mount -t tmpfs tmp /tmp; mount -t tmpfs run /run
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        mkdir /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs shm /dev/shm
        busybox ip link set lo up
        mount -t selinuxfs selinuxfs /sys/fs/selinux
        secilc -o /tmp/policy -f /dev/null -c 33 /root/policy.cil && cat /tmp/policy > /sys/fs/selinux/load
        echo 1 > /sys/fs/selinux/enforce; id -Z";
    let debian = debian.file("root/policy.cil", 0o644, include_bytes!("../booted/policy.cil"));
    good(&debian.run(First::Script, "security=selinux selinux=1", &suite(before, "booted::selinux")));
}
