//! Images of one name, one a platform, and what is attested of them.
//!
//! Here the store keeps a [`Family`]; elsewhere it is an index: a manifest of manifests. What is attested of an image names the
//! image's manifest, whose digest is only known once somebody writes it; so the store keeps the predicates alone, and
//! [`Attestation`] makes statements of them.
//!
//! # Source
//! OCI image specification, image-index.md; in-toto's attestation specification, Statement v0.1; BuildKit's documentation,
//! attestations/attestation-storage.md.

use std::collections::BTreeMap;

use oci::digest::Digest;
use oci::platform::Platform;
use oci::reference::Reference;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bundle::{Descriptor, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, PlatformWords, descriptor};
use crate::model::ImageId;

/// The media type of a statement.
pub const STATEMENT: &str = "application/vnd.in-toto+json";
/// What the predicate of SLSA's provenance is called.
pub const SLSA_PROVENANCE: &str = "https://slsa.dev/provenance/v0.2";
/// How an index says that a manifest is about another one, and about which.
pub(crate) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
pub(crate) const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
pub(crate) const ATTESTATION: &str = "attestation-manifest";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v0.1";

/// The images of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// One a platform, in the order in which they were asked for.
    pub members: Vec<Member>,
    /// What the index says of itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The platform that it stands for.
    pub platform: Platform,
    /// The image.
    pub image: ImageId,
    /// What is attested of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub predicates: Vec<Predicate>,
    /// What its manifest says of itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What the index says of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub described: BTreeMap<String, String>,
}

/// Something that is attested of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predicate {
    /// What it is, as an address: [`SLSA_PROVENANCE`].
    pub kind: String,
    /// The blob with its JSON.
    pub blob: Digest,
}

impl Family {
    /// The member for a platform: the same one, or one that runs on it.
    #[must_use]
    pub fn member(&self, platform: &Platform) -> Option<&Member> {
        let exact = self.members.iter().find(|member| member.platform == *platform);
        exact.or_else(|| self.members.iter().find(|member| member.platform.runs_on(platform)))
    }

    /// The one that the name stands for on this machine.
    #[must_use]
    pub fn main(&self) -> Option<&Member> {
        self.member(&Platform::host()).or(self.members.first())
    }

    /// Whether it is no more than its one image.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        !self.needs_index() && self.members.iter().all(|member| member.annotations.is_empty())
    }

    /// Whether one manifest cannot say all of it.
    #[must_use]
    pub fn needs_index(&self) -> bool {
        let more = |member: &Member| !member.predicates.is_empty() || !member.described.is_empty();
        self.members.len() > 1 || !self.annotations.is_empty() || self.members.iter().any(more)
    }
}

/// A manifest as an index names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its media type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// For which platform it is.
    pub platform: Platform,
    /// What is attested of it.
    pub attestation: Option<Attestation>,
    /// What the index says of it.
    pub annotations: BTreeMap<String, String>,
}

/// A manifest that says these words of itself besides; as it is if it says them already.
///
/// # Errors
/// When it is no JSON.
pub fn annotated(manifest: &[u8], words: &BTreeMap<String, String>) -> Result<Vec<u8>, serde_json::Error> {
    if words.is_empty() {
        return Ok(manifest.to_vec());
    }
    let mut parsed: serde_json::Map<String, Value> = serde_json::from_slice(manifest)?;
    let mut said = parsed.get("annotations").cloned().unwrap_or_else(|| json!({}));
    if words.iter().all(|(name, value)| said[name] == value.as_str()) {
        return Ok(manifest.to_vec());
    }
    if let Value::Object(said) = &mut said {
        said.extend(words.iter().map(|(name, value)| (name.clone(), value.clone().into())));
    }
    parsed.insert("annotations".to_owned(), said);
    serde_json::to_vec(&parsed)
}

