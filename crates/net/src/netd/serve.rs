//! The helper's loop and its state.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::crew::Crew;
use super::message::{self, Reply, Request, Status};
use super::ports::Ports;
use super::stream;
use super::upstream::{self, Inside, Next, Pending, Silent};
use crate::conntrack::Conntrack;
use crate::dns::{self, Code, Query, Transport, Upstream, View, Zone};
use crate::firewall::{Firewall, Rules, Watch, redirect_resolver};
use crate::{NetError, Result, netns};

/// Where a resolver listens in the container's namespace: above the ports that the kernel gives out by itself.
const PORT: u16 = 61_053;
/// Questions that may be on their way at once, over UDP.
const PENDING_MAX: usize = 2048;
/// And of one container, once there are many.
const PENDING_EACH: usize = 256;
/// The longest datagram.
const DATAGRAM: usize = 65_535;
/// Connections of TCP at once.
const STREAMS_MAX: usize = 256;
/// And of one container.
const STREAMS_EACH: usize = 64;
/// How long after somebody has touched the packet filter it is looked at: others may be in the middle of it.
const REPAIR_AFTER: Duration = Duration::from_millis(50);
/// How often what ran out is looked for, while something is on its way.
const TICK: Duration = Duration::from_millis(100);
/// An engine that has said nothing for so long says nothing soon.
const QUIET_SECONDS: i64 = 10;

/// What an event belongs to: a kind in the upper bits, a number in the lower.
const KIND_SHIFT: u32 = 56;
const ENGINE: u64 = 0;
const WATCH: u64 = 1;
const UDP: u64 = 2;
const TCP: u64 = 3;
const OWNER: u64 = 4;
const ANSWER: u64 = 5;
const RELAY: u64 = 6;

/// A container's resolver.
#[derive(Debug)]
struct Sandbox {
    container: String,
    view: View,
    namespace: Arc<Inside>,
    udp: Arc<UdpSocket>,
    tcp: Arc<TcpListener>,
    /// The process with which it goes; held so that the loop hears of its end.
    owner: Option<OwnedFd>,
}

#[derive(Debug)]
struct State {
    zone: Zone,
    sandboxes: BTreeMap<u64, Sandbox>,
    numbers: BTreeMap<String, u64>,
    next: u64,
    firewall: Firewall,
    rules: Option<Rules>,
    ports: Ports,
    status: Status,
    stopping: bool,
}

/// What the threads share.
#[derive(Debug)]
pub(super) struct Shared {
    epoll: OwnedFd,
    state: Mutex<State>,
    /// How many connections each container has.
    streams: Mutex<BTreeMap<u64, usize>>,
}

/// What follows from a question.
pub(super) enum Answer {
    /// This is the answer.
    Reply(Vec<u8>),
    /// Servers outside know.
    Ask { query: Query, upstreams: Vec<Upstream>, namespace: Arc<Inside> },
    /// It was no question.
    Ignore,
}

/// Serves the engine at `listener`, which is bound at `path`, and the containers that it tells of, until it says stop.
///
/// # Errors
/// When what the loop needs can't be had.
pub fn serve(listener: UnixListener, path: &Path) -> Result<()> {
    let socket_failed = |call| move |errno| NetError::Socket { source: sys::SysError::new(call, errno) };
    let firewall = Firewall::claim(path)?;
    let watch = Watch::open()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(socket_failed("epoll_create1"))?;
    for (fd, kind) in [(listener.as_fd(), ENGINE), (watch.as_fd(), WATCH)] {
        add(&epoll, fd, token(kind, 0)).map_err(socket_failed("epoll_ctl"))?;
    }
    let state = State {
        zone: Zone::default(),
        sandboxes: BTreeMap::new(),
        numbers: BTreeMap::new(),
        next: 1,
        firewall,
        rules: None,
        ports: Ports::default(),
        status: Status { version: env!("CARGO_PKG_VERSION").to_owned(), ..Status::default() },
        stopping: false,
    };
    let shared = Arc::new(Shared { epoll, state: Mutex::new(state), streams: Mutex::default() });
    let mut turn = Turn {
        shared,
        crew: Arc::default(),
        listener,
        watch,
        pending: BTreeMap::new(),
        silent: Silent::default(),
        next: 1,
        repair_at: None,
        look_at: Instant::now(),
        buffer: vec![0; DATAGRAM].into(),
    };
    loop {
        turn.wait().map_err(socket_failed("epoll_wait"))?;
        if turn.shared.lock().stopping {
            return Ok(());
        }
    }
}

