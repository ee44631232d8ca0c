//! Networks: how fast bytes and connections go through published ports and over a bridge, and what many ports cost.
//!
//! The container is the server. iperf3 counts bytes; connections are made one after another by as many threads as the
//! machine has processors, each to be closed by the server at once.

use std::fmt::Write as _;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::ground::{Engine, Ground, Kind};
use super::measure::{self, Groups, Spread};
use super::names;
use crate::shell::{find_program, step};

/// Where iperf3 and the server of connections listen in the container, and at the host.
const BYTES: u16 = 5201;
const CONNECTIONS: u16 = 5202;
/// As many ports are published at once.
const PORTS: u16 = 500;
/// As long as an engine that nobody asks takes to give back what it needed for the moment.
const REST: Duration = Duration::from_secs(25);
const FIRST_PORT: u16 = 20_000;

#[derive(clap::Args)]
pub(crate) struct Peer {
    /// Where to listen, or whom to ask
    address: SocketAddr,
    /// For how long to ask; listens where none is given
    #[arg(long)]
    seconds: Option<f64>,
}

/// The bench's own program for connections: a server, or a client that prints how many it made in a second.
pub(crate) fn connections(peer: &Peer) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let Some(seconds) = peer.seconds else {
        let listener = TcpListener::bind(peer.address).context("cannot listen")?;
        return std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| listener.incoming().for_each(drop));
            }
            Ok(())
        });
    };
    let (made, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while Instant::now() < end {
                    let ended = TcpStream::connect(peer.address).and_then(|mut stream| stream.read(&mut [0]));
                    let count = if ended.is_ok() { &made } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let failed = failed.into_inner();
    ensure!(failed == 0, "{failed} connections failed");
    println!("{}", made.into_inner() as f64 / seconds);
    Ok(())
}

/// How often and how long.
pub(super) struct Effort {
    pub(super) rounds: u32,
    pub(super) seconds: u32,
}

/// From where the server is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Outside,
    Localhost,
    Neighbour,
}

const WAYS: [(From, &str); 3] = [
    (From::Outside, "published port, from outside"),
    (From::Localhost, "published port, from 127.0.0.1"),
    (From::Neighbour, "container to container on a bridge"),
];

/// An engine with a server and, to ask it, a neighbour.
struct Served<'g> {
    engine: &'g Engine,
    address: String,
    neighbour: String,
}

/// Runs the bench; the report.
pub(super) fn measure(bin: &Path, groups: &Groups, effort: &Effort) -> Result<String> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let iperf = find_program("iperf3").context("iperf3 is missing: apt-get install iperf3")?;
    let kinds = [Kind::Docker, Kind::DockerWithoutProxy, Kind::Insula];
    let ground =
        step("prepare the engines", || Ground::create(bin, groups, &kinds, &[own.as_path(), iperf.as_path()]))?;
    let own = own.to_str().context("a path that is no text")?;
    let served = step("start a server in each", || {
        ground.engines.iter().map(|engine| serve(engine, groups, own)).collect::<Result<Vec<_>>>()
    })?;
    let bytes = step("bytes", || {
        table("Throughput", "Gbit/s", &ground, &served, effort, &|served, from| {
            gigabits(&ground, served, from, effort.seconds)
        })
    })?;
    let rates = step("connections", || {
        table("Connections", "a second", &ground, &served, effort, &|served, from| {
            rate(&ground, served, from, effort.seconds, own)
        })
    })?;
    let names = step("names", || names::measure(&ground, groups, effort, own))?;
    let many = step("500 ports", || many(&ground, groups))?;
    Ok([bytes, rates, names, many].join("\n"))
}

fn serve<'g>(engine: &'g Engine, groups: &Groups, own: &str) -> Result<Served<'g>> {
    groups.enter(engine.kind.name())?;
    engine.client(&["network", "create", "street"]).quiet().check()?;
    let published = [BYTES, CONNECTIONS].map(|port| format!("{port}:{port}"));
    let script = format!("iperf3 -s -p {BYTES} >/dev/null & exec {own} bench connections 0.0.0.0:{CONNECTIONS}");
    let options = ["--network", "street", "-p", &published[0], "-p", &published[1]];
    let id = engine.start(&options, &["sh", "-c", &script])?;
    let template = "{{(index .NetworkSettings.Networks \"street\").IPAddress}}";
    let address = engine.client(&["inspect", "-f", template, &id]).output()?.trim().to_owned();
    let neighbour = engine.start(&["--network", "street"], &["sleep", "100000"])?;
    let served = Served { engine, address, neighbour };
    // both servers need a moment
    let deadline = Instant::now() + Duration::from_secs(20);
    while engine
        .netns
        .run(own)
        .args(["bench", "connections", "--seconds", "0.01"])
        .arg(format!("{}:{CONNECTIONS}", served.address))
        .quiet()
        .status()?
        .code()
        != Some(0)
    {
        ensure!(Instant::now() < deadline, "the server of {} does not answer", engine.kind.title());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(served)
}

