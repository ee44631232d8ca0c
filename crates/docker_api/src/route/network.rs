//! Networks: the two that every host has.

use crate::error::ApiError;
use crate::reply::{self, Result};
use crate::server::Call;
use crate::translate::time::NEVER;
use serde_json::{Value, json};

const NAMES: [&str; 2] = ["host", "none"];

/// A network's id: it is the same on every host and after every start.
pub(crate) fn id(name: &str) -> String {
    // 64 hexadecimal digits, as clients expect of an id: the name's letters, filled up
    let mut id: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    while id.len() < 64 {
        id.push('0');
    }
    id
}

fn describe(name: &str, call: &Call) -> Value {
    let containers = call.engine().containers();
    let inside = containers
        .iter()
        .filter(|container| container.is_alive() && crate::translate::describe::networks(container).contains_key(name));
    let members = inside.map(|container| {
        let member =
            json!({ "Name": container.name, "EndpointID": "", "MacAddress": "", "IPv4Address": "", "IPv6Address": "" });
        (container.id.to_string(), member)
    });
    json!({
        "Name": name, "Id": id(name), "Created": NEVER, "Scope": "local", "Driver": if name == "none" { "null" } else { name },
        "EnableIPv4": true, "EnableIPv6": false, "IPAM": { "Driver": "default", "Options": null, "Config": [] },
        "Internal": false, "Attachable": false, "Ingress": false, "ConfigFrom": { "Network": "" }, "ConfigOnly": false,
        "Containers": members.collect::<serde_json::Map<_, _>>(), "Options": {}, "Labels": {},
    })
}

/// `GET /networks`
pub(crate) async fn list(call: Call) -> Result {
    let filters = call.query.filters(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let shown = NAMES.iter().filter(|name| {
        let driver = if **name == "none" { "null" } else { name };
        filters.matches("name", |wanted| name.contains(wanted))
            && filters.matches("id", |wanted| id(name).starts_with(wanted))
            && filters.matches("driver", |wanted| driver == wanted)
            && filters.matches("scope", |scope| scope == "local")
            && filters.matches("type", |kind| kind == "builtin")
            && filters.match_labels(|_| None)
            && filters.matches("dangling", |dangling| dangling == "false" || dangling == "0")
    });
    reply::json(&shown.map(|name| describe(name, &call)).collect::<Vec<_>>())
}

/// `GET /networks/{id}`
pub(crate) async fn inspect(call: Call) -> Result {
    let who = call.who();
    let found = NAMES.iter().find(|name| **name == who || (who.len() > 3 && id(name).starts_with(who)));
    match found {
        Some(name) => reply::json(&describe(name, &call)),
        None => Err(ApiError::not_found(format!("network {who} not found"))),
    }
}

/// `POST /networks/create`
pub(crate) async fn no_create(_: Call) -> Result {
    Err(ApiError::unsupported("networks cannot be created; there are none, host and container:NAME"))
}

/// What changes a network.
pub(crate) async fn no_change(call: Call) -> Result {
    let who = call.who();
    if NAMES.contains(&who) {
        return Err(ApiError::new(
            hyper::StatusCode::FORBIDDEN,
            format!("{who} is a predefined network and cannot be changed"),
        ));
    }
    Err(ApiError::not_found(format!("network {who} not found")))
}

/// `POST /networks/prune`: there is never one to remove.
pub(crate) async fn prune(_: Call) -> Result {
    reply::json(&json!({ "NetworksDeleted": [] }))
}
