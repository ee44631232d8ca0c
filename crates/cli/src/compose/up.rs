//! `insula compose up`, `create` and `scale`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use compose::project::Dependencies;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::Value;
use sys::job::SignalQueue;

use super::converge::{self, Anonymous, Recreate, Rules};
use super::follow::{self, Printer};
use super::image::{self, Builds};
use super::stack::{Kind, Member, Mode, Stack, short_name};
use super::start::{self, Health, Starts};
use super::{COMMON, down, resource};
use crate::client::Query;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::value::number;
use crate::{output, table};

/// What `up` and `create` have in common.
static MAKING: &[Flag] = &[
    Flag::switch("build", "Build images although they are there"),
    Flag::switch("force-recreate", "Make all containers anew"),
    Flag::switch("no-build", "Build no image"),
    Flag::switch("no-recreate", "Make no container anew"),
    Flag::value("pull", "WHEN", "When to pull: always, missing, never or policy"),
    Flag::switch("quiet-build", "Show nothing of builds"),
    Flag::switch("quiet-pull", "Show no progress of pulls"),
    Flag::switch("remove-orphans", "Remove containers of services that the file has not"),
    Flag::list("scale", "SERVICE=NUMBER", "How many containers a service has"),
    Flag::switch("yes", "Accepted; nothing is asked").short('y'),
];

pub(super) static COMMAND: Command = Command {
    name: "up",
    usage: "[OPTIONS] [SERVICE...]",
    about: "Make and start services' containers",
    flags: &[
        COMMON,
        MAKING,
        &[
            Flag::switch("abort-on-container-exit", "Stop all when one has ended"),
            Flag::switch("abort-on-container-failure", "Stop all when one has ended badly"),
            Flag::switch("always-recreate-deps", "Make the containers of what the services need anew"),
            Flag::list("attach", "SERVICE", "Show the output of these services only"),
            Flag::switch("attach-dependencies", "Show the output of what the services need as well"),
            Flag::switch("detach", "Leave the containers in the background").short('d'),
            Flag::value("exit-code-from", "SERVICE", "End with this service's exit code, and stop all with it"),
            Flag::switch("menu", "Accepted; there is none"),
            Flag::list("no-attach", "SERVICE", "Show no output of these services"),
            Flag::switch("no-color", "Without colours"),
            Flag::switch("no-deps", "Leave what the services need alone"),
            Flag::switch("no-log-prefix", "Without names before the lines"),
            Flag::switch("no-start", "Make the containers only"),
            Flag::switch("renew-anon-volumes", "Give containers made anew new volumes where these have no name")
                .short('V'),
            Flag::value("timeout", "SECONDS", "How long containers have to stop").short('t'),
            Flag::switch("timestamps", "Show the time of each line"),
            Flag::switch("wait", "Wait until all run or are healthy; implies -d"),
            Flag::value("wait-timeout", "SECONDS", "How long to wait"),
            Flag::switch("watch", "Watch for changed files as well").short('w'),
        ],
    ],
    arguments: (0, Command::MANY),
    action: Action::Run(up),
    ..Command::BLANK
};

pub(super) static CREATE: Command = Command {
    name: "create",
    usage: "[OPTIONS] [SERVICE...]",
    about: "Make services' containers without starting them",
    flags: &[COMMON, MAKING],
    arguments: (0, Command::MANY),
    action: Action::Run(create),
    ..Command::BLANK
};

pub(super) static SCALE: Command = Command {
    name: "scale",
    usage: "[OPTIONS] SERVICE=NUMBER...",
    about: "Change how many containers services have",
    flags: &[COMMON, &[Flag::switch("no-deps", "Leave what the services need alone")]],
    arguments: (1, Command::MANY),
    action: Action::Run(scale),
    ..Command::BLANK
};

/// The exit code of a program that the user has ended at the keyboard: 128 + SIGINT.
const INTERRUPTED: u8 = 130;
/// How long the last container's last event may be on its way.
const LATE: Duration = Duration::from_millis(300);

