//! Images, and base images from a distribution's packages.

use super::Engine;
use super::distribution::refused;
use super::inner::Inner;
use super::push::OCI_CONFIG;
use crate::error::{EngineError, ErrorClass, Result};
use crate::model::EventKind;
use image::{Image, ImageError, ImageId, ImportOptions, Removed};
use oci::digest::Digest;
use oci::platform::Platform;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use tokio::sync::mpsc;

/// A base image to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// Distribution and suite: `debian:bookworm`.
    pub source: String,
    /// Packages beyond the minimal set.
    pub include: Vec<String>,
    /// The name to give it; the source's if none.
    pub tag: Option<String>,
}

/// What there is of an image for one platform.
#[derive(Debug, Clone)]
pub struct ImagePart {
    /// The image itself.
    pub image: Image,
    /// The platform that it stands for.
    pub platform: Platform,
    /// What describes it: the manifest that it came with, or its configuration if it was made here and never sent.
    pub digest: Digest,
    /// The media type of that.
    pub media_type: String,
    /// The bytes of that.
    pub bytes: u64,
    /// The bytes of all that is kept in the form in which it is sent.
    pub content_bytes: u64,
}

impl Engine {
    /// All images.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`] if the store cannot be read.
    pub async fn images(&self) -> Result<Vec<Image>> {
        self.inner.images.list().map_err(wrong)
    }

    /// An image by reference, id, or unique beginning of an id.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`].
    pub async fn image(&self, who: &str) -> Result<Image> {
        self.inner.images.get(who).map_err(|error| missing(who, error))
    }

    /// An image's configuration as it came, as JSON.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`] if the store cannot be read.
    pub fn image_configuration(&self, image: &Image) -> Result<Vec<u8>> {
        self.inner.images.config_bytes(&image.id).map_err(wrong)
    }

    /// The parts of an image, one a platform: those of the first of its names that stands for several, or itself alone.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`] if the store cannot be read.
    pub fn image_parts(&self, image: &Image) -> Result<Vec<ImagePart>> {
        let Some(family) = image.references.iter().find_map(|name| self.inner.images.family(name)) else {
            return Ok(vec![self.part(image.clone(), image.platform())?]);
        };
        let member = |member: image::family::Member| {
            let image = self.inner.images.get(&member.image.to_string()).map_err(wrong)?;
            self.part(image, member.platform)
        };
        family.members.into_iter().map(member).collect()
    }

    fn part(&self, image: Image, platform: Platform) -> Result<ImagePart> {
        let images = &self.inner.images;
        let size = |digest: &Digest| images.blob_size(digest).unwrap_or(0);
        let config_bytes = self.image_configuration(&image)?.len() as u64;
        // of one that was sent from here its layers are not kept in that form
        let Some(manifest) = image.manifests.iter().find(|one| images.blob_size(&one.digest).is_some()) else {
            let (digest, media_type) = (image.id.0, OCI_CONFIG.to_owned());
            return Ok(ImagePart {
                image,
                platform,
                digest,
                media_type,
                bytes: config_bytes,
                content_bytes: config_bytes,
            });
        };
        let (digest, media_type, bytes) = (manifest.digest, manifest.media_type.clone(), size(&manifest.digest));
        let content_bytes = bytes + config_bytes + manifest.blobs.iter().map(size).sum::<u64>();
        Ok(ImagePart { image, platform, digest, media_type, bytes, content_bytes })
    }

    /// Makes an image of one layer from an archive. `body` is read on a thread of its own.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] for an archive that is none; nothing of it is left.
    pub async fn import_image(&self, body: Box<dyn std::io::Read + Send>, options: ImportOptions) -> Result<Image> {
        let image = self.blocking(move |inner| inner.images.import(body, options).map_err(wrong)).await?;
        self.tell(&image, "import");
        Ok(image)
    }

    /// The same of an archive that a server has.
    ///
    /// # Errors
    /// As [`Self::import_image`], and what the server says.
    pub async fn import_from(&self, address: &str, options: ImportOptions) -> Result<Image> {
        let work = self.inner.images.work_folder().map_err(wrong)?;
        let failed = |error: std::io::Error| EngineError::internal("cannot keep what was fetched", &error);
        let path = work.path().join("archive");
        let mut file = std::fs::File::create_new(&path).map_err(failed)?;
        let fetched = self.inner.reach().client.download(address, &mut file, options.limits.archive_bytes).await;
        file.set_len(fetched.map_err(refused)?.size).map_err(failed)?;
        let archive = std::fs::File::open(&path).map_err(failed)?;
        self.import_image(Box::new(archive), options).await
    }

    /// Gives an image one more name.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`], [`ErrorClass::Invalid`] for a name that is none.
    pub async fn tag_image(&self, who: &str, reference: &str) -> Result<()> {
        let image = self.image(who).await?;
        if reference.split([':', '@']).next() == Some("sha256") {
            return Err(EngineError::invalid("refusing to create an ambiguous tag using digest algorithm as name"));
        }
        let reference = parse(reference)?;
        let reference = reference.tagged();
        let name = reference.familiar();
        let family = who.parse().ok().and_then(|old| self.inner.images.family(&old));
        match family {
            Some(family) => self.inner.images.name_family(&family, &[reference]).map(drop).map_err(wrong)?,
            None => self.inner.images.tag(&image.id, reference).map_err(wrong)?,
        }
        self.tell_as(&image, "tag", &name);
        Ok(())
    }