fn token(kind: u64, number: u64) -> u64 {
    kind << KIND_SHIFT | number
}

fn add(epoll: &OwnedFd, fd: BorrowedFd<'_>, token: u64) -> rustix::io::Result<()> {
    epoll::add(epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
}

/// What only the loop has.
struct Turn {
    shared: Arc<Shared>,
    crew: Arc<Crew>,
    listener: UnixListener,
    watch: Watch,
    pending: BTreeMap<u64, Pending>,
    silent: Silent,
    next: u64,
    repair_at: Option<Instant>,
    /// When those that are late are looked for again: all that wait are gone through, which is not for every answer.
    look_at: Instant,
    /// For one datagram, whatever its length.
    buffer: Box<[u8]>,
}

impl Turn {
    fn wait(&mut self) -> rustix::io::Result<()> {
        let busy = !self.pending.is_empty() || self.repair_at.is_some();
        let tick = Timespec { tv_sec: 0, tv_nsec: i64::try_from(TICK.as_nanos()).unwrap_or(0) };
        let mut events = Vec::with_capacity(64);
        let buffer = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.shared.epoll, buffer, busy.then_some(&tick)) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            outcome => outcome?,
        };
        for event in events {
            let data = event.data.u64();
            let number = data & ((1 << KIND_SHIFT) - 1);
            match data >> KIND_SHIFT {
                ENGINE => self.welcome(),
                WATCH => {
                    if self.watch.disturbed(&self.shared.lock().firewall) {
                        // not put off by who goes on and on
                        self.repair_at.get_or_insert_with(|| Instant::now() + REPAIR_AFTER);
                    }
                }
                UDP => self.question(number),
                TCP => self.stream(number),
                OWNER => self.shared.lock().detach(number),
                RELAY => {
                    let relay = self.shared.lock().ports.relay(number);
                    if let Some(relay) = relay {
                        relay.accept(&self.crew);
                    }
                }
                _ => self.answer(number),
            }
        }
        self.expire();
        Ok(())
    }

    fn welcome(&self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        let shared = Arc::clone(&self.shared);
        // Without a thread the engine finds its connection closed, and tries again.
        let _ = std::thread::Builder::new()
            .name("engine".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || shared.obey(&stream));
    }

    fn question(&mut self, number: u64) {
        let Some(socket) = self.shared.lock().sandboxes.get(&number).map(|sandbox| Arc::clone(&sandbox.udp)) else {
            return;
        };
        let Ok((length, client)) = socket.recv_from(&mut self.buffer) else { return };
        let bytes = &self.buffer[..length];
        match self.shared.answer(number, bytes, Transport::Udp) {
            Answer::Ignore => {}
            // A client that is gone needs no answer.
            Answer::Reply(answer) => drop(socket.send_to(&answer, client)),
            // at once, so that the client can go on: silence would cost it its own patience
            Answer::Ask { query, .. } if self.is_full(number) => {
                let _ = socket.send_to(&query.reply(Code::Failure, &[], Transport::Udp, 0), client);
            }
            Answer::Ask { query, mut upstreams, namespace } => {
                self.silent.arrange(&mut upstreams, Instant::now());
                let next = upstream::ask((number, client), (query, bytes.to_vec()), upstreams, None, &namespace);
                self.follow(number, client, next);
            }
        }
    }

    /// Whether there is no room for one more question of a container; one that floods takes it from itself only.
    fn is_full(&self, sandbox: u64) -> bool {
        let own = || self.pending.values().filter(|one| one.sandbox == sandbox).count();
        self.pending.len() >= PENDING_MAX || (self.pending.len() >= PENDING_EACH && own() >= PENDING_EACH)
    }

    fn follow(&mut self, sandbox: u64, client: SocketAddr, next: Next) {
        match next {
            Next::Waiting(pending) => {
                let number = self.next;
                self.next = self.next.wrapping_add(1) & ((1 << KIND_SHIFT) - 1);
                if add(&self.shared.epoll, pending.socket.as_fd(), token(ANSWER, number)).is_ok() {
                    self.pending.insert(number, *pending);
                }
            }
            Next::Done(answer) => {
                let state = self.shared.lock();
                if let Some(sandbox) = state.sandboxes.get(&sandbox) {
                    let _ = sandbox.udp.send_to(&answer, client);
                }
            }
        }
    }

    fn answer(&mut self, number: u64) {
        let Some(pending) = self.pending.get(&number) else { return };
        let Some(outcome) = pending.read(&mut self.buffer) else { return };
        let Some(pending) = self.pending.remove(&number) else { return };
        self.silent.heard(&pending.asked);
        match outcome {
            Ok(answer) => self.follow(pending.sandbox, pending.client, Next::Done(answer)),
            Err(poor) => self.go_on(pending, poor),
        }
    }

    fn go_on(&mut self, pending: Pending, poor: Option<Vec<u8>>) {
        let (number, client) = (pending.sandbox, pending.client);
        let namespace = self.shared.lock().sandboxes.get(&number).map(|sandbox| Arc::clone(&sandbox.namespace));
        if let Some(namespace) = namespace {
            let next = pending.go_on(poor, &namespace);
            self.follow(number, client, next);
        }
    }

    fn stream(&self, number: u64) {
        let listener = self.shared.lock().sandboxes.get(&number).map(|sandbox| Arc::clone(&sandbox.tcp));
        let Some(Ok((stream, _))) = listener.map(|listener| listener.accept()) else { return };
        if !self.shared.begin_stream(number) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let begun = self.crew.begin(move || {
            // A connection that breaks off is the client's affair.
            let _ = stream::converse(&shared, number, stream);
            shared.end_stream(number);
        });
        if begun.is_err() {
            self.shared.end_stream(number);
        }
    }

    /// Servers that did not answer, and a packet filter that was touched.
    fn expire(&mut self) {
        let now = Instant::now();
        let mut late = Vec::new();
        if self.look_at <= now {
            self.look_at = now + TICK;
            late.extend(self.pending.iter().filter(|(_, pending)| pending.deadline <= now).map(|(number, _)| *number));
        }
        for number in late {
            if let Some(pending) = self.pending.remove(&number) {
                self.silent.missed(&pending.asked, now);
                self.go_on(pending, None);
            }
        }
        if self.repair_at.is_some_and(|at| at <= now) {
            self.repair_at = match self.shared.lock().repair() {
                Ok(()) => None,
                // Whoever changes it may not be done yet.
                Err(_) => Some(now + Duration::from_secs(1)),
            };
        }
    }
}

