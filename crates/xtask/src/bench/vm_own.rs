//! What a machine costs by itself: until its program answers, in memory beyond its guest's, and to come back from a snapshot.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::measure::{Groups, Spread};
use crate::shell::Run;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// What is a guest's, or the software CPU's translations: counted apart.
const GUEST: &str = "memfd:guest-memory";
const TRANSLATIONS: &str = "memfd:softcpu-code";

/// A machine's process.
struct Program {
    dir: PathBuf,
    pid: u32,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _gone = Run::new("kill").args(["-9", &self.pid.to_string()]).check();
    }
}

impl Program {
    /// Runs until the program answers: what it says is then a process that nobody waits for.
    fn start(bin: &Path, dir: &Path, origin: &[&str]) -> Result<Self> {
        for old in ["api.sock", "lock", "console.log"] {
            // The first time there is none.
            let _absent = fs::remove_file(dir.join(old));
        }
        let place = |name: &str| dir.join(name).into_os_string();
        Run::new(bin.join("insula-vmm"))
            .args(["--leave".into(), "--api-sock".into(), place("api.sock"), "--lock".into(), place("lock")])
            .args(["--inside".into(), place("inside"), "--console-log".into(), place("console.log")])
            .args(origin)
            .check()?;
        let pid = fs::read_to_string(dir.join("lock")).context("cannot read the machine's lock")?;
        Ok(Self { dir: dir.to_owned(), pid: pid.trim().parse().context("the machine's lock has no number")? })
    }

    fn put(&self, path: &str, body: &str) -> Result<()> {
        let mut stream = UnixStream::connect(self.dir.join("api.sock")).context("cannot connect to the machine")?;
        write!(stream, "PUT {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 204"), "{path}: {answer}");
        Ok(())
    }

    /// Processor time of all its threads, in milliseconds.
    fn cpu_ms(&self) -> Result<f64> {
        let mut sum = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid)).context("the machine is gone")? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            sum += text.split(' ').next().unwrap_or_default().parse::<f64>()? / 1e6;
        }
        Ok(sum)
    }

    /// Resident KiB of mappings whose names the filter takes.
    fn resident_kib(&self, wanted: impl Fn(&str) -> bool) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps", self.pid)).context("the machine is gone")?;
        let (mut sum, mut counts) = (0, false);
        for line in text.lines() {
            if let Some(size) = line.strip_prefix("Rss:") {
                let kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap_or(0);
                sum += if counts { kib } else { 0 };
            } else if line.split(' ').next().is_some_and(|word| word.contains('-')) {
                counts = wanted(line);
            }
        }
        Ok(sum)
    }
}

/// A kernel of two instructions: it waits for ever.
fn still(path: &Path) -> Result<()> {
    const CODE: &[u8] = &[0xf4, 0xeb, 0xfd];
    let mut file = vec![0_u8; 120];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    for (at, value) in [(18, 62), (32, 64), (54, 56), (56, 1), (64, 1), (72, 120)] {
        put(at, &[value]);
    }
    for at in [24, 80, 88] {
        put(at, &0x10_0000_u64.to_le_bytes());
    }
    put(96, &[3]);
    put(104, &[3]);
    file.extend(CODE);
    fs::write(path, file).with_context(|| format!("cannot write {}", path.display()))
}

/// Measures all of it; the kernel is the one of the other measurements.
pub(super) fn measure(bin: &Path, groups: &Groups, dir: &Path, kernel: &Path, rounds: u32) -> Result<String> {
    let dir = dir.join("own");
    fs::create_dir_all(&dir)?;
    let mut text = String::from("## A machine's own cost\n\n| | goal | measured |\n|---|---|---|\n");
    let quiet = dir.join("still");
    still(&quiet)?;
    let spec = |kernel: &Path, backend: &str| {
        format!("{{\"kernel\": {kernel:?}, \"backend\": \"{backend}\", \"cmdline\": \"console=ttyS0 quiet panic=0\"}}")
    };
    let file = dir.join("machine.json");
    let origin = ["--machine", file.to_str().context("the folder's name is no text")?];
    fs::write(&file, spec(&quiet, "kvm"))?;
    let mut starts = Vec::new();
    for _ in 0..rounds.max(5) {
        let mut program = None;
        let sample = groups.measure("insula", || {
            program = Some(Program::start(bin, &dir, &origin)?);
            Ok(())
        })?;
        starts.push(sample.cpu_ms);
    }
    let _ = writeln!(text, "| start to the API, confined, CPU ms | 8 | {} |", Spread::of(starts));
    for backend in ["kvm", "soft"] {
        fs::write(&file, spec(&quiet, backend))?;
        let program = Program::start(bin, &dir, &origin)?;
        if let Err(error) = program.put("/boot", "") {
            let _ = writeln!(text, "| resident beyond the guest's memory, {backend} | 5 MiB | {error:#} |");
            continue;
        }
        std::thread::sleep(Duration::from_millis(200));
        let own = program.resident_kib(|line| !line.contains(GUEST) && !line.contains(TRANSLATIONS))?;
        let translations = program.resident_kib(|line| line.contains(TRANSLATIONS))?;
        let goal = if backend == "kvm" { "5 MiB" } else { "" };
        let _ = writeln!(
            text,
            "| resident beyond the guest's memory, {backend} | {goal} | {:.1} MiB, translations {:.1} MiB |",
            own as f64 / 1024.0,
            translations as f64 / 1024.0
        );
    }
    snapshots(bin, &dir, &spec(kernel, "soft"), &origin, rounds, &mut text)?;
    Ok(text)
}

fn snapshots(bin: &Path, dir: &Path, spec: &str, origin: &[&str; 2], rounds: u32, text: &mut String) -> Result<()> {
    fs::write(dir.join("machine.json"), spec)?;
    // Without a first process the kernel stops, and its memory is that of a booted one.
    let program = Program::start(bin, dir, origin)?;
    program.put("/boot", "")?;
    let since = Instant::now();
    while !fs::read_to_string(dir.join("console.log"))?.contains("Kernel panic") {
        if since.elapsed() > PATIENCE {
            bail!("the guest did not boot");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for (name, packing) in [("plain", "none"), ("packed", "zstd")] {
        program.put("/snapshot", &format!("{{\"path\": \"/{name}\", \"packing\": \"{packing}\"}}"))?;
    }
    drop(program);
    for name in ["plain", "packed"] {
        fs::rename(dir.join("inside").join(name), dir.join(name))?;
    }
    for (name, check, goal) in [
        ("plain", "none", "5"),
        ("plain", "touch", ""),
        ("plain", "all", ""),
        ("packed", "touch", ""),
        ("packed", "all", ""),
    ] {
        let folder = dir.join(name);
        let shown = folder.to_str().context("the folder's name is no text")?;
        let mut loads = Vec::new();
        for _ in 0..rounds.max(5) {
            let program = Program::start(bin, dir, &["--restore", shown])?;
            let before = program.cpu_ms()?;
            program.put("/restore", &format!("{{\"path\": {shown:?}, \"check\": \"{check}\"}}"))?;
            loads.push(program.cpu_ms()? - before);
        }
        let _ = writeln!(
            text,
            "| load of a 256 MiB guest, {name}, check {check}, CPU ms | {goal} | {} |",
            Spread::of(loads)
        );
    }
    Ok(())
}
