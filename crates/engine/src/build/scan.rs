//! Lists of what is in an image (SBOM). A scanner makes them: an image of the user's choice, which is run beside the result and
//! sees its files. What it writes is kept as a layer, so that the same result is scanned once.
//!
//! # Source
//! BuildKit's documentation, attestations/sbom-protocol.md and sbom.md: the scanner's variables, that it writes in-toto statements,
//! and the arguments by which a Dockerfile has its context and its stages scanned.

use super::commit::Made;
use super::execute::Build;
use super::run::At;
use super::tree::{Tree, Upper};
use crate::engine::image_error;
use crate::error::{EngineError, ErrorClass, Result};
use image::build::{CacheKey, FileKind, Files, Graph, ImageSpec, Origin, RunMount, RunStep};
use image::dockerfile::{Access, Dockerfile, Kind, Mount, NetworkMode, SecurityMode};
use image::{CacheRecord, Held, LayerId};
use oci::digest::Digest;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

/// What is scanned is called after the last part of its path.
const RESULT: &str = "/run/src/core/sbom";
const EXTRAS: &str = "/run/src/extras";
const OUT: &str = "/run/out";
/// The arguments that ask for more than the result.
const SCAN_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
const SCAN_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";
/// The longest list, in bytes.
const LONGEST: u64 = 256 << 20;
/// The most lists of one image.
const MOST: usize = 1024;

/// A scanner that is here, and what it is to look at besides the result.
#[derive(Debug)]
pub(super) struct Scanner {
    pub(super) name: String,
    pub(super) id: Digest,
    pub(super) spec: ImageSpec,
    pub(super) layers: Vec<LayerId>,
    pub(super) _held: Held,
    pub(super) extras: Extras,
}

/// What is scanned besides the result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extras {
    pub(super) has_context: bool,
    /// By their numbers in the file.
    stages: BTreeSet<usize>,
}

impl Extras {
    /// What a file and whoever builds ask for.
    pub(super) fn read(file: &Dockerfile, graph: &Graph, arguments: &BTreeMap<String, String>) -> Self {
        let globals = file.globals.iter().flat_map(|global| &global.names);
        let globals: BTreeMap<&str, &str> =
            globals.filter_map(|one| Some((one.name.as_str(), one.default.as_deref()?))).collect();
        let value = |name: &str| arguments.get(name).map(String::as_str).or_else(|| globals.get(name).copied());
        let own = |index: usize, name: &str| {
            let names = file.stages[index].instructions.iter().filter_map(|instruction| match &instruction.kind {
                Kind::Arg(names) => Some(names),
                _ => None,
            });
            let declared = names.flatten().rfind(|one| one.name == name);
            let default = declared.and_then(|one| one.default.clone());
            // what a stage says holds for it alone
            default.map(|default| arguments.get(name).cloned().unwrap_or(default))
        };
        let mut out = Self::default();
        for index in graph.nodes.keys().copied() {
            let node = &file.stages[index];
            let number = index.to_string();
            let listed = |list: &str| {
                list.split(',')
                    .map(str::trim)
                    .any(|name| name == number || node.name.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(name)))
            };
            let wanted = own(index, SCAN_STAGE).map_or_else(|| value(SCAN_STAGE).map(str::to_owned), Some);
            if index != graph.target && wanted.is_some_and(|text| is_yes(&text) || listed(&text)) {
                out.stages.insert(index);
            }
            out.has_context |= own(index, SCAN_CONTEXT).is_some_and(|text| is_yes(&text));
        }
        out.has_context |= value(SCAN_CONTEXT).is_some_and(is_yes);
        out
    }
}

fn is_yes(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "1" | "t" | "true")
}

impl Build {
    /// Has every image scanned.
    pub(super) async fn scan(self: &Arc<Self>, made: &mut [Made]) -> Result<()> {
        let Some(scanner) = &self.scanner else { return Ok(()) };
        let first = 1 + self.plan.stages.values().map(|stage| stage.steps.len() + 1).sum::<usize>();
        for (number, one) in made.iter_mut().enumerate() {
            let at = At { stage: one.target, step: first + number };
            let text = format!("generating sbom using {}", scanner.name);
            self.tell(super::BuildEvent::Scanning { stage: at.stage, step: at.step, text }).await;
            match self.scan_one(scanner, one, at).await {
                Ok(lists) => one.predicates.extend(lists),
                Err(error) => {
                    let text = error.to_string();
                    self.tell(super::BuildEvent::Failed { stage: at.stage, step: at.step, error: text }).await;
                    return Err(error);
                }
            }
            self.tell(super::BuildEvent::Done { stage: at.stage, step: at.step, made: String::new() }).await;
        }
        Ok(())
    }