/// An index of these manifests, and after them of what is attested of them.
#[must_use]
pub fn index(listed: &[Listed], annotations: &BTreeMap<String, String>) -> Vec<u8> {
    let words = |platform: &Platform| PlatformWords {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        // as the platform is written: that of arm64 is not
        variant: platform.to_string().split('/').nth(2).map(str::to_owned),
    };
    let images = listed.iter().map(|one| Descriptor {
        annotations: one.annotations.clone(),
        platform: Some(words(&one.platform)),
        ..descriptor(&one.media_type, &one.digest, one.size)
    });
    let unknown = PlatformWords { architecture: "unknown".to_owned(), os: "unknown".to_owned(), variant: None };
    let attested = listed.iter().filter_map(|one| Some((one, one.attestation.as_ref()?))).map(|(one, attestation)| {
        let annotations = BTreeMap::from([
            (REFERENCE_DIGEST.to_owned(), one.digest.to_string()),
            (REFERENCE_TYPE.to_owned(), ATTESTATION.to_owned()),
        ]);
        let (digest, size) = (Digest::of(&attestation.manifest), attestation.manifest.len() as u64);
        Descriptor { annotations, platform: Some(unknown.clone()), ..descriptor(OCI_MANIFEST, &digest, size) }
    });
    let manifests: Vec<Descriptor> = images.chain(attested).collect();
    let mut out = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    if !annotations.is_empty() {
        out["annotations"] = json!(annotations);
    }
    out.to_string().into_bytes()
}

/// What is attested of an image, as registries keep it: statements as the layers of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// The statements.
    pub statements: Vec<Vec<u8>>,
    /// The manifest's configuration.
    pub config: Vec<u8>,
    /// The manifest.
    pub manifest: Vec<u8>,
}

impl Attestation {
    /// Says of the image with this manifest, known by these names, what the predicates, as pairs of their kind and their
    /// JSON, say; nothing if there are none.
    ///
    /// # Errors
    /// When a predicate is no JSON.
    pub fn new(
        predicates: &[(String, Vec<u8>)],
        names: &[Reference],
        platform: &Platform,
        manifest: &Digest,
    ) -> Result<Option<Self>, serde_json::Error> {
        if predicates.is_empty() {
            return Ok(None);
        }
        let subject = subject(names, platform, manifest);
        let (mut statements, mut layers) = (Vec::new(), Vec::new());
        for (kind, predicate) in predicates {
            let bytes = statement(kind, predicate, &subject)?;
            let annotations = BTreeMap::from([("in-toto.io/predicate-type".to_owned(), kind.clone())]);
            layers.push(Descriptor { annotations, ..descriptor(STATEMENT, &Digest::of(&bytes), bytes.len() as u64) });
            statements.push(bytes);
        }
        let ids: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
        let config = json!({
            "architecture": "unknown", "os": "unknown", "config": {}, "rootfs": { "type": "layers", "diff_ids": ids },
        });
        let config = config.to_string().into_bytes();
        let described = descriptor(OCI_CONFIG, &Digest::of(&config), config.len() as u64);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": layers,
        });
        Ok(Some(Self { statements, config, manifest: manifest.to_string().into_bytes() }))
    }
}

/// A statement about whatever `subject` says.
///
/// # Errors
/// When the predicate is no JSON.
pub fn statement(kind: &str, predicate: &[u8], subject: &Value) -> Result<Vec<u8>, serde_json::Error> {
    let predicate: Value = serde_json::from_slice(predicate)?;
    let statement = json!({
        "_type": STATEMENT_TYPE, "predicateType": kind, "subject": subject, "predicate": predicate,
    });
    serde_json::to_vec(&statement)
}

