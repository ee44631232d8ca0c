//! Every virtio device under Linux, over both transports: what the guest sees (`examples/guest_check`), and what the host finds afterwards.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use control::machine::{BackendChoice, ConsoleDevice, DeviceBus, MachineSpec};
use vmm::Event;

use super::{from_json, initrd, kernel};
use crate::support::{Running, spec};

const MIB: usize = 1 << 20;
const CHECKS: &str = "block,clear,read-only,image,entropy,pmem,net,vsock,share,share-read-only,again";
/// Streams at the same time, each way, and the ports of guest and host, as in the guest's program.
const STREAMS: usize = 16;
const PORTS: [u32; 2] = [5000, 6000];

/// As in the guest's program.
fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| ((at / 512) * 31 + at % 512 + seed) as u8).collect()
}

/// The guest's program, which stands beside this test's.
pub(super) fn program() -> Vec<u8> {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().and_then(Path::parent).unwrap().join("examples/guest_check");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; build the examples as well", path.display()))
}

/// Sends everything back, as long as there is somebody: a stream's bytes and datagrams.
fn echo() -> (SocketAddr, SocketAddr) {
    let (listener, socket) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let addresses = (listener.local_addr().unwrap(), socket.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(length @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..length]).is_err() {
                    break;
                }
            }
        }
    });
    std::thread::spawn(move || {
        let mut bytes = vec![0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            // Whoever asked may be gone.
            let _gone = socket.send_to(&bytes[..length], from);
        }
    });
    addresses
}

