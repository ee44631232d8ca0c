//! Walking over the plan: stages as they are needed, side by side, each step from the cache or carried out.
//!
//! A step is looked up by the key that the plan gives it, and, once the stages that it copies from are there, by the
//! key of what it would really copy: a stage that was built anew and gave the same files costs those after it nothing.

use super::exchange::{DoneStep, Imported};
use super::place::Placer;
use super::provenance::Told;
use super::remote::Fetched;
use super::request::{BuildEvent, Entitlement, Respondent, Reuse};
use super::run::At;
use super::scan::Scanner;
use super::tree::{Tree, Upper};
use crate::engine::{Inner, image_error};
use crate::error::{EngineError, ErrorClass, Mark, Result};
use crate::model::{ContainerId, NetworkMode, Resources, Ulimit};
use image::build::copy::{self, Destination, Existing, Resolved, Shape};
use image::build::{
    AccountFiles, Action, Base, CacheKey, CopySource, CopyStep, FileKind, Files, ImageRequest, Input, Keys, Origin,
    Plan, Remote, Step,
};
use image::dockerfile::{Link, Pointed};
use image::export::Times;
use image::{CacheRecord, Held, LayerId};
use oci::digest::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OnceCell, mpsc, watch};

/// Files that several steps read.
pub(super) type SharedFiles = Arc<dyn Files + Send + Sync>;

/// A build that has its plan.
pub(super) struct Build {
    pub(super) inner: Arc<Inner>,
    pub(super) plan: Plan,
    /// What is attested of it.
    pub(super) told: Option<Told>,
    /// Who lists what is in it.
    pub(super) scanner: Option<Scanner>,
    pub(super) keys: Keys,
    /// The layers of the images that stages begin with or copy from.
    pub(super) images: BTreeMap<ImageRequest, Vec<LayerId>>,
    pub(super) context: SharedFiles,
    /// The contexts that have names.
    pub(super) named: BTreeMap<String, SharedFiles>,
    pub(super) remotes: BTreeMap<Remote, Fetched>,
    pub(super) reuse: Reuse,
    /// Stages whose steps are done again in any case.
    pub(super) fresh: BTreeSet<usize>,
    pub(super) network: NetworkMode,
    pub(super) resources: Resources,
    pub(super) cgroup_parent: Option<String>,
    pub(super) shm_bytes: Option<u64>,
    pub(super) ulimits: Vec<Ulimit>,
    pub(super) extra_hosts: Vec<String>,
    pub(super) secrets: BTreeMap<String, Vec<u8>>,
    pub(super) ssh: BTreeMap<String, PathBuf>,
    /// Who knows what is not in here.
    pub(super) respondent: Option<Arc<dyn Respondent>>,
    pub(super) allow: BTreeSet<Entitlement>,
    pub(super) events: mpsc::Sender<BuildEvent>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) stages: BTreeMap<usize, OnceCell<std::result::Result<Arc<Built>, Failure>>>,
    pub(super) trees: Mutex<BTreeMap<Origin, SharedFiles>>,
    pub(super) reused: AtomicUsize,
    /// What other stores have.
    pub(super) imported: Imported,
    /// Every step that is there, for other stores.
    pub(super) done: Mutex<Vec<DoneStep>>,
}

/// A stage that is there.
#[derive(Debug)]
pub(super) struct Built {
    /// Its layers, those of its base among them.
    pub(super) layers: Vec<LayerId>,
    /// When the layers above the image that it began with were made, as RFC 3339.
    pub(super) times: Vec<String>,
    /// What its files are known by.
    pub(super) content: CacheKey,
    /// Keeps the layers.
    _held: Held,
}

/// Why a stage is not there; everybody who waits for it is told.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    class: ErrorClass,
    message: String,
    mark: Option<Box<Mark>>,
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self { class: error.class(), message: error.to_string(), mark: error.mark().cloned().map(Box::new) }
    }
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> Self {
        Self::new(failure.class, failure.message).marked(failure.mark)
    }
}

/// A step that went wrong, for a message with its place.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct StepFault(String);

pub(super) fn interrupted() -> EngineError {
    EngineError::new(
        ErrorClass::Unavailable,
        "the build was interrupted; the steps that were done are kept in the cache",
    )
}

/// The present moment as images have it.
pub(super) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// A stage while it is built.
struct Progress {
    layers: Vec<LayerId>,
    times: Vec<String>,
    content: CacheKey,
    holds: Vec<Held>,
}

