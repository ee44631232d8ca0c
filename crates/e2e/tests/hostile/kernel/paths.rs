//! Ways out through links in the image, and through mounts on what the runtime itself relies on.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::json;
use testkit::stage::{ID, Stage};
use testkit::{Run, Terminal, wait_for};

use super::{SECRET, stage};
use crate::known::is_known;

/// Checks that the folder outside holds the secret and nothing else.
#[track_caller]
fn assert_untouched(stage: &Stage, after: &str) {
    let outside = stage.cell.island().path("outside");
    let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"], "made outside by {after}");
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), SECRET, "written by {after}");
}

/// Checks that a run was refused with a message, and not by a crash.
#[track_caller]
fn assert_refused(run: &Run) {
    assert!(
        run.code > 0 && !(128..255).contains(&run.code) && !run.err.trim().is_empty(),
        "it should be refused: {run:?}"
    );
    assert!(!run.err.contains("panicked"), "{run:?}");
}

#[test]
fn links_in_the_image_lead_nowhere_outside() {
    let Some((mut stage, secret)) = stage("true") else { return };
    let outside = stage.cell.island().path("outside");
    let root = stage.bundle.rootfs();
    let up = format!("../../../../../../../../../..{}", outside.display());
    symlink(&outside, root.join("absolute")).unwrap();
    symlink(&up, root.join("relative")).unwrap();
    symlink(&secret, root.join("file")).unwrap();
    // The control: without a root of its own the link does lead out.
    assert_eq!(fs::read_to_string(root.join("relative/secret")).unwrap(), SECRET);
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), SECRET);
    let plain = stage.bundle.config.clone();
    for link in ["/absolute", "/relative", "/absolute/../relative/x", "/file", "/proc/self/root/../absolute"] {
        for (what, mount) in [
            ("tmpfs", json!({"destination": link, "type": "tmpfs", "source": "tmpfs"})),
            ("tmpfs below", json!({"destination": format!("{link}/made"), "type": "tmpfs", "source": "tmpfs"})),
            (
                "file",
                json!({"destination": format!("{link}/made"), "type": "bind", "source": secret.as_str(), "options": ["bind"]}),
            ),
        ] {
            stage.bundle.push("/mounts", mount);
            let run = stage.run();
            assert!(run.code < 128, "{what} at {link}: {run:?}");
            assert_untouched(&stage, &format!("mount of a {what} at {link}"));
            stage.bundle.config = plain.clone();
        }
        stage.bundle.set("/process/cwd", json!(format!("{link}/cwd")));
        let _ = stage.run();
        assert_untouched(&stage, &format!("cwd below {link}"));
        stage.bundle.config = plain.clone();
        let device = json!({"path": format!("{link}/null"), "type": "c", "major": 1, "minor": 3, "fileMode": 438});
        stage.bundle.push("/linux/devices", device);
        let _ = stage.run();
        assert_untouched(&stage, &format!("a device below {link}"));
        stage.bundle.config = plain.clone();
        stage.bundle.push("/linux/maskedPaths", json!(link)).push("/linux/readonlyPaths", json!(link));
        let _ = stage.run();
        assert_untouched(&stage, &format!("masking {link}"));
        stage.bundle.config = plain.clone();
    }
    stage.finish();
}

#[test]
fn a_working_folder_that_is_a_link_is_the_containers() {
    let Some((mut stage, secret)) = stage("cat secret 2>/dev/null; pwd -P") else { return };
    let outside = stage.cell.island().path("outside");
    symlink(&outside, stage.bundle.rootfs().join("work")).unwrap();
    // The same path exists inside, with other content.
    let inside = stage.bundle.rootfs().join(secret.trim_start_matches('/'));
    fs::create_dir_all(inside.parent().unwrap()).unwrap();
    fs::write(&inside, "the image's own\n").unwrap();
    stage.bundle.set("/process/cwd", json!("/work"));
    let run = stage.run();
    assert_eq!(run.ok(), format!("the image's own\n{}", outside.display()));
    stage.finish();
}

#[test]
fn a_root_that_is_no_folder_of_the_bundle() {
    let Some((mut stage, secret)) = stage("true") else { return };
    for path in [secret.as_str(), "/no/such/folder", "", "rootfs/etc/passwd"] {
        stage.bundle.set("/root/path", json!(path));
        assert_refused(&stage.run());
    }
    stage.assert_clean();
    stage.finish();
}

