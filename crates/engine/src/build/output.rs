//! An image's files outside of the store: in a folder, or as an archive.

use super::place::Placer;
use super::tree::{Tree, open};
use crate::engine::{Engine, Inner, image_error};
use crate::error::{EngineError, ErrorClass, Result};
use crate::model::ContainerId;
use image::build::copy::{self, Destination, Existing, Selection};
use image::build::{Arriving, File, FileKind, Files, FilesError};
use image::family::{Family, Member};
use image::{Image, ImageId, Limits};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Engine {
    /// Copies what an image's layers give together into a folder that is there; of several platforms each into a folder of its own
    /// in that. Everything belongs to `owner`, if there is one, and to whom the image says otherwise.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] for a file that cannot take the place of what is there; [`ErrorClass::Internal`].
    pub async fn copy_out(&self, product: &Product, folder: PathBuf, owner: Option<(u32, u32)>) -> Result<()> {
        let product = product.clone();
        self.blocking(move |inner| {
            for (name, image) in trees(inner, &product)? {
                let folder = match &name {
                    Some(name) => below(&folder, name, owner)?,
                    None => folder.clone(),
                };
                copy_one(inner, &image, &folder, owner)?;
            }
            Ok(())
        })
        .await
    }

    /// What an image's layers give together, to be read; of several platforms each below a folder of its own.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`] if the layers cannot be mounted.
    pub async fn image_files(&self, product: &Product) -> Result<Box<dyn Files + Send + Sync>> {
        let product = product.clone();
        self.blocking(move |inner| {
            let mut folders = BTreeMap::new();
            for (name, image) in trees(inner, &product)? {
                let tree = Tree::open(inner, &image.layers, "of the build")?;
                match name {
                    None => return Ok(Box::new(tree) as Box<dyn Files + Send + Sync>),
                    Some(name) => drop(folders.insert(name.into_bytes(), tree)),
                }
            }
            Ok(Box::new(Folders(folders)) as Box<dyn Files + Send + Sync>)
        })
        .await
    }

    /// A context that somebody will send; what has come is in the store's work folder until it is dropped.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`] if nothing can be kept there.
    pub fn arriving(&self) -> Result<Arriving> {
        let folder = self.inner.images.root().join("tmp");
        Arriving::new(&folder, Limits::default())
            .map_err(|error| EngineError::internal("cannot take the build context", &error))
    }

    /// A folder that is there until it is dropped; one that a crash leaves is removed at the next start.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`].
    pub fn work_folder(&self) -> Result<tempfile::TempDir> {
        self.inner.images.work_folder().map_err(image_error)
    }

    /// Writes what an image's layers give together as one archive, of several platforms each below a folder of its own; blocks.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`] if the image cannot be read, and what `out` says.
    pub fn write_tree(&self, product: &Product, out: impl Write) -> Result<()> {
        let trees = trees(&self.inner, product)?;
        let named: Option<Vec<(String, Image)>> = trees.into_iter().map(|(name, image)| Some((name?, image))).collect();
        let written = match named {
            Some(images) => self.inner.images.export_all(&images, out),
            None => self.inner.images.export(&product.image, out),
        };
        written.map_err(|error| EngineError::internal("cannot write the image's files", &error))
    }

    /// What a name stands for: an image's, that of a family, or the one that [`Self::keep_product`] gave.
    ///
    /// # Errors
    /// [`ErrorClass::NotFound`].
    pub async fn product(&self, who: &str) -> Result<Product> {
        if let Some(product) = self.inner.builds.product(who) {
            return Ok(product);
        }
        let image = self.image(who).await?;
        let family = who.parse().ok().and_then(|name| self.inner.images.family(&name));
        Ok(Product { image, family, fresh: BTreeSet::new(), _held: None })
    }

    /// Keeps what a build without a name has made for whoever fetches it soon; under a name that is given back.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`].
    pub fn keep_product(&self, product: &Product) -> Result<String> {
        let id = ContainerId::random().map_err(|error| EngineError::internal("cannot make an id", &error))?;
        Ok(self.inner.builds.keep(format!("build-{id}"), product.clone()))
    }

    /// Removes images that nobody has a name for and that a build has made whose files are where they were wanted.
    pub async fn remove_product(&self, product: &Product) {
        for id in product.fresh.clone() {
            let nameless = self.image(&id.to_string()).await.is_ok_and(|image| image.references.is_empty());
            if nameless && !self.inner.images.is_member(&id) {
                // its layers are in the cache
                let _ = self.remove_image(&id.to_string(), false).await;
            }
        }
    }
}

