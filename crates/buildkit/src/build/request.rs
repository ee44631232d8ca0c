//! From a front end's options to a build of ours.

use super::caches::Caches;
use super::fault::SourceFile;
use super::job::Job;
use super::source::Opened;
use crate::rpc::Status;
use crate::wire::control::{Definition, Typed};
use engine::image::build::{ImageRequest, Options};
use engine::image::dockerfile::Dockerfile;
use engine::model::{NetworkMode, Ulimit};
use engine::{
    Annotation, Bases, Bearer, BuildContext, BuildRequest, Detail, Entitlement, Provenance, Respondent, Reuse,
};
use oci::platform::Platform;
use oci::reference::Reference;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The one front end that there is, and those that it stands for.
const FRONTEND: &str = "dockerfile.v0";
const SYNTAXES: [&str; 3] = ["docker/dockerfile", "docker.io/docker/dockerfile", "docker/dockerfile-upstream"];

/// The scanner of those that name none, as BuildKit has it.
const SCANNER: &str = "docker.io/docker/buildkit-syft-scanner:stable-1";

/// What a front end is asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    options: BTreeMap<String, String>,
    pub(super) cache_imports: Vec<Typed>,
    /// The context, where it came with the request.
    pub(super) context: Option<BuildContext>,
    /// What other solves have made, by the names that options have for it.
    pub(super) inputs: BTreeMap<String, ImageRequest>,
}

impl Asked {
    /// Takes the options of the Dockerfile's front end.
    ///
    /// # Errors
    /// For another front end, and for graphs of operations.
    pub(crate) fn new(
        frontend: &str,
        options: BTreeMap<String, String>,
        cache_imports: Vec<Typed>,
        graphs: bool,
    ) -> Result<Self, Status> {
        let unknown = |text: String| Status::told(text);
        if graphs {
            return Err(unknown("graphs of operations (LLB) are not built here; give a Dockerfile".to_owned()));
        }
        match (frontend, options.get("source")) {
            (FRONTEND, _) => {}
            ("gateway.v0", Some(source)) if is_dockerfile(source) => {}
            (other, source) => {
                let name = source.map_or(other, String::as_str);
                return Err(unknown(format!(
                    "there is no front end {name:?} here; Dockerfiles are built by {FRONTEND}"
                )));
            }
        }
        if let Some(what) = options.get("requestid").filter(|what| !super::question::is_known(what)) {
            return Err(unknown(format!("the front end's request {what:?} is not answered here; it builds")));
        }
        Ok(Self { options, cache_imports, context: None, inputs: BTreeMap::new() })
    }

    /// Takes results of other solves.
    ///
    /// # Errors
    /// For graphs that are more than one.
    pub(crate) fn with_inputs(self, graphs: &BTreeMap<String, Definition>) -> Result<Self, Status> {
        let read = |(name, graph): (&String, &Definition)| Ok((name.clone(), super::input::read(name, graph)?));
        Ok(Self { inputs: graphs.iter().map(read).collect::<Result<_, Status>>()?, ..self })
    }

    /// As [`Self::new`], with a context that is here already.
    pub(crate) fn with_context(
        options: BTreeMap<String, String>,
        context: Option<BuildContext>,
    ) -> Result<Self, Status> {
        Ok(Self { context, ..Self::new(FRONTEND, options, Vec::new(), false)? })
    }

    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn list(&self, name: &str) -> Vec<&str> {
        self.option(name).into_iter().flat_map(|list| list.split(',')).filter(|one| !one.is_empty()).collect()
    }

    /// What is to be told of the Dockerfile in place of a build.
    pub(crate) fn question(&self) -> Option<&str> {
        self.option("requestid")
    }

    /// What stands behind a prefix.
    pub(super) fn group<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (String, String)> + 'a {
        let pairs = self.options.iter();
        pairs.filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value.clone())))
    }
}

/// Whether a front end's image is the Dockerfile's.
fn is_dockerfile(image: &str) -> bool {
    let name = image.split(['@', ' ']).next().unwrap_or_default();
    let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
    SYNTAXES.contains(&name)
}

