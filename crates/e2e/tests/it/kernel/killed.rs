//! The daemon is killed in the middle of whatever can be done with images, at moments and at calls that a seed chooses: the
//! store holds together, nothing acknowledged is missing, and the space comes back.
//!
//! `INSULA_E2E_FAULTS` says how many kills a run tries, `INSULA_E2E_SEED` which; a failure prints the seed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use testkit::{Dice, rootfs, wait_for};

use crate::peers::Registry;
use crate::subject::{SOON, Subject, finish, skip_unless_insula};

/// Kills of a usual run.
const USUAL: usize = 21;
/// How long what gives way to everybody else may take: a reduction begins with every start, too.
const IDLE: Duration = Duration::from_secs(90);
/// Kills that are worth a run by hand.
const ALL: usize = 1000;

/// What is done when the daemon is killed.
const ACTS: [Act; 7] = [Act::Build, Act::Load, Act::Prune, Act::Pull, Act::Push, Act::Reduce, Act::Remove];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Build,
    Load,
    Prune,
    Pull,
    Push,
    /// A compressed layer is given up for its parts, a second after it was pulled.
    Reduce,
    Remove,
}

/// Calls after which the disk is another one, or just before that.
const CALLS: [&str; 8] = ["fdatasync", "fsync", "mkdir", "openat", "pwrite64", "rename", "unlinkat", "write"];

/// How the daemon ends.
#[derive(Debug)]
pub(super) enum Moment {
    /// So long after the request, in ms.
    After(u64),
    /// At a thread's call.
    Call(&'static str, usize),
}

impl Moment {
    /// One that the dice choose, at one of these calls where they can be seen.
    pub(super) fn thrown(dice: &mut Dice, has_strace: bool, calls: &[&'static str]) -> Self {
        if has_strace && dice.below(3) > 0 {
            // The first calls are where most of the steps are.
            let most = [1, 3, 12][dice.below(3)];
            return Self::Call(calls[dice.below(calls.len())], 1 + dice.below(most));
        }
        let most = [5, 40, 200, 800][dice.below(4)];
        Self::After(u64::try_from(dice.below(most)).unwrap())
    }
}

/// The subject, what it is fed with, and what it has to have.
struct Yard {
    subject: Subject,
    registry: Registry,
    dice: Dice,
    context: PathBuf,
    saved: String,
    pulled: String,
    round: usize,
}

const BASE: &str = "base:1";
const BUILT: &str = "built:1";
const LOADED: &str = "loaded:1";
const DOCKERFILE: &str = "FROM base:1 AS one
COPY noise /noise
RUN mkdir /many; for i in $(seq 30); do echo $i > /many/$i; done
FROM base:1
COPY round /round
RUN cat /round /round > /twice
COPY --from=one /many /many
COPY --from=one /noise /noise
";

impl Yard {
    fn open() -> Option<Self> {
        if skip_unless_insula() {
            return None;
        }
        let Some(busybox) = rootfs::find("busybox") else {
            println!("skipped: no busybox on this machine");
            return None;
        };
        let subject = Subject::bare_with(|_| vec!["--reduce-after=1".to_owned()])?;
        let tree = subject.island.dir("tree");
        for name in ["bin", "etc", "proc", "sys", "dev"] {
            fs::create_dir(tree.join(name)).unwrap();
        }
        fs::copy(busybox, tree.join("bin/busybox")).unwrap();
        for name in ["cat", "mkdir", "seq", "sh", "test", "true"] {
            std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).unwrap();
        }
        rootfs::tar(&tree, &subject.island.path("base.tar"));
        let context = subject.island.dir("context");
        fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
        fs::write(context.join("noise"), noise(700_000)).unwrap();
        let registry = Registry::start(&subject, &[]);
        let (saved, pulled) = (subject.island.path("saved.tar").display().to_string(), registry.name("team/pulled:1"));
        let yard = Self { subject, registry, dice: Dice::new(), context, saved, pulled, round: 0 };
        yard.build();
        yard.insula(&["tag", BUILT, LOADED]);
        yard.insula(&["save", "-o", &yard.saved, LOADED]);
        yard.insula(&["tag", BUILT, &yard.pulled]);
        yard.insula(&["push", "-q", &yard.pulled]);
        yard.insula(&["rmi", "-f", LOADED, &yard.pulled]);
        Some(yard)
    }

