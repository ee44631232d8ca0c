//! Containers, their helpers, clients and daemons that die at any point, from a seed: what is acknowledged stays, nobody shares a name, an
//! address or a port, and when the storm is over everything is as it was last asked to be and nothing is left behind.
//!
//! The rules, what is recorded, the recovery and the book of addresses and ports are the real ones. The owner's task, the helpers and the
//! store are models of a few lines: effects are carried out one by one, and before each of them the daemon may die.

use super::recovery::{Found, Step, is_recorded, recovery, starts_again};
use super::{Effect, Input, decide};
use crate::model::{
    Container, ContainerId, Endpoint, EndpointLink, Network, NetworkId, NetworkSpec, Phase, PublishRequest,
    RestartPolicy, Runtime,
};
use crate::network::book::Book;
use crate::network::wiring::Targets;
use control::Exit;
use net::firewall::Protocol;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Seeds that a run of the tests tries; more by this variable.
const SEEDS: u64 = 10_000;
const SEEDS_VARIABLE: &str = "INSULA_SIMULATION_SEEDS";
const STEPS: usize = 120;
const CONTAINERS: usize = 4;
const NAMES: [&str; 3] = ["web", "db", "queue"];
const KILL: i32 = 9;

/// A generator whose whole state is the seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// What of a container is outside of the daemon.
#[derive(Debug, Default)]
struct World {
    helper: Option<control::State>,
    /// A signal that kills waits for the container to be thawed.
    dying: bool,
    group: bool,
    runtime: bool,
    folder: bool,
    exit_file: Option<Exit>,
    /// What the helper has said and the daemon not read; lost with the connection.
    said: VecDeque<Input>,
}

/// What of a container is the daemon's.
struct Owner {
    record: Container,
    connected: bool,
    /// By the clock that only goes on.
    grace: Option<u64>,
    restart: Option<u64>,
    /// A client that asked for a stop waits for the end.
    stopping: bool,
}

/// The daemon died; what was being done is cut off here.
#[derive(Debug)]
struct Died;

type Lived = Result<(), Died>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Up,
    Down,
    Gone,
}

struct Island {
    dice: Dice,
    stormy: bool,
    wall_ns: u64,
    clock_ms: u64,
    made: u64,
    /// The store: records that survive.
    store: BTreeMap<String, Container>,
    worlds: BTreeMap<String, World>,
    owners: BTreeMap<String, Owner>,
    names: BTreeMap<String, String>,
    book: Book,
    network: Arc<Network>,
    /// What clients were told last, and nobody has changed since.
    wishes: BTreeMap<String, Wish>,
    deaths: u64,
}

fn runtime(pid: i32) -> Runtime {
    Runtime { pid, started_ns: 1, namespaces: Vec::new(), cgroup: Vec::new(), warnings: Vec::new() }
}

impl Island {
    fn new(seed: u64) -> Self {
        let spec = NetworkSpec { name: "net".into(), ..NetworkSpec::default() };
        let mut network = Network { id: NetworkId::known(&"01".repeat(32)), created_ns: 0, spec };
        let mut book = Book::default();
        book.settle(&mut network, &net::ipam::default_pools([1; 5]), &[]).unwrap();
        let network = Arc::new(network);
        book.insert(Arc::clone(&network)).unwrap();
        Self {
            dice: Dice(seed),
            stormy: true,
            wall_ns: 1 << 60,
            clock_ms: 0,
            made: 0,
            store: BTreeMap::new(),
            worlds: BTreeMap::new(),
            owners: BTreeMap::new(),
            names: BTreeMap::new(),
            book,
            network,
            wishes: BTreeMap::new(),
            deaths: 0,
        }
    }

    fn fate(&mut self) -> Lived {
        if self.stormy && self.dice.one_in(40) { Err(Died) } else { Ok(()) }
    }

    fn world(&mut self, id: &str) -> &mut World {
        self.worlds.entry(id.to_owned()).or_default()
    }

    /// What the owner does with each new record: the store first.
    fn commit(&mut self, id: &str, next: Container, told: bool) -> Lived {
        self.fate()?;
        let Some(owner) = self.owners.get_mut(id) else { return Ok(()) };
        if next != owner.record && is_recorded(&owner.record, &next, told) {
            self.store.insert(id.to_owned(), next.clone());
        }
        owner.record = next;
        self.fate()
    }