/// Makes the build.
pub(super) fn make(
    job: &Job,
    asked: Asked,
    opened: Opened,
    caches: Caches,
    respondent: Option<Arc<dyn Respondent>>,
) -> Result<(BuildRequest, SourceFile), Status> {
    let (provenance, sbom) = attested(&asked)?;
    let Opened { context, file, named, contexts } = opened;
    let name = asked.option("filename").unwrap_or("Dockerfile").to_owned();
    let file = file.unwrap_or(SourceFile { name: name.clone(), text: Vec::new() });
    syntax(&asked, &file)?;
    let mut request = BuildRequest {
        text: (!file.text.is_empty() || matches!(context, BuildContext::Supplied(_))).then(|| file.text.clone()),
        context,
        contexts,
        dockerfile: name,
        network: network(asked.option("force-network-mode")),
        shm_bytes: number(&asked, "shm-size")?.filter(|bytes| *bytes > 0),
        ulimits: asked.list("ulimit").into_iter().map(ulimit).collect::<Result<_, _>>()?,
        cgroup_parent: cgroup_parent(asked.option("cgroup-parent"))?,
        extra_hosts: asked.list("add-hosts").into_iter().map(host).collect::<Result<_, _>>()?,
        names: names(&job.exporters)?,
        annotations: annotations(&job.exporters)?,
        allow: job.entitlements.iter().filter_map(|name| Entitlement::find(name)).collect(),
        cache_from: caches.from,
        cache_to: caches.to,
        respondent,
        ..BuildRequest::default()
    };
    if asked.option("image-resolve-mode") == Some("pull") {
        request.pull = Bases::Always;
    }
    match asked.options.get("no-cache").map(String::as_str) {
        None => {}
        Some("") => request.reuse = Reuse::No,
        Some(stages) => request.fresh = stages.split(',').map(str::to_ascii_lowercase).collect(),
    }
    request.options = Options { contexts: named, ..options(&asked)? };
    let platforms = platforms(&asked)?;
    if platforms.len() > 1 {
        request.platforms = platforms;
    }
    (request.provenance, request.sbom) = (provenance, sbom);
    Ok((request, file))
}

/// What a build is told, for the first of its platforms.
pub(super) fn options(asked: &Asked) -> Result<Options, Status> {
    let mut options = Options {
        target: asked.option("target").map(str::to_owned),
        arguments: asked.group("build-arg:").collect(),
        labels: asked.group("label:").collect(),
        ..Options::default()
    };
    if let Some(first) = platforms(asked)?.into_iter().next() {
        options.platform = first;
    }
    Ok(options)
}

fn platforms(asked: &Asked) -> Result<Vec<Platform>, Status> {
    let parse = |one: &str| one.parse().map_err(|error| invalid(format!("platform {one:?}: {error}")));
    asked.list("platform").into_iter().map(parse).collect()
}

/// What is to be attested. What clients ask for of their own accord, which is told by `inline-only`, is left out: an image stays what
/// it is unless somebody wants more.
fn attested(asked: &Asked) -> Result<(Option<Provenance>, Option<String>), Status> {
    let (mut out, mut sbom) = (None, None);
    for (kind, value) in asked.group("attest:") {
        let words: BTreeMap<&str, &str> = value
            .split(',')
            .filter_map(|word| word.split_once('='))
            .map(|(name, value)| (name.trim(), value))
            .collect();
        if words.get("disabled").is_some_and(|value| *value == "true") {
            continue;
        }
        match kind.as_str() {
            "provenance" if words.get("inline-only").is_some_and(|value| *value == "true") => {}
            "provenance" => {
                let detail = match words.get("mode").copied() {
                    None | Some("min") => Detail::Least,
                    Some("max") => Detail::Most,
                    Some(other) => {
                        return Err(invalid(format!("no mode {other:?} of provenance; there are min and max")));
                    }
                };
                let builder = words.get("builder-id").copied().unwrap_or_default().to_owned();
                out = Some(Provenance { detail, builder, origin: asked.group("vcs:").collect() });
            }
            "sbom" => sbom = Some(words.get("generator").copied().unwrap_or(SCANNER).to_owned()),
            other => return Err(invalid(format!("no attestation {other:?}; there are provenance and sbom"))),
        }
    }
    Ok((out, sbom))
}

fn invalid(text: impl Into<String>) -> Status {
    Status::told(text)
}