    /// The ids of an image and of those that were made of it: they have its layers and its history below their own.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn descendants(&self, image: &Image) -> Result<Vec<String>> {
        let below = image.config.history().as_deref().unwrap_or_default();
        let mut found = vec![image.id.to_string()];
        for other in self.images().await? {
            let steps = other.config.history().as_deref().unwrap_or_default();
            if other.layers.starts_with(&image.layers) && steps.len() > below.len() && steps.starts_with(below) {
                found.push(other.id.to_string());
            }
        }
        Ok(found)
    }

    /// Removes a name, and the image with its last name.
    ///
    /// # Errors
    /// [`ErrorClass::Conflict`] if a container has it.
    pub async fn remove_image(&self, who: &str, force: bool) -> Result<Vec<Removed>> {
        // one that is damaged can be removed, too
        let was = self.image(who).await.ok();
        let who = who.to_owned();
        let force = if force { image::Force::Yes } else { image::Force::No };
        let removed = self
            .blocking(move |inner| {
                inner.images.remove(&who, &|id| inner.uses(id), force).map_err(|error| missing(&who, error))
            })
            .await?;
        for one in &removed {
            match one {
                Removed::Untagged(reference) => {
                    if let Some(was) = &was {
                        self.tell_as(was, "untag", &reference.familiar());
                    }
                }
                Removed::Deleted(_) => self.tell_deleted(one),
            }
        }
        Ok(removed)
    }

    /// Removes some of the platforms that a name stands for; containers that are there keep what they have.
    ///
    /// # Errors
    /// As [`Engine::remove_image`].
    pub async fn remove_image_platforms(&self, who: &str, platforms: Vec<Platform>) -> Result<Vec<Removed>> {
        let who = who.to_owned();
        let remove = move |inner: &Arc<Inner>| {
            let removed = inner.images.remove_platforms(&who, &platforms, &|id| inner.uses(id));
            removed.map_err(|error| missing(&who, error))
        };
        let removed = self.blocking(remove).await?;
        removed.iter().for_each(|one| self.tell_deleted(one));
        Ok(removed)
    }

    fn tell_deleted(&self, one: &Removed) {
        if let Removed::Deleted(id) = one {
            let (id, name) = (id.to_string(), BTreeMap::from([("name".into(), id.to_string())]));
            self.inner.store_event(self.inner.events.event(EventKind::Image, "delete", &id, name));
        }
    }

    /// Removes images that no container has: those without a name, or all, as far as they are `wanted`, which is asked with
    /// nothing for an image that is damaged.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`].
    pub async fn prune_images(
        &self,
        scope: image::PruneScope,
        wanted: impl Fn(Option<&Image>) -> bool + Send + 'static,
    ) -> Result<image::Pruned> {
        self.blocking(move |inner| inner.images.prune(&|id| inner.uses(id), scope, &wanted).map_err(wrong)).await
    }

    /// What the images take on disk.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`].
    pub async fn image_usage(&self) -> Result<image::DiskUsage> {
        self.blocking(|inner| inner.images.disk_usage().map_err(wrong)).await
    }

    /// Makes a base image from a distribution's packages: they are fetched and checked by the machine's own apt, unpacked,
    /// configured in a container of their own, and packed. Each step's words go to `progress`.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] for an unknown distribution or package; whatever apt or a package's scripts say.
    pub async fn bootstrap(&self, asked: Bootstrap, progress: mpsc::Sender<String>) -> Result<Image> {
        let image = crate::bootstrap::run(&self.inner, asked, progress).await?;
        self.tell(&image, "import");
        Ok(image)
    }

    pub(super) fn tell(&self, image: &Image, action: &str) {
        let id = image.id.to_string();
        let name = image.references.first().map_or_else(|| id.clone(), oci::reference::Reference::familiar);
        self.tell_as(image, action, &name);
    }

    /// As [`Self::tell`], under the name that was used.
    pub(super) fn tell_as(&self, image: &Image, action: &str, name: &str) {
        let labels = image.config.config().as_ref().and_then(|config| config.labels().clone());
        let mut attributes: BTreeMap<String, String> = labels.into_iter().flatten().collect();
        attributes.insert("name".into(), name.to_owned());
        let event = self.inner.events.event(EventKind::Image, action, &image.id.to_string(), attributes);
        self.inner.store_event(event);
    }

    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.map_err(|error| EngineError::internal("the work was cut short", &error))?
    }
}

impl Inner {
    /// Some container was made from it.
    fn uses(&self, id: &ImageId) -> bool {
        let id = id.to_string();
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        registry.by_id.values().any(|slot| slot.container.image_id == id)
    }
}

pub(crate) fn parse(reference: &str) -> Result<oci::reference::Reference> {
    reference.parse().map_err(|error: oci::reference::ReferenceError| {
        EngineError::because(ErrorClass::Invalid, format!("{reference:?} cannot be the name of an image"), &error)
    })
}

/// A missing image in the words that clients know to pull by; all else as it is.
pub(super) fn missing(name: &str, error: ImageError) -> EngineError {
    match error.kind() {
        image::ErrorKind::NotFound => {
            EngineError::because(ErrorClass::NotFound, format!("No such image: {name}"), &error)
        }
        image::ErrorKind::Invalid => EngineError::because(ErrorClass::Invalid, "invalid reference format", &error),
        _ => wrong(error),
    }
}

/// The store's errors by class.
pub(crate) fn wrong(error: ImageError) -> EngineError {
    let class = match error.kind() {
        image::ErrorKind::NotFound => ErrorClass::NotFound,
        image::ErrorKind::Conflict => ErrorClass::Conflict,
        image::ErrorKind::Invalid => ErrorClass::Invalid,
        _ => ErrorClass::Internal,
    };
    EngineError::new(class, crate::error::chain(&error))
}