/// What a statement is about: the manifest, under every name as package addresses have it.
fn subject(names: &[Reference], platform: &Platform, manifest: &Digest) -> Value {
    let digest = json!({ "sha256": manifest.hex() });
    let platform = platform.to_string().replace('/', "%2F");
    let address = |name: &Reference| {
        let familiar = name.familiar();
        let (path, tag) = familiar.rsplit_once(':').unwrap_or((&familiar, "latest"));
        format!("pkg:docker/{path}@{tag}?platform={platform}")
    };
    match names {
        [] => json!([{ "name": "_", "digest": digest }]),
        names => names.iter().map(|name| json!({ "name": address(name), "digest": digest })).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(platform: &str, number: u8) -> Member {
        let image = ImageId(Digest::of(&[number]));
        let (annotations, described) = Default::default();
        Member { platform: platform.parse().unwrap(), image, predicates: Vec::new(), annotations, described }
    }

    #[test]
    fn a_name_stands_for_what_runs_here() {
        let foreign = if Platform::host().architecture == "s390x" { "linux/ppc64le" } else { "linux/s390x" };
        let host = Platform::host().to_string();
        let family = Family { members: vec![member(foreign, 1), member(&host, 2)], ..Family::default() };
        assert_eq!(family.main().unwrap().image, ImageId(Digest::of(&[2])));
        let mut alone = Family { members: vec![member(foreign, 1)], ..Family::default() };
        assert!(alone.is_plain() && !family.is_plain());
        alone.members[0].annotations.insert("a".to_owned(), "b".to_owned());
        assert!(!alone.is_plain() && !alone.needs_index());
        alone.annotations.insert("a".to_owned(), "b".to_owned());
        assert!(alone.needs_index());
        assert_eq!(alone.main().unwrap().image, ImageId(Digest::of(&[1])));
        assert!(alone.member(&Platform::host()).is_none());
    }

    #[test]
    fn manifests_say_more_of_themselves() {
        let words = BTreeMap::from([("b".to_owned(), "2".to_owned())]);
        let once = annotated(br#"{"layers":[],"annotations":{"a":"1"}}"#, &words).unwrap();
        let said: Value = serde_json::from_slice(&once).unwrap();
        assert_eq!(said, json!({ "layers": [], "annotations": { "a": "1", "b": "2" } }));
        assert_eq!(annotated(&once, &words).unwrap(), once);
        assert_eq!(annotated(b" {}", &BTreeMap::new()).unwrap(), b" {}");
        assert!(annotated(b"[]", &words).is_err());
    }

    #[test]
    fn statements_name_the_manifest_and_the_index_names_both() {
        let (platform, digest) = ("linux/arm64".parse().unwrap(), Digest::of(b"m"));
        let names = ["localhost:5000/a/b:1".parse().unwrap(), "debian".parse::<Reference>().unwrap().tagged()];
        let predicates = [(SLSA_PROVENANCE.to_owned(), br#"{"builder":{"id":""}}"#.to_vec())];
        let made = Attestation::new(&predicates, &names, &platform, &digest).unwrap().unwrap();
        let said: Value = serde_json::from_slice(&made.statements[0]).unwrap();
        assert_eq!(said["subject"][0]["name"], "pkg:docker/localhost:5000/a/b@1?platform=linux%2Farm64");
        assert_eq!(said["subject"][1]["name"], "pkg:docker/debian@latest?platform=linux%2Farm64");
        assert_eq!(said["subject"][1]["digest"]["sha256"], digest.hex());
        assert_eq!(
            (&said["predicateType"], &said["predicate"]["builder"]["id"]),
            (&SLSA_PROVENANCE.into(), &"".into())
        );
        let manifest: Value = serde_json::from_slice(&made.manifest).unwrap();
        assert_eq!(manifest["layers"][0]["annotations"]["in-toto.io/predicate-type"], SLSA_PROVENANCE);
        assert_eq!(manifest["layers"][0]["digest"], Digest::of(&made.statements[0]).to_string());
        let words = BTreeMap::from([("of".to_owned(), "it".to_owned())]);
        let (media_type, attestation) = (OCI_MANIFEST.to_owned(), Some(made));
        let listed = Listed { media_type, digest, size: 1, platform, attestation, annotations: words.clone() };
        let index: Value = serde_json::from_slice(&index(&[listed], &words)).unwrap();
        assert_eq!(
            (&index["annotations"]["of"], &index["manifests"][0]["annotations"]["of"]),
            (&"it".into(), &"it".into())
        );
        assert_eq!(index["manifests"][0]["platform"]["architecture"], "arm64");
        assert_eq!(index["manifests"][1]["platform"]["os"], "unknown");
        assert_eq!(index["manifests"][1]["annotations"]["vnd.docker.reference.digest"], digest.to_string());
        assert!(Attestation::new(&[], &names, &"linux/amd64".parse().unwrap(), &digest).unwrap().is_none());
        assert!(
            Attestation::new(&[("k".to_owned(), b"{".to_vec())], &[], &"linux/amd64".parse().unwrap(), &digest)
                .is_err()
        );
    }
}
