//! Containers: their life, their looks, their terminals.

use super::logs::{Shown, append};
use crate::attach::{Client, hijack, media};
use crate::error::ApiError;
use crate::fold;
use crate::reply::{self, Result};
use crate::route::Version;
use crate::server::Call;
use crate::translate::time::now_ns;
use crate::translate::{Filled, create as translate, describe, list as listing, refuse, resources};
use crate::websocket::{self, Words};
use bytes::Bytes;
use docker_wire::models::{
    ContainerCreateBody, ContainerCreateResponse, ContainerTopResponse, ContainerUpdateBody, ContainerUpdateResponse,
    ContainerWaitExitError, ContainerWaitResponse, HostConfig,
};
use engine::model::{Container, ContainerSpec};
use engine::{Attach, Framing, LogLine, Logs, Remove, Streams, WaitFor};
use hyper::StatusCode;
use hyper::body::Body;
use rustix::io::Errno;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Recorded output is sent in pieces of about this size.
const PIECE: usize = 32 << 10;

/// A start's body up to this size is none, in bytes: no object with anything in it is shorter.
const LONGEST_NOTHING: u64 = 7;

/// `POST /containers/create`
pub(crate) async fn create(mut call: Call) -> Result {
    let mut body: serde_json::Value = call.json().await?;
    for (name, value) in body.as_object_mut().into_iter().flatten() {
        // one word may stand for a list of one
        if value.is_string() && ["Cmd", "Entrypoint"].iter().any(|one| one.eq_ignore_ascii_case(name)) {
            *value = vec![value.take()].into();
        }
    }
    if body.is_null() || body.as_object().is_some_and(serde_json::Map::is_empty) {
        return Err(ApiError::invalid("Config cannot be empty in order to create a container"));
    }
    known_words(&body)?;
    let beside = |name: &str| fold::field(&body, name).and_then(serde_json::Value::as_str).map(str::to_owned);
    let (mac_address, runtime) = (beside("MacAddress"), beside("Runtime"));
    let mut body: ContainerCreateBody =
        fold::from_value(body).map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
    let host = body.host_config.get_or_insert_default();
    // docker-py has it in both places
    host.runtime = host.runtime.take().filter(|name| !name.is_empty()).or(runtime);
    if call.version < Version::minor(40) && host.ipc_mode.as_deref().unwrap_or_default().is_empty() {
        // what there was before private ones
        host.ipc_mode = Some("shareable".to_owned());
    }
    if call.version < Version::minor(44) {
        one_network(&body)?;
    }
    call.settings().defaults.fill(body.host_config.get_or_insert_default())?;
    let platform = call.query.text("platform").filter(|text| !text.is_empty());
    let platform = platform.map(str::parse).transpose()?;
    let name = call.query.text("name").map(|name| name.strip_prefix('/').unwrap_or(name).to_owned());
    let spec = ContainerSpec { platform, ..translate::spec_with(name, body, mac_address)? };
    let created = call.engine().create(spec).await?;
    let answer = ContainerCreateResponse { id: created.id.to_string(), warnings: created.warnings };
    reply::json_with(StatusCode::CREATED, &answer)
}

/// Before 1.44 a container was made in one network and joined others later; a client that old would not look at the rest.
fn one_network(body: &ContainerCreateBody) -> Result<()> {
    let asked = body.networking_config.as_ref().and_then(|config| config.endpoints_config.as_ref());
    let mut names: Vec<&str> = asked.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    if names.len() < 2 {
        return Ok(());
    }
    names.sort_unstable();
    let names = names.join(", ");
    Err(ApiError::invalid(format!("Container cannot be created with multiple network endpoints: {names}")))
}

