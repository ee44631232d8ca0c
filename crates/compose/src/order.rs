//! Which service comes first: what it depends on.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::FileError;
use crate::project::Service;

/// Looks for circles.
///
/// # Errors
/// The circle.
pub(crate) fn check(services: &BTreeMap<String, Service>) -> Result<(), FileError> {
    let mut sound = BTreeSet::new();
    for name in services.keys() {
        let mut path = Vec::new();
        walk(services, name, &mut path, &mut sound)?;
    }
    Ok(())
}

fn walk<'a>(
    services: &'a BTreeMap<String, Service>,
    name: &'a str,
    path: &mut Vec<&'a str>,
    sound: &mut BTreeSet<&'a str>,
) -> Result<(), FileError> {
    let mut stack = vec![(name, false)];
    while let Some((name, done)) = stack.pop() {
        if done {
            path.pop();
            sound.insert(name);
            continue;
        }
        if sound.contains(name) {
            continue;
        }
        if let Some(at) = path.iter().position(|other| *other == name) {
            let mut circle: Vec<&str> = path.get(at..).unwrap_or_default().to_vec();
            circle.push(name);
            let why =
                format!("services depend on each other in a circle: {}; remove one of the links", circle.join(" -> "));
            return Err(FileError::model("depends_on", why));
        }
        path.push(name);
        stack.push((name, true));
        let Some(service) = services.get(name) else { continue };
        for other in service.spec.depends_on.keys().rev() {
            stack.push((other, false));
        }
    }
    Ok(())
}

/// Names in an order in which each comes after what it depends on.
#[must_use]
pub fn sorted(services: &BTreeMap<String, Service>) -> Vec<&str> {
    let mut done: Vec<&str> = Vec::new();
    let mut left: Vec<&Service> = services.values().collect();
    while !left.is_empty() {
        let before = left.len();
        left.retain(|service| {
            let ready = service
                .spec
                .depends_on
                .keys()
                .all(|name| !services.contains_key(name) || done.contains(&name.as_str()));
            if ready {
                done.push(&service.name);
            }
            !ready
        });
        if left.len() == before {
            // a circle, which a checked project has not
            done.extend(left.drain(..).map(|service| service.name.as_str()));
        }
    }
    done
}