/// The Dockerfile may name its front end: this one stands for Docker's own, and for no other.
fn syntax(asked: &Asked, file: &SourceFile) -> Result<(), Status> {
    let given = asked.option("build-arg:BUILDKIT_SYNTAX").map(str::to_owned);
    // what is wrong in the file is said by the build, with its place
    let written = || Dockerfile::parse(&file.name, &file.text).ok().and_then(|parsed| parsed.directives.syntax);
    match given.or_else(written) {
        Some(name) if !is_dockerfile(&name) => {
            let text = format!("there is no front end {name:?} here; a Dockerfile's syntax can be docker/dockerfile:1");
            Err(Status::told(text))
        }
        _ => Ok(()),
    }
}

fn number(asked: &Asked, name: &str) -> Result<Option<u64>, Status> {
    let parse = |text: &str| text.parse().map_err(|_| invalid(format!("{name} is no number: {text:?}")));
    asked.option(name).map(parse).transpose()
}

fn network(mode: Option<&str>) -> Option<NetworkMode> {
    match mode? {
        "default" | "sandbox" => None,
        "none" => Some(NetworkMode::None),
        "host" => Some(NetworkMode::Host),
        other => Some(match other.strip_prefix("container:") {
            Some(who) => NetworkMode::Container(who.to_owned()),
            None => NetworkMode::Networks(other.to_owned()),
        }),
    }
}

fn ulimit(text: &str) -> Result<Ulimit, Status> {
    Ulimit::read(text).ok_or_else(|| invalid(format!("invalid limit {text:?}: give it as name=soft:hard")))
}

fn host(text: &str) -> Result<String, Status> {
    let (name, address) = text.split_once('=').ok_or_else(|| invalid(format!("invalid host {text:?}")))?;
    Ok(format!("{name}:{address}"))
}

fn cgroup_parent(path: Option<&str>) -> Result<Option<String>, Status> {
    let Some(path) = path else { return Ok(None) };
    if path.split('/').any(|name| name == "..") {
        return Err(invalid(format!("invalid control group {path:?}")));
    }
    Ok(Some(format!("/{}", path.trim_matches('/'))))
}

/// What manifests and the index are to say: `annotation[-BEARER][[PLATFORM]].NAME`.
fn annotations(exporters: &[Typed]) -> Result<Vec<Annotation>, Status> {
    let mut out: Vec<Annotation> = Vec::new();
    for (key, value) in exporters.iter().flat_map(|one| &one.attrs) {
        let Some(rest) = key.strip_prefix("annotation") else { continue };
        let Some((left, name)) = after_bracket(rest) else { continue };
        let (bearer, platform) = left.split_once('[').unwrap_or((left, ""));
        let platform = platform.trim_end_matches(']');
        let unknown =
            || invalid(format!("no annotation {key:?}; there are those of manifest, index and manifest-descriptor"));
        let bearer = bearer.strip_prefix('-').unwrap_or("manifest");
        let bearer = Bearer::find(bearer).ok_or_else(unknown)?;
        let platform = (!platform.is_empty()).then(|| platform.parse()).transpose().map_err(|_| unknown())?;
        let one = Annotation { bearer, platform, name: name.to_owned(), value: value.clone() };
        if !out.contains(&one) {
            out.push(one);
        }
    }
    Ok(out)
}

/// The parts around the first dot, which a platform's may come before.
fn after_bracket(text: &str) -> Option<(&str, &str)> {
    let from = if text.starts_with('.') { 0 } else { text.find(']').map_or(0, |at| at + 1) };
    let dot = from + text.get(from..)?.find('.')?;
    Some((&text[..dot], &text[dot + 1..]))
}

/// The names that the image gets.
fn names(exporters: &[Typed]) -> Result<Vec<Reference>, Status> {
    let kept = exporters.iter().filter(|one| matches!(one.kind.as_str(), "moby" | "image"));
    let texts = kept.filter_map(|one| one.attrs.get("name")).flat_map(|names| names.split(','));
    let mut out: Vec<Reference> = Vec::new();
    for text in texts.filter(|text| !text.is_empty()) {
        let name = reference(text)?;
        if !out.contains(&name) {
            out.push(name);
        }
    }
    Ok(out)
}

pub(super) fn reference(text: &str) -> Result<Reference, Status> {
    let parsed = text.parse::<Reference>().map(Reference::tagged);
    parsed.map_err(|error| invalid(format!("invalid reference {text:?}: {error}")))
}