    /// Applies the rules and carries out what follows. A refusal is told.
    fn feed(&mut self, id: &str, input: &Input) -> Result<bool, Died> {
        let Some(owner) = self.owners.get(id) else { return Ok(false) };
        let Ok(decision) = decide(&owner.record, input, self.wall_ns) else { return Ok(false) };
        let told = decision.effects.iter().any(|effect| matches!(effect, Effect::Emit(..)));
        self.commit(id, decision.container, told)?;
        for effect in decision.effects {
            self.fate()?;
            self.perform(id, &effect)?;
        }
        if let Some(owner) = self.owners.get_mut(id).filter(|owner| owner.stopping && !owner.record.is_alive()) {
            owner.stopping = false;
            self.wishes.insert(id.to_owned(), Wish::Down);
        }
        Ok(true)
    }

    fn perform(&mut self, id: &str, effect: &Effect) -> Lived {
        let now = self.clock_ms;
        match effect {
            Effect::Launch => return self.launch(id),
            Effect::Signal(signal) => {
                let heeds = *signal == KILL || self.dice.one_in(2);
                if heeds && self.owners[id].connected {
                    self.signalled(id);
                }
            }
            Effect::Freeze => self.freeze(id, control::Phase::Running, control::Phase::Paused, Input::Frozen),
            Effect::Thaw => self.freeze(id, control::Phase::Paused, control::Phase::Running, Input::Thawed),
            Effect::ArmGrace(ms) => self.owners.get_mut(id).unwrap().grace = Some(now + ms),
            Effect::ArmRestart(ms) => self.owners.get_mut(id).unwrap().restart = Some(now + ms),
            Effect::Dismiss => return self.dismiss(id),
            Effect::Sweep => self.world(id).group = false,
            Effect::Delete => return self.delete(id),
            Effect::ArmProbe(_) | Effect::Probe | Effect::Emit(..) => {}
        }
        Ok(())
    }

    fn launch(&mut self, id: &str) -> Lived {
        self.owners.get_mut(id).unwrap().restart = None;
        let failed = |why: &str| Input::LaunchFailed { code: 128, error: why.to_owned() };
        let granted = self.grant(id);
        let Some(granted) = granted else { return self.feed(id, &failed("taken")).map(drop) };
        self.commit(id, granted, true)?;
        if self.stormy && self.dice.one_in(20) {
            return self.feed(id, &failed("no files")).map(drop);
        }
        let world = self.world(id);
        assert!(world.helper.is_none() && !world.group, "{id}: launched beside another run: {world:?}");
        (world.runtime, world.exit_file, world.dying) = (true, None, false);
        world.said.clear();
        self.fate()?;
        let state = control::State { phase: control::Phase::Created, pid: 7, exit: None, execs: Vec::new() };
        let world = self.world(id);
        (world.helper, world.group) = (Some(state), true);
        self.owners.get_mut(id).unwrap().connected = true;
        self.fate()?;
        if self.stormy && self.dice.one_in(10) {
            // the program is not there: the helper takes back what it has made
            let world = self.world(id);
            world.group = false;
            if let Some(helper) = &mut world.helper {
                helper.phase = control::Phase::Empty;
            }
            world.said.push_back(failed("no program"));
        } else {
            let world = self.world(id);
            if let Some(helper) = &mut world.helper {
                helper.phase = control::Phase::Running;
            }
            world.said.push_back(Input::Launched(runtime(7)));
        }
        Ok(())
    }

    /// The record with an address, and the port if it wants one; none if somebody else has it.
    fn grant(&mut self, id: &str) -> Option<Container> {
        let mut next = self.owners[id].record.clone();
        let leases = self.book.lease(&self.network.id, &next.id, &[]).ok()?;
        let passed = leases.iter().map(|lease| lease.address.address()).collect();
        let to = Targets { passed, direct: Vec::new() };
        match self.book.publish(&next.id, &next.spec.publish, &to, &BTreeSet::new()) {
            Ok(published) => next.published = published,
            Err(_) => {
                self.book.release(&self.network.id, &next.id);
                return None;
            }
        }
        let link = EndpointLink {
            id: "e".repeat(64),
            network: self.network.id.clone(),
            name: "eth0".into(),
            mac: None,
            leases,
            names: Vec::new(),
            direct: false,
        };
        next.endpoints = [("net".to_owned(), Endpoint { link: Some(link), ..Endpoint::default() })].into();
        Some(next)
    }

    fn signalled(&mut self, id: &str) {
        let world = self.world(id);
        match world.helper.as_ref().map(|helper| helper.phase) {
            Some(control::Phase::Running) => self.end(id, 137),
            Some(control::Phase::Paused) => world.dying = true,
            _ => {}
        }
    }

