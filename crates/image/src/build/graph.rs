//! Stages: what each begins with, which others it needs, and which of them a build needs at all.
//!
//! A stage uses earlier stages only, so the order of the file is an order to build in; stages that do not need each
//! other, directly or through others, can be built at the same time.

use std::collections::{BTreeMap, BTreeSet};

use oci::digest::Digest;
use oci::platform::Platform;
use oci::reference::Reference;

use super::config::ImageSpec;
use super::error::{BuildError, BuildFault};
use super::ignore::clean;
use crate::dockerfile::error::nearest;
use crate::dockerfile::{Dockerfile, Expander, Instruction, Kind, Mount, Pointed, Span, Stage, TransferSource};

/// What a build is told besides its Dockerfile and its context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Which stage is wanted; the last one if nothing was said.
    pub target: Option<String>,
    /// `--build-arg`.
    pub arguments: BTreeMap<String, String>,
    /// What the image is for.
    pub platform: Platform,
    /// What it is built on.
    pub build_platform: Platform,
    /// `--label`.
    pub labels: Vec<(String, String)>,
    /// The time that everything gets, in seconds since 1970; `SOURCE_DATE_EPOCH` among the arguments does the same.
    pub epoch: Option<i64>,
    /// `--build-context`: what stands for a name, be it that of a stage or of an image or a new one.
    pub contexts: BTreeMap<String, NamedContext>,
    /// What becomes of what RUN does in volumes.
    pub volumes: Volumes,
}

/// What becomes of what RUN does in a folder that VOLUME has named before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Volumes {
    /// It stays, as with BuildKit.
    #[default]
    Kept,
    /// It goes, as with Docker's classic builder.
    Reset,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// An image.
    Image(String),
    /// What other builds have made, one image a platform, each by its id; one alone is for all platforms.
    Built(Vec<ImageRequest>),
    /// Files, as those of the build context.
    Files,
}

/// What a name was found to stand for.
pub(super) enum Named<'a> {
    Image(ImageRequest),
    /// Files, by the name that they were given.
    Files(&'a str),
}

impl Options {
    /// What a name in FROM or `--from` stands for, where it is for this platform; nothing if it stands for itself.
    pub(super) fn named(&self, name: &str, platform: &Platform) -> Option<Named<'_>> {
        let full = |name: &str| name.parse::<Reference>().map(Reference::tagged).ok();
        let wanted = full(name);
        let same = |given: &str| given.eq_ignore_ascii_case(name) || (wanted.is_some() && full(given) == wanted);
        let (given, context) = self.contexts.iter().find(|(given, _)| same(given))?;
        match context {
            NamedContext::Files => Some(Named::Files(given)),
            NamedContext::Image(image) => {
                Some(Named::Image(ImageRequest { name: image.clone(), platform: platform.clone() }))
            }
            NamedContext::Built(images) => {
                let exact = images.iter().find(|image| image.platform == *platform);
                let fitting = || images.iter().find(|image| image.platform.runs_on(platform));
                let only = || images.first().filter(|_| images.len() == 1);
                exact.or_else(fitting).or_else(only).cloned().map(Named::Image)
            }
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            target: None,
            arguments: BTreeMap::new(),
            platform: Platform::host(),
            build_platform: Platform::host(),
            labels: Vec::new(),
            epoch: None,
            contexts: BTreeMap::new(),
            volumes: Volumes::default(),
        }
    }
}

/// An image that a build needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRequest {
    /// Its name as the file has it, variables replaced.
    pub name: String,
    /// For which platform.
    pub platform: Platform,
}

/// An image that whoever builds found for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseImage {
    /// The digest of its configuration: what cache keys know it by.
    pub id: Digest,
    /// What its configuration says.
    pub spec: ImageSpec,
}

/// The images that were found.
pub type Images = BTreeMap<ImageRequest, BaseImage>;

/// What a stage begins with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage, by its number.
    Stage(usize),
    /// An image.
    Image(ImageRequest),
}

/// Where COPY and mounts take files from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The build context.
    Context,
    /// Files that were given by a name.
    Named(String),
    /// An earlier stage, by its number.
    Stage(usize),
    /// An image.
    Image(ImageRequest),
}

impl Origin {
    /// Whether its files are there before the first step.
    #[must_use]
    pub fn is_given(&self) -> bool {
        matches!(self, Self::Context | Self::Named(_))
    }
}