/// What a step is given, as far as it had to be found out.
#[derive(Default)]
struct Inputs {
    digests: Vec<Digest>,
    /// What the sources of a copy from a stage or image mean, in order.
    resolved: Vec<Vec<Resolved>>,
}

impl Build {
    pub(super) async fn tell(&self, event: BuildEvent) {
        // whoever asked may have gone; then the build is stopped by other means
        let _ = self.events.send(event).await;
    }

    /// Whether a stage's steps may be taken from earlier builds.
    fn reuse_of(&self, stage: usize) -> Reuse {
        if self.fresh.contains(&stage) { Reuse::No } else { self.reuse }
    }

    /// The control group of a step's container.
    pub(super) fn cgroup(&self, id: &ContainerId) -> String {
        match &self.cgroup_parent {
            Some(parent) => crate::config::below(parent, id),
            None => self.inner.config.cgroup(id),
        }
    }

    /// A secret: given with the build, or asked for now.
    pub(super) async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>> {
        match (self.secrets.get(id), &self.respondent) {
            (None, Some(respondent)) => respondent.secret(id).await,
            (known, _) => Ok(known.cloned()),
        }
    }

    /// The socket of an SSH agent: given with the build, or asked for now.
    pub(super) async fn agent(&self, id: &str) -> Result<Option<PathBuf>> {
        match (self.ssh.get(id), &self.respondent) {
            (None, Some(respondent)) => respondent.agent(id).await,
            (known, _) => Ok(known.cloned()),
        }
    }

    /// The number of a stage's FROM among all steps.
    fn first_step(&self, stage: usize) -> usize {
        1 + self.plan.stages.range(..stage).map(|(_, stage)| stage.steps.len() + 1).sum::<usize>()
    }

    /// A stage, built if need be; whoever comes later waits for whoever came first.
    pub(super) fn stage(
        self: &Arc<Self>,
        index: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Arc<Built>>> + Send + '_>> {
        Box::pin(async move {
            let Some(cell) = self.stages.get(&index) else {
                return Err(EngineError::new(ErrorClass::Internal, format!("stage {index} is not in the plan")));
            };
            let built = cell.get_or_init(|| async {
                // a task of its own: its work is never left half done by whoever no longer waits
                let this = Arc::clone(self);
                let built = tokio::spawn(async move { this.build_stage(index).await }).await;
                let built = built.unwrap_or_else(|error| Err(EngineError::internal("a stage was cut short", &error)));
                built.map(Arc::new).map_err(Failure::from)
            });
            built.await.clone().map_err(EngineError::from)
        })
    }

    async fn build_stage(self: Arc<Self>, index: usize) -> Result<Built> {
        let stage = &self.plan.stages[&index];
        let first = self.first_step(index);
        let mut progress = match &stage.base {
            Base::Scratch => self.begin(&[], Vec::new(), stage.base_key())?,
            Base::Image(request) => self.begin(&self.images[request], Vec::new(), stage.base_key())?,
            Base::Stage(base) => {
                let base = self.stage(*base).await?;
                self.begin(&base.layers, base.times.clone(), base.content)?
            }
        };
        let base = match &stage.base {
            Base::Scratch => "scratch".to_owned(),
            Base::Image(request) => request.name.clone(),
            Base::Stage(base) => self.plan.stages[base].name.clone().unwrap_or_else(|| base.to_string()),
        };
        let name = stage.name.as_ref().map(|name| format!(" AS {name}")).unwrap_or_default();
        self.tell(BuildEvent::Begun { stage: index, step: first, text: format!("FROM {base}{name}") }).await;
        self.tell(BuildEvent::Done { stage: index, step: first, made: progress.content.0.short() }).await;
        let mut asked_ahead = false;
        for (number, step) in stage.steps.iter().enumerate() {
            if *self.stop.borrow() {
                return Err(interrupted());
            }
            let at = At { stage: index, step: first + 1 + number };
            self.tell(BuildEvent::Begun { stage: index, step: at.step, text: step.text.clone() }).await;
            if step.recipe.is_some() && !self.by_plan(&mut progress, (index, number), at).await {
                if !asked_ahead {
                    asked_ahead = true;
                    self.ask_ahead(index);
                }
                self.others(step).await?;
                if let Err(error) = self.step(&mut progress, step, (index, number), at).await {
                    self.tell(BuildEvent::Failed { stage: index, step: at.step, error: brief(&error) }).await;
                    return Err(pointed(step, error));
                }
            }
            self.tell(BuildEvent::Done { stage: index, step: at.step, made: progress.content.0.short() }).await;
        }
        self.tell(BuildEvent::StageDone { stage: index }).await;
        let Progress { layers, times, content, holds } = progress;
        let held = self.hold(&layers)?;
        drop(holds);
        Ok(Built { layers, times, content, _held: held })
    }

