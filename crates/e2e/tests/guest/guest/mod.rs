//! Boots the guest and reads what it says.

use std::path::{Path, PathBuf};

use testkit::guest::{Guest, is_inside};
use testkit::rootfs;

/// pivot_root(2) refuses the root that the kernel began with, so the tests see a mount of it.
const ENTER: &str = "#!/bin/busybox sh
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

/// The runtime, as it was built beside this test.
fn runtime() -> PathBuf {
    let built = || Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned());
    let folder = std::env::var_os("INSULA_E2E_BIN").map(PathBuf::from).or_else(built).unwrap();
    let path = folder.join("insula-oci");
    assert!(path.is_file(), "{} is not there; cargo build -p container --bin insula-oci makes it", path.display());
    path
}

#[test]
fn the_runtime_on_version_2_and_with_criu() {
    if is_inside() {
        println!("skipped: this is the guest");
        return;
    }
    let Some(mut guest) = Guest::new_or_skip() else { return };
    let own = std::env::current_exe().unwrap();
    guest = guest.program(&own, "inside").program(&runtime(), "insula-oci").file("bin/enter", 0o755, ENTER.as_bytes());
    for name in CRIU {
        let Some(path) = rootfs::find(name) else {
            println!("skipped: {name} is not installed");
            return;
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
    guest = accounts.into_iter().fold(guest, |guest, (name, text)| guest.file(name, 0o644, text.as_bytes()));
    // for whoever works at one of them
    let only = std::env::var("INSULA_GUEST_TESTS").unwrap_or_else(|_| "inside::".to_owned());
    let words = ["/bin/enter", "/bin/inside", &only, "--ignored", "--test-threads=2", "--nocapture"];
    let outcome = guest.disk_mib(16).memory_mib(1024).run(&words);
    println!("{}", outcome.output);
    assert_eq!(outcome.code, Some(0), "{}", outcome.output);
    // a skip in there would make this test say nothing
    assert!(!outcome.output.contains("skipped:"), "{}", outcome.output);
}
