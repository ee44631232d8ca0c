//! `cargo xtask bench`: what Insula costs beside its peers. `runtime` is the OCI runtime alone; `start` is the engine:
//! what a container costs, beside its peers, on the same machine, in the same run.
//!
//! Each peer works in a control group of its own, client, daemon, helpers and containers together, so that one counter
//! holds all the processor time it took. Peers take turns, round by round, so that a slow moment of the machine hits all.
//! The whole bench runs in a private mount namespace: crun refuses cgroup v1 beside a mounted v2, so that mount is
//! hidden, and `/run` is empty, so that no peer finds the machine's own daemons.
//!
//! The floor is `unshare` from util-linux with the same namespaces and a new proc: what the kernel asks for without
//! a root file system, limits or seccomp.

mod build;
mod engine;
mod ground;
mod image;
mod marks;
mod measure;
mod names;
mod network;
mod order;
mod peers;
mod registry;
mod remains;
mod runtime;
mod vm;
mod vm_debian;
mod vm_devices;
mod vm_narrow;
mod vm_own;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;

use self::measure::{Groups, Sample, Spread};
use self::peers::{Fixture, Peer};
use crate::setup::{self, Purpose};
use crate::shell::{self, Run, step};
use crate::{island, workspace};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Building a Dockerfile of twelve steps beside buildah: cold, cached, removal
    Build(Rounds),
    /// A peer of the network's bench: many short connections
    #[command(hide = true)]
    Connections(network::Peer),
    /// The engine through the stock client: run, exec, many at once, lists, logs, at rest
    Engine(Rounds),
    /// An image: pull, load, removal, size on disk
    Image(Rounds),
    /// A peer of the network's bench: many questions for names
    #[command(hide = true)]
    Names(names::Peer),
    /// Networks: bytes and connections through published ports and over a bridge, names, 500 ports
    Network(Rounds),
    /// No measurement: writes down which functions a `run` goes through, for the linker
    Order(Rounds),
    /// The registry's server beside docker-registry: many small blobs, a large one, memory
    Registry(registry::Arguments),
    /// The OCI runtime alone: run, create, exec, many at once, system calls, memory
    Runtime(Rounds),
    /// Starting, many at once, memory of an idle container, importing an image
    Start(Rounds),
    /// A Linux guest on the software CPU beside QEMU's translator: the boot, and pieces of work
    Vm(Rounds),
    /// Disks and networks of a Linux guest on the software CPU, beside QEMU's
    VmDevices(Rounds),
}

#[derive(clap::Args)]
struct Rounds {
    /// Fewer rounds: shows that everything runs, the numbers are rough
    #[arg(long)]
    quick: bool,
    /// Set by the bench itself when it has entered its private namespaces
    #[arg(long, hide = true)]
    inside: bool,
}

/// How often each thing is done.
struct Effort {
    starts: u32,
    bursts: u32,
    imports: u32,
}

const AT_ONCE: usize = 50;
const IDLE: usize = 5;

