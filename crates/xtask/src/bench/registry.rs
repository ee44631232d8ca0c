//! `cargo xtask bench registry`: our registry beside Debian's docker-registry, on the same disk, in turns.
//!
//! Many small blobs: some connections ask for one after another, as clients that pull many small layers do. One large
//! blob: sent and fetched whole. Both servers get the same bytes from the same client, which does as little as it can: answers
//! to equal requests have equal lengths, so only the first head is read. Memory is the server's peak, after everything.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::measure::Spread;
use crate::shell::{self, Run, step};
use crate::workspace;

const SMALL_BYTES: usize = 2048;
const SMALL_BLOBS: usize = 500;
const CONNECTIONS: usize = 8;
const PIECE: usize = 1 << 20;
const REPOSITORY: &str = "bench/blobs";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A smaller blob and fewer rounds: shows that everything runs, the numbers are rough
    #[arg(long)]
    quick: bool,
}

/// How much is done.
struct Effort {
    rounds: u32,
    requests: usize,
    large_bytes: u64,
}

/// A server and what was measured of it.
struct Peer {
    title: &'static str,
    address: String,
    process: Child,
    requests: Vec<f64>,
    sent: Vec<f64>,
    fetched: Vec<f64>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs the bench and prints its tables.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let effort = if arguments.quick {
        Effort { rounds: 2, requests: 500, large_bytes: 256 << 20 }
    } else {
        Effort { rounds: 5, requests: 2500, large_bytes: 2 << 30 }
    };
    let program = shell::find_program("docker-registry");
    let theirs = program.context("no docker-registry in PATH; install it with: apt-get install docker-registry")?;
    let built = step("build in release", || workspace::build(&["--release", "-p", "registry", "--example", "serve"]))?;
    let ours =
        built.into_iter().find(|path| path.ends_with("serve")).context("the build made no program named serve")?;
    let folder = workspace::target_dir()?.join(format!("bench/registry-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let outcome = measure(&folder, &ours, &theirs, &effort);
    super::clear(&folder);
    let report = outcome?;
    print!("{report}");
    let file = workspace::target_dir()?.join("bench/registry.md");
    fs::write(&file, report).with_context(|| format!("cannot write {}", file.display()))?;
    println!("written to {}", file.display());
    Ok(())
}

fn measure(folder: &Path, ours: &Path, theirs: &Path, effort: &Effort) -> Result<String> {
    let large = folder.join("large");
    write_large(&large, effort.large_bytes)?;
    let name = digest_of(&large)?;
    let small = write_small(folder)?;
    let mut peers = [start_ours(folder, ours)?, start_theirs(folder, theirs)?];
    for peer in &mut peers {
        for (content, name) in &small {
            put(&peer.address, name, content.len() as u64, &mut content.as_slice())?;
        }
    }
    for round in 0..=effort.rounds {
        for peer in &mut peers {
            ensure!(!shell::interrupted(), "interrupted");
            let rate = many_small(&peer.address, &small, effort.requests)?;
            // The first round warms caches.
            if round > 0 {
                peer.requests.push(rate);
            }
        }
    }
    for round in 0..effort.rounds.min(3) {
        for peer in &mut peers {
            let mut file = File::open(&large).context("cannot open the large blob")?;
            let begin = Instant::now();
            put(&peer.address, &name, effort.large_bytes, &mut file)?;
            peer.sent.push(begin.elapsed().as_secs_f64());
            let begin = Instant::now();
            fetch(&peer.address, &name, effort.large_bytes)?;
            peer.fetched.push(begin.elapsed().as_secs_f64());
            ensure!(!shell::interrupted(), "interrupted in round {round}");
        }
    }
    table(&peers, effort)
}

fn table(peers: &[Peer; 2], effort: &Effort) -> Result<String> {
    let megabytes = effort.large_bytes >> 20;
    let mut text = format!(
        "## Registry: {SMALL_BYTES}-byte blobs over {CONNECTIONS} connections, and one of {megabytes} MB\n\n\
         | | requests a second | docker-registry = 1 | send s | fetch s | fetch speed, docker-registry = 1 | peak MB |\n\
         |---|---|---|---|---|---|---|\n"
    );
    let spread = |numbers: &[f64]| Spread::of(numbers.iter().copied());
    let base = (spread(&peers[1].requests).median, spread(&peers[1].fetched).median);
    for peer in peers {
        let (requests, sent, fetched) = (spread(&peer.requests), spread(&peer.sent), spread(&peer.fetched));
        let (rate, speed) = (requests.median / base.0, base.1 / fetched.median);
        let peak = peak_mb(peer.process.id())?;
        let _ =
            writeln!(text, "| {} | {requests} | {rate:.2} | {sent} | {fetched} | {speed:.2} | {peak:.0} |", peer.title);
    }
    Ok(text)
}

/// The most memory that a process ever had, with the file pages that it mapped.
fn peak_mb(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 =
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|text| text.parse().ok()).context("no VmHWM")?;
    Ok(kib * 1024.0 / 1e6)
}

fn write_large(path: &Path, size: u64) -> Result<()> {
    let mut piece = vec![0_u8; PIECE];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for eight in piece.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        eight.copy_from_slice(&state.to_le_bytes());
    }
    let mut file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    for number in 0..size / PIECE as u64 {
        piece[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&piece).context("cannot write the large blob")?;
    }
    Ok(())
}

