//! What `docs/compat/docker.toml` says of the Docker Engine API, asked of a daemon: routes answer, fields do what they say.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use testkit::compat::{Does, Route, Table};

use crate::subject::{IMAGE, SOON, Subject, skip_unless_insula};

/// Status and body of a request, on a connection of its own.
pub(crate) fn ask(subject: &Subject, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    let mut stream = UnixStream::connect(subject.socket()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // a stream that goes on is an answer, too
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or_else(|| panic!("{method} {path}: {text:?}")), body.to_owned())
}

/// A good answer, or what was answered instead.
pub(crate) fn answer(subject: &Subject, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
    let (status, text) = ask(subject, method, path, body);
    if !(200..300).contains(&status) {
        return Err(format!("{method} {path}: {status} {text}"));
    }
    Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) })
}

/// Puts a value where a path of names leads.
fn put(into: &mut Value, path: &str, value: Value) {
    let mut place = into;
    for name in path.split('.') {
        if !place.is_object() {
            *place = json!({});
        }
        place = place.as_object_mut().unwrap().entry(name).or_insert(Value::Null);
    }
    *place = value;
}

fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    path.split('.').fold(value, |value, name| &value[name])
}

/// Whether all that is wanted is there; of maps there may be more.
fn holds(shown: &Value, wanted: &Value) -> bool {
    match (shown, wanted) {
        (Value::Object(shown), Value::Object(wanted)) => {
            wanted.iter().all(|(name, wanted)| shown.get(name).is_some_and(|shown| holds(shown, wanted)))
        }
        (Value::Array(shown), Value::Array(wanted)) => {
            shown.len() == wanted.len() && shown.iter().zip(wanted).all(|(shown, wanted)| holds(shown, wanted))
        }
        (shown, wanted) => shown == wanted,
    }
}

/// The fields of a route with a sample, each asked for alone, and what is not shown as it should be.
fn fields(
    route: &Route,
    default_at: impl Fn(&str) -> String,
    mut made: impl FnMut(Value) -> Result<Value, String>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for field in route.body.iter().filter(|field| field.does == Does::Yes && field.test.is_empty()) {
        let sample = field.sample.clone().unwrap_or_else(|| panic!("{} has no sample", field.name));
        let mut body = Value::Object(field.beside.clone());
        put(&mut body, &field.name, sample.clone());
        let shown = match made(body) {
            Ok(shown) => shown,
            Err(instead) => {
                wrong.push(format!("{} {}: {instead}", route.call, field.name));
                continue;
            }
        };
        let place = field.at.clone().unwrap_or_else(|| default_at(&field.name));
        let (shown, wanted) = (at(&shown, &place), field.seen.as_ref().unwrap_or(&sample));
        if !holds(shown, wanted) {
            wrong.push(format!("{} {}: {place} is {shown}, not {wanted}", route.call, field.name));
        }
    }
    wrong
}

