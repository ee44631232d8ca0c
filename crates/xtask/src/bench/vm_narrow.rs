//! 32-bit programs in `cargo xtask bench vm`: under Debian's 64-bit kernel, as the minimal one runs none.
//!
//! The pieces of work are those of `crates/vmm/examples/guest_work_narrow.c`, which is compiled here and is the guest's first process.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::measure::Groups;
use super::vm::{Fixture, rows, work_of};
use crate::shell::Run;

/// Sorted as in the program.
const WORK: [&str; 11] =
    ["calls", "chase", "copy", "double", "float", "integer", "sieve", "sort", "spawn", "switch", "syscall"];
const SOURCE: &str = "crates/vmm/examples/guest_work_narrow.c";

/// The guest: a kernel, its first file system, and our program that runs it.
struct Narrow {
    insula: PathBuf,
    run: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Narrow {
    /// `None` with the reason, where there is no compiler of 32-bit programs or no kernel that runs them.
    fn create(fixture: &Fixture, bin: &Path) -> Result<std::result::Result<Self, String>> {
        let dir = &fixture.dir;
        // Where the boots of a Debian have installed it.
        let kernel = dir.join("debian-root/kernels/default/vmlinuz");
        if !kernel.is_file() {
            return Ok(Err("Debian's kernel is not here".to_owned()));
        }
        let (program, initrd) = (dir.join("narrow"), dir.join("narrow-initrd"));
        let compiled = Run::new("cc").args(["-m32", "-O2", "-static", "-o"]).arg(&program).arg(SOURCE).capture()?;
        if !compiled.status.success() {
            return Ok(Err(format!("no 32-bit program can be made: {}", compiled.stderr.trim())));
        }
        let archive = Run::new(&fixture.program).arg("archive").arg(&initrd).arg(&program);
        archive.check()?;
        Ok(Ok(Self { insula: bin.join("insula"), run: dir.join("run"), kernel, initrd }))
    }

    fn ours(&self, work: &str) -> Run {
        Run::new(&self.insula)
            .arg("--run")
            .arg(&self.run)
            .args(["vm", "run", "--rm", "--backend", "soft", "-m", "256m", "--on-reset", "stop", "--cmdline"])
            .arg(command_line(work))
            .arg("--kernel")
            .arg(&self.kernel)
            .arg("--initrd")
            .arg(&self.initrd)
    }

    /// The machine is `pc`, as for a Debian: see there.
    fn qemu(&self, work: &str) -> Run {
        Run::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-M", "pc", "-nodefaults", "-no-user-config", "-m", "256", "-nographic"])
            .args(["-serial", "stdio", "-no-reboot", "-append"])
            .arg(command_line(work))
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
    }
}

fn command_line(work: &str) -> String {
    format!("console=ttyS0 quiet reboot=t panic=-1 work={work}")
}

/// Measures every piece on both, in turns.
pub(super) fn measure(fixture: &Fixture, bin: &Path, groups: &Groups, rounds: u32) -> Result<String> {
    let head = "## 32-bit work in the guest";
    let narrow = match Narrow::create(fixture, bin)? {
        Ok(narrow) => narrow,
        Err(reason) => return Ok(format!("{head}\n\nLeft out: {reason}.\n")),
    };
    let rows = rows(&WORK, |work| work_of(groups, rounds, work, || [narrow.ours(work), narrow.qemu(work)]))?;
    Ok(format!("{head}, {rounds} rounds\n\nGoal: as for 64-bit work.\n\n{rows}"))
}