fn qemu_img(folder: &Path, line: &str) -> std::io::Result<()> {
    let output = Command::new("qemu-img").args(line.split(' ')).current_dir(folder).output()?;
    assert!(output.status.success(), "qemu-img {line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The host's side of the devices.
struct Host {
    folder: PathBuf,
    forward: SocketAddr,
}

impl Host {
    /// Makes disks and folders; `None` without the program that makes images.
    fn new(folder: &Path) -> Option<Self> {
        let path = |name: &str| folder.join(name);
        std::fs::File::create(path("disk")).unwrap().set_len(16 << 20).unwrap();
        std::fs::write(path("fixed"), pattern(MIB, 3)).unwrap();
        std::fs::write(path("base"), [pattern(MIB, 4), vec![0; 15 * MIB]].concat()).unwrap();
        std::fs::File::create(path("pmem")).unwrap().set_len(4 << 20).unwrap();
        if let Err(error) = qemu_img(folder, "create -q -f qcow2 -b base -F raw image.qcow2") {
            println!("skipped: no qemu-img (package qemu-utils): {error}");
            return None;
        }
        for share in ["rw", "ro"] {
            std::fs::create_dir(path(share)).unwrap();
            std::fs::write(path(share).join("given"), "by the host").unwrap();
        }
        std::fs::create_dir(path("rw/large")).unwrap();
        for number in 0..10_000 {
            std::fs::File::create(path("rw/large").join(format!("a-file-with-some-name-{number}"))).unwrap();
        }
        std::fs::write(path("secret"), "not for the guest").unwrap();
        symlink("../secret", path("rw").join("out")).unwrap();
        let forward = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Some(Self { folder: folder.to_owned(), forward })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn fill(&self, spec: &mut MachineSpec) {
        let (tcp, udp) = echo();
        let gateway = |address: SocketAddr| format!("10.0.2.2:{}", address.port());
        spec.cmdline =
            format!("console=ttyS0 quiet panic=-1 checks={CHECKS} tcp={} udp={}", gateway(tcp), gateway(udp));
        spec.disks = from_json(serde_json::json!([
            { "path": self.path("disk") },
            { "path": self.path("fixed"), "read_only": true, "limit": { "bytes": 256 << 10 } },
            { "path": self.path("image.qcow2"), "format": "qcow2", "backing": true },
        ]));
        let forwards = serde_json::json!([{ "host": self.forward, "guest_port": 7777 }]);
        spec.nets = from_json(serde_json::json!([{ "host_loopback": true, "forwards": forwards }]));
        spec.shares = from_json(serde_json::json!([
            { "path": self.path("rw"), "tag": "rw" },
            { "path": self.path("ro"), "tag": "ro", "read_only": true },
        ]));
        spec.pmems = from_json(serde_json::json!([{ "path": self.path("pmem") }]));
        spec.balloon = true;
        spec.vsock = from_json(serde_json::json!({ "cid": 7, "path": self.path("vsock") }));
    }

    /// Programs of the host speak to the guest's, which speaks to one of the host.
    fn speak(&self) {
        let streams: Vec<_> = (0..STREAMS)
            .map(|number| {
                let path = self.path("vsock");
                std::thread::spawn(move || {
                    let mut stream = UnixStream::connect(path).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
                    writeln!(stream, "CONNECT {}", PORTS[0]).unwrap();
                    let mut byte = [0];
                    while byte != *b"\n" {
                        stream.read_exact(&mut byte).unwrap();
                    }
                    let sent = pattern(MIB / 8 + number, number);
                    stream.write_all(&sent).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                    let mut got = Vec::new();
                    stream.read_to_end(&mut got).unwrap();
                    assert!(got == sent, "a stream to the guest came back otherwise");
                })
            })
            .collect();
        streams.into_iter().for_each(|stream| stream.join().unwrap());
    }

    /// Where the guest finds a program of the host: it sends everything back once all has been sent.
    fn listen(&self) {
        let path = self.path(&format!("vsock_{}", PORTS[1]));
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut bytes = Vec::new();
                    stream.read_to_end(&mut bytes).and_then(|_| stream.write_all(&bytes))
                });
            }
        });
    }

    /// Somebody outside speaks to the guest's port.
    fn call_in(&self) {
        let mut stream = TcpStream::connect(self.forward).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "from the guest hello");
    }

    /// What the guest did is in the host's files.
    fn look(&self) {
        let disk = std::fs::File::open(self.path("disk")).unwrap();
        let mut bytes = vec![0; 2 * MIB];
        disk.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..MIB] == pattern(MIB, 1));
        assert!(bytes[MIB..MIB + MIB / 2].iter().all(|byte| *byte == 0), "cleared ranges are not zero");
        assert!(bytes[MIB + MIB / 2..] == pattern(MIB, 2)[MIB / 2..]);
        // The room of what was discarded was given back: a quarter of the second megabyte, and all that was never written.
        let kept = disk.metadata().unwrap().blocks() * 512;
        assert!(kept <= (2 * MIB - MIB / 4 + 65_536) as u64, "{kept} bytes are kept");
        let mut bytes = vec![0; MIB];
        std::fs::File::open(self.path("pmem")).unwrap().read_exact(&mut bytes).unwrap();
        assert!(bytes == pattern(MIB, 6), "what was written to persistent memory is not in its file");
        assert!(std::fs::read(self.path("fixed")).unwrap() == pattern(MIB, 3));
        let base = std::fs::read(self.path("base")).unwrap();
        assert!(
            base[..MIB] == pattern(MIB, 4) && base[MIB..].iter().all(|byte| *byte == 0),
            "the image below has changed"
        );
        qemu_img(&self.folder, "check -q -f qcow2 image.qcow2").unwrap();
        qemu_img(&self.folder, "convert -f qcow2 -O raw image.qcow2 image.raw").unwrap();
        let image = std::fs::read(self.path("image.raw")).unwrap();
        assert!(image[MIB / 2 + 512..][..MIB] == pattern(MIB, 5) && image[..MIB / 2] == pattern(MIB, 4)[..MIB / 2]);
        let (there, linked) = (self.path("rw").join("b"), self.path("rw").join("c"));
        assert!(std::fs::read(&there).unwrap() == pattern(3 * MIB, 9));
        assert_eq!(there.metadata().unwrap().ino(), linked.metadata().unwrap().ino());
        assert_eq!(std::fs::read_to_string(self.path("secret")).unwrap(), "not for the guest");
        assert_eq!(std::fs::read_dir(self.path("ro")).unwrap().count(), 1);
    }
}

