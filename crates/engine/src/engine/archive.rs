//! Images and containers as archives.

use super::Engine;
use super::images::{missing, parse, wrong};
use crate::build::Product;
use crate::error::{EngineError, ErrorClass, Result};
use image::Image;
use image::bundle::{BundleError, Loaded, Packed};
use image::family::Family;
use oci::platform::Platform;
use oci::reference::Reference;
use std::io::{Read, Write};

impl Engine {
    /// Writes images into one archive: what a name without a tag stands for is all tags of the repository. Fails before
    /// anything is written when there is no such image; `out` is written on a thread of its own. With a platform, only its
    /// images are written, under the same names.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`].
    pub async fn save_images(&self, names: &[String], platform: Option<&Platform>) -> Result<Saving> {
        let mut images: Vec<Packed> = Vec::new();
        for name in names {
            if let Some(Product { image, family, .. }) = self.inner.builds.product(name) {
                images.push(Packed { image, names: Vec::new(), family });
                continue;
            }
            for (image, tags) in self.named(name)? {
                // names of one image may stand for different families
                let family = tags.first().and_then(|tag| self.inner.images.family(tag));
                match images.iter_mut().find(|other| other.image.id == image.id && other.family == family) {
                    Some(other) => other.names.extend(tags),
                    None => images.push(Packed { image, names: tags, family }),
                }
            }
        }
        for packed in images.iter_mut().filter(|_| platform.is_some()) {
            packed.image = self.part_for(&packed.image, packed.family.take().as_ref(), platform)?;
        }
        Ok(Saving { engine: self.clone(), images })
    }

    /// The image for a platform out of those that a name stands for; where none is asked for, the image itself.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`] if there is none for it.
    pub(super) fn part_for(
        &self,
        image: &Image,
        family: Option<&Family>,
        platform: Option<&Platform>,
    ) -> Result<Image> {
        let Some(platform) = platform else { return Ok(image.clone()) };
        let missing = || {
            let name = image.references.first().map_or_else(|| image.id.to_string(), Reference::familiar);
            EngineError::not_found(format!(
                "image with reference {name} was found but does not provide the specified platform ({platform})"
            ))
        };
        match family {
            Some(family) => {
                let member = family.members.iter().find(|member| member.platform == *platform);
                let member = member.or_else(|| family.member(platform)).ok_or_else(missing)?;
                self.inner.images.get(&member.image.to_string()).map_err(wrong)
            }
            None => Some(image.clone()).filter(|image| image.is_for(platform)).ok_or_else(missing),
        }
    }

    /// What a build has made into an archive, under these names whatever it is called here.
    #[must_use]
    pub fn save_product(&self, product: &Product, names: Vec<Reference>) -> Saving {
        let (image, family) = (product.image.clone(), product.family.clone());
        Saving { engine: self.clone(), images: vec![Packed { image, names, family }] }
    }

    fn named(&self, name: &str) -> Result<Vec<(Image, Vec<Reference>)>> {
        if let Ok(reference) = name.parse::<Reference>()
            && reference.tag().is_none()
            && reference.digest().is_none()
        {
            let repository = reference.repository();
            let mut found = self.inner.images.list().map_err(wrong)?;
            for image in &mut found {
                image.references.retain(|name| name.repository() == repository);
            }
            found.retain(|image| !image.references.is_empty());
            if !found.is_empty() {
                let tags = |image: Image| -> Vec<_> {
                    image.references.iter().map(|tag| (image.clone(), vec![tag.clone()])).collect()
                };
                return Ok(found.into_iter().flat_map(tags).collect());
            }
        }
        let image = self.inner.images.get(name).map_err(|error| missing(name, error))?;
        let tagged = name.parse::<Reference>().map(Reference::tagged).ok();
        let tags = tagged.filter(|tagged| image.references.contains(tagged)).into_iter().collect();
        Ok(vec![(image, tags)])
    }

    /// Takes the images of an archive, or only those for a platform. `body` is read on a thread of its own.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] for an archive that is none; nothing of it is left.
    pub async fn load_images(&self, body: Box<dyn Read + Send>, platform: Option<Platform>) -> Result<Vec<Loaded>> {
        let loaded = self.blocking(move |inner| inner.images.read_bundle(body, platform).map_err(refused)).await?;
        for one in &loaded {
            self.tell(&one.image, "load");
        }
        self.inner.taken.notify_one();
        Ok(loaded)
    }

    /// What the layers of an image take on disk, lowest first.
    #[must_use]
    pub fn layer_sizes(&self, image: &Image) -> Vec<u64> {
        image.layers.iter().map(|layer| self.inner.images.layer_bytes(layer)).collect()
    }

    /// Reads all of the image store again and compares it with its digests.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`] when it cannot be read at all.
    pub async fn check_images(&self) -> Result<Vec<image::Problem>> {
        self.blocking(|inner| inner.images.check().map_err(wrong)).await
    }
}

/// Images that are about to be written.
#[derive(Debug)]
pub struct Saving {
    engine: Engine,
    images: Vec<Packed>,
}

impl Saving {
    /// Writes them.
    ///
    /// # Errors
    /// What the store or `out` says.
    pub async fn write(self, out: impl Write + Send + 'static) -> Result<()> {
        let Self { engine, images } = self;
        let done = images.iter().map(|packed| packed.image.clone()).collect::<Vec<_>>();
        engine.blocking(move |inner| inner.images.write_bundle(&images, out).map_err(refused)).await?;
        for image in &done {
            engine.tell(image, "save");
        }
        Ok(())
    }
}

fn refused(error: BundleError) -> EngineError {
    match error {
        BundleError::Image(error) => wrong(error),
        error => EngineError::new(ErrorClass::Invalid, crate::error::chain(&error)),
    }
}

/// Checks a name that an image is to get.
pub(super) fn new_name(name: &str) -> Result<Reference> {
    let reference = parse(name)?.tagged();
    match reference.digest() {
        Some(_) => Err(EngineError::invalid(format!("{name:?} has a digest; an image gets a name and a tag"))),
        None => Ok(reference),
    }
}
