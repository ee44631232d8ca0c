//! Kernels out of packages, and what they boot.

mod killed;
mod ordinary;
mod whole;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use testkit::Run;

/// Where a small kernel may be, beside the repository or by the variable.
const KERNEL: (&str, &str) = ("INSULA_GUEST_KERNEL", "shared/kernel/bzImage-microvm-6.1");
/// A guest may take so long for anything.
const PATIENCE: Duration = Duration::from_secs(400);

/// The root's first program.
const INIT: &str = "#!/bin/busybox sh
B=/bin/busybox
echo release: $($B uname -r), root: $($B awk '$2 == \"/\" { r = $3 } END { print r }' /proc/mounts), processors: $($B nproc)
echo written > /file && echo kept: $($B cat /file /kept 2>/dev/null)
echo modules: $($B ls -d /modules /init.old 2>/dev/null | $B wc -l), arguments: $*
$B sync
$B poweroff -f
";

/// A place of its own for `insula`.
pub(super) struct Place {
    folder: tempfile::TempDir,
}

/// The same, which need not unpack itself in the guest.
const VMLINUX: (&str, &str) = ("INSULA_GUEST_VMLINUX", "shared/kernel/vmlinux-microvm-6.1.zst");

/// A small kernel; none where there is none.
fn find_kernel((variable, file): (&str, &str)) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join(file));
    named.into_iter().chain(beside).find(|path| path.is_file())
}

fn program(name: &str) -> PathBuf {
    let built = || Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned());
    let folder = std::env::var_os("INSULA_E2E_BIN").map(PathBuf::from).or_else(built).unwrap();
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not there; cargo build -p cli -p vmm --bins makes it", path.display());
    path
}

