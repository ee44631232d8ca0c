//! Images as Docker shows them.

use super::describe::STORAGE;
use super::time::rfc3339;
use docker_wire::models::{
    DriverData, ImageConfig, ImageHistoryResponseItem, ImageInspect, ImageInspectMetadata, ImageInspectRootFs,
    ImageManifestSummary, ImageManifestSummaryImageData, ImageManifestSummaryImageDataSize,
    ImageManifestSummaryKindEnum, ImageManifestSummarySize, ImageSummary, OciDescriptor, OciPlatform,
};
use engine::ImagePart;
use engine::image::Image;
use oci::reference::Reference;
use serde_json::Value;
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

/// The image that it was made of.
fn parent(image: &Image) -> String {
    image.parent.map(|parent| parent.to_string()).unwrap_or_default()
}

/// One line of a listing. `containers` have been made from it.
pub(crate) fn summary(image: &Image, containers: usize) -> ImageSummary {
    ImageSummary {
        id: image.id.to_string(),
        parent_id: parent(image),
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

/// What describes a part of an image.
pub(crate) fn descriptor(part: &ImagePart) -> OciDescriptor {
    OciDescriptor {
        media_type: Some(part.media_type.clone()),
        digest: Some(part.digest.to_string()),
        size: i64::try_from(part.bytes).ok(),
        ..Default::default()
    }
}

/// A part of an image. `containers` are the ids of those that were made from it.
pub(crate) fn manifest(part: &ImagePart, containers: Vec<String>) -> ImageManifestSummary {
    let platform = OciPlatform {
        architecture: Some(part.platform.architecture.clone()),
        os: Some(part.platform.os.clone()),
        // as the platform is written: that of arm64 is not
        variant: part.platform.to_string().split('/').nth(2).map(str::to_owned),
        ..Default::default()
    };
    let content = i64::try_from(part.content_bytes).unwrap_or(i64::MAX);
    let unpacked = size(&part.image);
    ImageManifestSummary {
        id: part.digest.to_string(),
        descriptor: OciDescriptor { platform: Some(platform.clone()), ..descriptor(part) },
        // an image is stored whole or not at all
        available: true,
        size: ImageManifestSummarySize { total: content.saturating_add(unpacked), content },
        kind: Some(ImageManifestSummaryKindEnum::IMAGE),
        image_data: Some(ImageManifestSummaryImageData {
            platform,
            containers,
            size: ImageManifestSummaryImageDataSize { unpacked },
        }),
        attestation_data: None,
    }
}

/// The configuration of the container that an image was made of, as far as the image's own tells: else it is the image's.
///
/// # Errors
/// If `configuration` is no JSON.
pub(crate) fn container_config(config: &Value, configuration: &[u8]) -> serde_json::Result<Value> {
    let own: Value = serde_json::from_slice(configuration)?;
    let mut all = config.clone();
    for (field, value) in own["container_config"].as_object().into_iter().flatten() {
        all[field] = value.clone();
    }
    Ok(all)
}

/// The whole answer of [`inspect`] as JSON, with the fields that Docker alone knows, out of the image's own configuration, and those
/// that only older clients read.
///
/// # Errors
/// If `configuration` is no JSON.
pub(crate) fn shown(image: &Image, configuration: &[u8]) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(inspect(image))?;
    let own: Value = serde_json::from_slice(configuration)?;
    value["Parent"] = parent(image).into();
    value["Container"] = own["container"].as_str().unwrap_or_default().into();
    value["DockerVersion"] = own["docker_version"].as_str().unwrap_or_default().into();
    for (field, empty) in [
        ("ArgsEscaped", Value::Null),
        ("AttachStderr", false.into()),
        ("AttachStdin", false.into()),
        ("AttachStdout", false.into()),
        ("Cmd", Value::Null),
        ("Domainname", "".into()),
        ("Entrypoint", Value::Null),
        ("Healthcheck", Value::Null),
        ("Hostname", "".into()),
        ("Image", "".into()),
        ("OnBuild", Value::Null),
        ("OpenStdin", false.into()),
        ("Shell", Value::Null),
        ("StdinOnce", false.into()),
        ("Tty", false.into()),
        ("Volumes", Value::Null),
    ] {
        if value["Config"].get(field).is_some() {
            continue;
        }
        match own["config"].get(field).filter(|own| !own.is_null()) {
            Some(own) => value["Config"][field] = own.clone(),
            // these are left out by Docker as well
            None if ["ArgsEscaped", "Healthcheck", "Shell"].contains(&field) => {}
            None => value["Config"][field] = empty,
        }
    }
    Ok(value)
}

/// Takes away what an image's configuration has of a container's, which the API has no more from 1.50 on.
pub(crate) fn without_old_fields(shown: &mut Value) {
    const OLD: &[&str] = &[
        "AttachStderr",
        "AttachStdin",
        "AttachStdout",
        "Domainname",
        "Hostname",
        "Image",
        "MacAddress",
        "NetworkDisabled",
        "OpenStdin",
        "StdinOnce",
        "StopTimeout",
        "Tty",
    ];
    if let Some(config) = shown["Config"].as_object_mut() {
        config.retain(|field, _| !OLD.contains(&field.as_str()));
    }
}

/// `GET /images/{name}/json`
fn inspect(image: &Image) -> ImageInspect {
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
        metadata: Some(ImageInspectMetadata { last_tag_time: image.tagged.map(|time| rfc3339(nanoseconds(time))) }),
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
