//! Who asks at registries: what came with the build, or what whoever asked for it says when it is needed.

use super::request::Respondent;
use crate::engine::Proof;
use oci::reference::Reference;
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module.
pub(super) struct Proofs {
    /// By the registry's name.
    pub(super) given: BTreeMap<String, Proof>,
    pub(super) respondent: Option<Arc<dyn Respondent>>,
}

impl Proofs {
    /// Who asks at an image's registry.
    pub(super) async fn of(&self, reference: &Reference) -> Proof {
        // docker's clients send `https://index.docker.io/v1/`
        let hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
        let domain = reference.domain();
        let fits = |name: &str| {
            let rest = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
            let host = rest.split('/').next().unwrap_or_default();
            host == domain || (hub(host) && hub(domain))
        };
        if let Some((_, proof)) = self.given.iter().find(|(name, _)| fits(name)) {
            return proof.clone();
        }
        let Some(respondent) = &self.respondent else { return Proof::default() };
        match respondent.proof(domain).await {
            Ok(proof) => proof.unwrap_or_default(),
            Err(error) => {
                tracing::debug!(domain, %error, "no credentials; asking without");
                Proof::default()
            }
        }
    }
}
