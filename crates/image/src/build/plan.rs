//! The plan of a build: everything that an executor has to do, in order, with nothing left to interpret.

use std::collections::{BTreeMap, BTreeSet};

use oci::digest::Digest;
use oci::platform::Platform;

use super::config::ImageSpec;
use super::copy::{Destination, Resolved, Selection};
use super::error::BuildError;
use super::files::Files;
use super::graph::{Base, Graph, Images, Options, Origin};
use super::key::{CacheKey, Canonical};
use super::mode::{Chmod, Owner};
use super::stage::{Shared, Stager};
use crate::dockerfile::{Dockerfile, GitDir, Link, Mount, NetworkMode, Place, SecurityMode, Unpack};

/// All steps of all needed stages.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The wanted stages: one, or one a platform in a plan that was joined of several.
    pub targets: Vec<usize>,
    /// The needed stages by their number: each comes after those that it needs. It is their number in the file, but for plans
    /// that were joined.
    pub stages: BTreeMap<usize, StagePlan>,
    /// The time that everything gets, in seconds since 1970.
    pub epoch: Option<i64>,
    /// What is no error and should be said all the same.
    pub warnings: Vec<String>,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePlan {
    /// Its number in the file.
    pub index: usize,
    /// Its name.
    pub name: Option<String>,
    /// What it begins with.
    pub base: Base,
    /// What cache keys know that by, for an image.
    pub base_id: Option<Digest>,
    /// For which platform.
    pub platform: Platform,
    /// The stages that have to be there before it can end.
    pub needs: BTreeSet<usize>,
    /// What to do.
    pub steps: Vec<Step>,
    /// The image that it makes, but for its layers; times are missing in the history unless there is an epoch.
    pub image: ImageSpec,
}

/// One instruction to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where it stands.
    pub place: Place,
    /// It as the user wrote it, on one line.
    pub text: String,
    /// What to do.
    pub action: Action,
    /// What its cache key is made of; nothing for a step that changes no files.
    pub recipe: Option<Recipe>,
}

/// What a step does to the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing: the configuration in [`StagePlan::image`] has it already.
    Configure,
    /// A folder is there afterwards, mode 0755; new ones belong to the user.
    Directory {
        /// The absolute path.
        path: String,
        /// The user as USER has it; empty for root.
        user: String,
    },
    /// A program is run.
    Run(Box<RunStep>),
    /// Files are copied.
    Copy(Box<CopyStep>),
}

/// A program to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunStep {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its variables.
    pub env: Vec<(String, String)>,
    /// Variables that it gets and that change nothing about the outcome: proxies.
    pub proxies: Vec<(String, String)>,
    /// Where it is run; made if it is missing.
    pub directory: String,
    /// As whom, as USER has it; empty for root.
    pub user: String,
    /// What it sees besides.
    pub mounts: Vec<RunMount>,
    /// Folders in which it leaves nothing: volumes, as absolute paths.
    pub volumes: Vec<String>,
    /// Its network.
    pub network: NetworkMode,
    /// Its rights.
    pub security: SecurityMode,
    /// A program that stands in the Dockerfile, to be seen at this path, mode 0755, and not in the image.
    pub script: Option<Script>,
}

/// A mount with variables replaced and its target absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMount {
    /// What it is.
    pub mount: Mount,
    /// Where its files come from, for a bind mount, and a cache with first contents.
    pub origin: Option<Origin>,
}

/// A program from a here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Where it is seen.
    pub path: String,
    /// Its text.
    pub contents: String,
}

/// Files to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyStep {
    /// What.
    pub sources: Vec<CopySource>,
    /// Where to.
    pub destination: Destination,
    /// Whose they are then. Without it, files of the context, of archives and of the network are root's, and those of
    /// stages and images stay whose they are.
    pub owner: Option<Owner>,
    /// Their permissions; applied already to what is resolved.
    pub chmod: Option<Chmod>,
    /// Whether they make a layer of their own.
    pub link: Link,
    /// Where they come from.
    pub origin: Origin,
}

