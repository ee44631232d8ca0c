//! `cargo xtask bench vm-devices`: disks and networks of a Linux guest on the software CPU, beside QEMU's.
//!
//! Both boot the same kernel with the same first file system (`crates/vmm/examples/guest_devices.rs`), which moves bytes and ends. Processor
//! time is that of the machine's process, vCPU and device threads together, from the guest's word that it begins to its word that it is done,
//! and so is the time by the host's clock. The other end of the network is a process of its own, whose time counts for neither.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::marks::{Marks, Taken};
use super::measure::{Groups, Spread};
use super::remains;
use super::vm::Fixture;
use crate::shell::{Captured, Run, step};

const DISK_BYTES: usize = 64 << 20;
const TAP: &str = "insbench0";

/// What the guest uses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Device {
    Raw,
    Qcow2,
    /// The network without privileges.
    User,
    Tap,
}

/// Pieces of work by device, as `guest_devices` names them.
const WORK: [(Device, &str, &[&str]); 4] = [
    (Device::Raw, "virtio-blk, raw", DISK_WORK),
    (Device::Qcow2, "virtio-blk, qcow2", DISK_WORK),
    (Device::User, "virtio-net, user", NET_WORK),
    (Device::Tap, "virtio-net, tap", NET_WORK),
];
const DISK_WORK: &[&str] =
    &["deep-read-4k", "flush", "random-read-4k", "random-write-4k", "read-128k", "read-4k", "write-128k", "write-4k"];
const NET_WORK: &[&str] = &["tcp-answers", "tcp-in", "tcp-out"];

/// The other end of the network, ended with its owner.
struct Server {
    child: Child,
    port: String,
}

