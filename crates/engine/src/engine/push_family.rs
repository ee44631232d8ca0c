//! Pushing what a name stands for on several platforms: each image, what is attested of it, and an index of all.

use super::Engine;
use super::distribution::{Progress, refused};
use super::images::wrong;
use super::push::{Form, tag};
use crate::error::{EngineError, Result};
use bytes::Bytes;
use image::family::{Attestation, Family, Listed, annotated, index};
use image::{Image, PinnedName, StoredManifest};
use oci::digest::Digest;
use oci::reference::Reference;
use registry::client::Remote;
use registry::manifest::{Descriptor, OCI_INDEX, OCI_MANIFEST};
use registry::name::Target;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Blobs of attestations need no other type.
const BYTES: &str = "application/octet-stream";

impl Engine {
    /// Sends a family. `image` is the one that the name stands for here.
    pub(super) async fn push_family(
        &self,
        reference: &Reference,
        image: &Image,
        family: &Family,
        remote: &Remote,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<()> {
        let (mut listed, mut stored) = (Vec::new(), Vec::new());
        for member in &family.members {
            let image = self.image(&member.image.to_string()).await?;
            let mut parcel = self.parcel(&image, Form::Oci).await?;
            let manifest = annotated(&parcel.manifest, &member.annotations)
                .map_err(|error| EngineError::internal("the image's manifest is damaged", &error))?;
            let is_own = manifest != parcel.manifest;
            parcel.manifest = manifest.into();
            self.send(reference, &image, remote, &parcel, progress).await?;
            let digest = Digest::of(&parcel.manifest);
            if family.needs_index() {
                put(remote, &parcel.media_type, parcel.manifest.clone()).await?;
            }
            let attestation = self.attestation(reference, member, &digest)?;
            if let Some(made) = &attestation {
                send(remote, made).await?;
            }
            let (media_type, size) = (parcel.media_type, parcel.manifest.len() as u64);
            // the words belong to this name; others of the image do without
            let blobs = parcel.kept.filter(|_| !is_own).map(|kept| kept.blobs).unwrap_or_default();
            let manifest = StoredManifest { digest, media_type: media_type.clone(), blobs, names: Vec::new() };
            stored.push((image.id, manifest, parcel.manifest));
            let (platform, annotations) = (member.platform.clone(), member.described.clone());
            listed.push(Listed { media_type, digest, size, platform, attestation, annotations });
        }
        let (media_type, bytes) = match (family.needs_index(), &stored[..]) {
            (false, [(_, manifest, bytes)]) => (manifest.media_type.clone(), bytes.clone()),
            _ => (OCI_INDEX.to_owned(), Bytes::from(index(&listed, &family.annotations))),
        };
        let (tag, target) = tag(reference)?;
        let said = remote.push_manifest(&target, &media_type, bytes.clone()).await.map_err(refused)?;
        let size = bytes.len() as u64;
        let _ = progress.send(Progress::Pushed { tag, digest: said.to_string(), size }).await;
        let name = PinnedName { repository: reference.repository(), digest: Digest::of(&bytes) };
        let main = image.id;
        self.blocking(move |inner| {
            let intake = inner.images.intake();
            intake.blob(&bytes[..], &name.digest).map_err(wrong)?;
            for (id, mut manifest, bytes) in stored {
                intake.blob(&bytes[..], &manifest.digest).map_err(wrong)?;
                manifest.names.extend((id == main).then(|| name.clone()));
                inner.images.add_manifest(&id, manifest).map_err(wrong)?;
            }
            Ok(())
        })
        .await
    }

    fn attestation(
        &self,
        name: &Reference,
        member: &image::family::Member,
        manifest: &Digest,
    ) -> Result<Option<Attestation>> {
        let predicates = self.inner.images.predicates(member).map_err(wrong)?;
        let made = Attestation::new(&predicates, std::slice::from_ref(name), &member.platform, manifest);
        made.map_err(|error| EngineError::internal("what is attested of the image is damaged", &error))
    }
}

/// Sends a manifest under its digest alone.
async fn put(remote: &Remote, media_type: &str, bytes: Bytes) -> Result<()> {
    let target = Target::Digest(Digest::of(&bytes).into());
    remote.push_manifest(&target, media_type, bytes).await.map_err(refused).map(drop)
}

async fn send(remote: &Remote, made: &Attestation) -> Result<()> {
    for bytes in made.statements.iter().chain([&made.config]) {
        let descriptor = Descriptor::new(BYTES, Digest::of(bytes).into(), bytes.len() as u64);
        remote.push_blob(&descriptor, Arc::new(Bytes::from(bytes.clone())), &[], None).await.map_err(refused)?;
    }
    put(remote, OCI_MANIFEST, made.manifest.clone().into()).await
}
