//! `insula vm kill`, `pause`, `resume`, `rm`, `stop`.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::json;
use sys::job::SignalQueue;

use super::place::Place;
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::output;
use crate::value::number;

/// How long a guest may take to switch itself off.
const STOP_SECONDS: u64 = 10;
/// How long a process may take to end after it was told.
const END: Duration = Duration::from_secs(10);
/// How long one that ends by itself may take beyond its last answer.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// `SIGHUP`, `SIGINT`, `SIGTERM`.
const ENDING: [i32; 3] = [1, 2, 15];

const fn command(name: &'static str, about: &'static str, action: Action) -> Command {
    Command { name, usage: "NAME [NAME...]", about, arguments: (1, Command::MANY), action, ..Command::BLANK }
}

pub(crate) static KILL: Command = command("kill", "End machines at once", Action::Run(kill));
pub(crate) static PAUSE: Command = command("pause", "Bring machines to rest", Action::Run(pause));
pub(crate) static RESUME: Command = command("resume", "Let machines go on", Action::Run(resume));
pub(crate) static RM: Command = command("rm", "Forget machines that have ended", Action::Run(rm));
pub(crate) static STOP: Command = Command {
    usage: "[OPTIONS] NAME [NAME...]",
    flags: &[&[
        Flag::value("time", "SECONDS", "How long the guest may take before it is killed (default 10)").short('t')
    ]],
    ..command("stop", "Press machines' power buttons", Action::Run(stop))
};

pub(crate) static BALLOON: Command = Command {
    name: "balloon",
    usage: "NAME SIZE",
    about: "Say how much memory a machine's guest is to lack",
    arguments: (2, 2),
    action: Action::Run(balloon),
    ..Command::BLANK
};

fn balloon(context: &Context, given: &Parsed) -> Outcome {
    let place = Place::find(context, given.first())?;
    let size = given.arguments.get(1).map_or("", String::as_str);
    let size = number::bytes(size).map_err(|why| Failure::new(format!("bad size {size:?}: {why}")))?;
    place.request("PUT", "/balloon", Some(&json!({ "size": size })))?;
    Ok(0)
}

fn each(context: &Context, given: &Parsed, act: impl Fn(&Place) -> Result<(), Failure>) -> Outcome {
    let mut code = 0;
    for name in &given.arguments {
        match Place::find(context, name).and_then(|place| act(&place)) {
            Ok(()) => output::line(name),
            Err(failure) => {
                output::note(failure.text());
                code = 1;
            }
        }
    }
    Ok(code)
}

/// Waits until the machine's process has ended.
fn ended(place: &Place, limit: Duration) -> bool {
    let since = Instant::now();
    while place.alive() {
        if since.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

fn kill_one(place: &Place) -> Result<(), Failure> {
    let lived = place.alive();
    let asked = place.request("PUT", "/kill", None);
    // One that ended by itself at that moment did not answer, but is what it was to be.
    let by_itself = || lived && ended(place, LAST_MOMENT);
    if let Err(failure) = asked
        && !by_itself()
    {
        return Err(failure);
    }
    if ended(place, END) {
        return Ok(());
    }
    let pid = place.pid().map_or_else(String::new, |pid| format!(", process {pid},"));
    Err(Failure::new(format!("the machine {:?}{pid} does not end", place.name)))
}

fn kill(context: &Context, given: &Parsed) -> Outcome {
    each(context, given, kill_one)
}

fn pause(context: &Context, given: &Parsed) -> Outcome {
    each(context, given, |place| place.request("PUT", "/pause", None).map(drop))
}

fn resume(context: &Context, given: &Parsed) -> Outcome {
    each(context, given, |place| place.request("PUT", "/resume", None).map(drop))
}

fn rm(context: &Context, given: &Parsed) -> Outcome {
    each(context, given, |place| {
        if place.alive() {
            let name = &place.name;
            let how = format!("end it first with: insula vm stop {name}");
            return Err(Failure::new(format!("the machine {name:?} is running; {how}")));
        }
        place.remove()
    })
}

fn stop(context: &Context, given: &Parsed) -> Outcome {
    let read = |text: &str| text.parse().map_err(|_| "give a number of seconds".to_owned());
    let seconds = given.read("time", read)?.unwrap_or(STOP_SECONDS);
    each(context, given, |place| {
        place.request("PUT", "/stop", None)?;
        if ended(place, Duration::from_secs(seconds)) { Ok(()) } else { kill_one(place) }
    })
}

/// Holds back the signals that would end this program.
///
/// # Errors
/// What signalfd(2) says.
pub(super) fn hold_signals() -> Result<SignalQueue, Failure> {
    Ok(SignalQueue::new(&ENDING)?)
}

/// From now on a signal that would end this program, which shows the machine's console, ends the machine: its power button is pressed. It is
/// killed by a second signal, or when it takes too long.
///
/// # Errors
/// No thread is free.
pub(super) fn end_by_signal(signals: SignalQueue, place: &Place) -> Result<(), Failure> {
    let place = place.clone();
    let end = move || {
        let none = Timespec { tv_sec: i64::MAX, tv_nsec: 0 };
        if !signalled(&signals, &none) {
            return;
        }
        // A machine that can't be asked is killed as well; one that has ended needs neither.
        let asked = place.request("PUT", "/stop", None);
        let patience = Timespec { tv_sec: STOP_SECONDS.cast_signed(), tv_nsec: 0 };
        let _more = asked.is_ok() && signalled(&signals, &patience);
        let _killed = place.request("PUT", "/kill", None);
    };
    let started = std::thread::Builder::new().name("signals".to_owned()).spawn(end);
    started.map(drop).during(|| "starting a thread".to_owned())
}

/// Whether a signal came in time.
fn signalled(signals: &SignalQueue, limit: &Timespec) -> bool {
    loop {
        match signals.next() {
            Ok(Some(_)) => return true,
            Ok(None) => {}
            Err(_) => return false,
        }
        match poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(limit)) {
            Ok(0) => return false,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