    async fn scan_one(self: &Arc<Self>, scanner: &Scanner, made: &Made, at: At) -> Result<Vec<(String, Vec<u8>)>> {
        let targets = self.targets(scanner, made).await?;
        let mut key = format!("insula.build.scan.v1\0{}\0{}", scanner.id, made.built.content.0);
        for (name, origin) in &targets {
            let digest = self.identity(origin).map(|digest| digest.to_string()).unwrap_or_default();
            key.push_str(&format!("\0{name}\0{digest}"));
        }
        let key = CacheKey(Digest::of(key.as_bytes()));
        // what is in the context, no key says
        let reuse = if scanner.extras.has_context { super::Reuse::No } else { self.reuse };
        let known = if reuse == super::Reuse::Yes { self.inner.images.cached(&key) } else { None };
        let held = match known {
            Some((CacheRecord { layer: Some(_), .. }, held)) => {
                self.tell(super::BuildEvent::Cached { stage: at.stage, step: at.step }).await;
                held
            }
            _ => {
                let held = self.run_scanner(scanner, targets, at).await?;
                if let Some(layer) = held.layers().first().filter(|_| !scanner.extras.has_context) {
                    let record = CacheRecord {
                        layer: Some(*layer),
                        created: super::execute::now(),
                        content: made.built.content.0,
                        text: format!("sbom by {}", scanner.name),
                        size: self.inner.images.layer_bytes(layer),
                    };
                    self.inner.images.remember(&key, record).map_err(image_error)?;
                }
                held
            }
        };
        let (this, name) = (Arc::clone(self), scanner.name.clone());
        super::execute::blocking(move || lists(&Tree::open(&this.inner, held.layers(), "of the scan")?, &name)).await
    }

    /// What a scanner sees, by its path there; the result first.
    async fn targets(self: &Arc<Self>, scanner: &Scanner, made: &Made) -> Result<Vec<(String, Origin)>> {
        let mut out = vec![(RESULT.to_owned(), Origin::Stage(made.target))];
        if scanner.extras.has_context {
            out.push((format!("{EXTRAS}/context"), Origin::Context));
        }
        let platform = &self.plan.stages[&made.target].platform;
        for (number, stage) in &self.plan.stages {
            // stages of other platforms are theirs
            if scanner.extras.stages.contains(&stage.index) && stage.platform == *platform && *number != made.target {
                self.stage(*number).await?;
                let name = stage.name.clone().unwrap_or_else(|| format!("stage-{}", stage.index));
                out.push((format!("{EXTRAS}/{name}"), Origin::Stage(*number)));
            }
        }
        Ok(out)
    }

    async fn run_scanner(self: &Arc<Self>, scanner: &Scanner, targets: Vec<(String, Origin)>, at: At) -> Result<Held> {
        let config = &scanner.spec.config;
        let argv: Vec<String> = config.entrypoint.iter().chain(&config.cmd).flatten().cloned().collect();
        if argv.is_empty() {
            return Err(EngineError::invalid(format!("the scanner {} has no program to run", scanner.name)));
        }
        let mut env: Vec<(String, String)> = config
            .env
            .iter()
            .filter_map(|one| one.split_once('='))
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .collect();
        let mut set = |name: &str, value: &str| env.push((name.to_owned(), value.to_owned()));
        set("BUILDKIT_SCAN_DESTINATION", OUT);
        set("BUILDKIT_SCAN_SOURCE", RESULT);
        if targets.len() > 1 {
            set("BUILDKIT_SCAN_SOURCE_EXTRAS", EXTRAS);
        }
        let mount = |(target, origin): (String, Origin)| RunMount {
            mount: Mount::Bind { from: None, source: "/".to_owned(), target, access: Access::Read },
            origin: Some(origin),
        };
        let step = RunStep {
            argv,
            env,
            proxies: Vec::new(),
            directory: if config.working_dir.is_empty() { "/".to_owned() } else { config.working_dir.clone() },
            user: config.user.clone(),
            mounts: targets.into_iter().map(mount).collect(),
            volumes: Vec::new(),
            network: NetworkMode::Default,
            security: SecurityMode::Sandbox,
            script: None,
        };
        let upper = Upper::new(&self.inner)?;
        let cannot = |error: std::io::Error| EngineError::internal("cannot make the scanner's folder", &error);
        let out = upper.path().join("upper").join(OUT.trim_start_matches('/'));
        std::fs::create_dir_all(&out).map_err(cannot)?;
        // whoever the scanner runs as
        std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o777)).map_err(cannot)?;
        let ended = self.run(&step, &scanner.layers, &upper, at).await?;
        if ended.code != 0 {
            return Err(super::execute::failed_command(&step.argv, &ended));
        }
        let this = Arc::clone(self);
        super::execute::blocking(move || this.layer(upper)).await
    }
}

