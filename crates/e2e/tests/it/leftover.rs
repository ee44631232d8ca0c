//! What a subject has left behind, told by its own folder and control group, so that other tests may run beside.

use std::fs;
use std::path::{Path, PathBuf};

/// Everything that can be traced to `folder` or to the control groups below `group`.
pub(crate) fn of(folder: &Path, group: &str) -> Vec<String> {
    let mut found = Vec::new();
    mounts(folder, &mut found);
    processes(folder, &mut found);
    groups(group, &mut found);
    found
}

/// Ends the processes and removes the groups that a failed test has left.
pub(crate) fn clear(folder: &Path, group: &str) {
    for _ in 0..10 {
        let found = of(folder, group);
        for line in &found {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["process", pid, ..] => end(pid),
                ["control", "group", path] => remove(Path::new(path)),
                _ => {}
            }
        }
        if !found.iter().any(|line| line.starts_with("process") || line.starts_with("control")) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn end(pid: &str) {
    if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Removes a group and those below it, after ending what is in them.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines().for_each(end);
    // One whose processes are still ending is tried again.
    let _ = fs::remove_dir(group);
}

fn mounts(folder: &Path, found: &mut Vec<String>) {
    let text = folder.to_string_lossy().into_owned();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        if line.contains(&text) {
            found.push(format!("mount {line}"));
        }
    }
}

/// Processes that name the folder in their command line, or hold a file of it open, this one excepted.
fn processes(folder: &Path, found: &mut Vec<String>) {
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid == own || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let path = entry.path();
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let mut links: Vec<PathBuf> = vec![path.join("cwd"), path.join("root"), path.join("exe")];
        links.extend(fs::read_dir(path.join("fd")).into_iter().flatten().flatten().map(|fd| fd.path()));
        let holds = links.iter().any(|link| fs::read_link(link).is_ok_and(|target| target.starts_with(folder)));
        if holds || line.contains(&*folder.to_string_lossy()) {
            found.push(format!("process {pid} {}", line.trim()));
        }
    }
}

/// Control groups of the subject, in every hierarchy.
fn groups(group: &str, found: &mut Vec<String>) {
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([base.to_owned()]) {
        let path = hierarchy.join(group.trim_start_matches('/'));
        if path.is_dir() {
            found.push(format!("control group {}", path.display()));
        }
    }
}
