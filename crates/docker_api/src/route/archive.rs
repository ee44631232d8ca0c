//! Archives: images saved and loaded, containers exported; and images made of containers.

use super::image::{Archive, changes, feed, target};
use super::registry::{failure, send};
use crate::error::ApiError;
use crate::reply::{self, Result};
use crate::server::Call;
use bytes::Bytes;
use engine::image::ConfigChanges;
use engine::{Change, Commit, EngineError};
use hyper::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use tokio::sync::mpsc;

/// `GET /images/get`, `GET /images/{name}/get`
pub(crate) async fn save(call: Call) -> Result {
    let mut names: Vec<String> = call.query.all("names").flat_map(|list| list.split(',')).map(str::to_owned).collect();
    if !call.params.is_empty() {
        names.push(call.who().to_owned());
    }
    if names.is_empty() {
        return Err(ApiError::invalid("no image is named: give ?names="));
    }
    let saving = call.engine().save_images(&names, super::image::wanted_platform(&call, 48)?.as_ref()).await?;
    Ok(written(move |out| async move { saving.write(out).await }))
}

/// `GET /containers/{id}/export`
pub(crate) async fn export(call: Call) -> Result {
    let engine = call.engine().clone();
    // a missing one is an answer of its own
    let id = engine.container(call.who())?.id.to_string();
    Ok(written(move |out| async move { engine.export(&id, out).await }))
}

/// An archive that is written on a thread while it is sent. One that fails is cut off.
pub(super) fn written<F>(write: impl FnOnce(Pipe) -> F + Send + 'static) -> reply::Reply
where
    F: Future<Output = std::result::Result<(), EngineError>> + Send,
{
    let (out, reply) = reply::stream("application/x-tar");
    tokio::spawn(async move {
        if let Err(error) = write(Pipe(out.clone())).await {
            tracing::warn!(%error, "an archive was cut off");
            let _ = out.send(Err(io::Error::other(error))).await;
        }
    });
    reply
}

/// The body of an answer for a thread that writes.
pub(super) struct Pipe(pub(super) mpsc::Sender<io::Result<Bytes>>);

impl io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `POST /images/load`
pub(crate) async fn load(mut call: Call) -> Result {
    let (pieces, archive) = Archive::new();
    let platform = match super::image::wanted_platform(&call, 48) {
        Ok(platform) => platform,
        Err(error) => {
            // who sends an archive hears of the refusal once all is sent
            super::image::drain(call.request.body_mut()).await;
            return Err(error);
        }
    };
    let load = call.api.engine.load_images(Box::new(archive), platform);
    let feed = feed(call.request.body_mut(), pieces);
    let (loaded, ()) = tokio::join!(load, feed);
    let (out, reply) = reply::stream("application/json");
    let lines = match loaded {
        Ok(loaded) => {
            let mut lines = Vec::new();
            for one in loaded {
                if one.names.is_empty() {
                    lines.push(json!({ "stream": format!("Loaded image ID: {}\n", one.image.id) }));
                }
                let line = |name: &oci::reference::Reference| json!({ "stream": format!("Loaded image: {}\n", name.familiar()) });
                lines.extend(one.names.iter().map(line));
            }
            lines
        }
        Err(error) => vec![failure(&error.to_string())],
    };
    tokio::spawn(async move { send(&out, lines).await });
    Ok(reply)
}

/// `GET /containers/{id}/changes`
pub(crate) async fn diff(call: Call) -> Result {
    let changes = call.engine().changes(call.who()).await?;
    let show = |change: &Change| {
        let kind = match change {
            Change::Modified(_) => 0,
            Change::Added(_) => 1,
            Change::Deleted(_) => 2,
        };
        json!({ "Path": change.path().to_string_lossy(), "Kind": kind })
    };
    match changes.is_empty() {
        true => reply::json(&Value::Null),
        false => reply::json(&changes.iter().map(show).collect::<Vec<_>>()),
    }
}

/// `POST /commit`
pub(crate) async fn commit(mut call: Call) -> Result {
    let body: Value = call.json_or_default().await?;
    let mut config = of_config(&body);
    changes(&call, &mut config)?;
    let container = call.query.text("container").map(str::to_owned);
    let commit = Commit {
        container: container.ok_or_else(|| ApiError::invalid("no container is named: give ?container="))?,
        name: target(&call)?,
        message: call.query.text("comment").unwrap_or_default().to_owned(),
        author: call.query.text("author").unwrap_or_default().to_owned(),
        pause: call.query.flag_or("pause", true),
        changes: config,
    };
    let image = call.engine().commit(commit).await?;
    reply::json_with(StatusCode::CREATED, &json!({ "Id": image.id.to_string() }))
}

/// What a configuration in a commit's body sets.
fn of_config(body: &Value) -> ConfigChanges {
    let words = |name: &str| -> Option<Vec<String>> {
        let list = body.get(name)?.as_array()?;
        Some(list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    };
    let text = |name: &str| body.get(name)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let keys = |name: &str| -> Vec<String> {
        body.get(name).and_then(Value::as_object).map(|map| map.keys().cloned().collect()).unwrap_or_default()
    };
    let labels = body.get("Labels").and_then(Value::as_object).into_iter().flatten();
    let labels: BTreeMap<String, String> =
        labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    let env = words("Env").unwrap_or_default();
    ConfigChanges {
        cmd: words("Cmd"),
        entrypoint: words("Entrypoint"),
        env: env.iter().filter_map(|pair| pair.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        working_dir: text("WorkingDir"),
        user: text("User"),
        labels,
        exposed_ports: keys("ExposedPorts"),
        volumes: keys("Volumes"),
        stop_signal: text("StopSignal"),
        healthcheck: body.get("Healthcheck").and_then(|health| serde_json::from_value(health.clone()).ok()),
        on_build: words("OnBuild").unwrap_or_default(),
    }
}

/// `GET /insula/images/check`
pub(crate) async fn check(call: Call) -> Result {
    let problems = call.engine().check_images().await?;
    let show = |one: &engine::image::Problem| json!({ "Object": one.object, "Description": one.description });
    reply::json(&problems.iter().map(show).collect::<Vec<_>>())
}