#[test]
fn cve_2019_16884_mount_over_proc() {
    let Some((mut stage, _)) = stage("cat /proc/marker /proc/self/attr/marker /proc/sys/marker") else { return };
    let volume = stage.cell.island().dir("volume").display().to_string();
    for name in ["marker", "self/attr/marker"] {
        let _ = stage.cell.island().file(&format!("volume/{name}"), "the attacker's\n");
    }
    symlink("/proc", stage.bundle.rootfs().join("processes")).unwrap();
    let plain = stage.bundle.config.clone();
    for destination in ["/proc", "/proc/self", "/proc/self/attr", "/proc/sys", "/processes/sys", "/proc/../proc/1"] {
        let mount =
            json!({"destination": destination, "type": "bind", "source": volume.as_str(), "options": ["rbind"]});
        stage.bundle.push("/mounts", mount);
        let run = stage.run();
        if !is_known("cve_2019_16884_mount_over_proc") {
            assert!(run.code != 0 && !run.out.contains("attacker"), "mount over {destination}: {run:?}");
            assert_refused(&run);
        }
        stage.bundle.config = plain.clone();
    }
    // The control: the same volume elsewhere is seen.
    let mount = json!({"destination": "/volume", "type": "bind", "source": volume, "options": ["rbind"]});
    stage.bundle.push("/mounts", mount).set("/process/args", json!(["/bin/cat", "/volume/marker"]));
    assert_eq!(stage.run().ok(), "the attacker's");
    stage.finish();
}

/// A link where a kernel's file system goes: either it is refused, or it is mounted where the link leads inside and is
/// masked there.
fn link_instead(name: &str) {
    let script = "cat /proc/keys 2>/dev/null | head -n1; cat /proc/sys/kernel/core_pattern; echo x >/proc/sys/kernel/core_pattern";
    let Some((mut stage, _)) = stage(script) else { return };
    stage.bundle.push("/linux/maskedPaths", json!("/proc/sys/kernel/core_pattern"));
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let root = stage.bundle.rootfs();
    fs::remove_dir(root.join(name)).unwrap();
    let evil = root.join("evil");
    fs::create_dir_all(evil.join("self")).unwrap();
    for target in ["/evil", "evil", "../../../../../evil", "/tmp/../evil", "/no/such", "/"] {
        let _ = fs::remove_file(root.join(name));
        symlink(target, root.join(name)).unwrap();
        let run = stage.run();
        assert!(!run.out.contains(pattern.trim()), "/{name} -> {target} takes the mask off: {run:?}");
        assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    }
    stage.finish();
}

#[test]
fn cve_2019_19921_proc_symlink() {
    link_instead("proc");
}

/// The same hole, opened again in a later version.
#[test]
fn cve_2023_27561_proc_symlink_again() {
    link_instead("proc");
}

#[test]
fn cve_2023_28642_sys_symlink() {
    link_instead("sys");
}

/// A `/dev` that the image brings, with `null` leading to a file of the kernel's.
#[test]
fn cve_2025_31133_masked_path_dev_null_swap() {
    let Some((mut stage, _)) = stage("cat /etc/masked; grep -c core_pattern /proc/self/mountinfo") else { return };
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let dev = stage.cell.island().dir("dev");
    for (target, kind) in [("/proc/sys/kernel/core_pattern", "a link"), ("/etc/passwd", "a link"), ("", "a file")] {
        let _ = fs::remove_file(dev.join("null"));
        match kind {
            "a link" => symlink(target, dev.join("null")).unwrap(),
            _ => fs::write(dev.join("null"), "not null: core_pattern").unwrap(),
        }
        let _ = fs::write(stage.bundle.rootfs().join("etc/masked"), "masked\n");
        let mounts = stage.bundle.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        let mount =
            json!({"destination": "/dev", "type": "bind", "source": dev.display().to_string(), "options": ["rbind"]});
        stage.bundle.push("/mounts", mount);
        stage.bundle.set("/linux/maskedPaths", json!(["/etc/masked"]));
        let run = stage.run();
        let shown = run.out.contains(pattern.trim()) || run.out.contains("root:") || run.out.contains("not null");
        if shown && is_known("cve_2025_31133_masked_path_dev_null_swap") {
            continue;
        }
        assert!(!shown && !run.out.contains("masked\n"), "{kind} to {target:?} for /dev/null is shown: {run:?}");
    }
    // The control: unmasked, the file is seen.
    stage.bundle.set("/linux/maskedPaths", json!([]));
    if !is_known("cve_2025_31133_masked_path_dev_null_swap") {
        assert!(stage.run().out.contains("masked\n"));
    }
    stage.finish();
}

