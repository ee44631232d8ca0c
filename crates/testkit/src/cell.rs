//! An island with namespaces and control groups of its own: what stock programs do in it with their usual paths touches
//! nothing of the machine, and all of it is gone when the cell is.
//!
//! A keeper process holds the namespaces (mount, network, PID, UTS, IPC, cgroup) and is the PID namespace's first process,
//! so that its end is the end of everything inside. It also waits for processes that lost their parents. Folders that
//! programs keep state in (`/run`, `/var/lib`) are empty there. The machine's
//! file systems are read-only. Each v1 hierarchy is mounted again with
//! the cell's own group as its root; a v2 hierarchy beside v1 ones is left out, because some runtimes refuse the mix.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::command::{Run, finish};
use crate::{Island, is_root_or_skip, rootfs, wait_for};

/// How long the cell may take to open, and things in it to end.
const SOON: Duration = Duration::from_secs(20);
/// Cells of this process so far.
static OPENED: AtomicU32 = AtomicU32::new(0);

/// Folders that are empty in a cell.
const EMPTY: &[&str] = &["/run", "/var/lib", "/var/tmp"];

/// Makes the machine's file systems read-only, but for the island's folder: a runtime that takes an id for a path, or is
/// tricked out of its root, must not be able to remove what is the machine's. `/etc` and
/// `/tmp` become copies that can be written.
const PROTECT: &str = "mkdir /run/island
mount --bind \"$HOME\" /run/island
for name in etc tmp; do mkdir -p /run/$name/upper /run/$name/work
mount -t overlay -o lowerdir=/$name,upperdir=/run/$name/upper,workdir=/run/$name/work overlay /$name; done
mount --move /run/island \"$HOME\"
rmdir /run/island
mount -o remount,bind,ro /
grep -E ' - (ext[234]|xfs|btrfs|f2fs|zfs|overlay|tmpfs) ' /proc/self/mountinfo | cut -d' ' -f5 | while read point; do
case $point in /|/run|/run/*|/var/lib|/var/tmp|/etc|/tmp|/dev|/dev/*|/proc/*|/sys/*|\"$HOME\"|\"$HOME\"/*) ;;
*) mount -o remount,bind,ro \"$point\" ;; esac; done
! touch /usr/insula-cell 2>/dev/null || { rm /usr/insula-cell; exit 9; }
";

/// How long the keeper sleeps at a time, in seconds: a number that nobody else would take.
const KEEPER_NAP: u32 = 86_399;

/// Joins the cell's control groups, as every process that enters does, and goes to the folder that it is to work in: to
/// enter a mount namespace leads to its root.
const JOIN: &str = "cd \"$0\"; for file in /sys/fs/cgroup/*/tasks; do [ -e $file ] && echo 0 > $file; done; \
                    [ -e /sys/fs/cgroup/keeper ] && echo 0 > /sys/fs/cgroup/keeper/cgroup.procs; exec \"$@\"";

/// See the module.
#[derive(Debug)]
pub struct Cell {
    island: Island,
    keeper: Option<Child>,
    /// The first process inside, as the machine numbers it.
    inside: u32,
    group: String,
}

impl Cell {
    /// Opens a cell; `None` if this machine can't have one or lacks one of `programs`, with the reason printed.
    ///
    /// # Panics
    /// When the machine could have one and it fails all the same.
    #[must_use]
    pub fn open(programs: &[&str]) -> Option<Self> {
        if !is_root_or_skip() {
            return None;
        }
        for name in [&["unshare", "nsenter", "mount", "ip"], programs].concat() {
            if rootfs::find(name).is_none() {
                println!("skipped: this machine has no {name}; cargo xtask setup installs what tests need");
                return None;
            }
        }
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let group = format!("insula-cell-{}-{number}", std::process::id());
        let mut cell = Self { island: Island::new(), keeper: None, inside: 0, group };
        cell.make_groups();
        cell.start();
        Some(cell)
    }

    /// A folder that is the same inside and outside.
    #[must_use]
    pub fn island(&self) -> &Island {
        &self.island
    }

    /// The folders of the cell's own control groups, one for a hierarchy.
    #[must_use]
    pub fn groups(&self) -> Vec<PathBuf> {
        hierarchies().into_iter().map(|(point, _)| point.join(&self.group)).collect()
    }

