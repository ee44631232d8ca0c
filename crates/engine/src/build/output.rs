//! An image's files outside of the store: in a folder, or as an archive.

use super::place::Placer;
use super::tree::{Tree, open};
use crate::engine::Engine;
use crate::error::{EngineError, ErrorClass, Result};
use image::build::copy::{self, Destination, Existing, Selection};
use image::build::{Arriving, Files};
use image::{Image, Limits};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

impl Engine {
    /// Copies what an image's layers give together into a folder that is there. Everything belongs to `owner`, if there is
    /// one, and to whom the image says otherwise.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] for a file that cannot take the place of what is there; [`ErrorClass::Internal`].
    pub async fn copy_out(&self, image: &Image, folder: PathBuf, owner: Option<(u32, u32)>) -> Result<()> {
        let (inner, layers) = (Arc::clone(&self.inner), image.layers.clone());
        let done = tokio::task::spawn_blocking(move || {
            let tree = Tree::open(&inner, &layers, "of the build")?;
            let everything = Selection { sources: vec!["/".to_owned()], ..Selection::default() };
            let found = copy::resolve(&tree, &everything, "the image")
                .map_err(|error| EngineError::because(ErrorClass::Internal, "cannot read the image", &error))?;
            let root = open(&folder)?;
            let mut placer = Placer::new(root.as_fd(), None, owner.unwrap_or((0, 0)));
            for resolved in &found {
                let placed = Destination::new("/", "/").place(resolved, Existing::Folder);
                placer.source(resolved, &placed, &tree, owner)?;
            }
            placer.finish()
        });
        done.await.map_err(|error| EngineError::internal("copying was cut short", &error))?
    }

    /// What an image's layers give together, to be read.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`] if the layers cannot be mounted.
    pub async fn image_files(&self, image: &Image) -> Result<Box<dyn Files + Send + Sync>> {
        let (inner, layers) = (Arc::clone(&self.inner), image.layers.clone());
        let opened = tokio::task::spawn_blocking(move || Tree::open(&inner, &layers, "of the build")).await;
        let opened = opened.map_err(|error| EngineError::internal("opening the image was cut short", &error))?;
        opened.map(|tree| Box::new(tree) as Box<dyn Files + Send + Sync>)
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
        self.inner.images.work_folder().map_err(crate::engine::image_error)
    }

    /// Writes what an image's layers give together as one archive; blocks.
    ///
    /// # Errors
    /// [`ErrorClass::Internal`] if the image cannot be read, and what `out` says.
    pub fn write_tree(&self, image: &Image, out: impl Write) -> Result<()> {
        let exported = self.inner.images.export(image, out);
        exported.map_err(|error| EngineError::internal("cannot write the image's files", &error))
    }
}
