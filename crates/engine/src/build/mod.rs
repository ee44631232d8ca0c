//! Builds: from a Dockerfile and its context to an image.
//!
//! ```text
//! BuildRequest -> context, base images -> image::build::Plan -> execute (stages side by side, steps by cache or by doing)
//!                                                                  run: a container of ours      copy, directory: place
//!                                        upper layers -> layers of the store -> image, names, events
//! ```
//!
//! What a step makes is a layer of the store before it has a record in the cache, and the image comes last, so that a
//! build that ends early, however it ends, leaves whole layers and nothing else.

mod agent;
mod cache;
mod commit;
mod exchange;
mod execute;
mod foreign;
mod mounts;
mod output;
mod place;
mod proofs;
mod provenance;
mod remote;
mod request;
mod review;
mod run;
mod scan;
mod source;
mod state;
pub(crate) mod tree;

pub use cache::{CACHE_BYTES, CacheEntry, CacheFilter, PrunedCache};
pub use output::Product;
use proofs::Proofs;
pub use provenance::{Detail, Provenance};
pub use request::{
    Annotation, Answer, Bases, Bearer, BuildContext, BuildEvent, BuildOutcome, BuildRequest, CachePlace, CacheSource,
    CacheSteps, CacheTarget, Entitlement, Respondent, Reuse, Squash, StageOutline, Supply,
};
pub use review::Review;
pub(crate) use state::Shared;

use crate::engine::{Engine, Inner, Naming, Proof, Pull, image_error};
use crate::error::{EngineError, ErrorClass, Result};
use crate::model::{ContainerId, DEFAULT_NETWORK, EventKind, NetworkMode};
use commit::{Committed, Made};
use execute::Build;
use image::build::{
    BaseImage, BuildError, Contexts, Files, Graph, ImageRequest, ImageSpec, Images, Options, Plan, Remote,
};
use image::dockerfile::Dockerfile;
use image::{Image, LayerId};
use oci::digest::Digest;
use oci::platform::Platform;
use provenance::Told;
use source::Source;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{mpsc, watch};

/// The most rounds of looking for images: triggers of images can ask for further images.
const ROUNDS: usize = 64;

impl Engine {
    /// Builds an image. What happens goes to `events`; `stop` becoming true ends the build early.
    ///
    /// # Errors
    /// [`ErrorClass::Invalid`] for what is wrong with the Dockerfile, with the place in it, and for a step whose program
    /// fails; [`ErrorClass::NotFound`] for a base image that is not there; [`ErrorClass::Unavailable`] once it was stopped.
    pub async fn build(
        &self,
        request: BuildRequest,
        events: mpsc::Sender<BuildEvent>,
        stop: watch::Receiver<bool>,
    ) -> Result<BuildOutcome> {
        let inner = Arc::clone(&self.inner);
        // its own task: whoever asks may go away, and what was begun is still cleared up
        let done = tokio::spawn(async move { build(&inner, request, events, stop).await }).await;
        let outcome = done.map_err(|error| EngineError::internal("the build was cut short", &error))??;
        let id = outcome.product.image.id.to_string();
        let words = BTreeMap::from([("name".into(), id.clone())]);
        self.inner.store_event(self.inner.events.event(EventKind::Image, "build", &id, words));
        Ok(outcome)
    }
}

/// What a build knows before it has a plan.
struct Prepared {
    plan: Plan,
    /// For what the plan's targets are.
    platforms: Vec<Platform>,
    /// The Dockerfile's name and text.
    file: (String, Vec<u8>),
    /// What base images are known by.
    known_by: BTreeMap<ImageRequest, Digest>,
    images: BTreeMap<ImageRequest, Vec<LayerId>>,
    /// The layers of those images stay.
    held: Vec<image::Held>,
    scanner: Option<scan::Scanner>,
    source: Source,
    named: BTreeMap<String, Source>,
}

