//! Containers started in the order of what they need, each when what it waits for has come.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use compose::project::{Dependency, Service};

use super::converge::waves;
use super::stack::{Kind, Member, Mode, Stack};
use crate::failure::{During as _, Failure};
use crate::{output, table};

/// How often a container that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Called with a container.
type Before<'a> = &'a (dyn Fn(&Member) -> Result<(), Failure> + Sync);

/// What starting does beside starting.
#[derive(Default)]
pub(super) struct Starts<'a> {
    /// Services of which a container was made anew: those that say so of them are started again.
    pub(super) renewed: BTreeSet<String>,
    /// Called with each container before it is started.
    pub(super) before: Option<Before<'a>>,
}

/// Starts the containers of the project's services that do not run.
pub(super) fn services(stack: &Stack, starts: &Starts<'_>) -> Result<(), Failure> {
    for wave in waves(stack) {
        stack.each(&wave, |service| {
            let members = stack.members_of(std::slice::from_ref(&service.name), Kind::Service)?;
            if members.is_empty() {
                return Ok(());
            }
            let restarts = service
                .spec
                .depends_on
                .iter()
                .any(|(name, dependency)| dependency.restart && starts.renewed.contains(name));
            let idle: Vec<Member> = members.into_iter().filter(|member| restarts || !member.is_running()).collect();
            if idle.is_empty() {
                return Ok(());
            }
            wait_for(stack, &service.name)?;
            stack.each(&idle, |member| start(stack, service, member, starts))?;
            Ok(())
        })?;
    }
    Ok(())
}

fn start(stack: &Stack, service: &Service, member: &Member, starts: &Starts<'_>) -> Result<(), Failure> {
    if let Some(before) = starts.before {
        before(member)?;
    }
    let (begin, end, word) =
        if member.is_running() { ("Restarting", "Started", "restart") } else { ("Starting", "Started", "start") };
    stack.board.working("Container", &member.name, begin);
    if stack.mode == Mode::Real {
        let word = if member.state == "paused" { "unpause" } else { word };
        let started = stack.client().post(&format!("/containers/{}/{word}", member.id));
        started
            .during(|| format!("cannot start {}", member.name))
            .inspect_err(|_| stack.board.failed("Container", &member.name, "Error"))?;
        post_start(stack, service, member)?;
    }
    stack.board.done("Container", &member.name, end);
    Ok(())
}

/// Runs what is to run once a container runs.
pub(super) fn post_start(stack: &Stack, service: &Service, member: &Member) -> Result<(), Failure> {
    for hook in service.spec.post_start.iter().filter(|_| stack.mode == Mode::Real) {
        let said = super::exec::hook(stack, member, hook).during(|| format!("post_start of {}", member.name))?;
        stack.board.hook(&member.short_name(&stack.project.name), &said);
    }
    Ok(())
}

/// Waits for what a service depends on.
pub(super) fn wait_for(stack: &Stack, name: &str) -> Result<(), Failure> {
    let Some(service) = stack.project.services.get(name).filter(|_| stack.mode == Mode::Real) else { return Ok(()) };
    let conditions: Vec<(&String, &Dependency)> =
        service.spec.depends_on.iter().filter(|(_, dependency)| dependency.condition != "service_started").collect();
    stack.each(&conditions, |(name, dependency)| {
        // one that takes no part this time is not waited for
        if !stack.project.services.contains_key(*name) {
            return Ok(());
        }
        let members = stack.members_of(std::slice::from_ref(*name), Kind::Service)?;
        if members.is_empty() && !dependency.required {
            output::note(&format!("warning: {} is missing dependency {name}", service.name));
        }
        let waited = stack.each(&members, |member| match dependency.condition.as_str() {
            "service_healthy" => healthy(stack, member, Health::Required, None),
            "service_completed_successfully" => completed(stack, name, member),
            _ => healthy(stack, member, Health::IfChecked, None),
        });
        match waited {
            Err(failure) if dependency.required => match dependency.condition.as_str() {
                "service_completed_successfully" => Err(failure),
                _ => Err(failure.during("dependency failed to start")),
            },
            Err(failure) => {
                let text = failure.text();
                output::note(&format!("warning: optional dependency {name:?} failed to start: {text}"));
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    })?;
    Ok(())
}

/// Whether a container without a health check counts as healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Required,
    /// Running is enough for those without a check.
    IfChecked,
}

/// Waits until a container is healthy, or until the moment given.
pub(super) fn healthy(stack: &Stack, member: &Member, health: Health, until: Option<Instant>) -> Result<(), Failure> {
    stack.board.working("Container", &member.name, "Waiting");
    let mut client = stack.client();
    let failed = |text: String| {
        stack.board.failed("Container", &member.name, "Error");
        Err(Failure::new(text))
    };
    loop {
        let container = client.get(&format!("/containers/{}/json", member.id))?;
        let status = table::text(&container, "/State/Health/Status");
        let code = table::number(&container, "/State/ExitCode");
        match (table::text(&container, "/State/Status"), status) {
            ("running" | "paused" | "restarting" | "created", "healthy") => break,
            ("running" | "paused" | "restarting" | "created", "unhealthy") => {
                return failed(format!("container {} is unhealthy", member.name));
            }
            ("running", "" | "none") if health == Health::IfChecked => break,
            ("exited" | "dead", _) => return failed(format!("container {} exited ({code})", member.name)),
            ("running", "" | "none") => {
                // one that ends at once is better told so
                sleep(LOOK);
                let again = client.get(&format!("/containers/{}/json", member.id))?;
                if table::text(&again, "/State/Status") == "running" {
                    return failed(format!("container {} has no healthcheck configured", member.name));
                }
            }
            _ => {}
        }
        if until.is_some_and(|until| Instant::now() > until) {
            return failed(format!("container {} is not ready in time", member.name));
        }
        sleep(LOOK);
    }
    stack.board.done("Container", &member.name, "Healthy");
    Ok(())
}

/// Waits until a container has ended well.
pub(super) fn completed(stack: &Stack, service: &str, member: &Member) -> Result<(), Failure> {
    stack.board.working("Container", &member.name, "Waiting");
    let mut client = stack.client();
    loop {
        let container = client.get(&format!("/containers/{}/json", member.id))?;
        if matches!(table::text(&container, "/State/Status"), "exited" | "dead") {
            let code = table::number(&container, "/State/ExitCode");
            if code == 0 {
                stack.board.done("Container", &member.name, "Exited");
                return Ok(());
            }
            stack.board.failed(
                "Container",
                &member.name,
                &format!("Error service {service:?} didn't complete successfully: exit {code}"),
            );
            return Err(Failure::new(format!("service {service:?} didn't complete successfully: exit {code}")));
        }
        sleep(LOOK);
    }
}
