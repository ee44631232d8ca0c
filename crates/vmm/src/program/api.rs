//! The API: one sorted table of routes. `docs/api/vmm.yaml` describes it.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

use control::machine::{BackendChoice, MachineSpec};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sys::handed;

use super::http::{self, Request, Response};
use super::state::{Next, State, StateError};
use super::{Reply, Work};
use crate::machine::{Check, Extent, MachineError, Packing, Writing};

type Handler = fn(&mut State, &Request) -> Result<Response, Response>;

/// Path, method, what answers. Sorted.
const ROUTES: &[(&str, &str, Handler)] = &[
    ("/", "GET", |state, _| Ok(Response::json(&state.inspect()))),
    ("/balloon", "PUT", balloon),
    ("/boot", "PUT", |state, _| done(state.boot())),
    ("/console", "PUT", resize),
    ("/kill", "PUT", |state, _| {
        state.kill();
        Ok(Response::done())
    }),
    ("/machine", "PUT", configure),
    ("/metrics", "GET", |state, _| state.metrics().map(|metrics| Response::json(&metrics)).map_err(refused)),
    ("/pause", "PUT", |state, _| done(state.pause())),
    ("/restore", "PUT", restore),
    ("/resume", "PUT", |state, _| done(state.resume())),
    ("/snapshot", "PUT", snapshot),
    ("/stop", "PUT", |state, _| done(state.press_power())),
];

/// An error with what is below it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        text.push_str(": ");
        text.push_str(&error.to_string());
        below = error.source();
    }
    text
}

fn refused(error: StateError) -> Response {
    let status = match &error {
        StateError::Phase { .. } => 409,
        StateError::Machine(
            MachineError::Spec(_)
            | MachineError::Boot(_)
            | MachineError::Device { .. }
            | MachineError::NoDevice(_)
            | MachineError::Snapshot(_),
        ) => 400,
        StateError::Machine(_) => 500,
    };
    Response::error(status, &chain(&error))
}

fn done(result: Result<(), StateError>) -> Result<Response, Response> {
    result.map(|()| Response::done()).map_err(refused)
}

