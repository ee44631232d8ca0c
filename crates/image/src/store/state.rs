//! What the store has, in memory.

use super::{build, intake};
use crate::error::ImageError;
use crate::family::Family;
use crate::import;
use crate::model::{Image, ImageId, LayerId, StoredManifest};
use oci::digest::Digest;
use oci::reference::Reference;
use oci_spec::image::ImageConfiguration;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the store has.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) images: BTreeMap<ImageId, Known>,
    pub(super) references: BTreeMap<Reference, ImageId>,
    /// The names that stand for more than their image.
    pub(super) families: BTreeMap<Reference, Family>,
    /// What builds have made and will find again.
    pub(super) cache: build::Cache,
    /// What no image needs yet.
    pub(super) held: intake::Held,
}

/// An image in memory.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) layers: Vec<LayerId>,
    pub(super) size: u64,
    /// The configuration, or what is wrong with it.
    pub(super) config: Result<ImageConfiguration, String>,
    pub(super) manifests: Vec<StoredManifest>,
    /// The image that it was made of here.
    pub(super) parent: Option<ImageId>,
    /// When it last got a name, in milliseconds since 1970.
    pub(super) tagged_ms: Option<u64>,
}

/// What a name led to.
pub(super) struct Resolved {
    pub(super) id: ImageId,
    /// The name, when it was one and not an id.
    pub(super) reference: Option<Reference>,
}

impl State {
    pub(super) fn names(&self, id: &ImageId) -> Vec<Reference> {
        self.references.iter().filter(|(_, of)| *of == id).map(|(reference, _)| reference.clone()).collect()
    }

    pub(super) fn all_layers(&self) -> BTreeSet<LayerId> {
        let images = self.images.values().flat_map(|known| known.layers.iter().copied());
        images.chain(self.cache.layers()).collect()
    }

    /// Every blob that an image needs: configurations, manifests, compressed layers.
    pub(super) fn all_blobs(&self) -> BTreeSet<Digest> {
        let of_manifest = |manifest: &StoredManifest| {
            let names = manifest.names.iter().map(|name| name.digest);
            names.chain(manifest.blobs.iter().copied()).chain([manifest.digest]).collect::<Vec<_>>()
        };
        let manifests = self.images.values().flat_map(|known| known.manifests.iter().flat_map(of_manifest));
        let members = self.families.values().flat_map(|family| &family.members);
        let attested = members.flat_map(|member| member.predicates.iter().map(|predicate| predicate.blob));
        self.images.keys().map(|id| id.0).chain(manifests).chain(attested).collect()
    }

    /// Takes the digests away that an image has in repositories where it lost its last tag.
    pub(super) fn unpin(&mut self, id: &ImageId, names: &[Reference]) {
        for repository in names.iter().map(Reference::repository) {
            let tagged = self.references.iter().any(|(name, of)| of == id && name.repository() == repository);
            if let Some(known) = self.images.get_mut(id).filter(|_| !tagged) {
                for manifest in &mut known.manifests {
                    manifest.names.retain(|name| name.repository != repository);
                }
            }
        }
    }

    /// Has a name stand for an image; for what it stood before is given back.
    pub(super) fn refer(&mut self, reference: &Reference, id: ImageId) -> (Option<ImageId>, Option<Family>) {
        self.tagged(&id);
        (self.references.insert(reference.clone(), id), self.families.remove(reference))
    }

    /// An image gets a name now.
    pub(super) fn tagged(&mut self, id: &ImageId) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        if let Some(known) = self.images.get_mut(id) {
            known.tagged_ms = now.and_then(|now| u64::try_from(now.as_millis()).ok());
        }
    }

    pub(super) fn restore_reference(
        &mut self,
        reference: &Reference,
        (image, family): (Option<ImageId>, Option<Family>),
    ) {
        match image {
            Some(id) => drop(self.references.insert(reference.clone(), id)),
            None => drop(self.references.remove(reference)),
        }
        self.families.extend(family.map(|family| (reference.clone(), family)));
    }

    pub(super) fn image(&self, id: &ImageId) -> Result<Image, ImageError> {
        let known = self.images.get(id).ok_or_else(|| ImageError::NotFound { name: id.to_string() })?;
        let config = known.config.clone().map_err(|reason| ImageError::DamagedImage { id: *id, reason })?;
        let created = import::parse_rfc3339(config.created().as_deref());
        Ok(Image {
            id: *id,
            references: self.names(id),
            config,
            layers: known.layers.clone(),
            size_bytes: known.size,
            created,
            manifests: known.manifests.clone(),
            parent: known.parent.filter(|parent| self.images.contains_key(parent)),
            tagged: known.tagged_ms.map(|millis| UNIX_EPOCH + Duration::from_millis(millis)),
        })
    }

    pub(super) fn resolve(&self, name: &str) -> Result<Resolved, ImageError> {
        let not_found = || ImageError::NotFound { name: name.to_owned() };
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = !hex.is_empty() && hex.len() <= 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if name.len() != hex.len() || hex.len() == 64 {
            return if is_hex { self.by_prefix(hex, name)?.ok_or_else(not_found) } else { Err(not_found()) };
        }
        let parsed: Result<Reference, _> = name.parse().map(Reference::tagged);
        if let Ok(reference) = &parsed {
            if let Some(id) = self.references.get(reference) {
                return Ok(Resolved { id: *id, reference: Some(reference.clone()) });
            }
            if let Some(digest) = reference.digest()
                && let Some(id) = self.pinned(&reference.repository(), &digest)
            {
                return Ok(Resolved { id, reference: None });
            }
            let by_digest = reference.digest().map(ImageId);
            if let Some(id) = by_digest.filter(|id| self.images.contains_key(id)) {
                return Ok(Resolved { id, reference: None });
            }
        }
        if is_hex && let Some(found) = self.by_prefix(hex, name)? {
            return Ok(found);
        }
        match parsed {
            Ok(_) => Err(not_found()),
            Err(source) => Err(ImageError::BadName { name: name.to_owned(), source }),
        }
    }

    /// The image that a repository has under a manifest's digest.
    pub(super) fn pinned(&self, repository: &str, digest: &Digest) -> Option<ImageId> {
        let names = |known: &Known| {
            let mut names = known.manifests.iter().flat_map(|manifest| &manifest.names);
            names.any(|name| name.repository == repository && name.digest == *digest)
        };
        let mut known = self.images.iter().filter(|(_, known)| names(known)).map(|(id, _)| *id).collect::<Vec<_>>();
        // the digest may be that of an index, of which there are images for other platforms
        known.sort_by_key(|id| !self.references.values().any(|of| of == id));
        known.first().copied()
    }

    pub(super) fn by_prefix(&self, hex: &str, name: &str) -> Result<Option<Resolved>, ImageError> {
        let mut fitting = self.images.keys().filter(|id| id.0.hex().starts_with(hex));
        let Some(first) = fitting.next() else { return Ok(None) };
        match fitting.count() {
            0 => Ok(Some(Resolved { id: *first, reference: None })),
            more => Err(ImageError::Ambiguous { prefix: name.to_owned(), count: more + 1 }),
        }
    }
}