fn dependencies(given: &Parsed) -> Dependencies {
    if given.on("no-deps") { Dependencies::Ignored } else { Dependencies::Included }
}

/// Seconds, if they were given.
pub(super) fn timeout(given: &Parsed) -> Result<Option<i64>, Failure> {
    given.read("timeout", number::integer)
}

fn set_scales<'a>(stack: &mut Stack, scales: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    for text in scales {
        let bad = || Failure::new(format!("bad scale {text:?}; give SERVICE=NUMBER"));
        let (name, number) = text.split_once('=').ok_or_else(bad)?;
        let number = number.parse().map_err(|_| bad())?;
        let service = stack.project.services.get_mut(name);
        let service = service.ok_or_else(|| Failure::new(format!("no such service: {name}")))?;
        if number > 1 && service.spec.container_name.is_some() {
            return Err(Failure::new(format!(
                "service {name:?} has a container_name, which several containers cannot share; take it out"
            )));
        }
        service.set_scale(number);
    }
    Ok(())
}

/// Makes everything that is to be there; the names of the services of which a container was made anew.
pub(super) fn make(stack: &Stack, given: &Parsed, named: &[String]) -> Result<BTreeSet<String>, Failure> {
    let images = image::ensure(stack, given, Builds::of(given)?)?;
    make_of(stack, given, named, images)
}

/// [`make`] with images that are there already, by service.
pub(super) fn make_of(
    stack: &Stack,
    given: &Parsed,
    named: &[String],
    images: BTreeMap<String, String>,
) -> Result<BTreeSet<String>, Failure> {
    let recreate = match (given.on("force-recreate"), given.on("no-recreate")) {
        (true, true) => {
            return Err(Failure::new("--force-recreate does not go with --no-recreate; give one or the other"));
        }
        (true, false) => Recreate::Force,
        (false, true) => Recreate::Never,
        (false, false) => Recreate::Diverged,
    };
    let recreate_others = match recreate {
        Recreate::Force if !given.on("always-recreate-deps") => Recreate::Diverged,
        _ if given.on("always-recreate-deps") => Recreate::Force,
        other => other,
    };
    let lent = super::plugin::models(stack)?;
    let networks = resource::networks(stack)?;
    resource::volumes(stack, resource::Diverged::of(given))?;
    let remove = given.on("remove-orphans") || down::is_set(stack, "COMPOSE_REMOVE_ORPHANS");
    down::orphans(stack, if remove { down::Orphans::Remove } else { down::Orphans::Tell })?;
    let anonymous = if given.on("renew-anon-volumes") { Anonymous::Renewed } else { Anonymous::Kept };
    let rules = Rules {
        recreate,
        recreate_others,
        named: named.to_vec(),
        anonymous,
        timeout: timeout(given)?,
        images,
        networks,
        lent,
    };
    converge::services(stack, &rules)
}

fn create(context: &Context, given: &Parsed) -> Outcome {
    let mut stack = Stack::new(context, given, &given.arguments, Dependencies::Included)?;
    set_scales(&mut stack, given.values("scale"))?;
    make(&stack, given, &given.arguments)?;
    Ok(0)
}

fn scale(context: &Context, given: &Parsed) -> Outcome {
    let names: Vec<String> =
        given.arguments.iter().map(|text| text.split('=').next().unwrap_or_default().to_owned()).collect();
    let mut stack = Stack::new(context, given, &names, dependencies(given))?;
    set_scales(&mut stack, given.arguments.iter().map(String::as_str))?;
    let renewed = make(&stack, given, &names)?;
    start::services(&stack, &Starts { renewed, before: None })?;
    Ok(0)
}

