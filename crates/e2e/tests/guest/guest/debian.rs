//! A small Debian of the distribution's packages, with its kernel for clouds: what has a systemd and security modules.
//!
//! ```text
//! cache (the target folder's tmp):  kernels/NAME/  by `insula kernel install`        ┐
//!                                   NAME.erofs     its modules                       ├─ QEMU: root=overlay:/dev/vdc,/dev/vdb,/dev/vda
//!                                   ….erofs        mmdebstrap, made once             │
//! this run:                         top.erofs      the runtime, this test, a script  ┘
//! ```

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::guest::{MARK, Outcome, watch};

/// Asks for these guests: most of the time is for fetching packages, and for runtimes that are not ours.
const ASKED: &str = "INSULA_BOOTED_DEBIAN";
/// The file of another kernel's package, of any of Debian's releases.
const KERNEL: &str = "INSULA_BOOTED_KERNEL";
/// The kernel otherwise: the release's own for clouds.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// What is installed, beside what every Debian has.
const PACKAGES: &str = "apparmor,busybox-static,crun,dbus,dbus-user-session,keyutils,kmod,libpam-systemd,procps,runc,secilc,\
    systemd-sysv,udev,uidmap";
/// What nobody reads in a guest.
const LEFT_OUT: &[&str] = &["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"];
/// Bytes of the disk that can be written, `/dev/vdd` with ext4.
const DISK: u64 = 2 << 30;
/// How long a guest may take for everything.
const PATIENCE: Duration = Duration::from_secs(900);
/// The program that the machine's own first program starts.
const SCRIPT: &str = "usr/local/sbin/suite";
/// The unit that runs it, and what has to be there before.
const SERVICE: &str = "[Unit]
Description=The tests
After=basic.target dbus.socket systemd-logind.service systemd-user-sessions.service
Wants=dbus.socket systemd-logind.service systemd-user-sessions.service

[Service]
Type=oneshot
Delegate=yes
TimeoutStartSec=infinity
ExecStart=/usr/local/sbin/suite
";
const TARGET: &str = "[Unit]
Description=The tests and what they need
Requires=basic.target suite.service
After=basic.target
AllowIsolate=yes
";

/// A machine that has not been started yet.
pub(super) struct Debian {
    kernel: PathBuf,
    modules: PathBuf,
    base: PathBuf,
    folder: tempfile::TempDir,
}

/// What the machine's first program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// The distribution's own.
    Systemd,
    /// The script of the test.
    Script,
}

/// A program that was built beside this test.
pub(super) fn built(name: &str, package: &str) -> PathBuf {
    let built = || Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned());
    let folder = std::env::var_os("INSULA_E2E_BIN").map(PathBuf::from).or_else(built).unwrap();
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not there; cargo build -p {package} --bin {name} makes it", path.display());
    path
}

/// Runs a program; what it has to say is shown if it fails.
fn ran(command: &mut Command) -> bool {
    let output = command.stdin(Stdio::null()).output();
    let good = output.as_ref().is_ok_and(|output| output.status.success());
    if !good {
        let said =
            output.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stderr).into());
        println!("{command:?}: {said}");
    }
    good
}

/// The distribution's own name of its release, if this is a Debian: programs of this machine run on one of the same release.
fn release() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim_matches('"'));
    (value("ID=") == Some("debian")).then(|| value("VERSION_CODENAME=").map(str::to_owned)).flatten()
}

/// The root of every such machine, made if it is not in the cache.
fn base(cache: &Path, release: &str) -> Option<PathBuf> {
    let name = format!("{release}-{}.erofs", PACKAGES.replace(',', "-"));
    let path = cache.join(name);
    if path.is_file() {
        return Some(path);
    }
    let work = tempfile::tempdir_in(cache).unwrap();
    let (tree, image) = (work.path().join("tree"), work.path().join("image"));
    let mut make = Command::new("mmdebstrap");
    make.args(["--quiet", "--variant=minbase", "--mode=root", &format!("--include={PACKAGES}")]);
    make.args(LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    let good =
        ran(make.arg(release).arg(&tree)) && ran(Command::new("mkfs.erofs").arg("-zlz4hc").arg(&image).arg(&tree));
    if !good {
        println!("skipped: no Debian can be made here (packages mmdebstrap and erofs-utils, and their sources)");
        return None;
    }
    fs::rename(image, &path).unwrap();
    Some(path)
}

/// The kernel's package: the one that is asked for, or what apt fetches, once.
fn package(cache: &Path) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(KERNEL).map(PathBuf::from) {
        assert!(named.is_file(), "{KERNEL}: {} is no file", named.display());
        return Some(named);
    }
    let folder = cache.join("package");
    let there = || fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).next();
    if let Some(path) = there() {
        return Some(path);
    }
    // the package of this name says only which one is meant
    let output = Command::new("apt-cache").args(["depends", "--important", PACKAGE]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let image = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let work = tempfile::tempdir_in(cache).unwrap();
    let mut fetch = Command::new("apt-get");
    fetch.args(["-q", "-o", "APT::Sandbox::User=root", "download"]).current_dir(work.path());
    let Some(_) = image.filter(|image| ran(fetch.arg(image))) else {
        println!("skipped: Debian's kernel cannot be fetched here");
        return None;
    };
    fs::rename(work.keep(), &folder).unwrap();
    there()
}