#[test]
fn every_route_answers() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::bare() else { return };
    let mut wrong = Vec::new();
    for route in
        Table::of_this_repository().route.iter().filter(|route| route.does != Does::No && route.probe != "skip")
    {
        let (method, path) = route.call.split_once(' ').unwrap();
        let name = route.probe.strip_prefix("name:");
        let mut path = path.replace("{name}", name.unwrap_or("nothing"));
        for part in ["{id}", "{alias}", "{checkpoint}"] {
            path = path.replace(part, "nobody");
        }
        let body = route.probe.strip_prefix("body:").map(|text| serde_json::from_str(text).unwrap());
        let query = if route.probe.starts_with('?') { route.probe.as_str() } else { "" };
        let (status, text) = ask(&subject, method, &format!("{path}{query}"), body.as_ref());
        if status == 501 || (status == 404 && text.contains("page not found")) {
            wrong.push(format!("{}: {status} {text}", route.call));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    subject.finish();
}

#[test]
fn fields_are_kept_and_shown() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    let table = Table::of_this_repository();
    let subnet = json!({ "Name": "compat", "IPAM": { "Config": [{ "Subnet": "10.231.7.0/24" }] } });
    answer(&subject, "POST", "/networks/create", Some(&subnet)).unwrap();
    let other = json!({ "Image": IMAGE, "Cmd": ["sleep", "1000"] });
    answer(&subject, "POST", "/containers/create?name=compat-other", Some(&other)).unwrap();
    answer(&subject, "POST", "/containers/compat-other/start", None).unwrap();
    let mut wrong = containers(&subject, &table);
    wrong.extend(changes(&subject, &table));
    let created = table.route("POST /networks/create");
    wrong.extend(fields(created, str::to_owned, |mut body| {
        let map = body.as_object_mut().unwrap();
        let name = map.entry("Name").or_insert(json!("other")).as_str().unwrap().to_owned();
        answer(&subject, "POST", "/networks/create", Some(&body))?;
        let shown = answer(&subject, "GET", &format!("/networks/{name}"), None);
        answer(&subject, "DELETE", &format!("/networks/{name}"), None)?;
        shown
    }));
    wrong.extend(fields(table.route("POST /volumes/create"), str::to_owned, |body| {
        let shown = answer(&subject, "POST", "/volumes/create", Some(&body))?;
        let name = shown["Name"].as_str().unwrap().to_owned();
        let shown = answer(&subject, "GET", &format!("/volumes/{name}"), None);
        answer(&subject, "DELETE", &format!("/volumes/{name}"), None)?;
        shown
    }));
    wrong.extend(answers(&subject, &table));
    wrong.extend(nothing_pruned(&subject));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    answer(&subject, "DELETE", "/containers/compat-other?force=1", None).unwrap();
    answer(&subject, "DELETE", "/networks/compat", None).unwrap();
    subject.finish();
}

