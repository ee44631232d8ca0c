//! Networks and volumes of a project.

use std::collections::BTreeMap;

use compose::create::{self, label};
use compose::hash;
use compose::project::{NetworkSpec, Resource, VolumeSpec};
use serde_json::{Value, json};

use super::stack::{Mode, Stack};
use crate::client::{Client, encode};
use crate::failure::{During as _, Failure};
use crate::{output, table};

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
        forget(stack, &mut client, &found)?;
    } else if resource.spec.external {
        let text =
            format!("there is no network {name:?}, which is external; make it with: insula network create {name}");
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
            Ok(table::text(&made, "/Id").to_owned())
        }
        Err(failure) => {
            stack.board.failed("Network", name, "Error");
            Err(failure.during(&format!("cannot make the network {name}")))
        }
    }
}

/// Removes a network that the file says something else of; what was on it is made anew.
fn forget(stack: &Stack, client: &mut Client, network: &Value) -> Result<(), Failure> {
    let (id, name) = (table::text(network, "/Id"), table::text(network, "/Name"));
    let joined = network.get("Containers").and_then(Value::as_object).into_iter().flatten();
    for (container, _) in joined {
        client
            .post(&format!("/containers/{container}/stop"))
            .during(|| format!("cannot stop a container on the network {name}"))?;
        let body = json!({"Container": container, "Force": true});
        client.post_json(&format!("/networks/{id}/disconnect"), &body)?;
    }
    stack.board.working("Network", name, "Removing");
    client.call("DELETE", &format!("/networks/{id}"), None)?;
    stack.board.done("Network", name, "Removed");
    Ok(())
}

/// Makes the volumes that are not there.
pub(super) fn volumes(stack: &Stack) -> Result<(), Failure> {
    let volumes: Vec<_> = stack.project.volumes.iter().collect();
    stack.each(&volumes, |(key, resource)| volume(stack, key, resource))?;
    Ok(())
}

fn volume(stack: &Stack, key: &str, resource: &Resource<VolumeSpec>) -> Result<(), Failure> {
    let name = &resource.spec.name;
    let mut client = stack.client();
    match find(&mut client, &format!("/volumes/{}", encode(name)))? {
        Some(_) if resource.spec.external => return Ok(()),
        Some(found) => {
            let label = |name: &str| {
                let labels = found.get("Labels").and_then(|labels| labels.get(name));
                labels.and_then(Value::as_str).unwrap_or_default()
            };
            if label(label::PROJECT) != stack.project.name {
                output::note(&format!(
                    "warning: the volume {name} was not made by this project; say \"external: true\" to use it as it is"
                ));
            } else if !label(label::HASH).is_empty() && label(label::HASH) != hash::volume(&resource.node) {
                output::note(&format!(
                    "warning: the file says something else of the volume {name} than it did; it stays as it is, with its content; to make it anew: insula compose down -v"
                ));
            }
            return Ok(());
        }
        None if resource.spec.external => {
            let text =
                format!("there is no volume {name:?}, which is external; make it with: insula volume create {name}");
            return Err(Failure::new(text));
        }
        None => {}
    }
    stack.board.working("Volume", name, "Creating");
    if stack.mode == Mode::Real {
        let body = create::volume(&stack.project, key, resource);
        client.post_json("/volumes/create", &body).during(|| format!("cannot make the volume {name}"))?;
    }
    stack.board.done("Volume", name, "Created");
    Ok(())
}