    /// A command that will run inside, in the island's folder.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        self.command_in(self.island.root(), words)
    }

    /// A command that will run inside, in `folder`.
    #[must_use]
    pub fn command_in(&self, folder: &Path, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.inside.to_string(), "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup"]);
        command.args(["--", "sh", "-c", JOIN]).arg(folder).args(words);
        command.env("HOME", self.island.root()).env_remove("TMPDIR");
        command
    }

    /// Runs a command inside to its end.
    #[must_use]
    pub fn run(&self, words: &[&str]) -> Run {
        finish(&mut self.command(words), b"")
    }

    /// Runs a shell's script inside to its end.
    #[must_use]
    pub fn shell(&self, script: &str) -> Run {
        self.run(&["sh", "-c", script])
    }

    /// Takes the mounts that are there now as the cell's own, after a test has prepared it.
    ///
    /// # Panics
    /// When the table of mounts can't be read.
    pub fn settle(&self) {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.inside));
        let table = table.unwrap_or_else(|error| panic!("the cell's mounts: {error}"));
        let _ = self.island.file("mounts", &table);
    }

    /// What is in the cell beyond what was there when it was opened: processes, control groups, mounts.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = self.processes();
        for group in self.groups() {
            groups_below(&group, &mut found);
        }
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.inside)).unwrap_or_default();
        let base = fs::read_to_string(self.island.path("mounts")).unwrap_or_default();
        let known: Vec<&str> = base.lines().filter_map(|line| line.split(' ').next()).collect();
        let new = table.lines().filter(|line| line.split(' ').next().is_some_and(|id| !known.contains(&id)));
        found.extend(new.map(|line| format!("mount {line}")));
        found
    }

    /// Waits until nothing is in the cell but the keeper.
    ///
    /// # Panics
    /// When something stays, with a list of it.
    pub fn assert_empty(&self) {
        if wait_for(SOON, || self.leftovers().is_empty().then_some(())).is_none() {
            panic!("left behind:\n  {}", self.leftovers().join("\n  "));
        }
    }

    /// The processes inside, the keeper's own left out.
    fn processes(&self) -> Vec<String> {
        let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid_for_children")).ok();
        let own = space(&self.inside.to_string());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|byte| byte.is_ascii_digit()) || pid == self.inside.to_string() {
                continue;
            }
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
            let line = pid.parse().map(cmdline).unwrap_or_default();
            let keepers = field("PPid:") == self.inside.to_string() && line == nap_line();
            // Below: a container has a namespace further in, and its processes have one number more than the cell's.
            let inside = field("NSpid:").split_whitespace().count() > depth();
            let zombie = field("State:").starts_with('Z');
            if inside && !keepers && !zombie && (space(&pid) == own || self.holds(&status)) {
                found.push(format!("process {pid} {} {}", field("Name:"), line));
            }
        }
        found
    }

    /// Whether a process of an inner PID namespace descends from the keeper.
    fn holds(&self, status: &str) -> bool {
        let mut parent = parent_of(status);
        while let Some(pid) = parent {
            if pid == self.inside {
                return true;
            }
            parent = fs::read_to_string(format!("/proc/{pid}/status")).ok().and_then(|status| parent_of(&status));
        }
        false
    }

    fn make_groups(&self) {
        for group in self.groups() {
            fs::create_dir_all(&group).unwrap_or_else(|error| panic!("mkdir {}: {error}", group.display()));
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let parent = group.parent().map(|parent| fs::read_to_string(parent.join(file)));
                if let Some(Ok(parent)) = parent {
                    let written = fs::write(group.join(file), parent);
                    written.unwrap_or_else(|error| panic!("{}/{file}: {error}", group.display()));
                }
            }
        }
    }

    fn start(&mut self) {
        let ready = self.island.path("mounts");
        let procs: String =
            self.groups().iter().map(|group| format!("echo $$ > {}/cgroup.procs; ", group.display())).collect();
        let script = format!(
            "{procs} exec unshare --mount --net --pid --uts --ipc --cgroup --fork --kill-child --mount-proc sh -c \"$1\""
        );
        let mut command = Command::new("sh");
        command.args(["-ec", &script, "keeper", &inner(&ready)]).stdin(Stdio::null()).stdout(Stdio::null());
        command.current_dir("/").env("HOME", self.island.root());
        let child = command.spawn().unwrap_or_else(|error| panic!("the cell's keeper: {error}"));
        let pid = child.id();
        let child = self.keeper.insert(child);
        let inside = wait_for(SOON, || {
            let ended = child.try_wait().ok().flatten();
            assert!(ended.is_none(), "the cell's keeper ended with {ended:?}");
            let whole = fs::read_to_string(&ready).is_ok_and(|text| !text.is_empty());
            let inside = only_child(pid).filter(|_| whole)?;
            // Before its nap it may still wait for what it ran last, or be about to become the nap's program.
            only_child(inside).is_some_and(|nap| cmdline(nap) == nap_line()).then_some(inside)
        });
        self.inside = inside.unwrap_or_else(|| panic!("the cell did not open"));
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            // Its child, the first process of the namespace, is killed with it, and all others with that one.
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
        let gone = || !Path::new(&format!("/proc/{}", self.inside)).exists();
        let _ = wait_for(SOON, || gone().then_some(()));
        for group in self.groups() {
            let _ = wait_for(SOON, || remove(&group).then_some(()));
        }
    }
}

