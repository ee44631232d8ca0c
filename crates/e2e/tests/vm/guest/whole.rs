//! A whole Debian, made of the distribution's packages: to its login prompt under systemd; then its package tool, compiler and
//! Python. It takes a quarter of an hour, and runs only when asked for: `INSULA_WHOLE_DEBIAN=yes`. A disk that was made before is
//! used again if `INSULA_WHOLE_DEBIAN` names it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Place;

const INCLUDE: &str = "--include=systemd-sysv,udev,dbus,gcc,libc6-dev,python3";
const CHECK: &str = include_str!("check.sh");

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{program} {arguments:?}: {status:?}");
}

/// A repository of one package in the root, from which its own apt installs.
fn repository(root: &Path) {
    let folder = root.join("srv/repository");
    fs::create_dir_all(&folder).unwrap();
    let fetched = Command::new("apt-get")
        .args(["-q", "-o", "APT::Sandbox::User=root", "download", "hello"])
        .current_dir(&folder)
        .status();
    assert!(fetched.unwrap().success());
    let file = fs::read_dir(&folder).unwrap().flatten().next().unwrap().path();
    let told = Command::new("dpkg-deb").arg("-f").arg(&file).output().unwrap();
    let sum = Command::new("sha256sum").arg(&file).output().unwrap();
    let sum = String::from_utf8_lossy(&sum.stdout).split_whitespace().next().unwrap().to_owned();
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    let size = fs::metadata(&file).unwrap().len();
    let list = format!("{}Filename: ./{name}\nSize: {size}\nSHA256: {sum}\n", String::from_utf8_lossy(&told.stdout));
    fs::write(folder.join("Packages"), list).unwrap();
    fs::write(root.join("etc/apt/sources.list"), "deb [trusted=yes] file:/srv/repository ./\n").unwrap();
}

/// The disk: ext4 with the distribution's packages, a root without a password, and the test in it.
fn make(place: &Place) -> PathBuf {
    let (root, disk) = (place.path("debian"), place.path("debian.img"));
    run("mmdebstrap", &["--variant=important", INCLUDE, "bookworm", &root.to_string_lossy()]);
    repository(&root);
    let shadow = fs::read_to_string(root.join("etc/shadow")).unwrap();
    let shadow: String = shadow
        .lines()
        .map(|line| match line.strip_prefix("root:").and_then(|rest| rest.split_once(':')) {
            Some((_, rest)) => format!("root::{rest}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    fs::write(root.join("etc/shadow"), shadow).unwrap();
    fs::write(root.join("etc/fstab"), "/dev/vda / ext4 defaults 0 1\n").unwrap();
    fs::write(root.join("etc/hostname"), "guest\n").unwrap();
    fs::write(root.join("root/check.sh"), CHECK).unwrap();
    run("mke2fs", &["-q", "-t", "ext4", "-d", &root.to_string_lossy(), &disk.to_string_lossy(), "1500M"]);
    fs::remove_dir_all(&root).unwrap();
    disk
}

#[test]
fn a_whole_debian_works() {
    let Some(asked) = std::env::var_os("INSULA_WHOLE_DEBIAN") else {
        println!("skipped: it takes long; ask for it with INSULA_WHOLE_DEBIAN=yes");
        return;
    };
    let place = Place::new();
    let named = PathBuf::from(asked);
    let disk = if named.is_file() { named } else { make(&place) };
    let _name = place.insula("kernel install").ok();
    let line = format!("vm run -m 1g --cpus 2 --backend soft --disk {}", disk.display());
    let talk = [("login: ", "root\n"), ("guest:~# ", "sh /root/check.sh\n"), ("whole-guest-done\r\n", "poweroff\n")];
    let text = place.talk(
        &line,
        "console=ttyS0 root=/dev/vda rw systemd.default_device_timeout_sec=900 systemd.default_timeout_start_sec=900",
        &talk,
        None,
    );
    for expect in ["compiled 21065.833", "python (3, ", "Hello, world!", "0 loaded units listed", "Power down"] {
        assert!(text.contains(expect), "no {expect:?} in:\n{text}");
    }
}
