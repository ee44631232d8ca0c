//! What users ask for, and what then has to be: a model that is right as long as every request is answered.

use std::collections::BTreeSet;

use testkit::Dice;

use crate::conformance::network::NET;

/// Containers of one user.
pub(super) const CREW: usize = 3;
/// Networks and volumes of one user.
pub(super) const THINGS: usize = 2;

/// Writes its own mark where its web server finds it, and ends with 7 when it is asked to.
const PROGRAM: &str = "trap 'exit 7' TERM; echo $SLOT > /www/index.html; httpd -f -p 80 -h /www & wait; exit 9";

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Gone,
    Created,
    Running,
    Paused,
    Exited,
}

impl State {
    /// From what the daemon says; nothing for what is on its way.
    pub(super) fn of(text: &str) -> Option<Self> {
        const WORDS: [(&str, State); 4] = [
            ("created", State::Created),
            ("exited", State::Exited),
            ("paused", State::Paused),
            ("running", State::Running),
        ];
        WORDS.iter().find(|(word, _)| *word == text).map(|(_, state)| *state)
    }

    fn lives(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// What becomes of a container that has ended.
pub(super) const POLICIES: [&str; 4] = ["no", "always", "unless-stopped", "on-failure"];

/// A container, as it was acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// What tells it from all others, whatever it is called.
    pub(super) mark: String,
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) state: State,
    pub(super) policy: &'static str,
    pub(super) stopped: bool,
    pub(super) removed_at_end: bool,
    pub(super) published: bool,
    /// It was without any network since its start: nothing is published then until the next one.
    pub(super) alone: bool,
    pub(super) probed: bool,
    pub(super) anonymous: bool,
    /// Networks by their number; none is the default bridge.
    pub(super) networks: BTreeSet<usize>,
    pub(super) on_bridge: bool,
    pub(super) volume: Option<usize>,
}

impl Slot {
    fn new(user: usize, number: usize) -> Self {
        let port = u16::try_from(9000 + user * CREW + number).unwrap();
        // processes are looked for by it, and another run may go on beside
        let mark = format!("u{user}c{number}-{}", std::process::id());
        Self {
            name: mark.clone(),
            mark,
            port,
            state: State::Gone,
            policy: "no",
            stopped: false,
            removed_at_end: false,
            published: false,
            alone: false,
            probed: false,
            anonymous: false,
            networks: BTreeSet::new(),
            on_bridge: false,
            volume: None,
        }
    }

    /// What a state becomes when a daemon begins.
    pub(super) fn resumed(&self, state: State) -> State {
        let again = self.policy == "always" || (self.policy == "unless-stopped" && !self.stopped);
        if state == State::Exited && again { State::Running } else { state }
    }

    /// What is left of it when its first process is killed by somebody else.
    pub(super) fn struck(&mut self) {
        if !self.state.lives() {
            return;
        }
        self.state = match (self.removed_at_end, self.policy) {
            (true, _) => State::Gone,
            (false, "no") => State::Exited,
            // one that was stopped before has been started since
            (false, _) => State::Running,
        };
    }

    fn ended_by_user(&mut self) {
        self.state = if self.removed_at_end { State::Gone } else { State::Exited };
        self.stopped = true;
    }

    fn started(&mut self) {
        self.state = State::Running;
        self.alone = self.networks.is_empty() && !self.on_bridge;
        self.stopped = false;
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    Connect(usize, usize),
    Create(usize, Box<Wish>),
    Disconnect(usize, usize),
    Exec(usize),
    Kill(usize),
    MakeNetwork(usize),
    MakeVolume(usize),
    Pause(usize),
    Remove(usize),
    RemoveNetwork(usize),
    RemoveVolume(usize),
    Rename(usize),
    Restart(usize),
    Run(usize, Box<Wish>),
    Start(usize),
    Stop(usize),
    Unpause(usize),
    Update(usize, &'static str),
}

/// What a new container shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    policy: &'static str,
    removed_at_end: bool,
    published: bool,
    probed: bool,
    anonymous: bool,
    network: Option<usize>,
    volume: Option<usize>,
}

/// One user's things.
#[derive(Debug, Clone)]
pub(super) struct User {
    number: usize,
    pub(super) crew: Vec<Slot>,
    pub(super) networks: [bool; THINGS],
    pub(super) volumes: [bool; THINGS],
    /// What was asked for and not answered.
    pub(super) open: Option<Deed>,
    /// All that was asked for, in words, since everything was removed.
    pub(super) history: Vec<String>,
}

impl User {
    pub(super) fn new(number: usize) -> Self {
        let crew = (0..CREW).map(|of| Slot::new(number, of)).collect();
        Self { number, crew, networks: [false; THINGS], volumes: [false; THINGS], open: None, history: Vec::new() }
    }

    pub(super) fn network(&self, number: usize) -> String {
        format!("u{}n{number}", self.number)
    }