impl Server {
    /// It stays in the control group that this process is in now.
    fn start(fixture: &Fixture) -> Result<Self> {
        let mut command = std::process::Command::new(&fixture.program);
        let mut child = command
            .args(["serve", "0.0.0.0:0"])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the other end of the network")?;
        let mut port = String::new();
        let output = child.stdout.take().context("the other end has no output")?;
        BufReader::new(output).read_line(&mut port).context("the other end does not tell its port")?;
        Ok(Self { child, port: port.trim().to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended already can't be killed, and that is fine.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

struct Bench {
    fixture: Fixture,
    server: Server,
}

fn prepare(bin: &Path, dir: &Path) -> Result<Bench> {
    let fixture = Fixture::create(bin, dir.to_owned(), "guest_devices")?;
    let (raw, qcow2) = (dir.join("disk.raw"), dir.join("disk.qcow2"));
    let mut file = File::create(&raw).with_context(|| format!("cannot make {}", raw.display()))?;
    file.write_all(&vec![7; DISK_BYTES]).with_context(|| format!("cannot write {}", raw.display()))?;
    let convert = Run::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]);
    convert.args([raw.as_os_str(), qcow2.as_os_str()]).check()?;
    // The whole bench is in a network namespace of its own.
    let link = format!(
        "ip link set lo up; ip tuntap add {TAP} mode tap vnet_hdr; ip addr add 10.0.3.2/24 dev {TAP}; ip link set {TAP} up"
    );
    Run::new("sh").args(["-ec", &link]).check()?;
    let server = Server::start(&fixture)?;
    Ok(Bench { fixture, server })
}

impl Bench {
    /// What the kernel is told, behind the work's name.
    fn work(&self, device: Device, work: &str) -> String {
        let network = |host: &str, guest: &str| {
            let port = &self.server.port;
            format!("{work} ip={guest}::{host}:255.255.255.0::eth0:off peer={host}:{port}")
        };
        match device {
            Device::Raw | Device::Qcow2 => work.to_owned(),
            Device::User => network("10.0.2.2", "10.0.2.15"),
            Device::Tap => network("10.0.3.2", "10.0.3.15"),
        }
    }

    fn ours(&self, device: Device, work: &str) -> Run {
        let disk = |name: &str| ["--disk".to_owned(), self.fixture.dir.join(name).display().to_string()];
        let card = |text: &str| ["--net".to_owned(), text.to_owned()];
        let more = match device {
            Device::Raw => disk("disk.raw"),
            Device::Qcow2 => disk("disk.qcow2"),
            Device::User => card("user,host"),
            Device::Tap => card(&format!("tap={TAP}")),
        };
        // Without ACPI, which the other machine has not, the guest finds devices by asking the bus.
        self.fixture.ours(&self.work(device, work)).args(["--bus", "pci"]).args(more)
    }

    fn qemu(&self, device: Device, work: &str) -> Run {
        let disk = |name: &str, format: &str| {
            let drive = format!("id=d,if=none,format={format},file={}", self.fixture.dir.join(name).display());
            ["-drive".to_owned(), drive, "-device".to_owned(), "virtio-blk-device,drive=d".to_owned()]
        };
        let card = |backend: String| {
            ["-netdev".to_owned(), backend, "-device".to_owned(), "virtio-net-device,netdev=n".to_owned()]
        };
        let more = match device {
            Device::Raw => disk("disk.raw", "raw"),
            Device::Qcow2 => disk("disk.qcow2", "qcow2"),
            Device::User => card("user,id=n".to_owned()),
            Device::Tap => card(format!("tap,id=n,ifname={TAP},script=no,downscript=no,vhost=off")),
        };
        let modern = ["-global", "virtio-mmio.force-legacy=false"];
        self.fixture.qemu(&self.work(device, work)).args(modern).args(more)
    }

    /// What a piece of work took on ours and on QEMU, in turns.
    fn both(&self, groups: &Groups, rounds: u32, device: Device, work: &str) -> Result<[Taken; 2]> {
        let mut kept = [(Vec::new(), Vec::new(), 0.0), (Vec::new(), Vec::new(), 0.0)];
        for _ in 0..rounds {
            for (peer, (cpu, wall, moved)) in ["insula", "qemu"].into_iter().zip(&mut kept) {
                let run = if peer == "insula" { self.ours(device, work) } else { self.qemu(device, work) };
                groups.enter(peer)?;
                let mut marks = Marks::new(groups, peer, work);
                let shown = run.timeout(Duration::from_secs(600)).capture_lines(|line| marks.hear(line))?;
                let taken = marks.taken.with_context(|| {
                    let Captured { status, stdout, stderr } = shown;
                    format!("the guest on {peer} did not finish {work:?}; {status}\n{stdout}{stderr}")
                })?;
                cpu.push(taken.cpu);
                wall.push(taken.wall);
                *moved = taken.moved;
            }
        }
        Ok(kept.map(|(cpu, wall, moved)| Taken { cpu: Spread::of(cpu).median, wall: Spread::of(wall).median, moved }))
    }
}

/// Measures everything; `bin` holds our programs.
pub(super) fn measure(bin: &Path, groups: &Groups, rounds: u32) -> Result<String> {
    let dir = remains::folder("vm-devices");
    let outcome = step("prepare disks, links and the guest", || prepare(bin, &dir))
        .and_then(|bench| step("move bytes, in turns", || all(&bench, groups, rounds)));
    super::clear(&dir);
    outcome
}

/// What the flushes of a raw disk cost the host's kernel, without any machine.
fn floor(bench: &Bench, groups: &Groups, rounds: u32) -> Result<String> {
    let mut taken = Vec::new();
    for _ in 0..rounds {
        let disk = bench.fixture.dir.join("disk.raw");
        let sample = groups
            .measure("floor", || Run::new(&bench.fixture.program).args(["flush".as_ref(), disk.as_os_str()]).check())?;
        taken.push(sample);
    }
    let cpu = Spread::of(taken.iter().map(|sample| sample.cpu_ms));
    let wall = Spread::of(taken.iter().map(|sample| sample.wall_ms));
    Ok(format!(
        "\nThe writes and flushes of `flush` done by a program of the host, on the same raw file: {cpu} ms of processor, {wall} ms by the \
         clock. Either machine's own part is what is beyond that.\n"
    ))
}

fn all(bench: &Bench, groups: &Groups, rounds: u32) -> Result<String> {
    let mut text = format!(
        "## Disks and networks of a guest, {rounds} rounds\n\n\
         Goal: at least 1.5 times as fast as QEMU with its translator. Rates are MB/s, or thousands a second for `flush` and `tcp-answers`.\n\n\
         | device | work | insula CPU ms | QEMU CPU ms | QEMU / insula | insula rate | QEMU rate | insula / QEMU |\n\
         |---|---|---|---|---|---|---|---|\n"
    );
    let (mut product, mut count) = (0.0, 0.0);
    for (device, title, pieces) in WORK {
        for work in pieces {
            let [here, there] = bench.both(groups, rounds, device, work)?;
            let (cpu, other_cpu) = (here.cpu, there.cpu);
            let times = other_cpu / cpu;
            product += times.ln();
            count += 1.0;
            // Bytes a millisecond are thousands a second, as turns are.
            let unit = if matches!(*work, "flush" | "tcp-answers") { 1.0 } else { 1e-3 };
            let (rate, other_rate) = (here.rate() * unit, there.rate() * unit);
            let _ = writeln!(
                text,
                "| {title} | {work} | {cpu:.0} | {other_cpu:.0} | {times:.2} | {rate:.1} | {other_rate:.1} | {:.2} |",
                rate / other_rate
            );
        }
    }
    let _ = writeln!(text, "\nGeometric mean of CPU time, QEMU / insula: {:.2}", (product / count).exp());
    text.push_str(&floor(bench, groups, rounds)?);
    ensure!(
        fs::metadata(bench.fixture.dir.join("disk.raw"))?.len() == DISK_BYTES as u64,
        "the disk has changed its size"
    );
    Ok(text)
}
