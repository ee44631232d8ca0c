//! Debian in `cargo xtask bench vm`: its own kernel and a root of its packages, until systemd has brought up the login prompt.
//!
//! ```text
//! /dev/vda  a layer with one unit, which ends the machine when everything else is there   ┐ root=overlay:/dev/vda,/dev/vdb
//! /dev/vdb  the packages' files, read-only, so that every boot finds the same              ┘
//! ```
//! Kernel and first file system are what `insula kernel install` makes; both peers get the same. QEMU's machine is `pc`: the kernel finds no
//! clock in `microvm` that it could measure others with, and no disks there without ACPI.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::measure::{Groups, Spread};
use crate::shell::{Run, find_program, step};

/// Names a disk with a Debian in it, to save the making of one.
const DISK: &str = "INSULA_BENCH_DEBIAN";
const PACKAGES: &str = "--include=systemd-sysv,udev,dbus,libpam-systemd";
/// What the guest says when the login prompt is there.
const SIGN: &str = "DONE debian";
const LINE: &str = "console=ttyS0 quiet panic=-1 root=overlay:/dev/vda,/dev/vdb";
/// The unit that ends the machine. The prompt waits until nothing else is on its way to be started, so this does not count as that.
const UNIT: &str = "[Unit]
Description=The end of the benchmark
After=multi-user.target getty.target systemd-logind.service

[Service]
Type=simple
ExecStart=/bin/sh -c 'until grep -qx agetty /proc/[0-9]*/comm; do sleep 0.1; done; sleep 1; echo DONE debian > /dev/console; systemctl poweroff -ff'
";

struct Fixture {
    insula: PathBuf,
    dir: PathBuf,
    top: PathBuf,
    disk: PathBuf,
}

/// A disk of a folder's files.
fn disk(tree: &Path, path: &Path, size: &str) -> Result<()> {
    let quiet = Run::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(tree).arg(path).arg(size);
    quiet.output().map(drop)
}

impl Fixture {
    /// `None` with the reason, where no Debian can be had.
    fn create(bin: &Path, dir: PathBuf) -> Result<std::result::Result<Self, String>> {
        let own = Self { insula: bin.join("insula"), top: dir.join("top"), disk: dir.join("debian"), dir };
        let named = std::env::var_os(DISK).map(PathBuf::from);
        if named.is_none() && find_program("mmdebstrap").is_none() {
            return Ok(Err(format!("no mmdebstrap, and no disk is named by {DISK}")));
        }
        let unit = own.dir.join("unit/etc/systemd/system");
        let wants = unit.join("graphical.target.wants");
        fs::create_dir_all(&wants).with_context(|| format!("cannot make {}", wants.display()))?;
        let path = unit.join("end.service");
        let written = fs::write(&path, UNIT).and_then(|()| symlink("../end.service", wants.join("end.service")));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        disk(&own.dir.join("unit"), &own.top, "8M")?;
        let fetched = own.insula().args(["kernel", "install"]).capture()?;
        if !fetched.status.success() {
            return Ok(Err(format!("Debian's kernel cannot be fetched: {}", fetched.stderr.trim())));
        }
        if let Some(named) = named {
            return Ok(Ok(Self { disk: named, ..own }));
        }
        let tree = own.dir.join("tree");
        let made = Run::new("mmdebstrap").args(["--quiet", "--variant=minbase", PACKAGES, "bookworm"]).arg(&tree);
        let made = made.capture()?;
        if !made.status.success() {
            return Ok(Err(format!("no Debian can be made: {}", made.stderr.trim())));
        }
        disk(&tree, &own.disk, "1G")?;
        fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
        Ok(Ok(own))
    }

    fn insula(&self) -> Run {
        let (root, run) = (self.dir.join("debian-root"), self.dir.join("run"));
        Run::new(&self.insula).arg("--root").arg(root).arg("--run").arg(run)
    }

    fn ours(&self) -> Run {
        let disk = |path: &Path| format!("{},ro", path.display());
        self.insula()
            .args(["vm", "run", "--rm", "--backend", "soft", "-m", "512m", "--on-reset", "stop", "--cmdline", LINE])
            .args(["--disk", &disk(&self.top), "--disk", &disk(&self.disk)])
    }

    fn qemu(&self) -> Run {
        let kernel = self.dir.join("debian-root/kernels/default");
        let mut run = Run::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-M", "pc", "-nodefaults", "-no-user-config", "-m", "512", "-nographic"])
            .args(["-serial", "stdio", "-no-reboot", "-append", LINE])
            .args(["-kernel".as_ref(), kernel.join("vmlinuz").as_os_str()])
            .args(["-initrd".as_ref(), kernel.join("initrd").as_os_str()]);
        for (name, path) in [("top", &self.top), ("base", &self.disk)] {
            let drive = format!("id={name},if=none,format=raw,readonly=on,file={}", path.display());
            run = run.args(["-drive", &drive, "-device", &format!("virtio-blk-pci,drive={name}")]);
        }
        run
    }
}

/// Measures the boots, in turns; `dir` is there and cleared by the caller.
pub(super) fn measure(bin: &Path, groups: &Groups, dir: &Path, rounds: u32) -> Result<String> {
    let head = "## A Debian to its login prompt under systemd";
    let fixture = match step("prepare a Debian", || Fixture::create(bin, dir.to_owned()))? {
        Ok(fixture) => fixture,
        Err(reason) => return Ok(format!("{head}\n\nLeft out: {reason}.\n")),
    };
    let mut kept = [const { (Vec::new(), Vec::new()) }; 2];
    for _ in 0..rounds {
        for (peer, kept) in ["insula", "qemu"].into_iter().zip(&mut kept) {
            let run = if peer == "insula" { fixture.ours() } else { fixture.qemu() };
            let sample = groups.measure(peer, || {
                let shown = run.timeout(Duration::from_secs(600)).capture()?;
                ensure!(shown.stdout.contains(SIGN), "{peer} did not say {SIGN:?}:\n{}{}", shown.stdout, shown.stderr);
                ensure!(shown.stdout.contains("login:"), "there was no prompt on {peer}:\n{}", shown.stdout);
                Ok(())
            })?;
            kept.0.push(sample.cpu_ms);
            kept.1.push(sample.wall_ms);
        }
    }
    let [ours, theirs] = kept.map(|(cpu, wall)| (Spread::of(cpu), Spread::of(wall)));
    Ok(format!(
        "{head}, {rounds} rounds\n\n\
         Debian's kernel as it comes from the package, one processor, 512 MiB.\n\n\
         | | CPU ms: median (min - max) | QEMU = 1 | wall ms |\n|---|---|---|---|\n\
         | insula, soft | {} | {:.2} | {} |\n| QEMU, TCG | {} | 1.00 | {} |\n",
        ours.0,
        ours.0.median / theirs.0.median,
        ours.1,
        theirs.0,
        theirs.1
    ))
}
