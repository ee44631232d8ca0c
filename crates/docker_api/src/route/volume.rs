//! Local volumes, and archives of them.

use super::archive::written;
use super::image::{Archive, feed};
use crate::error::ApiError;
use crate::query::Filters;
use crate::reply::{self, Result};
use crate::route::Version;
use crate::server::Call;
use crate::translate::mounts::local_driver;
use crate::translate::refuse;
use crate::translate::time::rfc3339;
use docker_wire::models::{self, VolumeCreateRequest, VolumeListResponse, VolumePruneResponse, VolumeUsageData};
use engine::{NewVolume, Volume};
use hyper::StatusCode;
use serde_json::Value;
use std::collections::BTreeMap;

/// How Docker marks volumes that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";
/// From this version on, volumes with a name are pruned only if that is asked for.
const PRUNES_ANONYMOUS: Version = Version::minor(42);

/// Its labels as clients see them.
fn labels(volume: &Volume) -> BTreeMap<&str, &str> {
    let own = volume.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    own.chain(volume.anonymous.then_some((ANONYMOUS, ""))).collect()
}

fn describe(volume: &Volume) -> models::Volume {
    models::Volume {
        name: volume.name.clone(),
        driver: "local".to_owned(),
        mountpoint: volume.path.to_string_lossy().into_owned(),
        created_at: Some(rfc3339(volume.created_ns)),
        status: None,
        labels: labels(volume).into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        scope: "local".parse().ok(),
        cluster_volume: None,
        options: volume.options.clone().into_iter().collect(),
        usage_data: None,
    }
}

/// As Docker writes it: what is not there is `null`, not empty.
fn shown(volume: &models::Volume) -> Result<Value> {
    let mut value = serde_json::to_value(volume)
        .map_err(|error| ApiError::internal(format!("cannot write a volume as JSON: {error}")))?;
    for (name, empty) in [("Labels", volume.labels.is_empty()), ("Options", volume.options.is_empty())] {
        if empty {
            value[name] = Value::Null;
        }
    }
    Ok(value)
}

/// How many containers have each volume.
fn users(call: &Call) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for container in call.engine().containers() {
        let names: std::collections::BTreeSet<&String> = container.volumes.iter().map(|volume| &volume.name).collect();
        for name in names {
            *counts.entry(name.clone()).or_default() += 1;
        }
    }
    counts
}

/// All volumes with what they take and who has them, for `/system/df`.
pub(crate) async fn volumes(call: &Call) -> Result<Vec<Value>> {
    let all = call.engine().volumes();
    let lengths = call.engine().volume_lengths(&all).await?;
    let users = users(call);
    let described = all.iter().zip(lengths).map(|(volume, length)| {
        let ref_count = users.get(&volume.name).map_or(0, |count| i64::try_from(*count).unwrap_or(i64::MAX));
        let usage = VolumeUsageData { size: i64::try_from(length).unwrap_or(i64::MAX), ref_count };
        shown(&models::Volume { usage_data: Some(usage), ..describe(volume) })
    });
    described.collect()
}

fn labelled(filters: &Filters, volume: &Volume) -> bool {
    let labels = labels(volume);
    filters.match_labels(|key| labels.get(key).copied())
}

/// `GET /volumes`
pub(crate) async fn list(call: Call) -> Result {
    let filters = call.query.filters(&["dangling", "driver", "label", "name"])?;
    let dangling = filters.flag("dangling")?;
    let users = users(&call);
    let matches = |volume: &&Volume| {
        dangling.is_none_or(|dangling| dangling != users.contains_key(&volume.name))
            && filters.matches("name", |name| volume.name.contains(name))
            && filters.matches("driver", |driver| driver == "local")
            && labelled(&filters, volume)
    };
    let all = call.engine().volumes();
    let volumes = all.iter().filter(matches).map(|volume| shown(&describe(volume))).collect::<Result<Vec<_>>>()?;
    let empty = VolumeListResponse { volumes: None, warnings: None };
    let mut answer = serde_json::to_value(&empty).unwrap_or_default();
    answer["Volumes"] = volumes.into();
    answer["Warnings"] = Value::Null;
    reply::json(&answer)
}

/// `GET /volumes/{name}`
pub(crate) async fn inspect(call: Call) -> Result {
    reply::json(&shown(&describe(&call.engine().volume(call.who())?))?)
}

/// `POST /volumes/create`
pub(crate) async fn create(mut call: Call) -> Result {
    let body: VolumeCreateRequest = call.json().await?;
    local_driver(body.driver.as_deref(), body.name.as_deref().unwrap_or_default())?;
    refuse(body.cluster_volume_spec.is_some(), "ClusterVolumeSpec", "")?;
    let volume = call.engine().create_volume(NewVolume {
        name: body.name.filter(|name| !name.is_empty()),
        labels: body.labels.unwrap_or_default().into_iter().collect(),
        options: body.driver_opts.unwrap_or_default().into_iter().collect(),
    });
    reply::json_with(StatusCode::CREATED, &shown(&describe(&volume.await?))?)
}

/// `PUT /volumes/{name}`: only volumes of a swarm can be changed.
pub(crate) async fn update(call: Call) -> Result {
    call.engine().volume(call.who())?;
    super::system::no_swarm(call).await
}

/// `DELETE /volumes/{name}`
pub(crate) async fn remove(call: Call) -> Result {
    match call.engine().remove_volume(call.who()).await {
        Err(error) if error.class() == engine::ErrorClass::NotFound && call.query.flag("force") => reply::done(),
        other => other.map_err(ApiError::from).and_then(|()| reply::done()),
    }
}

/// `POST /volumes/prune`: volumes that nobody named and no container has, or with `all` also the named ones.
pub(crate) async fn prune(call: Call) -> Result {
    let filters = call.query.filters(&["all", "label", "label!"])?;
    let all = filters.flag("all")?.unwrap_or(call.version < PRUNES_ANONYMOUS);
    let users = users(&call);
    let mut chosen = call.engine().volumes();
    chosen
        .retain(|volume| (all || volume.anonymous) && labelled(&filters, volume) && !users.contains_key(&volume.name));
    let lengths = call.engine().volume_lengths(&chosen).await?;
    let (mut removed, mut freed) = (Vec::new(), 0);
    for (volume, length) in chosen.into_iter().zip(lengths) {
        // one that somebody has taken meanwhile stays
        if call.engine().remove_volume(&volume.name).await.is_ok() {
            freed += length;
            removed.push(volume.name);
        }
    }
    call.engine().volumes_pruned(freed);
    let space_reclaimed = i64::try_from(freed).ok();
    reply::json(&VolumePruneResponse { volumes_deleted: Some(removed), space_reclaimed })
}

/// `GET /insula/volumes/{name}/archive`
pub(crate) async fn backup(call: Call) -> Result {
    let name = call.engine().volume(call.who())?.name;
    let engine = call.engine().clone();
    Ok(written(move |out| async move { engine.backup_volume(&name, out).await }))
}

/// `POST /insula/volumes/{name}/archive`
pub(crate) async fn restore(mut call: Call) -> Result {
    let (pieces, archive) = Archive::new();
    let engine = call.engine().clone();
    let name = call.who().to_owned();
    let restore = engine.restore_volume(&name, Box::new(archive));
    let feed = feed(call.request.body_mut(), pieces);
    let (restored, ()) = tokio::join!(restore, feed);
    reply::json(&shown(&describe(&restored?))?)
}
