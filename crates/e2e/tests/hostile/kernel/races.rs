//! Links that are swapped while the runtime works: an attacker in one container, a victim that is made beside it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use super::{SECRET, stage};

/// Swaps two names for each other as fast as it can, until it is dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Swapper {
    fn start(one: PathBuf, other: PathBuf) -> Self {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&swaps));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, swaps, thread: Some(thread) }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        println!("{} swaps", self.swaps.load(Ordering::Relaxed));
    }
}

/// How many containers are made while the swapper runs.
const ROUNDS: usize = 60;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A volume whose `a` is now a folder, now a link to the folder outside, and mounts below it.
#[test]
fn cve_2021_30465_mount_race() {
    let Some((mut stage, secret)) = stage("cat /proc/self/mountinfo; cat /vol/a/secret /vol/a/b/secret 2>/dev/null; :")
    else {
        return;
    };
    let volume = stage.cell.island().dir("volume");
    let outside = stage.cell.island().path("outside");
    fs::create_dir_all(outside.join("b")).unwrap();
    fs::create_dir_all(volume.join("a/b")).unwrap();
    symlink(format!("../../../../../../../../..{}", outside.display()), volume.join("link")).unwrap();
    // The control: whoever follows the link mounts outside.
    assert_eq!(fs::read_to_string(volume.join("link/secret")).unwrap(), SECRET);
    let (target, source) = (volume.join("link/b").display().to_string(), volume.display().to_string());
    let script = format!(
        "mount -t tmpfs raced {target} && grep -c '{}/b .*raced' /proc/self/mountinfo; umount {target}",
        outside.display()
    );
    assert_eq!(stage.cell.shell(&script).ok(), "1");
    stage
        .bundle
        .push("/mounts", json!({"destination": "/vol", "type": "bind", "source": source, "options": ["rbind"]}));
    stage.bundle.push("/mounts", json!({"destination": "/vol/a/b", "type": "tmpfs", "source": "raced"}));
    let _ = stage.bundle.write();
    let (mut made, mut refused) = (0, 0);
    {
        let _swapper = Swapper::start(volume.join("a"), volume.join("link"));
        for round in 0..ROUNDS {
            let run = stage.run();
            assert!(!run.said().contains(SECRET), "round {round} shows the secret {secret}: {run:?}");
            if run.code == 0 {
                made += 1;
                // What was mounted, but not anywhere below the container's root, is outside.
                assert!(run.out.contains(" raced "), "round {round}: the mount went out of the root: {run:?}");
            } else {
                refused += 1;
                assert!(run.code < 128 && !run.err.trim().is_empty(), "round {round}: {run:?}");
            }
        }
    }
    println!("{made} made, {refused} refused");
    assert_eq!(names(&outside), ["b", "secret"]);
    stage.finish();
}

/// The same with a path that the runtime has to make.
#[test]
fn cve_2024_45310_mkdir_race() {
    if crate::known::is_known("cve_2024_45310_mkdir_race") {
        return;
    }
    let Some((mut stage, _)) = stage("true") else { return };
    let volume = stage.cell.island().dir("volume");
    let outside = stage.cell.island().path("outside");
    fs::create_dir_all(volume.join("a")).unwrap();
    symlink(format!("../../../../../../../../..{}", outside.display()), volume.join("link")).unwrap();
    // The control: whoever follows the link makes a folder outside.
    fs::create_dir_all(volume.join("link/control/x")).unwrap();
    assert_eq!(names(&outside), ["control", "secret"]);
    fs::remove_dir_all(outside.join("control")).unwrap();
    let source = volume.display().to_string();
    let plain = stage.bundle.config.clone();
    let swapper = Swapper::start(volume.join("a"), volume.join("link"));
    for round in 0..ROUNDS {
        stage.bundle.config = plain.clone();
        stage.bundle.push(
            "/mounts",
            json!({"destination": "/vol", "type": "bind", "source": source.as_str(), "options": ["rbind"]}),
        );
        let made = format!("/vol/a/made{round}/deep");
        match round % 3 {
            0 => stage.bundle.push("/mounts", json!({"destination": made, "type": "tmpfs", "source": "tmpfs"})),
            1 => stage.bundle.push(
                "/mounts",
                json!({"destination": made, "type": "bind", "source": "/etc/passwd", "options": ["bind"]}),
            ),
            _ => stage.bundle.set("/process/cwd", json!(made)),
        };
        let run = stage.run();
        assert!(run.code < 128, "round {round}: {run:?}");
        assert_eq!(names(&outside), ["secret"], "round {round} made something outside: {run:?}");
    }
    // whoever renames in a folder while it is removed keeps it
    drop(swapper);
    stage.finish();
}

/// `null` of a shared `/dev` is now the device, now a link, while paths are masked with it.
#[test]
fn cve_2025_31133_dev_null_race() {
    let Some((mut stage, _)) = stage("cat /etc/masked") else { return };
    let dev = stage.cell.island().dir("dev");
    let make = format!("mknod -m 666 {0}/null c 1 3", dev.display());
    let _ = stage.cell.shell(&make).expect(0);
    symlink("/etc/passwd", dev.join("link")).unwrap();
    fs::write(stage.bundle.rootfs().join("etc/masked"), "masked\n").unwrap();
    let mounts = stage.bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    let source = dev.display().to_string();
    stage
        .bundle
        .push("/mounts", json!({"destination": "/dev", "type": "bind", "source": source, "options": ["rbind"]}));
    stage.bundle.set("/linux/maskedPaths", json!(["/etc/masked"]));
    let known = crate::known::is_known("cve_2025_31133_dev_null_race");
    let swapper = Swapper::start(dev.join("null"), dev.join("link"));
    for round in 0..ROUNDS {
        let run = stage.run();
        assert!(known || !run.out.contains("root:") && !run.out.contains("masked"), "round {round}: {run:?}");
    }
    // whoever renames in a folder while it is removed keeps it
    drop(swapper);
    stage.finish();
}