    fn hold(&self, layers: &[LayerId]) -> Result<Held> {
        let gone = || EngineError::conflict("a layer that the build needs was removed meanwhile; build again");
        self.inner.images.hold(layers).ok_or_else(gone)
    }

    fn begin(&self, layers: &[LayerId], times: Vec<String>, content: CacheKey) -> Result<Progress> {
        Ok(Progress { layers: layers.to_vec(), times, content, holds: vec![self.hold(layers)?] })
    }

    /// The stages that the rest of a stage needs are begun, all at the same time.
    fn ask_ahead(self: &Arc<Self>, index: usize) {
        for need in self.plan.stages[&index].needs.clone() {
            let this = Arc::clone(self);
            tokio::spawn(async move {
                let _ = this.stage(need).await;
            });
        }
    }

    async fn by_plan(self: &Arc<Self>, progress: &mut Progress, place: (usize, usize), at: At) -> bool {
        match self.keys.steps.get(&place) {
            Some(key) => self.by_key(progress, key, place, at).await,
            None => false,
        }
    }

    /// Takes what the cache has.
    async fn by_key(self: &Arc<Self>, progress: &mut Progress, key: &CacheKey, place: (usize, usize), at: At) -> bool {
        if self.reuse_of(at.stage) == Reuse::No {
            return false;
        }
        let known = match self.inner.images.cached(key) {
            Some(known) => Some(known),
            None => self.imported.take(self, key).await,
        };
        let Some((record, held)) = known else { return false };
        let Some(layer) = record.layer else { return false };
        self.note_step(place, &record);
        progress.layers.push(layer);
        progress.times.push(record.created);
        progress.content = CacheKey(record.content);
        progress.holds.push(held);
        self.reused.fetch_add(1, Ordering::Relaxed);
        self.tell(BuildEvent::Cached { stage: at.stage, step: at.step }).await;
        true
    }

    async fn step(self: &Arc<Self>, progress: &mut Progress, step: &Step, place: (usize, usize), at: At) -> Result<()> {
        let Some(recipe) = &step.recipe else { return Ok(()) };
        let inputs = self.inputs(step).await?;
        let content = recipe.key(&progress.content, &inputs.digests);
        let planned = self.keys.steps.get(&place).copied();
        if self.by_key(progress, &content, place, at).await {
            return self.alias(&content, planned);
        }
        let own = recipe.layer_key(&inputs.digests);
        let (held, created) = match self.by_own_key(own, at.stage).await {
            Some((CacheRecord { layer: Some(_), created, .. }, held)) => (held, created),
            _ => (self.carry_out(progress, step, inputs, at).await?, self.created()),
        };
        let Some(layer) = held.layers().first().copied() else {
            return Err(EngineError::new(ErrorClass::Internal, "a step made no layer"));
        };
        let record = CacheRecord {
            layer: Some(layer),
            created: created.clone(),
            content: content.0,
            text: step.text.clone(),
            size: self.inner.images.layer_bytes(&layer),
        };
        for key in [Some(content), planned, own].into_iter().flatten() {
            self.inner.images.remember(&key, record.clone()).map_err(image_error)?;
        }
        self.note_step(place, &record);
        progress.layers.push(layer);
        progress.times.push(created);
        progress.content = content;
        progress.holds.push(held);
        Ok(())
    }

    /// Writes down a step under the keys that it has in any case, however it was found this time: the same build gives the
    /// same cache.
    fn note_step(&self, place: (usize, usize), record: &CacheRecord) {
        let known = [&self.keys.steps, &self.keys.layers].into_iter().filter_map(|keys| keys.get(&place).copied());
        let keys: Vec<CacheKey> = known.chain([CacheKey(record.content)]).collect();
        self.note(place.0, &keys, record);
    }

