//! Engines side by side, each in a network namespace of its own, with a wire to an outside that they share.
//!
//! ```text
//! outside 192.0.2.N2 ──wire── 192.0.2.N1 namespace of an engine: daemon, bridge, packet filter, containers
//! ```
//! The names of the namespaces are in the bench's private `/run`: they go with it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::measure::Groups;
use super::peers::{DockerNetwork, Dockerd, PODMAN_LIMITS, copy_into, small_tree};
use crate::island::Island;
use crate::shell::Run;

/// The image of all engines.
pub(super) const IMAGE: &str = "bench:latest";

/// A network namespace with a name.
#[derive(Debug)]
pub(super) struct Netns(PathBuf);

impl Netns {
    fn create(name: &str) -> Result<Self> {
        Run::new("ip").args(["netns", "add", name]).check()?;
        Run::new("ip").args(["-n", name, "link", "set", "lo", "up"]).check()?;
        Ok(Self(Path::new("/run/netns").join(name)))
    }

    /// A program that runs inside.
    pub(super) fn run(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        Run::new("nsenter").arg(format!("--net={}", self.0.display())).arg(program)
    }

    /// Does `work` inside; what it starts is there, too.
    fn inside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let open = |path: &Path| File::open(path).with_context(|| format!("cannot open {}", path.display()));
        let (home, there) = (open(Path::new("/proc/self/ns/net"))?, open(&self.0)?);
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).context("cannot enter a network")?;
        let outcome = work();
        move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network)).context("cannot leave a network")?;
        outcome
    }
}

/// Which program an engine is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Podman,
    Docker,
    /// dockerd that starts no process for a published port.
    DockerWithoutProxy,
    Insula,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
            Self::DockerWithoutProxy => "docker-plain",
            Self::Insula => "insula",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "dockerd",
            Self::DockerWithoutProxy => "dockerd, no userland-proxy",
            Self::Insula => "**Insula**",
        }
    }
}

/// An engine that is ready.
pub(super) struct Engine {
    pub(super) kind: Kind,
    pub(super) netns: Netns,
    /// Where the outside finds it.
    pub(super) address: String,
    group: String,
    dir: PathBuf,
    daemon: Daemon,
}

enum Daemon {
    None,
    /// Held for its end only.
    Docker {
        _ends: Dockerd,
    },
    Insula(Island),
}

