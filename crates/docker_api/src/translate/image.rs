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

/// The digests that it has in repositories: `debian@sha256:…`.
fn digests(image: &Image) -> Vec<String> {
    let names = image.manifests.iter().flat_map(|manifest| &manifest.names);
    let mut digests: Vec<String> = names
        .filter_map(|name| {
            let reference: Reference = name.repository.parse().ok()?;
            Some(reference.with_digest(name.digest).familiar())
        })
        .collect();
    digests.sort();
    digests.dedup();
    digests
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
        repo_digests: digests(image),
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
        repo_digests: Some(digests(image)),
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

/// `GET /images/{name}/history`: the newest step first. `sizes` are the layers', lowest first.
pub(crate) fn history(image: &Image, sizes: &[u64]) -> Vec<ImageHistoryResponseItem> {
    let steps = image.config.history().clone().unwrap_or_default();
    let newest = steps.len().saturating_sub(1);
    let mut sizes = sizes.iter();
    let mut items = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        let layer = if step.empty_layer() == Some(true) { None } else { sizes.next() };
        let created = step.created().as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        items.push(ImageHistoryResponseItem {
            id: if index == newest { image.id.to_string() } else { "<missing>".to_owned() },
            created: created.map_or_else(|| seconds(image), jiff::Timestamp::as_second),
            created_by: step.created_by().clone().unwrap_or_default(),
            tags: if index == newest { names(image) } else { Vec::new() },
            size: layer.map_or(0, |size| i64::try_from(*size).unwrap_or(i64::MAX)),
            comment: step.comment().clone().unwrap_or_default(),
        });
    }
    items.reverse();
    items
}