/// A stage in the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its number in the file.
    pub index: usize,
    /// Its name.
    pub name: Option<String>,
    /// Where its FROM stands.
    pub span: Span,
    /// What it begins with.
    pub base: Base,
    /// For which platform it is built.
    pub platform: Platform,
    /// The stages that it needs, its base among them.
    pub needs: BTreeSet<usize>,
    /// Its instructions, the triggers of its base first.
    pub instructions: Vec<Instruction>,
    /// How many of them are triggers.
    pub triggers: usize,
    /// Where `--from` of COPY and mounts leads, by what stands there.
    pub(crate) origins: BTreeMap<String, Origin>,
}

/// The stages that a build needs.
#[derive(Debug, Clone)]
pub struct Graph {
    /// The wanted stage's number.
    pub target: usize,
    /// The needed stages by their number: each comes after those that it needs.
    pub nodes: BTreeMap<usize, Node>,
    /// The arguments of the whole file and the platform's variables.
    pub(crate) globals: BTreeMap<String, String>,
}

impl Graph {
    /// Finds out what is needed, as far as the images that are known let it. Triggers of base images can ask for further
    /// images: whoever builds calls this again with what [`Graph::missing`] names, until that is nothing.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn resolve(file: &Dockerfile, options: &Options, images: &Images) -> Result<Self, BuildError> {
        let globals = globals(file, options)?;
        let target = target(file, options)?;
        let mut nodes = BTreeMap::new();
        let mut wanted = vec![target];
        while let Some(index) = wanted.pop() {
            if nodes.contains_key(&index) {
                continue;
            }
            let node = node(file, options, &globals, images, index)?;
            wanted.extend(node.needs.iter().copied());
            nodes.insert(index, node);
        }
        Ok(Self { target, nodes, globals })
    }

    /// The images that the needed stages ask for.
    #[must_use]
    pub fn images(&self) -> BTreeSet<ImageRequest> {
        let mut out = BTreeSet::new();
        for node in self.nodes.values() {
            if let Base::Image(request) = &node.base {
                out.insert(request.clone());
            }
            out.extend(node.origins.values().filter_map(|origin| match origin {
                Origin::Image(request) => Some(request.clone()),
                _ => None,
            }));
        }
        out
    }

    /// Those of them that are not known.
    #[must_use]
    pub fn missing(&self, images: &Images) -> Vec<ImageRequest> {
        self.images().into_iter().filter(|request| !images.contains_key(request)).collect()
    }

    /// The paths of the build context that the needed stages read, as patterns where the file has patterns; `None` if it can
    /// be any of them.
    #[must_use]
    pub fn context_paths(&self) -> Option<BTreeSet<String>> {
        let mut out = BTreeSet::new();
        for instruction in self.nodes.values().flat_map(|node| &node.instructions) {
            for source in context_sources(&instruction.kind) {
                // variables and patterns of our own are for the plan to resolve
                let path = clean(source.trim_start_matches('/'));
                if path.is_empty()
                    || path == "."
                    || path.starts_with("..")
                    || path.contains(['$', '\\'])
                    || path.contains("**")
                {
                    return None;
                }
                out.insert(path);
            }
        }
        Some(out)
    }

    /// Rounds of stages: those of one round need nothing but earlier rounds, and can be built at the same time.
    #[must_use]
    pub fn rounds(&self) -> Vec<Vec<usize>> {
        let mut level: BTreeMap<usize, usize> = BTreeMap::new();
        let mut out: Vec<Vec<usize>> = Vec::new();
        for (index, node) in &self.nodes {
            let round = node.needs.iter().map(|need| level.get(need).map_or(0, |level| level + 1)).max().unwrap_or(0);
            level.insert(*index, round);
            out.resize_with(out.len().max(round + 1), Vec::new);
            out[round].push(*index);
        }
        out
    }
}

pub(crate) fn error(file: &Dockerfile, span: Span, fault: impl Into<BuildFault>) -> BuildError {
    Pointed { place: Box::new(file.place(span)), fault: Box::new(fault.into()), hint: None }
}

/// An error about one word of an instruction.
pub(crate) fn error_at(file: &Dockerfile, span: Span, word: &str, fault: impl Into<BuildFault>) -> BuildError {
    Pointed { place: Box::new(file.place_of(span, word)), fault: Box::new(fault.into()), hint: None }
}