impl Place {
    pub(super) fn new() -> Self {
        // Sockets' paths are short.
        Self { folder: tempfile::Builder::new().prefix("vm").tempdir_in("/tmp").unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn command(&self, line: &str) -> Command {
        let _needed = program("insula-vmm");
        let mut command = Command::new(program("insula"));
        command.arg("--root").arg(self.path("root")).arg("--run").arg(self.path("run")).args(line.split_whitespace());
        command.current_dir(self.folder.path());
        command
    }

    pub(super) fn insula(&self, line: &str) -> Run {
        testkit::finish(&mut self.command(line), b"")
    }

    /// Runs a machine until it ends or has said `until`, and gives what it showed.
    pub(super) fn boot(&self, line: &str, cmdline: &str, until: Option<&str>) -> String {
        self.talk(line, cmdline, &[], until)
    }

    /// The same; each time that the machine has said the first of a pair, the second is typed.
    pub(super) fn talk(&self, line: &str, cmdline: &str, talk: &[(&str, &str)], until: Option<&str>) -> String {
        use std::io::{Read as _, Write as _};
        let mut command = self.command(line);
        if !cmdline.is_empty() {
            command.arg("--cmdline").arg(cmdline);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (said, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let mut input = child.stdin.take().unwrap();
        let (sink, end) = (Arc::clone(&said), Arc::clone(&ended));
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = out.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
            end.store(true, Ordering::SeqCst);
        });
        let since = Instant::now();
        let (mut talk, mut from) = (talk.iter(), 0);
        let mut next = talk.next();
        let text = loop {
            let text = String::from_utf8_lossy(&said.lock().unwrap()).into_owned();
            if let Some((wanted, answer)) = next
                && let Some(at) = text.get(from..).and_then(|rest| rest.find(wanted))
            {
                from += at + wanted.len();
                input.write_all(answer.as_bytes()).unwrap();
                next = talk.next();
            }
            if ended.load(Ordering::SeqCst) || next.is_none() && until.is_some_and(|until| text[from..].contains(until))
            {
                break text;
            }
            assert!(since.elapsed() < PATIENCE, "it takes too long:\n{text}");
            std::thread::sleep(Duration::from_millis(10));
        };
        // The machine's process ends with it, or by this.
        let names = self.insula("vm ps -q").out;
        for name in names.split_whitespace() {
            let _ended = self.insula(&format!("vm kill {name}"));
        }
        drop(input);
        let _code = child.wait();
        reader.join().unwrap();
        let mut complaints = String::new();
        err.read_to_string(&mut complaints).unwrap();
        format!("{text}{complaints}")
    }
}

/// A package of a kernel, made as a distribution makes them.
fn package(place: &Place, kernel: &Path) -> Option<PathBuf> {
    let tree = place.path("tree");
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::create_dir_all(tree.join("boot")).unwrap();
    let control =
        "Package: linux-image-small\nVersion: 1-1\nArchitecture: amd64\nMaintainer: x <x@localhost>\nDescription: x\n";
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    fs::copy(kernel, tree.join("boot/vmlinuz-6.1-small")).unwrap();
    fs::write(tree.join("boot/config-6.1-small"), "CONFIG_X=y\n").unwrap();
    let path = place.path("linux.deb");
    let made = Command::new("dpkg-deb").args(["-q", "-b"]).arg(&tree).arg(&path).status();
    if made.is_ok_and(|status| status.success()) {
        return Some(path);
    }
    println!("skipped: no dpkg-deb, which makes the package");
    None
}

/// A root with busybox, as a folder.
fn root(place: &Place) -> Option<PathBuf> {
    let Ok(busybox) = fs::read("/bin/busybox") else {
        println!("skipped: no /bin/busybox (package busybox-static)");
        return None;
    };
    let tree = place.path("files");
    for folder in ["bin", "sbin", "dev", "proc", "sys"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    for (name, content) in [("bin/busybox", busybox.as_slice()), ("sbin/init", INIT.as_bytes())] {
        fs::write(tree.join(name), content).unwrap();
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    Some(tree)
}

/// Makes a disk of a folder; the program's name and arguments, and which package it is of, are given.
fn disk(words: &[&str], paths: &[&Path], package: &str) -> bool {
    let made =
        Command::new(words[0]).args(&words[1..]).args(paths).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let made = made.is_ok_and(|status| status.success());
    if !made {
        println!("skipped a disk: no {} (package {package})", words[0]);
    }
    made
}

/// Boots the installed kernel with its root on each kind of disk, and in a folder.
fn boot_from_everything(place: &Place, tree: &Path, release: &str) {
    let (ext4, erofs) = (place.path("ext4"), place.path("erofs"));
    fs::File::create(&ext4).unwrap().set_len(16 << 20).unwrap();
    let quiet = "console=ttyS0 quiet panic=-1";
    let said = |line: &str, words: &str, expect: &[&str]| {
        let text = place.boot(&format!("vm run -m 256m --backend soft {line}"), &format!("{quiet} {words}"), None);
        for part in expect.iter().chain(&[format!("release: {release}, root: ").as_str()]) {
            assert!(text.contains(part), "{line} {words}: no {part:?} in:\n{text}");
        }
    };
    if disk(&["mke2fs", "-q", "-F", "-t", "ext4", "-L", "the-root", "-d"], &[tree, &ext4], "e2fsprogs") {
        let line = format!("--cpus 2 --disk {}", ext4.display());
        said(
            &line,
            "root=LABEL=the-root rw -- a b",
            &["root: ext4, processors: 2", "kept: written", "modules: 0, arguments: a b"],
        );
        said(&format!("{line} --bus pci"), "", &["root: ext4", "kept: written"]);
    }
    if disk(&["mkfs.erofs"], &[&erofs, tree], "erofs-utils") {
        let line = format!("--disk {},ro", erofs.display());
        said(&line, "root=overlay:/dev/vda", &["root: overlay", "kept: written"]);
    }
    said(&format!("--share {}:files", tree.display()), "root=virtiofs:files rw", &["root: virtiofs", "kept: written"]);
    assert_eq!(fs::read_to_string(tree.join("file")).unwrap(), "written\n");
    let text = place.boot(
        "vm run -m 256m --backend soft --disk ext4",
        &format!("{quiet} root=LABEL=none"),
        Some("insula-init: "),
    );
    assert!(text.contains("insula-init: ") || text.contains("no disk"), "{text}");
}

#[test]
fn a_small_kernel_is_installed_and_boots_from_everything() {
    let place = Place::new();
    let none = place.insula("vm run").expect(1);
    assert!(none.err.contains("insula kernel install"), "{}", none.err);
    let Some(kernel) = find_kernel(KERNEL) else {
        println!("skipped: no guest kernel; name a bzImage in {}", KERNEL.0);
        return;
    };
    let (Some(package), Some(tree)) = (package(&place, &kernel), root(&place)) else { return };
    let installed = place.insula(&format!("kernel install --from {}", package.display())).expect(0);
    assert_eq!(installed.out, "6.1-small\n");
    let listed = place.insula("kernel list --check").ok();
    assert!(listed.contains("linux-image-small 1-1") && listed.contains("yes"), "{listed}");
    let again = place.insula(&format!("kernel install --name two --from {}", package.display())).ok();
    assert_eq!((again.as_str(), place.insula("kernel default").ok().as_str()), ("two", "6.1-small"));
    assert_eq!(place.insula("kernel rm two").ok(), "two");
    for (line, expect) in [
        ("kernel install --from /nowhere.deb", "/nowhere.deb"),
        ("kernel install --from /bin/busybox", "no Debian package"),
        ("kernel default two", "no kernel \"two\" is installed"),
        ("kernel build --source /nowhere", "/nowhere"),
    ] {
        let refused = place.insula(line).expect(1);
        assert!(refused.err.contains(expect) || refused.err.contains("apt-get install"), "{line}: {}", refused.err);
    }
    // The kernel itself has a release of its own.
    boot_from_everything(&place, &tree, "6.1");
}

#[test]
fn debians_kernel_boots_as_it_comes_from_the_package() {
    let place = Place::new();
    let there = Command::new("apt-cache").args(["policy", "linux-image-cloud-amd64"]).output();
    if !there.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("http")) {
        println!("skipped: apt has no source of linux-image-cloud-amd64");
        return;
    }
    let Some(tree) = root(&place) else { return };
    let installed = place.insula("kernel install");
    if installed.code != 0 && installed.err.contains("apt cannot fetch") {
        println!("skipped: {}", installed.err);
        return;
    }
    let name = installed.ok();
    let kernels = place.path("root/kernels").join(&name);
    assert!(kernels.join("vmlinux").is_file() && kernels.join("vmlinuz").is_file() && kernels.join("initrd").is_file());
    boot_from_everything(&place, &tree, &name);
}