    pub(super) fn volume(&self, number: usize) -> String {
        format!("u{}v{number}", self.number)
    }

    fn has_network(&self, number: usize) -> bool {
        self.crew.iter().any(|slot| slot.state != State::Gone && slot.networks.contains(&number))
    }

    fn has_volume(&self, number: usize) -> bool {
        self.crew.iter().any(|slot| slot.state != State::Gone && slot.volume == Some(number))
    }

    /// Something that can be asked for now.
    pub(super) fn deed(&self, dice: &mut Dice) -> Deed {
        loop {
            let all = [Self::about_a_container, Self::about_a_container, Self::about_a_container, Self::about_a_thing];
            if let Some(deed) = all[dice.below(all.len())](self, dice) {
                return deed;
            }
        }
    }

    fn about_a_thing(&self, dice: &mut Dice) -> Option<Deed> {
        let at = dice.below(THINGS);
        let is_network = dice.below(2) == 0;
        let (there, used) = if is_network {
            (self.networks[at], self.has_network(at))
        } else {
            (self.volumes[at], self.has_volume(at))
        };
        match (is_network, there) {
            _ if used => None,
            (true, false) => Some(Deed::MakeNetwork(at)),
            (true, true) => Some(Deed::RemoveNetwork(at)),
            (false, false) => Some(Deed::MakeVolume(at)),
            (false, true) => Some(Deed::RemoveVolume(at)),
        }
    }

    fn about_a_container(&self, dice: &mut Dice) -> Option<Deed> {
        let at = dice.below(self.crew.len());
        let slot = &self.crew[at];
        let choice = dice.below(10);
        Some(match slot.state {
            State::Gone if choice < 4 => Deed::Create(at, Box::new(self.wish(dice))),
            State::Gone => Deed::Run(at, Box::new(self.wish(dice))),
            State::Created | State::Exited if choice < 4 => Deed::Start(at),
            State::Running if choice < 3 => [Deed::Exec(at), Deed::Pause(at), Deed::Kill(at)][choice].clone(),
            State::Running if choice < 5 => [Deed::Restart(at), Deed::Stop(at)][choice - 3].clone(),
            State::Paused if choice < 5 => Deed::Unpause(at),
            _ if choice == 5 => Deed::Rename(at),
            _ if choice == 6 && !slot.removed_at_end => Deed::Update(at, POLICIES[dice.below(POLICIES.len())]),
            State::Paused if choice > 6 => return None,
            _ if choice < 9 => return self.about_a_link(at, dice),
            _ => Deed::Remove(at),
        })
    }

    fn about_a_link(&self, at: usize, dice: &mut Dice) -> Option<Deed> {
        let network = dice.below(THINGS);
        match (self.networks[network], self.crew[at].networks.contains(&network)) {
            (true, false) => Some(Deed::Connect(at, network)),
            (true, true) => Some(Deed::Disconnect(at, network)),
            (false, _) => None,
        }
    }

    fn wish(&self, dice: &mut Dice) -> Wish {
        let removed_at_end = dice.below(5) == 0;
        let network = Some(dice.below(THINGS)).filter(|at| self.networks[*at]);
        Wish {
            policy: if removed_at_end { "no" } else { POLICIES[dice.below(POLICIES.len())] },
            removed_at_end,
            published: dice.below(2) == 0,
            probed: dice.below(4) == 0,
            anonymous: dice.below(4) == 0,
            network,
            volume: Some(dice.below(2 * THINGS)).filter(|at| *at < THINGS),
        }
    }

    /// The client's words.
    pub(super) fn words(&self, deed: &Deed) -> Vec<String> {
        let name = |at: &usize| self.crew[*at].name.clone();
        let words = |text: &str, last: String| text.split(' ').map(str::to_owned).chain([last]).collect();
        let link = |verb: &str, network: &usize, at: &usize| {
            ["network", verb, &self.network(*network), &name(at)].map(str::to_owned).to_vec()
        };
        match deed {
            Deed::Connect(at, network) => link("connect", network, at),
            Deed::Create(at, wish) => self.new_container("create", *at, wish),
            Deed::Disconnect(at, network) => link("disconnect", network, at),
            Deed::Exec(at) => ["exec", &name(at), "echo", "well"].map(str::to_owned).to_vec(),
            Deed::Kill(at) => words("kill", name(at)),
            Deed::MakeNetwork(at) => {
                // room for three and no more: an address that is not given back is missed soon
                let subnet = format!("10.{}.{at}.0/29", 70 + self.number);
                words(&format!("network create --subnet {subnet}"), self.network(*at))
            }
            Deed::MakeVolume(at) => words("volume create", self.volume(*at)),
            Deed::Pause(at) => words("pause", name(at)),
            Deed::Remove(at) => words("rm -f -v", name(at)),
            Deed::RemoveNetwork(at) => words("network rm", self.network(*at)),
            Deed::RemoveVolume(at) => words("volume rm", self.volume(*at)),
            Deed::Rename(at) => ["rename", &name(at), &self.other_name(*at)].map(str::to_owned).to_vec(),
            Deed::Restart(at) => words("restart -t 5", name(at)),
            Deed::Run(at, wish) => self.new_container("run -d", *at, wish),
            Deed::Start(at) => words("start", name(at)),
            Deed::Stop(at) => words("stop -t 5", name(at)),
            Deed::Unpause(at) => words("unpause", name(at)),
            Deed::Update(at, policy) => words(&format!("update --restart {policy}"), name(at)),
        }
    }

