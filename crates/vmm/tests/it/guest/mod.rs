//! Linux in a machine.

mod boots;
mod devices;
mod load;
mod power;

use std::path::{Path, PathBuf};

use control::machine::{BackendChoice, DeviceBus, ShareSpec};
use vmm::{Event, Writing};

use crate::support::{Running, spec};

/// The kernels' file names; looked for by the variable that names another, then beside the repository.
const VMLINUX: (&str, &str) = ("INSULA_GUEST_VMLINUX", "shared/kernel/vmlinux-microvm-6.1.zst");
const BZIMAGE: (&str, &str) = ("INSULA_GUEST_KERNEL", "shared/kernel/bzImage-microvm-6.1");

const INIT: &str = "#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc p /proc; $B mount -t sysfs s /sys; $B mount -t devtmpfs d /dev
$B mkdir -p /shared; $B mount -t virtiofs src /shared
echo processors: $($B nproc), disk: $($B cat /sys/block/vda/size), shared: $($B cat /shared/file)
$B dd if=/dev/zero of=/dev/vda bs=64k count=16 2>/dev/null; echo marked | $B dd of=/dev/vda conv=fsync 2>/dev/null
while read word; do
  case $word in
    count) n=$((n + 1)); echo counted $n;;
    off) $B poweroff -f;;
  esac
done < /dev/ttyS0
";

/// A kernel's file; `None`, with a reason, where there is none.
fn find((variable, file): (&str, &str)) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join(file));
    let found = named.into_iter().chain(beside).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: no guest kernel; name one in {variable}");
    }
    found
}

fn kernel() -> Option<PathBuf> {
    find(VMLINUX)
}

fn bzimage() -> Option<PathBuf> {
    find(BZIMAGE)
}

/// A first file system with busybox and this first program; `None`, with a reason, where it can't be had.
fn initrd(folder: &Path, init: &[u8]) -> Option<PathBuf> {
    let Ok(busybox) = std::fs::read("/bin/busybox") else {
        println!("skipped: no /bin/busybox (package busybox-static)");
        return None;
    };
    let content = [("init".to_owned(), 0o755, init.to_vec()), ("bin/busybox".to_owned(), 0o755, busybox)];
    let initrd = folder.join("initrd");
    std::fs::write(&initrd, testkit::guest::archive(&content)).unwrap();
    Some(initrd)
}

fn from_json<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn linux_boots_uses_its_devices_and_goes_on_from_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let Some((kernel, initrd)) = kernel().zip(initrd(folder.path(), INIT.as_bytes())) else { return };
    let share = folder.path().join("share");
    std::fs::create_dir(&share).unwrap();
    std::fs::write(share.join("file"), "of the host").unwrap();
    for (bus, cpus) in [(DeviceBus::Pci, 2), (DeviceBus::Mmio, 1)] {
        let disk = folder.path().join(format!("disk{cpus}"));
        std::fs::File::create(&disk).unwrap().set_len(8 << 20).unwrap();
        let mut spec = spec(&kernel, BackendChoice::Soft);
        (spec.initrd, spec.memory, spec.cpus, spec.bus) = (Some(initrd.clone()), 128 << 20, cpus, bus);
        spec.cmdline = "console=ttyS0 quiet panic=-1".to_owned();
        spec.disks = from_json(serde_json::json!([{ "path": disk }]));
        spec.nets = from_json(serde_json::json!([{}]));
        spec.shares = vec![ShareSpec { path: share.clone(), tag: "src".to_owned(), read_only: true }];
        let mut guest = Running::boot(&spec);
        guest.expect(&format!("processors: {cpus}, disk: 16384, shared: of the host"));
        guest.input("count\n");
        guest.expect("counted 1");
        guest.machine.pause().unwrap();
        let snapshot = folder.path().join(format!("snapshot{cpus}"));
        guest.machine.snapshot(&snapshot, Writing::default()).unwrap();
        drop(guest);
        assert!(std::fs::read(&disk).unwrap().starts_with(b"marked\n"));
        let guest = Running::restore(&snapshot, None).unwrap();
        guest.input("count\n");
        guest.expect("counted 2");
        guest.input("off\n");
        assert_eq!(guest.event(), Event::PowerOff);
    }
}
