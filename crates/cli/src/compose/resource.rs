//! Networks and volumes of a project.

use std::collections::BTreeMap;

use compose::create::{self, label};
use compose::hash;
use compose::project::{NetworkSpec, Resource, Service, VolumeSpec};
use serde_json::{Value, json};

use super::stack::{Kind, Member, Mode, Stack};
use super::{converge, down};
use crate::client::{Client, encode};
use crate::container::rm::confirmed;
use crate::failure::{During as _, Failure};
use crate::flags::Parsed;
use crate::{output, table, terminal};

/// What a question gives, or nothing if there is no such thing.
pub(super) fn find(client: &mut Client, target: &str) -> Result<Option<Value>, Failure> {
    match client.get(target) {
        Ok(found) => Ok(Some(found)),
        Err(failure) if failure.status() == Some(404) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Makes the networks that are not there; their ids by their full names.
pub(super) fn networks(stack: &Stack) -> Result<BTreeMap<String, String>, Failure> {
    let networks: Vec<_> = stack.project.networks.iter().collect();
    let made =
        stack.each(&networks, |(key, resource)| Ok((resource.spec.name.clone(), network(stack, key, resource)?)))?;
    Ok(made.into_iter().collect())
}

fn network(stack: &Stack, key: &str, resource: &Resource<NetworkSpec>) -> Result<String, Failure> {
    let name = &resource.spec.name;
    let mut client = stack.client();
    let found =
        find(&mut client, &format!("/networks/{}", encode(name)))?.filter(|found| table::text(found, "/Name") == name);
    let label = |found: &Value, name: &str| {
        let labels = found.get("Labels").and_then(|labels| labels.get(name));
        labels.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let mut left = Vec::new();
    if let Some(found) = found {
        let id = table::text(&found, "/Id").to_owned();
        if resource.spec.external {
            return Ok(id);
        }
        if label(&found, label::PROJECT) != stack.project.name || label(&found, label::NETWORK) != key {
            output::note(&format!(
                "warning: the network {name} was not made by this project; say \"external: true\" to use it as it is"
            ));
            return Ok(id);
        }
        let before = label(&found, label::HASH);
        if before.is_empty() || before == hash::network(&resource.node) || stack.mode == Mode::DryRun {
            return Ok(id);
        }
        left = forget(stack, &mut client, key, &found)?;
    } else if resource.spec.external {
        let text = format!(
            "network {name} declared as external, but could not be found; make it with: insula network create {name}"
        );
        return Err(Failure::new(text));
    }
    stack.board.working("Network", name, "Creating");
    if stack.mode == Mode::DryRun {
        stack.board.done("Network", name, "Created");
        return Ok(String::new());
    }
    let body = create::network(&stack.project, key, resource);
    match client.post_json("/networks/create", &body) {
        Ok(made) => {
            stack.board.done("Network", name, "Created");
            left.iter().try_for_each(|member| join_again(stack, &mut client, member, name))?;
            Ok(table::text(&made, "/Id").to_owned())
        }
        Err(failure) => {
            stack.board.failed("Network", name, "Error");
            Err(failure.during(&format!("cannot make the network {name}")))
        }
    }
}

/// Removes a network that the file says something else of; the containers that were in it, which stand now.
fn forget(stack: &Stack, client: &mut Client, key: &str, network: &Value) -> Result<Vec<Member>, Failure> {
    let (id, name) = (table::text(network, "/Id"), table::text(network, "/Name"));
    let joins = |service: &&Service| service.spec.networks.contains_key(key);
    let mut services: Vec<String> =
        stack.project.services.values().filter(joins).map(|service| service.name.clone()).collect();
    // who shares a namespace with one of them, or is to be started again with it, stops as well
    let mut at = 0;
    while let Some(name) = services.get(at).cloned() {
        for other in stack.project.services.values() {
            let with = other.spec.depends_on.get(&name).is_some_and(|dependency| dependency.restart);
            if with && !services.contains(&other.name) {
                services.push(other.name.clone());
            }
        }
        at += 1;
    }
    let members = if services.is_empty() { Vec::new() } else { stack.members_of(&services, Kind::Service)? };
    if !members.is_empty() {
        down::stop_services(stack, &services, None)?;
    }
    let mut left = Vec::new();
    for member in members {
        let joined = member.listed.pointer("/NetworkSettings/Networks").and_then(Value::as_object);
        if joined.is_some_and(|joined| joined.contains_key(name)) {
            let body = json!({"Container": member.id, "Force": true});
            client.post_json(&format!("/networks/{id}/disconnect"), &body)?;
            left.push(member);
        }
    }
    client.call("DELETE", &format!("/networks/{id}"), None).during(|| format!("cannot remove the network {name}"))?;
    stack.board.done("Network", name, "Removed");
    Ok(left)
}

/// Brings a container into a network that was made anew, under the names that it had there.
fn join_again(stack: &Stack, client: &mut Client, member: &Member, network: &str) -> Result<(), Failure> {
    let Some(service) = stack.project.services.get(&member.service) else { return Ok(()) };
    let found = converge::found(stack, String::new())?;
    let service = create::resolved(service, &found);
    let container = converge::container(stack, &service, &create::Which::Number(member.number), &found)?;
    let first = container.body.pointer("/NetworkingConfig/EndpointsConfig").and_then(|map| map.get(network));
    let other = container.networks.iter().find(|(name, _)| name == network).map(|(_, endpoint)| endpoint);
    let Some(endpoint) = first.or(other) else { return Ok(()) };
    let body = json!({"Container": member.id, "EndpointConfig": endpoint});
    client
        .post_json(&format!("/networks/{}/connect", encode(network)), &body)
        .during(|| format!("cannot connect {} to the network {network}", member.name))?;
    Ok(())
}

/// What becomes of a volume that the file says something else of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Diverged {
    /// It is made anew, if the user says so at the keyboard.
    Ask,
    /// It is made anew.
    Renew,
}

impl Diverged {
    /// What the user wants.
    pub(super) fn of(given: &Parsed) -> Self {
        if given.on("yes") { Self::Renew } else { Self::Ask }
    }
}

/// Makes the volumes that are not there.
pub(super) fn volumes(stack: &Stack, diverged: Diverged) -> Result<(), Failure> {
    let volumes: Vec<_> = stack.project.volumes.iter().collect();
    // one after the other where something may be asked
    let (known, new): (Vec<_>, Vec<_>) = stack
        .each(&volumes, |(key, resource)| Ok((*key, *resource, present(stack, resource)?)))?
        .into_iter()
        .partition(|(_, _, found)| found.is_some());
    for (key, resource, found) in known {
        if let Some(found) = found.filter(|_| !resource.spec.external) {
            keep_or_renew(stack, key, resource, &found, diverged)?;
        }
    }
    stack.each(&new, |(key, resource, _)| make_volume(stack, key, resource))?;
    Ok(())
}

fn present(stack: &Stack, resource: &Resource<VolumeSpec>) -> Result<Option<Value>, Failure> {
    find(&mut stack.client(), &format!("/volumes/{}", encode(&resource.spec.name)))
}

fn keep_or_renew(
    stack: &Stack,
    key: &str,
    resource: &Resource<VolumeSpec>,
    found: &Value,
    diverged: Diverged,
) -> Result<(), Failure> {
    let name = &resource.spec.name;
    let label = |name: &str| {
        let labels = found.get("Labels").and_then(|labels| labels.get(name));
        labels.and_then(Value::as_str).unwrap_or_default()
    };
    if label(label::PROJECT) != stack.project.name {
        output::note(&format!(
            "warning: the volume {name} was not made by this project; say \"external: true\" to use it as it is"
        ));
        return Ok(());
    }
    if label(label::HASH).is_empty() || label(label::HASH) == hash::volume(&resource.node) {
        return Ok(());
    }
    let renewed = match diverged {
        Diverged::Renew => true,
        Diverged::Ask if terminal::is_input() && stack.mode == Mode::Real => confirmed(
            &Parsed::default(),
            &format!(
                "The file says something else of the volume {name} than it did. To make it anew, its content is lost."
            ),
        )?,
        Diverged::Ask => false,
    };
    if !renewed {
        output::note(&format!(
            "warning: the file says something else of the volume {name} than it did; it stays as it is, with its content; to make it anew: --yes"
        ));
        return Ok(());
    }
    let mounts = |service: &&Service| service.spec.volumes.iter().any(|mount| mount.source.as_deref() == Some(key));
    let services: Vec<String> =
        stack.project.services.values().filter(mounts).map(|service| service.name.clone()).collect();
    if !services.is_empty() {
        down::stop_services(stack, &services, None)?;
        let members = stack.members_of(&services, Kind::Service)?;
        stack.each(&members, |member| converge::remove(stack, member, converge::Anonymous::Kept))?;
    }
    if stack.mode == Mode::Real {
        let removed = stack.client().call("DELETE", &format!("/volumes/{}", encode(name)), None);
        removed.during(|| format!("cannot remove the volume {name}"))?;
    }
    stack.board.done("Volume", name, "Removed");
    make_volume(stack, key, resource)
}

fn make_volume(stack: &Stack, key: &str, resource: &Resource<VolumeSpec>) -> Result<(), Failure> {
    let name = &resource.spec.name;
    if resource.spec.external {
        let text = format!("external volume {name:?} not found; make it with: insula volume create {name}");
        return Err(Failure::new(text));
    }
    stack.board.working("Volume", name, "Creating");
    if stack.mode == Mode::Real {
        let body = create::volume(&stack.project, key, resource);
        let made = stack.client().post_json("/volumes/create", &body);
        made.during(|| format!("cannot make the volume {name}"))?;
    }
    stack.board.done("Volume", name, "Created");
    Ok(())
}