impl Engine {
    /// The engine's client with these arguments: for all but podman, Docker's.
    pub(super) fn client(&self, words: &[&str]) -> Run {
        let run = match self.socket() {
            Some(socket) => {
                let host = format!("unix://{}", socket.display());
                Run::new("docker").env_remove("DOCKER_CONTEXT").args(["-H", &host])
            }
            None => {
                let folder = |name: &str| self.dir.join(name);
                self.netns
                    .run("podman")
                    .args([Path::new("--root"), &folder("root"), Path::new("--runroot"), &folder("run")])
                    .args([Path::new("--tmpdir"), &folder("tmp")])
                    .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "overlay"])
            }
        };
        run.args(words).timeout(Duration::from_secs(600))
    }

    /// Where its daemon answers, if it has one.
    fn socket(&self) -> Option<PathBuf> {
        match &self.daemon {
            Daemon::Docker { .. } => Some(self.dir.join("docker.sock")),
            Daemon::Insula(island) => Some(island.socket()),
            Daemon::None => None,
        }
    }

    /// What its daemon answers to a GET, as it comes: no client stands between.
    pub(super) fn get(&self, path: &str) -> Result<String> {
        let socket = self.socket().context("an engine without a daemon")?;
        let mut stream = UnixStream::connect(&socket).context("cannot connect to the daemon")?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n").context("cannot ask")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("cannot read the answer")?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "GET {path}: {}", answer.lines().next().unwrap_or_default());
        Ok(answer)
    }

    /// `run` or `create` with what this engine needs on top.
    pub(super) fn run(&self, verb: &str, options: &[&str], command: &[&str]) -> Run {
        let run = self.client(&[verb]);
        let run = match self.kind {
            Kind::Podman => run.args(PODMAN_LIMITS).args(["--cgroup-parent", &self.group]),
            _ => run,
        };
        run.args(options).arg(IMAGE).args(command)
    }

    /// Starts a container in the background and gives its id.
    pub(super) fn start(&self, options: &[&str], command: &[&str]) -> Result<String> {
        Ok(self.run("run", &[&["-d"][..], options].concat(), command).output()?.trim().to_owned())
    }

    /// Removes containers at once.
    pub(super) fn remove(&self, ids: &[String]) -> Result<()> {
        for ids in ids.chunks(100) {
            let at_once: &[&str] = if self.kind == Kind::Podman { &["-t", "0"] } else { &[] };
            self.client(&["rm", "-f"]).args(at_once).args(ids).quiet().check()?;
        }
        Ok(())
    }

    /// The processes that are there as long as the engine is.
    pub(super) fn daemons(&self) -> Result<Vec<i32>> {
        let pid = |file: &Path| -> Result<i32> {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            text.trim().parse().with_context(|| format!("{} has no number", file.display()))
        };
        Ok(match &self.daemon {
            Daemon::None => Vec::new(),
            Daemon::Docker { .. } => {
                vec![pid(&self.dir.join("dockerd.pid"))?, pid(&self.dir.join("docker-run/containerd/containerd.pid"))?]
            }
            Daemon::Insula(island) => island.daemons(),
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if matches!(self.daemon, Daemon::None) {
            let _ = self.client(&["rm", "-fa", "-t", "0"]).uninterruptible().quiet().status();
        }
    }
}

/// All engines. Dropping it takes them away.
pub(super) struct Ground {
    pub(super) engines: Vec<Engine>,
    pub(super) outside: Netns,
    dir: PathBuf,
}

impl Ground {
    /// Starts engines and gives each the image, which has `true`, `sleep`, `sh`, and `programs` of the host.
    pub(super) fn create(bin: &Path, groups: &Groups, kinds: &[Kind], programs: &[&Path]) -> Result<Self> {
        let insula = Island::create(bin.to_owned(), "bench")?;
        let dir = insula.work();
        let mut ground = Self { engines: Vec::new(), outside: Netns::create("outside")?, dir: dir.clone() };
        let rootfs = dir.join("rootfs");
        small_tree(&rootfs)?;
        for program in programs {
            copy_into(&rootfs, program)?;
            // says no for a static program, which needs no library
            let libraries = Run::new("ldd").arg(program).capture()?.stdout;
            for word in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
                copy_into(&rootfs, Path::new(word))?;
            }
        }
        let archive = dir.join("small.tar");
        let tar = Run::new("tar").args(["--numeric-owner", "--owner=0", "--group=0", "-C"]);
        tar.args([&rootfs, Path::new("-cf"), &archive, Path::new(".")]).check()?;
        let mut island = Some(insula);
        for (number, kind) in kinds.iter().enumerate() {
            let engine = ground.engine(*kind, number, &mut island, groups)?;
            let import = engine.client(&["import"]).arg(&archive).arg(IMAGE);
            import.quiet().check()?;
            ground.engines.push(engine);
        }
        Ok(ground)
    }

    fn engine(&self, kind: Kind, number: usize, island: &mut Option<Island>, groups: &Groups) -> Result<Engine> {
        let name = kind.name();
        let netns = Netns::create(name)?;
        let (near, far) = (format!("192.0.2.{}", 4 * number + 1), format!("192.0.2.{}", 4 * number + 2));
        let link = format!("wire{number}");
        let ip = |words: &str| Run::new("ip").args(words.split(' ')).check();
        ip(&format!("-n {name} link add wire type veth peer name {link} netns outside"))?;
        for (space, link, address) in [(name, "wire", &near), ("outside", &link, &far)] {
            ip(&format!("-n {space} addr add {address}/30 dev {link}"))?;
            ip(&format!("-n {space} link set {link} up"))?;
        }
        // the way into the world, which nobody takes, decides what is masqueraded
        ip(&format!("-n {name} route add default via {far}"))?;
        let group = groups.work(name);
        groups.enter(name)?;
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let docker = |network| Dockerd::start(&dir, &group, network).map(|started| Daemon::Docker { _ends: started });
        let daemon = netns.inside(|| {
            Ok(match kind {
                Kind::Podman => Daemon::None,
                Kind::Docker => docker(DockerNetwork::WithProxy)?,
                Kind::DockerWithoutProxy => docker(DockerNetwork::WithoutProxy)?,
                Kind::Insula => {
                    let island = island.take().context("there is one Insula only")?;
                    island.start_daemon(&group)?;
                    Daemon::Insula(island)
                }
            })
        })?;
        Ok(Engine { kind, netns, address: near, group, dir, daemon })
    }

    /// The engine that others are compared with.
    pub(super) fn position(&self, kind: Kind) -> Result<usize> {
        self.engines.iter().position(|engine| engine.kind == kind).context("an engine is missing")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Insula's island owns the folder of all: it goes last.
        self.engines.sort_by_key(|engine| engine.kind == Kind::Insula);
        self.engines.clear();
        super::clear(&self.dir);
    }
}