    /// The program ends, and its helper says so.
    fn end(&mut self, id: &str, code: i32) {
        self.wall_ns += 1;
        let exit = Exit { code, oom_killed: false, at_ns: self.wall_ns };
        let keeps = self.store.get(id).is_some_and(|record| !record.spec.auto_remove);
        let world = self.world(id);
        let Some(helper) = &mut world.helper else { return };
        (helper.phase, helper.exit) = (control::Phase::Exited, Some(exit.clone()));
        world.group = false;
        world.exit_file = keeps.then(|| exit.clone());
        world.said.push_back(Input::Ended(exit));
    }

    fn freeze(&mut self, id: &str, from: control::Phase, to: control::Phase, word: Input) {
        if !self.owners[id].connected {
            return;
        }
        let world = self.world(id);
        if let Some(helper) = world.helper.as_mut().filter(|helper| helper.phase == from) {
            helper.phase = to;
            world.said.push_back(word);
        }
        if to == control::Phase::Running && std::mem::take(&mut world.dying) {
            self.end(id, 137);
        }
    }

    fn dismiss(&mut self, id: &str) -> Lived {
        let owner = self.owners.get_mut(id).unwrap();
        owner.grace = None;
        let connected = std::mem::replace(&mut owner.connected, false);
        if connected {
            self.quit(id);
        }
        self.fate()?;
        let owner = &self.owners[id];
        if owner.record.links().next().is_some() {
            let mut next = owner.record.clone();
            let published = std::mem::take(&mut next.published);
            next.endpoints.values_mut().for_each(|endpoint| endpoint.link = None);
            let owned = next.id.clone();
            self.commit(id, next, true)?;
            self.book.release(&self.network.id, &owned);
            self.book.unpublish(&owned, &published);
        }
        self.fate()?;
        self.world(id).runtime = false;
        Ok(())
    }

    fn quit(&mut self, id: &str) {
        let world = self.world(id);
        let phase = world.helper.as_ref().map(|helper| helper.phase);
        if !matches!(phase, Some(control::Phase::Running | control::Phase::Paused)) {
            world.helper = None;
            world.group &= phase != Some(control::Phase::Created);
            world.said.clear();
        }
    }

    fn delete(&mut self, id: &str) -> Lived {
        self.world(id).folder = false;
        self.fate()?;
        self.world(id).runtime = false;
        self.fate()?;
        self.store.remove(id);
        let owner = self.owners.remove(id).unwrap();
        self.names.remove(&owner.record.name);
        if self.wishes.get(id).is_some_and(|wish| *wish != Wish::Gone) && !owner.record.spec.auto_remove {
            assert!(owner.record.remove_at_end || owner.record.phase == Phase::Removing, "{id} is gone unasked");
        }
        Ok(())
    }
}

/// Clients, the outside, and daemons.
impl Island {
    fn create(&mut self) -> Lived {
        self.made += 1;
        let name = NAMES[usize::try_from(self.dice.roll(NAMES.len() as u64)).unwrap()].to_owned();
        let id = ContainerId::known(&format!("{:064x}", self.made));
        if self.names.contains_key(&name) || self.owners.len() >= CONTAINERS {
            return Ok(());
        }
        let mut record = super::tests::container();
        (record.id, record.name) = (id.clone(), name.clone());
        match self.dice.roll(4) {
            0 => record.spec.auto_remove = true,
            1 => record.spec.restart = RestartPolicy::UnlessStopped,
            2 => record.spec.restart = RestartPolicy::OnFailure { max_retries: 3 },
            _ => {}
        }
        if self.dice.one_in(2) {
            record.spec.publish =
                vec![PublishRequest { port: 80, protocol: Protocol::Tcp, host: None, host_ports: Some((8080, 8080)) }];
        }
        let id = id.to_string();
        self.world(&id).folder = true;
        // what has no record then is swept when a daemon begins
        self.fate()?;
        self.store.insert(id.clone(), record.clone());
        self.names.insert(name, id.clone());
        self.owners.insert(id.clone(), Owner { record, connected: false, grace: None, restart: None, stopping: false });
        self.fate()?;
        self.wishes.insert(id, Wish::Down);
        Ok(())
    }