/// The arguments of the whole file and the platform's variables.
pub(super) fn globals(file: &Dockerfile, options: &Options) -> Result<BTreeMap<String, String>, BuildError> {
    let mut out = BTreeMap::new();
    for (prefix, platform) in [("BUILD", &options.build_platform), ("TARGET", &options.platform)] {
        out.insert(format!("{prefix}PLATFORM"), platform.to_string());
        out.insert(format!("{prefix}OS"), platform.os.clone());
        out.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        // as the platform is written: that of arm64 is not
        let written = platform.to_string();
        out.insert(format!("{prefix}VARIANT"), written.split('/').nth(2).unwrap_or_default().to_owned());
    }
    out.insert("TARGETSTAGE".to_owned(), options.target.clone().unwrap_or_else(|| "default".to_owned()));
    for name in out.clone().keys() {
        if let Some(value) = options.arguments.get(name) {
            out.insert(name.clone(), value.clone());
        }
    }
    for global in &file.globals {
        for argument in &global.names {
            let value = match (options.arguments.get(&argument.name), &argument.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(expand(file, global.span, &out, default)?),
                (None, None) => None,
            };
            if let Some(value) = value {
                out.insert(argument.name.clone(), value);
            }
        }
    }
    Ok(out)
}

fn expand(file: &Dockerfile, span: Span, values: &BTreeMap<String, String>, word: &str) -> Result<String, BuildError> {
    Expander::new(values, file.directives.escape)
        .word(word)
        .map_err(|source| error_at(file, span, word, BuildFault::Expand { word: word.to_owned(), source }))
}

fn target(file: &Dockerfile, options: &Options) -> Result<usize, BuildError> {
    let last = file.stages.len() - 1;
    let Some(wanted) = &options.target else { return Ok(last) };
    let lower = wanted.to_ascii_lowercase();
    if let Some(index) = file.stages.iter().rposition(|stage| stage.name.as_ref() == Some(&lower)) {
        return Ok(index);
    }
    let span = file.stages[last].span;
    if let Ok(number) = wanted.parse::<usize>() {
        if number <= last {
            return Ok(number);
        }
        return Err(error(file, span, BuildFault::StageNumber { number, count: last + 1 }));
    }
    let mut wrong = error(file, span, BuildFault::Target { target: wanted.clone() });
    let names: Vec<&str> = file.stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
    wrong.hint = match nearest(wanted, names.iter().copied()) {
        Some(name) => Some(format!("did you mean \"{name}\"?")),
        None if names.is_empty() => Some("name a stage with FROM IMAGE AS NAME".to_owned()),
        None => Some(format!("the file has: {}", names.join(" "))),
    };
    Err(wrong)
}

fn node(
    file: &Dockerfile,
    options: &Options,
    globals: &BTreeMap<String, String>,
    images: &Images,
    index: usize,
) -> Result<Node, BuildError> {
    let stage = &file.stages[index];
    let fail = |fault| error(file, stage.span, fault);
    let mut platform = options.platform.clone();
    if let Some(text) = &stage.platform {
        let text = expand(file, stage.span, globals, text)?;
        platform = text.parse().map_err(|source| fail(BuildFault::Platform { platform: text, source }))?;
    }
    let name = expand(file, stage.span, globals, &stage.base)?;
    let lower = name.to_ascii_lowercase();
    let earlier = file.stages[..index].iter().rposition(|stage| stage.name.as_ref() == Some(&lower));
    let mut copied = None;
    let base = match (options.named(&name, &platform), earlier) {
        (Some(Named::Image(image)), _) => Base::Image(image),
        (Some(Named::Files(given)), _) => {
            copied = Some(given.to_owned());
            Base::Scratch
        }
        (None, Some(earlier)) => Base::Stage(earlier),
        (None, None) if name.is_empty() => return Err(fail(BuildFault::EmptyBase { base: stage.base.clone() })),
        (None, None) if name == "scratch" => Base::Scratch,
        (None, None) => {
            name.parse::<Reference>().map_err(|source| fail(BuildFault::ImageName { name: name.clone(), source }))?;
            Base::Image(ImageRequest { name, platform: platform.clone() })
        }
    };
    let mut node = Node {
        index,
        name: stage.name.clone(),
        span: stage.span,
        platform,
        needs: BTreeSet::new(),
        instructions: Vec::new(),
        triggers: 0,
        origins: BTreeMap::new(),
        base,
    };
    if let Base::Stage(earlier) = node.base {
        node.needs.insert(earlier);
    }
    for trigger in triggers(file, &node.base, images) {
        let instruction = Dockerfile::parse_trigger(trigger).map_err(|source| {
            let image = if let Base::Image(request) = &node.base { &request.name } else { &stage.base };
            let (image, trigger) = (image.clone(), trigger.to_owned());
            fail(BuildFault::Trigger { image, trigger, source: Box::new(source) })
        })?;
        node.instructions.push(Instruction { span: stage.span, ..instruction });
    }
    node.triggers = node.instructions.len();
    if let Some(given) = copied {
        let text = format!("COPY --from={given} / /");
        let instruction = Dockerfile::parse_trigger(&text)
            .map_err(|_| fail(BuildFault::Value { what: "name of a context", value: given.clone() }))?;
        node.instructions.push(Instruction { span: stage.span, ..instruction });
    }
    node.instructions.extend(stage.instructions.iter().cloned());
    for instruction in &node.instructions {
        for name in from_names(&instruction.kind) {
            let origin = origin(file, options, index, name).map_err(|fault| {
                let mut wrong = error_at(file, instruction.span, name, fault);
                if matches!(*wrong.fault, BuildFault::VariableInFrom { .. }) {
                    wrong.hint = Some(format!("give the image a stage of its own above: FROM {name} AS NAME"));
                }
                wrong
            })?;
            if let Origin::Stage(needed) = origin {
                node.needs.insert(needed);
            }
            node.origins.insert(name.to_owned(), origin);
        }
    }
    Ok(node)
}

