//! A guest writes to its disk, and the machine's process is killed at some point: what was acknowledged is there, and the file
//! system is whole.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{initrd, kernel};

/// Rounds for each format; more of them with `INSULA_POWER_CUTS`.
const ROUNDS: u64 = 2;
const PATIENCE: Duration = Duration::from_secs(200);

/// Files of several sizes, each acknowledged with its sum when it is on the disk; others that come and go without a word.
const INIT: &str = "#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc p /proc; $B mount -t devtmpfs d /dev; $B mkdir -p /m
$B mount -t ext4 /dev/vda /m || $B poweroff -f
round=$($B sed 's/.*round=\\([0-9]*\\).*/\\1/' /proc/cmdline)
n=0
while true; do
  n=$((n + 1)); f=r$round.$n
  $B mkdir -p /m/d$((n % 5)); $B dd if=/dev/urandom of=/m/d$((n % 5))/x$n bs=1k count=$((n % 50)) 2>/dev/null
  $B dd if=/dev/urandom of=/m/new bs=3k count=$((n % 40 + 1)) conv=fsync 2>/dev/null
  $B mv /m/new /m/$f; $B sync
  set -- $($B md5sum /m/$f); echo ack $f $1 end
  [ $((n % 4)) = 0 ] && $B rm -rf /m/d$((n % 3))
done
";

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn request(socket: &Path, path: &str, body: &str) {
    let since = Instant::now();
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) => assert!(since.elapsed() < PATIENCE, "{}: {error}", socket.display()),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = [0; 512];
    let count = stream.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]);
    assert!(answer.starts_with("HTTP/1.1 2"), "{path}: {answer}");
}

/// Starts the machine, kills its process a while after it has acknowledged `least` files, and gives what it acknowledged.
fn run_and_cut(folder: &Path, spec: &Value, least: usize, wait: Duration) -> Vec<(String, String)> {
    let log = folder.join("console.log");
    let _none = std::fs::remove_file(&log);
    let socket = folder.join("api.sock");
    let child = Command::new(env!("CARGO_BIN_EXE_insula-vmm"))
        .arg("--api-sock")
        .arg(&socket)
        .arg("--console-log")
        .arg(&log)
        // One process, whose end is the machine's.
        .arg("--no-jail")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let child = Killed(child);
    request(&socket, "/machine", &spec.to_string());
    request(&socket, "/boot", "");
    let acknowledged = || {
        let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
        let words = text.lines().filter_map(|line| {
            let mut words = line.split_whitespace().skip_while(|word| *word != "ack").skip(1);
            let (name, sum) = (words.next()?, words.next()?);
            (words.next() == Some("end")).then(|| (name.to_owned(), sum.to_owned()))
        });
        (words.collect::<Vec<_>>(), text)
    };
    let since = Instant::now();
    loop {
        let (done, text) = acknowledged();
        if done.len() >= least {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "the guest wrote too little:\n{text}");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(wait);
    drop(child);
    acknowledged().0
}

fn tool(program: &str, arguments: &[&str], file: &Path) -> (Option<i32>, String) {
    let output = Command::new(program).args(arguments).arg(file).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// The disk's content as a raw file.
fn raw(disk: &Path, format: &str) -> PathBuf {
    let copy = disk.with_extension("copy");
    if format == "raw" {
        std::fs::copy(disk, &copy).unwrap();
    } else {
        let (code, said) = tool("qemu-img", &["check", "-q", "-f", format], disk);
        // 3 is clusters that nobody uses: space, not damage.
        assert!(matches!(code, Some(0 | 3)), "{said}");
        let copied =
            Command::new("qemu-img").args(["convert", "-f", format, "-O", "raw"]).arg(disk).arg(&copy).status();
        assert!(copied.unwrap().success());
    }
    copy
}

fn check(disk: &Path, format: &str, acknowledged: &[(String, String)]) {
    let copy = raw(disk, format);
    let (code, said) = tool("e2fsck", &["-E", "journal_only", "-y"], &copy);
    assert!(matches!(code, Some(0 | 1)), "{said}");
    let (code, said) = tool("e2fsck", &["-f", "-n"], &copy);
    assert_eq!(code, Some(0), "{said}");
    let out = copy.with_extension("file");
    for (name, sum) in acknowledged {
        let dump = format!("dump /{name} {}", out.display());
        let (_, said) = tool("debugfs", &["-R", &dump], &copy);
        let (_, found) = tool("md5sum", &[], &out);
        assert!(found.starts_with(sum.as_str()), "{name} is not what was acknowledged: {found} {said}");
        std::fs::remove_file(&out).unwrap();
    }
}

#[test]
fn what_is_acknowledged_survives_a_power_cut() {
    let folder = tempfile::tempdir().unwrap();
    let Some(kernel) = kernel() else { return };
    let Some(initrd) = initrd(folder.path(), INIT.as_bytes()) else { return };
    let there =
        |program| Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there("mke2fs") || !there("debugfs") {
        println!("skipped: no mke2fs and debugfs (package e2fsprogs)");
        return;
    }
    let rounds = std::env::var("INSULA_POWER_CUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for format in ["raw", "qcow2"] {
        if format == "qcow2" && !there("qemu-img") {
            println!("skipped qcow2: no qemu-img (package qemu-utils)");
            continue;
        }
        let (plain, disk) = (folder.path().join("plain"), folder.path().join(format!("disk.{format}")));
        let (code, said) = tool("mke2fs", &["-q", "-t", "ext4", "-F", "-E", "lazy_itable_init=0"], {
            std::fs::File::create(&plain).unwrap().set_len(48 << 20).unwrap();
            &plain
        });
        assert_eq!(code, Some(0), "{said}");
        if format == "raw" {
            std::fs::rename(&plain, &disk).unwrap();
        } else {
            let made =
                Command::new("qemu-img").args(["convert", "-f", "raw", "-O", format]).arg(&plain).arg(&disk).status();
            assert!(made.unwrap().success());
        }
        let mut all = Vec::new();
        for round in 0..rounds {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (least, wait) = ((seed >> 33) as usize % 12 + 1, Duration::from_millis((seed >> 45) % 60));
            let spec = json!({
                "kernel": kernel, "initrd": initrd, "backend": "soft", "memory": 128 << 20,
                "cmdline": format!("console=ttyS0 quiet panic=-1 round={round}"),
                "disks": [{ "path": disk, "format": format }],
            });
            // Each round goes on with the disk as the one before left it; the guest's own replay is tried, too.
            let acknowledged = run_and_cut(folder.path(), &spec, least, wait);
            assert!(acknowledged.len() >= least);
            all.extend(acknowledged);
            check(&disk, format, &all);
        }
        println!("{format}: {} files in {rounds} rounds", all.len());
    }
}
