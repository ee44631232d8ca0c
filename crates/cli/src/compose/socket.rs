//! `use_api_socket`: a container that may talk to the daemon as the user does.

use compose::create::{Container, Injected};
use compose::project::Service;
use serde_json::{Value, json};

use super::stack::Stack;
use crate::context::endpoint::Endpoint;

/// Where every client looks.
const SOCKET: &str = "/var/run/docker.sock";
const SETTINGS: &str = "/run/secrets/docker";

/// Adds the daemon's socket to a container's request, and where the user's credentials are.
pub(super) fn mount(stack: &Stack, service: &Service, container: &mut Container) {
    if !service.spec.use_api_socket {
        return;
    }
    let source = match &stack.context.endpoint {
        Endpoint::Unix(path) => path.display().to_string(),
        // of a daemon elsewhere only the usual place is known
        Endpoint::Tcp { .. } | Endpoint::Ssh { .. } => SOCKET.to_owned(),
    };
    let add = |list: &mut Value, one: Value| match list.as_array_mut() {
        Some(list) => list.push(one),
        None => *list = json!([one]),
    };
    if let Some(host) = container.body.get_mut("HostConfig").and_then(Value::as_object_mut) {
        let mounts = host.entry("Mounts").or_insert(Value::Null);
        add(mounts, json!({"Type": "bind", "Source": source, "Target": SOCKET}));
    }
    // who names a folder of settings knows what to do
    if !service.spec.environment.contains_key("DOCKER_CONFIG")
        && let Some(body) = container.body.as_object_mut()
    {
        add(body.entry("Env").or_insert(Value::Null), json!(format!("DOCKER_CONFIG={SETTINGS}")));
    }
}

/// The user's credentials as a file of the container.
pub(super) fn credentials(stack: &Stack, service: &Service) -> Option<Injected> {
    service.spec.use_api_socket.then(|| {
        let config = stack.context.settings_folder().and_then(|folder| std::fs::read(folder.join("config.json")).ok());
        let config: Value = config.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let auths = config.get("auths").cloned().unwrap_or_else(|| json!({}));
        Injected {
            path: format!("{SETTINGS}/config.json"),
            content: json!({ "auths": auths }).to_string(),
            mode: 0o444,
            owner: (0, 0),
        }
    })
}