    fn command(&mut self, id: &str) -> Lived {
        let (input, wish) = match self.dice.roll(8) {
            0..=2 => (Input::Start, Some(Wish::Up)),
            3 => (Input::Stop { signal: 15, grace_ms: Some(self.dice.roll(3) * 10) }, None),
            4 => (Input::Kill(KILL), Some(Wish::Down)),
            5 => (Input::Pause, None),
            6 => (Input::Unpause, None),
            _ => (Input::Remove { force: self.dice.one_in(2), volumes: false }, Some(Wish::Gone)),
        };
        // from here to the answer nothing is promised
        let before = self.wishes.remove(id);
        let took = self.feed(id, &input)?;
        match (took, wish) {
            (true, None) if matches!(input, Input::Stop { .. }) => {
                if let Some(owner) = self.owners.get_mut(id) {
                    owner.stopping = owner.record.is_alive();
                }
            }
            (true, Some(wish)) => self.wishes.extend([(id.to_owned(), wish)]),
            _ => self.wishes.extend(before.map(|wish| (id.to_owned(), wish))),
        }
        Ok(())
    }

    /// The daemon reads what a helper has said, once, and sometimes twice.
    fn listen(&mut self, id: &str) -> Lived {
        if !self.owners.get(id).is_some_and(|owner| owner.connected) {
            return Ok(());
        }
        let Some(input) = self.world(id).said.pop_front() else { return Ok(()) };
        let again =
            self.stormy && self.dice.one_in(10) && matches!(input, Input::Ended(_) | Input::Frozen | Input::Thawed);
        self.feed(id, &input)?;
        if again {
            self.feed(id, &input)?;
        }
        Ok(())
    }

    fn tick(&mut self, id: &str) -> Lived {
        let now = self.clock_ms;
        let Some(owner) = self.owners.get_mut(id) else { return Ok(()) };
        let due = |timer: &mut Option<u64>| timer.take_if(|due| *due <= now).is_some();
        let (grace, restart) = (due(&mut owner.grace), due(&mut owner.restart));
        if grace {
            self.feed(id, &Input::GraceOver)?;
        }
        if restart {
            self.feed(id, &Input::RestartDue)?;
        }
        Ok(())
    }

    /// Somebody kills a helper; the kernel kills the container with it.
    fn lose_helper(&mut self, id: &str) -> Lived {
        let world = self.world(id);
        if world.helper.take().is_none() {
            return Ok(());
        }
        world.said.clear();
        world.dying = false;
        let exit = world.exit_file.clone();
        let Some(owner) = self.owners.get_mut(id) else { return Ok(()) };
        if std::mem::take(&mut owner.connected) {
            let input = match exit {
                Some(exit) if owner.record.runtime.is_some() => Input::Ended(exit),
                _ => Input::HelperGone,
            };
            self.feed(id, &input)?;
        }
        Ok(())
    }

    /// A new daemon: only the store and the outside are still there.
    fn recover(&mut self) -> Lived {
        self.owners.clear();
        self.names.clear();
        let mut book = Book::default();
        book.insert(Arc::clone(&self.network)).unwrap();
        self.book = book;
        for (id, record) in self.store.clone() {
            assert!(self.names.insert(record.name.clone(), id.clone()).is_none(), "two containers are {}", record.name);
            self.book.adopt(&record);
            self.owners.insert(id, Owner { record, connected: false, grace: None, restart: None, stopping: false });
        }
        for (id, world) in &mut self.worlds {
            world.said.clear();
            world.folder &= self.store.contains_key(id);
        }
        for id in self.store.keys().cloned().collect::<Vec<_>>() {
            self.recover_one(&id)?;
        }
        Ok(())
    }

    fn recover_one(&mut self, id: &str) -> Lived {
        let world = self.world(id);
        let found = Found { helper: world.helper.clone(), exit: world.exit_file.clone(), runtime: world.runtime };
        self.owners.get_mut(id).unwrap().connected = found.helper.is_some();
        let record = self.owners[id].record.clone();
        for step in recovery(&record, &found, &runtime) {
            self.fate()?;
            match step {
                Step::Feed(input) => drop(self.feed(id, &input)?),
                Step::Release => {
                    self.perform(id, &Effect::Sweep)?;
                    self.perform(id, &Effect::Dismiss)?;
                }
                Step::Delete => return self.perform(id, &Effect::Delete),
            }
        }
        let owner = self.owners.get(id);
        if owner.is_some_and(|owner| owner.restart.is_none() && starts_again(&owner.record)) {
            self.feed(id, &Input::Start)?;
        }
        Ok(())
    }

    fn any(&mut self) -> Option<String> {
        let count = self.store.len() as u64;
        if count == 0 {
            return None;
        }
        let at = usize::try_from(self.dice.roll(count)).unwrap();
        self.store.keys().nth(at).cloned()
    }

