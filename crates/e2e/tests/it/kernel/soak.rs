//! A daemon that works for long: thousands of starts in a row, hundreds of containers at once, dozens of clients that follow logs and
//! events. Afterwards it has the memory, descriptors, threads and files that it had before.
//!
//! `cargo xtask soak` runs all of it, a usual run a small part, which shows that nothing is left, and says nothing of memory.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use testkit::wait_for;

use super::ordeal::verdict;
use crate::conformance::network;
use crate::leftover;
use crate::subject::{SOON, Subject, skip_unless_insula};

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// Starts in a row before the first look.
    warm: usize,
    /// And between two looks.
    batch: usize,
    batches: usize,
    at_once: usize,
    clients: usize,
    /// Lines that each client follows.
    lines: usize,
    /// After which a daemon that nobody asks has given back what it took for the last requests.
    rest: Duration,
}

const USUAL: Effort =
    Effort { warm: 12, batch: 12, batches: 1, at_once: 12, clients: 6, lines: 300, rest: Duration::ZERO };
const WHOLE: Effort = Effort {
    warm: 500,
    batch: 1000,
    batches: 5,
    at_once: 500,
    clients: 50,
    lines: 20_000,
    rest: Duration::from_secs(25),
};

/// Who asks at the same time.
const WORKERS: usize = 4;
/// Growth that is none: pages that a request has touched and the next one will touch again.
const SLACK_KIB: u64 = 4096;

/// A process of the daemon's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Body {
    /// Private and shared pages by their share, in KiB.
    memory: u64,
    descriptors: usize,
    threads: usize,
}

/// What there is at one moment.
#[derive(Debug, Clone)]
struct Picture {
    title: String,
    daemon: Body,
    names: Body,
    /// Everything else that can be traced to the subject.
    things: BTreeSet<String>,
    /// The length of the log of the state, in KiB.
    store: u64,
}

impl Picture {
    fn take(subject: &Subject, title: &str, effort: &Effort) -> Self {
        std::thread::sleep(effort.rest);
        let pid = subject.daemon_pid();
        // what is on its way out may take a moment; threads that wait for work end after ten seconds
        let mut last = things(subject);
        let _ = wait_for(SOON, || {
            std::thread::sleep(Duration::from_millis(100));
            let now = things(subject);
            let same = now == last;
            last = now;
            same.then_some(())
        });
        let store = files_kib(&subject.island.path("state/store"));
        let names = network::helper(subject).map(Body::of).unwrap_or_default();
        let picture = Self { title: title.to_owned(), daemon: Body::of(pid), names, things: last, store };
        println!("{}", picture.row());
        picture
    }

    fn row(&self) -> String {
        let Self { title, daemon, names, things, store } = self;
        let mb = |kib: u64| f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0;
        format!(
            "| {title} | {:.1} | {} | {} | {:.1} | {} | {} | {} | {:.1} |",
            mb(daemon.memory),
            daemon.descriptors,
            daemon.threads,
            mb(names.memory),
            names.descriptors,
            names.threads,
            things.len(),
            mb(*store)
        )
    }
}

const HEAD: &str = "| after | daemon, MB PSS | descriptors | threads | insula-netd, MB PSS | descriptors | threads | links, rules, mounts, \
                    groups, processes, files | state, MB |\n|---|---|---|---|---|---|---|---|---|";

impl Body {
    fn of(pid: Pid) -> Self {
        let folder = format!("/proc/{}", pid.as_raw_nonzero());
        let count = |name: &str| fs::read_dir(format!("{folder}/{name}")).map(Iterator::count).unwrap_or_default();
        let rollup = fs::read_to_string(format!("{folder}/smaps_rollup")).unwrap_or_default();
        let memory = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok());
        Self { memory: memory.unwrap_or_default(), descriptors: count("fd"), threads: count("task") }
    }
}

