//! Images: listing, importing, naming, removing.

use crate::error::ApiError;
use crate::reply::{self, Result};
use crate::route::Version;
use crate::server::Call;
use crate::translate::image as translate;
use bytes::{Buf, Bytes};
use docker_wire::models::{ImageDeleteResponseItem, ImageManifestSummary, ImageSummary};
use engine::ImagePart;
use engine::image::{ConfigChanges, Image, ImportOptions, LayerId, PruneScope, Removed};
use engine::model::Container;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use oci::platform::Platform;
use oci::reference::Reference;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Pieces of an archive that wait for the importer.
const DEPTH: usize = 32;
/// How long the rest of a refused archive is read, so that the client gets to reading the refusal.
const DRAIN: Duration = Duration::from_secs(10);

/// All images with their numbers of containers.
pub(crate) async fn summaries(call: &Call) -> Result<Vec<ImageSummary>> {
    let containers = call.engine().containers();
    let images = call.engine().images().await?;
    let shared = Shared::of(&images);
    let line = |image: &Image| {
        let size = shared.bytes(image, &call.engine().layer_sizes(image));
        ImageSummary { shared_size: size, ..translate::summary(image, users(&containers, image)) }
    };
    Ok(images.iter().map(line).collect())
}

/// How many images have each layer.
struct Shared(BTreeMap<LayerId, usize>);

impl Shared {
    fn of(images: &[Image]) -> Self {
        let mut holders = BTreeMap::new();
        for image in images {
            for layer in image.layers.iter().collect::<BTreeSet<_>>() {
                *holders.entry(*layer).or_insert(0) += 1;
            }
        }
        Self(holders)
    }

    /// What an image's layers take that others have as well; `sizes` is what each takes.
    fn bytes(&self, image: &Image, sizes: &[u64]) -> i64 {
        let each: BTreeMap<_, _> = image.layers.iter().zip(sizes).collect();
        let shared = each.into_iter().filter(|(layer, _)| self.0.get(layer).is_some_and(|holders| *holders > 1));
        i64::try_from(shared.map(|(_, size)| size).sum::<u64>()).unwrap_or(i64::MAX)
    }
}

/// The parts of an image, each with its containers.
fn manifests(call: &Call, image: &Image, containers: &[Arc<Container>]) -> Result<Vec<ImageManifestSummary>> {
    let of = |part: &ImagePart| {
        let id = part.image.id.to_string();
        let made = containers.iter().filter(|container| container.image_id == id);
        translate::manifest(part, made.map(|container| container.id.to_string()).collect())
    };
    Ok(call.engine().image_parts(image)?.iter().map(of).collect())
}

fn users(containers: &[Arc<Container>], image: &Image) -> usize {
    let id = image.id.to_string();
    containers.iter().filter(|container| container.image_id == id).count()
}

/// `GET /images/json`
pub(crate) async fn list(call: Call) -> Result {
    let mut filters = call.query.filters(&["before", "dangling", "label", "reference", "since", "until"])?;
    // a parameter of its own before 1.41
    if call.version < Version::minor(41)
        && let Some(pattern) = call.query.text("filter")
    {
        filters.add("reference", pattern);
    }
    let dangling = filters.flag("dangling")?;
    let created = async |key: &str| -> Result<Option<std::time::SystemTime>> {
        let mut found = None;
        for name in filters.values(key).unwrap_or_default() {
            found = Some(call.engine().image(name).await?.created);
        }
        Ok(found)
    };
    let (before, since) = (created("before").await?, created("since").await?);
    let until = filters.earliest_until(engine::now_ns())?.map(|until| UNIX_EPOCH + Duration::from_nanos(until));
    let containers = call.engine().containers();
    let mut shown = Vec::new();
    let images = call.engine().images().await?;
    let shared = call.query.flag("shared-size").then(|| Shared::of(&images));
    for mut image in images {
        let labels = translate::labels(&image);
        let keep = dangling.is_none_or(|dangling| dangling == image.references.is_empty())
            && before.is_none_or(|before| image.created < before)
            && since.is_none_or(|since| image.created > since)
            && until.is_none_or(|until| image.created < until)
            && filters.match_labels(|key| labels.get(key).map(String::as_str));
        if let Some(patterns) = filters.values("reference") {
            image.references.retain(|name| patterns.iter().any(|pattern| named(pattern, name)));
            if image.references.is_empty() {
                continue;
            }
        }
        if keep {
            let mut line = translate::summary(&image, users(&containers, &image));
            if call.version >= Version::minor(47) && call.query.flag("manifests") {
                line.manifests = Some(manifests(&call, &image, &containers)?);
            }
            if let Some(shared) = &shared {
                line.shared_size = shared.bytes(&image, &call.engine().layer_sizes(&image));
            }
            shown.push(line);
        }
    }
    reply::json(&shown)
}