/// Runs `cargo xtask bench`.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (name, rounds) = match &arguments.what {
        What::Connections(peer) => return network::connections(peer),
        What::Names(peer) => return names::run(peer),
        What::Registry(arguments) => return registry::run(arguments),
        What::Build(rounds) => ("build", rounds),
        What::Engine(rounds) => ("engine", rounds),
        What::Image(rounds) => ("image", rounds),
        What::Network(rounds) => ("network", rounds),
        What::Order(rounds) => ("order", rounds),
        What::Runtime(rounds) => ("runtime", rounds),
        What::Start(rounds) => ("start", rounds),
        What::Vm(rounds) => ("vm", rounds),
        What::VmDevices(rounds) => ("vm-devices", rounds),
    };
    ensure!(rustix::process::geteuid().is_root(), "the bench needs root: its peers do");
    if !rounds.inside {
        setup::ensure(Purpose::Bench)?;
        if !matches!(arguments.what, What::Order(_)) {
            step("build in release", workspace::install_release)?;
        }
        if matches!(arguments.what, What::Runtime(_)) {
            step("build the floor", || workspace::build(FLOOR))?;
        }
        return enter_private_namespace(name, rounds);
    }
    let target = workspace::target_dir()?;
    let bin = target.join("insula/bin");
    let report = match &arguments.what {
        What::Runtime(_) => {
            let effort = if rounds.quick {
                runtime::Effort { rounds: 2, batch: 5 }
            } else {
                runtime::Effort { rounds: 15, batch: 20 }
            };
            let built = workspace::build(FLOOR)?;
            let find = |name: &str| built.iter().find(|path| path.ends_with(name)).context("an example was not built");
            runtime::measure(
                &bin,
                &runtime::Examples { floor: find("start_floor")?, repeat: find("repeat")? },
                &effort,
            )?
        }
        What::Build(_) => in_groups(|groups| build::measure(&bin, groups, if rounds.quick { 2 } else { 10 }))?,
        What::Vm(_) => in_groups(|groups| vm::measure(&bin, groups, if rounds.quick { 1 } else { 5 }))?,
        What::Engine(_) => in_groups(|groups| engine::measure(&bin, groups, &engine_effort(rounds.quick)))?,
        What::Network(_) => {
            let effort = if rounds.quick { (2, 1) } else { (7, 3) };
            let effort = network::Effort { rounds: effort.0, seconds: effort.1 };
            in_groups(|groups| network::measure(&bin, groups, &effort))?
        }
        What::VmDevices(_) => in_groups(|groups| vm_devices::measure(&bin, groups, if rounds.quick { 1 } else { 5 }))?,
        What::Image(_) => images(&bin, if rounds.quick { 1 } else { 5 })?,
        What::Order(_) => {
            print!("{}", order::write()?);
            return Ok(());
        }
        // has returned above
        What::Connections(_) | What::Names(_) | What::Registry(_) => return Ok(()),
        What::Start(_) if rounds.quick => measure_all(&bin, &Effort { starts: 5, bursts: 1, imports: 1 })?,
        What::Start(_) => measure_all(&bin, &Effort { starts: 30, bursts: 3, imports: 3 })?,
    };
    print!("{report}");
    let file = target.join("bench").join(name).with_extension("md");
    fs::create_dir_all(file.parent().unwrap_or(Path::new("/"))).context("cannot create target/bench")?;
    fs::write(&file, report).with_context(|| format!("cannot write {}", file.display()))?;
    println!("written to {}", file.display());
    Ok(())
}

/// Measures in control groups that are gone afterwards, also when it fails.
fn in_groups(measure: impl FnOnce(&Groups) -> Result<String>) -> Result<String> {
    let groups = Groups::create()?;
    let report = measure(&groups);
    groups.remove();
    report
}

fn engine_effort(quick: bool) -> engine::Effort {
    if quick {
        engine::Effort { starts: 5, bursts: 1, listed: 50, lists: 3, lines: 100_000, idle: 10, rest_seconds: 5 }
    } else {
        engine::Effort { starts: 30, bursts: 3, listed: 500, lists: 15, lines: 1_000_000, idle: 100, rest_seconds: 30 }
    }
}

/// How the floor is built.
const FLOOR: &[&str] = &["--profile", "shim", "-p", "container", "--example", "start_floor", "--example", "repeat"];

