//! The runtime under test, and a test's own corner of the machine for it.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, mount_remount, unmount,
};
use serde_json::Value;
use testkit::{Island, is_root_or_skip, rootfs, wait_for};

use crate::bundle::Bundle;
use crate::{known, leftover};

/// How long things that are on their way may take.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// How long a command may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(10);
/// Subjects of this process so far, because tests may share one.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// What a command gave.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) words: String,
    /// 128 and the signal if one ended it, -1 if it hung.
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Checks the exit code, and shows everything when it is another.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\nstdout: {}\nstderr: {}", self.words, self.out, self.err);
        self
    }

    /// Checks that the command did not succeed, nor hang, nor die of a signal.
    #[track_caller]
    pub(crate) fn fails(self) -> Self {
        // runc's exec says 255, and some of crun's commands other large numbers.
        let refused = (1..128).contains(&self.code) || (250..256).contains(&self.code);
        assert!(refused, "{} gave {}\nstdout: {}\nstderr: {}", self.words, self.code, self.out, self.err);
        assert!(!self.err.trim().is_empty(), "{} failed without a word", self.words);
        self
    }

    /// Standard output without the white space at its ends.
    pub(crate) fn text(&self) -> &str {
        self.out.trim()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{}: {error} in {}", self.words, self.out))
    }
}

/// The runtime, with its own state folder, control group and mount namespace.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) program: PathBuf,
    /// `runc`, `crun`, or what the program's file is called.
    pub(crate) name: String,
    pub(crate) island: Island,
    /// The control group above those of all containers of this test.
    pub(crate) group: String,
    calls: Cell<u32>,
    pub(crate) ids: RefCell<Vec<String>>,
}

/// Runs a test: it gets a subject, and nothing may be left afterwards. What `known.rs` lists for the subject may fail.
pub(crate) fn test<F: Fn(&Subject)>(body: F) {
    let Some(subject) = Subject::new() else { return };
    let test = std::any::type_name::<F>()
        .trim_start_matches("runtime::kernel::")
        .trim_start_matches("guest::")
        .trim_end_matches("::{{closure}}");
    let reason = known::reason(&subject.name, test);
    let ended = catch_unwind(AssertUnwindSafe(|| {
        body(&subject);
        subject.assert_nothing_left();
    }));
    drop(subject);
    match (ended, reason) {
        (Ok(()), None) => {}
        (Ok(()), Some(reason)) => println!("known no longer: {test} passes; known.rs says: {reason}"),
        (Err(_), Some(reason)) => println!("known: {test}: {reason}"),
        (Err(panic), None) => resume_unwind(panic),
    }
}

/// The program that the environment names, and what to call it.
fn program() -> (PathBuf, String) {
    let wanted = std::env::var("INSULA_E2E_RUNTIME").unwrap_or_default();
    let wanted = if wanted.is_empty() { "insula-oci" } else { &wanted };
    let path = if wanted.contains('/') {
        PathBuf::from(wanted)
    } else if wanted == "insula-oci" {
        let built = || Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned());
        let folder = std::env::var_os("INSULA_E2E_BIN").map(PathBuf::from).or_else(built);
        folder.unwrap().join(wanted)
    } else {
        rootfs::find(wanted).unwrap_or_else(|| panic!("INSULA_E2E_RUNTIME={wanted}: no such program is installed"))
    };
    assert!(path.is_file(), "{} is not there; cargo build -p container --bin insula-oci makes ours", path.display());
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    (path, name)
}

/// Gives this thread mounts of its own, the same for every subject: without the version 2 groups beside those of
/// version 1, because crun refuses such a machine, and private, so that nothing gets out.
#[expect(deprecated, reason = "only unsharing the table of descriptors is unsound, and this does not")]
fn own_mounts() {
    use rustix::thread::UnshareFlags;
    rustix::thread::unshare(UnshareFlags::NEWNS).unwrap();
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
    let table = mount_table();
    let hybrid = table.contains(" - cgroup2 ") && table.contains(" - cgroup ");
    for line in table.lines().filter(|line| hybrid && line.contains(" - cgroup2 ")) {
        let point = line.split(' ').nth(4).unwrap();
        unmount(point, UnmountFlags::DETACH).unwrap();
        // crun makes folders there all the same; on the machine's own they would stay.
        mount("conf", point, "tmpfs", MountFlags::empty(), None).unwrap();
    }
}