/// Waits for the end of the guest's checks, and fails if one of them has.
pub(super) fn checked(guest: &Running, before: &str, checks: &str) {
    let said = before.to_owned() + &guest.expect("CHECKS DONE");
    for check in checks.split(',') {
        assert!(said.contains(&format!("CHECK {check} ok")), "{check}:\n{said}");
    }
}

/// Any byte goes through a virtio console in both directions, and the guest hears of the terminal's size.
fn typed(guest: &Running) {
    guest.input("typing\n");
    guest.expect("TYPE\n");
    for round in 0..8 {
        // But Ctrl-O, which Linux takes for the begin of an order on such a console.
        let bytes: Vec<u8> =
            pattern(1024, round * 37).iter().map(|byte| if *byte == 0x0f { 0x10 } else { *byte }).collect();
        (guest.machine.input_line())(&bytes);
        let answer = guest.bytes(bytes.len());
        assert!(answer.iter().zip(&bytes).all(|(answer, byte)| *answer == byte.wrapping_add(1)), "{round}");
    }
    guest.expect("SIZE\n");
    guest.machine.resize_console(132, 43).unwrap();
    checked(guest, "", "typing");
}

/// Memory of the guest that this process holds, in KiB: it is mapped from a file in memory.
fn held() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

#[test]
fn linux_finds_every_device_in_order() {
    for (bus, cpus) in [(DeviceBus::Pci, 2), (DeviceBus::Mmio, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let Some((kernel, initrd)) = kernel().zip(initrd(folder.path(), &program())) else { return };
        let Some(host) = Host::new(folder.path()) else { return };
        let mut spec = spec(&kernel, BackendChoice::Soft);
        (spec.initrd, spec.memory, spec.cpus, spec.bus) = (Some(initrd), 256 << 20, cpus, bus);
        host.fill(&mut spec);
        if bus == DeviceBus::Mmio {
            spec.console = ConsoleDevice::Virtio;
            spec.cmdline = spec.cmdline.replace("ttyS0", "hvc0");
        }
        host.listen();
        let guest = Running::boot(&spec);
        let mut before = guest.expect("LISTENING");
        host.call_in();
        before += &guest.expect("LISTENING FOR STREAMS");
        host.speak();
        checked(&guest, &before, CHECKS);
        if bus == DeviceBus::Mmio {
            typed(&guest);
        }
        let metrics: std::collections::BTreeMap<_, _> = guest.machine.metrics().into_iter().collect();
        assert!(metrics["block1"]["throttled"] > 0, "the limit was never met: {:?}", metrics["block1"]);
        assert_eq!(metrics["block2"]["errors"], 0);
        assert!(metrics["processors"]["code_blocks"] > 0, "nothing was translated: {:?}", metrics["processors"]);
        // Free pages go back to the host, and a balloon takes others.
        guest.input("use\n");
        checked(&guest, "", "use");
        let much = held();
        guest.input("free\n");
        checked(&guest, "", "free");
        let less = testkit::wait_for(Duration::from_secs(100), || (held() + (48 << 10) < much).then(held));
        assert!(less.is_some(), "free pages are kept: {much} KiB before, {} KiB now", held());
        assert!(guest.machine.set_balloon(1 << 40).is_err(), "the guest has not so much memory");
        guest.machine.set_balloon(64 << 20).unwrap();
        let taken = testkit::wait_for(Duration::from_secs(100), || {
            let metrics: std::collections::BTreeMap<_, _> = guest.machine.metrics().into_iter().collect();
            metrics
                .values()
                .any(|device| device.get("balloon_taken_bytes").is_some_and(|bytes| *bytes >= 64 << 20))
                .then_some(())
        });
        assert!(taken.is_some(), "the balloon was not blown up: {:?}", guest.machine.metrics());
        guest.input("off\n");
        assert_eq!(guest.event(), Event::PowerOff);
        drop(guest);
        host.look();
    }
}