/// One thing to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// Files of the context, one by one.
    Files(Resolved),
    /// Files of a stage or image, to be resolved with [`super::copy::resolve`] once that is there.
    Later(Selection),
    /// A file whose contents stand in the Dockerfile.
    Inline {
        /// Its name.
        name: String,
        /// Its contents, variables replaced.
        contents: String,
        /// Its permissions.
        mode: u16,
    },
    /// Something of the network.
    Remote(Remote),
}

/// What ADD fetches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remote {
    /// A file. It gets mode 0600 unless `--chmod` says otherwise, and the server's time.
    Http {
        /// Its address.
        url: String,
        /// The name that it has inside of a folder.
        name: String,
        /// What its digest must be.
        checksum: Option<String>,
        /// Whether it is an archive to be unpacked.
        unpack: Unpacked,
    },
    /// A repository.
    Git {
        /// Its address.
        url: String,
        /// The branch, tag or commit.
        reference: Option<String>,
        /// The folder in it.
        folder: Option<String>,
        /// Whether `.git` comes too.
        keep: Keep,
        /// What the commit must be.
        checksum: Option<String>,
    },
}

/// Whether a fetched archive is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unpacked {
    /// It is.
    Yes,
    /// It is copied as it is.
    No,
}

/// Whether `.git` comes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keep {
    /// It does.
    Yes,
    /// It does not.
    No,
}

impl From<Option<Unpack>> for Unpacked {
    fn from(flag: Option<Unpack>) -> Self {
        if flag == Some(Unpack::Yes) { Self::Yes } else { Self::No }
    }
}

impl From<GitDir> for Keep {
    fn from(flag: GitDir) -> Self {
        if flag == GitDir::Keep { Self::Yes } else { Self::No }
    }
}

/// What a step's cache key is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// What the step does, without the files that it is given.
    pub definition: Digest,
    /// The files that it is given, in order.
    pub inputs: Vec<Input>,
    /// Whether the outcome is independent of what is below.
    pub link: Link,
}

/// Files that a step is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// These, by their digest.
    Content(Digest),
    /// What a stage makes: its last key stands for it.
    Stage(usize),
    /// Something of the network, whose digest (or commit, digested) whoever fetches it knows.
    Remote(Remote),
}

impl Recipe {
    /// The key of the tree after the step. `inputs` are the digests of what [`Recipe::inputs`] names: for a stage its
    /// key's, or, once it is there, the digest of the copied files ([`super::copy::digest`]), which stays the same when
    /// a stage was built anew and gave the same.
    #[must_use]
    pub fn key(&self, parent: &CacheKey, inputs: &[Digest]) -> CacheKey {
        let mut canonical = Canonical::new("insula.build.step.v1");
        canonical.field("parent", parent.0.as_bytes());
        self.rest(canonical, inputs)
    }

    /// The key of the step's own layer, for COPY and ADD with `--link`: nothing below counts.
    #[must_use]
    pub fn layer_key(&self, inputs: &[Digest]) -> Option<CacheKey> {
        (self.link == Link::Yes).then(|| self.rest(Canonical::new("insula.build.layer.v1"), inputs))
    }

    fn rest(&self, mut canonical: Canonical, inputs: &[Digest]) -> CacheKey {
        canonical.field("definition", self.definition.as_bytes());
        for input in inputs {
            canonical.field("input", input.as_bytes());
        }
        CacheKey(canonical.finish())
    }
}

impl StagePlan {
    /// The key of what the stage begins with, unless that is another stage.
    #[must_use]
    pub fn base_key(&self) -> CacheKey {
        let mut canonical = Canonical::new("insula.build.base.v1");
        match &self.base_id {
            Some(id) => canonical.field("image", id.as_bytes()),
            None => canonical.field("scratch", b""),
        }
        canonical.field("platform", self.platform.to_string().as_bytes());
        CacheKey(canonical.finish())
    }
}

/// The keys of a plan, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// By stage and step; steps without a recipe have none.
    pub steps: BTreeMap<(usize, usize), CacheKey>,
    /// What each stage ends with.
    pub stages: BTreeMap<usize, CacheKey>,
    /// The keys of layers that are the same whatever is below them, by stage and step.
    pub layers: BTreeMap<(usize, usize), CacheKey>,
}

/// The files that a build is given.
pub struct Contexts<'a> {
    /// Those of the build context.
    pub main: &'a dyn Files,
    /// Those of [`super::NamedContext::Files`], by their names.
    pub named: BTreeMap<String, &'a dyn Files>,
}