fn enter_private_namespace(name: &str, rounds: &Rounds) -> Result<()> {
    // podman keeps the addresses of its containers below /var/lib/cni
    let script = "set -e; mount -t tmpfs -o mode=755 tmpfs /run; \
                  mkdir -p /var/lib/cni; mount -t tmpfs tmpfs /var/lib/cni; \
                  if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi; exec \"$@\"";
    let own = std::env::current_exe().context("cannot find this program")?;
    // What it starts ends with it, also when it is killed: the machines of a bench are found by nobody else. Daemons are stopped in order.
    let (signal, more): (_, &[&str]) = match name {
        "vm" => ("KILL", &["--pid", "--fork", "--kill-child", "--mount-proc"]),
        // It makes links, and they go with it.
        "vm-devices" => ("KILL", &["--pid", "--fork", "--kill-child", "--mount-proc", "--net"]),
        _ => ("TERM", &[]),
    };
    remains::sweep();
    let inside = Run::new("setpriv").env(remains::VARIABLE, std::process::id().to_string());
    let inside = inside.args(["--pdeathsig", signal, "unshare", "--mount", "--propagation", "private"]).args(more);
    let inside = inside.args(["sh", "-c", script, "bench"]);
    let inside = inside.args([own.as_os_str()]).args(["bench", name, "--inside"]);
    let outcome = inside.args(rounds.quick.then_some("--quick")).timeout(Duration::from_secs(4 * 3600)).check();
    remains::sweep();
    outcome
}

fn images(bin: &Path, rounds: u32) -> Result<String> {
    let groups = Groups::create()?;
    let outcome = step("prepare the peers and their images", || Fixture::create(bin, &groups))
        .and_then(|fixture| image::measure(bin, &groups, &fixture, rounds));
    groups.remove();
    outcome
}

fn measure_all(bin: &Path, effort: &Effort) -> Result<String> {
    let groups = Groups::create()?;
    let outcome = (|| {
        let fixture = step("prepare the peers and their images", || Fixture::create(bin, &groups))?;
        let starts = step("run true, in turns", || starts(&fixture, &groups, effort.starts))?;
        let bursts = step("50 at once", || bursts(&fixture, &groups, effort.bursts))?;
        let idle = step("memory of idle containers", || idle(&fixture, &groups))?;
        let imports = step("import 270 MB in 12,000 files", || imports(&fixture, &groups, effort.imports))?;
        Ok([starts, bursts, idle, imports].join("\n"))
    })();
    groups.remove();
    outcome
}

fn starts(fixture: &Fixture, groups: &Groups, rounds: u32) -> Result<String> {
    let peers = fixture.starters();
    let mut samples: Vec<Vec<Sample>> = peers.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        for (peer, kept) in peers.iter().zip(&mut samples) {
            let sample =
                groups.measure(peer.name, || peer.start().timeout(Duration::from_secs(60)).output().map(drop))?;
            // The first round warms caches.
            if round > 0 {
                kept.push(sample);
            }
        }
    }
    let wall: Vec<Spread> = samples.iter().map(|of| Spread::of(of.iter().map(|one| one.wall_ms))).collect();
    let cpu: Vec<Spread> = samples.iter().map(|of| Spread::of(of.iter().map(|one| one.cpu_ms))).collect();
    let at = |name: &str| peers.iter().position(|peer| peer.name == name);
    let (crun, docker) = (at("crun").context("no crun")?, at("docker").context("no docker")?);
    let mut text = format!(
        "## `run --rm --network none IMAGE true`, {rounds} rounds\n\n\
         | | wall ms: median (min - max) | CPU ms: median (min - max) | wall, crun = 1 | CPU, crun = 1 | wall, docker = 1 |\n\
         |---|---|---|---|---|---|\n"
    );
    for (index, peer) in peers.iter().enumerate() {
        let (crun_wall, crun_cpu) = (wall[index].median / wall[crun].median, cpu[index].median / cpu[crun].median);
        let docker_wall = wall[index].median / wall[docker].median;
        let (name, wall, cpu) = (peer.title, wall[index], cpu[index]);
        let _ = writeln!(text, "| {name} | {wall} | {cpu} | {crun_wall:.2} | {crun_cpu:.2} | {docker_wall:.3} |");
    }
    Ok(text)
}