    /// What it is called after a renaming.
    pub(super) fn other_name(&self, at: usize) -> String {
        let slot = &self.crew[at];
        if slot.name == slot.mark { format!("{}-too", slot.mark) } else { slot.mark.clone() }
    }

    fn new_container(&self, verb: &str, at: usize, wish: &Wish) -> Vec<String> {
        let slot = &self.crew[at];
        let mut text = format!("{verb} --name {} -e SLOT={} --restart {}", slot.name, slot.mark, wish.policy);
        let mut add = |there: bool, words: &str| {
            if there {
                text.push(' ');
                text.push_str(words);
            }
        };
        add(wish.removed_at_end, "--rm");
        add(wish.published, &format!("-p {}:80", slot.port));
        add(
            wish.probed,
            "--health-cmd true --health-interval 1s --health-start-period 5s --health-start-interval 300ms",
        );
        add(wish.anonymous, "-v /anonymous");
        if let Some(network) = wish.network {
            add(true, &format!("--network {}", self.network(network)));
        }
        if let Some(volume) = wish.volume {
            add(true, &format!("-v {}:/named", self.volume(volume)));
        }
        let program = [NET, "sh", "-c", PROGRAM].map(str::to_owned);
        text.split(' ').map(str::to_owned).chain(program).collect()
    }

    /// What an acknowledged request has changed.
    pub(super) fn apply(&mut self, deed: &Deed) {
        let other = match deed {
            Deed::Rename(at) => self.other_name(*at),
            _ => String::new(),
        };
        match deed {
            Deed::Connect(at, network) => {
                self.crew[*at].networks.insert(*network);
            }
            Deed::Create(at, wish) => self.made(*at, wish, State::Created),
            Deed::Disconnect(at, network) => {
                let slot = &mut self.crew[*at];
                slot.networks.remove(network);
                slot.alone |= slot.networks.is_empty() && !slot.on_bridge;
            }
            Deed::Exec(_) => {}
            Deed::Kill(at) | Deed::Stop(at) => self.crew[*at].ended_by_user(),
            Deed::MakeNetwork(at) => self.networks[*at] = true,
            Deed::MakeVolume(at) => self.volumes[*at] = true,
            Deed::Pause(at) => self.crew[*at].state = State::Paused,
            Deed::Remove(at) => self.crew[*at].state = State::Gone,
            Deed::RemoveNetwork(at) => self.networks[*at] = false,
            Deed::RemoveVolume(at) => self.volumes[*at] = false,
            Deed::Rename(at) => self.crew[*at].name = other,
            Deed::Restart(at) | Deed::Start(at) => self.crew[*at].started(),
            Deed::Run(at, wish) => self.made(*at, wish, State::Running),
            Deed::Unpause(at) => self.crew[*at].state = State::Running,
            Deed::Update(at, policy) => self.crew[*at].policy = policy,
        }
    }

    fn made(&mut self, at: usize, wish: &Wish, state: State) {
        let slot = &mut self.crew[at];
        slot.state = state;
        slot.policy = wish.policy;
        slot.stopped = false;
        slot.removed_at_end = wish.removed_at_end;
        slot.published = wish.published;
        slot.alone = false;
        slot.probed = wish.probed;
        slot.anonymous = wish.anonymous;
        slot.networks = wish.network.into_iter().collect();
        slot.on_bridge = wish.network.is_none();
        slot.volume = wish.volume;
        if let Some(volume) = wish.volume {
            self.volumes[volume] = true;
        }
    }

    /// The container that an unanswered request was about, and what it may be as well as it was and as it was to be.
    pub(super) fn halfway(deed: &Deed) -> Option<(usize, &'static [State])> {
        Some(match deed {
            Deed::Run(at, _) => (*at, &[State::Created]),
            Deed::Restart(at) => (*at, &[State::Exited, State::Gone]),
            // one that is removed at its end may have been taken for one that has ended
            Deed::Start(at) => (*at, &[State::Gone]),
            // killed, and not yet removed
            Deed::Remove(at) => (*at, &[State::Exited]),
            Deed::Connect(at, _)
            | Deed::Create(at, _)
            | Deed::Disconnect(at, _)
            | Deed::Kill(at)
            | Deed::Pause(at)
            | Deed::Rename(at)
            | Deed::Stop(at)
            | Deed::Unpause(at)
            | Deed::Update(at, _) => (*at, &[]),
            _ => return None,
        })
    }
}
