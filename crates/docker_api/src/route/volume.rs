//! Named local volumes.

use crate::error::ApiError;
use crate::query::Filters;
use crate::reply::{self, Result};
use crate::server::Call;
use crate::translate::time::rfc3339;
use crate::translate::{Filled, refuse};
use docker_wire::models::{self, VolumeCreateRequest, VolumeListResponse, VolumePruneResponse, VolumeUsageData};
use engine::Volume;
use hyper::StatusCode;
use std::collections::{BTreeMap, HashMap};

fn describe(volume: &Volume) -> models::Volume {
    models::Volume {
        name: volume.name.clone(),
        driver: "local".to_owned(),
        mountpoint: volume.path.to_string_lossy().into_owned(),
        created_at: Some(rfc3339(volume.created_ns)),
        status: None,
        labels: volume.labels.clone().into_iter().collect(),
        scope: "local".parse().ok(),
        cluster_volume: None,
        options: HashMap::new(),
        usage_data: None,
    }
}

/// How many containers have the volume.
fn users(call: &Call, name: &str) -> usize {
    call.engine().containers().iter().filter(|container| container.volumes.iter().any(|v| v.name == name)).count()
}

/// All volumes with the numbers for `/system/df`.
pub(crate) async fn volumes(call: &Call) -> Result<Vec<models::Volume>> {
    let all = call.engine().volumes();
    let shown = all.iter().map(|volume| {
        let count = i64::try_from(users(call, &volume.name)).unwrap_or(-1);
        // -1: not counted, for it means walking through all of a volume's files
        models::Volume { usage_data: Some(VolumeUsageData { size: -1, ref_count: count }), ..describe(volume) }
    });
    Ok(shown.collect())
}

fn shows(call: &Call, filters: &Filters, dangling: Option<bool>, volume: &Volume) -> bool {
    dangling.is_none_or(|dangling| dangling == (users(call, &volume.name) == 0))
        && filters.matches("name", |name| volume.name.contains(name))
        && filters.matches("driver", |driver| driver == "local")
        && filters.match_labels(|key| volume.labels.get(key).map(String::as_str))
}

/// `GET /volumes`
pub(crate) async fn list(call: Call) -> Result {
    let filters = call.query.filters(&["dangling", "driver", "label", "name"])?;
    let dangling = filters.flag("dangling")?;
    let all = call.engine().volumes();
    let shown = all.iter().filter(|volume| shows(&call, &filters, dangling, volume)).map(describe);
    reply::json(&VolumeListResponse { volumes: Some(shown.collect()), warnings: Some(Vec::new()) })
}

/// `GET /volumes/{name}`
pub(crate) async fn inspect(call: Call) -> Result {
    reply::json(&describe(&call.engine().volume(call.who())?))
}

/// `POST /volumes/create`
pub(crate) async fn create(mut call: Call) -> Result {
    let body: VolumeCreateRequest = call.json_or_default().await?;
    refuse(
        body.driver.is_some_and(|driver| !matches!(driver.as_str(), "" | "local")),
        "a volume driver other than local",
        "",
    )?;
    refuse(body.driver_opts.filled(), "DriverOpts of a volume", "bind a folder of the host instead")?;
    refuse(body.cluster_volume_spec.is_some(), "ClusterVolumeSpec", "")?;
    let labels: BTreeMap<String, String> = body.labels.unwrap_or_default().into_iter().collect();
    let volume = call.engine().create_volume(body.name.as_deref(), labels)?;
    reply::json_with(StatusCode::CREATED, &describe(&volume))
}

/// `DELETE /volumes/{name}`
pub(crate) async fn remove(call: Call) -> Result {
    match call.engine().remove_volume(call.who()) {
        Err(error) if error.class() == engine::ErrorClass::NotFound && call.query.flag("force") => reply::done(),
        other => other.map_err(ApiError::from).and_then(|()| reply::done()),
    }
}

/// `POST /volumes/prune`: volumes with made-up names that no container has, or with `all` also the named ones.
pub(crate) async fn prune(call: Call) -> Result {
    let filters = call.query.filters(&["all", "label"])?;
    let all = filters.flag("all")?.unwrap_or(false);
    let mut removed = Vec::new();
    for volume in call.engine().volumes() {
        let made_up = volume.name.len() == 64 && volume.name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let chosen = (all || made_up) && filters.match_labels(|key| volume.labels.get(key).map(String::as_str));
        if chosen && users(&call, &volume.name) == 0 && call.engine().remove_volume(&volume.name).is_ok() {
            removed.push(volume.name);
        }
    }
    reply::json(&VolumePruneResponse { volumes_deleted: Some(removed), space_reclaimed: Some(0) })
}
