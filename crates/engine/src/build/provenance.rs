//! Where an image comes from: the predicate of a provenance attestation.
//!
//! # Source
//! SLSA's provenance v0.2; BuildKit's documentation, attestations/slsa-definitions.md: what `mode=min` and `mode=max` have. There is
//! no graph of operations (LLB) here that `max` could show: the Dockerfile and the steps stand for it.

use super::execute::Build;
use super::remote::Fetched;
use image::build::{ImageRequest, Remote};
use image::{Image, PinnedName};
use oci::digest::Digest;
use oci::platform::Platform;
use oci::reference::Reference;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What fields have that are BuildKit's own.
const BUILD_TYPE: &str = "https://mobyproject.org/buildkit@v1";
const METADATA: &str = "https://mobyproject.org/buildkit@v1#metadata";

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Nothing that may be meant for few: no arguments, no Dockerfile.
    Least,
    /// All that is known.
    Most,
}

/// Provenance that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// How much is told.
    pub detail: Detail,
    /// Who built it, as an address.
    pub builder: String,
    /// Where the context comes from, as far as whoever asks knows: `source` and `revision`.
    pub origin: BTreeMap<String, String>,
}

/// What is told of a build, noted before it begins.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) asked: Provenance,
    pub(super) id: String,
    pub(super) began: String,
    /// The Dockerfile's name and text.
    pub(super) file: (String, Vec<u8>),
    pub(super) target: Option<String>,
    pub(super) arguments: BTreeMap<String, String>,
    pub(super) labels: Vec<(String, String)>,
    /// The context's address, where it is in the network.
    pub(super) address: Option<String>,
    /// Base images, by their digests.
    pub(super) images: BTreeMap<ImageRequest, Digest>,
}

/// What a registry knows a base image by; its own id where no registry has given it.
pub(super) fn known_by(name: &str, image: &Image) -> Digest {
    let repository = name.parse::<Reference>().map(|name| name.repository()).unwrap_or_default();
    let mut pinned = image.manifests.iter().flat_map(|manifest| &manifest.names);
    let of = |pinned: &&PinnedName| pinned.repository == repository;
    pinned.find(of).map_or(image.id.0, |pinned| pinned.digest)
}

impl Told {
    /// The predicate about the image for a platform.
    pub(super) fn predicate(&self, build: &Build, platform: &Platform) -> Value {
        let most = self.asked.detail == Detail::Most;
        let mut out = json!({
            "builder": { "id": self.asked.builder },
            "buildType": BUILD_TYPE,
            "materials": self.materials(&build.remotes),
            "invocation": {
                "configSource": self.config_source(),
                "parameters": self.parameters(build),
                "environment": { "platform": Platform::host().to_string() },
            },
            "metadata": {
                "buildInvocationID": self.id,
                "buildStartedOn": self.began,
                "buildFinishedOn": super::execute::now(),
                "completeness": { "parameters": most, "environment": true, "materials": self.is_complete(build) },
                "reproducible": false,
            },
        });
        let mut own = Map::new();
        if !self.asked.origin.is_empty() {
            own.insert("vcs".to_owned(), json!(self.asked.origin));
        }
        if most {
            let (name, text) = &self.file;
            let data = base64(text);
            own.insert(
                "source".to_owned(),
                json!({ "infos": [{ "filename": name, "language": "Dockerfile", "data": data }] }),
            );
            out["buildConfig"] = json!({ "steps": steps(build, platform) });
        }
        out["metadata"][METADATA] = Value::Object(own);
        out
    }

    fn config_source(&self) -> Value {
        let mut out = json!({ "entryPoint": self.file.0 });
        if let Some(address) = &self.address {
            out["uri"] = json!(address);
        }
        out
    }

    fn parameters(&self, build: &Build) -> Value {
        let mut arguments = Map::new();
        let mut put = |name: String, value: &str| drop(arguments.insert(name, value.into()));
        if let Some(target) = &self.target {
            put("target".to_owned(), target);
        }
        if self.asked.detail == Detail::Most {
            self.arguments.iter().for_each(|(name, value)| put(format!("build-arg:{name}"), value));
            self.labels.iter().for_each(|(name, value)| put(format!("label:{name}"), value));
        }
        let mut out = json!({ "frontend": "dockerfile.v0", "args": arguments });
        if self.address.is_none() {
            out["locals"] = json!([{ "name": "context" }, { "name": "dockerfile" }]);
        }
        if self.asked.detail == Detail::Most {
            let ids =
                |ids: Vec<&String>| ids.into_iter().map(|id| json!({ "id": id, "optional": true })).collect::<Value>();
            out["secrets"] = ids(build.secrets.keys().collect());
            out["ssh"] = ids(build.ssh.keys().collect());
        }
        out
    }

    /// Whether all that went in is named: files of the user's own have no digest.
    fn is_complete(&self, build: &Build) -> bool {
        self.address.is_some() && build.named.is_empty()
    }

    fn materials(&self, remotes: &BTreeMap<Remote, Fetched>) -> Vec<Value> {
        let image = |(request, digest): (&ImageRequest, &Digest)| {
            let name = request.name.parse::<Reference>().map(Reference::tagged);
            let name = name.map_or_else(|_| request.name.clone(), |name| name.familiar());
            let (path, tag) = name.rsplit_once(':').unwrap_or((&name, "latest"));
            let platform = request.platform.to_string().replace('/', "%2F");
            json!({ "uri": format!("pkg:docker/{path}@{tag}?platform={platform}"), "digest": { "sha256": digest.hex() } })
        };
        let remote = |(remote, fetched): (&Remote, &Fetched)| match remote {
            Remote::Http { url, .. } => json!({ "uri": url, "digest": { "sha256": fetched.digest.hex() } }),
            Remote::Git { url, reference, .. } => {
                let reference = reference.as_ref().map(|name| format!("#{name}")).unwrap_or_default();
                let commit = fetched.commit.clone().unwrap_or_default();
                json!({ "uri": format!("{url}{reference}"), "digest": { "sha1": commit } })
            }
        };
        self.images.iter().map(image).chain(remotes.iter().map(remote)).collect()
    }
}

/// The steps of the stages that an image for a platform needs, with the keys of what they made.
fn steps(build: &Build, platform: &Platform) -> Vec<Value> {
    let targets = build.plan.targets.iter().filter(|target| build.plan.stages[target].platform == *platform);
    let mut wanted: Vec<usize> = targets.copied().collect();
    let mut stages = std::collections::BTreeSet::new();
    while let Some(stage) = wanted.pop() {
        if stages.insert(stage) {
            wanted.extend(build.plan.stages[&stage].needs.iter().copied());
        }
    }
    let of = |stage: &usize| {
        let plan = &build.plan.stages[stage];
        let step =
            |step: &image::build::Step| json!({ "stage": plan.index, "line": step.place.span.line, "text": step.text });
        plan.steps.iter().map(step).collect::<Vec<_>>()
    };
    stages.iter().flat_map(of).collect()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
