//! The engine beside dockerd and podman, with the default bridge, through the stock client.
//!
//! Clients work in a control group of their own, so that the server's processor time is seen alone: daemon, helpers,
//! shims and what the container itself takes.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::ground::{Engine, Ground, Kind};
use super::measure::{self, Apart, Groups, Spread};
use crate::shell::{self, find_program, step};

const AT_ONCE: usize = 50;

/// How often, and how many.
pub(super) struct Effort {
    pub(super) starts: u32,
    pub(super) bursts: u32,
    pub(super) listed: usize,
    pub(super) lists: u32,
    pub(super) lines: u32,
    pub(super) idle: usize,
    pub(super) rest_seconds: u32,
}

/// Runs the bench; the report.
pub(super) fn measure(bin: &Path, groups: &Groups, effort: &Effort) -> Result<String> {
    let kinds = [Kind::Podman, Kind::Docker, Kind::Insula];
    let programs = ["seq"].map(|name| find_program(name).with_context(|| format!("{name} is missing")));
    let programs = programs.into_iter().collect::<Result<Vec<_>>>()?;
    let programs: Vec<&Path> = programs.iter().map(std::path::PathBuf::as_path).collect();
    let ground = step("prepare the engines", || Ground::create(bin, groups, &kinds, &programs))?;
    let all: Vec<&Engine> = ground.engines.iter().collect();
    let parts: [(&str, &dyn Fn() -> Result<String>); 6] = [
        ("run --rm with the default bridge, in turns", &|| {
            let run = |engine: &Engine| engine.run("run", &["--rm"], &["true"]).quiet().check();
            turns("`run --rm IMAGE true`, default bridge", &all, groups, effort.starts, &run)
        }),
        ("exec, in turns", &|| execs(&all, groups, effort.starts)),
        ("50 at once", &|| bursts(&all, groups, effort.bursts)),
        ("logs", &|| logs(&all, groups, effort)),
        ("lists", &|| lists(&all[1..], groups, effort)),
        ("at rest", &|| rest(&all[1..], groups, effort)),
    ];
    let mut report = Vec::new();
    for (title, part) in parts {
        let text = step(title, part)?;
        // what comes later may fail, or take longer than somebody waits
        println!("{text}");
        report.push(text);
    }
    Ok(report.join("\n"))
}

/// Has each engine do the same in turns, and compares with dockerd.
fn turns(
    title: &str,
    engines: &[&Engine],
    groups: &Groups,
    rounds: u32,
    action: &dyn Fn(&Engine) -> Result<()>,
) -> Result<String> {
    let mut samples: Vec<Vec<Apart>> = engines.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        for (engine, kept) in engines.iter().zip(&mut samples) {
            let sample = groups.measure_apart(engine.kind.name(), || action(engine))?;
            // the first round warms caches
            if round > 0 {
                kept.push(sample);
            }
            ensure!(!shell::interrupted(), "interrupted");
        }
    }
    let wall: Vec<Spread> = samples.iter().map(|of| Spread::of(of.iter().map(|one| one.wall_ms))).collect();
    let docker = engines.iter().position(|engine| engine.kind == Kind::Docker).context("no docker")?;
    let mut text = format!(
        "## {title}, {rounds} rounds\n\n| | wall ms: median (min - max) | CPU ms, client | CPU ms, server | wall, dockerd = 1 |\n\
         |---|---|---|---|---|\n"
    );
    for (index, engine) in engines.iter().enumerate() {
        let ratio = wall[index].median / wall[docker].median;
        let client = Spread::of(samples[index].iter().map(|one| one.client_ms));
        let server = Spread::of(samples[index].iter().map(|one| one.server_ms));
        let _ = writeln!(text, "| {} | {} | {client} | {server} | {ratio:.3} |", engine.kind.title(), wall[index]);
    }
    Ok(text)
}

fn execs(engines: &[&Engine], groups: &Groups, rounds: u32) -> Result<String> {
    let mut ids = Vec::new();
    for engine in engines {
        groups.enter(engine.kind.name())?;
        ids.push((engine.kind, engine.start(&["--name", "patient"], &["sleep", "100000"])?));
    }
    let exec = |engine: &Engine| engine.client(&["exec", "patient", "true"]).quiet().check();
    let report = turns("`exec CONTAINER true`", engines, groups, rounds, &exec);
    for engine in engines {
        engine.remove(&["patient".to_owned()])?;
    }
    report
}

