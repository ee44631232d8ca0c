//! Hosts made of namespaces: one that runs the code under test, others around it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use net::{Attachment, BridgeSpec, EndpointSpec, Links, Rate, Route, Subnet, create_netns};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long something may take that happens; and how long it is waited for what must not.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(400);

/// A namespace; gone when it is dropped and nothing runs in it any more.
pub(crate) struct Host(pub(crate) OwnedFd);

impl Host {
    pub(crate) fn new() -> Self {
        Self(create_netns().unwrap())
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Works on a thread inside; sockets made there stay of this host.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// The output of a program that runs inside; nothing when it fails or is not there.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Option<String> {
        // nsenter would take the file system along; the namespace alone is wanted.
        let own = format!("--net=/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd());
        let output = Command::new("nsenter").arg(own).arg(program).args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            println!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        output.status.success().then_some(text)
    }

    pub(crate) fn links(&self) -> Links {
        Links::open_in(self.fd()).unwrap()
    }

    /// A server that answers every TCP connection with `answer` and the caller's address, until the host is dropped
    /// and the test is over.
    pub(crate) fn serve_tcp(&self, address: &str, answer: &'static str) {
        let listener = self.inside(|| TcpListener::bind(address)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                let peer = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
                let _ = write!(stream, "{answer} {peer}");
            }
        });
    }

    /// The same for UDP; ends when it hears `end`.
    pub(crate) fn serve_udp(&self, address: &str, answer: &'static str) -> JoinHandle<()> {
        let socket = self.inside(|| UdpSocket::bind(address)).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(answer.as_bytes(), peer);
                if &buffer[..length] == b"end" {
                    break;
                }
            }
        })
    }

    /// What a server at `to` says; nothing when it can't be reached at once.
    pub(crate) fn ask_tcp(&self, to: &str) -> Option<String> {
        self.ask_tcp_within(to, SHORT)
    }

    /// The same with as much patience as the expected outcome deserves: a busy machine may be late to find a neighbour.
    pub(crate) fn ask_tcp_expecting(&self, to: &str, expected: Option<&str>) -> Option<String> {
        match expected {
            Some(_) => testkit::wait_for(PATIENCE, || self.ask_tcp_within(to, PATIENCE)),
            None => self.ask_tcp_within(to, SHORT),
        }
    }

    fn ask_tcp_within(&self, to: &str, patience: Duration) -> Option<String> {
        let to: SocketAddr = to.parse().unwrap();
        self.inside(|| {
            let mut stream = TcpStream::connect_timeout(&to, patience).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        })
    }

    pub(crate) fn udp(&self) -> UdpSocket {
        let socket = self.inside(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        socket.set_read_timeout(Some(SHORT)).unwrap();
        socket
    }
}

pub(crate) fn ask_udp(socket: &UdpSocket, to: &str) -> Option<String> {
    socket.send_to(b"?", to).ok()?;
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

pub(crate) fn subnet(text: &str) -> Subnet {
    text.parse().unwrap()
}

pub(crate) fn bridge(name: &str, addresses: &[&str]) -> BridgeSpec {
    BridgeSpec {
        name: name.to_owned(),
        addresses: addresses.iter().map(|address| subnet(address)).collect(),
        mtu: None,
        mac: None,
        localhost: true,
        owner: None,
    }
}

/// A container's link `eth0` on `bridge`, with the host's addresses as default routes.
pub(crate) fn endpoint(bridge: &str, near: &str, addresses: &[&str], gateways: &[&str]) -> EndpointSpec {
    EndpointSpec {
        attachment: Attachment::Bridge {
            bridge: bridge.to_owned(),
            near: near.to_owned(),
            isolated: false,
            hairpin: true,
        },
        name: "eth0".to_owned(),
        mac: None,
        addresses: addresses.iter().map(|address| subnet(address)).collect(),
        routes: gateways.iter().map(|gateway| Route::default_via(gateway.parse::<IpAddr>().unwrap())).collect(),
        mtu: None,
        rate: Rate::default(),
        switches: Vec::new(),
    }
}
