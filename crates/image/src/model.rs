//! The nouns: images, layers, options, limits.

use std::fmt;
use std::time::SystemTime;

use oci::digest::Digest;
use oci::platform::Platform;
use oci::reference::Reference;
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::config::ConfigChanges;

/// An image's name that never changes: the digest of its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub Digest);

/// A layer's name that never changes: the digest of its uncompressed archive (`diff_id`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerId(pub Digest);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An image in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration.
    pub id: ImageId,
    /// Its names, sorted; none for an image whose names went to others.
    pub references: Vec<Reference>,
    /// Its configuration as it stands in the store.
    pub config: ImageConfiguration,
    /// Its layers, lowest first.
    pub layers: Vec<LayerId>,
    /// What its layers take on disk.
    pub size_bytes: u64,
    /// When it was made.
    pub created: SystemTime,
    /// The manifests that it came with or was pushed under.
    pub manifests: Vec<StoredManifest>,
    /// The image that it was made of here, if that is known and still there.
    pub parent: Option<ImageId>,
    /// When it last got a name, as far as it is known.
    pub tagged: Option<SystemTime>,
}

impl Image {
    /// What its configuration says that it is for.
    #[must_use]
    pub fn platform(&self) -> Platform {
        let config = &self.config;
        Platform {
            os: config.os().to_string(),
            architecture: config.architecture().to_string(),
            variant: config.variant().clone().filter(|variant| !variant.is_empty()),
        }
    }

    /// Whether it is for a platform; a variant counts only where both name one.
    #[must_use]
    pub fn is_for(&self, platform: &Platform) -> bool {
        self.platform().is(platform)
    }
}

/// A manifest that is kept with all that it names, so that the image goes out as it came in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// The layers that it names, as they are sent, lowest first.
    pub blobs: Vec<Digest>,
    /// Where it is known under which digest.
    pub names: Vec<PinnedName>,
}

/// A repository and the digest that an image has in it: its manifest's, or that of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedName {
    /// Domain and path, as in `docker.io/library/debian`.
    pub repository: String,
    /// The digest.
    pub digest: Digest,
}

/// What to do with device nodes in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceNodes {
    /// Keep them: a container reaches only the devices that it was given, whatever nodes its image has.
    #[default]
    Keep,
    /// Refuse the archive.
    Refuse,
}

/// How much an archive may have before it is taken for an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries in the archive.
    pub entries: u64,
    /// Bytes of the archive once decompressed.
    pub archive_bytes: u64,
    /// Bytes of one file, holes included.
    pub file_bytes: u64,
    /// Bytes of the layer in the store.
    pub layer_bytes: u64,
    /// Decompressed bytes for each compressed byte, counted once there are 64 MiB of them.
    pub compression_ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            archive_bytes: 256 << 30,
            file_bytes: 1 << 40,
            layer_bytes: 256 << 30,
            compression_ratio: 2_000,
        }
    }
}

/// How an archive becomes an image.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The name that the image gets.
    pub reference: Option<Reference>,
    /// Changes to the empty configuration.
    pub changes: ConfigChanges,
    /// A remark for the image's history.
    pub message: Option<String>,
    /// When the image was made; now when it is missing.
    pub created: Option<SystemTime>,
    /// What the image runs on.
    pub platform: Platform,
    /// When to stop reading.
    pub limits: Limits,
    /// Whether device nodes are welcome.
    pub device_nodes: DeviceNodes,
    /// Whether the archive must say that it is over.
    pub end: EndMark,
}

/// Whether an archive without an end mark is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EndMark {
    /// It is.
    Required,
    /// What ends with the last entry's contents is whole, as Docker's daemon takes it: its client leaves out what should follow
    /// when it adds a Dockerfile to a context, and many programs that write archives do.
    #[default]
    Optional,
}

/// What a name in an archive with `..` in it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dots {
    /// Refused: a layer has no reason for one.
    #[default]
    Refused,
    /// A way within the archive, which leads nowhere from its top: builds' contexts have such names.
    Within,
}

impl Default for ImportOptions {
    /// An image without a name for this machine, made now.
    fn default() -> Self {
        Self {
            reference: None,
            changes: ConfigChanges::default(),
            message: None,
            created: None,
            platform: Platform::host(),
            limits: Limits::default(),
            device_nodes: DeviceNodes::default(),
            end: EndMark::default(),
        }
    }
}

/// Whether to go on in spite of objections that can be overruled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Force {
    /// Objections stop the operation.
    #[default]
    No,
    /// They don't.
    Yes,
}

/// One thing that a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone.
    Untagged(Reference),
    /// An image is gone.
    Deleted(ImageId),
}

/// Which images a prune takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PruneScope {
    /// Those without a name.
    #[default]
    Dangling,
    /// All that are not in use.
    Unused,
}

/// What a prune did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Names and images that are gone.
    pub removed: Vec<Removed>,
    /// Disk space that came back.
    pub reclaimed_bytes: u64,
}

/// What the store takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUsage {
    /// How many images there are.
    pub images: usize,
    /// How many layers they share among them.
    pub layers: usize,
    /// What the layers take.
    pub layer_bytes: u64,
    /// What the configurations take.
    pub blob_bytes: u64,
}

/// Something in the store that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The image or layer that it is about.
    pub object: String,
    /// What is wrong, and what to do.
    pub description: String,
}