/// Makes the machine's root and the folder of the hierarchies read-only, for this thread's mounts only: a subject that is
/// led out of its root by a test, or a test with a mistake, then does no harm. Folders for passing files stay open.
fn protect_machine() {
    for folder in [Path::new("/tmp"), &std::env::temp_dir()] {
        mount_bind_recursive(folder, folder).unwrap();
    }
    for point in ["/", "/sys/fs/cgroup"] {
        let table = mount_table();
        if table.lines().any(|line| line.split(' ').nth(4) == Some(point) && !line.contains(" - cgroup2 ")) {
            mount_remount(point, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
        }
    }
}

/// The mounts that this thread sees.
pub(crate) fn mount_table() -> String {
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}

impl Subject {
    /// A subject; `None` if this machine cannot have one, with the reason printed.
    fn new() -> Option<Self> {
        if !is_root_or_skip() {
            return None;
        }
        let (program, name) = program();
        own_mounts();
        protect_machine();
        let island = Island::new();
        fs::set_permissions(island.root(), fs::Permissions::from_mode(0o755)).unwrap();
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let group = format!("/conf-{}-{number}", std::process::id());
        let subject = Self { program, name, island, group, calls: Cell::new(0), ids: RefCell::default() };
        subject.make_rootfs("rootfs");
        Some(subject)
    }

    /// A small tree with busybox in it.
    pub(crate) fn make_rootfs(&self, name: &str) -> PathBuf {
        let tree = self.island.dir(name);
        for folder in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "mnt", "lower/deep"] {
            fs::create_dir_all(tree.join(folder)).unwrap();
        }
        let busybox = rootfs::find("busybox").expect("apt-get install busybox-static");
        let inside = tree.join("bin/busybox");
        fs::copy(&busybox, &inside).unwrap();
        for library in rootfs::libraries(&busybox) {
            let inside = tree.join(library.strip_prefix("/").unwrap());
            fs::create_dir_all(inside.parent().unwrap()).unwrap();
            fs::copy(&library, &inside).unwrap();
        }
        for applet in APPLETS {
            symlink("busybox", tree.join("bin").join(applet)).unwrap();
        }
        fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n")
            .unwrap();
        fs::write(tree.join("etc/group"), "root:x:0:\nuser:x:1000:\n").unwrap();
        fs::write(tree.join("etc/word"), "word").unwrap();
        fs::write(tree.join("lower/deep/file"), "deep").unwrap();
        fs::set_permissions(tree.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        tree
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.island.path("rootfs")
    }

    /// Where the runtime keeps its state.
    pub(crate) fn root(&self) -> PathBuf {
        self.island.path("state")
    }

    /// A bundle that runs `true`.
    pub(crate) fn bundle(&self) -> Bundle<'_> {
        Bundle::new(self)
    }

    /// A bundle that runs a shell script.
    pub(crate) fn sh(&self, script: &str) -> Bundle<'_> {
        self.bundle().sh(script)
    }

    /// A name that no other container of this test has, and that is cleaned up.
    pub(crate) fn new_id(&self) -> String {
        let mut ids = self.ids.borrow_mut();
        let id = format!("c{}-{}", std::process::id(), ids.len());
        ids.push(id.clone());
        id
    }

    /// The runtime's command line.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.root()).args(words).current_dir(self.island.root());
        for name in ["XDG_RUNTIME_DIR", "NOTIFY_SOCKET", "LISTEN_FDS", "DBUS_SESSION_BUS_ADDRESS"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs the runtime.
    pub(crate) fn call(&self, words: &[&str]) -> Run {
        self.finish(&mut self.command(words))
    }

    /// Runs any command to its end; one that hangs is killed. Its output goes to files, because what stays in the
    /// background may hold it open.
    pub(crate) fn finish(&self, command: &mut Command) -> Run {
        let words = format!("{command:?}");
        let (out, err, mut child) = self.begin(command, Stdio::null());
        let status = end_of(&mut child);
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        Run { words, code: status, out: read(&out), err: read(&err) }
    }

    /// Starts a command with its output in two files.
    pub(crate) fn begin(&self, command: &mut Command, stdin: Stdio) -> (PathBuf, PathBuf, Child) {
        let number = self.calls.get();
        self.calls.set(number + 1);
        let (out, err) = (self.island.path(&format!("out.{number}")), self.island.path(&format!("err.{number}")));
        command.stdin(stdin).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        (out, err, child)
    }

    /// The folder of a control group in a hierarchy.
    pub(crate) fn group_folder(&self, controller: &str, group: &str) -> PathBuf {
        crate::machine::hierarchy(controller).join(group.trim_start_matches('/'))
    }

    /// What can still be found of the test's containers.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut found = leftover::of(self.island.root(), &self.group);
        let folder = self.island.root().to_string_lossy().into_owned();
        let table = mount_table();
        let below = table
            .lines()
            .filter(|line| line.split(' ').nth(4).is_some_and(|point| point.starts_with(&format!("{folder}/"))));
        found.extend(below.map(|line| format!("mount {line}")));
        for entry in fs::read_dir(self.root()).into_iter().flatten().flatten() {
            // crun keeps an empty folder of its own there, for everybody's programs.
            if entry.file_name().to_string_lossy().starts_with('c') {
                found.push(format!("state {}", entry.path().display()));
            }
        }
        found
    }

    /// Checks that no container, mount, process or control group is left; containers that the test has left running
    /// are deleted first, by force.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        self.delete_all();
        // The parent group is the test's own: runtimes make it, and not all of them remove it.
        self.remove_parents();
        let gone = wait_for(SOON / 10, || {
            self.remove_parents();
            self.left().is_empty().then_some(())
        });
        assert!(gone.is_some(), "left behind:\n{}", self.left().join("\n"));
    }

    fn delete_all(&self) {
        for id in self.ids.borrow_mut().drain(..) {
            if self.root().join(&id).exists() {
                self.call(&["delete", "--force", &id]);
            }
        }
    }

    /// Removes the test's own parent groups if nothing is in them.
    fn remove_parents(&self) {
        for folder in crate::machine::hierarchies() {
            // One with groups in it stays, and is found.
            let _ = fs::remove_dir(folder.join(self.group.trim_start_matches('/')));
        }
        // Nor are plain folders groups: see own_mounts.
        let plain = Path::new("/sys/fs/cgroup/unified").join(self.group.trim_start_matches('/'));
        if !plain.join("cgroup.procs").exists() {
            let _ = fs::remove_dir_all(plain);
        }
    }
}

impl Drop for Subject {
    /// Ends what a failed test has left; another has nothing.
    fn drop(&mut self) {
        self.delete_all();
        leftover::clear(self.island.root(), &self.group);
        let table = mount_table();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let own: Vec<&str> = points.filter(|point| Path::new(point).starts_with(self.island.root())).collect();
        for point in own.into_iter().rev() {
            let _ = unmount(point, UnmountFlags::DETACH);
        }
    }
}

/// Waits for a child and gives its exit code as a shell would, or -1 when it had to be killed.
pub(crate) fn end_of(child: &mut Child) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            return -1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the tests use of busybox.
const APPLETS: &[&str] = &[
    "awk", "cat", "chmod", "chown", "cut", "date", "dd", "df", "echo", "env", "false", "find", "grep", "head",
    "hostname", "id", "ip", "kill", "ln", "ls", "mkdir", "mknod", "mount", "mv", "nproc", "ps", "pwd", "readlink",
    "rm", "sed", "seq", "sh", "sleep", "sort", "stat", "stty", "sync", "tail", "tee", "test", "touch", "tr", "true",
    "tty", "umount", "uname", "unshare", "uptime", "wc", "which",
];
