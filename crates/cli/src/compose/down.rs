//! `insula compose down` and `rm`.

use std::collections::BTreeSet;

use compose::create::label;
use serde_json::{Value, json};

use super::converge::{self, Anonymous, waves};
use super::plugin::{self, Lent, Task};
use super::stack::{Kind, Member, Mode, Stack};
use super::{COMMON, up};
use crate::client::{Query, encode};
use crate::container::rm::confirmed;
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table};

pub(super) static COMMAND: Command = Command {
    name: "down",
    usage: "[OPTIONS] [SERVICE...]",
    about: "Stop and remove containers and networks",
    flags: &[
        COMMON,
        &[
            Flag::switch("remove-orphans", "Remove containers of services that the file has not"),
            Flag::value("rmi", "WHICH", "Remove images as well: all, or local for those without a name of their own"),
            Flag::value("timeout", "SECONDS", "How long containers have to stop").short('t'),
            Flag::switch("volumes", "Remove volumes as well").short('v'),
        ],
    ],
    arguments: (0, Command::MANY),
    action: Action::Run(down),
    ..Command::BLANK
};

pub(super) static RM: Command = Command {
    name: "rm",
    usage: "[OPTIONS] [SERVICE...]",
    about: "Remove stopped containers of services",
    flags: &[
        COMMON,
        &[
            Flag::switch("all", "Accepted; those of single programs are removed as well").short('a'),
            Flag::switch("force", "Do not ask").short('f'),
            Flag::switch("stop", "Stop them before").short('s'),
            Flag::switch("volumes", "Remove their volumes without a name as well").short('v'),
        ],
    ],
    arguments: (0, Command::MANY),
    action: Action::Run(rm),
    ..Command::BLANK
};

/// What becomes of containers of services that the file has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Orphans {
    Remove,
    Tell,
}

fn is_orphan(stack: &Stack, member: &Member) -> bool {
    let project = &stack.project;
    !project.services.contains_key(&member.service) && !project.disabled.contains_key(&member.service)
}

/// Removes orphans, or tells of them: what ran a single program and has ended is one as well.
pub(super) fn orphans(stack: &Stack, what: Orphans) -> Result<(), Failure> {
    let mut members = stack.members(Kind::All)?;
    members.retain(|member| match member.one_off {
        true => matches!(member.state.as_str(), "exited" | "dead"),
        false => is_orphan(stack, member),
    });
    if members.is_empty() || (what == Orphans::Tell && is_set(stack, "COMPOSE_IGNORE_ORPHANS")) {
        return Ok(());
    }
    if what == Orphans::Tell {
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        output::note(&format!(
            "warning: found orphan containers ({}) of this project; remove them with: --remove-orphans",
            names.join(", ")
        ));
        return Ok(());
    }
    stack.each(&members, |member| {
        converge::stop(stack, member, None)?;
        converge::remove(stack, member, Anonymous::Kept)
    })?;
    Ok(())
}

/// Whether a variable of the environment says yes.
pub(super) fn is_set(stack: &Stack, name: &str) -> bool {
    let value = stack.project.environment.get(name).map(String::as_str);
    matches!(value, Some("1" | "true" | "True" | "TRUE"))
}

/// Services in the order in which they stop: each before what it needs.
fn backwards(stack: &Stack, members: &[Member]) -> Vec<Vec<Member>> {
    let mut left: Vec<Member> = members.to_vec();
    let mut groups = Vec::new();
    let known: Vec<Vec<String>> =
        waves(stack).into_iter().map(|wave| wave.into_iter().map(|service| service.name.clone()).collect()).collect();
    for wave in known.iter().rev() {
        let (now, later) = left.into_iter().partition(|member: &Member| wave.contains(&member.service));
        groups.push(now);
        left = later;
    }
    // what no file tells of any more stands first, because it may need anything
    groups.insert(0, left);
    groups.retain(|group: &Vec<Member>| !group.is_empty());
    groups
}

/// Stops services' containers in the order that they need.
pub(super) fn stop_services(stack: &Stack, names: &[String], timeout: Option<i64>) -> Result<(), Failure> {
    let members = stack.members_of(names, Kind::Service)?;
    for group in backwards(stack, &members) {
        stack.each(&group, |member| converge::stop(stack, member, timeout))?;
    }
    Ok(())
}