    #[track_caller]
    fn insula(&self, words: &[&str]) -> String {
        self.subject.insula(words).expect(0).out
    }

    fn context(&self) -> &str {
        self.context.to_str().unwrap()
    }

    /// Builds an image that was not there before.
    fn build(&self) {
        self.fresh();
        self.insula(&["build", "-q", "-t", BUILT, self.context()]);
    }

    /// The next build has something to do.
    fn fresh(&self) {
        if !self.names().contains(BASE) {
            self.insula(&["import", self.subject.island.path("base.tar").to_str().unwrap(), BASE]);
        }
        fs::write(self.context.join("round"), format!("{} {}\n", self.dice.seed, self.round)).unwrap();
    }

    fn names(&self) -> BTreeSet<String> {
        let listed = self.insula(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        listed.lines().map(str::to_owned).filter(|name| !name.contains("<none>")).collect()
    }

    /// Puts things in their places; what is asked for, and the image that it is about.
    fn prepare(&self, act: Act) -> (Vec<String>, String) {
        let there = self.names();
        let absent = |name: &str| {
            if there.contains(name) {
                self.insula(&["rmi", "-f", name]);
            }
        };
        let (words, about): (Vec<&str>, String) = match act {
            Act::Build => {
                self.fresh();
                absent(BUILT);
                (vec!["build", "-q", "-t", BUILT, self.context()], BUILT.to_owned())
            }
            Act::Load => {
                absent(LOADED);
                (vec!["load", "-q", "-i", &self.saved], LOADED.to_owned())
            }
            Act::Pull => {
                absent(&self.pulled);
                (vec!["pull", "-q", &self.pulled], self.pulled.clone())
            }
            Act::Reduce => {
                absent(&self.pulled);
                self.insula(&["pull", "-q", &self.pulled]);
                (Vec::new(), self.pulled.clone())
            }
            Act::Push => {
                self.build();
                let name = self.registry.name(&format!("team/pushed:{}", self.round));
                self.insula(&["tag", BUILT, &name]);
                return (["push", "-q", &name].map(str::to_owned).to_vec(), name);
            }
            Act::Prune => (vec!["image", "prune", "-af"], String::new()),
            Act::Remove => {
                if !there.contains(BUILT) {
                    self.build();
                }
                (vec!["rmi", "-f", BUILT], BUILT.to_owned())
            }
        };
        (words.into_iter().map(str::to_owned).collect(), about)
    }

    /// One kill; what was wrong afterwards.
    fn attack(&mut self, act: Act) -> (bool, Vec<String>) {
        self.round += 1;
        let (words, about) = self.prepare(act);
        let before = self.names();
        let moment = Moment::thrown(&mut self.dice, rootfs::find("strace").is_some(), &CALLS);
        let (done, died) = self.strike(&words, &moment);
        self.subject.start_daemon();
        let mut wrong = self.faults(act, &about, &before, done);
        for fault in &mut wrong {
            *fault = format!("round {}, {act:?}, {moment:?}, done {done}: {fault}", self.round);
        }
        (died, wrong)
    }

    /// Asks for something and ends the daemon; whether it was acknowledged, and whether the daemon died of the call.
    fn strike(&mut self, words: &[String], moment: &Moment) -> (bool, bool) {
        let pid = self.subject.daemon_pid();
        let tracer = match moment {
            Moment::Call(call, nth) => Some(testkit::kill_at(pid, call, *nth)),
            Moment::After(_) => None,
        };
        let begun = Instant::now();
        let mut client: Option<Child> = (!words.is_empty()).then(|| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut command = self.subject.command(&words);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        });
        // What nobody asks for begins a second after the pull.
        let limit = match (moment, &client) {
            (Moment::After(wait), Some(_)) => Duration::from_millis(*wait),
            (Moment::After(wait), None) => Duration::from_millis(1000 + *wait),
            (Moment::Call(..), Some(_)) => SOON,
            (Moment::Call(..), None) => Duration::from_millis(2500),
        };
        let mut done = false;
        while begun.elapsed() < limit && !done && !self.subject.daemon_ended() {
            done = client.as_mut().is_some_and(|client| client.try_wait().unwrap().is_some());
            std::thread::sleep(Duration::from_millis(1));
        }
        let died = self.subject.daemon_ended();
        if !died {
            kill_process(pid, Signal::KILL).unwrap();
        }
        self.subject.reap_daemon();
        let acknowledged = client.as_mut().is_some_and(|client| client.wait().unwrap().success());
        if let Some(mut tracer) = tracer {
            tracer.wait().unwrap();
        }
        (acknowledged, died)
    }

