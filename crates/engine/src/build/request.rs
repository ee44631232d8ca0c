//! What a build is asked for, and what it tells while it works.

use super::output::Product;
use super::provenance::Provenance;
use crate::engine::Proof;
use crate::error::Result;
use crate::logs::LogStream;
use crate::model::{NetworkMode, Resources, Ulimit};
use image::build::{Files, Options};
use image::dockerfile::Remark;
use oci::platform::Platform;
use oci::reference::Reference;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

/// An answer that may take its time.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Files that come once it is known which paths of them are read; `None` for all.
pub type Supply = Box<dyn FnOnce(Option<BTreeSet<String>>) -> Answer<'static, Box<dyn Files + Send + Sync>> + Send>;

/// Whoever asked for a build, as far as there is somebody who can be asked back while it goes on.
pub trait Respondent: std::fmt::Debug + Send + Sync {
    /// A secret by its id; `None` if there is none.
    fn secret<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Vec<u8>>>;

    /// The socket of an SSH agent by its id; `None` if there is none.
    fn agent<'a>(&'a self, id: &'a str) -> Answer<'a, Option<PathBuf>>;

    /// Who asks at a registry, by its name in references.
    fn proof<'a>(&'a self, registry: &'a str) -> Answer<'a, Option<Proof>>;
}

/// A build.
#[derive(Debug, Default)]
pub struct BuildRequest {
    /// Where its files are.
    pub context: BuildContext,
    /// Further files by the names that [`Options::contexts`] has for them.
    pub contexts: BTreeMap<String, BuildContext>,
    /// The Dockerfile's path in the context; `Dockerfile` if empty.
    pub dockerfile: String,
    /// The Dockerfile's text, where it is not in the context.
    pub text: Option<Vec<u8>>,
    /// Arguments, target, platform, labels, time.
    pub options: Options,
    /// Several platforms, each of which gets an image; none for that of the options alone.
    pub platforms: Vec<Platform>,
    /// What is to be attested of where the images come from.
    pub provenance: Option<Provenance>,
    /// The image of a scanner, which lists what is in the images.
    pub sbom: Option<String>,
    /// What manifests and indexes are to say of themselves.
    pub annotations: Vec<Annotation>,
    /// The names that the image gets.
    pub names: Vec<Reference>,
    /// Whether steps that were done before are done again.
    pub reuse: Reuse,
    /// Stages whose steps are done again in any case, by their names.
    pub fresh: BTreeSet<String>,
    /// Whether base images are fetched although they are there.
    pub pull: Bases,
    /// Whether all steps make one layer.
    pub squash: Squash,
    /// The network of steps that ask for none of their own; `None` for the engine's default.
    pub network: Option<NetworkMode>,
    /// Limits of each step.
    pub resources: Resources,
    /// The control group that those of the steps are made in, as an absolute path; `None` for the engine's.
    pub cgroup_parent: Option<String>,
    /// Size of each step's /dev/shm in bytes.
    pub shm_bytes: Option<u64>,
    /// Resource limits of each step's processes.
    pub ulimits: Vec<Ulimit>,
    /// `name:address` lines for the steps' /etc/hosts.
    pub extra_hosts: Vec<String>,
    /// Secrets by their ids.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Sockets of SSH agents by their ids.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Who asks for base images, by the registry's name.
    pub proofs: BTreeMap<String, Proof>,
    /// Who knows what is not in here.
    pub respondent: Option<Arc<dyn Respondent>>,
    /// Rights that steps may ask for.
    pub allow: BTreeSet<Entitlement>,
    /// Where steps may have been done before; asked in this order, after this store.
    pub cache_from: Vec<CacheSource>,
    /// Where the steps are kept for others.
    pub cache_to: Vec<CacheTarget>,
}

/// A word of the user's about an image, as registries show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// What has it.
    pub bearer: Bearer,
    /// The one platform that it is for; all of them without it.
    pub platform: Option<Platform>,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What has an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bearer {
    /// The index of all platforms.
    Index,
    /// An image's manifest.
    Manifest,
    /// The index's entry for an image.
    Entry,
}

impl Bearer {
    /// Finds it by the name that clients have for it.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let all = [("index", Self::Index), ("manifest", Self::Manifest), ("manifest-descriptor", Self::Entry)];
        all.into_iter().find(|(known, _)| *known == name).map(|(_, bearer)| bearer)
    }
}

/// A place with the cache of other builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheSource {
    /// An image here, or a cache or an image at a registry.
    Named(Reference),
    /// A folder with an OCI layout.
    Folder(PathBuf),
}

/// What is kept, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTarget {
    /// Where.
    pub place: CachePlace,
    /// What.
    pub steps: CacheSteps,
}

