//! `cargo xtask bench vm`: a Linux guest on the software CPU, beside QEMU's translator.
//!
//! Both boot the same kernel with the same first file system, do one piece of work (`crates/vmm/examples/guest_work.rs`) and end. The boot is measured
//! by itself. Processor time is that of all processes, as the kernel counts it for a control group.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::marks::Marks;
use super::measure::{Groups, Spread};
use super::{remains, vm_debian, vm_narrow, vm_own};
use crate::shell::{Run, step};
use crate::workspace;

/// Sorted as in `guest_work`, where `nothing` is the boot alone.
const WORK: [&str; 15] = [
    "atomic", "chase", "copy", "double", "fault", "float", "integer", "pipe", "sha256", "sieve", "sort", "spawn",
    "switch", "syscall", "vector",
];
/// The boot alone.
const BOOT: &str = "nothing";
const KERNEL_VARIABLE: &str = "INSULA_GUEST_KERNEL";
const PREBUILT: &str = "../shared/kernel/vmlinux-microvm-6.1.zst";

/// What both boot: a kernel, and a first file system with the guest's program.
pub(super) struct Fixture {
    insula: PathBuf,
    pub(super) dir: PathBuf,
    /// The guest's program, on the host.
    pub(super) program: PathBuf,
}

impl Fixture {
    /// `example` of the crate `vmm` is the guest's program.
    pub(super) fn create(bin: &Path, dir: PathBuf, example: &str) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let told = std::env::var_os(KERNEL_VARIABLE).map(PathBuf::from);
        let kernel = told.unwrap_or_else(|| PREBUILT.into());
        ensure!(
            kernel.is_file(),
            "there is no kernel {}; name an uncompressed one (vmlinux, also with zstd) by {KERNEL_VARIABLE}",
            kernel.display()
        );
        let (plain, initrd) = (dir.join("vmlinux"), dir.join("initrd"));
        if kernel.extension().is_some_and(|end| end == "zst") {
            let run = Run::new("zstd").args(["-dqf".as_ref(), kernel.as_os_str(), "-o".as_ref(), plain.as_os_str()]);
            run.check()?;
        } else {
            fs::copy(&kernel, &plain).with_context(|| format!("cannot copy {}", kernel.display()))?;
        }
        let built = workspace::build(&["--release", "-p", "vmm", "--example", example])?;
        let program = built.into_iter().find(|path| path.ends_with(example));
        let program = program.context("the guest's program was not built")?;
        Run::new(&program).args(["archive".as_ref(), initrd.as_os_str()]).check()?;
        Ok(Self { insula: bin.join("insula"), dir, program })
    }

    pub(super) fn ours(&self, work: &str) -> Run {
        let run = self.dir.join("run");
        Run::new(&self.insula)
            .args(["--run".as_ref(), run.as_os_str()])
            .args(["vm", "run", "--rm", "--backend", "soft", "-m", "256m", "--on-reset", "stop", "--cmdline"])
            .arg(command_line(work))
            .args(["--kernel".as_ref(), self.dir.join("vmlinux").as_os_str()])
            .args(["--initrd".as_ref(), self.dir.join("initrd").as_os_str()])
    }

    pub(super) fn qemu(&self, work: &str) -> Run {
        let machine = "microvm,x-option-roms=off,rtc=off,isa-serial=on,pit=on,pic=on,acpi=off";
        Run::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-M", machine, "-nodefaults", "-no-user-config", "-m", "256", "-nographic"])
            .args(["-serial", "stdio", "-no-reboot", "-append"])
            .arg(command_line(work))
            .args(["-kernel".as_ref(), self.dir.join("vmlinux").as_os_str()])
            .args(["-initrd".as_ref(), self.dir.join("initrd").as_os_str()])
    }
}

/// The same for both: a reset by triple fault ends either.
fn command_line(work: &str) -> String {
    format!("console=ttyS0 quiet reboot=t panic=-1 acpi=off work={work}")
}

