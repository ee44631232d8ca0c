//! The programs that are measured, each ready to run the same image.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::measure::Groups;
use crate::island::Island;
use crate::shell::Run;

const IMAGE: &str = "bench:latest";

/// podman raises its containers' limits, and fails where it may not raise them; these low ones suit every machine.
pub(super) const PODMAN_LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];

/// Everything that is set up once: folders, images, the two daemons. Dropping it takes all of it away.
pub(crate) struct Fixture {
    insula: Island,
    docker: Dockerd,
    dir: PathBuf,
    crun_group: String,
    runc_group: String,
    podman_group: String,
}

/// A daemon of docker's on a private socket; ended when dropped.
pub(super) struct Dockerd {
    process: Child,
}

/// What network dockerd has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DockerNetwork {
    /// One of its own with nothing in it.
    None,
    /// That in which it is started, with a process for each published port.
    WithProxy,
    /// That in which it is started.
    WithoutProxy,
}

/// Which program a peer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Floor,
    Crun,
    Runc,
    Podman,
    Docker,
    Insula,
}

/// One program to measure.
pub(crate) struct Peer<'a> {
    fixture: &'a Fixture,
    kind: Kind,
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// The process that stands beside each container.
    pub(crate) helper: &'static str,
}

impl Fixture {
    pub(crate) fn create(bin: &Path, groups: &Groups) -> Result<Self> {
        let insula = Island::create(bin.to_owned(), "bench")?;
        let dir = insula.work();
        groups.enter("docker")?;
        let docker = Dockerd::start(&dir, &groups.work("docker"), DockerNetwork::None)?;
        groups.enter("insula")?;
        insula.start_daemon(&groups.work("insula"))?;
        let [crun_group, runc_group, podman_group] = ["crun", "runc", "podman"].map(|peer| groups.work(peer));
        let fixture = Self { insula, docker, dir, crun_group, runc_group, podman_group };
        let rootfs = fixture.dir.join("rootfs");
        small_tree(&rootfs)?;
        let archive = fixture.archive("small.tar", &rootfs)?;
        fixture.bundle("crun", &fixture.crun_group, &rootfs)?;
        fixture.bundle("runc", &fixture.runc_group, &rootfs)?;
        for engine in fixture.engines() {
            groups.enter(engine.name)?;
            engine.import(&archive, IMAGE)?;
        }
        Ok(fixture)
    }

    /// All that start a container, the floor first.
    pub(crate) fn starters(&self) -> Vec<Peer<'_>> {
        let bare = [
            (Kind::Floor, "floor", "floor: unshare -fpmuinCT --mount-proc"),
            (Kind::Crun, "crun", "crun run"),
            (Kind::Runc, "runc", "runc run"),
        ];
        let bare = bare.map(|(kind, name, title)| Peer { fixture: self, kind, name, title, helper: "" });
        bare.into_iter().chain(self.engines()).collect()
    }

    /// Those with images.
    pub(crate) fn engines(&self) -> Vec<Peer<'_>> {
        let engines = [
            (Kind::Podman, "podman", "podman run", "conmon"),
            (Kind::Docker, "docker", "docker run", "containerd-shim"),
            (Kind::Insula, "insula", "**insula run**", "insula-shim"),
        ];
        engines.map(|(kind, name, title, helper)| Peer { fixture: self, kind, name, title, helper }).into()
    }

    /// A tree of 12,000 files with 270 MB, half of which compresses, as an archive.
    pub(crate) fn big_archive(&self) -> Result<PathBuf> {
        let tree = self.dir.join("tree");
        big_tree(&tree)?;
        self.archive("big.tar", &tree)
    }

    /// The folder of everything.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// dockerd's process.
    pub(crate) fn dockerd_pid(&self) -> Result<u32> {
        let file = self.dir.join("dockerd.pid");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        text.trim().parse().with_context(|| format!("{} has no number", file.display()))
    }

    fn archive(&self, name: &str, tree: &Path) -> Result<PathBuf> {
        let archive = self.dir.join(name);
        let tar =
            Run::new("tar").args(["--numeric-owner", "--owner=0", "--group=0", "--sort=name", "--mtime=@0", "-C"]);
        tar.args([tree, Path::new("-cf"), &archive, Path::new(".")]).check()?;
        Ok(archive)
    }

    fn bundle(&self, name: &str, group: &str, rootfs: &Path) -> Result<()> {
        let bundle = self.dir.join(format!("{name}-bundle"));
        fs::create_dir_all(&bundle).with_context(|| format!("cannot create {}", bundle.display()))?;
        Run::new("crun").args(["spec"]).dir(&bundle).check()?;
        let file = bundle.join("config.json");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut config: serde_json::Value = serde_json::from_str(&text).context("cannot read what crun spec wrote")?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["true"]);
        config["root"]["path"] = rootfs.display().to_string().into();
        config["linux"]["cgroupsPath"] = format!("{group}/bench").into();
        fs::write(&file, config.to_string()).with_context(|| format!("cannot write {}", file.display()))
    }

    fn podman(&self) -> Run {
        let folder = |name: &str| self.dir.join("podman").join(name);
        Run::new("podman")
            .args([Path::new("--root"), &folder("root"), Path::new("--runroot"), &folder("run")])
            .args([Path::new("--tmpdir"), &folder("tmp")])
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "overlay"])
            .timeout(Duration::from_secs(300))
    }

    fn docker(&self) -> Run {
        docker(&self.dir)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // Containers of the peers first, then the daemons, then the folders.
        let _ = self.podman().args(["rm", "-fa"]).uninterruptible().quiet().status();
        self.docker.stop();
        if let Err(error) = self.insula.remove() {
            eprintln!("warning: {error:#}");
        }
        super::clear(&self.dir);
    }
}

