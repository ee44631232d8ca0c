//! OCI bundles for tests: busybox for a root, a configuration that can be edited, and the runtime that is tested.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::rootfs;

/// Programs of busybox that have a name of their own in the tree.
const APPLETS: &[&str] = &[
    "cat", "chmod", "cp", "cut", "dd", "df", "echo", "env", "false", "find", "grep", "head", "hostname", "id", "kill",
    "ln", "ls", "mkdir", "mknod", "mount", "mv", "nc", "ps", "pwd", "readlink", "rm", "sed", "sh", "sleep", "sort",
    "stat", "stty", "sync", "tail", "test", "top", "touch", "tr", "true", "tty", "umount", "uname", "unshare", "wc",
    "wget", "whoami",
];

/// The environment's variable that names the runtime.
const SUBJECT: &str = "INSULA_E2E_RUNTIME";

/// The OCI runtime that is tested: the program that `INSULA_E2E_RUNTIME` names (`insula-oci`, which is the default, `runc`,
/// `crun`, or a path); ours is looked for in `INSULA_E2E_BIN`, or where the test was built.
///
/// # Panics
/// When there is no such program.
#[must_use]
pub fn runtime() -> PathBuf {
    let name = std::env::var(SUBJECT).unwrap_or_default();
    let path = match name.as_str() {
        "" | "insula-oci" => programs().join("insula-oci"),
        name if name.contains('/') => PathBuf::from(name),
        name => rootfs::find(name).unwrap_or_else(|| panic!("{SUBJECT}={name}: there is no such program")),
    };
    assert!(path.is_file(), "{} is not there; cargo xtask test builds it", path.display());
    path
}

/// The name of the runtime that is tested, without its folder.
#[must_use]
pub fn runtime_name() -> String {
    runtime().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The folder of our programs.
fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("INSULA_E2E_BIN") {
        return PathBuf::from(folder);
    }
    let test = std::env::current_exe().unwrap_or_default();
    test.parent().and_then(Path::parent).map(Path::to_owned).unwrap_or_default()
}

/// Whether there is a busybox to make trees of; prints the reason when a test has to be skipped because there is none.
#[must_use]
pub fn has_busybox_or_skip() -> bool {
    let there = rootfs::find("busybox").is_some();
    if !there {
        println!("skipped: this machine has no busybox; cargo xtask setup installs busybox-static");
    }
    there
}

/// Makes a tree of one static busybox with its programs' names, accounts, and the folders that a container expects.
///
/// # Panics
/// When the folder can't be written or the machine has no busybox.
pub fn busybox_tree(folder: &Path) {
    let busybox = rootfs::find("busybox").unwrap_or_else(|| panic!("this machine has no busybox"));
    for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "run", "root", "var/tmp", "home"] {
        let path = folder.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("mkdir {}: {error}", path.display()));
    }
    let open = fs::set_permissions(folder.join("tmp"), fs::Permissions::from_mode(0o1777));
    open.unwrap_or_else(|error| panic!("chmod tmp: {error}"));
    fs::copy(&busybox, folder.join("bin/busybox")).unwrap_or_else(|error| panic!("copy busybox: {error}"));
    for name in APPLETS {
        symlink("busybox", folder.join("bin").join(name)).unwrap_or_else(|error| panic!("link {name}: {error}"));
    }
    for (name, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\n"),
        ("etc/group", "root:x:0:\nuser:x:1000:\n"),
        ("etc/hostname", "test\n"),
    ] {
        fs::write(folder.join(name), text).unwrap_or_else(|error| panic!("write {name}: {error}"));
    }
}

/// A folder with `config.json` and `rootfs`.
#[derive(Debug)]
pub struct Bundle {
    folder: PathBuf,
    /// What [`Bundle::write`] will write.
    pub config: Value,
}

impl Bundle {
    /// Makes a bundle in `folder`, whose program is `args`; nothing is written to `config.json` yet.
    ///
    /// # Panics
    /// When the folder can't be made.
    #[must_use]
    pub fn new(folder: &Path, args: &[&str]) -> Self {
        busybox_tree(&folder.join("rootfs"));
        Self { folder: folder.to_owned(), config: config(args) }
    }

    /// The bundle's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The root file system's folder.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// Puts `value` at a JSON pointer, for example `/process/args`; a missing part of an object is made.
    ///
    /// # Panics
    /// When the pointer leads through something that is no object or array.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        let mut at = &mut self.config;
        for part in pointer.split('/').skip(1) {
            at = match at {
                Value::Array(list) => {
                    let index = part.parse().ok().and_then(|index: usize| list.get_mut(index));
                    index.unwrap_or_else(|| panic!("{pointer}: no element {part}"))
                }
                Value::Object(map) => map.entry(part.to_owned()).or_insert(json!({})),
                other => panic!("{pointer}: {other} has no {part}"),
            };
        }
        *at = value;
        self
    }

    /// Appends `value` to the array at a JSON pointer, which is made if it is missing.
    ///
    /// # Panics
    /// When something else stands there.
    pub fn push(&mut self, pointer: &str, value: Value) -> &mut Self {
        if self.config.pointer(pointer).is_none() {
            self.set(pointer, json!([]));
        }
        let list = self.config.pointer_mut(pointer).and_then(Value::as_array_mut);
        list.unwrap_or_else(|| panic!("{pointer} is no array")).push(value);
        self
    }

    /// Writes `config.json`.
    ///
    /// # Panics
    /// When that fails.
    pub fn write(&self) -> &Self {
        self.write_text(self.config.to_string().as_bytes())
    }

    /// Writes something else as `config.json`.
    ///
    /// # Panics
    /// When that fails.
    pub fn write_text(&self, text: &[u8]) -> &Self {
        let path = self.folder.join("config.json");
        fs::write(&path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        self
    }
}

/// A configuration as engines make it: all namespaces but the user's, the usual mounts, few capabilities.
#[must_use]
pub fn config(args: &[&str]) -> Value {
    let capabilities = json!([
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT"
    ]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs"},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "resources": {"devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 7, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 8, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 9, "access": "rwm"},
                {"allow": true, "type": "c", "major": 5, "minor": 0, "access": "rwm"},
                {"allow": true, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
                {"allow": true, "type": "c", "major": 136, "access": "rwm"}
            ]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}
            ],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