/// Where the cache of a build is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// In the image's configuration, whose layers are those of its steps.
    Image,
    /// At a registry, as an artifact of its own.
    Registry(Reference),
    /// In a folder with an OCI layout; what is written belongs to this user and group.
    Folder(PathBuf, Option<(u32, u32)>),
}

/// Which steps are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheSteps {
    /// Those whose layers the result has.
    #[default]
    Result,
    /// Those of all stages.
    All,
}

/// Where a build's files are.
#[derive(Default)]
pub enum BuildContext {
    /// There are none.
    #[default]
    Empty,
    /// A folder of this machine; its `.dockerignore` counts.
    Folder(PathBuf),
    /// Files that somebody has already sent; what `.dockerignore` leaves out is not among them. The Dockerfile's text comes apart.
    Files(Box<dyn Files + Send + Sync>),
    /// As [`Self::Files`], sent when they are needed.
    Supplied(Supply),
    /// A tar archive, plain or compressed.
    Archive(Box<dyn Read + Send>),
    /// A repository, an archive or a lone Dockerfile in the network.
    Remote(String),
}

impl std::fmt::Debug for BuildContext {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => out.write_str("Empty"),
            Self::Folder(path) => out.debug_tuple("Folder").field(path).finish(),
            Self::Files(_) => out.write_str("Files"),
            Self::Supplied(_) => out.write_str("Supplied"),
            Self::Archive(_) => out.write_str("Archive"),
            Self::Remote(address) => out.debug_tuple("Remote").field(address).finish(),
        }
    }
}

/// Whether what was done before is taken again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reuse {
    /// It is.
    #[default]
    Yes,
    /// Each step is done anew.
    No,
}

/// When base images are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bases {
    /// When they are missing.
    #[default]
    Missing,
    /// In any case.
    Always,
}

/// Whether layers are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Squash {
    /// Each step has its own.
    #[default]
    No,
    /// One layer for all steps above the base.
    Yes,
}

/// A right beyond those of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entitlement {
    /// `RUN --network=host`.
    NetworkHost,
    /// `RUN --security=insecure`.
    SecurityInsecure,
}

impl Entitlement {
    /// Its name, as `--allow` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
        }
    }

    /// Finds it by its name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        [Self::NetworkHost, Self::SecurityInsecure].into_iter().find(|one| one.name() == name)
    }
}

/// The steps of a stage that change files, FROM among them, and that its readers count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageOutline {
    /// The stage.
    pub stage: usize,
    /// Its number in the file.
    pub number: usize,
    /// Its name.
    pub name: Option<String>,
    /// The platform that it is for, where the build has several.
    pub platform: Option<Platform>,
    /// The steps' numbers among all steps.
    pub steps: Vec<usize>,
}

/// What happens in a build. Steps of several stages may be told of at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// The plan is made.
    Planned {
        /// How many steps there are, FROM included.
        steps: usize,
        /// The stages that are needed.
        stages: Vec<StageOutline>,
    },
    /// An image is looked for, here and then at its registry.
    Looking(String),
    /// It is not here, or not to be taken from here.
    Fetching(String),
    /// It is there.
    Found(String),
    /// All steps are done; the image is made.
    Making,
    /// The cache is sent or written to a place.
    Keeping(String),
    /// Something that is no error.
    Warning(String),
    /// Something in the Dockerfile that is better written otherwise.
    Remark(Remark),
    /// A step begins.
    Begun {
        /// Its stage.
        stage: usize,
        /// Its number among all steps, from 1 on.
        step: usize,
        /// The instruction.
        text: String,
    },
    /// A scanner begins.
    Scanning {
        /// The stage that it looks at.
        stage: usize,
        /// Its number, behind those of all steps.
        step: usize,
        /// What it does.
        text: String,
    },
    /// A step was done before.
    Cached {
        /// Its stage.
        stage: usize,
        /// Its number.
        step: usize,
    },
    /// What a step's program writes.
    Output {
        /// Its stage.
        stage: usize,
        /// Its number.
        step: usize,
        /// Where it writes to.
        stream: LogStream,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A step has ended.
    Done {
        /// Its stage.
        stage: usize,
        /// Its number.
        step: usize,
        /// The short name of what it made.
        made: String,
    },
    /// A step went wrong.
    Failed {
        /// Its stage.
        stage: usize,
        /// Its number.
        step: usize,
        /// Why.
        error: String,
    },
    /// A stage has ended.
    StageDone {
        /// Which.
        stage: usize,
    },
}

/// What came of a build.
#[derive(Debug, Clone)]
pub struct BuildOutcome {
    /// What was made.
    pub product: Product,
    /// How many steps were taken from earlier builds.
    pub reused: usize,
}
