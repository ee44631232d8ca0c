//! Archives of whole images: what `docker save` and `skopeo copy` write, and what they read.
//!
//! ```text
//! oci-layout, index.json              the OCI image layout
//! manifest.json                       Docker's list of the same images
//! blobs/sha256/<hex>                  manifests, configurations, layers: as they came where they were kept
//! ```

mod load;
mod save;

use std::collections::BTreeMap;
use std::io;

use oci::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::error::ImageError;
use crate::tar::TarError;

pub use load::Loaded;
pub use save::Packed;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Which image a manifest in an index is: its whole name, and its tag.
const NAME: &str = "io.containerd.image.name";
const TAG: &str = "org.opencontainers.image.ref.name";

/// Why an archive of images cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// The archive cannot be read.
    #[error("cannot read the archive of images")]
    Archive(#[from] TarError),
    /// The start of the archive cannot be read.
    #[error("cannot read the archive of images")]
    Layer(#[from] crate::layer::LayerError),
    /// There are no images in it.
    #[error(
        "there are no images in the archive: it has neither manifest.json nor index.json; if it is a root file system, \
         use: insula import"
    )]
    NoImages,
    /// None of its images is for the platform that was asked for.
    #[error("the archive has images, but does not provide the specified platform ({platform})")]
    NoPlatform {
        /// The platform.
        platform: oci::platform::Platform,
    },
    /// A file of the archive makes no sense.
    #[error("{file} in the archive cannot be read")]
    Json {
        /// The file.
        file: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A file is missing.
    #[error("{file} is not in the archive, which names it")]
    Missing {
        /// The file.
        file: String,
    },
    /// The layers are not those of the configuration.
    #[error("the image {config} in the archive has other layers than its configuration says")]
    OtherLayers {
        /// The configuration's file.
        config: String,
    },
    /// There are more small files than any image has.
    #[error("the archive has more than {limit} bytes of manifests and configurations")]
    TooMuch {
        /// The limit.
        limit: usize,
    },
    /// The store has a complaint.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// A reference to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<PlatformWords>,
}

pub(crate) fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Descriptor {
    let (media_type, digest) = (media_type.to_owned(), digest.to_string());
    Descriptor { media_type, digest, size, annotations: BTreeMap::new(), platform: None }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlatformWords {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// A manifest of an image.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// A list of manifests.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// One image in Docker's `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    /// Images without layers have none, or `null`.
    #[serde(default)]
    layers: Option<Vec<String>>,
}