/// What a scanner has written: kinds of predicates, and the predicates.
fn lists(files: &dyn Files, scanner: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let unreadable = |name: &[u8], error: &dyn std::error::Error| {
        let name = String::from_utf8_lossy(name).into_owned();
        EngineError::because(ErrorClass::Invalid, format!("cannot read {name} of the scanner {scanner}"), error)
    };
    let folder = OUT.trim_start_matches('/').as_bytes();
    let names = files.names(folder).map_err(|error| unreadable(folder, &error))?;
    let mut out = Vec::new();
    for name in names.into_iter().filter(|name| name.ends_with(b".json")).take(MOST) {
        let path = [folder, b"/", &name].concat();
        let found = files.look(&path).map_err(|error| unreadable(&name, &error))?;
        if !found.is_some_and(|file| matches!(file.kind, FileKind::Regular(_))) {
            continue;
        }
        let mut text = Vec::new();
        let file = files.open(&path).map_err(|error| unreadable(&name, &error))?;
        file.take(LONGEST).read_to_end(&mut text).map_err(|error| unreadable(&name, &error))?;
        let mut statement: Value = serde_json::from_slice(&text).map_err(|error| unreadable(&name, &error))?;
        let kind = statement["predicateType"].as_str().map(str::to_owned);
        let (Some(kind), predicate @ Value::Object(_)) = (kind, statement["predicate"].take()) else {
            let name = String::from_utf8_lossy(&name);
            return Err(EngineError::invalid(format!(
                "{name} of the scanner {scanner} is no statement: it has no predicateType and predicate"
            )));
        };
        out.push((kind, predicate.to_string().into_bytes()));
    }
    if out.is_empty() {
        return Err(EngineError::invalid(format!(
            "the scanner {scanner} has written no list: NAME.spdx.json was expected in the folder that \
             BUILDKIT_SCAN_DESTINATION names"
        )));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::build::{Images, Options};

    #[test]
    fn files_ask_for_more_to_be_scanned() {
        let check = |text: &str, arguments: &[(&str, &str)], expect: (bool, &[usize])| {
            let file = Dockerfile::parse("Dockerfile", text.as_bytes()).unwrap();
            let arguments: BTreeMap<String, String> =
                arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let options = Options { arguments: arguments.clone(), ..Options::default() };
            let graph = Graph::resolve(&file, &options, &Images::new()).unwrap();
            let found = Extras::read(&file, &graph, &arguments);
            assert_eq!(
                (found.has_context, found.stages.into_iter().collect::<Vec<_>>()),
                (expect.0, expect.1.to_vec())
            );
        };
        let stages = "FROM a AS one\nFROM b AS unused\nFROM c AS two\nCOPY --from=one x /\nFROM two\n";
        check(stages, &[], (false, &[]));
        check(stages, &[(SCAN_CONTEXT, "true"), (SCAN_STAGE, "one")], (true, &[0]));
        check(stages, &[(SCAN_STAGE, "1")], (false, &[0, 2]));
        check(&format!("ARG {SCAN_STAGE}=two\n{stages}"), &[], (false, &[2]));
        check(&format!("FROM a AS one\nARG {SCAN_STAGE}=true {SCAN_CONTEXT}=1\nFROM one\n"), &[], (true, &[0]));
    }
}