/// Requests that are wrong get Docker's codes, and its words where clients look at them.
#[test]
fn wrong_requests_have_dockers_codes() {
    if skip_unless_insula() {
        return;
    }
    let Some(subject) = Subject::start() else { return };
    let small = json!({ "Name": "small", "IPAM": { "Config": [{ "Subnet": "10.231.8.0/30" }] } });
    let unknown = json!({ "Image": IMAGE, "Cmd": ["true"], "Nonsense": { "a": [1] }, "HostConfig": { "Binds": ["kept:/k"], "Zzz": 1 } });
    let plain = json!({ "Image": IMAGE, "Cmd": ["true"] });
    let shows = |mode: &str| json!({ "Image": IMAGE, "Cmd": ["a"], "HostConfig": { "PidMode": mode } });
    let in_small = |port: &str| json!({ "Image": IMAGE, "Cmd": ["sleep", "1000"], "HostConfig": { "NetworkMode": "small", "PortBindings": { "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": port }] } } });
    let taken = json!({ "Image": IMAGE, "Cmd": ["true"], "HostConfig": { "PortBindings": { "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "18097" }] } } });
    answer(&subject, "POST", "/networks/create", Some(&small)).unwrap();
    for (name, body) in [
        ("known", &unknown),
        ("first", &in_small("18097")),
        ("second", &in_small("18098")),
        ("third", &taken),
        ("donor", &plain),
        ("guest", &shows("container:donor")),
    ] {
        answer(&subject, "POST", &format!("/containers/create?name={name}"), Some(body)).unwrap();
    }
    answer(&subject, "POST", "/containers/first/start", None).unwrap();
    let mut wrong = Vec::new();
    for (method, path, body, status, part) in wrong_requests(small, &unknown, &shows) {
        let (got, text) = ask(&subject, method, path, body.as_ref());
        if got != status || !text.contains(part) {
            wrong.push(format!("{method} {path}: {got} {text}, not {status} {part}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for name in ["donor", "first", "guest", "known", "second", "third"] {
        answer(&subject, "DELETE", &format!("/containers/{name}?force=1"), None).unwrap();
    }
    answer(&subject, "DELETE", "/networks/small", None).unwrap();
    answer(&subject, "DELETE", "/volumes/kept", None).unwrap();
    subject.finish();
}

/// Method, path and body, the code, and a part of the answer.
type Case = (&'static str, &'static str, Option<Value>, u16, &'static str);

fn wrong_requests(small: Value, unknown: &Value, shows: &dyn Fn(&str) -> Value) -> Vec<Case> {
    let plain = json!({ "Image": IMAGE, "Cmd": ["true"] });
    let over = json!({ "Name": "over", "IPAM": { "Config": [{ "Subnet": "10.231.8.0/24" }] } });
    let two =
        json!({ "Image": IMAGE, "Cmd": ["a"], "NetworkingConfig": { "EndpointsConfig": { "small": {}, "none": {} } } });
    let labelled = json!({ "Image": IMAGE, "Cmd": ["a"], "HostConfig": { "Annotations": { "": "a" } } });
    let fenced = json!({ "Image": IMAGE, "Cmd": ["a"], "HostConfig": { "CgroupnsMode": "fenced" } });
    vec![
        ("DELETE", "/networks/bridge", None, 403, "pre-defined"),
        ("DELETE", "/volumes/kept", None, 409, "volume is in use"),
        ("GET", "/containers/json?filters=%7B%22nope%22:[%22a%22]%7D", None, 400, "invalid filter 'nope'"),
        ("GET", "/containers/json?filters=xx", None, 400, "invalid filters"),
        ("GET", "/containers/nobody/json", None, 404, "No such container: nobody"),
        ("GET", "/images/nobody/json", None, 404, "No such image: nobody"),
        ("GET", "/networks/nobody", None, 404, "network nobody not found"),
        ("GET", "/nowhere", None, 404, "page not found"),
        ("GET", "/v1.10/info", None, 400, "client version 1.10 is too old"),
        ("GET", "/v1.99/info", None, 400, "client version 1.99 is too new"),
        ("GET", "/volumes/nobody", None, 404, "no such volume"),
        ("POST", "/containers/create", Some(json!([])), 400, "invalid"),
        ("POST", "/containers/create", Some(json!({ "Image": 5 })), 400, "invalid"),
        ("POST", "/containers/create", Some(json!({ "Image": "nope:1" })), 404, "No such image: nope:1"),
        ("POST", "/containers/create", Some(json!({ "User": "" })), 400, "No command specified"),
        (
            "POST",
            "/v1.43/containers/create",
            Some(two),
            400,
            "cannot be created with multiple network endpoints: none, small",
        ),
        ("POST", "/containers/create", Some(labelled), 400, "invalid Annotations: the empty string is not permitted"),
        ("POST", "/containers/create", Some(fenced), 400, "invalid cgroup namespace mode: fenced"),
        ("POST", "/containers/create", Some(shows("container:nobody")), 400, "No such container: nobody"),
        ("POST", "/containers/guest/start", None, 500, "failed to join PID namespace: container "),
        ("GET", "/v1.24/info", None, 200, "\"ExecutionDriver\":\"<not supported>\""),
        ("GET", "/images/json?filters=%7B%22until%22:[%221h%22,%222h%22]%7D", None, 200, "["),
        (
            "POST",
            "/images/prune?filters=%7B%22until%22:[%221h%22,%222h%22]%7D",
            None,
            400,
            "more than one until filter",
        ),
        ("POST", "/images/create?fromSrc=-&platform=macos", None, 400, "operating system is not supported"),
        ("POST", "/images/create?fromSrc=-&platform=linux&repo=bare", None, 200, "sha256:"),
        ("DELETE", "/images/bare", None, 200, "Untagged"),
        ("POST", "/containers/create?name=!x", Some(plain.clone()), 400, "Invalid container name (!x)"),
        ("POST", "/containers/create?name=known", Some(unknown.clone()), 409, "is already in use by container"),
        ("POST", "/containers/known/exec", Some(json!({ "Cmd": ["a"] })), 409, "is not running"),
        ("POST", "/containers/known/kill", None, 409, "is not running"),
        ("POST", "/containers/first/kill?signal=NOPE", None, 400, "NOPE"),
        ("POST", "/containers/second/start", None, 403, "no available IPv4 addresses"),
        ("POST", "/containers/third/start", None, 500, "port is already allocated"),
        ("POST", "/networks/create", Some(over), 403, "Pool overlaps with other one on this address space"),
        ("POST", "/networks/create", Some(small), 409, "network with name small already exists"),
        ("POST", "/volumes/create", Some(json!({ "Name": "../x" })), 400, "includes invalid characters"),
    ]
}

fn containers(subject: &Subject, table: &Table) -> Vec<String> {
    let place = |name: &str| if name.starts_with("HostConfig.") { name.to_owned() } else { format!("Config.{name}") };
    fields(table.route("POST /containers/create"), place, |mut body| {
        let map = body.as_object_mut().unwrap();
        map.entry("Image").or_insert(json!(IMAGE));
        map.entry("Cmd").or_insert(json!(["true"]));
        answer(subject, "POST", "/containers/create?name=probe", Some(&body))?;
        let shown = answer(subject, "GET", "/containers/probe/json", None);
        answer(subject, "DELETE", "/containers/probe?v=1", None)?;
        shown
    })
}

/// What is asked of a container that is there: changes, execs, networks.
fn changes(subject: &Subject, table: &Table) -> Vec<String> {
    let inspect = || answer(subject, "GET", "/containers/compat-other/json", None);
    let host = |name: &str| format!("HostConfig.{name}");
    let mut wrong = fields(table.route("POST /containers/{id}/update"), host, |body| {
        answer(subject, "POST", "/containers/create?name=probe", Some(&json!({ "Image": IMAGE, "Cmd": ["true"] })))?;
        let shown = answer(subject, "POST", "/containers/probe/update", Some(&body))
            .and_then(|_| answer(subject, "GET", "/containers/probe/json", None));
        answer(subject, "DELETE", "/containers/probe", None)?;
        shown
    });
    wrong.extend(fields(table.route("POST /containers/{id}/exec"), str::to_owned, |mut body| {
        body.as_object_mut().unwrap().entry("Cmd").or_insert(json!(["true"]));
        let made = answer(subject, "POST", "/containers/compat-other/exec", Some(&body))?;
        answer(subject, "GET", &format!("/exec/{}/json", made["Id"].as_str().unwrap()), None)
    }));
    let endpoint =
        |name: &str| format!("NetworkSettings.Networks.compat.{}", name.trim_start_matches("EndpointConfig."));
    wrong.extend(fields(table.route("POST /networks/{id}/connect"), endpoint, |mut body| {
        body["Container"] = json!("compat-other");
        answer(subject, "POST", "/networks/compat/connect", Some(&body))?;
        let shown = inspect();
        let leave = json!({ "Container": "compat-other" });
        answer(subject, "POST", "/networks/compat/disconnect", Some(&leave))?;
        shown
    }));
    wrong
}

/// The fields that are always in an answer.
fn answers(subject: &Subject, table: &Table) -> Vec<String> {
    let exec = answer(subject, "POST", "/containers/compat-other/exec", Some(&json!({ "Cmd": ["true"] }))).unwrap();
    answer(subject, "POST", "/volumes/create", Some(&json!({ "Name": "compat" }))).unwrap();
    let mut wrong = Vec::new();
    for route in table.route.iter().filter(|route| !route.answer.is_empty()) {
        let (method, path) = route.call.split_once(' ').unwrap();
        let id = match path {
            "/exec/{id}/json" => exec["Id"].as_str().unwrap(),
            "/networks/{id}" => "compat",
            _ => "compat-other",
        };
        let name = if path.starts_with("/images") { IMAGE } else { "compat" };
        // nothing is pruned that others need
        let query = if path.ends_with("/prune") { "?filters={%22label%22:[%22compat%22]}" } else { "" };
        let path = path.replace("{id}", id).replace("{name}", name);
        let shown = match answer(subject, method, &format!("{path}{query}"), None) {
            Ok(shown) => shown,
            Err(instead) => {
                wrong.push(instead);
                continue;
            }
        };
        let shown = shown.get(0).unwrap_or(&shown);
        let missing = route.answer.iter().filter(|name| shown.get(name.as_str()).is_none());
        wrong.extend(missing.map(|name| format!("{}: the answer has no {name}: {shown}", route.call)));
    }
    answer(subject, "DELETE", "/volumes/compat", None).unwrap();
    wrong
}

/// Where nothing is removed, Docker tells of no list.
fn nothing_pruned(subject: &Subject) -> Vec<String> {
    let kinds = [("containers", "ContainersDeleted"), ("images", "ImagesDeleted"), ("networks", "NetworksDeleted")];
    let one = |(kind, name): (&str, &str)| {
        let path = format!("/{kind}/prune?filters={{%22label%22:[%22nobody%22]}}");
        let shown = answer(subject, "POST", &path, None).unwrap_or_else(Value::String);
        (shown.get(name) != Some(&Value::Null)).then(|| format!("{path}: {name} is not null: {shown}"))
    };
    kinds.into_iter().filter_map(one).collect()
}
