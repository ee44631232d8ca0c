//! Building: a Dockerfile of twelve steps, from nothing and from the cache, beside buildah; and removing what came of it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::measure::{Groups, Sample, Spread};
use super::peers::small_tree;
use crate::island::Island;
use crate::shell::{Run, step};

const BASE: &str = "localhost/bench-base:latest";
const MADE: &str = "localhost/bench-made:latest";

const DOCKERFILE: &str = "FROM localhost/bench-base:latest
ENV A=1
WORKDIR /app
COPY one /app/one
RUN echo 1 > /first
RUN i=0; while [ $i -lt 100 ]; do echo $i > /app/$i; i=$((i+1)); done
COPY files /app/files
RUN for f in /app/files/*; do echo $f; done > /list
COPY two /app/two
RUN echo more >> /list
RUN echo end > /end
CMD [\"sh\"]
";

/// A program that builds.
#[derive(Clone, Copy)]
enum Peer {
    Buildah,
    Insula,
}

const PEERS: [(Peer, &str); 2] = [(Peer::Buildah, "buildah"), (Peer::Insula, "insula")];

struct Fixture {
    insula: Island,
    dir: PathBuf,
}

impl Fixture {
    fn create(bin: &Path, groups: &Groups) -> Result<Self> {
        let insula = Island::create(bin.to_owned(), "build")?;
        let dir = insula.work();
        groups.enter("insula")?;
        insula.start_daemon(&groups.work("insula"))?;
        let fixture = Self { insula, dir };
        let (context, tree) = (fixture.dir.join("context"), fixture.dir.join("tree"));
        fs::create_dir_all(context.join("files")).context("cannot make the context")?;
        let write = |name: &str, bytes: &[u8]| {
            let path = context.join(name);
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
        };
        write("Dockerfile", DOCKERFILE.as_bytes())?;
        write("one", b"one")?;
        write("two", b"two")?;
        for number in 0..200_u32 {
            write(&format!("files/{number}"), number.to_string().repeat(4000).as_bytes())?;
        }
        small_tree(&tree)?;
        let tar = fixture.dir.join("base.tar");
        Run::new("tar").args([Path::new("-C"), &tree, Path::new("-cf"), &tar, Path::new(".")]).check()?;
        fixture.insula.insula([Path::new("import"), &tar, Path::new(BASE)]).output()?;
        groups.enter("buildah")?;
        let folders = fixture.storage();
        let import = Run::new("podman").args(&folders).args(["--events-backend", "file", "import"]);
        import.args([tar.as_os_str(), BASE.as_ref()]).output()?;
        Ok(fixture)
    }

    fn storage(&self) -> Vec<String> {
        let folder = |name: &str| self.dir.join("buildah").join(name).display().to_string();
        vec![
            "--root".into(),
            folder("root"),
            "--runroot".into(),
            folder("run"),
            "--storage-driver".into(),
            "overlay".into(),
        ]
    }

    fn build(&self, peer: Peer, no_cache: bool) -> Result<()> {
        let context = self.dir.join("context");
        let fresh = no_cache.then_some("--no-cache");
        let run = match peer {
            Peer::Buildah => {
                let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
                Run::new("buildah").args(self.storage()).args(["bud", "--layers", "--network", "host"]).args(limits)
            }
            Peer::Insula => self.insula.insula(["build", "--quiet", "--network", "host"]),
        };
        let run = run.args(["-t", MADE]).args(fresh).args([context]);
        run.timeout(Duration::from_secs(300)).output().map(drop)
    }

    fn remove(&self, peer: Peer) -> Result<()> {
        let run = match peer {
            Peer::Buildah => Run::new("buildah").args(self.storage()).args(["rmi", MADE]),
            Peer::Insula => self.insula.insula(["rmi", MADE]),
        };
        run.output().map(drop)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Err(error) = self.insula.remove() {
            eprintln!("warning: {error:#}");
        }
        super::clear(&self.dir);
    }
}

/// Runs the bench; the report.
pub(super) fn measure(bin: &Path, groups: &Groups, rounds: u32) -> Result<String> {
    let fixture = step("prepare the peers and their base image", || Fixture::create(bin, groups))?;
    let mut text = format!(
        "## A Dockerfile of 12 steps, 200 files copied, {rounds} rounds\n\n\
         | | wall ms: median (min - max) | CPU ms: median (min - max) | wall, buildah = 1 |\n|---|---|---|---|\n"
    );
    let mut kinds: Vec<(&str, Vec<Vec<Sample>>)> =
        ["cold", "cached", "removal"].map(|kind| (kind, vec![Vec::new(); 2])).into();
    step("build and remove, in turns", || {
        for round in 0..=rounds {
            for (index, (peer, name)) in PEERS.iter().enumerate() {
                let cold = groups.measure(name, || fixture.build(*peer, true))?;
                let cached = groups.measure(name, || fixture.build(*peer, false))?;
                let removal = groups.measure(name, || fixture.remove(*peer))?;
                // the first round warms caches
                if round > 0 {
                    for ((_, kept), sample) in kinds.iter_mut().zip([cold, cached, removal]) {
                        kept[index].push(sample);
                    }
                }
            }
        }
        Ok(())
    })?;
    for (kind, samples) in &kinds {
        let wall: Vec<Spread> = samples.iter().map(|of| Spread::of(of.iter().map(|one| one.wall_ms))).collect();
        let cpu: Vec<Spread> = samples.iter().map(|of| Spread::of(of.iter().map(|one| one.cpu_ms))).collect();
        for (index, (_, name)) in PEERS.iter().enumerate() {
            let ratio = wall[index].median / wall[0].median;
            let _ = writeln!(text, "| {name}, {kind} | {} | {} | {ratio:.3} |", wall[index], cpu[index]);
        }
    }
    Ok(text)
}
