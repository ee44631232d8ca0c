//! What runs in a Debian that has booted. Each test is ignored, because no other machine may be taken for one; which module
//! runs depends on how it has booted.

mod apparmor;
mod daemon;
mod selinux;
mod session;
mod systemd;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::subject::Subject;

/// Puts a program of the machine into the containers' root, with what it is linked with.
fn install(s: &Subject, name: &str) {
    let program = testkit::rootfs::find(name).unwrap();
    let mut files = testkit::rootfs::libraries(&program);
    files.push(program);
    for file in files {
        let inside = s.rootfs().join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(&file, &inside).unwrap();
    }
}

/// The properties of a unit that `systemctl show` tells, one `NAME=VALUE` a line.
fn show(unit: &str, names: &str, of: &[&str]) -> String {
    let output = Command::new("systemctl").args(of).args(["show", unit, "--property", names]).output().unwrap();
    assert!(output.status.success(), "{unit}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The control group of a process.
fn group_of(pid: i32) -> String {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cgroup")).unwrap();
    text.trim().strip_prefix("0::").unwrap_or_else(|| panic!("no group of version 2 in {text}")).to_owned()
}
