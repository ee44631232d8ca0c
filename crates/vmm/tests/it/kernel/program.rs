//! The program `insula-vmm` from outside: its API, its jail, and what it says to what is wrong.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::Folder;

struct Program {
    child: Child,
    socket: PathBuf,
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that still answers ends in order, and its lock is free then.
        let asked = UnixStream::connect(&self.socket).and_then(|mut stream| {
            stream.write_all(b"PUT /kill HTTP/1.1\r\n\r\n")?;
            stream.read_to_end(&mut Vec::new())
        });
        if asked.is_err() {
            // It may have ended; the process in the jail ends with it.
            let _ended = self.child.kill();
        }
        let _ended = self.child.wait();
    }
}

fn begin(folder: &Path, words: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_insula-vmm"))
        .arg("--api-sock")
        .arg(folder.join("api.sock"))
        .arg("--lock")
        .arg(folder.join("lock"))
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

impl Program {
    fn start(folder: &Path, spec: &Value) -> Self {
        let file = folder.join("machine.json");
        std::fs::write(&file, spec.to_string()).unwrap();
        let inside = folder.join("inside");
        let words = ["--machine", file.to_str().unwrap(), "--inside", inside.to_str().unwrap()];
        let mut program = Self { child: begin(folder, &words), socket: folder.join("api.sock") };
        // It is there a moment before somebody listens on it.
        while UnixStream::connect(&program.socket).is_err() {
            assert_eq!(program.child.try_wait().unwrap(), None, "it has ended");
            std::thread::yield_now();
        }
        program
    }

    fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.raw(&format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }
}

/// Runs it to its end, which has to be a failure, and gives what it said.
fn refusal(folder: &Path, text: &str) -> String {
    let file = folder.join("machine.json");
    std::fs::write(&file, text).unwrap();
    let ran = begin(folder, &["--machine", file.to_str().unwrap()]).wait_with_output().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{text}: {said}");
    assert_eq!(said.lines().count(), 1, "{text}: {said}");
    said
}

/// The head of an image of 1 MiB with clusters of 64 KiB, whose tables were lost.
fn cut_image() -> Vec<u8> {
    let mut image = vec![0; 70_000];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    for (at, word) in [(4, 3_u32), (20, 16), (36, 1), (56, 1), (96, 4), (100, 104)] {
        put(at, &word.to_be_bytes());
    }
    for (at, double) in [(24, 1_u64 << 20), (40, 3 << 16), (48, 1 << 16)] {
        put(at, &double.to_be_bytes());
    }
    image
}

#[test]
fn impossible_machines_are_explained_and_leave_nothing() {
    let folder = Folder::new();
    let path = |name: &str| folder.path(name);
    let kernel = folder.kernel(super::ECHO);
    let file = |name: &str, bytes: &[u8]| std::fs::write(path(name), bytes).unwrap();
    file("odd", &[0; 1000]);
    file("disk", &[0; 4096]);
    file("bad.qcow2", b"QFI\xfbrubbish");
    let locked = std::fs::File::open(path("disk")).unwrap();
    let spec = |more: Value| {
        let mut spec = json!({ "kernel": kernel, "memory": 32 << 20, "backend": "soft" });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let disk = |name: &str, more: Value| {
        let mut disk = json!({ "path": path(name) });
        disk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        disk
    };
    let none = json!({});
    let share = json!({ "path": folder.0.path(), "tag": "t" });
    file("cut.qcow2", &cut_image());
    let cases = [
        (json!({ "kernel": path("absent") }), "reading the kernel"),
        (json!({ "initrd": path("absent") }), "reading the initrd"),
        (json!({ "memory": 1 << 20 }), "from 16 MiB"),
        (json!({ "memory": 8_u64 << 40 }), "bytes of memory"),
        (json!({ "memory": 512_u64 << 30 }), "the host has"),
        (json!({ "cpus": 0 }), "give 1 to 64"),
        (json!({ "backend": "kvm", "soft_tier": "interp" }), "the software CPU's"),
        (json!({ "cpus": 65 }), "give 1 to 64"),
        (json!({ "colour": "red" }), "unknown field"),
        (json!({ "vsock": { "cid": 2, "path": path("v") } }), "from 3 to"),
        (json!({ "disks": [disk("absent", none.clone())] }), "absent: No such file"),
        (json!({ "disks": [disk("odd", none.clone())] }), "1000 bytes"),
        (json!({ "disks": [disk("bad.qcow2", json!({ "format": "qcow2" }))] }), "qcow2"),
        (json!({ "disks": [disk("disk", none.clone()), disk("disk", json!({ "read_only": true }))] }), "twice"),
        (json!({ "nets": [{ "tap": "no-such-tap" }] }), "ip tuntap add no-such-tap"),
        (json!({ "nets": [{ "mac": "01:02" }] }), "hardware address"),
        (json!({ "shares": [{ "path": path("absent"), "tag": "t" }] }), "No such file"),
        (json!({ "shares": [share, share] }), "give each its own"),
        (json!({ "disks": [disk("cut.qcow2", json!({ "format": "qcow2" }))] }), "was cut off"),
        (json!({ "nets": [{ "tap": "lo" }] }), "lo is no tap"),
        (json!({ "pmems": [{ "path": path("absent") }] }), "absent: No such file"),
        (json!({ "pmems": [{ "path": path("odd") }] }), "multiple of 2 MiB"),
    ];
    for (change, wanted) in cases {
        let said = refusal(folder.0.path(), &spec(change).to_string());
        assert!(said.contains(wanted), "{said}, not {wanted}");
        assert!(!path("api.sock").exists() && !path("inside").exists());
    }
    assert!(refusal(folder.0.path(), "{").contains("specification"));
    assert!(refusal(folder.0.path(), "[]").contains("specification"));
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let said = refusal(folder.0.path(), &spec(json!({ "disks": [disk("disk", none)] })).to_string());
    assert!(said.contains("another"), "{said}");
}

/// A machine that can't boot, and what is wrong with its kernel or its initrd.
#[test]
fn kernels_that_do_not_boot_are_explained() {
    let folder = Folder::new();
    let whole = std::fs::read(folder.kernel(super::ECHO)).unwrap();
    let mut other = whole.clone();
    other[18] = 183;
    std::fs::File::create(folder.path("large")).unwrap().set_len(40 << 20).unwrap();
    let cases: [(&[u8], Value, &str); 4] = [
        (b"no kernel at all", json!(null), "no kernel"),
        (&whole[..100], json!(null), "damaged"),
        (&other, json!(null), "another processor"),
        (&whole, json!(folder.path("large")), "initrd"),
    ];
    for (bytes, initrd, wanted) in cases {
        std::fs::write(folder.path("bad"), bytes).unwrap();
        let spec = json!({ "kernel": folder.path("bad"), "initrd": initrd, "memory": 32 << 20, "backend": "soft" });
        let program = Program::start(folder.0.path(), &spec);
        let (status, said) = program.ask("PUT", "/boot", "");
        assert!(status == 400 && said.contains(wanted), "{status} {said}, not {wanted}");
        assert!(program.ask("GET", "/", "").1.contains("\"phase\":\"configured\""));
        drop(program);
        std::fs::remove_file(folder.path("api.sock")).unwrap();
    }
}

#[test]
fn requests_at_the_wrong_time_or_in_the_wrong_form_are_refused() {
    let folder = Folder::new();
    let kernel = folder.kernel(super::ECHO);
    let spec = json!({ "kernel": kernel, "memory": 32 << 20, "backend": "soft" });
    let mut program = Program::start(folder.0.path(), &spec);
    let snapshot = json!({ "path": "/snapshot" }).to_string();
    let check = |cases: &[(&str, &str, &str, u16)]| {
        for (method, path, body, wanted) in cases {
            let (status, said) = program.ask(method, path, body);
            assert_eq!(status, *wanted, "{method} {path} {body}: {said}");
        }
    };
    check(&[
        ("PUT", "/pause", "", 409),
        ("PUT", "/resume", "", 409),
        ("PUT", "/stop", "", 409),
        ("PUT", "/snapshot", &snapshot, 409),
        ("GET", "/metrics", "", 409),
        ("PUT", "/restore", "{\"path\": \"/absent\"}", 400),
        ("PUT", "/restore", "{\"path\": \"absent\"}", 400),
        ("PUT", "/machine", "{", 400),
        ("PUT", "/nowhere", "", 404),
        ("DELETE", "/boot", "", 405),
        ("PUT", "/boot", "", 204),
        ("PUT", "/boot", "", 409),
        ("PUT", "/machine", &spec.to_string(), 409),
        ("PUT", "/restore", "{\"path\": \"/absent\"}", 409),
        ("PUT", "/balloon", "{\"size\": 1}", 400),
        ("PUT", "/balloon", "{\"size\": 1099511627776}", 400),
        ("PUT", "/snapshot", "{\"path\": 1}", 400),
        // The process's own folder is nothing that a client could mean, and asking for it would be its end.
        ("PUT", "/snapshot", "{\"path\": \"relative\"}", 400),
        ("PUT", "/snapshot", "{\"path\": \"\"}", 400),
        ("PUT", "/snapshot", "{\"path\": \"/..\"}", 400),
        ("PUT", "/snapshot", "{\"path\": \"/etc/s\"}", 400),
        // It runs, and rests only while it is written, to the process's own folder.
        ("PUT", "/snapshot", &snapshot, 204),
        ("PUT", "/snapshot", &snapshot, 400),
    ]);
    assert!(folder.path("inside/snapshot/state").exists());
    let (status, _) = program.raw("PUT /machine HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n");
    assert_eq!(status, 413);
    let (status, said) = program.raw("PUT /boot HTTP/1.1\r\nFiles: [\"a\"]\r\n\r\n");
    assert!(status == 400 && said.contains("0 descriptors"), "{said}");
    let told: Value = serde_json::from_str(&program.ask("GET", "/", "").1).unwrap();
    assert_eq!(told["phase"], "running");
    if rustix::process::geteuid().is_root() {
        assert_eq!((&told["jail"]["seccomp"], &told["jail"]["missing"]), (&json!(true), &json!([])));
        assert!(told["jail"]["uid"].as_u64().unwrap() > 0x7100_0000, "{told}");
    }
    assert_eq!(program.ask("PUT", "/kill", "").0, 204);
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
}

/// Keeps this thread, and all that it starts, on one processor; others there want it as well.
fn crowd(end: &std::sync::Arc<std::sync::atomic::AtomicBool>) -> Vec<std::thread::JoinHandle<()>> {
    use std::sync::atomic::Ordering::Relaxed;
    let may = rustix::thread::sched_getaffinity(None).unwrap();
    let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|&cpu| may.is_set(cpu)).unwrap();
    let mut one = rustix::thread::CpuSet::new();
    one.set(first);
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    let busy = |_| {
        let end = std::sync::Arc::clone(end);
        std::thread::spawn(move || {
            while !end.load(Relaxed) {
                std::hint::spin_loop();
            }
        })
    };
    (0..3).map(busy).collect()
}

#[test]
fn whoever_ends_a_machine_is_answered_before_its_process_is_gone() {
    let folder = Folder::new();
    let kernel = folder.kernel(super::ECHO);
    let spec = json!({ "kernel": kernel, "memory": 16 << 20, "backend": "soft" });
    let end = std::sync::Arc::default();
    let busy = crowd(&end);
    for turn in 0..24 {
        let mut program = Program::start(folder.0.path(), &spec);
        // One that was never booted has no processors to wait for: its end comes the sooner.
        if turn % 2 == 0 {
            assert_eq!(program.ask("PUT", "/boot", "").0, 204);
        }
        // Several at once: each is answered, or finds nobody any more, but none gets half an answer.
        let asked: Vec<_> = (0..3).map(|_| UnixStream::connect(&program.socket).unwrap()).collect();
        for mut stream in &asked {
            stream.write_all(b"PUT /kill HTTP/1.1\r\n\r\n").unwrap();
        }
        let answers = asked.into_iter().map(|mut stream| {
            let mut answer = String::new();
            let _reset = stream.read_to_string(&mut answer);
            answer
        });
        let answers: Vec<String> = answers.collect();
        assert!(answers[0].starts_with("HTTP/1.1 204 ") && answers[0].ends_with("\r\n\r\n"), "{turn}: {answers:?}");
        assert!(answers.iter().all(|answer| answer.is_empty() || *answer == answers[0]), "{turn}: {answers:?}");
        assert_eq!(program.child.wait().unwrap().code(), Some(0), "{turn}");
        std::fs::remove_file(&program.socket).unwrap();
    }
    end.store(true, std::sync::atomic::Ordering::Relaxed);
    busy.into_iter().for_each(|thread| thread.join().unwrap());
}
