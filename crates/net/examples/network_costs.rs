//! What a container's network costs: `cargo run --release -p net --example network_costs`.
//!
//! All happens in a namespace of its own, so that the machine's network stays as it is. Times are wall time in
//! microseconds, the median and the smallest of several turns.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use net::dns::{Names, View};
use net::firewall::{Firewall, NetworkRules, Protocol, Publication, Rules};
use net::netd::{Netd, Request};
use net::{Attachment, BridgeSpec, EndpointSpec, Links, NetnsPool, Rate, Route, Subnet};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const TURNS: u32 = 200;
const PORTS: u16 = 1000;

fn main() -> Outcome<()> {
    let (_namespace, outcome) = sys::netns::in_new(measure)?;
    outcome
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |index: usize| times.get(index).copied().unwrap_or_default().as_secs_f64() * 1e6;
    println!("{what:<52} median {:>8.0} us, least {:>8.0} us", at(times.len() / 2), at(0));
}

fn timed<T, E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    times: &mut Vec<Duration>,
    work: impl FnOnce() -> Result<T, E>,
) -> Outcome<T> {
    let start = Instant::now();
    let outcome = work().map_err(Into::into)?;
    times.push(start.elapsed());
    Ok(outcome)
}

fn address(last: u32, prefix: u8) -> Option<Subnet> {
    Subnet::new(IpAddr::from((0x0a63_0000 + last).to_be_bytes()), prefix)
}

fn measure() -> Outcome<()> {
    let links = Links::open()?;
    links.set_up("lo")?;
    let gateway = address(1, 16).ok_or("address")?;
    links.create_bridge(&BridgeSpec {
        name: "net-bench0".to_owned(),
        addresses: vec![gateway],
        mtu: None,
        mac: None,
        localhost: true,
        owner: None,
    })?;
    connect(&links, gateway)?;
    rules(gateway)?;
    names()
}

/// A ready namespace, a pair, an address and the default route.
fn connect(links: &Links, gateway: Subnet) -> Outcome<()> {
    let pool = NetnsPool::new(16)?;
    let mut plain = Vec::new();
    let mut kept: Vec<OwnedFd> = Vec::new();
    for turn in 0..TURNS {
        let _ = pool.wait_full(Duration::from_secs(10));
        let spec = EndpointSpec {
            attachment: Attachment::Bridge {
                bridge: "net-bench0".to_owned(),
                near: format!("nb{turn}"),
                isolated: false,
                hairpin: false,
            },
            name: "eth0".to_owned(),
            mac: None,
            addresses: address(turn + 2, 16).into_iter().collect(),
            routes: vec![Route::default_via(gateway.address())],
            mtu: None,
            rate: Rate::default(),
            switches: Vec::new(),
        };
        let namespace = timed(&mut plain, || -> net::Result<OwnedFd> {
            let namespace = pool.take()?;
            links.connect(namespace.as_fd(), &spec)?;
            Ok(namespace)
        })?;
        kept.push(namespace);
    }
    report("ready namespace, pair, address, route", plain);
    let start = Instant::now();
    drop(kept);
    println!(
        "{:<52} {:>15.0} us each",
        "giving up a namespace",
        start.elapsed().as_secs_f64() * 1e6 / f64::from(TURNS)
    );
    Ok(())
}

/// One port more and one less beside a thousand, and all of them anew.
fn rules(gateway: Subnet) -> Outcome<()> {
    let mut firewall = Firewall::open()?;
    let mut rules = Rules::default();
    let network = NetworkRules { subnets: vec![gateway.network()], masquerade: true, ..NetworkRules::default() };
    rules.networks.insert("net-bench0".to_owned(), network);
    let publication = |port: u16| Publication {
        host: None,
        protocol: Protocol::Tcp,
        port,
        to: address(2, 16).map_or(IpAddr::from([10, 0, 0, 2]), Subnet::address),
        to_port: port,
    };
    rules.published.extend((10_000..10_000 + PORTS).map(publication));
    let (mut whole, mut one, mut checked) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..20 {
        timed(&mut whole, || firewall.rebuild(&rules))?;
        rules.published.insert(publication(20_000 + turn));
        timed(&mut one, || firewall.apply(&rules))?;
        rules.published.remove(&publication(20_000 + turn));
        timed(&mut one, || firewall.apply(&rules))?;
        timed(&mut checked, || firewall.is_intact())?;
    }
    report("table with 1,000 published ports, as a whole", whole);
    report("one port more or less beside 1,000", one);
    report("looking whether it is as it was", checked);
    firewall.remove()?;
    Ok(())
}

/// A question for a name, over UDP, through the helper.
fn names() -> Outcome<()> {
    let folder = std::env::temp_dir().join(format!("insula-net-bench-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let path = folder.join("netd.sock");
    let listener = UnixListener::bind(&path)?;
    let own = path.clone();
    let server = std::thread::spawn(move || net::netd::serve(listener, &own));
    let netd = Netd::connect(&path)?;
    let (mut attached, mut asked) = (Vec::new(), Vec::new());
    let mut kept = Vec::new();
    for container in 0..100 {
        let namespace = net::create_netns()?;
        let view = View { networks: vec!["n".to_owned()], own: BTreeMap::new(), upstreams: Vec::new() };
        let request = Request::All(vec![
            Request::SetNames {
                network: "n".to_owned(),
                container: container.to_string(),
                names: Names { names: vec![format!("c{container}")], addresses: vec![[10, 99, 0, 2].into()] },
            },
            Request::Attach { container: container.to_string(), view },
        ]);
        timed(&mut attached, || netd.call(&request, &[namespace.as_fd()]))?;
        kept.push(namespace);
    }
    report("names and resolver of a container", attached);
    let first = kept.first().ok_or("no namespace")?.try_clone()?;
    let client = std::thread::spawn(move || -> Outcome<UdpSocket> {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(first.as_fd(), kind)?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect("127.0.0.11:53")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(socket)
    });
    let client = client.join().map_err(|_| "client")??;
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03c42\x00\x00\x01\x00\x01";
    let mut answer = [0; 512];
    let start = Instant::now();
    for _ in 0..5000 {
        timed(&mut asked, || client.send(question).and_then(|_| client.recv(&mut answer)))?;
    }
    println!("{:<52} {:>15.0} a second", "questions one after the other", 5000.0 / start.elapsed().as_secs_f64());
    report("a question for a container's name", asked);
    netd.call(&Request::Stop, &[])?;
    drop(netd);
    let _ = UnixStream::connect(&path);
    server.join().map_err(|_| "helper")??;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