fn bursts(engines: &[&Engine], groups: &Groups, rounds: u32) -> Result<String> {
    let mut samples: Vec<Vec<f64>> = engines.iter().map(|_| Vec::new()).collect();
    let mut failed = vec![0_usize; engines.len()];
    for _ in 0..rounds {
        for (index, engine) in engines.iter().enumerate() {
            let sample = groups.measure_apart(engine.kind.name(), || {
                let start = |_| engine.run("run", &["--rm"], &["true"]).quiet().spawn();
                for mut child in (0..AT_ONCE).map(start).collect::<Result<Vec<_>>>()? {
                    let status = child.wait().context("cannot wait for a client")?;
                    failed[index] += usize::from(!status.success());
                }
                Ok(())
            })?;
            samples[index].push(sample.wall_ms / 1000.0);
            ensure!(!shell::interrupted(), "interrupted");
        }
    }
    let spreads: Vec<Spread> = samples.into_iter().map(Spread::of).collect();
    let docker = engines.iter().position(|engine| engine.kind == Kind::Docker).context("no docker")?;
    let mut text = format!(
        "## {AT_ONCE} of them at once, {rounds} rounds\n\n| | seconds: median (min - max) | throughput, dockerd = 1 | failed |\n\
         |---|---|---|---|\n"
    );
    for ((engine, spread), failed) in engines.iter().zip(&spreads).zip(failed) {
        let ratio = spreads[docker].median / spread.median;
        let _ = writeln!(text, "| {} | {spread} | {ratio:.1} | {failed} |", engine.kind.title());
    }
    Ok(text)
}

fn logs(engines: &[&Engine], groups: &Groups, effort: &Effort) -> Result<String> {
    let lines = effort.lines.to_string();
    for engine in engines {
        groups.enter(engine.kind.name())?;
        let command = ["seq", "-f", "line %.0f of what a service has to say", &lines];
        engine.run("run", &["--name", "talker"], &command).quiet().check()?;
    }
    let read = |engine: &Engine| engine.client(&["logs", "talker"]).quiet().check();
    let report = turns(&format!("`logs` of {lines} lines"), engines, groups, effort.lists.min(5), &read);
    for engine in engines {
        engine.remove(&["talker".to_owned()])?;
    }
    report
}

fn lists(engines: &[&Engine], groups: &Groups, effort: &Effort) -> Result<String> {
    for engine in engines {
        groups.enter(engine.kind.name())?;
        let mut left = effort.listed;
        while left > 0 {
            let create = |_| engine.run("create", &[], &["true"]).quiet().spawn();
            let some = left.min(10);
            for mut child in (0..some).map(create).collect::<Result<Vec<_>>>()? {
                ensure!(child.wait().context("cannot wait for a client")?.success(), "a container was not made");
            }
            left -= some;
            ensure!(!shell::interrupted(), "interrupted");
        }
    }
    let list = |engine: &Engine| -> Result<()> {
        let text = engine.client(&["ps", "-aq"]).output()?;
        ensure!(text.lines().count() >= effort.listed, "containers are missing");
        Ok(())
    };
    let short = turns(&format!("`ps -aq` with {} containers", effort.listed), engines, groups, effort.lists, &list)?;
    let list = |engine: &Engine| engine.client(&["ps", "-a"]).quiet().check();
    let long = turns(&format!("`ps -a` with {} containers", effort.listed), engines, groups, effort.lists, &list)?;
    let start = |engine: &Engine| engine.client(&["ps"]).quiet().check();
    let start = turns("`ps` while none runs: the client alone", engines, groups, effort.lists, &start)?;
    let bare = |engine: &Engine| -> Result<()> {
        let text = engine.get("/containers/json?all=1")?;
        // in chunks or whole: each container takes some hundred bytes
        ensure!(text.len() > 200 * effort.listed, "containers are missing");
        Ok(())
    };
    let title = format!("`GET /containers/json?all=1` with {} containers: no client", effort.listed);
    let bare = turns(&title, engines, groups, effort.lists, &bare)?;
    let clear = |engine: &Engine| -> Result<()> {
        let text = engine.client(&["ps", "-aq"]).output()?;
        engine.remove(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    };
    engines.iter().try_for_each(|engine| clear(engine))?;
    Ok([short, long, start, bare].join("\n"))
}

fn rest(engines: &[&Engine], groups: &Groups, effort: &Effort) -> Result<String> {
    let mut text = format!(
        "## At rest, with {} containers that run and do nothing, over {} s\n\n\
         | | daemon and its helpers, MB PSS | helper of a container, MB PSS | all, MB | CPU, % of a core |\n|---|---|---|---|---|\n",
        effort.idle, effort.rest_seconds
    );
    for engine in engines {
        let name = engine.kind.name();
        groups.enter(name)?;
        let ids: Vec<String> =
            (0..effort.idle).map(|_| engine.start(&[], &["sleep", "100000"])).collect::<Result<_>>()?;
        std::thread::sleep(Duration::from_secs(3));
        let helper = if engine.kind == Kind::Insula { "insula-shim" } else { "containerd-shim" };
        let daemons = engine.daemons()?;
        let (mean, _) = measure::memory(&daemons).context("a daemon has gone")?;
        let (each, _) = measure::memory(&measure::processes_named(helper)).context("no helper was found")?;
        let daemon = mean * daemons.len() as f64;
        // nobody asks anything meanwhile, and the containers sleep
        let (before, begun) = (groups.used(name)?, Instant::now());
        std::thread::sleep(Duration::from_secs(u64::from(effort.rest_seconds)));
        let used = groups.used(name)?.saturating_sub(before);
        let percent = 100.0 * used.as_secs_f64() / begun.elapsed().as_secs_f64();
        engine.remove(&ids)?;
        let all = daemon + each * effort.idle as f64;
        let _ = writeln!(text, "| {} | {daemon:.1} | {each:.2} | {all:.0} | {percent:.2} |", engine.kind.title());
    }
    Ok(text)
}