    /// Writes down what is there now, for caches elsewhere.
    pub(super) fn note(&self, stage: usize, keys: &[CacheKey], record: &CacheRecord) {
        let step = DoneStep { stage, keys: keys.iter().map(|key| key.0).collect(), record: record.clone() };
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    /// A layer that is the same whatever is below it.
    async fn by_own_key(self: &Arc<Self>, own: Option<CacheKey>, stage: usize) -> Option<(CacheRecord, Held)> {
        let own = own.filter(|_| self.reuse_of(stage) == Reuse::Yes)?;
        match self.inner.images.cached(&own) {
            Some(known) => Some(known),
            None => self.imported.take(self, &own).await,
        }
    }

    /// The next build need not look so far.
    fn alias(&self, content: &CacheKey, planned: Option<CacheKey>) -> Result<()> {
        if let (Some(planned), Some((record, _))) = (planned, self.inner.images.cached(content)) {
            self.inner.images.remember(&planned, record).map_err(image_error)?;
        }
        Ok(())
    }

    fn created(&self) -> String {
        let epoch = self.plan.epoch.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        epoch.map_or_else(now, |time| time.to_string())
    }

    /// The files of an origin; a stage is built for it.
    pub(super) fn files<'a>(
        &'a self,
        origin: &'a Origin,
    ) -> Pin<Box<dyn Future<Output = Result<SharedFiles>> + Send + 'a>> {
        Box::pin(async move {
            if let Some(known) = self.known_tree(origin) {
                return Ok(known);
            }
            let layers = match origin {
                Origin::Context => return Ok(Arc::clone(&self.context)),
                Origin::Named(name) => return Ok(Arc::clone(self.named.get(name).unwrap_or(&self.context))),
                Origin::Image(request) => self.images[request].clone(),
                // its step has waited for it
                Origin::Stage(index) => match self.stages.get(index).and_then(OnceCell::get) {
                    Some(Ok(built)) => built.layers.clone(),
                    _ => return Err(EngineError::new(ErrorClass::Internal, format!("stage {index} is not there"))),
                },
            };
            let inner = Arc::clone(&self.inner);
            let tree = tokio::task::spawn_blocking(move || Tree::open(&inner, &layers, "of the build")).await;
            let tree = tree.map_err(|error| EngineError::internal("opening a stage was cut short", &error))??;
            let files: SharedFiles = Arc::new(tree);
            let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(Arc::clone(trees.entry(origin.clone()).or_insert(files)))
        })
    }

    /// What the files of an image or a stage are known by.
    pub(super) fn identity(&self, origin: &Origin) -> Option<Digest> {
        match origin {
            Origin::Context | Origin::Named(_) => None,
            Origin::Image(request) => {
                let layers = self.images.get(request)?.iter().map(|layer| layer.0.to_string());
                Some(Digest::of(layers.collect::<String>().as_bytes()))
            }
            Origin::Stage(index) => match self.stages.get(index).and_then(OnceCell::get) {
                Some(Ok(built)) => Some(built.content.0),
                _ => None,
            },
        }
    }

    fn known_tree(&self, origin: &Origin) -> Option<SharedFiles> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner).get(origin).cloned()
    }

    /// Waits for the stages that a step reads. What goes wrong in them has its own place in the Dockerfile.
    async fn others(self: &Arc<Self>, step: &Step) -> Result<()> {
        let inputs = step.recipe.iter().flat_map(|recipe| &recipe.inputs);
        let stages = inputs.filter_map(|input| if let Input::Stage(stage) = input { Some(*stage) } else { None });
        for stage in stages.collect::<BTreeSet<usize>>() {
            self.stage(stage).await?;
        }
        Ok(())
    }

    async fn inputs(self: &Arc<Self>, step: &Step) -> Result<Inputs> {
        let mut out = Inputs::default();
        let Some(recipe) = &step.recipe else { return Ok(out) };
        if let Action::Copy(copy) = &step.action {
            out.resolved = self.resolve(copy).await?;
        }
        let mut resolved = out.resolved.iter();
        for input in &recipe.inputs {
            out.digests.push(match input {
                Input::Content(digest) => *digest,
                Input::Remote(remote) => self.remotes.get(remote).map(|fetched| fetched.digest).ok_or_else(|| {
                    EngineError::new(ErrorClass::Internal, "something of the network was not fetched")
                })?,
                Input::Stage(stage) => match (&step.action, resolved.next()) {
                    (Action::Copy(_), Some(found)) => copy::digest(found),
                    _ => self.stage(*stage).await?.content.0,
                },
            });
        }
        Ok(out)
    }

    /// What sources in a stage or an image mean.
    async fn resolve(&self, step: &CopyStep) -> Result<Vec<Vec<Resolved>>> {
        let selections: Vec<_> = step
            .sources
            .iter()
            .filter_map(|source| if let CopySource::Later(selection) = source { Some(selection.clone()) } else { None })
            .collect();
        if selections.is_empty() {
            return Ok(Vec::new());
        }
        let files = self.files(&step.origin).await?;
        let place = match &step.origin {
            Origin::Context => "the build context".to_owned(),
            Origin::Named(name) => format!("the context \"{name}\""),
            Origin::Stage(index) => format!("stage {index}"),
            Origin::Image(request) => format!("the image \"{}\"", request.name),
        };
        let found = tokio::task::spawn_blocking(move || {
            selections
                .iter()
                .map(|selection| copy::resolve(&*files, selection, &place))
                .collect::<std::result::Result<_, _>>()
        });
        let found: std::result::Result<_, copy::CopyError> =
            found.await.map_err(|error| EngineError::internal("looking for files was cut short", &error))?;
        found.map_err(|error| EngineError::because(ErrorClass::Invalid, "cannot copy", &error))
    }

    async fn carry_out(self: &Arc<Self>, progress: &Progress, step: &Step, inputs: Inputs, at: At) -> Result<Held> {
        let upper = Upper::new(&self.inner)?;
        match &step.action {
            Action::Configure => {}
            Action::Run(run) => {
                super::foreign::check(&self.plan.stages[&at.stage].platform)?;
                let ended = self.run(run, &progress.layers, &upper, at).await?;
                if ended.code != 0 {
                    return Err(failed_command(&run.argv, &ended));
                }
            }
            Action::Directory { path, user } => {
                let (this, layers, path, user) =
                    (Arc::clone(self), progress.layers.clone(), path.clone(), user.clone());
                return blocking(move || this.directory(&layers, upper, &path, &user)).await;
            }
            Action::Copy(copy) => {
                let from = self.files(&copy.origin).await?;
                let (this, layers, copy) = (Arc::clone(self), progress.layers.clone(), copy.clone());
                return blocking(move || this.copy(&layers, upper, &copy, &*from, inputs.resolved)).await;
            }
        }
        let this = Arc::clone(self);
        blocking(move || this.layer(upper)).await
    }

    /// The upper layer as a layer of the store.
    pub(super) fn layer(&self, upper: Upper) -> Result<Held> {
        let times = match self.plan.epoch.map(u64::try_from) {
            Some(Ok(epoch)) => Times::AtMost(epoch),
            _ => Times::Kept,
        };
        let layer = upper.layer()?;
        self.inner
            .images
            .add_diff(&[layer], None, times)
            .map_err(|error| EngineError::internal("cannot make a layer of what the step wrote", &error))
    }

    fn directory(&self, layers: &[LayerId], upper: Upper, path: &str, user: &str) -> Result<Held> {
        let below = self.inner.images.mount_ids(layers, "of the build").map_err(image_error)?;
        let user = crate::plan::user::resolve(user, &[], &crate::plan::user::Accounts::read(&below.fds));
        let root = upper.mount(&below)?;
        // the folder of a user that is not there is root's, as in Docker's builds
        let owner = user.map_or((0, 0), |user| (user.uid, user.gid));
        let mut placer = Placer::new(root.as_fd(), self.plan.epoch, owner);
        placer.folder(path.as_bytes())?;
        placer.finish()?;
        drop(root);
        self.layer(upper)
    }

    fn copy(
        &self,
        layers: &[LayerId],
        upper: Upper,
        step: &CopyStep,
        from: &dyn Files,
        later: Vec<Vec<Resolved>>,
    ) -> Result<Held> {
        let own = self.inner.images.mount_ids(layers, "of the build").map_err(image_error)?;
        let invalid = |error: &dyn std::error::Error| EngineError::because(ErrorClass::Invalid, "cannot copy", error);
        let owner = match &step.owner {
            None => None,
            Some(owner) => {
                let accounts = crate::plan::user::Accounts::read(&own.fds);
                let accounts = AccountFiles { passwd: accounts.passwd, group: accounts.group };
                Some(owner.resolve(&accounts).map_err(|error| invalid(&error))?)
            }
        };
        let below = match step.link {
            Link::No => own,
            Link::Yes => image::Layers { fds: Vec::new() },
        };
        let root = upper.mount(&below)?;
        let mut placer = Placer::new(root.as_fd(), self.plan.epoch, owner.unwrap_or((0, 0)));
        let mut later = later.into_iter();
        for source in &step.sources {
            match source {
                CopySource::Files(resolved) => self.put(&mut placer, step, resolved, from, owner)?,
                CopySource::Later(_) => {
                    for resolved in later.next().unwrap_or_default() {
                        self.put(&mut placer, step, &resolved, from, owner)?;
                    }
                }
                CopySource::Inline { name, contents, mode } => {
                    let (resolved, files) =
                        super::remote::inline(name.as_bytes(), contents.as_bytes(), *mode, self.plan.epoch);
                    self.put(&mut placer, step, &resolved, &files, owner)?;
                }
                CopySource::Remote(remote) => {
                    // what has a checksum is known without being fetched, until now
                    let own;
                    let fetched = match self.remotes.get(remote) {
                        Some(fetched) => fetched,
                        None => {
                            own = super::remote::fetch(&self.inner, remote)?;
                            &own
                        }
                    };
                    let (found, files) = fetched.resolve(remote, step)?;
                    for resolved in &found {
                        self.put(&mut placer, step, resolved, &*files, owner)?;
                    }
                }
            }
        }
        placer.finish()?;
        drop(root);
        self.layer(upper)
    }

    fn put(
        &self,
        placer: &mut Placer<'_>,
        step: &CopyStep,
        resolved: &Resolved,
        from: &dyn Files,
        owner: Option<(u32, u32)>,
    ) -> Result<()> {
        let existing = placer.existing(step.destination.path.as_bytes());
        if resolved.shape == Shape::Archive {
            return self.unpack(placer, &step.destination, resolved, from, owner);
        }
        placer.source(resolved, &step.destination.place(resolved, existing), from, owner)
    }

    /// What is in an archive, in place of the archive.
    fn unpack(
        &self,
        placer: &mut Placer<'_>,
        destination: &Destination,
        resolved: &Resolved,
        from: &dyn Files,
        owner: Option<(u32, u32)>,
    ) -> Result<()> {
        let Some(entry) = resolved.entries.iter().find(|entry| matches!(entry.file.kind, FileKind::Regular(_))) else {
            return Ok(());
        };
        let unreadable =
            |error: &dyn std::error::Error| EngineError::because(ErrorClass::Invalid, "cannot unpack", error);
        let contents = from.open(&entry.origin).map_err(|error| unreadable(&error))?;
        let found = super::remote::archive(&self.inner, contents)?;
        for resolved in &found.0 {
            placer.source(resolved, &destination.place(resolved, Existing::Folder), &found.1, owner)?;
        }
        Ok(())
    }
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| EngineError::internal("a step was cut short", &error))?
}

