//! `cargo xtask bench image`: pulling, loading and removing an image, and what it takes on disk, beside podman and docker.
//!
//! All pull the same compressed image from our registry on loopback. dockerd has a network namespace of its own, so a second
//! server with a copy of the same folder stands in that.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::measure::{self, Groups, Sample, Spread};
use super::peers::{Fixture, Peer};
use crate::shell::{self, Run, step};

/// Our registry's server; ended when dropped.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    /// Serves `root`; on `port`, in the network namespace of a process if one is given.
    fn start(bin: &Path, root: &Path, port: u16, beside: Option<u32>) -> Result<Self> {
        let mut command = match beside {
            None => Command::new(bin.join("insulad")),
            Some(pid) => {
                let mut command = Command::new("nsenter");
                let script = "ip link set lo up && exec \"$@\"";
                command.args(["--net", "-t", &pid.to_string(), "sh", "-c", script, "sh"]).arg(bin.join("insulad"));
                command
            }
        };
        command.args(["registry", "serve", "--listen", &format!("127.0.0.1:{port}"), "--root"]).arg(root);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut process = spawned.context("cannot start the registry")?;
        let mut address = String::new();
        let out = process.stdout.take().context("the registry has no output")?;
        let read = BufReader::new(out).read_line(&mut address);
        let server = Self { process, address: address.trim().to_owned() };
        read.context("cannot hear from the registry")?;
        ensure!(!server.address.is_empty(), "the registry ended at its start");
        Ok(server)
    }

    fn port(&self) -> Result<u16> {
        let port = self.address.rsplit_once(':').context("the registry has no port")?.1;
        port.parse().with_context(|| format!("{port:?} is no port"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What was measured of a peer.
#[derive(Default)]
struct Measured {
    pulls: Vec<Sample>,
    loads: Vec<Sample>,
    removals: Vec<Sample>,
    bytes: u64,
}

/// One of the things that were measured.
type Pick = fn(&Measured) -> &Vec<Sample>;

/// Measures everything; the tables.
pub(super) fn measure(bin: &Path, groups: &Groups, fixture: &Fixture, rounds: u32) -> Result<String> {
    let engines = fixture.engines();
    let insula = engines.iter().find(|peer| peer.name == "insula").context("no insula")?;
    let folder = fixture.dir();
    let server = Server::start(bin, &folder.join("registry"), 0, None)?;
    let name = format!("{}/bench/big:1", server.address);
    let saved = folder.join("saved.tar");
    step("make the image and push it", || {
        groups.enter("insula")?;
        insula.import(&fixture.big_archive()?, &name)?;
        insula.push(&name)?;
        insula.remove_image(&name)
    })?;
    let copy = folder.join("registry-copy");
    Run::new("cp").args([Path::new("-a"), &folder.join("registry"), &copy]).check()?;
    fs::remove_file(copy.join("lock")).context("cannot remove the copy's lock")?;
    let _beside = Server::start(bin, &copy, server.port()?, Some(fixture.dockerd_pid()?))?;
    let memory_before = peak(&measure::processes_named("insulad"), fixture);
    let mut measured: Vec<Measured> = engines.iter().map(|_| Measured::default()).collect();
    step("pull and remove, in turns", || {
        for round in 0..=rounds {
            for (peer, kept) in engines.iter().zip(&mut measured) {
                ensure!(!shell::interrupted(), "interrupted");
                let before = disk_at_rest(&peer.images())?;
                let pull = groups.measure(peer.name, || peer.pull(&name))?;
                kept.bytes = disk_at_rest(&peer.images())?.saturating_sub(before);
                let removal = groups.measure(peer.name, || peer.remove_image(&name))?;
                if round > 0 {
                    kept.pulls.push(pull);
                    kept.removals.push(removal);
                }
            }
        }
        Ok(())
    })?;
    let memory = peak(&measure::processes_named("insulad"), fixture);
    let reduced = step("pull once more and wait until the layer is reduced", || reduced(insula, &name, groups))?;
    step("load, in turns", || {
        let docker = engines.iter().find(|peer| peer.name == "docker").context("no docker")?;
        docker.pull(&name)?;
        docker.save(&name, &saved)?;
        docker.remove_image(&name)?;
        for _ in 0..rounds {
            for (peer, kept) in engines.iter().zip(&mut measured) {
                ensure!(!shell::interrupted(), "interrupted");
                kept.loads.push(groups.measure(peer.name, || peer.load(&saved))?);
                peer.remove_image(&name)?;
            }
        }
        Ok(())
    })?;
    let mut text = table(&engines, &measured, rounds, &reduced);
    let show =
        |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), |bytes| format!("{:.0} MB", bytes as f64 / 1e6));
    let _ = writeln!(
        text,
        "\nPeak memory of insulad: {} before the pulls, {} after them. Reducing the layer took {:.1} s of processor time.",
        show(memory_before),
        show(memory),
        reduced.work
    );
    Ok(text)
}

/// An image whose compressed layer was reduced.
struct Reduced {
    /// What it takes.
    bytes: u64,
    /// Seconds after the pull.
    after: f64,
    /// Processor time, in seconds.
    work: f64,
}

/// Waits for the image's compressed layer to be reduced.
fn reduced(insula: &Peer<'_>, name: &str, groups: &Groups) -> Result<Reduced> {
    let before = disk_at_rest(&insula.images())?;
    insula.pull(name)?;
    let blobs = insula.images().first().context("no folder of images")?.join("blobs/sha256");
    let parts = || {
        let entries = fs::read_dir(&blobs).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "parts")).count()
    };
    let work = groups.measure(insula.name, || {
        let deadline = Instant::now() + Duration::from_secs(300);
        while parts() == 0 {
            ensure!(Instant::now() < deadline, "the layer is not reduced in 300 s");
            ensure!(!shell::interrupted(), "interrupted");
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    })?;
    let bytes = disk_at_rest(&insula.images())?.saturating_sub(before);
    insula.remove_image(name)?;
    Ok(Reduced { bytes, after: work.wall_ms / 1e3, work: work.cpu_ms / 1e3 })
}

