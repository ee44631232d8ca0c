//! Machines that are written and restored while they work on a disk, the network and a socket.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use control::machine::{BackendChoice, DeviceBus};
use serde_json::json;
use vmm::{Event, Extent, Packing, Writing};

use super::devices::{checked, program};
use super::{from_json, initrd, kernel};
use crate::support::{Running, spec};

/// The port that the guest's socket speaks to, as in its program.
const PORT: u32 = 6002;

/// Sends everything back, on as many streams as there are.
fn echo<S: Read + Write + Send + 'static>(streams: impl Iterator<Item = S> + Send + 'static) {
    std::thread::spawn(move || {
        for mut stream in streams {
            std::thread::spawn(move || {
                let mut bytes = vec![0; 64 << 10];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

fn goes_on(guest: &Running) {
    guest.input("loaded\n");
    checked(guest, "", "loaded");
}

#[test]
fn snapshots_of_a_machine_at_work_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some((kernel, initrd)) = kernel().zip(initrd(folder.path(), &program())) else { return };
    let path = |name: &str| folder.path().join(name);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let sockets = UnixListener::bind(path(&format!("vsock_{PORT}"))).unwrap();
    std::thread::spawn(move || echo(std::iter::from_fn(move || listener.accept().ok().map(|(stream, _)| stream))));
    std::thread::spawn(move || echo(std::iter::from_fn(move || sockets.accept().ok().map(|(stream, _)| stream))));
    for (bus, format) in [(DeviceBus::Pci, "raw"), (DeviceBus::Mmio, "qcow2")] {
        let disk = path(format);
        std::fs::File::create(&disk).unwrap().set_len(4 << 20).unwrap();
        if format == "qcow2" {
            let made = std::process::Command::new("qemu-img")
                .args(["create", "-q", "-f", format])
                .arg(&disk)
                .arg("4M")
                .status();
            if !made.is_ok_and(|status| status.success()) {
                println!("skipped: no qemu-img (package qemu-utils)");
                return;
            }
        }
        let mut spec = spec(&kernel, BackendChoice::Soft);
        (spec.initrd, spec.memory, spec.cpus, spec.bus) = (Some(initrd.clone()), 128 << 20, 2, bus);
        spec.track_dirty = true;
        spec.cmdline = format!(
            "console=ttyS0 quiet panic=-1 ip=10.0.2.15::10.0.2.2:255.255.255.0::eth0:off tcp=10.0.2.2:{port} checks=load"
        );
        spec.disks = from_json(json!([{ "path": disk, "format": format }]));
        spec.nets = from_json(json!([{ "host_loopback": true }]));
        spec.vsock = from_json(json!({ "cid": 9, "path": path("vsock") }));
        let mut guest = Running::boot(&spec);
        checked(&guest, "", "load");
        goes_on(&guest);
        let mut snapshot = |name: &str, extent: Extent, packing: Packing| {
            guest.machine.pause().unwrap();
            let folder = path(&format!("{format}-{name}"));
            guest.machine.snapshot(&folder, Writing { extent, packing }).unwrap();
            guest.machine.resume().unwrap();
            goes_on(&guest);
            folder
        };
        snapshot("full", Extent::Full, Packing::None);
        snapshot("more", Extent::Incremental, Packing::Zstd);
        // The last one is of a machine that does not go on: its disk stays as its memory knows it.
        guest.machine.pause().unwrap();
        let last = path(&format!("{format}-last"));
        guest.machine.snapshot(&last, Writing { extent: Extent::Incremental, packing: Packing::None }).unwrap();
        drop(guest);
        let guest = Running::restore(&last, None).unwrap();
        goes_on(&guest);
        goes_on(&guest);
        guest.input("off\n");
        assert_eq!(guest.event(), Event::PowerOff);
        drop(guest);
        if format == "qcow2" {
            let checked =
                std::process::Command::new("qemu-img").args(["check", "-q", "-f", format]).arg(&disk).status();
            assert!(checked.unwrap().success());
        }
    }
}