fn things(subject: &Subject) -> BTreeSet<String> {
    let mut found = verdict::traces(subject);
    let left = leftover::of(subject.island.root(), &subject.group);
    // its number and place among the mounts say nothing
    found.extend(left.into_iter().map(|line| match line.split_once(' ') {
        Some(("mount", rest)) => format!("mount {}", rest.split(' ').nth(4).unwrap_or_default()),
        Some(("process", rest)) => format!("process {}", rest.split_once(' ').unwrap_or_default().1),
        _ => line,
    }));
    found
}

fn files_kib(folder: &std::path::Path) -> u64 {
    let lengths = fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok());
    lengths.map(|metadata| metadata.len()).sum::<u64>() / 1024
}

/// One container's life, each number another one.
fn life(subject: &Subject, number: usize) {
    let name = format!("life{number}");
    let run = |words: &[&str]| drop(subject.insula(words).expect(0));
    let once = |options: &[&str]| {
        run(&[&["run", "--rm", "--name", &name][..], options, &[network::NET, "echo", "done"]].concat());
    };
    match number % 6 {
        0 | 1 => once(&[]),
        2 => once(&["-p", "80", "--network", "soak"]),
        3 => once(&["-v", "/anonymous", "--log-driver", "local"]),
        4 => once(&["--network", "none", "--health-cmd", "true"]),
        _ => {
            run(&["run", "-d", "--name", &name, "-p", "80/udp", network::NET, "sleep", "1000"]);
            run(&["exec", &name, "true"]);
            run(&["network", "connect", "soak", &name]);
            run(&["stop", "-t", "0", &name]);
            run(&["start", &name]);
            run(&["rm", "-f", "-v", &name]);
        }
    }
}

/// So many lives, some at the same time.
fn lives(subject: &Subject, count: usize) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    life(subject, number);
                }
            });
        }
    });
}

/// So many at once; what the daemon and each helper has meanwhile.
fn crowd(subject: &Subject, effort: &Effort) -> String {
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < effort.at_once {
                    subject.insula(&["run", "-d", "-p", "80", network::NET, "sleep", "100000"]).expect(0);
                }
            });
        }
    });
    let started = begun.elapsed();
    let ids = subject.insula(&["ps", "-q"]).expect(0);
    assert_eq!(ids.out.lines().count(), effort.at_once, "not all run");
    std::thread::sleep(effort.rest);
    let ticks = || cpu_ticks(subject.daemon_pid());
    let (daemon, before) = (Body::of(subject.daemon_pid()), ticks());
    let names = network::helper(subject).map(Body::of).unwrap_or_default();
    std::thread::sleep(effort.rest);
    let used = ticks() - before;
    let begun = Instant::now();
    for some in ids.out.split_whitespace().collect::<Vec<_>>().chunks(50) {
        subject.insula(&[&["rm", "-f"], some].concat()).expect(0);
    }
    format!(
        "{} at once: started in {:.1} s, removed in {:.1} s; meanwhile the daemon has {} KiB, {} descriptors, {} threads and takes {used} \
         hundredths of a second in {} s, insula-netd has {} KiB and {} descriptors",
        effort.at_once,
        started.as_secs_f64(),
        begun.elapsed().as_secs_f64(),
        daemon.memory,
        daemon.descriptors,
        daemon.threads,
        effort.rest.as_secs(),
        names.memory,
        names.descriptors,
    )
}