#[test]
fn cve_2025_52565_console_bind() {
    let script = "echo shown; grep -E 'core_pattern|sysrq|passwd' /proc/self/mountinfo; cat /etc/hostname; echo end";
    let Some((mut stage, _)) = stage(script) else { return };
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let dev = stage.cell.island().dir("dev");
    let pts = stage.cell.island().dir("pts");
    symlink("/etc/hostname", dev.join("console")).unwrap();
    fs::create_dir(dev.join("pts")).unwrap();
    for number in 0..8 {
        symlink("/proc/sys/kernel/core_pattern", pts.join(number.to_string())).unwrap();
    }
    let mounts = stage.bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    for (destination, source) in [("/dev", &dev), ("/dev/pts", &pts)] {
        let source = source.display().to_string();
        stage.bundle.push(
            "/mounts",
            json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind"]}),
        );
    }
    stage.bundle.set("/process/terminal", json!(true)).write();
    let mut terminal = Terminal::spawn(&stage.command(&["run", ID]));
    let status = terminal.wait(Duration::from_secs(20));
    let shown = terminal.shown();
    if !is_known("cve_2025_52565_console_bind") {
        assert!(!shown.contains("core_pattern") && !shown.contains("/etc/hostname"), "{shown}");
        // Where it was let run, the link's target is still the image's file.
        assert!(!status.success() || shown.contains("test\r\nend"), "{status}: {shown}");
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    stage.finish();
}

#[test]
fn cve_2025_52881_procfs_write_redirect() {
    let Some((mut stage, _)) = stage("cat /volume/ip_forward /volume/target") else { return };
    let volume = stage.cell.island().dir("volume");
    let read = || fs::read_to_string(volume.join("target")).unwrap();
    fs::write(volume.join("target"), "untouched\n").unwrap();
    for name in ["ip_forward", "exec", "current", "oom_score_adj"] {
        symlink("target", volume.join(name)).unwrap();
    }
    symlink("/proc/sys/net", stage.bundle.rootfs().join("net")).unwrap();
    stage.bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"})).set("/process/oomScoreAdj", json!(100));
    let plain = stage.bundle.config.clone();
    let source = volume.display().to_string();
    for destination in
        ["/proc/sys/net/ipv4", "/net/ipv4", "/proc/self/attr", "/proc/self", "/proc/thread-self/attr", "/proc"]
    {
        let mount =
            json!({"destination": destination, "type": "bind", "source": source.as_str(), "options": ["rbind"]});
        stage.bundle.push("/mounts", mount);
        let run = stage.run();
        assert_eq!(read(), "untouched\n", "a write went through {destination}: {run:?}");
        if !is_known("cve_2025_52881_procfs_write_redirect") {
            assert_refused(&run);
        }
        stage.bundle.config = plain.clone();
    }
    // The control: a write through the volume's link does change the target, and the setting itself works.
    stage
        .bundle
        .push("/mounts", json!({"destination": "/volume", "type": "bind", "source": source, "options": ["rbind"]}));
    let script = "echo changed >/volume/ip_forward; cat /proc/sys/net/ipv4/ip_forward";
    stage.bundle.set("/process/args", json!(["/bin/sh", "-c", script]));
    assert_eq!(stage.run().ok(), "1");
    assert_eq!(read(), "changed\n");
    stage.finish();
}

#[test]
fn a_hook_or_socket_path_of_the_image_is_not_taken_for_the_machines() {
    let Some((mut stage, _)) = stage("true") else { return };
    // A program that only the image has is none of the runtime's hooks.
    let hook = stage.bundle.rootfs().join("bin/only-here");
    fs::write(&hook, "#!/bin/sh\ntouch /hooked\n").unwrap();
    stage.bundle.set("/hooks/createRuntime", json!([{"path": "/bin/only-here"}]));
    assert_refused(&stage.run());
    let clean = wait_for(Duration::from_secs(5), || (!stage.bundle.rootfs().join("hooked").exists()).then_some(()));
    assert!(clean.is_some());
    stage.finish();
}