impl Plan {
    /// Makes the plan of a build with one context.
    ///
    /// # Errors
    /// [`BuildError`]: the first thing that cannot be, with its place.
    pub fn new(
        file: &Dockerfile,
        graph: &Graph,
        options: &Options,
        images: &Images,
        context: &dyn Files,
    ) -> Result<Self, BuildError> {
        Self::with_contexts(file, graph, options, images, &Contexts { main: context, named: BTreeMap::new() })
    }

    /// Makes the plan.
    ///
    /// # Errors
    /// [`BuildError`]: the first thing that cannot be, with its place.
    pub fn with_contexts(
        file: &Dockerfile,
        graph: &Graph,
        options: &Options,
        images: &Images,
        contexts: &Contexts<'_>,
    ) -> Result<Self, BuildError> {
        let shared = Shared::new(file, graph, options, images, contexts);
        let mut stages = BTreeMap::new();
        let mut ends = BTreeMap::new();
        let mut warnings = Vec::new();
        let mut used: BTreeSet<String> =
            file.globals.iter().flat_map(|global| &global.names).map(|a| a.name.clone()).collect();
        for (index, node) in &graph.nodes {
            let mut stager = Stager::begin(&shared, node, &ends)?;
            for instruction in &node.instructions {
                stager.instruction(instruction)?;
            }
            let (stage, end) = stager.end();
            used.extend(end.arguments.iter().map(|(name, _)| name.clone()));
            warnings.extend(end.warnings.iter().cloned());
            stages.insert(*index, stage);
            ends.insert(*index, end);
        }
        for name in options.arguments.keys().filter(|name| !used.contains(*name) && !super::stage::is_predefined(name))
        {
            warnings.push(format!("the build argument \"{name}\" is used nowhere: no ARG has that name"));
        }
        Ok(Self { targets: vec![graph.target], stages, epoch: shared.epoch, warnings })
    }

    /// The image that the build makes, but for its layers; the first of several.
    #[must_use]
    pub fn image(&self) -> Option<&ImageSpec> {
        self.stages.get(self.targets.first()?).map(|stage| &stage.image)
    }

    /// What has to be fetched from the network before all keys are known.
    #[must_use]
    pub fn remotes(&self) -> BTreeSet<&Remote> {
        let steps = self.stages.values().flat_map(|stage| &stage.steps).filter_map(|step| step.recipe.as_ref());
        let inputs = steps.flat_map(|recipe| &recipe.inputs);
        inputs.filter_map(|input| if let Input::Remote(remote) = input { Some(remote) } else { None }).collect()
    }

    /// The keys of all steps, given the digests of what the network has; a step behind something unknown has none.
    ///
    /// If a target's last key is in the cache, nothing else has to be looked at.
    #[must_use]
    pub fn keys(&self, remotes: &BTreeMap<Remote, Digest>) -> Keys {
        let mut keys = Keys::default();
        for (index, stage) in &self.stages {
            let mut parent = match &stage.base {
                Base::Stage(base) => keys.stages.get(base).copied(),
                _ => Some(stage.base_key()),
            };
            for (number, step) in stage.steps.iter().enumerate() {
                let Some(recipe) = &step.recipe else { continue };
                let inputs: Option<Vec<Digest>> = recipe
                    .inputs
                    .iter()
                    .map(|input| match input {
                        Input::Content(digest) => Some(*digest),
                        Input::Stage(stage) => keys.stages.get(stage).map(|key| key.0),
                        Input::Remote(remote) => remotes.get(remote).copied(),
                    })
                    .collect();
                // what stages give counts by its contents there, which are not known yet
                let staged = recipe.inputs.iter().any(|input| matches!(input, Input::Stage(_)));
                let own = inputs.as_ref().filter(|_| !staged).and_then(|inputs| recipe.layer_key(inputs));
                keys.layers.extend(own.map(|own| ((*index, number), own)));
                parent = parent.zip(inputs).map(|(parent, inputs)| recipe.key(&parent, &inputs));
                if let Some(key) = parent {
                    keys.steps.insert((*index, number), key);
                }
            }
            if let Some(key) = parent {
                keys.stages.insert(*index, key);
            }
        }
        keys
    }
}
