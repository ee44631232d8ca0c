//! A program in a small virtual machine of its own: for tests of a kernel that this host does not run.
//!
//! The guest is QEMU's software machine with a prebuilt kernel and a root file system in memory: a static busybox, the
//! programs and files that the test names, and an init script that mounts `/proc`, `/sys`, `/dev`, `/tmp` and control
//! groups version 2 with every controller handed down, runs the program and tells its exit code. Programs that are
//! linked dynamically bring their libraries along, so a test can run its own executable.
//!
//! ```text
//! Guest::new_or_skip() -> Guest -- program(path), file(name, bytes), run(&["/bin/prog", "arg"]) --> Outcome {code, output}
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::wait_for;

/// The kernel's file name; looked for in `INSULA_GUEST_KERNEL`, then beside the repository.
const KERNEL: &str = "shared/kernel/bzImage-microvm-6.1";
/// What a guest prints before the exit code of the program that it ran.
pub const MARK: &str = "insula-guest-exit:";

/// A guest that has not been started yet.
#[derive(Debug)]
pub struct Guest {
    kernel: PathBuf,
    files: Vec<(String, u32, Vec<u8>)>,
    memory_mib: u32,
    timeout: Duration,
    disk_mib: Option<u64>,
}

/// How a program in a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The exit code of the program; `None` when the guest ended without telling it.
    pub code: Option<i32>,
    /// Everything that the guest printed, the program's output among the kernel's.
    pub output: String,
}

/// A kernel of a virtual machine: an ELF file with this code at 1 MiB, which is entered in 64-bit mode, its first memory mapped one to one.
#[must_use]
pub fn elf(code: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 64 + 56];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    for (at, byte) in [(18, 62), (32, 64), (54, 56), (56, 1), (64, 1), (72, 120)] {
        put(at, &[byte]);
    }
    for at in [24, 80, 88] {
        put(at, &0x10_0000_u64.to_le_bytes());
    }
    for at in [96, 104] {
        put(at, &(code.len() as u64).to_le_bytes());
    }
    file.extend(code);
    file
}