/// With the words of Docker's classic builder, and those of BuildKit for clients that show the output themselves.
pub(super) fn failed_command(argv: &[String], ended: &super::run::Ended) -> EngineError {
    let what = format!("process \"{}\" did not complete successfully: exit code: {}", argv.join(" "), ended.code);
    let mut text = format!("The command '{}' returned a non-zero code: {}", argv.join(" "), ended.code);
    let last = ended.last_output.trim_end();
    if !last.is_empty() {
        text.push_str("; the last output was:\n");
        last.lines().for_each(|line| text.push_str(&format!("  > {line}\n")));
    }
    EngineError::invalid(text.trim_end()).marked(Some(Box::new(Mark { what, ..Mark::default() })))
}

/// What is wrong, without what was told of before.
fn brief(error: &EngineError) -> String {
    error.mark().map_or_else(|| error.to_string(), |mark| mark.what.clone())
}

/// The error with the place of its instruction.
fn pointed(step: &Step, error: EngineError) -> EngineError {
    let fault = Box::new(StepFault(error.to_string()));
    let place = Box::new(step.place.clone());
    let whole = EngineError::pointed(error.class(), &Pointed { place: place.clone(), fault, hint: None });
    match error.mark() {
        Some(mark) => whole.marked(Some(Box::new(Mark { place: *place, what: mark.what.clone() }))),
        None => whole,
    }
}