fn table(engines: &[Peer<'_>], measured: &[Measured], rounds: u32, reduced: &Reduced) -> String {
    let mut text = format!("## An image of 270 MB in 12,000 files, {rounds} rounds\n");
    let kinds: [(&str, Pick); 3] = [
        ("Pull from a registry on loopback, and unpack", |one| &one.pulls),
        ("Load of what `docker save` wrote", |one| &one.loads),
        ("Remove", |one| &one.removals),
    ];
    let at = |name: &str| engines.iter().position(|peer| peer.name == name).unwrap_or(0);
    for (title, pick) in kinds {
        let wall: Vec<Spread> =
            measured.iter().map(|one| Spread::of(pick(one).iter().map(|sample| sample.wall_ms / 1e3))).collect();
        let cpu: Vec<Spread> =
            measured.iter().map(|one| Spread::of(pick(one).iter().map(|sample| sample.cpu_ms / 1e3))).collect();
        let _ = writeln!(
            text,
            "\n### {title}\n\n| | wall s: median (min - max) | CPU s: median (min - max) | wall, podman = 1 | wall, docker = 1 |\n\
             |---|---|---|---|---|"
        );
        for (index, peer) in engines.iter().enumerate() {
            let ratio = |name: &str| wall[index].median / wall[at(name)].median;
            let (podman, docker) = (ratio("podman"), ratio("docker"));
            let _ = writeln!(text, "| {} | {} | {} | {podman:.2} | {docker:.2} |", peer.name, wall[index], cpu[index]);
        }
    }
    let _ = writeln!(text, "\n### On disk\n\n| | MB | docker (overlay2) = 1 |\n|---|---|---|");
    for (peer, one) in engines.iter().zip(measured) {
        let ratio = one.bytes as f64 / measured[at("docker")].bytes.max(1) as f64;
        let _ = writeln!(text, "| {} | {:.0} | {ratio:.2} |", peer.name, one.bytes as f64 / 1e6);
    }
    let ratio = reduced.bytes as f64 / measured[at("docker")].bytes.max(1) as f64;
    let (after, bytes) = (reduced.after, reduced.bytes as f64 / 1e6);
    let _ = writeln!(text, "| insula, {after:.0} s later | {bytes:.0} | {ratio:.2} |");
    text
}

/// The most memory that our daemon, and not one of its registries, had at once.
fn peak(pids: &[i32], fixture: &Fixture) -> Option<u64> {
    // The folder of all that is this bench's own, so that other daemons of the machine do not count.
    let marker = fixture.dir().parent().unwrap_or(fixture.dir()).display().to_string();
    let of = |pid: &i32| -> Option<u64> {
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = String::from_utf8_lossy(&words).into_owned();
        if !words.contains(&marker) || words.contains("serve") {
            return None;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
    };
    pids.iter().filter_map(of).max()
}

/// What folders take on disk once nothing is removed behind an answer any more.
fn disk_at_rest(folders: &[PathBuf]) -> Result<u64> {
    let mut last = disk(folders)?;
    for _ in 0..120 {
        ensure!(!shell::interrupted(), "interrupted");
        std::thread::sleep(Duration::from_millis(500));
        let now = disk(folders)?;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
    anyhow::bail!("what the images take on disk does not come to rest")
}

/// What folders take on disk, each file once.
fn disk(folders: &[PathBuf]) -> Result<u64> {
    let mut seen = std::collections::HashSet::new();
    let mut pending = folders.to_vec();
    let mut blocks = 0;
    while let Some(path) = pending.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if !seen.insert((meta.dev(), meta.ino())) {
            continue;
        }
        blocks += meta.blocks();
        if meta.is_dir() {
            for entry in fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))? {
                pending.push(entry.context("cannot read a folder")?.path());
            }
        }
    }
    Ok(blocks * 512)
}