/// What the keeper does inside.
fn inner(ready: &Path) -> String {
    let mut script = String::from("set -e\n");
    let hierarchies = hierarchies();
    let mixed = hierarchies.iter().any(|(_, options)| options.is_some());
    if mixed {
        script.push_str("umount -R -l /sys/fs/cgroup\nmount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup\n");
    }
    for (point, options) in &hierarchies {
        let point = point.display();
        script.push_str(&match options {
            Some(options) => format!("mkdir {point}\nmount -t cgroup -o {options} cgroup {point}\n"),
            None => format!(
                "umount -l {point}\nmount -t cgroup2 cgroup2 {point}\nmkdir {point}/keeper\n\
                 echo 0 > {point}/keeper/cgroup.procs\n\
                 for name in $(cat {point}/cgroup.controllers); do echo +$name > {point}/cgroup.subtree_control || :; done\n"
            ),
        });
    }
    for folder in EMPTY {
        script.push_str(&format!("[ ! -d {folder} ] || mount -t tmpfs -o mode=755 tmpfs {folder}\n"));
    }
    script.push_str(PROTECT);
    script.push_str("ip link set lo up\n");
    // A shell takes in what lost its parents while it waits, so it must not become the program that it runs last.
    script.push_str(&format!(
        "cat /proc/self/mountinfo > {0}.half\nmv {0}.half {0}\nset +e\nwhile :; do sleep {1}; done\n",
        ready.display(),
        KEEPER_NAP
    ));
    script
}

/// The machine's v1 hierarchies with their mount options, or its v2 one if it has no other.
fn hierarchies() -> Vec<(PathBuf, Option<String>)> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let point = left.split(' ').nth(4).map(PathBuf::from).unwrap_or_default();
        let mut right = right.split(' ');
        let kind = right.next().unwrap_or_default();
        if !point.starts_with("/sys/fs/cgroup") {
            continue;
        }
        let options: Vec<&str> = right.nth(1).unwrap_or_default().split(',').collect();
        let options: Vec<&str> = options.into_iter().filter(|option| !matches!(*option, "rw" | "ro")).collect();
        match kind {
            "cgroup" => {
                let named = if options.iter().any(|option| option.starts_with("name=")) { "none," } else { "" };
                first.push((point, Some(format!("{named}{}", options.join(",")))));
            }
            "cgroup2" => second.push((point, None)),
            _ => {}
        }
    }
    if first.is_empty() { second } else { first }
}

/// How many PID namespaces deep this process is.
fn depth() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    line.split_whitespace().count()
}

/// The one child of a process.
fn only_child(pid: u32) -> Option<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.trim().parse().ok()
}

/// A process's words, with a space between them; none if it has gone.
fn cmdline(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned()
}

fn nap_line() -> String {
    format!("sleep {KEEPER_NAP}")
}

fn parent_of(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok().filter(|pid| *pid != 0)
}

fn groups_below(group: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "keeper" {
            found.push(format!("control group {}", entry.path().display()));
            groups_below(&entry.path(), found);
        }
    }
}

/// Removes a group and those below it; false while something in them is still ending.
fn remove(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = remove(&entry.path());
        }
    }
    !group.exists() || fs::remove_dir(group).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    mod kernel {
        use super::*;

        #[test]
        fn nothing_leaves_a_cell() {
            let Some(cell) = Cell::open(&[]) else { return };
            let groups = cell.groups();
            assert!(groups.iter().all(|group| group.is_dir()));
            assert_eq!(cell.leftovers(), Vec::<String>::new());
            let root = cell.island().root().to_owned();
            let written = cell.shell("touch /usr/x /var/x /root/x 2>&1; touch /etc/insula-cell && rm /etc/passwd");
            assert_eq!(written.out.matches("Read-only file system").count(), 3, "{written:?}");
            assert!(Path::new("/etc/passwd").exists() && !Path::new("/etc/insula-cell").exists());
            let _ = cell.shell("ls /run; cat /proc/self/cgroup").expect(0);
            let script = "sleep 300 >&- 2>&- & mkdir $HOME/m /run/x; mount -t tmpfs x $HOME/m; for group in /sys/fs/cgroup/*/; do mkdir $group/mine; done; :";
            let _ = cell.shell(script).expect(0);
            let left = cell.leftovers().join("\n");
            for part in ["process ", "sleep 300", "mount ", "/mine"] {
                assert!(left.contains(part), "{part}: {left}");
            }
            drop(cell);
            assert!(!root.exists() && !Path::new("/run/x").exists());
            assert!(groups.iter().all(|group| !group.exists()));
        }
    }
}