fn bursts(fixture: &Fixture, groups: &Groups, rounds: u32) -> Result<String> {
    let engines = fixture.engines();
    let mut seconds: Vec<Vec<f64>> = engines.iter().map(|_| Vec::new()).collect();
    let mut failed = vec![0_usize; engines.len()];
    for _ in 0..rounds {
        for (index, engine) in engines.iter().enumerate() {
            let sample = groups.measure(engine.name, || {
                let children: Vec<_> = (0..AT_ONCE).map(|_| engine.start().quiet().spawn()).collect::<Result<_>>()?;
                for mut child in children {
                    let status = child.wait().context("cannot wait for a client")?;
                    failed[index] += usize::from(!status.success());
                }
                Ok(())
            })?;
            seconds[index].push(sample.wall_ms / 1000.0);
            ensure!(!shell::interrupted(), "interrupted");
        }
    }
    let spreads: Vec<Spread> = seconds.into_iter().map(Spread::of).collect();
    let docker = engines.iter().position(|engine| engine.name == "docker").context("no docker")?;
    let mut text = format!(
        "## {AT_ONCE} at once, {rounds} rounds\n\n| | seconds: median (min - max) | a second | throughput, docker = 1 | \
         failed |\n|---|---|---|---|---|\n"
    );
    for ((engine, spread), failed) in engines.iter().zip(&spreads).zip(failed) {
        let rate = 50.0 / spread.median;
        let ratio = spreads[docker].median / spread.median;
        let _ = writeln!(text, "| {} | {spread} | {rate:.0} | {ratio:.1} | {failed} |", engine.title);
    }
    Ok(text)
}

fn idle(fixture: &Fixture, groups: &Groups) -> Result<String> {
    let mut text = format!(
        "## What a running idle container costs beyond its own process, mean of {IDLE}\n\n\
         | | helper | PSS MB | threads |\n|---|---|---|---|\n"
    );
    for engine in fixture.engines() {
        groups.enter(engine.name)?;
        let before = measure::processes_named(engine.helper);
        let ids = (0..IDLE).map(|_| engine.start_idle()).collect::<Result<Vec<_>>>();
        std::thread::sleep(Duration::from_millis(500));
        let mut helpers = measure::processes_named(engine.helper);
        helpers.retain(|pid| !before.contains(pid));
        let cost = measure::memory(&helpers);
        for id in ids? {
            engine.remove_container(&id)?;
        }
        let (mb, threads) = cost.with_context(|| format!("no process named {} was found", engine.helper))?;
        let _ = writeln!(text, "| {} | {} | {mb:.2} | {threads:.0} |", engine.title, engine.helper);
    }
    Ok(text)
}

fn imports(fixture: &Fixture, groups: &Groups, rounds: u32) -> Result<String> {
    let archive = fixture.big_archive()?;
    let engines = fixture.engines();
    let mut samples: Vec<Vec<Sample>> = engines.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (engine, kept) in engines.iter().zip(&mut samples) {
            kept.push(groups.measure(engine.name, || engine.import(&archive, "bench-big:latest"))?);
            engine.remove_image("bench-big:latest")?;
        }
    }
    let wall: Vec<Spread> = samples.iter().map(|of| Spread::of(of.iter().map(|one| one.wall_ms / 1000.0))).collect();
    let cpu: Vec<Spread> = samples.iter().map(|of| Spread::of(of.iter().map(|one| one.cpu_ms / 1000.0))).collect();
    let podman = engines.iter().position(|engine| engine.name == "podman").context("no podman")?;
    let mut text = format!(
        "## Import of a tree of 270 MB in 12,000 files, {rounds} rounds\n\n\
         | | wall s: median (min - max) | CPU s: median (min - max) | speed, podman = 1 |\n|---|---|---|---|\n"
    );
    for ((engine, wall_of), cpu) in engines.iter().zip(&wall).zip(&cpu) {
        let _ =
            writeln!(text, "| {} | {wall_of} | {cpu} | {:.1} |", engine.title, wall[podman].median / wall_of.median);
    }
    Ok(text)
}

/// Ends what a bench left when it could not end it itself.
pub(crate) fn clear(dir: &Path) {
    island::unmount_below(dir);
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("warning: cannot remove {}: {error}", dir.display());
    }
}

impl Peer<'_> {
    fn start_idle(&self) -> Result<String> {
        let id = self.start_detached().timeout(Duration::from_secs(60)).output()?;
        Ok(id.trim().to_owned())
    }
}
