//! What can go wrong with the store, and of which kind it is.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::ChangeError;
use crate::layer::LayerError;
use crate::model::{ImageId, LayerId};

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Nothing has this name.
    #[error("no image \"{name}\" here; see what is there with: insula images")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// A shortened id fits several images.
    #[error("\"{prefix}\" is the start of {count} image ids; give more digits")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many fit.
        count: usize,
    },
    /// The name cannot be an image's.
    #[error("\"{name}\" cannot be the name of an image")]
    BadName {
        /// What was asked for.
        name: String,
        /// Why not.
        #[source]
        source: oci::reference::ReferenceError,
    },
    /// Containers use the image.
    #[error("image {name} is used by a container; remove the container first")]
    InUse {
        /// The image as it was asked for.
        name: String,
    },
    /// The id stands for an image with several names.
    #[error("image {id} has {count} names; remove them one by one, or all of it with --force")]
    SeveralNames {
        /// The image.
        id: ImageId,
        /// How many names.
        count: usize,
    },
    /// Another process has the store.
    #[error("the image store {path} is in use by another process; stop that first, or use another state folder")]
    Locked {
        /// The store's folder.
        path: PathBuf,
    },
    /// A compressed layer does not come back from its parts.
    #[error("the compressed layer {digest} cannot be made again; remove its image and pull it again")]
    Parts {
        /// Its digest.
        digest: oci::digest::Digest,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store's list of images cannot be read.
    #[error("the image store's list {path} is damaged ({reason}); move {folder} away to begin with an empty store")]
    DamagedIndex {
        /// The list.
        path: PathBuf,
        /// The store's folder.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An image's configuration in the store is not what it should be.
    #[error("image {id} in the store is damaged: {reason}; remove it with: insula rmi --force {id}, and make it again")]
    DamagedImage {
        /// The image.
        id: ImageId,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer in the store is not what it should be.
    #[error(
        "layer {layer} of image {image} is damaged: {path} {reason}; remove the image with: insula rmi --force {image}, \
         and make it again"
    )]
    DamagedLayer {
        /// The layer.
        layer: LayerId,
        /// The image that needs it.
        image: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer could not be mounted.
    #[error("cannot mount layer {layer} from {path}")]
    Mount {
        /// The layer.
        layer: LayerId,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The archive did not become a layer.
    #[error("cannot import the archive")]
    Layer(#[from] LayerError),
    /// A change to the configuration makes no sense.
    #[error("cannot apply the change to the image's configuration")]
    Change(#[from] ChangeError),
    /// The image's configuration does not hold together.
    #[error("cannot put the image's configuration together")]
    Config(#[source] oci_spec::OciSpecError),
    /// A layer is another one than its configuration says.
    #[error("the layer's archive has the digest {actual}, and the image's configuration says {expected}")]
    OtherLayer {
        /// What the configuration says.
        expected: LayerId,
        /// What came.
        actual: LayerId,
    },
    /// Bytes are not what their digest says.
    #[error("the content of blob {expected} has another digest")]
    OtherBlob {
        /// What was said.
        expected: oci::digest::Digest,
    },
    /// A configuration names a layer that did not come with it.
    #[error("layer {layer} is named by the image's configuration and did not come with it")]
    MissingLayer {
        /// The layer.
        layer: LayerId,
    },
    /// A configuration names no layer where it should.
    #[error("{text:?} in the image's configuration is no layer's digest (sha256)")]
    BadLayer {
        /// What it has.
        text: String,
    },
    /// A layer cannot become an archive again.
    #[error("layer {layer} cannot be written as an archive: {reason}; make or pull the image again")]
    NoArchive {
        /// The layer.
        layer: LayerId,
        /// Why not.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {operation} {path}")]
    File {
        /// What was done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Kinds of [`ImageError`], for whoever answers a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Nothing has that name.
    NotFound,
    /// It is there and something stands against it.
    Conflict,
    /// The request or the archive is wrong.
    Invalid,
    /// The disk is full or the store is taken: later it may work.
    Unavailable,
    /// The store itself is at fault.
    Internal,
}

impl ImageError {
    /// Of which kind it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::InUse { .. } | Self::SeveralNames { .. } => ErrorKind::Conflict,
            Self::NoArchive { .. } => ErrorKind::Conflict,
            Self::Ambiguous { .. }
            | Self::BadName { .. }
            | Self::Change(_)
            | Self::Config(_)
            | Self::OtherLayer { .. }
            | Self::OtherBlob { .. }
            | Self::MissingLayer { .. }
            | Self::BadLayer { .. } => ErrorKind::Invalid,
            Self::Layer(error) if error.is_output() => ErrorKind::Unavailable,
            Self::Layer(_) => ErrorKind::Invalid,
            Self::Locked { .. } => ErrorKind::Unavailable,
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => ErrorKind::Unavailable,
            Self::Parts { .. }
            | Self::DamagedIndex { .. }
            | Self::DamagedImage { .. }
            | Self::DamagedLayer { .. }
            | Self::Mount { .. }
            | Self::File { .. } => ErrorKind::Internal,
        }
    }

    /// An error of `operation` on `path`: `.map_err(ImageError::file("read", path))`.
    pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { operation, path, source }
    }
}