/// True if a pattern fits a reference, with or without its tag.
fn named(pattern: &str, reference: &Reference) -> bool {
    glob(pattern.as_bytes(), reference.familiar().as_bytes())
        || glob(pattern.as_bytes(), reference.familiar_name().as_bytes())
        || reference.to_string() == pattern
}

/// `*` and `?`, neither of which takes a slash.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // where to go on when what follows the last `*` does not fit: it takes one more letter
    let (mut at, mut from, mut retry) = (0, 0, None);
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                retry = Some((at, from));
                at += 1;
            }
            Some(b'?') if text[from] != b'/' => (at, from) = (at + 1, from + 1),
            Some(letter) if *letter == text[from] => (at, from) = (at + 1, from + 1),
            _ => match retry {
                Some((star, taken)) if text[taken] != b'/' => {
                    retry = Some((star, taken + 1));
                    (at, from) = (star + 1, taken + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
}

/// The platform that a query asks for, as JSON, of versions from 1.`since` on.
pub(super) fn wanted_platform(call: &Call, since: u16) -> Result<Option<Platform>> {
    let asked = call.query.text("platform").filter(|text| !text.is_empty() && call.version >= Version::minor(since));
    asked.map(platform).transpose()
}

fn platform(text: &str) -> Result<Platform> {
    let wrong = |why: String| ApiError::invalid(format!("failed to parse platform {text:?}: {why}"));
    let given: Platform = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    // with the words that are ours for what has several
    given.to_string().parse().map_err(|error: oci::platform::PlatformError| wrong(error.to_string()))
}

fn no_platform(call: &Call, wanted: &Platform) -> ApiError {
    let who = call.who();
    ApiError::not_found(format!(
        "image with reference {who} was found but does not provide the specified platform ({wanted})"
    ))
}

/// The image that a path names, or that of the platform that `platform` asks for.
async fn named_image(call: &Call, since: u16) -> Result<Image> {
    let image = call.engine().image(call.who()).await?;
    let Some(wanted) = wanted_platform(call, since)? else { return Ok(image) };
    let missing = || no_platform(call, &wanted);
    let parts = call.engine().image_parts(&image)?;
    parts.into_iter().map(|part| part.image).find(|image| image.is_for(&wanted)).ok_or_else(missing)
}

/// `GET /images/{name}/json`
pub(crate) async fn inspect(call: Call) -> Result {
    let manifests_too = call.version >= Version::minor(48) && call.query.flag("manifests");
    if manifests_too && wanted_platform(&call, 49)?.is_some() {
        return Err(ApiError::invalid("conflicting options: manifests and platform options cannot both be set"));
    }
    let image = named_image(&call, 49).await?;
    let configuration = call.engine().image_configuration(&image)?;
    let shown = translate::shown(&image, &configuration);
    let mut shown = shown.map_err(|error| ApiError::internal(format!("cannot write the image as JSON: {error}")))?;
    if call.version < Version::minor(44) {
        shown["VirtualSize"] = shown["Size"].clone();
    }
    // fields that the API has no more from 1.45 on
    if call.version < Version::minor(45) {
        shown["ContainerConfig"] = translate::container_config(&shown["Config"], &configuration)
            .map_err(|error| ApiError::internal(format!("cannot write the image as JSON: {error}")))?;
    } else if let Some(fields) = shown.as_object_mut() {
        fields.remove("Container");
    }
    if call.version >= Version::minor(50) {
        translate::without_old_fields(&mut shown);
    }
    if manifests_too {
        shown["Manifests"] = json!(manifests(&call, &image, &call.engine().containers())?);
    }
    reply::json(&shown)
}

/// `GET /images/{name}/history`
pub(crate) async fn history(call: Call) -> Result {
    let image = named_image(&call, 48).await?;
    reply::json(&translate::history(&image, &call.engine().layer_sizes(&image)))
}

/// `POST /images/{name}/tag`
pub(crate) async fn tag(call: Call) -> Result {
    let name =
        target(&call)?.ok_or_else(|| ApiError::invalid("the new name is missing: give it as ?repo= and ?tag="))?;
    call.engine().tag_image(call.who(), &name).await?;
    Ok(reply::empty(StatusCode::CREATED))
}

/// `repo` and `tag` of a query as one name.
pub(super) fn target(call: &Call) -> Result<Option<String>> {
    match (call.query.text("repo"), call.query.text("tag")) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(ApiError::invalid("a tag needs a repository: give ?repo= too")),
        (Some(repo), None) => Ok(Some(repo.to_owned())),
        (Some(repo), Some(tag)) => Ok(Some(with_tag(repo, tag))),
    }
}

/// A name with the tag that a parameter of its own gives, which counts more than one in the name.
pub(super) fn with_tag(name: &str, tag: &str) -> String {
    let parsed = name.parse::<Reference>();
    let tagged = parsed.ok().filter(|name| name.digest().is_none()).and_then(|name| name.with_tag(tag).ok());
    // what is wrong with it is told by whoever takes the name
    tagged.map_or_else(|| format!("{name}:{tag}"), |tagged| tagged.familiar())
}

fn removed_items(removed: &[Removed]) -> Vec<ImageDeleteResponseItem> {
    let item = |one: &Removed| match one {
        Removed::Untagged(name) => ImageDeleteResponseItem { untagged: Some(name.familiar()), deleted: None },
        Removed::Deleted(id) => ImageDeleteResponseItem { untagged: None, deleted: Some(id.to_string()) },
    };
    removed.iter().map(item).collect()
}

/// `DELETE /images/{name}`
pub(crate) async fn remove(call: Call) -> Result {
    let force = call.query.flag("force");
    let some = if call.version >= Version::minor(50) { some_platforms(&call, force).await? } else { Vec::new() };
    let removed = if some.is_empty() {
        call.engine().remove_image(call.who(), force).await?
    } else {
        call.engine().remove_image_platforms(call.who(), some).await?
    };
    reply::json(&removed_items(&removed))
}

/// The platforms that are to go of those that a name stands for; none where it goes as a whole.
async fn some_platforms(call: &Call, force: bool) -> Result<Vec<Platform>> {
    let wanted = call.query.all("platforms").filter(|text| !text.is_empty());
    let wanted = wanted.map(platform).collect::<Result<Vec<Platform>>>()?;
    if wanted.is_empty() {
        return Ok(wanted);
    }
    if !force {
        return Err(ApiError::invalid(
            "Content will be removed from all images referencing this variant. Use --force to force delete.",
        ));
    }
    let parts = call.engine().image_parts(&call.engine().image(call.who()).await?)?;
    for wanted in &wanted {
        if !parts.iter().any(|part| part.image.is_for(wanted)) {
            return Err(no_platform(call, wanted));
        }
    }
    let all = parts.iter().all(|part| wanted.iter().any(|wanted| part.image.is_for(wanted)));
    Ok(if all { Vec::new() } else { wanted })
}

/// `POST /images/prune`
pub(crate) async fn prune(call: Call) -> Result {
    let filters = call.query.filters(&["dangling", "label", "label!", "until"])?;
    let scope = if filters.flag("dangling")?.unwrap_or(true) { PruneScope::Dangling } else { PruneScope::Unused };
    let until = filters.until(engine::now_ns())?.map(|until| UNIX_EPOCH + Duration::from_nanos(until));
    let all = until.is_none() && filters.values("label").is_none() && filters.values("label!").is_none();
    let wanted = move |image: Option<&Image>| {
        // nobody knows when a damaged one was made
        let Some(image) = image else { return all };
        let labels = translate::labels(image);
        until.is_none_or(|until| image.created <= until)
            && filters.match_labels(|key| labels.get(key).map(String::as_str))
    };
    let pruned = call.engine().prune_images(scope, wanted).await?;
    let removed = reply::removed(removed_items(&pruned.removed));
    reply::json(&json!({ "ImagesDeleted": removed, "SpaceReclaimed": pruned.reclaimed_bytes }))
}

/// `POST /images/create`: a pull, or an import of an archive.
pub(crate) async fn create(mut call: Call) -> Result {
    if call.query.text("fromImage").is_some() {
        return super::registry::pull(call).await;
    }
    let Some(source) = call.query.text("fromSrc").map(str::to_owned) else {
        return Err(ApiError::invalid("there is no source: set fromSrc=- and send an archive"));
    };
    let mut changes = ConfigChanges::default();
    self::changes(&call, &mut changes)?;
    let reference = target(&call)?.map(|name| {
        name.parse::<Reference>()
            .map(Reference::tagged)
            .map_err(|error| ApiError::invalid(format!("{name:?} cannot be the name of an image: {error}")))
    });
    let mut options = ImportOptions {
        reference: reference.transpose()?,
        changes,
        message: call.query.text("message").map(str::to_owned),
        ..ImportOptions::default()
    };
    if let Some(platform) = call.query.text("platform").filter(|text| !text.is_empty()) {
        options.platform = platform.parse().map_err(|error| ApiError::invalid(format!("{error}")))?;
        if options.platform.os != "linux" {
            return Err(ApiError::invalid(format!("{:?}: operating system is not supported", options.platform.os)));
        }
    }
    if source != "-" {
        let address = if source.contains("://") { source } else { format!("http://{source}") };
        let image = call.engine().import_from(&address, options).await?;
        let told = reply::json_line(&json!({ "status": format!("Downloading from {address}") }))?;
        let made = reply::json_line(&json!({ "status": image.id.to_string() }))?;
        return Ok(reply::whole(StatusCode::OK, "application/json", [told, made].concat()));
    }
    let (pieces, archive) = Archive::new();
    let import = call.api.engine.import_image(Box::new(archive), options);
    let feed = feed(call.request.body_mut(), pieces);
    let (image, ()) = tokio::join!(import, feed);
    let image = image?;
    Ok(reply::whole(StatusCode::OK, "application/json", reply::json_line(&json!({ "status": image.id.to_string() }))?))
}

/// The instructions in a query's `changes`, of which each may have several lines.
pub(super) fn changes(call: &Call, changes: &mut ConfigChanges) -> Result<()> {
    for line in call.query.all("changes").flat_map(str::lines).filter(|line| !line.trim().is_empty()) {
        changes.apply(line).map_err(|error| ApiError::invalid(error.to_string()))?;
    }
    Ok(())
}

/// Gives a body to a reader. What the reader wants no more of is taken in all the same: something may follow an archive's end
/// mark, and a client reads an answer only once it has sent all.
pub(super) async fn feed(body: &mut Incoming, pieces: mpsc::Sender<io::Result<Bytes>>) {
    while let Some(frame) = body.frame().await {
        let piece = match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => Ok(data),
            Ok(Err(_)) => continue,
            Err(error) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)),
        };
        if pieces.send(piece).await.is_err() {
            return drain(body).await;
        }
    }
}