impl Peer<'_> {
    /// Starts `true`, waits for it, removes the container.
    pub(crate) fn start(&self) -> Run {
        let run = ["run", "--rm", "--network", "none"];
        let dir = &self.fixture.dir;
        let bare = |program: &str| {
            let (state, bundle) = (dir.join(format!("{program}-state")), dir.join(format!("{program}-bundle")));
            Run::new(program).args([Path::new("--root"), &state]).args([
                Path::new("run"),
                Path::new("-b"),
                &bundle,
                Path::new("bench"),
            ])
        };
        match self.kind {
            Kind::Floor => Run::new("unshare").args(["-fpmuinCT", "--mount-proc", "/bin/true"]),
            Kind::Crun => bare("crun"),
            Kind::Runc => bare("runc"),
            Kind::Podman => {
                let group = &self.fixture.podman_group;
                self.fixture.podman().args(run).args(PODMAN_LIMITS).args(["--cgroup-parent", group, IMAGE, "true"])
            }
            Kind::Docker | Kind::Insula => self.client().args(run).args([IMAGE, "true"]),
        }
    }

    /// Starts a container that does nothing; the program prints its id.
    pub(crate) fn start_detached(&self) -> Run {
        let run = self.client().args(["run", "-d", "--network", "none"]);
        let run = match self.kind {
            Kind::Podman => run.args(PODMAN_LIMITS).args(["--cgroup-parent", &self.fixture.podman_group]),
            _ => run,
        };
        run.args([IMAGE, "sleep", "600"])
    }

    pub(crate) fn remove_container(&self, id: &str) -> Result<()> {
        // podman alone waits for the process to end by itself first.
        let at_once: &[&str] = if self.kind == Kind::Podman { &["-t", "0"] } else { &[] };
        self.client().args(["rm", "-f"]).args(at_once).args([id]).output().map(drop)
    }

    pub(crate) fn import(&self, archive: &Path, name: &str) -> Result<()> {
        let import = match self.kind {
            Kind::Insula => {
                let words = ["image", "import", "-t", name].map(Path::new);
                self.client().args(words).args([archive])
            }
            _ => self.client().args([Path::new("import"), archive, Path::new(name)]),
        };
        import.timeout(Duration::from_secs(600)).output().map(drop)
    }

    pub(crate) fn remove_image(&self, name: &str) -> Result<()> {
        self.client().args(["rmi", "-f", name]).output().map(drop)
    }

    pub(crate) fn pull(&self, name: &str) -> Result<()> {
        // podman alone does not take this machine for safe.
        let plain: &[&str] = if self.kind == Kind::Podman { &["--tls-verify=false"] } else { &[] };
        self.client().args(["pull", "-q"]).args(plain).args([name]).timeout(Duration::from_secs(600)).output().map(drop)
    }

    pub(crate) fn push(&self, name: &str) -> Result<()> {
        self.client().args(["push", "-q", name]).timeout(Duration::from_secs(600)).output().map(drop)
    }

    pub(crate) fn save(&self, name: &str, archive: &Path) -> Result<()> {
        let words = [Path::new("save"), Path::new("-o"), archive, Path::new(name)];
        self.client().args(words).timeout(Duration::from_secs(600)).output().map(drop)
    }

    pub(crate) fn load(&self, archive: &Path) -> Result<()> {
        let words = [Path::new("load"), Path::new("-i"), archive];
        self.client().args(words).timeout(Duration::from_secs(600)).output().map(drop)
    }

    /// Where its images are.
    pub(crate) fn images(&self) -> Vec<PathBuf> {
        let dir = &self.fixture.dir;
        match self.kind {
            Kind::Podman => {
                ["overlay", "overlay-images", "overlay-layers"].map(|one| dir.join("podman/root").join(one)).into()
            }
            Kind::Docker => ["overlay2", "image"].map(|one| dir.join("docker").join(one)).into(),
            _ => vec![self.fixture.insula.state().join("images")],
        }
    }

    /// The engine's client, ready for a command.
    fn client(&self) -> Run {
        match self.kind {
            Kind::Podman => self.fixture.podman(),
            Kind::Docker => self.fixture.docker(),
            _ => self.fixture.insula.insula([] as [&str; 0]),
        }
    }
}