/// Refuses policies and kinds of mounts that there are not in the words that clients know, before anything is made of the whole.
fn known_words(body: &serde_json::Value) -> Result<()> {
    let Some(host) = fold::field(body, "HostConfig") else { return Ok(()) };
    let policy = fold::field(host, "RestartPolicy").and_then(|policy| fold::field(policy, "Name")?.as_str());
    if let Some(policy) = policy.filter(|name| !["", "always", "no", "on-failure", "unless-stopped"].contains(name)) {
        return Err(ApiError::invalid(format!(
            "invalid restart policy: unknown policy '{policy}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )));
    }
    let cgroup = fold::field(host, "CgroupnsMode").and_then(serde_json::Value::as_str);
    if let Some(mode) = cgroup.filter(|mode| !["", "private", "host"].contains(mode)) {
        return Err(ApiError::invalid(format!("invalid cgroup namespace mode: {mode}")));
    }
    let mounts = fold::field(host, "Mounts");
    let types = mounts.and_then(serde_json::Value::as_array).into_iter().flatten();
    for kind in types.filter_map(|mount| fold::field(mount, "Type")?.as_str()) {
        if !["", "bind", "cluster", "image", "npipe", "tmpfs", "volume"].contains(&kind) {
            return Err(ApiError::invalid(format!("invalid mount config for type {kind:?}: mount type unknown")));
        }
    }
    Ok(())
}

/// Whether a name stands for an image, be it for that of one platform of several.
async fn stands_for(call: &Call, name: &str, id: &str) -> bool {
    let Ok(image) = call.engine().image(name).await else { return false };
    let of = |image: &engine::image::Image| image.id.to_string() == id;
    of(&image) || call.engine().image_parts(&image).is_ok_and(|parts| parts.iter().any(|part| of(&part.image)))
}

/// `GET /containers/json`
pub(crate) async fn list(call: Call) -> Result {
    let filters = call.query.filters(listing::FILTERS)?;
    let limit =
        call.query.number::<i64>("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let all = call.query.flag("all") || limit.is_some();
    let mut ancestors = Vec::new();
    for name in filters.values("ancestor").unwrap_or_default() {
        // a name without an image matches the containers that were made from it
        if let Ok(image) = call.engine().image(name).await {
            ancestors.extend(call.engine().descendants(&image).await?);
        }
    }
    let find = |who: &str| Ok(call.engine().container(who)?.as_ref().clone());
    let choice = listing::Choice::new(filters, all, ancestors, find)?;
    let now = now_ns();
    let containers = call.engine().containers();
    let shown = containers.iter().filter(|container| choice.shows(container));
    let shown: Vec<_> = shown.take(limit.unwrap_or(usize::MAX)).cloned().collect();
    let mut lines: Vec<_> = shown.iter().map(|container| listing::summary(container, now)).collect();
    let linked = call.engine().linked_names();
    let mut named: BTreeMap<(&str, &str), bool> = BTreeMap::new();
    for (line, container) in lines.iter_mut().zip(&shown) {
        let key = (container.spec.image.as_str(), container.image_id.as_str());
        let own = match named.entry(key) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => *place.insert(stands_for(&call, key.0, key.1).await),
        };
        // a name that has gone over to another image would mislead
        if !own {
            line.image = Some(container.image_id.clone());
        }
        let more = linked.get(&container.id).into_iter().flatten().map(|name| format!("/{name}"));
        line.names.get_or_insert_default().extend(more);
    }
    if call.query.flag("size") {
        for (line, (written, all)) in lines.iter_mut().zip(call.engine().sizes(&shown).await?) {
            (line.size_rw, line.size_root_fs) = (i64::try_from(written).ok(), i64::try_from(all).ok());
        }
    }
    reply::json(&lines)
}

/// `GET /containers/{id}/json`
pub(crate) async fn inspect(call: Call) -> Result {
    let engine = call.engine();
    let container = settled(&call).await?;
    let shown = describe::shown(&container, &engine.paths(&container), &engine.execs_of(&container.id));
    let mut shown = shown.map_err(|error| ApiError::internal(format!("cannot write the answer as JSON: {error}")))?;
    if call.version < Version::minor(45) {
        describe::short_id_aliases(&container, &mut shown);
    }
    if call.query.flag("size") {
        for (written, all) in engine.sizes(std::slice::from_ref(&container)).await? {
            (shown["SizeRw"], shown["SizeRootFs"]) = (written.into(), all.into());
        }
    }
    reply::json(&shown)
}

/// A container's record. Who was attached to it asks for the exit code when the stream ends, which may be a moment before the
/// helper's word of it has been read.
async fn settled(call: &Call) -> Result<Arc<Container>> {
    // one that another has a link to has a name below that one's
    let who = call.params.get(1).map_or_else(|| call.who().to_owned(), |alias| format!("{}/{alias}", call.who()));
    for _ in 0..super::exec::GLANCES {
        let container = call.engine().container(&who)?;
        if container.phase != engine::model::Phase::Running || super::exec::has_process(container.pid()) {
            return Ok(container);
        }
        tokio::time::sleep(super::exec::GLANCE).await;
    }
    Ok(call.engine().container(&who)?)
}

/// `POST /containers/{id}/start`
pub(crate) async fn start(call: Call) -> Result {
    // what clients before 1.24 sent here belongs to the creation; as with Docker, a word like `null` is nothing
    if call.request.body().size_hint().exact().is_none_or(|bytes| bytes > LONGEST_NOTHING) {
        return Err(ApiError::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    let container = call.engine().container(call.who())?;
    call.api.attaching.settled(container.id.as_str()).await;
    let id = container.id.as_str();
    match call.query.text("checkpoint") {
        None => call.engine().start(id).await?,
        Some(name) => call.engine().start_from(id, name, super::checkpoint::folder(&call, "checkpoint-dir")).await?,
    }
    reply::done()
}

fn grace(call: &Call) -> Result<Option<i64>> {
    call.query.number("t")
}

/// `POST /containers/{id}/stop`
pub(crate) async fn stop(call: Call) -> Result {
    call.engine().stop(call.who(), grace(&call)?, call.query.text("signal")).await?;
    reply::done()
}

/// `POST /containers/{id}/restart`
pub(crate) async fn restart(call: Call) -> Result {
    call.engine().restart(call.who(), grace(&call)?, call.query.text("signal")).await?;
    reply::done()
}

/// `POST /containers/{id}/kill`
pub(crate) async fn kill(call: Call) -> Result {
    call.engine().kill(call.who(), call.query.text("signal").unwrap_or("SIGKILL")).await?;
    reply::done()
}

/// `POST /containers/{id}/pause`
pub(crate) async fn pause(call: Call) -> Result {
    call.engine().pause(call.who()).await?;
    reply::done()
}

/// `POST /containers/{id}/unpause`
pub(crate) async fn unpause(call: Call) -> Result {
    call.engine().unpause(call.who()).await?;
    reply::done()
}

/// `POST /containers/{id}/rename`
pub(crate) async fn rename(call: Call) -> Result {
    let name =
        call.query.text("name").ok_or_else(|| ApiError::invalid("the new name is missing: give it as ?name="))?;
    call.engine().rename(call.who(), name.strip_prefix('/').unwrap_or(name)).await?;
    reply::done()
}

/// `DELETE /containers/{id}`
pub(crate) async fn remove(call: Call) -> Result {
    if call.query.flag("link") {
        return Err(ApiError::invalid("Could not get container for link: a link is named CONTAINER/ALIAS"));
    }
    let how = Remove { force: call.query.flag("force"), volumes: call.query.flag("v") };
    call.engine().remove(call.who(), how).await?;
    reply::done()
}

/// `DELETE /containers/{id}/{alias}?link=1`: a link is named as if it were below its container.
pub(crate) async fn remove_link(call: Call) -> Result {
    let alias = call.params.get(1).map_or("", String::as_str);
    if !call.query.flag("link") {
        return Err(ApiError::not_found(format!("No such container: {}/{alias}", call.who())));
    }
    call.engine().unlink(call.who(), alias).await?;
    reply::done()
}

/// `POST /containers/prune`
pub(crate) async fn prune(call: Call) -> Result {
    let filters = call.query.filters(&["label", "label!", "until"])?;
    let until = filters.until(now_ns())?;
    let chosen = |container: &Container| {
        until.is_none_or(|until| container.created_ns < until)
            && filters.match_labels(|key| container.spec.labels.get(key).map(String::as_str))
    };
    let (removed, bytes) = call.engine().prune_containers(chosen).await?;
    let removed = reply::removed(removed.iter().map(ToString::to_string).collect());
    reply::json(&json!({ "ContainersDeleted": removed, "SpaceReclaimed": bytes }))
}

/// `POST /containers/{id}/resize`
pub(crate) async fn resize(call: Call) -> Result {
    let (rows, columns) = terminal_size(&call)?;
    call.engine().resize(call.who(), rows, columns).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// `h` and `w` of a resize: rows and columns.
pub(crate) fn terminal_size(call: &Call) -> Result<(u16, u16)> {
    let size = |name: &str| {
        call.query
            .number(name)?
            .ok_or_else(|| ApiError::invalid(format!("the terminal's size needs both h and w; {name} is missing")))
    };
    Ok((size("h")?, size("w")?))
}

/// `POST /containers/{id}/update`
pub(crate) async fn update(mut call: Call) -> Result {
    let body: ContainerUpdateBody = call.json().await?;
    let container = call.engine().container(call.who())?;
    // both have the same fields by the API's description
    let value =
        serde_json::to_value(&body).map_err(|error| ApiError::internal(format!("cannot read the change: {error}")))?;
    let mut host: HostConfig = serde_json::from_value(value)
        .map_err(|error| ApiError::internal(format!("cannot read the change: {error}")))?;
    let policy = resources::restart(host.restart_policy.take())?;
    for (set, field) in [
        (host.devices.filled(), "Devices"),
        (host.device_cgroup_rules.filled(), "DeviceCgroupRules"),
        (host.ulimits.filled(), "Ulimits"),
        (host.init.is_some(), "Init"),
    ] {
        refuse(set, &format!("{field} in an update"), "create the container anew")?;
    }
    // before 1.40 there was no such field in a change; what is below 1 lifts the limit, and is shown as 0
    let processes = host.pids_limit.take().filter(|_| call.version >= Version::minor(40));
    let mut change = resources::take(&mut host)?;
    change.pids_limit = processes.map(|limit| limit.max(0));
    let warnings = call.engine().update(container.id.as_str(), &change, policy).await?;
    reply::json(&ContainerUpdateResponse { warnings: Some(warnings) })
}

/// `POST /containers/{id}/wait`: the head of the answer says that the wait is registered, the body how it ended.
pub(crate) async fn wait(call: Call) -> Result {
    let until = match call.query.text("condition").unwrap_or("not-running") {
        "not-running" => WaitFor::NotRunning,
        "next-exit" => WaitFor::NextExit,
        "removed" => WaitFor::Removed,
        other => {
            return Err(ApiError::invalid(format!(
                "invalid condition {other:?}; it is not-running, next-exit or removed"
            )));
        }
    };
    let wait = call.engine().wait(call.who(), until).await?;
    Ok(reply::later(async move {
        let answer = match wait.outcome().await {
            // an error here is one of waiting; why a run could not begin is told to who started it, and by inspect
            Ok(end) => ContainerWaitResponse { status_code: end.code.into(), error: None },
            Err(error) => ContainerWaitResponse {
                status_code: -1,
                error: Some(ContainerWaitExitError { message: Some(error.to_string()) }),
            },
        };
        reply::json_line(&answer).unwrap_or_else(|_| Bytes::from_static(b"{\"StatusCode\":-1}\n"))
    }))
}

/// What a client that attaches has asked for.
struct Wish {
    container: Arc<Container>,
    how: Attach,
    /// What was recorded before, if it wants that too.
    past: Option<mpsc::Receiver<engine::Result<LogLine>>>,
    /// Whether it wants what comes from now on.
    stream: bool,
}

impl Wish {
    async fn read(call: &Call, streams: Streams) -> Result<Self> {
        let container = call.engine().container(call.who())?;
        let query = &call.query;
        let (logs, stream) = (query.flag("logs"), query.flag("stream"));
        let Streams { stdin, stdout, stderr } = streams;
        // with neither stream nor logs there is an answer, and then its end
        if (stream || logs) && !(stdin || stdout || stderr) {
            return Err(ApiError::invalid("there is nothing to attach; set any of stdin, stdout and stderr"));
        }
        let which = Logs { stdout, stderr, ..Logs::default() };
        let past = if logs { Some(call.engine().logs(container.id.as_str(), which).await?) } else { None };
        if container.phase == engine::model::Phase::Paused {
            return Err(ApiError::new(
                StatusCode::CONFLICT,
                format!("container {} is paused; unpause the container before attach", container.id),
            ));
        }
        // afterwards there is nobody left to tell
        call.engine().check_detach_keys(query.text("detachKeys").unwrap_or_default())?;
        let how = Attach {
            streams: Streams { stdin: stdin && container.spec.open_stdin, stdout, stderr },
            detach_keys: query.text("detachKeys").map(str::to_owned),
        };
        Ok(Self { container, how, past, stream })
    }

    /// Fulfils it, once the client's answer is on its way; a start waits for that.
    fn grant(self, call: Call, client: Client) {
        let promise = call.api.attaching.promise(self.container.id.as_str());
        tokio::spawn(async move {
            if let Err(error) = self.hand_over(&call, client).await {
                // the answer has been given; the client sees its connection end
                tracing::debug!(%error, who = call.who(), "cannot attach");
            }
            drop(promise);
        });
    }

    async fn hand_over(self, call: &Call, client: Client) -> io::Result<()> {
        let (mut connection, ahead) = client.connection().await?;
        if let Some(past) = self.past {
            let shown = Shown { tty: self.container.spec.tty, ..Shown::default() };
            connection = send_past(connection, past, shown).await?;
        }
        if self.stream {
            let attached = call.engine().attach(self.container.id.as_str(), self.how, connection, ahead).await;
            attached.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// `POST /containers/{id}/attach`
pub(crate) async fn attach(mut call: Call) -> Result {
    let asked = |name: &str| call.query.flag(name);
    let streams = Streams { stdin: asked("stdin"), stdout: asked("stdout"), stderr: asked("stderr") };
    let wish = Wish::read(&call, streams).await?;
    let media = media(wish.container.spec.tty, call.version >= Version::minor(42));
    let (client, reply) = hijack(&mut call.request, media);
    wish.grant(call, client);
    Ok(reply)
}

/// `GET /containers/{id}/attach/ws`: as [`attach`], each piece of output a message, of both streams alike.
pub(crate) async fn attach_websocket(mut call: Call) -> Result {
    // before 1.42 the parameters were there, and not heeded
    let asked = |name: &str| call.version < Version::minor(42) || call.query.flag(name);
    let streams = Streams { stdin: asked("stdin"), stdout: asked("stdout"), stderr: asked("stderr") };
    let wish = Wish::read(&call, streams).await?;
    let words = if call.version < Version::minor(28) { Words::Text } else { Words::Binary };
    let framing = if wish.container.spec.tty { Framing::Raw } else { Framing::Multiplexed };
    let (client, reply) = websocket::accept(&mut call.request, words, framing)?;
    wish.grant(call, client);
    Ok(reply)
}

/// Writes what was recorded before the streams begin; the connection comes back.
async fn send_past(
    connection: OwnedFd,
    mut past: mpsc::Receiver<engine::Result<LogLine>>,
    shown: Shown,
) -> io::Result<OwnedFd> {
    let (pieces, receiver) = std::sync::mpsc::sync_channel::<Vec<u8>>(4);
    let writer = tokio::task::spawn_blocking(move || {
        for piece in receiver {
            write_all(&connection, &piece)?;
        }
        Ok(connection)
    });
    let mut piece = Vec::new();
    while let Some(Ok(line)) = past.recv().await {
        append(&mut piece, &line, shown);
        if past.is_empty() || piece.len() > PIECE {
            let (pieces, piece) = (pieces.clone(), std::mem::take(&mut piece));
            let sent = tokio::task::spawn_blocking(move || pieces.send(piece)).await;
            if !matches!(sent, Ok(Ok(()))) {
                break;
            }
        }
    }
    drop(pieces);
    writer.await.map_err(io::Error::other)?
}

/// Writes to a connection that does not wait by itself.
fn write_all(connection: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    while !bytes.is_empty() {
        match rustix::net::send(connection, bytes, rustix::net::SendFlags::NOSIGNAL) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(connection, PollFlags::OUT)], None)?),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// `GET /containers/{id}/top`
pub(crate) async fn top(call: Call) -> Result {
    let top = call.engine().top(call.who(), call.query.text("ps_args").unwrap_or("-ef")).await?;
    reply::json(&ContainerTopResponse { titles: Some(top.titles), processes: Some(top.rows) })
}