/// What a stage's base keeps for those that begin with it.
fn triggers<'t>(file: &'t Dockerfile, base: &Base, images: &'t Images) -> Vec<&'t str> {
    let kept = |instruction: &'t Instruction| match &instruction.kind {
        Kind::OnBuild(trigger) => Some(trigger.as_str()),
        _ => None,
    };
    match base {
        Base::Stage(earlier) => file.stages[*earlier].instructions.iter().filter_map(kept).collect(),
        Base::Image(request) => {
            let image = images.get(request).into_iter();
            image.flat_map(|image| &image.spec.config.on_build).map(String::as_str).collect()
        }
        Base::Scratch => Vec::new(),
    }
}

/// What an instruction reads of the build context.
fn context_sources(kind: &Kind) -> Vec<&str> {
    match kind {
        Kind::Copy(transfer) | Kind::Add(transfer) if transfer.from.is_none() => transfer
            .sources
            .iter()
            .filter_map(|source| match source {
                TransferSource::Path(path) if super::archive::remote(path).is_none() => Some(path.as_str()),
                _ => None,
            })
            .collect(),
        Kind::Run(run) => run
            .mounts
            .iter()
            .filter_map(|mount| match mount {
                Mount::Bind { from: None, source, .. } => Some(source.as_str()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// What an instruction names with `from`.
fn from_names(kind: &Kind) -> Vec<&str> {
    match kind {
        Kind::Copy(copy) => copy.from.as_deref().into_iter().collect(),
        Kind::Run(run) => run
            .mounts
            .iter()
            .filter_map(|mount| match mount {
                Mount::Bind { from, .. } | Mount::Cache { from, .. } => from.as_deref(),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn origin(file: &Dockerfile, options: &Options, index: usize, name: &str) -> Result<Origin, BuildFault> {
    if name.contains('$') {
        return Err(BuildFault::VariableInFrom { name: name.to_owned() });
    }
    match options.named(name, &options.platform) {
        Some(Named::Files(given)) => return Ok(Origin::Named(given.to_owned())),
        Some(Named::Image(image)) => return Ok(Origin::Image(image)),
        None => {}
    }
    let found = match name.parse::<usize>() {
        Ok(number) if number >= file.stages.len() => {
            return Err(BuildFault::StageNumber { number, count: file.stages.len() });
        }
        Ok(number) => Some(number),
        Err(_) => {
            let lower = name.to_ascii_lowercase();
            let named = |stage: &Stage| stage.name.as_ref() == Some(&lower);
            let earlier = file.stages[..index].iter().rposition(named);
            earlier.or_else(|| file.stages[index..].iter().position(named).map(|after| index + after))
        }
    };
    match found {
        Some(stage) if stage == index => Err(BuildFault::Cycle { stage: name.to_owned() }),
        Some(stage) if stage > index => Err(BuildFault::Forward { stage: name.to_owned() }),
        Some(stage) => Ok(Origin::Stage(stage)),
        None => {
            name.parse::<Reference>().map_err(|source| BuildFault::ImageName { name: name.to_owned(), source })?;
            Ok(Origin::Image(ImageRequest { name: name.to_owned(), platform: options.platform.clone() }))
        }
    }
}
