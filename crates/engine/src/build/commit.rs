//! The end of a build: times, layers and configuration become an image with its names.

use super::execute::{Build, Built, now};
use super::request::{Annotation, Bearer, Squash};
use super::tree::Tree;
use crate::engine::image_error;
use crate::error::{EngineError, Result};
use image::build::{CacheKey, History};
use image::export::Times;
use image::family::{Family, Member, Predicate, SLSA_PROVENANCE};
use image::{CacheRecord, Image, ImageId, LayerId};
use oci::digest::Digest;
use oci::platform::Platform;
use oci::reference::Reference;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::Arc;

/// A stage that becomes an image.
pub(super) struct Made {
    /// For whom.
    pub(super) platform: Platform,
    /// Its number in the plan.
    pub(super) target: usize,
    pub(super) built: Arc<Built>,
    /// What is attested of it: kinds, and the predicates as JSON.
    pub(super) predicates: Vec<(String, Vec<u8>)>,
}

/// How the image is to be.
pub(super) struct Form {
    pub(super) squash: Squash,
    pub(super) names: Vec<Reference>,
    pub(super) annotations: Vec<Annotation>,
    /// Its configuration says how its layers are found again by other builds.
    pub(super) inline: bool,
}

/// What came of it.
pub(super) struct Committed {
    pub(super) image: Image,
    pub(super) family: Option<Family>,
    /// Keeps what is attested.
    pub(super) intake: image::Intake,
    /// The images that were not there before.
    pub(super) fresh: BTreeSet<ImageId>,
}

/// Makes the images of the stages, one for each of these platforms; the same ones again when nothing has changed.
pub(super) async fn commit(build: &Arc<Build>, made: Vec<Made>, form: Form) -> Result<Committed> {
    let build = Arc::clone(build);
    let done = tokio::task::spawn_blocking(move || images(&build, &made, &form)).await;
    done.map_err(|error| EngineError::internal("making the image was cut short", &error))?
}

fn images(build: &Build, made: &[Made], form: &Form) -> Result<Committed> {
    let store = &build.inner.images;
    // until they have their names
    let intake = store.intake();
    let mut fresh = BTreeSet::new();
    if let ([Made { target, built, predicates, .. }], None) = (made, &build.told)
        && predicates.is_empty()
        && form.annotations.is_empty()
    {
        let image = image(build, (*target, built), form, &form.names, &mut fresh)?;
        return Ok(Committed { image, family: None, intake, fresh });
    }
    let mut family = Family::default();
    for Made { platform, target, built, predicates: lists } in made {
        let image = image(build, (*target, built), form, &[], &mut fresh)?.id;
        let told = build.told.as_ref().map(|told| told.predicate(build, platform).to_string().into_bytes());
        let told = told.map(|bytes| (SLSA_PROVENANCE.to_owned(), bytes));
        let mut predicates = Vec::new();
        for (kind, bytes) in lists.iter().cloned().chain(told) {
            let blob = Digest::of(&bytes);
            intake.blob(&bytes[..], &blob).map_err(image_error)?;
            predicates.push(Predicate { kind, blob });
        }
        let said = |bearer| words(form, bearer, Some(platform));
        let (annotations, described) = (said(Bearer::Manifest), said(Bearer::Entry));
        family.members.push(Member { platform: platform.clone(), image, predicates, annotations, described });
    }
    family.annotations = words(form, Bearer::Index, None);
    let alone = matches!(&family.members[..], [only] if only.predicates.is_empty());
    if alone && family.needs_index() {
        let text = "an image for one platform has no index that could have annotations; annotate its manifest";
        return Err(EngineError::invalid(text));
    }
    let image = store.name_family(&family, &form.names).map_err(image_error)?;
    Ok(Committed { image, family: Some(family), intake, fresh })
}

/// The annotations that one of them has.
fn words(form: &Form, bearer: Bearer, platform: Option<&Platform>) -> BTreeMap<String, String> {
    let all = form.annotations.iter().filter(|one| one.bearer == bearer);
    let fitting = all.filter(|one| platform.is_none() || one.platform.is_none() || one.platform.as_ref() == platform);
    fitting.map(|one| (one.name.clone(), one.value.clone())).collect()
}