/// A kernel, taken apart by `insula`, and a file system with its modules.
fn kernel(cache: &Path) -> Option<(PathBuf, PathBuf)> {
    let package = package(cache)?;
    let name = package.file_stem().unwrap().to_str().unwrap().replace(['+', '~'], "-");
    let (folder, modules) = (cache.join("kernels").join(&name), cache.join(&name).with_added_extension("erofs"));
    if !folder.join("vmlinuz").is_file() {
        let mut install = Command::new(built("insula", "cli"));
        install.arg("--root").arg(cache).arg("--run").arg(cache.join("run")).args(["kernel", "install", "--name"]);
        assert!(ran(install.arg(&name).arg("--from").arg(&package)), "a kernel was not installed");
    }
    if !modules.is_file() {
        let work = tempfile::tempdir_in(cache).unwrap();
        let (whole, tree, image) = (work.path().join("whole"), work.path().join("tree"), work.path().join("image"));
        assert!(ran(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&whole)));
        // where a Debian has everything now, whichever release the package is of
        fs::create_dir_all(tree.join("usr/lib")).unwrap();
        let place = ["lib/modules", "usr/lib/modules"].map(|place| whole.join(place));
        fs::rename(place.iter().find(|place| place.is_dir()).unwrap(), tree.join("usr/lib/modules")).unwrap();
        let release = fs::read_dir(tree.join("usr/lib/modules")).unwrap().next().unwrap().unwrap().file_name();
        std::os::unix::fs::symlink("usr/lib", tree.join("lib")).unwrap();
        assert!(ran(Command::new("depmod").arg("-b").arg(&tree).arg(&release)));
        fs::remove_file(tree.join("lib")).unwrap();
        assert!(ran(Command::new("mkfs.erofs").arg("-zlz4hc").arg(&image).arg(&tree)));
        fs::rename(image, &modules).unwrap();
    }
    Some((folder, modules))
}

impl Debian {
    /// A Debian, or `None` with a printed reason where this machine can't make or run one.
    pub(super) fn new_or_skip() -> Option<Self> {
        if std::env::var_os(ASKED).is_none() {
            println!("skipped: it takes minutes; ask for it with {ASKED}=yes");
            return None;
        }
        if !testkit::is_root_or_skip() {
            return None;
        }
        let Some(release) = release() else {
            println!("skipped: the guest is a Debian of this machine's release, and this machine is none");
            return None;
        };
        if testkit::rootfs::find("qemu-system-x86_64").is_none() {
            println!("skipped: no qemu-system-x86_64 (package qemu-system-x86)");
            return None;
        }
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian");
        fs::create_dir_all(&cache).unwrap();
        let lock = File::create(cache.join("lock")).unwrap();
        lock.lock().unwrap();
        let (base, (kernel, modules)) = (base(&cache, &release)?, kernel(&cache)?);
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("top")).unwrap();
        Some(Self { kernel, modules, base, folder })
    }

    /// Adds a file; `name` is its path without the leading slash, and leads through no link.
    pub(super) fn file(self, name: &str, mode: u32, content: &[u8]) -> Self {
        let path = self.folder.path().join("top").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// Adds a program of this machine.
    pub(super) fn program(self, path: &Path, name: &str) -> Self {
        let content = fs::read(path).unwrap();
        self.file(&format!("usr/local/bin/{name}"), 0o755, &content)
    }

    /// Boots the machine, and runs a shell's script in it, whose exit code ends it.
    pub(super) fn run(self, first: First, cmdline: &str, script: &str) -> Outcome {
        let whole = format!(
            "#!/bin/sh\nexec </dev/null >/dev/ttyS0 2>&1\n\
            export INSULA_GUEST=1 HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
            (\n{script}\n)\ncode=$?; echo; echo {MARK}$code; sync; busybox reboot -f\n"
        );
        let this = self.file(SCRIPT, 0o755, whole.as_bytes());
        let this = this.file("etc/systemd/system/suite.service", 0o644, SERVICE.as_bytes());
        let this = this.file("etc/systemd/system/suite.target", 0o644, TARGET.as_bytes());
        let path = |name: &str| this.folder.path().join(name);
        let top = path("top.erofs");
        assert!(ran(Command::new("mkfs.erofs").arg(&top).arg(path("top"))));
        let first = match first {
            First::Systemd => {
                "systemd.unit=suite.target systemd.show_status=no systemd.default_timeout_start_sec=300".to_owned()
            }
            First::Script => format!("init=/{SCRIPT}"),
        };
        let line =
            format!("console=ttyS0 quiet reboot=t panic=-1 root=overlay:/dev/vdc,/dev/vdb,/dev/vda {first} {cmdline}");
        let console = path("console");
        let mut qemu = Command::new("qemu-system-x86_64");
        // not microvm: Debian's kernel finds no clock in it that it could measure others with; and without cmpxchg16b, after which QEMU
        // 7.2's translator, of Debian 12, goes wrong in kernels since 6.12
        qemu.args([
            "-M",
            "pc",
            "-cpu",
            "qemu64,cx16=off",
            "-accel",
            "tcg,thread=multi",
            "-smp",
            "2",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
        ])
        .args(["-display", "none", "-m", "1200", "-append", &line])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-kernel")
        .arg(this.kernel.join("vmlinuz"))
        .arg("-initrd")
        .arg(this.kernel.join("initrd"));
        // what is written, where a file system in memory would be too easy
        let disk = path("disk");
        File::create(&disk).unwrap().set_len(DISK).unwrap();
        assert!(ran(Command::new("mkfs.ext4").arg("-q").arg(&disk)));
        for (name, disk) in [("base", &this.base), ("modules", &this.modules), ("top", &top), ("disk", &disk)] {
            let access = if name == "disk" { "off" } else { "on" };
            qemu.arg("-drive").arg(format!("id={name},if=none,format=raw,readonly={access},file={}", disk.display()));
            qemu.arg("-device").arg(format!("virtio-blk-pci,drive={name}"));
        }
        watch(qemu, &console, PATIENCE)
    }
}
