//! Images: where they are kept, how an archive becomes one, how their layers are mounted, and how a base image is made
//! from a distribution's packages.
//!
//! A layer is one EROFS file, written while its archive streams in ([`erofs`]); where a kernel has no EROFS it is a plain
//! directory. [`Store`] is the one way to them. Everything here is synchronous and expects to be called on threads that may
//! block. Neighbours: `oci` for names and digests, `sys` for mounting; the engine stands above.

mod config;
mod deflate;
mod directory;
mod error;
mod import;
mod layer;
mod model;
mod mount;
mod path;
mod pipeline;
mod recipe;
mod store;
mod unpack;

pub mod bootstrap;
pub mod build;
pub mod bundle;
pub mod diff;
pub mod dockerfile;
pub mod erofs;
pub mod export;
pub mod family;
pub mod tar;
pub mod transfer;
pub mod tree;

pub use config::{ChangeError, ConfigChanges, read_configuration};
pub use error::{ErrorKind, ImageError};
pub use import::LayerFormat;
pub use layer::LayerError;
pub use model::{
    DeviceNodes, DiskUsage, EndMark, Force, Image, ImageId, ImportOptions, LayerId, Limits, PinnedName, Problem,
    PruneScope, Pruned, Removed, StoredManifest,
};
pub use mount::Layers;
pub use path::PathError;
pub use pipeline::decompress;
pub use store::build::{CacheRecord, CacheUse, Held};
pub use store::reduced::{Reduction, WholeBlob};
pub use store::{Intake, Keep, LayerRules, NewImage, Store, TakenLayer, layers_of};
pub use unpack::unpack;

/// Entry points for the fuzz targets in `fuzz/`: each takes bytes from a stranger and must neither panic nor hang.
#[doc(hidden)]
pub mod fuzzing;