fn up(context: &Context, given: &Parsed) -> Outcome {
    let code_from = given.value("exit-code-from");
    let abort = given.on("abort-on-container-exit") || given.on("abort-on-container-failure") || code_from.is_some();
    let waits = given.on("wait") || given.value("wait-timeout").is_some();
    let detached = given.on("detach") || waits || given.on("no-start");
    if detached && abort {
        return Err(Failure::new(
            "--abort-on-container-exit and --exit-code-from do not go with --detach, --wait and --no-start",
        ));
    }
    let mut stack = Stack::new(context, given, &given.arguments, dependencies(given))?;
    if let Some(name) = code_from.filter(|name| !stack.project.services.contains_key(*name)) {
        return Err(Failure::new(format!("no such service: {name}")));
    }
    set_scales(&mut stack, given.values("scale"))?;
    if stack.project.services.is_empty() && !given.on("all-resources") {
        return Err(Failure::new(
            "no service is selected; are all of them in profiles? activate one with: --profile NAME",
        ));
    }
    // before any thread is there, so that none of them is ended by what the user types
    let signals = if detached { None } else { Some(SignalQueue::new(&[1, 2, 15])?) };
    let renewed = make(&stack, given, &given.arguments)?;
    if given.on("no-start") {
        return Ok(0);
    }
    let Some(signals) = signals else {
        start::services(&stack, &Starts { renewed, before: None })?;
        if waits {
            wait(&stack, given)?;
        }
        return Ok(0);
    };
    if stack.mode == Mode::DryRun {
        start::services(&stack, &Starts { renewed, before: None })?;
        return Ok(0);
    }
    let printer = Printer::new(given)?;
    Foreground::new(&stack, given, printer).run(signals, renewed)
}

/// Waits until every container runs, or is healthy where that is checked.
fn wait(stack: &Stack, given: &Parsed) -> Result<(), Failure> {
    let seconds = given.read("wait-timeout", number::integer)?.filter(|seconds| *seconds > 0);
    let until = seconds.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds.unsigned_abs())));
    let names: Vec<String> = stack.project.services.keys().cloned().collect();
    let members = stack.members_of(&names, Kind::Service)?;
    stack.each(&members, |member| {
        if awaited(stack, &member.service) {
            return start::completed(stack, &member.service, member);
        }
        start::healthy(stack, member, Health::IfChecked, until)
    })?;
    Ok(())
}

/// Whether another service waits for this one's end.
fn awaited(stack: &Stack, service: &str) -> bool {
    stack.project.services.values().any(|other| {
        let dependency = other.spec.depends_on.get(service);
        dependency.is_some_and(|dependency| dependency.condition == "service_completed_successfully")
    })
}

/// What happens while containers are in the foreground.
enum News {
    Event(Value),
    Signal,
    /// The daemon has gone.
    Lost,
}

/// Containers in the foreground: their output, their ends, and the user's keys.
struct Foreground<'a> {
    stack: &'a Stack,
    given: &'a Parsed,
    printer: Arc<Printer>,
    /// Threads that write output, by service.
    threads: Mutex<Vec<(String, JoinHandle<()>)>>,
    /// Containers whose output was joined before their start.
    joined: Mutex<BTreeSet<String>>,
}

impl<'a> Foreground<'a> {
    fn new(stack: &'a Stack, given: &'a Parsed, printer: Arc<Printer>) -> Self {
        Self { stack, given, printer, threads: Mutex::new(Vec::new()), joined: Mutex::default() }
    }

    /// Whether a service's output is shown.
    fn shows(&self, service: &str) -> bool {
        let (given, named) = (self.given, &self.given.arguments);
        if given.values("no-attach").any(|name| name == service) {
            return false;
        }
        if given.values("attach").next().is_some() {
            return given.values("attach").any(|name| name == service);
        }
        let spec = self.stack.project.services.get(service).map(|service| &service.spec);
        spec.is_some_and(|spec| spec.attach != Some(false))
            && (named.is_empty() || given.on("attach-dependencies") || named.iter().any(|name| name == service))
    }

    fn name(&self, member: &Member) -> String {
        member.short_name(&self.stack.project.name)
    }

    fn attach(&self, member: &Member) -> Result<(), Failure> {
        if !self.shows(&member.service) {
            return Ok(());
        }
        let thread = follow::join(&self.stack.context, &self.printer, member, &self.name(member))?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push((member.service.clone(), thread));
        Ok(())
    }

