//! `insula compose start`, `stop`, `restart`, `kill`, `pause` and `unpause`.

use compose::project::Dependencies;

use super::stack::{Kind, Member, Mode, Stack};
use super::start::{self, Health, Starts};
use super::{COMMON, down, up};
use crate::client::Query;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};

const TIMEOUT: &[Flag] = &[Flag::value("timeout", "SECONDS", "How long containers have to stop").short('t')];

pub(super) static START: Command = Command {
    name: "start",
    usage: "[SERVICE...]",
    about: "Start services' containers",
    flags: &[
        COMMON,
        &[
            Flag::switch("wait", "Wait until all run or are healthy"),
            Flag::value("wait-timeout", "SECONDS", "How long to wait"),
        ],
    ],
    arguments: (0, Command::MANY),
    action: Action::Run(start),
    ..Command::BLANK
};

pub(super) static STOP: Command = Command {
    name: "stop",
    usage: "[OPTIONS] [SERVICE...]",
    about: "Stop services' containers",
    flags: &[COMMON, TIMEOUT],
    arguments: (0, Command::MANY),
    action: Action::Run(stop),
    ..Command::BLANK
};

pub(super) static RESTART: Command = Command {
    name: "restart",
    usage: "[OPTIONS] [SERVICE...]",
    about: "Stop services' containers and start them again",
    flags: &[COMMON, TIMEOUT, &[Flag::switch("no-deps", "Leave those alone that are to be started again with them")]],
    arguments: (0, Command::MANY),
    action: Action::Run(restart),
    ..Command::BLANK
};

pub(super) static KILL: Command = Command {
    name: "kill",
    usage: "[OPTIONS] [SERVICE...]",
    about: "Send services' containers a signal",
    flags: &[
        COMMON,
        &[
            Flag::switch("remove-orphans", "Remove containers of services that the file has not"),
            Flag::value("signal", "SIGNAL", "The signal (SIGKILL)").short('s'),
        ],
    ],
    arguments: (0, Command::MANY),
    action: Action::Run(kill),
    ..Command::BLANK
};

pub(super) static PAUSE: Command = Command {
    name: "pause",
    usage: "[SERVICE...]",
    about: "Hold services' containers where they are",
    flags: &[COMMON],
    arguments: (0, Command::MANY),
    action: Action::Run(pause),
    ..Command::BLANK
};

pub(super) static UNPAUSE: Command = Command {
    name: "unpause",
    usage: "[SERVICE...]",
    about: "Let services' containers go on",
    flags: &[COMMON],
    arguments: (0, Command::MANY),
    action: Action::Run(unpause),
    ..Command::BLANK
};

fn start(context: &Context, given: &Parsed) -> Outcome {
    let mut stack = Stack::found(context, given, &given.arguments)?;
    stack.project.select(&given.arguments, Dependencies::Included)?;
    let names: Vec<String> = stack.project.services.keys().cloned().collect();
    let members = stack.members_of(&names, Kind::Service)?;
    let missing = given.arguments.iter().find(|name| !members.iter().any(|member| member.service == **name));
    if let Some(name) = missing {
        return Err(Failure::new(format!(
            "service {name:?} has no container to start; make one with: insula compose up -d {name}"
        )));
    }
    if members.is_empty() {
        return Err(Failure::new("there is no container to start; make them with: insula compose up -d"));
    }
    start::services(&stack, &Starts::default())?;
    if given.on("wait") {
        let members = stack.members_of(&names, Kind::Service)?;
        stack.each(&members, |member| start::healthy(&stack, member, Health::IfChecked, None))?;
    }
    Ok(0)
}

fn stop(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::found(context, given, &given.arguments)?;
    down::stop_services(&stack, &stack.meant(&given.arguments), up::timeout(given)?)?;
    Ok(0)
}

fn restart(context: &Context, given: &Parsed) -> Outcome {
    let mut stack = Stack::found(context, given, &given.arguments)?;
    // only who says that it is to be started again with another has to do with that one
    for service in stack.project.services.values_mut() {
        service.spec.depends_on.retain(|_, dependency| dependency.restart);
    }
    let with = if given.on("no-deps") { Dependencies::Ignored } else { Dependencies::Dependents };
    stack.project.select(&given.arguments, with)?;
    let timeout = up::timeout(given)?.map(|timeout| timeout.to_string());
    let members = stack.members(Kind::Service)?;
    for wave in super::converge::waves(&stack) {
        stack.each(&wave, |service| {
            start::wait_for(&stack, &service.name)?;
            let now: Vec<&Member> = members.iter().filter(|member| member.service == service.name).collect();
            stack.each(&now, |member| {
                super::converge::pre_stop(&stack, service, member)?;
                again(&stack, member, timeout.as_deref())?;
                start::post_start(&stack, service, member)
            })
        })?;
    }
    Ok(0)
}

fn again(stack: &Stack, member: &Member, timeout: Option<&str>) -> Result<(), Failure> {
    let target = Query::default().with_some("t", timeout).behind(&format!("/containers/{}/restart", member.id));
    act(stack, member, &target, "Restarting", "Started")
}

/// Asks for one thing to be done with a container, and shows it.
fn act(stack: &Stack, member: &Member, target: &str, working: &str, done: &str) -> Result<(), Failure> {
    stack.board.working("Container", &member.name, working);
    if stack.mode == Mode::Real
        && let Err(failure) = stack.client().post(target)
    {
        stack.board.failed("Container", &member.name, "Error");
        return Err(failure.during(&member.name));
    }
    stack.board.done("Container", &member.name, done);
    Ok(())
}

fn kill(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::found(context, given, &given.arguments)?;
    if given.on("remove-orphans") {
        down::orphans(&stack, down::Orphans::Remove)?;
    }
    let mut members = stack.members_of(&stack.meant(&given.arguments), Kind::Service)?;
    members.retain(|member| matches!(member.state.as_str(), "running" | "paused" | "restarting"));
    if members.is_empty() {
        crate::output::note("no container to kill");
        return Ok(0);
    }
    let query = Query::default().with("signal", given.value("signal").unwrap_or("SIGKILL"));
    stack.each(&members, |member| {
        act(&stack, member, &query.behind(&format!("/containers/{}/kill", member.id)), "Killing", "Killed")
    })?;
    Ok(0)
}

fn each_in_state(context: &Context, given: &Parsed, state: &str, word: &str, texts: [&str; 2]) -> Outcome {
    let stack = Stack::found(context, given, &given.arguments)?;
    let mut members = stack.members_of(&stack.meant(&given.arguments), Kind::Service)?;
    members.retain(|member| member.state == state);
    let [working, done] = texts;
    stack.each(&members, |member| act(&stack, member, &format!("/containers/{}/{word}", member.id), working, done))?;
    Ok(0)
}

fn pause(context: &Context, given: &Parsed) -> Outcome {
    each_in_state(context, given, "running", "pause", ["Pausing", "Paused"])
}

fn unpause(context: &Context, given: &Parsed) -> Outcome {
    each_in_state(context, given, "paused", "unpause", ["Unpausing", "Unpaused"])
}
