//! Everything that can be asked wrongly: a clear error that says what to do, an exit code, and nothing left.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::subject::{IMAGE, Kind, Subject, image_tar, skip_unless_insula};

#[test]
fn wrong_requests_are_explained() {
    let Some(subject) = Subject::start() else { return };
    subject.insula(&["create", "--name", "taken", IMAGE, "true"]).expect(0);
    let missing = format!("type=bind,source={}/missing,target=/x", subject.island.root().display());
    let cases: &[(&[&str], i32, &str)] = &[
        (&["run", "web:2", "true"], 125, "no image \"web:2\" here; make one with: insula image bootstrap"),
        (&["run", "UPPER/Case:x", "true"], 125, "reference"),
        (&["run", "a b", "true"], 125, "reference"),
        (&["run", "-m", "lots", IMAGE, "true"], 125, "bad value \"lots\" for --memory"),
        (&["run", "--cpus", "-1", IMAGE, "true"], 125, "--cpus"),
        (&["run", "--cpus", "10000", IMAGE, "true"], 125, "CPUs"),
        (&["run", "--nonsense", IMAGE, "true"], 125, "unknown flag --nonsense"),
        (&["run", "-m", "1m", IMAGE, "true"], 125, "6"),
        (&["run", "--name", "taken", IMAGE, "true"], 125, "taken"),
        (&["run", "--name", "!", IMAGE, "true"], 125, "name"),
        (&["run", "--mount", &missing, IMAGE, "true"], 125, "missing"),
        (&["run", "--user", "nobody-here", "--network", "none", IMAGE, "true"], 125, "nobody-here"),
        (&["run", "--cap-add", "FLY", IMAGE, "true"], 125, "FLY"),
        (&["run", "--network", "nowhere", IMAGE, "true"], 125, "nowhere"),
        (&["run", "--pid", "container:nobody", IMAGE, "true"], 125, "nobody"),
        (&["run", "--device", "/dev/not-there", "--network", "none", IMAGE, "true"], 125, "/dev/not-there"),
        (&["run", "--cpuset-cpus", "4000", "--network", "none", IMAGE, "true"], 125, "4000"),
        (&["run", "--security-opt", "seccomp=/not/there.json", IMAGE, "true"], 125, "/not/there.json"),
        (&["start", "nobody"], 1, "nobody"),
        (&["stop", "nobody"], 1, "nobody"),
        (&["logs", "nobody"], 1, "nobody"),
        (&["exec", "taken", "true"], 1, "not running"),
        (&["attach", "taken"], 1, "does not run"),
        (&["kill", "-s", "NOSIG", "taken"], 1, "NOSIG"),
        (&["inspect", "nobody"], 1, "nobody"),
        (&["rmi", "nothing:here"], 1, "nothing"),
        (&["tag", IMAGE, "BAD NAME"], 1, "reference"),
        (&["import", "/not/there.tar"], 1, "/not/there.tar"),
        (&["inspect", "-f", "{{.Nope}}", "taken"], 1, "Nope"),
    ];
    let mut wrong = Vec::new();
    for (words, code, part) in cases {
        let run = subject.insula(words);
        // The reference's daemon says some things in words of its own.
        let said = run.err.contains(part) || subject.kind == Kind::Dockerd;
        if run.code != *code || !run.err.starts_with("insula: ") || !said {
            wrong.push(format!("{words:?} should end with {code} and say {part:?}: {run:?}"));
        }
        let listed = subject.insula(&["ps", "-a", "--format", "{{.Names}}"]).expect(0);
        for name in listed.out.split_whitespace().filter(|name| *name != "taken") {
            // A container that could not be started stays, as Docker's does, unless it was to be removed.
            subject.insula(&["rm", "-f", name]).expect(0);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    subject.insula(&["rm", "taken"]).expect(0);
    subject.assert_empty();
    subject.finish();
}

/// A tar file with one entry of any kind, the header written by hand.
fn tar(name: &str, kind: u8, link: &str, size: u64, body: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    put(329, b"0000001\0");
    put(337, b"0000003\0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut file = header.to_vec();
    file.extend_from_slice(body);
    file.resize(file.len().next_multiple_of(512), 0);
    file
}

#[test]
fn hostile_tars_reach_nothing() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::bare() else { return };
    let end = [0_u8; 1024];
    let outside = subject.island.path("outside");
    let escape = format!("../../../../../..{}", outside.display());
    let refused_or_harmless: Vec<(&str, Vec<u8>)> = vec![
        ("parent", [tar(&escape, b'0', "", 4, b"evil"), end.to_vec()].concat()),
        ("absolute", [tar(outside.to_str().unwrap(), b'0', "", 4, b"evil"), end.to_vec()].concat()),
        (
            "through a link",
            [
                tar("link", b'2', subject.island.root().to_str().unwrap(), 0, b""),
                tar("link/outside", b'0', "", 4, b"evil"),
                end.to_vec(),
            ]
            .concat(),
        ),
        ("hard link out", [tar("passwd", b'1', "../../../../../../etc/passwd", 0, b""), end.to_vec()].concat()),
    ];
    for (what, bytes) in refused_or_harmless {
        let run = subject.insula_with(&["import", "-", "evil:1"], &bytes);
        assert!(!outside.exists(), "{what} has written outside: {run:?}");
        if run.code == 0 {
            subject.insula(&["rmi", "evil:1"]).expect(0);
        } else {
            assert!(run.err.starts_with("insula: "), "{what}: {run:?}");
        }
    }
    let good = fs::read(image_tar()).unwrap();
    let refused: Vec<(&str, Vec<u8>)> = vec![
        ("truncated", good[..good.len() / 2].to_vec()),
        ("nothing", b"x".to_vec()),
        ("noise", (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()),
        ("size beyond the end", [tar("big", b'0', "", 1 << 32, b"short"), end.to_vec()].concat()),
        ("cut gzip", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3]),
    ];
    for (what, bytes) in refused {
        let run = subject.insula_with(&["import", "-", "bad:1"], &bytes);
        assert_eq!(run.code, 1, "{what}: {run:?}");
        assert!(run.err.starts_with("insula: "), "{what}: {run:?}");
    }
    assert_eq!(subject.insula(&["images", "-q"]).expect(0).out, "");
    let size = folder_size(&subject.island.path("state"));
    assert!(size < 4 << 20, "{size} bytes are left in the state folder");
    subject.finish();
}

fn folder_size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => folder_size(&entry.path()),
            _ => entry.metadata().map_or(0, |metadata| std::os::unix::fs::MetadataExt::blocks(&metadata) * 512),
        })
        .sum()
}