    /// What is not as it should be after a restart.
    fn faults(&self, act: Act, about: &str, before: &BTreeSet<String>, done: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let check = self.subject.insula(&["system", "check"]);
        if check.code != 0 || check.text() != "all images are as they should be" {
            wrong.push(format!("{}{}", check.out, check.err));
        }
        let left = wait_for(IDLE, || entries(&self.state("tmp")).is_empty().then_some(()));
        if left.is_none() {
            wrong.push(format!("in the making: {:?}", entries(&self.state("tmp"))));
        }
        let now = self.names();
        let (made, removed) = match act {
            Act::Build | Act::Load | Act::Pull => (done, false),
            Act::Remove | Act::Prune => (false, true),
            Act::Push | Act::Reduce => (false, false),
        };
        if made && !now.contains(about) {
            wrong.push(format!("{about} was acknowledged and is not there"));
        }
        let may_go = |name: &str| removed && (act == Act::Prune || name == about);
        wrong.extend(before.difference(&now).filter(|name| !may_go(name)).map(|name| format!("{name} is lost")));
        if removed && done && (act == Act::Prune && !now.is_empty() || now.contains(about)) {
            wrong.push(format!("what was removed is there: {now:?}"));
        }
        if act == Act::Push && done {
            let shown = self.subject.insula(&["manifest", "inspect", about]);
            if shown.code != 0 {
                wrong.push(format!("{about} was pushed, and the registry says: {}", shown.err));
            }
        }
        if now.contains(about) {
            let run = self.subject.insula(&["run", "--rm", "--network", "none", about, "test", "-f", "/many/30"]);
            if run.code != 0 {
                wrong.push(format!("{about} does not run: {}", run.err));
            }
        }
        wrong
    }

    fn state(&self, folder: &str) -> PathBuf {
        self.subject.island.path("state/images").join(folder)
    }

    /// Everything is removed; what then still takes room.
    fn residue(&self) -> Vec<String> {
        self.insula(&["image", "prune", "-af"]);
        self.insula(&["builder", "prune", "-af"]);
        let all = ["blobs/sha256", "builds", "layers", "tmp"];
        let left = || all.iter().flat_map(|folder| entries(&self.state(folder))).collect::<Vec<_>>();
        let _ = wait_for(IDLE, || left().is_empty().then_some(()));
        left()
    }
}

fn entries(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().display().to_string()).collect()
}

/// Bytes that do not get smaller.
fn noise(count: usize) -> Vec<u8> {
    let mut dice = Dice::of(1);
    (0..count).map(|_| u8::try_from(dice.below(256)).unwrap()).collect()
}

#[test]
fn whatever_is_killed_holds_together() {
    let Some(mut yard) = Yard::open() else { return };
    if rootfs::find("strace").is_none() {
        println!("no strace on this machine: the daemon is killed at moments, and at no calls");
    }
    let (seed, rounds) = (yard.dice.seed, Dice::rounds(USUAL, ALL));
    let (mut wrong, mut died) = (Vec::new(), 0);
    for round in 0..rounds {
        let (killed, faults) = yard.attack(ACTS[round % ACTS.len()]);
        died += usize::from(killed);
        faults.iter().for_each(|fault| println!("{fault}"));
        wrong.extend(faults);
    }
    println!("{rounds} kills, {died} of them at calls, INSULA_E2E_SEED={seed}");
    let left = yard.residue();
    assert!(wrong.is_empty(), "INSULA_E2E_SEED={seed}:\n{}", wrong.join("\n"));
    assert!(left.is_empty(), "INSULA_E2E_SEED={seed}: space that did not come back: {left:?}");
    let Yard { subject, registry, .. } = yard;
    drop(registry);
    finish(&mut subject.command(&["system", "check"]), b"").expect(0);
    subject.finish();
}
