//! Images as Docker shows them.

use super::describe::STORAGE;
use super::time::rfc3339;
use docker_wire::models::{
    DriverData, ImageConfig, ImageHistoryResponseItem, ImageInspect, ImageInspectMetadata, ImageInspectRootFs,
    ImageSummary,
};
use engine::image::Image;
use oci::reference::Reference;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

fn seconds(image: &Image) -> i64 {
    super::time::unix_seconds(nanoseconds(image.created))
}

fn size(image: &Image) -> i64 {
    i64::try_from(image.size_bytes).unwrap_or(i64::MAX)
}

fn names(image: &Image) -> Vec<String> {
    image.references.iter().map(Reference::familiar).collect()
}

/// An image's labels.
pub(crate) fn labels(image: &Image) -> HashMap<String, String> {
    image.config.config().as_ref().and_then(|config| config.labels().clone()).unwrap_or_default()
}

/// One line of a listing. `containers` have been made from it.
pub(crate) fn summary(image: &Image, containers: usize) -> ImageSummary {
    ImageSummary {
        id: image.id.to_string(),
        parent_id: String::new(),
        repo_tags: names(image),
        repo_digests: Vec::new(),
        created: seconds(image),
        size: size(image),
        shared_size: -1,
        labels: labels(image),
        containers: i64::try_from(containers).unwrap_or(-1),
        manifests: None,
        descriptor: None,
    }
}

/// `GET /images/{name}/json`
pub(crate) fn inspect(image: &Image) -> ImageInspect {
    let config = &image.config;
    let comment = config.history().as_ref().and_then(|history| history.last()).and_then(|last| last.comment().clone());
    ImageInspect {
        id: Some(image.id.to_string()),
        repo_tags: Some(names(image)),
        repo_digests: Some(Vec::new()),
        comment: Some(comment.unwrap_or_default()),
        created: Some(rfc3339(nanoseconds(image.created))),
        author: Some(config.author().clone().unwrap_or_default()),
        config: Some(image_config(image)),
        architecture: Some(config.architecture().to_string()),
        variant: config.variant().clone(),
        os: Some(config.os().to_string()),
        size: Some(size(image)),
        graph_driver: Some(DriverData { name: STORAGE.to_owned(), data: HashMap::new() }),
        root_fs: Some(ImageInspectRootFs {
            typ: "layers".to_owned(),
            layers: Some(image.layers.iter().map(ToString::to_string).collect()),
        }),
        metadata: Some(ImageInspectMetadata::default()),
        ..Default::default()
    }
}

fn image_config(image: &Image) -> ImageConfig {
    let Some(config) = image.config.config() else { return ImageConfig::default() };
    ImageConfig {
        user: Some(config.user().clone().unwrap_or_default()),
        exposed_ports: config.exposed_ports().clone(),
        env: Some(config.env().clone().unwrap_or_default()),
        cmd: config.cmd().clone(),
        volumes: config.volumes().clone(),
        working_dir: Some(config.working_dir().clone().unwrap_or_default()),
        entrypoint: config.entrypoint().clone(),
        labels: Some(labels(image)),
        stop_signal: config.stop_signal().clone(),
        ..Default::default()
    }
}

/// `GET /images/{name}/history`: the newest step first.
pub(crate) fn history(image: &Image) -> Vec<ImageHistoryResponseItem> {
    let steps = image.config.history().clone().unwrap_or_default();
    // sizes are known by image, so one layer's is known only where there is but one
    let filled = steps.iter().filter(|step| step.empty_layer() != Some(true)).count();
    let newest = steps.len().saturating_sub(1);
    let mut items = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate().rev() {
        let has_layer = step.empty_layer() != Some(true);
        let created = step.created().as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        items.push(ImageHistoryResponseItem {
            id: if index == newest { image.id.to_string() } else { "<missing>".to_owned() },
            created: created.map_or_else(|| seconds(image), jiff::Timestamp::as_second),
            created_by: step.created_by().clone().unwrap_or_default(),
            tags: if index == newest { names(image) } else { Vec::new() },
            size: if has_layer && filled == 1 { size(image) } else { 0 },
            comment: step.comment().clone().unwrap_or_default(),
        });
    }
    items
}