    fn run(&self, signals: SignalQueue, renewed: BTreeSet<String>) -> Outcome {
        let stack = self.stack;
        let (sender, news) = channel();
        let members = stack.members(Kind::Service)?;
        let members: Vec<Member> =
            members.into_iter().filter(|member| stack.project.services.contains_key(&member.service)).collect();
        members
            .iter()
            .filter(|member| self.shows(&member.service))
            .for_each(|member| self.printer.expect(&self.name(member)));
        let shown: Vec<String> =
            members.iter().filter(|member| self.shows(&member.service)).map(|member| self.name(member)).collect();
        let ready = self.given.on("watch").then(|| super::watch::ready(stack, self.given)).transpose()?;
        stack.board.hush();
        stack.board.print_hooks(&self.printer);
        output::print(&format!("Attaching to {}\n", shown.join(", ")));
        listen(stack, sender.clone())?;
        let interrupted = Arc::new(AtomicUsize::new(0));
        heed(signals, sender, Arc::clone(&interrupted));
        for member in members.iter().filter(|member| member.is_running()) {
            self.attach(member)?;
        }
        let before = |member: &Member| {
            self.joined.lock().unwrap_or_else(PoisonError::into_inner).insert(member.id.clone());
            self.attach(member)
        };
        let started = start::services(stack, &Starts { renewed, before: Some(&before) });
        if let Err(failure) = started {
            if interrupted.load(Ordering::SeqCst) > 0 {
                return self.stop_all(&interrupted, INTERRUPTED);
            }
            return Err(failure);
        }
        let watching = ready.map(|ready| super::watch::begin(stack, ready));
        let code = self.follow(&news, &interrupted);
        drop(watching);
        for (service, thread) in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            // what it had to say was said; what the services need goes on without anybody
            if self.counts(&service) {
                let _ = thread.join();
            }
        }
        code
    }

    /// Follows events until no container is left, or one has ended that ends all.
    fn follow(&self, news: &Receiver<News>, interrupted: &Arc<AtomicUsize>) -> Outcome {
        let stack = self.stack;
        let mut alive: BTreeSet<String> = BTreeSet::new();
        for member in stack.members(Kind::Service)?.iter().filter(|member| self.counts(&member.service)) {
            let container = stack.client().get(&format!("/containers/{}/json", member.id))?;
            if goes_on(&container) {
                alive.insert(member.id.clone());
            }
        }
        // those that ended at once have their events waiting below
        loop {
            let next = if alive.is_empty() { news.recv_timeout(LATE).ok() } else { news.recv().ok() };
            match next {
                None | Some(News::Lost) => return Ok(0),
                Some(News::Signal) => return self.stop_all(interrupted, INTERRUPTED),
                Some(News::Event(event)) => {
                    let (id, name, service, one_off) = follow::actor(&event);
                    if one_off || !self.counts(&service) {
                        continue;
                    }
                    let short = short_name(&stack.project.name, &name).to_owned();
                    match table::text(&event, "/Action") {
                        "die" => {
                            let code = exit_code(&event);
                            if self.shows(&service) {
                                self.printer.say(&short, &format!("exited with code {code}"));
                            }
                            let container = stack.client().get(&format!("/containers/{id}/json"));
                            if !container.is_ok_and(|container| goes_on(&container)) {
                                alive.remove(&id);
                            }
                            if let Some(code) = self.ends_all(code) {
                                output::write_error(b"Aborting on container exit...\n");
                                return self.stop_all(interrupted, code);
                            }
                        }
                        "start" => {
                            alive.insert(id.clone());
                            self.again(id, &short, &service);
                        }
                        "destroy" => {
                            alive.remove(&id);
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    /// A container was started: one whose output is not joined yet is followed from its start on.
    fn again(&self, id: String, short: &str, service: &str) {
        let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if joined || !self.shows(service) {
            return;
        }
        self.printer.expect(short);
        let (context, printer, name) = (self.stack.context.clone(), Arc::clone(&self.printer), short.to_owned());
        let thread = std::thread::spawn(move || {
            // one that has gone has nothing to say
            let _ = follow::since_start(&context, &printer, &id, &name);
        });
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push((service.to_owned(), thread));
    }

    /// Whether a service is one of those that are run here: one that was named, or that is shown.
    fn counts(&self, service: &str) -> bool {
        let named = &self.given.arguments;
        let code_from = self.given.value("exit-code-from") == Some(service);
        code_from || if named.is_empty() { self.shows(service) } else { named.iter().any(|name| name == service) }
    }

    /// The exit code of all, if the end of a container with this code ends all.
    fn ends_all(&self, code: u8) -> Option<u8> {
        let given = self.given;
        let failed = given.on("abort-on-container-failure") && code != 0;
        let any = given.on("abort-on-container-exit") || given.value("exit-code-from").is_some();
        (failed || any).then_some(code)
    }

    /// Stops all containers; at the user's second wish, kills them.
    fn stop_all(&self, interrupted: &Arc<AtomicUsize>, code: u8) -> Outcome {
        let stack = self.stack;
        if code == INTERRUPTED && interrupted.load(Ordering::SeqCst) > 0 {
            output::print("Gracefully Stopping... press Ctrl+C again to force\n");
        }
        stack.board.speak();
        // what was there for those that were named goes on without them
        let mut names = self.given.arguments.clone();
        if names.is_empty() {
            names = stack.project.services.keys().cloned().collect();
        }
        let timeout = timeout(self.given)?;
        let before = interrupted.load(Ordering::SeqCst);
        let stopped = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| {
                while !stopped.load(Ordering::SeqCst) {
                    if interrupted.load(Ordering::SeqCst) > before {
                        for member in stack.members_of(&names, Kind::Service).unwrap_or_default() {
                            // it may just have stopped
                            let _ = stack.client().post(&format!("/containers/{}/kill", member.id));
                        }
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            let done = down::stop_services(stack, &names, timeout);
            stopped.store(true, Ordering::SeqCst);
            let _ = killer.join();
            done
        })?;
        if let (Some(from), true) = (self.given.value("exit-code-from"), code != INTERRUPTED) {
            let member = stack.members_of(&[from.to_owned()], Kind::Service)?.into_iter().next();
            let member = member.ok_or_else(|| Failure::new(format!("service {from:?} has no container")))?;
            let container = stack.client().get(&format!("/containers/{}/json", member.id))?;
            return Ok(crate::container::run::exit_code(table::number(&container, "/State/ExitCode")));
        }
        Ok(code)
    }
}

/// Whether a container runs or will by itself.
fn goes_on(container: &Value) -> bool {
    matches!(table::text(container, "/State/Status"), "running" | "restarting" | "paused")
}

fn exit_code(event: &Value) -> u8 {
    let code = event.pointer("/Actor/Attributes/exitCode").and_then(Value::as_str).and_then(|code| code.parse().ok());
    crate::container::run::exit_code(code.unwrap_or(0))
}

/// Sends the project's events on.
fn listen(stack: &Stack, sender: Sender<News>) -> Result<(), Failure> {
    let answer = follow::events(stack, Query::default())?;
    std::thread::spawn(move || {
        let told = crate::image::import::each_line_until(answer, "lost the daemon", |event| {
            sender.send(News::Event(event.clone())).is_ok()
        });
        // either way nothing more comes
        drop(told);
        let _ = sender.send(News::Lost);
    });
    Ok(())
}

/// Sends the user's keys on.
fn heed(signals: SignalQueue, sender: Sender<News>, count: Arc<AtomicUsize>) {
    std::thread::spawn(move || {
        loop {
            let mut polled = [PollFd::new(&signals, PollFlags::IN)];
            // an interrupted wait begins again
            let _ = poll(&mut polled, None);
            while let Ok(Some(_)) = signals.next() {
                count.fetch_add(1, Ordering::SeqCst);
                if sender.send(News::Signal).is_err() {
                    return;
                }
            }
        }
    });
}