async fn build(
    inner: &Arc<Inner>,
    mut request: BuildRequest,
    events: mpsc::Sender<BuildEvent>,
    stop: watch::Receiver<bool>,
) -> Result<BuildOutcome> {
    let given = std::mem::take(&mut request.proofs);
    let proofs = Proofs { given, respondent: request.respondent.clone() };
    let told = told(&request)?;
    let Prepared { plan, platforms, file, known_by, images, held, scanner, source, named } =
        prepare(inner, &mut request, &proofs, &events).await?;
    let told = told.map(|told| Told { file, images: known_by, ..told });
    let steps: usize = plan.stages.values().map(|stage| stage.steps.len() + 1).sum();
    let steps = steps + scanner.as_ref().map_or(0, |_| plan.targets.len());
    let _ = events.send(BuildEvent::Planned { steps, stages: outline(&plan) }).await;
    for warning in &plan.warnings {
        let _ = events.send(BuildEvent::Warning(warning.clone())).await;
    }
    let remotes = fetch(inner, &plan).await?;
    let targets = std::mem::take(&mut request.cache_to);
    let imported = match request.reuse {
        Reuse::Yes => exchange::import(inner, &request.cache_from, &proofs, &events).await,
        Reuse::No => exchange::Imported::default(),
    };
    let digests = remotes.iter().map(|(remote, fetched)| (remote.clone(), fetched.digest)).collect();
    let build = Arc::new(Build {
        inner: Arc::clone(inner),
        keys: plan.keys(&digests),
        stages: plan.stages.keys().map(|index| (*index, tokio::sync::OnceCell::new())).collect(),
        images,
        context: source.files(),
        named: named.iter().map(|(name, source)| (name.clone(), source.files())).collect(),
        remotes,
        reuse: request.reuse,
        fresh: fresh(&plan, &request.fresh),
        network: request.network.take().unwrap_or_else(|| default_network(inner)),
        resources: std::mem::take(&mut request.resources),
        cgroup_parent: request.cgroup_parent.take(),
        shm_bytes: request.shm_bytes,
        ulimits: std::mem::take(&mut request.ulimits),
        extra_hosts: std::mem::take(&mut request.extra_hosts),
        secrets: std::mem::take(&mut request.secrets),
        ssh: std::mem::take(&mut request.ssh),
        respondent: request.respondent.take(),
        allow: std::mem::take(&mut request.allow),
        events,
        stop,
        trees: std::sync::Mutex::default(),
        reused: AtomicUsize::new(0),
        imported,
        done: std::sync::Mutex::default(),
        plan,
        told,
        scanner,
    });
    let mut made = stages(&build, platforms).await?;
    build.scan(&mut made).await?;
    build.tell(BuildEvent::Making).await;
    let inline = targets.iter().any(|target| target.place == CachePlace::Image);
    let annotations = std::mem::take(&mut request.annotations);
    let form = commit::Form { squash: request.squash, names: request.names, annotations, inline };
    let Committed { image, family, intake, fresh } = commit::commit(&build, made, form).await?;
    for target in &targets {
        exchange::export(&build, target, &proofs).await?;
    }
    cache::bound(inner);
    drop(held);
    let product = Product { image, family, fresh, _held: Some(Arc::new(intake)) };
    Ok(BuildOutcome { product, reused: build.reused.load(Ordering::Relaxed) })
}