fn configure(state: &mut State, request: &Request) -> Result<Response, Response> {
    let spec: MachineSpec = serde_json::from_slice(&request.body)
        .map_err(|error| Response::error(400, &format!("the machine's specification: {error}")))?;
    done(state.configure(spec))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Balloon {
    /// Bytes that the guest is to lack.
    size: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Snapshot {
    /// The folder that is made for it.
    path: PathBuf,
    /// What an incremental one is to add to, as whoever asks knows it.
    #[serde(default)]
    parent: Option<PathBuf>,
    #[serde(default)]
    extent: Extent,
    #[serde(default)]
    packing: Packing,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restore {
    /// A snapshot's folder.
    path: PathBuf,
    /// What is to run it; what ran it then, if nothing is said.
    backend: Option<BackendChoice>,
    #[serde(default)]
    check: Check,
}

fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Response> {
    serde_json::from_slice(&request.body).map_err(|error| Response::error(400, &format!("the request's body: {error}")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Size {
    columns: u16,
    rows: u16,
}

fn resize(state: &mut State, request: &Request) -> Result<Response, Response> {
    let Size { columns, rows } = body(request)?;
    done(state.resize_console(columns, rows))
}

fn balloon(state: &mut State, request: &Request) -> Result<Response, Response> {
    let Balloon { size } = body(request)?;
    done(state.set_balloon(size))
}

fn snapshot(state: &mut State, request: &Request) -> Result<Response, Response> {
    let Snapshot { path, parent, extent, packing } = body(request)?;
    done(state.snapshot(&path, parent.as_deref(), Writing { extent, packing }))
}

fn restore(state: &mut State, request: &Request) -> Result<Response, Response> {
    let Restore { path, backend, check } = body(request)?;
    done(state.restore(&path, backend, check))
}

/// Answers a request, and says whether the program goes on.
pub(super) fn answer(state: &mut State, mut request: Request) -> (Response, Next) {
    let names: Vec<PathBuf> = request.files.iter().map(|(name, _)| name.clone()).collect();
    for (name, fd) in request.files.drain(..) {
        if let Err(error) = handed::put(&name, fd) {
            return (Response::error(500, &format!("{}: {error}", name.display())), Next::GoOn);
        }
    }
    let mut at = ROUTES.iter().filter(|(path, ..)| *path == request.path).peekable();
    if at.peek().is_none() {
        return (Response::error(404, &format!("there is no {:?} here", request.path)), Next::GoOn);
    }
    let Some((path, _, handler)) = at.find(|(_, method, _)| *method == request.method) else {
        return (
            Response::error(405, &format!("{} is not possible on {:?}", request.method, request.path)),
            Next::GoOn,
        );
    };
    let response = handler(state, &request).unwrap_or_else(|response| response);
    // What a request that is done brought is not needed again, but for the machine's own files.
    if *path == "/snapshot" {
        names.iter().for_each(|name| handed::forget(name));
    }
    (response, if *path == "/kill" { Next::End(0) } else { Next::GoOn })
}

/// The answer to a request that came as the program ended.
pub(super) fn too_late(request: &Request) -> Response {
    match (request.path.as_str(), request.method.as_str()) {
        ("/kill", "PUT") => Response::done(),
        _ => Response::error(409, "the machine has ended"),
    }
}

/// Takes one request after another to the main thread.
pub(super) fn serve(listener: &UnixListener, work: &Sender<Work>) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        // A client that breaks off, or says nothing, is its own problem.
        let Ok(Some(request)) = http::read(&mut stream) else { continue };
        // The program does not end before this is dropped: the answer is written by then.
        let (writing, written) = channel();
        let response = match request {
            Err(response) => response,
            Ok(request) => {
                let (reply, answer) = channel();
                if work.send(Work::Request(request, Reply { answer: reply, written })).is_err() {
                    return;
                }
                let Ok(response) = answer.recv() else { return };
                response
            }
        };
        let _gone = http::write(&mut stream, &response);
        drop::<Sender<()>>(writing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_sorted_and_described() {
        assert!(ROUTES.is_sorted_by_key(|(path, method, _)| (*path, *method)));
        let description = include_str!("../../../../docs/api/vmm.yaml");
        for (path, method, _) in ROUTES {
            let at = description.find(&format!("\n  {path}:\n"));
            let section = &description[at.unwrap_or_else(|| panic!("{path} is not described"))..];
            assert!(section.contains(&format!("\n    {}:", method.to_lowercase())), "{method} {path}");
        }
        assert_eq!(description.matches("\n  /").count(), ROUTES.len());
    }

    /// The description of what a machine is to be.
    fn machine() -> &'static str {
        let description = include_str!("../../../../docs/api/vmm.yaml");
        &description[description.find("\n    Machine:\n").unwrap()..]
    }

    /// A property's name with its schema, as far as the line goes, or the four next ones where it begins a block.
    fn properties() -> Vec<(String, String)> {
        let lines: Vec<&str> = machine().lines().collect();
        let mut found = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            let mut rest = *line;
            while let Some(colon) = rest.find(':') {
                let name: String = rest[..colon].rsplit([' ', '{']).next().unwrap().to_owned();
                let (here, below) = (rest[colon + 1..].trim_start(), lines.get(at + 1).map_or("", |line| line.trim()));
                if here.starts_with("{type") || here.starts_with("{$ref") {
                    found.push((name, here.to_owned()));
                } else if here.is_empty() && below.starts_with("type: ") && name != "items" && at > 1 {
                    found.push((name, lines[at + 1..(at + 5).min(lines.len())].join(", ")));
                }
                rest = &rest[colon + 1..];
            }
        }
        found
    }

    fn keys(value: &serde_json::Value, into: &mut std::collections::BTreeSet<String>) {
        match value {
            serde_json::Value::Object(map) => {
                into.extend(map.keys().cloned());
                map.values().for_each(|value| keys(value, into));
            }
            serde_json::Value::Array(list) => list.iter().for_each(|value| keys(value, into)),
            _ => {}
        }
    }

    #[test]
    fn every_field_of_a_machine_is_described_and_nothing_else() {
        let limit = serde_json::json!({});
        let full = serde_json::json!({
            "kernel": "/k", "initrd": "/i", "vsock": { "cid": 3, "path": "/v" },
            "disks": [{ "path": "/d", "limit": limit }],
            "nets": [{ "tap": "t", "mac": "02:00:00:00:00:01", "limit": limit,
                       "forwards": [{ "host": "127.0.0.1:1", "guest_port": 1 }] }],
            "pmems": [{ "path": "/p" }], "shares": [{ "path": "/s", "tag": "s" }],
        });
        let full: MachineSpec = serde_json::from_value(full).unwrap();
        let mut known = std::collections::BTreeSet::new();
        keys(&serde_json::to_value(&full).unwrap(), &mut known);
        let described = properties().into_iter().map(|(name, _)| name);
        assert_eq!(described.filter(|name| name != "Limit").collect::<std::collections::BTreeSet<_>>(), known);
    }

    #[test]
    fn defaults_and_choices_are_as_described() {
        let least: MachineSpec = serde_json::from_value(serde_json::json!({ "kernel": "/k" })).unwrap();
        let least = serde_json::to_value(&least).unwrap();
        let mut seen = 0;
        for (name, schema) in properties() {
            let words = |key: &str, end: [char; 2]| {
                schema
                    .split_once(key)
                    .map(|(_, rest)| rest.split(end).next().unwrap().trim().trim_matches('"').to_owned())
            };
            // Those of parts of a machine have their own place.
            let Some(here) = least.get(&name) else { continue };
            if let Some(default) = words("default: ", [',', '}']) {
                let text = here.as_str().map_or_else(|| here.to_string(), str::to_owned);
                assert_eq!(text, default, "{name}");
                seen += 1;
            }
            let choices = words("enum: [", [']', ']']).unwrap_or_default();
            for choice in choices.split(", ").filter(|choice| !choice.is_empty()) {
                let parsed = |choice: &str| {
                    serde_json::from_value::<MachineSpec>(
                        serde_json::json!({ "kernel": "/k", (name.as_str()): choice }),
                    )
                };
                assert!(parsed(choice).is_ok(), "{name}: {choice}");
                assert!(parsed("another").is_err(), "{name}");
                seen += 1;
            }
        }
        assert!(seen > 20, "only {seen} defaults and choices were found");
    }
}