#[test]
fn a_full_disk_is_reported_and_given_back() {
    if skip_unless_insula() {
        return;
    }
    let Some(mut subject) = Subject::bare() else { return };
    subject.end_daemon(Signal::TERM);
    let state = subject.island.path("state");
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(&state).status().unwrap();
    assert!(mount.success());
    subject.start_daemon();
    let before = folder_size(&state);
    let run = subject.insula(&["import", image_tar().to_str().unwrap(), "big:1"]).expect(1);
    assert!(run.err.to_lowercase().contains("space"), "{}", run.err);
    assert_eq!(subject.insula(&["images", "-q"]).expect(0).out, "");
    let after = folder_size(&state);
    assert!(after <= before + (512 << 10), "{before} bytes before, {after} after");
    subject.end_daemon(Signal::TERM);
    let unmounted = Command::new("umount").arg(&state).status().unwrap();
    assert!(unmounted.success());
    subject.start_daemon();
    subject.finish();
}

#[test]
fn a_corrupted_layer_is_noticed() {
    if skip_unless_insula() {
        return;
    }
    let Some(mut subject) = Subject::start() else { return };
    subject.end_daemon(Signal::TERM);
    let mut files = Vec::new();
    gather(&subject.island.path("state"), &mut files);
    let layer = files.iter().max_by_key(|path| fs::metadata(path).map_or(0, |metadata| metadata.len())).unwrap();
    fs::write(layer, b"not a layer").unwrap();
    subject.start_daemon();
    let run = subject.once(&[], &["true"]).expect(125);
    assert!(run.err.starts_with("insula: ") && !run.err.contains("panicked"), "{}", run.err);
    subject.assert_empty();
    subject.insula(&["rmi", "-f", IMAGE]).expect(0);
    subject.insula(&["import", image_tar().to_str().unwrap(), IMAGE]).expect(0);
    subject.once(&[], &["true"]).expect(0);
    subject.finish();
}

#[test]
fn a_corrupted_state_is_named() {
    if skip_unless_insula() {
        return;
    }
    let Some(mut subject) = Subject::start() else { return };
    subject.insula(&["create", "--name", "kept", IMAGE, "true"]).expect(0);
    subject.end_daemon(Signal::TERM);
    let mut files = Vec::new();
    gather(&subject.island.path("state"), &mut files);
    // Every small file in turn: the daemon starts without what was in it, or says which file it is, and never panics.
    for file in files.iter().filter(|path| fs::metadata(path).is_ok_and(|metadata| metadata.len() < 1 << 20)) {
        let good = fs::read(file).unwrap();
        fs::write(file, b"\xff\x00garbage{").unwrap();
        let mut command = subject.daemon_command();
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let settled = testkit::wait_for(crate::subject::SOON, || {
            let up = std::os::unix::net::UnixStream::connect(subject.socket()).is_ok();
            (up || child.try_wait().unwrap().is_some()).then_some(())
        });
        assert!(settled.is_some(), "{}: neither up nor ended", file.display());
        // One that has ended by itself cannot be stopped.
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "{}: {said}", file.display());
        fs::write(file, good).unwrap();
    }
    subject.start_daemon();
    subject.finish();
}

fn gather(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => gather(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}
