//! `cargo xtask demo`: a base image without a registry, a real job inside its limits, what isolates it, and nothing left.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::island::{self, Island};
use crate::residue::Residue;
use crate::setup::{self, Purpose};
use crate::shell::{self, step};
use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Megabytes of data that the job makes and compresses
    #[arg(long, default_value_t = 300)]
    megabytes: u32,
}

const IMAGE: &str = "debian:bookworm";
const GROUP: &str = "insula-demo";
const NAME: &str = "demo";

/// The job: data that compresses about as text does, packed, unpacked, and compared by digest.
const JOB: &str = r#"
set -eu
cd /tmp
awk -v bytes="$((MEGABYTES * 1000000))" 'BEGIN {
    srand(7)
    for (made = 0; made < bytes; made += length(line) + 1) {
        line = sprintf("%09d %08x %s", made, rand() * 2147483647, "the quick brown fox jumps over the lazy dog")
        print line
    }
}' > data
before=$(sha256sum < data)
gzip -1 < data > data.gz
after=$(gzip -dc < data.gz | sha256sum)
echo "made $(stat -c %s data) bytes, packed to $(stat -c %s data.gz)"
echo "sha256 before ${before%% *}"
echo "sha256 after  ${after%% *}"
test "$before" = "$after"
if touch /not-allowed 2>/dev/null; then echo "the root file system is writable"; exit 1; fi
echo "process $$ of its own world, $(nproc) processors seen, host name $(cat /proc/sys/kernel/hostname)"
"#;

/// Runs `cargo xtask demo`.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the demo needs root: sudo -E env PATH=\"$PATH\" cargo xtask demo");
    let begin = Instant::now();
    step("packages", || setup::ensure(Purpose::Demo))?;
    let bin = step("build insula and its helpers in release", workspace::install_release)?;
    let before = Residue::take(&bin);
    let outcome = show(bin.clone(), arguments);
    island::remove_groups(GROUP);
    let left = settled(&bin, &before);
    outcome?;
    println!("==> before: {}", before.counts());
    println!("    after:  {}", Residue::take(&bin).counts());
    if !left.is_empty() {
        bail!("left behind:\n  {}", left.join("\n  "));
    }
    println!("    left behind: nothing");
    println!("demo finished in {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}

fn show(bin: PathBuf, arguments: &Arguments) -> Result<()> {
    let island = Island::create(bin, "demo")?;
    step("start a private daemon", || island.start_daemon(&format!("/{GROUP}")))?;
    step(&format!("make the image {IMAGE} from the distribution's packages, no registry"), || {
        island.insula(["image", "bootstrap", IMAGE, "-t", IMAGE]).check()?;
        island.insula(["images"]).check()
    })?;
    step("start the job: 512 MiB of memory, one processor, 64 processes, read-only root, no network", || {
        start_job(&island, arguments)
    })?;
    step("the running job: insula ps, stats, top", || {
        island.insula(["ps"]).check()?;
        island.insula(["stats", "--no-stream", NAME]).check()?;
        island.insula(["top", NAME]).check()
    })?;
    step("what isolates it: insula explain", || island.insula(["explain", NAME]).check())?;
    step("wait for the job", || {
        let code = island.insula(["wait", NAME]).timeout(Duration::from_secs(900)).output()?;
        island.insula(["logs", NAME]).check()?;
        ensure!(code.trim() == "0", "the job ended with exit code {}", code.trim());
        Ok(())
    })?;
    step("isolation shown from inside: an own host name, one process, one address", || {
        let look = "echo host $(cat /proc/sys/kernel/hostname); echo processes: $(ls -d /proc/[0-9]*); \
                    echo links: $(ls /sys/class/net); grep -E '^(CapEff|Seccomp|NoNewPrivs)' /proc/self/status";
        let run = ["run", "--rm", "--network", "none", "--hostname", "island", IMAGE, "sh", "-c", look];
        island.insula(run).check()
    })?;
    step("remove everything and stop the daemon", || {
        island.insula(["rm", NAME]).check()?;
        island.insula(["rmi", IMAGE]).check()?;
        island.remove()
    })
}

fn start_job(island: &Island, arguments: &Arguments) -> Result<()> {
    let megabytes = format!("MEGABYTES={}", arguments.megabytes);
    // The data lies on a tmpfs of the container and would count as its memory: a volume holds it in place of that.
    let data = island.work().join("data");
    std::fs::create_dir(&data).with_context(|| format!("cannot create {}", data.display()))?;
    let volume = format!("{}:/tmp", data.display());
    let limits = ["-m", "512m", "--cpus", "1", "--pids-limit", "64", "--read-only", "--network", "none"];
    let run = island.insula(["run", "-d", "--name", NAME]).args(limits).args(["-v", &volume, "-e", &megabytes]);
    run.args(["--cap-drop", "ALL", "--security-opt", "no-new-privileges", IMAGE, "sh", "-c", JOB]).check()
}

/// What is left of us once the kernel has caught up: namespaces and groups go a moment after their last process.
fn settled(bin: &Path, before: &Residue) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left = Residue::take(bin).since(before);
        if left.is_empty() || Instant::now() > deadline || shell::interrupted() {
            return left;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