impl Guest {
    /// A guest with busybox in it, or `None` with a printed reason where this host can't run one.
    #[must_use]
    pub fn new_or_skip() -> Option<Self> {
        let named = std::env::var_os("INSULA_GUEST_KERNEL").map(PathBuf::from);
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join(KERNEL));
        let Some(kernel) = named.into_iter().chain(beside).find(|path| path.is_file()) else {
            println!("skipped: no guest kernel; name a bzImage in INSULA_GUEST_KERNEL");
            return None;
        };
        if Command::new("qemu-system-x86_64").arg("--version").stdout(Stdio::null()).status().is_err() {
            println!("skipped: no qemu-system-x86_64 (package qemu-system-x86)");
            return None;
        }
        let Ok(busybox) = fs::read("/bin/busybox") else {
            println!("skipped: no /bin/busybox (package busybox-static)");
            return None;
        };
        let files = vec![("bin/busybox".to_owned(), 0o755, busybox)];
        Some(Self { kernel, files, memory_mib: 512, timeout: Duration::from_secs(300), disk_mib: None })
    }

    /// Adds a file; `name` is its path without the leading slash.
    #[must_use]
    pub fn file(mut self, name: &str, mode: u32, content: &[u8]) -> Self {
        self.files.push((name.to_owned(), mode, content.to_vec()));
        self
    }

    /// Adds the program at `path` of this host as `/bin/NAME`, with the shared libraries that it is linked with.
    ///
    /// # Panics
    /// When a file can't be read.
    #[must_use]
    pub fn program(mut self, path: &Path, name: &str) -> Self {
        let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        self.files.push((format!("bin/{name}"), 0o755, read(path)));
        // ldd fails for a static program, which needs nothing.
        let ldd = Command::new("ldd").arg(path).output().unwrap_or_else(|error| panic!("ldd: {error}"));
        for line in String::from_utf8_lossy(&ldd.stdout).lines() {
            let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) else { continue };
            let target = library.trim_start_matches('/').to_owned();
            if !self.files.iter().any(|(known, ..)| *known == target) {
                self.files.push((target, 0o755, read(Path::new(library))));
            }
        }
        self
    }

    /// Gives the guest more or less than 512 MiB of memory.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Gives the guest an empty disk, `/dev/vda`.
    #[must_use]
    pub fn disk_mib(mut self, mib: u64) -> Self {
        self.disk_mib = Some(mib);
        self
    }

    /// Boots the guest and runs the command line in it. The machine is gone afterwards, also when it hangs: it has five
    /// minutes.
    ///
    /// # Panics
    /// When the machine can't be started.
    #[must_use]
    pub fn run(self, command: &[&str]) -> Outcome {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let (initrd, console) = (folder.path().join("initrd"), folder.path().join("console"));
        let mut files = self.files;
        files.push(("init".to_owned(), 0o755, init_script(command).into_bytes()));
        fs::write(&initrd, archive(&files)).unwrap_or_else(|error| panic!("write the initrd: {error}"));
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-M", "microvm,x-option-roms=off,rtc=off,isa-serial=on,pit=on,pic=on,acpi=off"])
            .args(["-accel", "tcg", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-m", &self.memory_mib.to_string(), "-append", "console=ttyS0 reboot=t panic=-1 quiet"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&initrd);
        if let Some(mib) = self.disk_mib {
            let disk = folder.path().join("disk");
            let made = fs::File::create(&disk).and_then(|file| file.set_len(mib << 20));
            made.unwrap_or_else(|error| panic!("make the disk: {error}"));
            qemu.arg("-drive").arg(format!("id=d,if=none,format=raw,file={}", disk.display()));
            qemu.args(["-device", "virtio-blk-device,drive=d"]);
        }
        watch(qemu, &console, self.timeout)
    }
}

/// Starts a machine and waits for its end, at most for so long; what it says is in the file `console`, and there a line of
/// [`MARK`] and an exit code.
///
/// # Panics
/// When the machine can't be started.
#[must_use]
pub fn watch(mut qemu: Command, console: &Path, timeout: Duration) -> Outcome {
    let child = qemu.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{qemu:?}: {error}"));
    let mut machine = Machine(child);
    let ended = wait_for(timeout, || machine.0.try_wait().ok().flatten());
    drop(machine);
    let mut output = String::from_utf8_lossy(&fs::read(console).unwrap_or_default()).replace('\r', "");
    if ended.is_none() {
        output += "\nthe guest did not end in time\n";
    }
    let code = output.lines().rev().find_map(|line| line.trim().strip_prefix(MARK)?.parse().ok());
    Outcome { code, output }
}

/// A running machine, ended with its owner.
struct Machine(std::process::Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // One that has ended already can't be killed, and that is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the guest's kernel starts.
fn init_script(command: &[&str]) -> String {
    let quoted: Vec<String> = command.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    format!(
        "#!/bin/busybox sh\n\
        /bin/busybox --install -s /bin\n\
        export PATH=/bin:/sbin:/usr/bin HOME=/ TMPDIR=/tmp INSULA_GUEST=1\n\
        mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp\n\
        mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t tmpfs run /run\n\
        ip link set lo up\n\
        mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
        mkdir /sys/fs/cgroup/init; echo $$ > /sys/fs/cgroup/init/cgroup.procs\n\
        for one in $(cat /sys/fs/cgroup/cgroup.controllers); do echo +$one > /sys/fs/cgroup/cgroup.subtree_control; done\n\
        {}\n\
        code=$?; echo; echo {MARK}$code\n\
        sync; reboot -f\n",
        quoted.join(" ")
    )
}

/// Writes an archive whose first program is the running one: it goes on in a guest.
///
/// # Panics
/// When the program can't be read or the archive not be written.
pub fn archive_self(path: &Path) {
    let own = fs::read("/proc/self/exe").unwrap_or_else(|error| panic!("read this program: {error}"));
    let archive = archive(&[("init".to_owned(), 0o755, own)]);
    fs::write(path, archive).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

/// The files and the folders above them as a `newc` archive, which the kernel unpacks as its root.
///
/// # Source
/// Linux `Documentation/driver-api/early-userspace/buffer-format.rst`.
#[must_use]
pub fn archive(files: &[(String, u32, Vec<u8>)]) -> Vec<u8> {
    let always = ["bin", "sbin", "dev", "proc", "sys", "tmp", "run", "etc", "root", "usr/bin", "usr/sbin"];
    let mut folders: BTreeSet<&str> = BTreeSet::new();
    for name in always.into_iter().chain(files.iter().filter_map(|(name, ..)| Some(name.rsplit_once('/')?.0))) {
        folders.extend(name.match_indices('/').map(|(end, _)| &name[..end]));
        folders.insert(name);
    }
    let mut archive = Vec::new();
    let mut entry = |name: &str, mode: u32, content: &[u8]| {
        let mode = usize::try_from(mode).unwrap_or(0);
        let head = [1, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend_from_slice(b"070701");
        for number in head {
            archive.extend_from_slice(format!("{number:08X}").as_bytes());
        }
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    };
    for folder in folders {
        entry(folder, 0o040_755, &[]);
    }
    for (name, mode, content) in files {
        entry(name, 0o100_000 | mode, content);
    }
    entry("TRAILER!!!", 0, &[]);
    archive
}

/// Whether this process runs inside a [`Guest`].
#[must_use]
pub fn is_inside() -> bool {
    std::env::var_os("INSULA_GUEST").is_some()
}