fn docker(dir: &Path) -> Run {
    let host = format!("unix://{}", dir.join("docker.sock").display());
    Run::new("docker").env_remove("DOCKER_CONTEXT").args(["-H", &host]).timeout(Duration::from_secs(300))
}

impl Dockerd {
    pub(super) fn start(dir: &Path, cgroup_parent: &str, network: DockerNetwork) -> Result<Self> {
        let config = dir.join("dockerd.json");
        fs::write(&config, "{}").with_context(|| format!("cannot write {}", config.display()))?;
        let option = |name: &str, file: &str| format!("--{name}={}", dir.join(file).display());
        let log = dir.join("dockerd.log");
        let words: &[&str] = match network {
            DockerNetwork::None => &["unshare", "--net", "dockerd", "--bridge=none", "--iptables=false"],
            DockerNetwork::WithProxy => &["dockerd", "--userland-proxy=true"],
            DockerNetwork::WithoutProxy => &["dockerd", "--userland-proxy=false"],
        };
        let process = Run::new("setsid")
            .args(words)
            .args(["--exec-opt=native.cgroupdriver=cgroupfs", "--storage-driver=overlay2"])
            .args([
                option("config-file", "dockerd.json"),
                option("data-root", "docker"),
                option("exec-root", "docker-run"),
            ])
            .args([option("pidfile", "dockerd.pid"), format!("--host=unix://{}", dir.join("docker.sock").display())])
            .args([format!("--cgroup-parent={cgroup_parent}")])
            .log(&log)?
            .spawn()?;
        let mut dockerd = Self { process };
        let deadline = Instant::now() + Duration::from_secs(60);
        while docker(dir).args(["version"]).quiet().status()?.code() != Some(0) {
            if dockerd.process.try_wait().is_ok_and(|status| status.is_some()) || Instant::now() > deadline {
                let log = fs::read_to_string(&log).unwrap_or_default();
                bail!("dockerd does not answer; it said:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(dockerd)
    }

    fn stop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(30);
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The host's own `true`, `sleep` and `sh` with the libraries they load.
pub(super) fn small_tree(rootfs: &Path) -> Result<()> {
    for folder in ["dev", "etc", "proc", "root", "sys", "tmp", "run", "bin"] {
        let folder = rootfs.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    for program in ["/bin/sh", "/bin/sleep", "/bin/true"] {
        copy_into(rootfs, Path::new(program))?;
        for word in Run::new("ldd").args([program]).output()?.split_whitespace().filter(|word| word.starts_with('/')) {
            copy_into(rootfs, Path::new(word))?;
        }
    }
    Ok(())
}

pub(super) fn copy_into(rootfs: &Path, file: &Path) -> Result<()> {
    let target = rootfs.join(file.strip_prefix("/").unwrap_or(file));
    let folder = target.parent().context("a file without a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::copy(file, &target).with_context(|| format!("cannot copy {}", file.display())).map(drop)
}

fn big_tree(tree: &Path) -> Result<()> {
    const FOLDERS: usize = 120;
    const FILES: usize = 100;
    const BYTES: usize = 22_500;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for folder in 0..FOLDERS {
        let folder = tree.join(format!("part-{:02}/folder-{folder:03}", folder / 10));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        for file in 0..FILES {
            let path = folder.join(format!("file-{file:03}"));
            let target = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
            let mut target = BufWriter::with_capacity(BYTES, target);
            for _ in 0..BYTES / 16 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let (noise, text) = (state.to_le_bytes(), *b" insula ");
                target.write_all(&noise).and_then(|()| target.write_all(&text)).context("cannot write the tree")?;
            }
            target.flush().context("cannot write the tree")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_program_keeps_its_path() {
        let rootfs = tempfile::tempdir().unwrap();
        copy_into(rootfs.path(), Path::new("/bin/true")).unwrap();
        assert!(rootfs.path().join("bin/true").is_file());
    }
}