/// Small blobs with their digests.
fn write_small(folder: &Path) -> Result<Vec<(Vec<u8>, String)>> {
    let folder = folder.join("small");
    fs::create_dir_all(&folder).context("cannot create the folder of small blobs")?;
    let mut paths = Vec::new();
    for number in 0..SMALL_BLOBS {
        let path = folder.join(format!("{number:05}"));
        fs::write(&path, format!("{number:0SMALL_BYTES$}")).context("cannot write a small blob")?;
        paths.push(path);
    }
    let listed = Run::new("sha256sum").args(&paths).output()?;
    let digests = listed.lines().filter_map(|line| line.split(' ').next());
    let both = paths.iter().zip(digests).map(|(path, digest)| Ok((fs::read(path)?, format!("sha256:{digest}"))));
    both.collect::<std::io::Result<Vec<_>>>().context("cannot read a small blob")
}

fn digest_of(path: &Path) -> Result<String> {
    let listed = Run::new("sha256sum").args([path]).output()?;
    let digest = listed.split(' ').next().context("sha256sum printed nothing")?;
    Ok(format!("sha256:{digest}"))
}

fn start_ours(folder: &Path, program: &Path) -> Result<Peer> {
    let address = free_address()?;
    let mut command = Command::new(program);
    command.arg("--root").arg(folder.join("ours")).args(["--listen", &address]);
    start("insula", address, command, &folder.join("ours.log"))
}

fn start_theirs(folder: &Path, program: &Path) -> Result<Peer> {
    let address = free_address()?;
    let config = folder.join("theirs.yml");
    let text = format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
         cache:\n    blobdescriptor: inmemory\nhttp:\n  addr: {address}\n",
        folder.join("theirs").display()
    );
    fs::write(&config, text).context("cannot write docker-registry's configuration")?;
    let mut command = Command::new(program);
    command.arg("serve").arg(config);
    start("docker-registry", address, command, &folder.join("theirs.log"))
}

fn start(title: &'static str, address: String, mut command: Command, log: &Path) -> Result<Peer> {
    let log = File::create(log).context("cannot create a log")?;
    let errors = log.try_clone().context("cannot share a log")?;
    let process = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
    let process = process.with_context(|| format!("cannot start {title}"))?;
    let peer = Peer { title, address, process, requests: Vec::new(), sent: Vec::new(), fetched: Vec::new() };
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(&peer.address).is_err() {
        ensure!(Instant::now() < deadline, "{title} does not answer at {}", peer.address);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(peer)
}

fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot find a free port")?;
    Ok(listener.local_addr().context("cannot find a free port")?.to_string())
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true).context("cannot set up a connection")?;
    Ok(stream)
}

