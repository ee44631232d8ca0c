//! Users ask for whatever can be done with containers, networks and volumes, at once, and the daemon is killed in the middle;
//! helpers and containers as well. Afterwards nothing acknowledged is lost, nothing is left, every container is where it is to be,
//! and nobody has somebody else's address, port or name.
//!
//! `INSULA_E2E_FAULTS` says how many kills a run tries, `INSULA_E2E_SEED` which; a failure prints the seed.

mod fleet;
pub(super) mod verdict;

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use testkit::{Dice, rootfs, wait_for};

use super::killed::Moment;
use crate::conformance::network;
use crate::subject::{SOON, Subject, finish, skip_unless_insula};
use fleet::{Deed, State, User};

/// Kills of a usual run.
const USUAL: usize = 4;
/// Kills that are worth a run by hand.
const ALL: usize = 1000;
/// Kills between two times that everything is removed.
const SEASON: usize = 4;
const USERS: usize = 3;

/// Calls after which something outside is another: the store, folders, mounts, messages to helpers, links.
const CALLS: [&str; 10] =
    ["fdatasync", "mkdir", "mount_setattr", "move_mount", "openat", "rename", "sendmsg", "sendto", "unlinkat", "write"];

/// What else goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hardship {
    None,
    /// The first process of a container is killed.
    Program(usize, usize),
    /// The helper of a container is.
    Shim(usize, usize),
    /// The network's helper is.
    Names,
}

struct Yard {
    subject: Subject,
    dice: Dice,
    users: Vec<User>,
    wrong: Vec<String>,
    round: usize,
}

impl Yard {
    fn open() -> Option<Self> {
        if skip_unless_insula() {
            return None;
        }
        let subject = network::subject()?;
        let users = (0..USERS).map(User::new).collect();
        let yard = Self { subject, dice: Dice::new(), users, wrong: Vec::new(), round: 0 };
        // the default bridge and the packet filter's table are made for the first who needs them
        let words = ["run", "--rm", "-p", "9999:80", network::NET, "true"];
        yard.subject.insula(&words).expect(0);
        Some(yard)
    }

    /// One kill, and what was wrong afterwards.
    fn attack(&mut self) -> bool {
        self.round += 1;
        let moment = Moment::thrown(&mut self.dice, rootfs::find("strace").is_some(), &CALLS);
        let died = self.strike(&moment);
        let first = self.hardship();
        self.start();
        self.settle(&format!("{moment:?}, {first:?}"));
        if self.dice.below(3) == 0 {
            let second = self.hardship();
            self.settle(&format!("{moment:?}, {first:?}, then {second:?} under a daemon"));
        }
        died
    }

    fn start(&mut self) {
        self.subject.start_daemon();
        for slot in self.users.iter_mut().flat_map(|user| &mut user.crew) {
            slot.state = slot.resumed(slot.state);
        }
    }

