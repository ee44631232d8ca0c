//! Names: how many questions a second the resolver of each engine answers a container, by itself and by asking another.
//!
//! The program asks as many questions at once as it has threads, each after the answer to the one before. In the container
//! that stands for a server outside it is the server.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::ground::{Engine, Ground, Kind};
use super::measure::{Groups, Spread};
use super::network::Effort;

const PORT: u16 = 53;
const THREADS: usize = 8;
/// A server that is as silent for so long has lost the question.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(crate) struct Peer {
    /// Where to listen, or whom to ask
    address: SocketAddr,
    /// What to ask for
    #[arg(long, default_value = "name")]
    name: String,
    /// For how long to ask; listens where none is given
    #[arg(long)]
    seconds: Option<f64>,
    /// Asks with a connection for each question
    #[arg(long)]
    tcp: bool,
}

/// The bench's own program for names: a server that knows all of them, or a client that prints how many questions were
/// answered in a second.
pub(crate) fn run(peer: &Peer) -> Result<()> {
    let Some(seconds) = peer.seconds else { return serve(peer.address) };
    let (answered, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let question = question(&peer.name)?;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while Instant::now() < end {
                    let outcome =
                        if peer.tcp { ask_tcp(peer.address, &question) } else { ask(peer.address, &question) };
                    let count = if outcome.is_ok() { &answered } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let failed = failed.into_inner();
    ensure!(failed == 0, "{failed} questions were not answered");
    println!("{}", answered.into_inner() as f64 / seconds);
    Ok(())
}

/// RFC 1035, section 4.1: the addresses of a name.
fn question(name: &str) -> Result<Vec<u8>> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).context("a label is too long")?);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok(bytes)
}

fn check(answer: &[u8]) -> Result<()> {
    let good = answer.len() > 12 && answer[..2] == [0x12, 0x34] && answer[3] & 0x0f == 0 && answer[7] > 0;
    if good { Ok(()) } else { bail!("no answer with an address") }
}

fn ask(server: SocketAddr, question: &[u8]) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(question)?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    check(&buffer[..length])
}

fn ask_tcp(server: SocketAddr, question: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&framed(question)?)?;
    check(&read_framed(&mut stream)?)
}

fn framed(message: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = u16::try_from(message.len())?.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    Ok(bytes)
}

fn read_framed(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Knows one address for every name.
fn serve(address: SocketAddr) -> Result<()> {
    let (udp, tcp) = (UdpSocket::bind(address)?, TcpListener::bind(address)?);
    let answer = |question: &[u8]| -> Vec<u8> {
        let mut answer = question.to_vec();
        if answer.len() > 12 {
            (answer[2], answer[7]) = (answer[2] | 0x80, 1);
        }
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, 7]);
        answer
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for mut stream in tcp.incoming().flatten() {
                // a client that has gone needs no answer
                let _ = read_framed(&mut stream)
                    .and_then(|question| framed(&answer(&question)))
                    .map(|bytes| stream.write_all(&bytes));
            }
        });
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&answer(&buffer[..length]), from);
        }
    });
    Ok(())
}

/// What is asked for, how, and what the row is called.
const WAYS: [(&str, &[&str], &str); 3] = [
    ("known", &[], "a container's name, UDP"),
    ("known", &["--tcp"], "a container's name, a connection each"),
    ("example.org", &[], "a name outside, UDP"),
];

/// Asks the engines in turns; the report.
pub(super) fn measure(ground: &Ground, groups: &Groups, effort: &Effort, own: &str) -> Result<String> {
    let askers = ground.engines.iter().map(|engine| prepare(engine, groups, own)).collect::<Result<Vec<_>>>()?;
    let mut text = format!(
        "## Names, {} rounds of {} s, {THREADS} questions at once\n\n| | a second: median (min - max) | dockerd = 1 |\n|---|---|---|\n",
        effort.rounds, effort.seconds
    );
    let docker = ground.position(Kind::Docker)?;
    for (name, more, way) in WAYS {
        let mut found: Vec<Vec<f64>> = askers.iter().map(|_| Vec::new()).collect();
        for round in 0..effort.rounds {
            for step in 0..askers.len() {
                let at = (step + round as usize) % askers.len();
                let words = [&[own, "bench", "names", "127.0.0.11:53", "--name", name][..], more].concat();
                let run = ground.engines[at].client(&["exec", &askers[at]]).args(&words);
                let text = run.args(["--seconds", &effort.seconds.to_string()]).output()?;
                found[at].push(text.trim().parse().context("the count of questions is no number")?);
            }
        }
        let spreads: Vec<Spread> = found.into_iter().map(Spread::of).collect();
        for (engine, spread) in ground.engines.iter().zip(&spreads) {
            let ratio = spread.median / spreads[docker].median;
            let _ = writeln!(text, "| {way}: {} | {spread} | {ratio:.2} |", engine.kind.title());
        }
    }
    Ok(text)
}

/// A container that asks; its neighbour is known by a name, and another is its server for names outside.
fn prepare(engine: &Engine, groups: &Groups, own: &str) -> Result<String> {
    groups.enter(engine.kind.name())?;
    let everywhere = format!("0.0.0.0:{PORT}");
    let server = engine.start(&["--network", "street"], &[own, "bench", "names", &everywhere])?;
    let template = "{{(index .NetworkSettings.Networks \"street\").IPAddress}}";
    let address = engine.client(&["inspect", "-f", template, &server]).output()?.trim().to_owned();
    engine.start(&["--network", "street", "--network-alias", "known"], &["sleep", "100000"])?;
    let asker = engine.start(&["--network", "street", "--dns", &address], &["sleep", "100000"])?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let words = ["bench", "names", "127.0.0.11:53", "--name", "example.org", "--seconds", "0.01"];
    while engine.client(&["exec", &asker, own]).args(words).quiet().status()?.code() != Some(0) {
        ensure!(Instant::now() < deadline, "{} does not answer for names", engine.kind.title());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(asker)
}