/// Reads an answer's head; gives the head and how much of the body came with it.
fn head(stream: &mut TcpStream) -> Result<(String, usize)> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut piece).context("cannot read an answer")?;
        ensure!(count > 0, "the connection was closed before the answer's head");
        bytes.extend_from_slice(&piece[..count]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok((String::from_utf8_lossy(&bytes[..end + 4]).into_owned(), bytes.len() - end - 4));
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, v)| v)
}

fn put(address: &str, name: &str, size: u64, content: &mut impl Read) -> Result<()> {
    let mut stream = connect(address)?;
    let host = format!("Host: {address}\r\n");
    write!(stream, "POST /v2/{REPOSITORY}/blobs/uploads/ HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n")
        .context("cannot ask")?;
    let (text, _) = head(&mut stream)?;
    let location = header(&text, "location").with_context(|| format!("no upload was begun: {text}"))?;
    let path = location.split_once("://").map_or(location, |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
    let mark = if path.contains('?') { '&' } else { '?' };
    let kind = "Content-Type: application/octet-stream\r\nConnection: close\r\n";
    write!(stream, "PUT {path}{mark}digest={name} HTTP/1.1\r\n{host}{kind}Content-Length: {size}\r\n\r\n")
        .context("cannot ask")?;
    let mut piece = vec![0; PIECE];
    loop {
        let count = content.read(&mut piece).context("cannot read a blob")?;
        if count == 0 {
            break;
        }
        stream.write_all(&piece[..count]).context("cannot send a blob")?;
    }
    let (text, _) = head(&mut stream)?;
    ensure!(text.starts_with("HTTP/1.1 201"), "a blob was refused: {text}");
    Ok(())
}

fn fetch(address: &str, name: &str, size: u64) -> Result<()> {
    let mut stream = connect(address)?;
    write!(stream, "GET /v2/{REPOSITORY}/blobs/{name} HTTP/1.1\r\nHost: {address}\r\n\r\n").context("cannot ask")?;
    let (text, came) = head(&mut stream)?;
    ensure!(text.starts_with("HTTP/1.1 200"), "a blob is not there: {text}");
    let (mut left, mut piece) = (size - came as u64, vec![0; PIECE]);
    while left > 0 {
        let count = stream.read(&mut piece).context("cannot fetch a blob")?;
        ensure!(count > 0, "{left} bytes are missing");
        left -= count as u64;
    }
    Ok(())
}

/// Requests a second over several connections, `each` on every one.
fn many_small(address: &str, small: &[(Vec<u8>, String)], each: usize) -> Result<f64> {
    let begin = Instant::now();
    let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..CONNECTIONS).map(|number| scope.spawn(move || ask_many(address, small, number, each))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a client panicked"))).collect()
    });
    outcomes.into_iter().collect::<Result<()>>()?;
    Ok((CONNECTIONS * each) as f64 / begin.elapsed().as_secs_f64())
}

fn ask_many(address: &str, small: &[(Vec<u8>, String)], number: usize, each: usize) -> Result<()> {
    let requests: Vec<String> = small
        .iter()
        .map(|(_, name)| format!("GET /v2/{REPOSITORY}/blobs/{name} HTTP/1.1\r\nHost: {address}\r\n\r\n"))
        .collect();
    let mut stream = connect(address)?;
    let mut answer = vec![0; 0];
    for at in 0..each {
        // Each connection goes through the blobs in an order of its own.
        let request = &requests[(at * 7 + number * 61) % requests.len()];
        stream.write_all(request.as_bytes()).context("cannot ask")?;
        if answer.is_empty() {
            let (text, came) = head(&mut stream)?;
            answer = vec![0; SMALL_BYTES - came.min(SMALL_BYTES)];
            stream.read_exact(&mut answer).context("cannot read an answer")?;
            answer = vec![0; text.len() + SMALL_BYTES];
            continue;
        }
        stream.read_exact(&mut answer).context("cannot read an answer")?;
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "a blob is not there");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_whatever_their_case() {
        let text = "HTTP/1.1 202 Accepted\r\nLocation: /x\r\n\r\n";
        assert_eq!(header(text, "location"), Some("/x"));
        assert_eq!(header(text, "range"), None);
    }
}
