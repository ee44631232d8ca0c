//! From a Dockerfile and a context to a plan: stages, steps, cache keys, configurations.
//!
//! ```text
//! Dockerfile + Options ──> Graph (needed stages) ──missing()──> whoever builds finds the images, and again
//!         Graph + Images + Files (context) ──> Plan (steps with recipes) ──keys()──> the cache
//! ```
//!
//! Everything here is a function of its input: nothing is run, nothing is written, and only the context is read. The
//! executor walks over the plan, stage by stage ([`Graph::rounds`] says which can go together); it resolves
//! [`CopySource::Later`] with [`copy::resolve`] once a stage is there, and fetches what [`Plan::remotes`] names.
//!
//! # Limits
//! Besides [`crate::dockerfile::limits`], each refused by name and place: 131,072 bytes of one expanded word, 64 substitutions
//! inside of each other, 4,000,000 steps of one pattern; 1 MiB of all variables of a stage; paths of 4,096 bytes with names of
//! 255; 1 MiB and 10,000 patterns of a `.dockerignore`; 4,000,000 files of one COPY, 512 folders inside of each other, 1,000,000
//! names in a folder, 40 symbolic links on a path; [`crate::Limits`] for a context that is an archive.
//!
//! Neighbours: [`crate::dockerfile`] for the text, the engine for the doing.

mod archive;
mod arriving;
mod check;
pub mod config;
mod context;
pub mod copy;
mod error;
mod files;
mod graph;
pub(crate) mod ignore;
mod join;
mod key;
mod mode;
mod plan;
mod stage;
#[cfg(test)]
mod tests;
mod transfer;

pub use arriving::{ArrivalError, ArrivedContext, Arriving, Slot};
pub use check::{Checked, check};
pub use config::{Change, Config, History, ImageSpec};
pub use context::{ArchiveContext, DigestMemo, FileIdentity, FolderContext};
pub use error::{BuildError, BuildFault};
pub use files::{File, FileKind, Files, FilesError};
pub use graph::{Base, BaseImage, Graph, ImageRequest, Images, NamedContext, Node, Options, Origin, Volumes};
pub use ignore::{Ignore, IgnoreError};
pub use key::CacheKey;
pub use mode::{Account, AccountFiles, Accounts, Chmod, ChmodError, Clause, Folder, Owner, OwnerError};
pub use plan::{
    Action, Contexts, CopySource, CopyStep, Input, Keep, Keys, Plan, Recipe, Remote, RunMount, RunStep, Script,
    StagePlan, Step, Unpacked,
};
