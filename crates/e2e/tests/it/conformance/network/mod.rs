//! Networks, through the stock client.

mod beside;
mod flags;
mod kinds;
mod matrix;
mod places;
mod reach;
mod survival;

use std::fs;
use std::process::Command;

use testkit::rootfs;

use crate::subject::{Run, Subject, finish};

/// An image with small servers and clients of every kind.
pub(crate) const NET: &str = "net:1";

/// A daemon in a network of its own with the image; nothing where a program is missing, with the reason printed.
pub(crate) fn subject() -> Option<Subject> {
    subject_with(&[])
}

/// The same with further words on the daemon's command line.
fn subject_with(extra: &[&str]) -> Option<Subject> {
    if rootfs::find("docker").is_none() {
        println!("skipped: no docker client in PATH");
        return None;
    }
    let Some(busybox) = rootfs::find("busybox") else {
        println!("skipped: no busybox in PATH (busybox-static)");
        return None;
    };
    let subject = Subject::bare_with(|_| extra.iter().map(|word| (*word).to_owned()).collect())?;
    let tree = subject.island.dir("net-tree");
    for folder in ["bin", "etc", "proc", "sys", "dev", "tmp", "www"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    fs::copy(&busybox, tree.join("bin/busybox")).unwrap();
    for name in [
        "cat", "echo", "env", "grep", "hostname", "httpd", "ip", "nc", "nslookup", "ping", "sh", "sleep", "timeout",
        "true", "wget",
    ] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).unwrap();
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n").unwrap();
    fs::write(tree.join("www/index.html"), "served\n").unwrap();
    let tar = subject.island.path("net.tar");
    rootfs::tar(&tree, &tar);
    subject.insula(&["import", tar.to_str().unwrap(), NET]).expect(0);
    Some(subject)
}

/// The process that answers for names and guards the packet filter.
pub(crate) fn helper(subject: &Subject) -> Option<rustix::process::Pid> {
    let own = subject.island.path("run/netd.sock");
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        if String::from_utf8_lossy(&line).contains(own.to_str().unwrap()) {
            return entry.file_name().to_str()?.parse().ok().and_then(rustix::process::Pid::from_raw);
        }
    }
    None
}

/// Runs the stock client.
fn docker(subject: &Subject, words: &[&str]) -> Run {
    finish(&mut subject.docker_command(words).unwrap(), b"")
}

/// Starts a web server in the background.
fn serve(subject: &Subject, name: &str, options: &[&str]) -> String {
    let words = [&["run", "-d", "--name", name][..], options, &[NET, "httpd", "-f", "-p", "80", "-h", "/www"]].concat();
    docker(subject, &words).expect(0).text().to_owned()
}

/// What a shell in a throw-away container says.
fn shell(subject: &Subject, options: &[&str], script: &str) -> Run {
    docker(subject, &[&["run", "--rm"][..], options, &[NET, "sh", "-c", script]].concat())
}

/// What the host gets from an address.
fn fetch(url: &str) -> String {
    // a server that has just been started may not listen yet
    let words = ["-s", "--max-time", "5", "--retry", "20", "--retry-delay", "0", "--retry-all-errors", url];
    let output = Command::new("curl").args(words).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}