impl Shared {
    /// The state; a panic elsewhere can't have left it half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more connection of a container, if there is room for it.
    fn begin_stream(&self, sandbox: u64) -> bool {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let room = streams.values().sum::<usize>() < STREAMS_MAX
            && streams.get(&sandbox).is_none_or(|own| *own < STREAMS_EACH);
        if room {
            *streams.entry(sandbox).or_default() += 1;
        }
        room
    }

    fn end_stream(&self, sandbox: u64) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = streams.get_mut(&sandbox) {
            *own -= 1;
            if *own == 0 {
                streams.remove(&sandbox);
            }
        }
    }

    /// What follows from the question of container number `sandbox`.
    pub(super) fn answer(&self, sandbox: u64, bytes: &[u8], transport: Transport) -> Answer {
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(code) => {
                return code.and_then(|code| dns::refusal(bytes, code)).map_or(Answer::Ignore, Answer::Reply);
            }
        };
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(sandbox) = state.sandboxes.get(&sandbox) else { return Answer::Ignore };
        if let Some(answer) = state.zone.answer(&sandbox.view, &query, transport) {
            state.status.answered += 1;
            return Answer::Reply(answer);
        }
        if sandbox.view.upstreams.is_empty() {
            return Answer::Reply(query.reply(Code::Failure, &[], transport, 0));
        }
        state.status.forwarded += 1;
        let (upstreams, namespace) = (sandbox.view.upstreams.clone(), Arc::clone(&sandbox.namespace));
        Answer::Ask { query, upstreams, namespace }
    }

    /// Does what the engine says until it hangs up; gives memory back when it has not said anything for a while.
    fn obey(&self, stream: &UnixStream) {
        let mut begun = false;
        loop {
            if begun && is_silent(stream) {
                sys::process::trim_memory();
            }
            let Ok(Some((request, descriptors))) = message::receive::<Request>(stream) else { return };
            begun = true;
            let mut descriptors = descriptors.into_iter();
            let outcome = self.execute(request, &mut descriptors);
            let reply = match outcome {
                Ok(status) => Reply { error: None, status, port: None },
                Err(NetError::Port { port, reason }) => Reply { error: Some(reason), status: None, port: Some(port) },
                Err(error) => Reply { error: Some(chain(&error)), status: None, port: None },
            };
            let sent = message::send(stream, &reply, &[]);
            if self.lock().stopping {
                return self.wake();
            }
            if sent.is_err() {
                return;
            }
        }
    }

    fn execute(&self, request: Request, descriptors: &mut dyn Iterator<Item = OwnedFd>) -> Result<Option<Status>> {
        let mut state = self.lock();
        match request {
            Request::All(requests) => {
                drop(state);
                for request in requests {
                    self.execute(request, descriptors)?;
                }
            }
            Request::SetRules(rules) => state.set_rules(rules)?,
            Request::SetNetworkRules { bridge, rules } => {
                state.change_rules(|all| drop(all.networks.insert(bridge, rules)))?;
            }
            Request::RemoveNetworkRules { bridge } => state.change_rules(|all| drop(all.networks.remove(&bridge)))?,
            Request::Publish(ports) => state.change_rules(|all| all.published.extend(ports.iter()))?,
            Request::Unpublish(ports) => {
                state.change_rules(|all| all.published = all.published.without(&ports))?;
                drop(state);
                Conntrack::open()?.forget(&ports)?;
            }
            Request::Reserve { owner, ports } => {
                let refused = |(port, reason)| NetError::Port { port, reason };
                for (number, relay) in state.ports.reserve(&owner, &ports).map_err(refused)? {
                    let added = add(&self.epoll, relay.listener.as_fd(), token(RELAY, number));
                    added.map_err(|errno| NetError::Refused(format!("cannot listen: {errno}")))?;
                }
            }
            Request::Release { owner } => state.ports.release(&owner),
            Request::SetNetworkNames { network, names } => state.zone.set_network(&network, names),
            Request::RemoveNetworkNames { network } => state.zone.remove_network(&network),
            Request::SetNames { network, container, names } => state.zone.set_container(&network, &container, names),
            Request::RemoveNames { network, container } => state.zone.remove_container(&network, &container),
            Request::Attach { container, view } => {
                drop(state);
                let missing = || NetError::Refused("a namespace's descriptor is missing".to_owned());
                let namespace = descriptors.next().ok_or_else(missing)?;
                self.attach(container, view, namespace, descriptors.next())?;
            }
            Request::SetView { container, view } => {
                let number = state.numbers.get(&container).copied().unwrap_or_default();
                let sandbox = state.sandboxes.get_mut(&number);
                let absent = || NetError::Refused(format!("container {container} has no resolver"));
                sandbox.ok_or_else(absent)?.view = view;
            }
            Request::SetOwner { container } => {
                let number = state.numbers.get(&container).copied().unwrap_or_default();
                let owner = descriptors.next();
                // one that has ended in between was attached to nothing any more
                if let (Some(sandbox), Some(owner)) = (state.sandboxes.get_mut(&number), owner) {
                    let added = add(&self.epoll, owner.as_fd(), token(OWNER, number));
                    added.map_err(|errno| NetError::Refused(format!("cannot follow a process: {errno}")))?;
                    sandbox.owner = Some(owner);
                }
            }
            Request::Detach { container } => {
                if let Some(number) = state.numbers.get(&container).copied() {
                    state.detach(number);
                }
            }
            Request::Status => return Ok(Some(state.status())),
            Request::Stop => state.stopping = true,
        }
        Ok(None)
    }

    /// Makes the loop turn once, so that it sees that it is to stop.
    fn wake(&self) {
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        if let Ok(event) = rustix::event::eventfd(1, flags) {
            let _ = add(&self.epoll, event.as_fd(), token(ANSWER, 0));
            // Open until the process ends, which is soon: on a busy machine the loop may see it late, and another event may never come.
            std::mem::forget(event);
        }
    }

    fn attach(&self, container: String, view: View, namespace: OwnedFd, owner: Option<OwnedFd>) -> Result<()> {
        let refused = |error: &dyn std::fmt::Display| {
            NetError::Refused(format!("cannot listen for questions of container {container}: {error}"))
        };
        let listen = |port| -> io::Result<(UdpSocket, TcpListener)> {
            let address: SocketAddr = (dns::ADDRESS, port).into();
            let (udp, tcp) = (UdpSocket::bind(address)?, TcpListener::bind(address)?);
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok((udp, tcp))
        };
        // A container that is attached again, as after the engine's restart, gives its port up first.
        {
            let mut state = self.lock();
            if let Some(number) = state.numbers.get(&container).copied() {
                state.detach(number);
            }
        }
        // A kernel without nftables: then straight at the port, if no one else has it.
        let port = if redirect_resolver(namespace.as_fd(), dns::ADDRESS, PORT).is_ok() { PORT } else { 53 };
        let (udp, tcp) = netns::within(namespace.as_fd(), || listen(port))?.map_err(|error| refused(&error))?;
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        let adding = || -> rustix::io::Result<()> {
            add(&self.epoll, udp.as_fd(), token(UDP, number))?;
            add(&self.epoll, tcp.as_fd(), token(TCP, number))?;
            owner.as_ref().map_or(Ok(()), |owner| add(&self.epoll, owner.as_fd(), token(OWNER, number)))
        };
        adding().map_err(|error| refused(&error))?;
        let sandbox = Sandbox {
            container: container.clone(),
            view,
            namespace: Arc::new(Inside::new(namespace)),
            udp: Arc::new(udp),
            tcp: Arc::new(tcp),
            owner,
        };
        state.sandboxes.insert(number, sandbox);
        state.numbers.insert(container, number);
        Ok(())
    }
}

