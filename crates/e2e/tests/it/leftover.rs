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