pub(super) async fn drain(body: &mut Incoming) {
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    // a client that sends for ever is cut off
    let _ = tokio::time::timeout(DRAIN, rest).await;
}

/// A request's body for a thread that reads.
pub(super) struct Archive {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Archive {
    pub(super) fn new() -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (sender, pieces) = mpsc::channel(DEPTH);
        (sender, Self { pieces, piece: Bytes::new() })
    }
}

impl Read for Archive {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_stay_within_a_slash() {
        let check = |pattern: &str, text: &str, expect| {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), expect, "{pattern} {text}")
        };
        check("debian", "debian", true);
        check("deb*", "debian:12", true);
        check("*:12", "debian:12", true);
        check("*", "team/web", false);
        check("*/*", "team/web", true);
        check("*a*b*c", "xaybzbc", true);
        check("d?bian", "debian", true);
        check("debian", "debian:12", false);
        check("", "", true);
        check("**", "", true);
    }

    #[test]
    fn an_archive_reads_pieces_and_errors() {
        let (sender, mut archive) = Archive::new();
        sender.try_send(Ok(Bytes::from_static(b"ab"))).unwrap();
        sender.try_send(Ok(Bytes::new())).unwrap();
        sender.try_send(Ok(Bytes::from_static(b"c"))).unwrap();
        sender.try_send(Err(io::ErrorKind::UnexpectedEof.into())).unwrap();
        let mut text = Vec::new();
        assert!(archive.read_to_end(&mut text).is_err());
        assert_eq!(text, b"abc");
        drop(sender);
        assert_eq!(archive.read(&mut [0; 4]).unwrap(), 0);
    }
}