/// Processor time of a process, in the kernel's ticks.
fn cpu_ticks(pid: Pid) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// Clients that follow logs, events and measurements, to the end or until they are killed in the middle.
fn listeners(subject: &Subject, effort: &Effort) {
    let lines = effort.lines.to_string();
    let script =
        format!("i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo line $i of what there is to say; done; sleep 1000");
    subject.insula(&["run", "-d", "--name", "talker", network::NET, "sh", "-c", &script]).expect(0);
    let follow = |number: usize| -> (bool, Child) {
        let words: &[&str] = match number % 5 {
            0 => &["events"],
            1 => &["stats", "--format", "{{.Name}} {{.MemUsage}}"],
            _ => &["logs", "-f", "--tail", &lines, "talker"],
        };
        let mut command = subject.command(words);
        let file = fs::File::create(subject.island.path(&format!("heard{number}"))).unwrap();
        command.stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
        (number % 5 > 1, command.spawn().unwrap())
    };
    let mut clients: Vec<_> = (0..effort.clients).map(follow).collect();
    lives(subject, effort.clients * 2);
    let last = format!("line {lines} of what there is to say");
    for number in (0..effort.clients).filter(|number| number % 5 > 1) {
        let path = subject.island.path(&format!("heard{number}"));
        let heard = || fs::read_to_string(&path).unwrap_or_default();
        let whole = wait_for(SOON * 6, || heard().trim_end().ends_with(&last).then_some(()));
        assert!(whole.is_some(), "client {number} heard {} lines", heard().lines().count());
        assert_eq!(heard().lines().count(), effort.lines, "client {number}");
    }
    // half of them go first, the others lose their container
    for (number, (_, client)) in clients.iter_mut().enumerate() {
        if number % 2 == 0 {
            client.kill().unwrap();
            client.wait().unwrap();
        }
    }
    subject.insula(&["rm", "-f", "talker"]).expect(0);
    for (number, (is_log, client)) in clients.iter_mut().enumerate().filter(|(number, _)| number % 2 == 1) {
        if *is_log {
            let ended = wait_for(SOON, || client.try_wait().unwrap());
            assert!(ended.is_some(), "client {number} waits for a container that has gone");
        } else {
            client.kill().unwrap();
            client.wait().unwrap();
        }
    }
    for number in 0..effort.clients {
        fs::remove_file(subject.island.path(&format!("heard{number}"))).unwrap();
    }
}

#[test]
fn a_daemon_that_works_for_long_does_not_grow() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = network::subject() else { return };
    let whole = std::env::var_os("INSULA_E2E_SOAK").is_some();
    let effort = if whole { WHOLE } else { USUAL };
    subject.insula(&["network", "create", "soak"]).expect(0);
    println!("{HEAD}");
    let look = |title: &str| Picture::take(&subject, title, &effort);
    lives(&subject, effort.warm);
    // also before the first look: what a crowd needs, the next one finds there
    let _ = crowd(&subject, &Effort { rest: Duration::ZERO, ..effort });
    listeners(&subject, &effort);
    let first = look("warming up");
    let mut pictures = Vec::new();
    for batch in 1..=effort.batches {
        lives(&subject, effort.batch);
        pictures.push(look(&format!("{} starts", batch * effort.batch)));
    }
    let crowd = crowd(&subject, &effort);
    pictures.push(look(&format!("{} at once", effort.at_once)));
    listeners(&subject, &effort);
    pictures.push(look(&format!("{} clients that listen", effort.clients)));
    println!("\n{crowd}");
    let wrong = pictures.iter().fold(String::new(), |mut wrong, picture| {
        for thing in picture.things.difference(&first.things) {
            let _ = writeln!(wrong, "{}: {thing}", picture.title);
        }
        let descriptors = |picture: &Picture| (picture.daemon.descriptors, picture.names.descriptors);
        if descriptors(picture) > descriptors(&first) {
            let _ = writeln!(
                wrong,
                "{}: descriptors {:?}, before {:?}",
                picture.title,
                descriptors(picture),
                descriptors(&first)
            );
        }
        let memory = |picture: &Picture| picture.daemon.memory + picture.names.memory;
        if whole && memory(picture) > memory(&first) + SLACK_KIB {
            let _ = writeln!(wrong, "{}: {} KiB, before {}", picture.title, memory(picture), memory(&first));
        }
        wrong
    });
    assert!(wrong.is_empty(), "{wrong}");
    subject.insula(&["network", "rm", "soak"]).expect(0);
    subject.finish();
}