    fn step(&mut self) -> Lived {
        self.clock_ms += self.dice.roll(150);
        // the wall's clock jumps, back too
        self.wall_ns = match self.dice.roll(30) {
            0 => self.wall_ns.saturating_sub(3_600_000_000_000),
            1 => self.wall_ns + 3_600_000_000_000,
            _ => self.wall_ns + 1_000_000,
        };
        let Some(id) = self.any() else { return self.create() };
        match self.dice.roll(12) {
            0 => self.create(),
            1..=4 => self.command(&id),
            5..=8 => self.listen(&id),
            9 => self.tick(&id),
            10 if self.dice.one_in(6) => self.lose_helper(&id),
            10 => self.fate(),
            _ => {
                let running = |helper: &control::State| helper.phase == control::Phase::Running;
                if self.world(&id).helper.as_ref().is_some_and(running) {
                    let code = i32::try_from(self.dice.roll(2)).unwrap();
                    self.end(&id, code);
                }
                Ok(())
            }
        }
    }

    /// After a death new daemons come until one lives.
    fn survive(&mut self, mut lived: Lived) {
        while lived.is_err() {
            self.deaths += 1;
            lived = self.recover();
        }
        self.check_owners();
    }

    fn check_owners(&self) {
        let mut addresses = BTreeSet::new();
        let mut ports = BTreeSet::new();
        let mut names = BTreeSet::new();
        for (id, record) in &self.store {
            assert!(names.insert(&record.name), "two containers are {}", record.name);
            for address in record.links().flat_map(|(_, link)| link.addresses()) {
                assert!(addresses.insert(address), "{id} has {address}, as another");
            }
            for published in record.published.iter() {
                assert!(ports.insert(format!("{published:?}")), "{id} has {published:?}, as another");
            }
        }
    }

    /// The storm is over: what is due happens, and then all is as it should be.
    fn settle(&mut self) {
        self.stormy = false;
        for _ in 0..200 {
            self.clock_ms += 70_000;
            for id in self.store.keys().cloned().collect::<Vec<_>>() {
                self.tick(&id).unwrap();
                self.listen(&id).unwrap();
            }
        }
        self.check_owners();
        for (id, world) in &self.worlds {
            let record = self.store.get(id).map(|_| &self.owners[id].record);
            let alive = record.is_some_and(Container::is_alive);
            let shown = record.map(|record| {
                let Container { phase, restarting, stopped_by_user, remove_at_end, finished, spec, .. } = record;
                format!(
                    "{phase:?} {restarting} {stopped_by_user} {remove_at_end} {finished:?} {:?} {}",
                    spec.restart, spec.auto_remove
                )
            });
            let shown = format!("{id}: {shown:?}\n{world:?}");
            assert_eq!(world.helper.is_some(), alive, "a helper is left, or lost: {shown}");
            assert_eq!(world.group, alive, "a control group is left, or lost: {shown}");
            assert_eq!(world.runtime, alive, "a folder of a run is left, or lost: {shown}");
            assert_eq!(world.folder, record.is_some(), "files are left, or lost: {shown}");
            if let Some(record) = record {
                assert_eq!(record.links().next().is_some(), alive, "an address is left, or lost: {shown}");
                assert!(
                    !matches!(record.phase, Phase::Starting | Phase::Removing) && !record.restarting,
                    "unsettled: {shown}"
                );
            }
            match self.wishes.get(id) {
                Some(Wish::Gone) => assert!(record.is_none(), "removed, and still there: {shown}"),
                Some(Wish::Down) => assert!(!alive, "stopped, and runs: {shown}"),
                // it may have ended by itself; where the policy says that it is to run, it does
                Some(Wish::Up) | None => {}
            }
            if let Some(record) = record
                && record.spec.restart == RestartPolicy::UnlessStopped
                && !record.stopped_by_user
                && record.finished.as_ref().is_none_or(|finished| finished.error.is_empty())
                && record.runtime.is_some()
            {
                assert!(alive, "its policy has it run: {shown}");
            }
        }
    }
}

#[test]
fn storms_leave_everything_as_it_was_asked() {
    let seeds = std::env::var(SEEDS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    let mut deaths = 0;
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut island = Island::new(seed);
            for _ in 0..STEPS {
                let lived = island.step();
                island.survive(lived);
            }
            island.settle();
            island.deaths
        });
        deaths += outcome.unwrap_or_else(|_| panic!("seed {seed} fails"));
    }
    assert!(deaths > seeds, "{deaths} deaths of daemons in {seeds} storms are too few to show anything");
}
