//! What is, beside what has to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::Value;
use testkit::wait_for;

use super::fleet::{Deed, Slot, State, User};
use crate::subject::Subject;

/// How long it may take until all is well: a restart's pause doubles each time.
const SETTLED: Duration = Duration::from_secs(30);

/// How long a removal that nobody was told of may take to be carried through.
const CARRIED: Duration = Duration::from_secs(3);

/// What the daemon says of containers, by the mark that each has in its environment.
fn seen(subject: &Subject) -> Result<BTreeMap<String, Value>, String> {
    let listed = subject.insula(&["ps", "-aq", "--no-trunc"]).expect(0);
    let ids: Vec<&str> = listed.out.split_whitespace().collect();
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let shown = subject.insula(&[&["inspect"][..], &ids].concat());
    // one may go while it is asked for
    if shown.code != 0 {
        return Err(shown.err);
    }
    let all: Vec<Value> = serde_json::from_str(&shown.out).unwrap();
    let mut found = BTreeMap::new();
    for one in all {
        let mark = one["Config"]["Env"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mark = mark.filter_map(|text| text.strip_prefix("SLOT=")).next().unwrap_or("nobody's").to_owned();
        if let Some(other) = found.insert(mark.clone(), one) {
            return Err(format!("{mark} is there twice: {} is another", other["Id"]));
        }
    }
    Ok(found)
}

/// Waits until all is as it should be; what is not, at last. What might be either way is then known.
pub(super) fn settle(subject: &Subject, users: &mut [User]) -> Vec<String> {
    let (mut last, begun) = (Vec::new(), Instant::now());
    let well = wait_for(SETTLED, || {
        let is_open = |user: &User| matches!(user.open, Some(Deed::Remove(_)));
        if begun.elapsed() < CARRIED && users.iter().any(is_open) {
            return None;
        }
        last = look(subject, users);
        last.is_empty().then_some(())
    });
    if well.is_some() { Vec::new() } else { last }
}

fn look(subject: &Subject, users: &mut [User]) -> Vec<String> {
    let mut all = match seen(subject) {
        Ok(all) => all,
        Err(why) => return vec![why],
    };
    let mut wrong = Vec::new();
    let listed = |words: &[&str]| -> BTreeSet<String> {
        subject.insula(words).expect(0).out.split_whitespace().map(str::to_owned).collect()
    };
    let networks = listed(&["network", "ls", "--format", "{{.Name}}"]);
    let volumes = listed(&["volume", "ls", "-q"]);
    let mut named = 0;
    let mut truths = Vec::new();
    for user in users.iter() {
        let mut truth = user.clone();
        truth.open = None;
        things(user, &mut truth, &networks, &volumes, &mut wrong);
        named += truth.volumes.iter().filter(|there| **there).count();
        for at in 0..user.crew.len() {
            let found = all.remove(&user.crew[at].mark);
            if let Err(why) = container(user, at, found.as_ref(), &mut truth) {
                wrong.push(why);
            }
        }
        truths.push(truth);
    }
    wrong.extend(all.keys().map(|mark| format!("{mark} is there")));
    let slots: Vec<&Slot> = truths.iter().flat_map(|user| &user.crew).collect();
    let anonymous = slots.iter().filter(|slot| slot.state != State::Gone && slot.anonymous).count();
    if wrong.is_empty() && volumes.len() != named + anonymous {
        wrong.push(format!("{named} volumes with a name, {anonymous} without one, and there are {volumes:?}"));
    }
    if wrong.is_empty() {
        wrong = reached(subject, &truths);
    }
    if wrong.is_empty() {
        users.clone_from_slice(&truths);
    }
    wrong
}

/// Networks and volumes.
fn things(
    user: &User,
    truth: &mut User,
    networks: &BTreeSet<String>,
    volumes: &BTreeSet<String>,
    wrong: &mut Vec<String>,
) {
    for at in 0..user.networks.len() {
        let there = networks.contains(&user.network(at));
        let open = [Deed::MakeNetwork(at), Deed::RemoveNetwork(at)].map(Some).contains(&user.open);
        if there != user.networks[at] && !open {
            wrong.push(format!("network {} is there: {there}", user.network(at)));
        }
        truth.networks[at] = there;
    }
    for at in 0..user.volumes.len() {
        let there = volumes.contains(&user.volume(at));
        // a new container makes its volumes
        let open = match &user.open {
            Some(Deed::MakeVolume(of) | Deed::RemoveVolume(of)) => *of == at,
            Some(deed @ (Deed::Create(..) | Deed::Run(..))) => {
                let mut after = user.clone();
                after.apply(deed);
                after.volumes[at]
            }
            _ => false,
        };
        if there != user.volumes[at] && !open {
            wrong.push(format!("volume {} is there: {there}", user.volume(at)));
        }
        truth.volumes[at] = there;
    }
}

/// One container, which is as it was, or as an unanswered request was to make it, or between the two.
fn container(user: &User, at: usize, found: Option<&Value>, truth: &mut User) -> Result<(), String> {
    let before = &user.crew[at];
    let mut may = vec![(before.clone(), before.state)];
    if let Some(deed) = &user.open {
        let mut after = user.clone();
        after.apply(deed);
        if let Some((_, between)) = User::halfway(deed).filter(|(of, _)| *of == at) {
            let after = after.crew.swap_remove(at);
            may.push((after.clone(), after.state));
            // whatever was written of the request, its end may be what it was, and the other way round
            let states = between.iter().copied().chain([before.state]);
            may.extend(states.map(|state| (after.clone(), state)));
            may.push((before.clone(), after.state));
            may.extend(between.iter().map(|state| (before.clone(), *state)));
        }
    }
    let mut why = BTreeSet::new();
    for (mut slot, state) in may {
        slot.state = slot.resumed(state);
        let what = differs(user, &slot, found);
        match what {
            None => {
                truth.crew[at] = slot;
                return Ok(());
            }
            Some(what) => drop(why.insert(what)),
        }
    }
    let why: Vec<String> = why.into_iter().collect();
    Err(format!("{}: {} (asked for: {:?})", before.name, why.join("; or "), user.open))
}

fn differs(user: &User, slot: &Slot, found: Option<&Value>) -> Option<String> {
    let Some(found) = found else {
        return (slot.state != State::Gone).then(|| format!("is not there, but is to be {:?}", slot.state));
    };
    let status = found["State"]["Status"].as_str().unwrap_or_default();
    if State::of(status) != Some(slot.state) {
        return Some(format!("is {status}, but is to be {:?} {}", slot.state, found["State"]["Error"]));
    }
    let name = found["Name"].as_str().unwrap_or_default().trim_start_matches('/');
    if name != slot.name {
        return Some(format!("is called {name}, but is to be {}", slot.name));
    }
    let policy = found["HostConfig"]["RestartPolicy"]["Name"].as_str().unwrap_or_default();
    if policy != slot.policy {
        return Some(format!("has the policy {policy:?}, but is to have {:?}", slot.policy));
    }
    let mut networks: BTreeSet<String> = slot.networks.iter().map(|number| user.network(*number)).collect();
    if slot.on_bridge {
        networks.insert("bridge".to_owned());
    }
    let have = found["NetworkSettings"]["Networks"].as_object();
    let have: BTreeSet<String> = have.into_iter().flatten().map(|(name, _)| name.clone()).collect();
    if have != networks {
        return Some(format!("is in {have:?}, but is to be in {networks:?}"));
    }
    let health = found["State"]["Health"]["Status"].as_str();
    if slot.state == State::Running && slot.probed && health != Some("healthy") {
        return Some(format!("is {health:?}, and no check of it fails"));
    }
    None
}

/// Whether each who runs answers at its own addresses, port and name, as itself.
fn reached(subject: &Subject, users: &[User]) -> Vec<String> {
    let all = match seen(subject) {
        Ok(all) => all,
        Err(why) => return vec![why],
    };
    let mut wrong = Vec::new();
    let mut owners: BTreeMap<(String, String), String> = BTreeMap::new();
    for user in users {
        for slot in user.crew.iter().filter(|slot| slot.state == State::Running) {
            let Some(found) = all.get(&slot.mark) else { return vec![format!("{} has gone", slot.name)] };
            let Some(networks) = found["NetworkSettings"]["Networks"].as_object() else { continue };
            for (network, endpoint) in networks {
                let address = endpoint["IPAddress"].as_str().unwrap_or_default();
                if let Some(other) = owners.insert((network.clone(), address.to_owned()), slot.name.clone()) {
                    wrong.push(format!("{other} and {} have {address} in {network}", slot.name));
                }
                answers(&slot.mark, address, 80, &mut wrong);
            }
            if slot.published && !slot.alone {
                answers(&slot.mark, "127.0.0.1", slot.port, &mut wrong);
            }
            let said = subject.insula(&["exec", &slot.name, "echo", "well"]);
            if said.out != "well\n" {
                wrong.push(format!("exec in {}: {} {} {}", slot.name, said.code, said.out, said.err));
            }
        }
        names(subject, user, &all, &mut wrong);
    }
    wrong
}

/// Whether two who share a network find each other by name.
fn names(subject: &Subject, user: &User, all: &BTreeMap<String, Value>, wrong: &mut Vec<String>) {
    for number in 0..user.networks.len() {
        let inside = |slot: &&Slot| slot.state == State::Running && slot.networks.contains(&number);
        let mut inside = user.crew.iter().filter(inside);
        let (Some(one), Some(other)) = (inside.next(), inside.next()) else { continue };
        // they may share both networks
        let address = |network: &usize| {
            let endpoint = &all[&other.mark]["NetworkSettings"]["Networks"][user.network(*network)];
            endpoint["IPAddress"].as_str().filter(|address| !address.is_empty())
        };
        let addresses: Vec<&str> = other.networks.intersection(&one.networks).filter_map(address).collect();
        let said = subject.insula(&["exec", &one.name, "timeout", "5", "nslookup", &other.name, "127.0.0.11"]);
        if !addresses.iter().any(|address| said.out.contains(address)) {
            let (one, other) = (&one.name, &other.name);
            wrong.push(format!("{one} asks for {other} at {addresses:?} and hears: {}{}", said.out, said.err));
        }
    }
}

/// Asks a web server who it is.
fn answers(mark: &str, address: &str, port: u16, wrong: &mut Vec<String>) {
    let heard = address.parse::<IpAddr>().map_err(|error| error.to_string()).and_then(|address| {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_secs(2))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text.lines().last().unwrap_or_default().to_owned())
        };
        ask().map_err(|error| error.to_string())
    });
    if heard.as_deref() != Ok(mark) {
        wrong.push(format!("at {address:?} port {port} there is {heard:?}, and should be {mark}"));
    }
}

/// The first process of the container with a mark.
pub(super) fn first_process(mark: &str) -> Option<Pid> {
    let wanted = format!("SLOT={mark}");
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|text| text.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let first = status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"));
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if first && environment.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes()) {
            return Some(pid);
        }
    }
    None
}

pub(super) fn parent(pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok().and_then(Pid::from_raw)
}

/// What can be left of containers, networks and volumes beyond what a subject itself looks for: links, rules, files.
pub(in crate::kernel) fn traces(subject: &Subject) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let output = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    };
    let links = output("ip", &["-o", "link"]);
    found.extend(links.lines().filter_map(|line| line.split(": ").nth(1)).map(|link| format!("link {link}")));
    let rules = output("nft", &["-s", "list", "ruleset"]);
    found.extend(rules.lines().map(|line| format!("rule {}", line.trim())));
    for (folder, passed) in [("state", &["store", "images"][..]), ("run", &[])] {
        files(&subject.island.path(folder), passed, &mut found);
    }
    found
}

fn files(folder: &Path, passed: &[&str], found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if passed.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        found.insert(format!("file {}", entry.path().display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&entry.path(), &[], found);
        }
    }
}