/// The stages that were asked for, with the platforms that they are for; all are built at the same time.
async fn stages(build: &Arc<Build>, platforms: Vec<Platform>) -> Result<Vec<Made>> {
    let targets = build.plan.targets.iter().copied();
    let running: Vec<_> = targets
        .clone()
        .map(|target| {
            let build = Arc::clone(build);
            tokio::spawn(async move { build.stage(target).await })
        })
        .collect();
    let mut made = Vec::new();
    let mut failed = None;
    for ((platform, target), running) in platforms.into_iter().zip(targets).zip(running) {
        let built = running.await.map_err(|error| EngineError::internal("a stage was cut short", &error))?;
        // nothing of the others may go on behind an answer
        match built {
            Ok(built) => made.push(Made { platform, target, built, predicates: Vec::new() }),
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    failed.map_or(Ok(made), Err)
}

/// What is to be told of where the images come from.
fn told(request: &BuildRequest) -> Result<Option<Told>> {
    let Some(asked) = request.provenance.clone() else { return Ok(None) };
    let id = ContainerId::random().map_err(|error| EngineError::internal("cannot make an id", &error))?;
    let address = match &request.context {
        BuildContext::Remote(address) => Some(address.clone()),
        _ => None,
    };
    Ok(Some(Told {
        asked,
        id: id.to_string(),
        began: execute::now(),
        file: (String::new(), Vec::new()),
        target: request.options.target.clone(),
        arguments: request.options.arguments.clone(),
        labels: request.options.labels.clone(),
        address,
        images: BTreeMap::new(),
    }))
}

/// What its readers see of a plan: steps that only change the configuration are not counted.
fn outline(plan: &Plan) -> Vec<StageOutline> {
    let mut first = 1;
    let several = plan.targets.len() > 1;
    let mut out = Vec::new();
    for (number, stage) in &plan.stages {
        let changing = stage.steps.iter().enumerate().filter(|(_, step)| step.recipe.is_some());
        let steps = std::iter::once(first).chain(changing.map(|(number, _)| first + 1 + number)).collect();
        let platform = several.then(|| stage.platform.clone());
        out.push(StageOutline { stage: *number, number: stage.index, name: stage.name.clone(), platform, steps });
        first += stage.steps.len() + 1;
    }
    out
}

/// The stages that are built anew: those that are named, and those that need one of them, since keys do not show that it has
/// changed.
fn default_network(inner: &Inner) -> NetworkMode {
    if inner.config.network.absent { NetworkMode::None } else { NetworkMode::Networks(DEFAULT_NETWORK.to_owned()) }
}

fn fresh(plan: &Plan, names: &BTreeSet<String>) -> BTreeSet<usize> {
    let mut out = BTreeSet::new();
    for (index, stage) in &plan.stages {
        let number = stage.index.to_string();
        let named = stage.name.as_ref().is_some_and(|name| names.contains(name)) || names.contains(&number);
        if named || stage.needs.iter().any(|need| out.contains(need)) {
            out.insert(*index);
        }
    }
    out
}

fn wrong(error: &BuildError) -> EngineError {
    EngineError::pointed(ErrorClass::Invalid, error)
}

async fn prepare(
    inner: &Arc<Inner>,
    request: &mut BuildRequest,
    proofs: &Proofs,
    events: &mpsc::Sender<BuildEvent>,
) -> Result<Prepared> {
    let mut source = source::open(inner, request).await?;
    let named = source::open_named(inner, request).await?;
    if source.text.is_empty() {
        return Err(EngineError::invalid(format!("the Dockerfile ({}) cannot be empty", source.name)));
    }
    let file =
        Dockerfile::parse(&source.name, &source.text).map_err(|e| EngineError::pointed(ErrorClass::Invalid, &e))?;
    let platforms = match request.platforms.is_empty() {
        true => vec![request.options.platform.clone()],
        false => std::mem::take(&mut request.platforms),
    };
    let options: Vec<Options> =
        platforms.iter().map(|platform| Options { platform: platform.clone(), ..request.options.clone() }).collect();
    let mut bases = Found::default();
    let mut graphs = Vec::new();
    for options in &options {
        graphs.push(bases.graph(inner, &file, options, (request.pull, proofs), events).await?);
    }
    remark(&file, &options[0], &bases.known, events).await?;
    let scanner = match request.sbom.take() {
        Some(name) => {
            let extras = scan::Extras::read(&file, &graphs[0], &request.options.arguments);
            Some(scanner(inner, name, extras, (request.pull, proofs), events).await?)
        }
        None => None,
    };
    let paths = match scanner.as_ref().is_some_and(|scanner| scanner.extras.has_context) {
        true => None,
        false => context_paths(&graphs),
    };
    source.complete(paths).await?;
    let Found { known, layers, held, known_by } = bases;
    let files = source.files();
    let others: Vec<_> = named.iter().map(|(name, source)| (name.clone(), source.files())).collect();
    let planned = tokio::task::spawn_blocking(move || {
        let one = |(graph, options): (&Graph, &Options)| {
            let named = others.iter().map(|(name, files)| (name.clone(), &**files as &dyn Files)).collect();
            Plan::with_contexts(&file, graph, options, &known, &Contexts { main: &*files, named })
        };
        let plans = graphs.iter().zip(&options).map(one).collect::<std::result::Result<Vec<Plan>, BuildError>>();
        plans.map(Plan::join)
    });
    let plan = planned.await.map_err(|error| EngineError::internal("planning was cut short", &error))?;
    let plan = plan.map_err(|error| wrong(&error))?;
    let plan = plan.ok_or_else(|| EngineError::invalid("there is no platform to build for"))?;
    let file = (source.name.clone(), source.text.clone());
    Ok(Prepared { plan, platforms, file, known_by, images: layers, held, scanner, source, named })
}

/// The paths of the context that some graph reads; `None` for any.
fn context_paths(graphs: &[Graph]) -> Option<BTreeSet<String>> {
    let paths: Option<Vec<_>> = graphs.iter().map(Graph::context_paths).collect();
    paths.map(|paths| paths.into_iter().flatten().collect())
}

/// Has a scanner's image here.
async fn scanner(
    inner: &Arc<Inner>,
    name: String,
    extras: scan::Extras,
    how: (Bases, &Proofs),
    events: &mpsc::Sender<BuildEvent>,
) -> Result<scan::Scanner> {
    let wanted = ImageRequest { name: name.clone(), platform: Platform::host() };
    let _ = events.send(BuildEvent::Looking(name.clone())).await;
    let image = base(inner, &wanted, how, events).await.map_err(|error| {
        let text = format!(
            "the scanner that lists an image's packages is not there; name one that is, as in generator=IMAGE: {error}"
        );
        EngineError::new(error.class(), text)
    })?;
    let _ = events.send(BuildEvent::Found(name.clone())).await;
    let (base, held) = describe(inner, &image)?;
    Ok(scan::Scanner { name, id: base.id, spec: base.spec, layers: image.layers, _held: held, extras })
}

/// Tells of what could be written better, which is an error where the file says so.
async fn remark(file: &Dockerfile, options: &Options, known: &Images, events: &mpsc::Sender<BuildEvent>) -> Result<()> {
    let checked = image::build::check(file, options, known, None).map_err(EngineError::invalid)?;
    let failure = checked.failure();
    for remark in checked.remarks {
        let _ = events.send(BuildEvent::Remark(remark)).await;
    }
    failure.map_or(Ok(()), |text| Err(EngineError::invalid(text)))
}

/// The images that stages begin with or copy from, as far as they were looked for.
#[derive(Default)]
struct Found {
    known: Images,
    layers: BTreeMap<ImageRequest, Vec<LayerId>>,
    held: Vec<image::Held>,
    known_by: BTreeMap<ImageRequest, Digest>,
}

impl Found {
    /// The stages that are needed, once all images are there that they ask for.
    async fn graph(
        &mut self,
        inner: &Arc<Inner>,
        file: &Dockerfile,
        options: &Options,
        how: (Bases, &Proofs),
        events: &mpsc::Sender<BuildEvent>,
    ) -> Result<Graph> {
        for _ in 0..ROUNDS {
            let found = Graph::resolve(file, options, &self.known).map_err(|error| wrong(&error))?;
            let missing = found.missing(&self.known);
            if missing.is_empty() {
                return Ok(found);
            }
            for wanted in missing {
                // one that was made for this build is nothing that somebody waits for
                let told = !is_id(&wanted);
                if told {
                    let _ = events.send(BuildEvent::Looking(wanted.name.clone())).await;
                }
                let image = base(inner, &wanted, how, events).await?;
                if told {
                    let _ = events.send(BuildEvent::Found(wanted.name.clone())).await;
                }
                let (base, hold) = describe(inner, &image)?;
                if told {
                    self.known_by.insert(wanted.clone(), provenance::known_by(&wanted.name, &image));
                }
                self.layers.insert(wanted.clone(), image.layers);
                self.held.push(hold);
                self.known.insert(wanted, base);
            }
        }
        Err(EngineError::invalid(format!("the triggers (ONBUILD) of base images ask for images {ROUNDS} times over")))
    }
}

fn describe(inner: &Inner, image: &Image) -> Result<(BaseImage, image::Held)> {
    let bytes = inner.images.config_bytes(&image.id).map_err(image_error)?;
    let spec = ImageSpec::from_json(&bytes).map_err(|error| {
        EngineError::because(ErrorClass::Invalid, format!("cannot build on the image {}", image.id), &error)
    })?;
    let hold = inner.images.hold(&image.layers);
    let hold = hold.ok_or_else(|| EngineError::conflict(format!("the image {} was removed meanwhile", image.id)))?;
    Ok((BaseImage { id: image.id.0, spec }, hold))
}

/// Whether an image is named by its id: no registry has one of that name.
fn is_id(wanted: &ImageRequest) -> bool {
    wanted.name.parse::<Digest>().is_ok()
}

/// The image that a stage begins with or copies from.
async fn base(
    inner: &Arc<Inner>,
    wanted: &ImageRequest,
    (pull, proofs): (Bases, &Proofs),
    events: &mpsc::Sender<BuildEvent>,
) -> Result<Image> {
    if pull == Bases::Missing || is_id(wanted) {
        match inner.images.on_platform(&wanted.name, &wanted.platform) {
            Ok(Some(image)) if image.is_for(&wanted.platform) => return Ok(image),
            Err(error) if error.kind() != image::ErrorKind::NotFound => return Err(image_error(error)),
            _ => {}
        }
    }
    if is_id(wanted) {
        return Err(EngineError::not_found(format!("no image {} for {} here", wanted.name, wanted.platform)));
    }
    let _ = events.send(BuildEvent::Fetching(wanted.name.clone())).await;
    let image = fetch_image(inner, wanted, proofs).await?;
    if image.is_for(&wanted.platform) {
        return Ok(image);
    }
    Err(EngineError::not_found(format!(
        "the image {} is for {}, and {} is wanted",
        wanted.name,
        image.platform(),
        wanted.platform
    )))
}

/// Has a base image fetched. One for another machine does not take the name away from this one's.
async fn fetch_image(inner: &Arc<Inner>, wanted: &ImageRequest, proofs: &Proofs) -> Result<Image> {
    let proof = match crate::engine::parse_reference(&wanted.name) {
        Ok(reference) => proofs.of(&reference).await,
        Err(_) => Proof::default(),
    };
    let naming = if wanted.platform.runs_on(&Platform::host()) { Naming::Take } else { Naming::Leave };
    let platform = Some(wanted.platform.clone());
    let pull = Pull { name: wanted.name.clone(), platform, proof, naming, ..Pull::default() };
    let engine = Engine { inner: Arc::clone(inner) };
    let (progress, mut steps) = mpsc::channel(64);
    let pulled = engine.pull_image(pull, progress);
    let shown = async { while steps.recv().await.is_some() {} };
    tokio::join!(pulled, shown).0.map_err(|error| {
        let name = &wanted.name;
        let platform = match naming {
            Naming::Take => String::new(),
            Naming::Leave => format!(" for {}", wanted.platform),
        };
        EngineError::new(error.class(), format!("no image {name:?}{platform} here, and it cannot be pulled: {error}"))
    })
}

async fn fetch(inner: &Arc<Inner>, plan: &Plan) -> Result<BTreeMap<Remote, remote::Fetched>> {
    let mut tasks = Vec::new();
    for wanted in plan.remotes() {
        let (inner, wanted) = (Arc::clone(inner), wanted.clone());
        tasks
            .push(tokio::task::spawn_blocking(move || remote::fetch(&inner, &wanted).map(|fetched| (wanted, fetched))));
    }
    let mut out = BTreeMap::new();
    for task in tasks {
        let (remote, fetched) =
            task.await.map_err(|error| EngineError::internal("fetching was cut short", &error))??;
        out.insert(remote, fetched);
    }
    Ok(out)
}