    /// Everybody asks until the daemon is dead; whether a call killed it.
    fn strike(&mut self, moment: &Moment) -> bool {
        let pid = self.subject.daemon_pid();
        // the tracer sees what the daemon starts from then on: helpers have to be there before
        self.subject.insula(&["run", "--rm", network::NET, "true"]).expect(0);
        let tracer = match moment {
            Moment::Call(call, nth) => Some(testkit::kill_at(pid, call, *nth)),
            Moment::After(_) => None,
        };
        let seeds: Vec<u64> = self.users.iter().map(|_| u64::try_from(self.dice.below(1 << 40)).unwrap()).collect();
        let (subject, over, begun) = (&self.subject, AtomicBool::new(false), Instant::now());
        let limit = match moment {
            Moment::After(wait) => Duration::from_millis(300 + *wait),
            Moment::Call(..) => Duration::from_secs(4),
        };
        let mut died = true;
        let wrong: Vec<String> = std::thread::scope(|scope| {
            let over = &over;
            let work = self.users.iter_mut().zip(seeds).map(|(user, seed)| {
                scope.spawn(move || {
                    let mut dice = Dice::of(seed);
                    let mut wrong = Vec::new();
                    while user.open.is_none() && !over.load(Ordering::Relaxed) {
                        let deed = user.deed(&mut dice);
                        wrong.extend(ask(subject, user, deed));
                    }
                    wrong
                })
            });
            let work: Vec<_> = work.collect();
            while begun.elapsed() < limit && !is_dead(pid) {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !is_dead(pid) {
                died = false;
                kill_process(pid, Signal::KILL).unwrap();
            }
            over.store(true, Ordering::Relaxed);
            work.into_iter().flat_map(|one| one.join().unwrap()).collect()
        });
        self.subject.reap_daemon();
        if let Some(mut tracer) = tracer {
            let _ = tracer.kill();
            tracer.wait().unwrap();
        }
        let round = self.round;
        self.wrong.extend(wrong.into_iter().map(|one| format!("round {round}, {moment:?}: {one}")));
        died
    }

    /// Makes things worse.
    fn hardship(&mut self) -> Hardship {
        // what was asked for of one may have come true or not, so another is taken
        let calm: Vec<(usize, usize)> = self
            .users
            .iter()
            .enumerate()
            .flat_map(|(of, user)| {
                let open = user.open.as_ref().and_then(User::halfway).map(|(at, _)| at);
                let lives = |at: &usize| Some(*at) != open && user.crew[*at].state == State::Running;
                (0..user.crew.len()).filter(lives).map(move |at| (of, at)).collect::<Vec<_>>()
            })
            .collect();
        let choice = self.dice.below(6);
        let hardship = match (choice, calm.get(self.dice.below(calm.len()))) {
            (0, _) => Hardship::Names,
            (1 | 2, Some((of, at))) => Hardship::Program(*of, *at),
            (3, Some((of, at))) => Hardship::Shim(*of, *at),
            _ => Hardship::None,
        };
        match hardship {
            Hardship::None => {}
            Hardship::Names => {
                if let Some(pid) = network::helper(&self.subject) {
                    kill_process(pid, Signal::KILL).unwrap();
                }
            }
            Hardship::Program(of, at) | Hardship::Shim(of, at) => {
                let slot = &mut self.users[of].crew[at];
                let Some(pid) = wait_for(SOON, || verdict::first_process(&slot.mark)) else {
                    self.wrong.push(format!("round {}: {} has no process", self.round, slot.name));
                    return Hardship::None;
                };
                let victim = if matches!(hardship, Hardship::Shim(..)) { verdict::parent(pid) } else { Some(pid) };
                // it may have ended by itself
                let _ = victim.map(|victim| kill_process(victim, Signal::KILL));
                slot.struck();
            }
        }
        hardship
    }

    /// Waits until all is as it should be, and takes for the truth what might have been either way.
    fn settle(&mut self, when: &str) {
        let found = verdict::settle(&self.subject, &mut self.users);
        let round = self.round;
        if found.is_empty() {
            self.users.iter_mut().for_each(|user| user.history.push(format!("-- round {round}, {when}")));
        } else {
            println!("{:#?}", self.users.iter().map(|user| &user.history).collect::<Vec<_>>());
        }
        self.wrong.extend(found.into_iter().map(|one| format!("round {round}, {when}: {one}")));
    }

    /// Removes all; what is left then that was not there before.
    fn clear(&mut self, before: &BTreeSet<String>) {
        let names = |words: &[&str]| -> Vec<String> {
            self.subject.insula(words).expect(0).out.split_whitespace().map(str::to_owned).collect()
        };
        let remove = |verb: &[&str], all: Vec<String>| {
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            if !all.is_empty() {
                self.subject.insula(&[verb, &all].concat()).expect(0);
            }
        };
        remove(&["rm", "-f", "-v"], names(&["ps", "-aq"]));
        remove(&["volume", "rm"], names(&["volume", "ls", "-q"]));
        let mut networks = names(&["network", "ls", "--format", "{{.Name}}"]);
        networks.retain(|name| !["bridge", "host", "none"].contains(&name.as_str()));
        remove(&["network", "rm"], networks);
        self.subject.assert_empty();
        self.users = (0..USERS).map(User::new).collect();
        let left = || verdict::traces(&self.subject).difference(before).cloned().collect::<Vec<_>>();
        if wait_for(SOON, || left().is_empty().then_some(())).is_none() {
            self.wrong.extend(left().into_iter().map(|one| format!("round {}: left: {one}", self.round)));
        }
    }
}

fn is_dead(pid: Pid) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    text.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with(['Z', 'X']) || rest.is_empty())
}

/// Has a user ask; what was refused that can be had.
fn ask(subject: &Subject, user: &mut User, deed: Deed) -> Option<String> {
    let words = user.words(&deed);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let deadline = Instant::now() + SOON;
    let run = loop {
        let run = finish(subject.command(&words).stdin(Stdio::null()), b"");
        // one that is removed at its end may be on its way out
        let leaving = run.err.contains("already in use") && matches!(deed, Deed::Create(..) | Deed::Run(..));
        if !leaving || Instant::now() > deadline {
            break run;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    user.history.push(format!("{deed:?} {}", run.code));
    if run.code == 0 {
        user.apply(&deed);
        return None;
    }
    // the connection ends a moment before the process has
    let pid = subject.daemon_pid();
    if wait_for(Duration::from_secs(1), || is_dead(pid).then_some(())).is_some() {
        user.open = Some(deed);
        return None;
    }
    let why = format!("{words:?} is refused with {}: {}{}", run.code, run.out, run.err);
    user.open = Some(deed);
    Some(why)
}

#[test]
fn whatever_is_killed_nothing_acknowledged_is_lost() {
    let Some(mut yard) = Yard::open() else { return };
    let (seed, rounds) = (yard.dice.seed, Dice::rounds(USUAL, ALL));
    let before = verdict::traces(&yard.subject);
    let mut died = 0;
    for round in 1..=rounds {
        died += usize::from(yard.attack());
        if round % SEASON == 0 || round == rounds {
            yard.clear(&before);
        }
        let known = yard.wrong.len();
        assert!(known == 0, "INSULA_E2E_SEED={seed}, after {round} kills:\n{}", yard.wrong.join("\n"));
    }
    println!("{rounds} kills, {died} of them at calls, INSULA_E2E_SEED={seed}");
    yard.subject.finish();
}
