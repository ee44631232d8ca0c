//! Manifests as a registry sees them: bytes with a media type, and what those bytes refer to.
//!
//! One structure reads every kind: image manifests and indexes, OCI's and Docker's, and artifacts. What a client needs to know
//! of an image is in `oci_spec`; here only what has to be there and stay there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::ContentDigest;

/// The largest manifest that is taken or served, in bytes.
pub const MAX_MANIFEST: usize = 4 << 20;
/// The most descriptors that one manifest may have; an image has at most some hundred.
const MAX_DESCRIPTORS: usize = 20_000;

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's image manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's list of manifests.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Bytes that are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not an object with the right fields.
    #[error("the manifest cannot be read")]
    Json(#[source] serde_json::Error),
    /// The header and the content contradict each other.
    #[error("the manifest says that it is {inside:?}, but was sent as {outside:?}")]
    Contradiction {
        /// The field `mediaType`.
        inside: String,
        /// The Content-Type.
        outside: String,
    },
    /// Something that is no manifest of today.
    #[error("unsupported media type {media_type:?} for a manifest; there are OCI's and Docker's schema 2")]
    MediaType {
        /// What was sent.
        media_type: String,
    },
    /// An image without a configuration, an index without manifests.
    #[error("the manifest has no field {field:?}")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// Docker's schema 1, or the future.
    #[error("the manifest's schemaVersion must be 2")]
    Schema,
    /// More than any image has.
    #[error("the manifest refers to more than {MAX_DESCRIPTORS} things")]
    TooMany,
}

/// A reference to content: what it is, how large, which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The content's media type.
    #[serde(default)]
    pub media_type: String,
    /// The content's digest.
    pub digest: ContentDigest,
    /// The content's size in bytes.
    pub size: u64,
    /// Where else the content is; such layers need not be in the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// What an artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free words about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: for which platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescriptorPlatform>,
    /// The content itself, base64, when it is small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

impl Descriptor {
    /// A descriptor of some content.
    #[must_use]
    pub fn new(media_type: &str, digest: ContentDigest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            artifact_type: None,
            annotations: BTreeMap::new(),
            platform: None,
            data: None,
        }
    }

    /// Whether it is content that registries don't have to carry, such as Windows' base layers.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        !self.urls.is_empty() || self.media_type.contains(".nondistributable.") || self.media_type.contains(".foreign.")
    }

    /// Whether it is an index of manifests.
    #[must_use]
    pub fn is_index(&self) -> bool {
        is_index(&self.media_type)
    }
}

/// A platform in an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorPlatform {
    /// Such as `amd64`.
    pub architecture: String,
    /// Such as `linux`.
    pub os: String,
    /// Such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Windows has them.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// A manifest of any kind.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: Option<u32>,
    /// Its media type; [`Manifest::parse`] fills it in.
    #[serde(default)]
    pub media_type: String,
    /// What an artifact is.
    pub artifact_type: Option<String>,
    /// An image's configuration.
    pub config: Option<Descriptor>,
    /// An image's layers, lowest first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// An artifact's content, in the form of 2022's drafts.
    #[serde(default)]
    pub blobs: Vec<Descriptor>,
    /// An index's manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one is about.
    pub subject: Option<Descriptor>,
    /// Free words about it.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads a manifest that came with a Content-Type (empty: none).
    ///
    /// # Errors
    /// When it is no manifest, or none of its type.
    pub fn parse(bytes: &[u8], content_type: &str) -> Result<Self, ManifestError> {
        let mut manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        let outside = content_type.split(';').next().unwrap_or_default().trim();
        // Docker's clients of old days send plain JSON.
        let unsaid = matches!(outside, "" | "application/json" | "application/octet-stream" | "text/plain");
        if manifest.media_type.is_empty() {
            manifest.media_type = if unsaid { manifest.guess().to_owned() } else { outside.to_owned() };
        } else if !unsaid && outside != manifest.media_type {
            return Err(ManifestError::Contradiction { inside: manifest.media_type, outside: outside.to_owned() });
        }
        manifest.check()?;
        Ok(manifest)
    }

    fn guess(&self) -> &'static str {
        if self.config.is_none() && !self.manifests.is_empty() { OCI_INDEX } else { OCI_MANIFEST }
    }

    fn check(&self) -> Result<(), ManifestError> {
        let artifact = self.media_type == "application/vnd.oci.artifact.manifest.v1+json";
        let known = artifact || matches!(self.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST) || self.is_index();
        if !known {
            return Err(ManifestError::MediaType { media_type: self.media_type.chars().take(120).collect() });
        }
        if !artifact && self.schema_version != Some(2) {
            return Err(ManifestError::Schema);
        }
        if !artifact && !self.is_index() && self.config.is_none() {
            return Err(ManifestError::Missing { field: "config" });
        }
        if self.is_index() && (self.config.is_some() || !self.layers.is_empty()) {
            // An index that is an image at the same time could mean two things to two readers.
            return Err(ManifestError::Contradiction { inside: "an image".into(), outside: self.media_type.clone() });
        }
        if !self.is_index() && !self.manifests.is_empty() {
            return Err(ManifestError::Contradiction { inside: "an index".into(), outside: self.media_type.clone() });
        }
        if self.layers.len() + self.blobs.len() + self.manifests.len() > MAX_DESCRIPTORS {
            return Err(ManifestError::TooMany);
        }
        Ok(())
    }

    /// Whether it is an index of manifests.
    #[must_use]
    pub fn is_index(&self) -> bool {
        is_index(&self.media_type)
    }

    /// The blobs that it is made of, configuration first.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.config.iter().chain(&self.layers).chain(&self.blobs)
    }

    /// What an entry in a list of referrers says it is: the artifact type, else the configuration's media type.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        let given = self.artifact_type.as_deref().filter(|text| !text.is_empty());
        given.or_else(|| self.config.as_ref().map(|config| config.media_type.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(media_type: &str, rest: &str) -> String {
        format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}"{rest}}}"#)
    }

    fn config() -> String {
        let digest = ContentDigest::of(b"{}");
        format!(r#","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":2}}"#)
    }

    #[test]
    fn types_inside_and_outside_agree() {
        let image = text(OCI_MANIFEST, &config());
        assert_eq!(Manifest::parse(image.as_bytes(), "").unwrap().media_type, OCI_MANIFEST);
        assert!(Manifest::parse(image.as_bytes(), &format!("{OCI_MANIFEST}; charset=utf-8")).is_ok());
        let error = Manifest::parse(image.as_bytes(), DOCKER_MANIFEST).unwrap_err();
        assert!(matches!(error, ManifestError::Contradiction { .. }));
        let untyped = image.replace(&format!(r#""mediaType":"{OCI_MANIFEST}","#), "");
        assert_eq!(Manifest::parse(untyped.as_bytes(), DOCKER_MANIFEST).unwrap().media_type, DOCKER_MANIFEST);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let check = |body: &str| assert!(Manifest::parse(body.as_bytes(), "").is_err(), "{body}");
        check("");
        check("[]");
        check("{}");
        check(&text(OCI_MANIFEST, ""));
        check(&text("application/vnd.docker.distribution.manifest.v1+json", &config()));
        check(&text(OCI_INDEX, &config()));
        check(&text(OCI_MANIFEST, &config()).replace("\"schemaVersion\":2", "\"schemaVersion\":1"));
        check(&text(OCI_MANIFEST, &config()).replace("\"size\":2", "\"size\":-2"));
    }
}