/// Measures everything; `bin` holds our programs.
pub(super) fn measure(bin: &Path, groups: &Groups, rounds: u32) -> Result<String> {
    let dir = remains::folder("vm");
    let outcome = step("prepare the guest", || Fixture::create(bin, dir.clone(), "guest_work")).and_then(|fixture| {
        let kernel = fixture.dir.join("vmlinux");
        let own = step("a machine's own cost", || vm_own::measure(bin, groups, &fixture.dir, &kernel, rounds))?;
        let debian = step("boot a Debian, in turns", || vm_debian::measure(bin, groups, &fixture.dir, rounds))?;
        let narrow = step("32-bit work, in turns", || vm_narrow::measure(&fixture, bin, groups, rounds))?;
        Ok([own, debian, narrow, step("boot and work, in turns", || all(&fixture, groups, rounds))?].join("\n"))
    });
    super::clear(&dir);
    outcome
}

/// Processor time of one guest on either from its start to its end, in milliseconds.
fn boots(fixture: &Fixture, groups: &Groups, rounds: u32) -> Result<[Spread; 2]> {
    let mut kept = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (peer, kept) in ["insula", "qemu"].into_iter().zip(&mut kept) {
            let run = if peer == "insula" { fixture.ours(BOOT) } else { fixture.qemu(BOOT) };
            let sample = groups.measure(peer, || {
                let shown = run.timeout(Duration::from_secs(600)).capture()?;
                let done = format!("DONE {BOOT}");
                ensure!(shown.stdout.contains(&done), "the guest on {peer} did not say {done:?}:\n{}", shown.stdout);
                Ok(())
            })?;
            kept.push(sample.cpu_ms);
        }
    }
    Ok(kept.map(Spread::of))
}

/// Processor time of one piece of work on either, in milliseconds; the guests are `runs`, ours and QEMU's.
pub(super) fn work_of(groups: &Groups, rounds: u32, work: &str, runs: impl Fn() -> [Run; 2]) -> Result<[Spread; 2]> {
    let mut kept = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for ((peer, run), kept) in ["insula", "qemu"].into_iter().zip(runs()).zip(&mut kept) {
            groups.enter(peer)?;
            let mut marks = Marks::new(groups, peer, work);
            let shown = run.timeout(Duration::from_secs(600)).capture_lines(|line| marks.hear(line))?;
            let taken = marks.taken;
            let taken =
                taken.with_context(|| format!("the guest on {peer} did not finish {work:?}:\n{}", shown.stdout))?;
            kept.push(taken.cpu);
        }
    }
    Ok(kept.map(Spread::of))
}

/// A row for each piece of work, and how many times as fast they are on the average.
pub(super) fn rows(works: &[&str], measured: impl Fn(&str) -> Result<[Spread; 2]>) -> Result<String> {
    let mut text = "| | insula ms | QEMU ms | times as fast |\n|---|---|---|---|\n".to_owned();
    let mut product = 0.0;
    for work in works {
        let [here, there] = measured(work)?.map(|spread| spread.median);
        let faster = there / here;
        product += faster.ln();
        let _ = writeln!(text, "| {work} | {here:.0} | {there:.0} | {faster:.2} |");
    }
    let mean = (product / f64::from(u32::try_from(works.len()).unwrap_or(1))).exp();
    let _ = writeln!(text, "\nGeometric mean: {mean:.2}");
    Ok(text)
}

fn all(fixture: &Fixture, groups: &Groups, rounds: u32) -> Result<String> {
    // the first warms caches
    boots(fixture, groups, 1)?;
    let times = rounds.max(3);
    let [ours, theirs] = boots(fixture, groups, times)?;
    let mut text = format!(
        "## A minimal Linux to its first process and off, {times} rounds\n\n\
         Goal: at most 0.6x QEMU's CPU.\n\n\
         | | CPU ms: median (min - max) | QEMU = 1 |\n|---|---|---|\n\
         | insula, soft | {ours} | {:.2} |\n| QEMU, TCG | {theirs} | 1.00 |\n\n\
         ## Work in the guest, {rounds} rounds\n\n\
         Goal: the geometric mean at least twice as fast, nothing slower than QEMU.\n\n",
        ours.median / theirs.median
    );
    text += &rows(&WORK, |work| work_of(groups, rounds, work, || [fixture.ours(work), fixture.qemu(work)]))?;
    Ok(text)
}
