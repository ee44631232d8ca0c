//! Every way into Linux, with one, two and four processors, from memory and from a disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use control::machine::{BackendChoice, BootProtocol};
use vmm::Event;

use super::{bzimage, from_json, initrd, kernel};
use crate::support::{Running, spec};

const INIT: &str = "#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc p /proc; $B mount -t sysfs s /sys
echo processors: $($B nproc), root: $($B awk '$2 == \"/\" { r = $3 } END { print r }' /proc/mounts)
case $($B cat /proc/cmdline) in *reboot=*) $B reboot -f;; esac
$B poweroff -f
";

/// A disk with the guest's files on ext4; `None`, with a reason, where it can't be made.
fn disk(folder: &Path, files: &[(&str, &[u8])]) -> Option<PathBuf> {
    let (tree, disk) = (folder.join("tree"), folder.join("disk"));
    for name in ["bin", "dev", "proc", "sys"] {
        std::fs::create_dir_all(tree.join(name)).unwrap();
    }
    for (name, content) in files {
        std::fs::write(tree.join(name), content).unwrap();
        std::fs::set_permissions(tree.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&disk).arg("16M").status();
    if made.is_ok_and(|status| status.success()) {
        return Some(disk);
    }
    println!("skipped the disk: no mke2fs (package e2fsprogs)");
    None
}

#[test]
fn linux_is_entered_in_every_way() {
    let folder = tempfile::tempdir().unwrap();
    let Some((vmlinux, bzimage)) = kernel().zip(bzimage()) else { return };
    let Some(initrd) = initrd(folder.path(), INIT.as_bytes()) else { return };
    let ways = [
        (&vmlinux, BootProtocol::Linux, 1, "", Event::PowerOff),
        (&vmlinux, BootProtocol::Pvh, 4, "reboot=acpi", Event::Reset),
        (&bzimage, BootProtocol::Linux, 2, "reboot=bios", Event::Reset),
    ];
    for (kernel, protocol, cpus, reboot, end) in ways {
        let mut spec = spec(kernel, BackendChoice::Soft);
        (spec.initrd, spec.memory, spec.cpus, spec.boot) = (Some(initrd.clone()), 128 << 20, cpus, protocol);
        spec.cmdline = format!("console=ttyS0 quiet panic=-1 {reboot}");
        let guest = Running::boot(&spec);
        guest.expect(&format!("processors: {cpus}, root: rootfs"));
        assert_eq!(guest.event(), end, "{protocol:?} {cpus}");
    }
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let Some(disk) = disk(folder.path(), &[("bin/busybox", &busybox), ("init", INIT.as_bytes())]) else { return };
    let mut spec = spec(&vmlinux, BackendChoice::Soft);
    spec.memory = 128 << 20;
    spec.cmdline = "console=ttyS0 quiet panic=-1 root=/dev/vda rw init=/init".to_owned();
    spec.disks = from_json(serde_json::json!([{ "path": disk }]));
    let guest = Running::boot(&spec);
    guest.expect("processors: 1, root: ext4");
    assert_eq!(guest.event(), Event::PowerOff);
}