fn down(context: &Context, given: &Parsed) -> Outcome {
    take_down(context, given, &given.arguments)
}

/// Stops and removes what services have made, or all that the project has.
pub(super) fn take_down(context: &Context, given: &Parsed, names: &[String]) -> Outcome {
    let mut stack = Stack::found(context, given, names)?;
    let timeout = up::timeout(given)?;
    let named = !names.is_empty();
    if !matches!(given.value("rmi"), None | Some("all" | "local")) {
        return Err(Failure::new(format!(
            "bad value {:?} for --rmi: give all or local",
            given.value("rmi").unwrap_or_default()
        )));
    }
    // what is in no active profile may run even so
    if named {
        let disabled = std::mem::take(&mut stack.project.disabled);
        for (name, service) in disabled {
            let into = if names.contains(&name) { &mut stack.project.services } else { &mut stack.project.disabled };
            into.insert(name, service);
        }
    }
    let mut members = stack.members_of(names, if named { Kind::Service } else { Kind::All })?;
    // without a file, nobody knows what is an orphan
    let fileless = stack.project.files.is_empty();
    let keeps = |member: &Member| {
        named
            || fileless
            || given.on("remove-orphans")
            || is_set(&stack, "COMPOSE_REMOVE_ORPHANS")
            || !is_orphan(&stack, member)
    };
    members.retain(|member| {
        keeps(member) && (named || fileless || member.one_off || !stack.project.disabled.contains_key(&member.service))
    });
    let anonymous = if given.on("volumes") { Anonymous::Renewed } else { Anonymous::Kept };
    for group in backwards(&stack, &members) {
        stack.each(&group, |member| {
            converge::stop(&stack, member, timeout)?;
            converge::remove(&stack, member, anonymous)
        })?;
    }
    let provided = unprovide(&stack, names)?;
    let mut missing = members.is_empty() && !provided;
    if let Some(which) = given.value("rmi") {
        remove_images(&stack, which, &members)?;
    }
    if !named {
        missing &= !remove_networks(&stack)?;
    }
    if given.on("volumes") && !named {
        missing &= !remove_volumes(&stack)?;
    }
    if missing && !named {
        output::note(&format!("warning: no resource found to remove for project {:?}", stack.project.name));
    }
    Ok(0)
}

/// Has providers take away what they have made; whether there was one.
fn unprovide(stack: &Stack, names: &[String]) -> Result<bool, Failure> {
    let mut any = false;
    for wave in waves(stack).iter().rev() {
        for service in wave.iter().filter(|service| names.is_empty() || names.contains(&service.name)) {
            let Some(provider) = &service.spec.provider else { continue };
            plugin::provide(stack, service, provider, Task::Down, &Lent::default())?;
            any = true;
        }
    }
    Ok(any)
}

/// Removes the project's networks; whether there was one.
fn remove_networks(stack: &Stack) -> Result<bool, Failure> {
    let filters = json!({"label": [format!("{}={}", label::PROJECT, stack.project.name)]});
    let mut client = stack.client();
    let listed = client.get(&Query::default().with("filters", &filters.to_string()).behind("/networks"))?;
    let networks: Vec<(String, String)> = table::elements(&listed, "")
        .iter()
        .map(|network| (table::text(network, "/Id").to_owned(), table::text(network, "/Name").to_owned()))
        .collect();
    stack.each(&networks, |(id, name)| {
        stack.board.working("Network", name, "Removing");
        if stack.mode == Mode::Real {
            match stack.client().call("DELETE", &format!("/networks/{id}"), None) {
                Err(failure) if failure.status() == Some(404) => {}
                Err(failure) if failure.text().contains("active endpoints") || failure.status() == Some(403) => {
                    stack.board.done("Network", name, "Resource is still in use");
                    return Ok(());
                }
                Err(failure) => {
                    stack.board.failed("Network", name, "Error");
                    return Err(failure).during(|| format!("cannot remove the network {name}"));
                }
                Ok(_) => {}
            }
        }
        stack.board.done("Network", name, "Removed");
        Ok(())
    })?;
    Ok(!networks.is_empty())
}