impl Served<'_> {
    /// A program that asks from there, and the host it has to ask.
    fn ask(&self, ground: &Ground, from: From, words: &[&str]) -> (crate::shell::Run, String) {
        match from {
            From::Outside => (ground.outside.run(words[0]).args(&words[1..]), self.engine.address.clone()),
            From::Localhost => (self.engine.netns.run(words[0]).args(&words[1..]), "127.0.0.1".to_owned()),
            From::Neighbour => (self.engine.client(&["exec", &self.neighbour]).args(words), self.address.clone()),
        }
    }
}

fn gigabits(ground: &Ground, served: &Served<'_>, from: From, seconds: u32) -> Result<f64> {
    let (run, host) = served.ask(ground, from, &["iperf3"]);
    let (port, seconds) = (BYTES.to_string(), seconds.to_string());
    let text = run.args(["-J", "-p", &port, "-t", &seconds, "-c", &host]).output()?;
    let report: serde_json::Value = serde_json::from_str(&text).context("cannot read what iperf3 printed")?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.context("iperf3 counted nothing")? / 1e9)
}

fn rate(ground: &Ground, served: &Served<'_>, from: From, seconds: u32, own: &str) -> Result<f64> {
    let (run, host) = served.ask(ground, from, &[own, "bench", "connections"]);
    let text = run.args(["--seconds", &seconds.to_string()]).arg(format!("{host}:{CONNECTIONS}")).output()?;
    text.trim().parse().context("the count of connections is no number")
}

/// Asks all in turns, in each way.
fn table(
    title: &str,
    unit: &str,
    ground: &Ground,
    served: &[Served<'_>],
    effort: &Effort,
    ask: &dyn Fn(&Served<'_>, From) -> Result<f64>,
) -> Result<String> {
    let mut text = format!(
        "## {title}, {} rounds of {} s\n\n| | {unit}: median (min - max) | dockerd = 1 | dockerd, no userland-proxy = 1 |\n\
         |---|---|---|---|\n",
        effort.rounds, effort.seconds
    );
    let (docker, plain) = (ground.position(Kind::Docker)?, ground.position(Kind::DockerWithoutProxy)?);
    for (from, way) in WAYS {
        let mut found: Vec<Vec<f64>> = served.iter().map(|_| Vec::new()).collect();
        for round in 0..effort.rounds {
            // who comes first changes from round to round
            for step in 0..served.len() {
                let at = (step + round as usize) % served.len();
                found[at].push(ask(&served[at], from)?);
            }
        }
        let spreads: Vec<Spread> = found.into_iter().map(Spread::of).collect();
        for (one, spread) in served.iter().zip(&spreads) {
            let (docker, plain) = (spread.median / spreads[docker].median, spread.median / spreads[plain].median);
            let _ = writeln!(text, "| {way}: {} | {spread} | {docker:.2} | {plain:.2} |", one.engine.kind.title());
        }
    }
    Ok(text)
}

/// What the daemons and helpers of an engine cost with many ports beyond what they cost without.
fn many(ground: &Ground, groups: &Groups) -> Result<String> {
    let last = FIRST_PORT + PORTS - 1;
    let range = format!("{FIRST_PORT}-{last}:{FIRST_PORT}-{last}");
    let mut text = format!(
        "## {PORTS} published ports in a range, beside the same container without\n\n\
         | | start s | processes more | memory of daemon and helpers more, MB PSS | kernel's sockets more |\n|---|---|---|---|---|\n"
    );
    for engine in &ground.engines {
        groups.enter(engine.kind.name())?;
        // the first start, and the first port, may make room for all that follow
        let warm = engine.start(&["-p", &format!("{FIRST_PORT}:{FIRST_PORT}")], &["sleep", "100000"])?;
        engine.remove(&[warm])?;
        let plain = engine.start(&[], &["sleep", "100000"])?;
        std::thread::sleep(REST);
        let before = state(engine)?;
        let begun = Instant::now();
        let id = engine.start(&["-p", &range], &["sleep", "100000"])?;
        let seconds = begun.elapsed().as_secs_f64();
        std::thread::sleep(REST);
        let after = state(engine)?;
        engine.remove(&[id, plain])?;
        let _ = writeln!(
            text,
            "| {} | {seconds:.2} | {} | {:.2} | {} |",
            engine.kind.title(),
            after.proxies - before.proxies,
            after.mb - before.mb,
            after.sockets - before.sockets
        );
    }
    Ok(text)
}

struct State {
    proxies: i64,
    mb: f64,
    sockets: i64,
}

fn state(engine: &Engine) -> Result<State> {
    let proxies = measure::processes_named("docker-proxy");
    let mut all = engine.daemons()?;
    if engine.kind == Kind::Docker {
        all.extend(&proxies);
    }
    let (mean, _) = measure::memory(&all).context("an engine has no process")?;
    let sockets = engine.netns.run("cat").args(["/proc/net/sockstat", "/proc/net/sockstat6"]).output()?;
    let count = |line: &str| line.split_whitespace().nth(2).and_then(|number| number.parse::<i64>().ok());
    let tcp = sockets.lines().filter(|line| line.starts_with("TCP")).filter_map(count).sum();
    Ok(State { proxies: i64::try_from(proxies.len())?, mb: mean * all.len() as f64, sockets: tcp })
}