impl State {
    fn set_rules(&mut self, rules: Rules) -> Result<()> {
        self.firewall.apply(&rules)?;
        self.rules = Some(rules);
        Ok(())
    }

    fn change_rules(&mut self, change: impl FnOnce(&mut Rules)) -> Result<()> {
        let mut rules = self.rules.clone().unwrap_or_default();
        change(&mut rules);
        self.set_rules(rules)
    }

    fn detach(&mut self, number: u64) {
        if let Some(sandbox) = self.sandboxes.remove(&number) {
            self.numbers.remove(&sandbox.container);
        }
    }

    fn repair(&mut self) -> Result<()> {
        let Some(rules) = &self.rules else { return Ok(()) };
        if !self.firewall.is_intact()? {
            self.firewall.rebuild(rules)?;
            self.status.repairs += 1;
        }
        Ok(())
    }

    fn status(&self) -> Status {
        Status {
            table: self.firewall.table().to_owned(),
            attached: self.numbers.keys().cloned().collect(),
            owners: self.ports.owners().cloned().collect(),
            published: self.rules.as_ref().map_or(0, |rules| rules.published.len()),
            reserved: self.ports.len(),
            ..self.status.clone()
        }
    }
}

/// An error with its causes.
/// Whether nothing comes for so long that more is not to be expected soon.
fn is_silent(stream: &UnixStream) -> bool {
    let mut asked = [PollFd::new(stream, PollFlags::IN)];
    poll(&mut asked, Some(&Timespec { tv_sec: QUIET_SECONDS, tv_nsec: 0 })) == Ok(0)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