fn remove_volumes(stack: &Stack) -> Result<bool, Failure> {
    let filters = json!({"label": [format!("{}={}", label::PROJECT, stack.project.name)]});
    let mut client = stack.client();
    let listed = client.get(&Query::default().with("filters", &filters.to_string()).behind("/volumes"))?;
    let mut volumes: BTreeSet<String> =
        table::elements(&listed, "/Volumes").iter().map(|volume| table::text(volume, "/Name").to_owned()).collect();
    volumes.extend(
        stack.project.volumes.values().filter(|volume| !volume.spec.external).map(|volume| volume.spec.name.clone()),
    );
    for volume in stack.project.volumes.values().filter(|volume| volume.spec.external) {
        volumes.remove(&volume.spec.name);
    }
    let volumes: Vec<String> = volumes.into_iter().collect();
    let mut any = false;
    for removed in stack.each(&volumes, |name| {
        if super::resource::find(&mut stack.client(), &format!("/volumes/{}", encode(name)))?.is_none() {
            return Ok(false);
        }
        stack.board.working("Volume", name, "Removing");
        if stack.mode == Mode::Real {
            match stack.client().call("DELETE", &format!("/volumes/{}", encode(name)), None) {
                Err(failure) if failure.status() == Some(404) => {}
                Err(failure) if failure.status() == Some(409) => {
                    stack.board.done("Volume", name, "Resource is still in use");
                    return Ok(true);
                }
                Err(failure) => {
                    stack.board.failed("Volume", name, "Error");
                    return Err(failure).during(|| format!("cannot remove the volume {name}"));
                }
                Ok(_) => {}
            }
        }
        stack.board.done("Volume", name, "Removed");
        Ok(true)
    })? {
        any |= removed;
    }
    Ok(any)
}

fn remove_images(stack: &Stack, which: &str, members: &[Member]) -> Result<(), Failure> {
    let mut names = BTreeSet::new();
    for service in stack.project.services.values() {
        let local = service.spec.build.is_some() && service.spec.image.is_none();
        if which == "all" || local {
            names.insert(service.image(&stack.project));
        }
    }
    if which == "all" {
        names.extend(members.iter().map(|member| table::text(&member.listed, "/Image").to_owned()));
    }
    for name in names.iter().filter(|name| !name.is_empty()) {
        stack.board.working("Image", name, "Removing");
        let removed = if stack.mode == Mode::DryRun {
            Ok(Value::Null)
        } else {
            stack.client().call("DELETE", &format!("/images/{}", encode(name)), None)
        };
        match removed {
            Ok(_) => stack.board.done("Image", name, "Removed"),
            Err(failure) if failure.status() == Some(404) => {
                stack.board.done("Image", name, "Warning: No resource found to remove")
            }
            Err(failure) if failure.status() == Some(409) => {
                stack.board.done("Image", name, "Resource is still in use")
            }
            Err(failure) => return Err(failure).during(|| format!("cannot remove the image {name}")),
        }
    }
    Ok(())
}

fn rm(context: &Context, given: &Parsed) -> Outcome {
    let stack = Stack::found(context, given, &given.arguments)?;
    let meant = stack.meant(&given.arguments);
    let mut members = stack.members_of(&meant, Kind::All)?;
    if given.on("stop") {
        for group in backwards(&stack, &members) {
            stack.each(&group, |member| converge::stop(&stack, member, None))?;
        }
        members = stack.members_of(&meant, Kind::All)?;
    }
    members
        .retain(|member| stack.mode == Mode::DryRun || matches!(member.state.as_str(), "created" | "exited" | "dead"));
    if members.is_empty() {
        output::note("no stopped containers");
        return Ok(0);
    }
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    if !confirmed(given, &format!("Going to remove {}.", names.join(", ")))? {
        return Ok(1);
    }
    let anonymous = if given.on("volumes") { Anonymous::Renewed } else { Anonymous::Kept };
    stack.each(&members, |member| converge::remove(&stack, member, anonymous))?;
    Ok(0)
}