fn image(
    build: &Build,
    (target, built): (usize, &Built),
    form: &Form,
    names: &[Reference],
    fresh: &mut BTreeSet<ImageId>,
) -> Result<Image> {
    let Some(mut spec) = build.plan.stages.get(&target).map(|stage| stage.image.clone()) else {
        return Err(EngineError::invalid("there is no stage to make an image of"));
    };
    let own = built.layers.len() - built.times.len();
    let created = created(build, target, built, &spec.to_json(&ids(&built.layers), None));
    let mut times = built.times.iter();
    let mut last = built.times.first().unwrap_or(&created);
    let undated = spec.history.iter_mut().filter(|entry| entry.created.is_none());
    for entry in undated {
        if !entry.empty_layer
            && let Some(time) = times.next()
        {
            last = time;
        }
        entry.created = Some(last.clone());
    }
    let mut layers = built.layers.clone();
    let mut held = None;
    if form.squash == Squash::Yes && built.times.len() > 1 {
        let (below, above) = layers.split_at(own);
        let merged = merge(build, below, above)?;
        let mut all = below.to_vec();
        all.extend(merged.layers());
        let filled = spec.history.iter_mut().filter(|entry| !entry.empty_layer);
        filled.skip(own).for_each(|entry| entry.empty_layer = true);
        spec.history.push(History {
            created: Some(created.clone()),
            comment: format!("{} layers as one", above.len()),
            ..History::default()
        });
        layers = all;
        held = Some(merged);
    }
    let mut config = spec.to_json(&ids(&layers), Some(&created));
    if form.inline {
        config = super::exchange::inline(build, &layers, config)?;
    }
    let store = &build.inner.images;
    let id = ImageId(Digest::of(&config));
    if store.get(&id.to_string()).is_err() {
        fresh.insert(id);
    }
    let image = store.add_image(&config, &layers, None, names).map_err(image_error)?;
    drop(held);
    Ok(image)
}

fn ids(layers: &[LayerId]) -> Vec<Digest> {
    layers.iter().map(|layer| layer.0).collect()
}

/// When an image with this configuration was first made here, so that a build that changes nothing gives the same image.
fn created(build: &Build, target: usize, built: &Built, config: &[u8]) -> String {
    if let Some(epoch) = build.plan.epoch.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()) {
        return epoch.to_string();
    }
    let key = CacheKey(Digest::of(
        &[b"insula.build.image.v1\0", built.content.to_string().as_bytes(), b"\0", config].concat(),
    ));
    let known = match build.reuse {
        super::Reuse::Yes => build.inner.images.cached(&key).map(|(record, _)| record),
        super::Reuse::No => None,
    };
    if let Some(record) = known {
        build.note(target, &[key], &record);
        return record.created;
    }
    let created = build.imported.time(&key).unwrap_or_else(now);
    let record = CacheRecord {
        layer: None,
        created: created.clone(),
        content: built.content.0,
        text: "the image".to_owned(),
        size: 0,
    };
    build.note(target, &[key], &record);
    if let Err(error) = build.inner.images.remember(&key, record) {
        tracing::warn!(%error, "cannot remember when an image was made");
    }
    created
}

/// One layer in place of several.
fn merge(build: &Build, below: &[LayerId], layers: &[LayerId]) -> Result<image::Held> {
    let mounted = build.inner.images.mount_ids(layers, "of the build").map_err(image_error)?;
    let base = Tree::open(&build.inner, below, "of the build")?;
    let fds: Vec<_> = mounted.fds.iter().map(|fd| fd.as_fd()).collect();
    let times = match build.plan.epoch.map(u64::try_from) {
        Some(Ok(epoch)) => Times::AtMost(epoch),
        _ => Times::Kept,
    };
    let merged = build.inner.images.add_diff(&fds, Some(base.root()), times);
    merged.map_err(|error| EngineError::internal("cannot merge the layers", &error))
}