/// What a build or a name gives: an image, and those of other platforms.
#[derive(Debug, Clone)]
pub struct Product {
    /// The image that runs here, or the first.
    pub image: Image,
    /// All platforms, and what is attested.
    pub family: Option<Family>,
    /// Its images that were not there before it was built.
    pub(super) fresh: BTreeSet<ImageId>,
    /// Keeps what is attested, also where no name does.
    pub(super) _held: Option<Arc<image::Intake>>,
}

impl Product {
    /// All its images.
    #[must_use]
    pub fn images(&self) -> BTreeSet<ImageId> {
        let members = self.family.iter().flat_map(|family| &family.members).map(|member| member.image);
        members.chain([self.image.id]).collect()
    }
}

/// The images, with the folder of each where there are several.
fn trees(inner: &Inner, product: &Product) -> Result<Vec<(Option<String>, Image)>> {
    let several = product.family.as_ref().filter(|family| family.members.len() > 1);
    let Some(family) = several else { return Ok(vec![(None, product.image.clone())]) };
    let one = |member: &Member| {
        let image = inner.images.get(&member.image.to_string()).map_err(image_error)?;
        Ok((Some(member.platform.to_string().replace('/', "_")), image))
    };
    family.members.iter().map(one).collect()
}

fn below(folder: &Path, name: &str, owner: Option<(u32, u32)>) -> Result<PathBuf> {
    let path = folder.join(name);
    let failed = |error: std::io::Error| {
        EngineError::because(ErrorClass::Invalid, format!("cannot make {}", path.display()), &error)
    };
    match std::fs::create_dir(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    if let Some((user, group)) = owner {
        std::os::unix::fs::lchown(&path, Some(user), Some(group)).map_err(failed)?;
    }
    Ok(path)
}

fn copy_one(inner: &Inner, image: &Image, folder: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    let tree = Tree::open(inner, &image.layers, "of the build")?;
    let everything = Selection { sources: vec!["/".to_owned()], ..Selection::default() };
    let found = copy::resolve(&tree, &everything, "the image")
        .map_err(|error| EngineError::because(ErrorClass::Internal, "cannot read the image", &error))?;
    let root = open(folder)?;
    let mut placer = Placer::new(root.as_fd(), None, owner.unwrap_or((0, 0)));
    for resolved in &found {
        let placed = Destination::new("/", "/").place(resolved, Existing::Folder);
        placer.source(resolved, &placed, &tree, owner)?;
    }
    placer.finish()
}

/// Trees side by side, each below its name.
struct Folders(BTreeMap<Vec<u8>, Tree>);

impl Folders {
    /// The tree that a path is in, and the path there.
    fn within<'a>(&self, path: &'a [u8]) -> Option<(&Tree, &'a [u8])> {
        let mut parts = path.splitn(2, |byte| *byte == b'/');
        let tree = self.0.get(parts.next()?)?;
        Some((tree, parts.next().unwrap_or_default()))
    }
}

impl Files for Folders {
    fn look(&self, path: &[u8]) -> std::result::Result<Option<File>, FilesError> {
        match self.within(path) {
            Some((tree, path)) => tree.look(path),
            None if path.is_empty() => {
                let stat = image::tree::Stat { mode: 0o755, ..Default::default() };
                Ok(Some(File { stat, kind: FileKind::Directory }))
            }
            None => Ok(None),
        }
    }

    fn names(&self, folder: &[u8]) -> std::result::Result<Vec<Vec<u8>>, FilesError> {
        match self.within(folder) {
            Some((tree, folder)) => tree.names(folder),
            None if folder.is_empty() => Ok(self.0.keys().cloned().collect()),
            None => Ok(Vec::new()),
        }
    }

    fn open(&self, path: &[u8]) -> std::result::Result<Box<dyn Read + Send>, FilesError> {
        match self.within(path) {
            Some((tree, path)) => tree.open(path),
            None => Ok(Box::new(std::io::empty())),
        }
    }
}
