//! How much results of builds may take.

use super::container::{Size, bytes};
use anyhow::Result;
use serde::Deserialize;
use std::collections::BTreeMap;

/// `builder`.
///
/// # Source
/// dockerd's `daemon.json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Entry {
    gc: Gc,
    entitlements: BTreeMap<String, bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Gc {
    enabled: Option<bool>,
    default_keep_storage: Option<Size>,
    default_max_used_space: Option<Size>,
    default_min_free_space: Option<Size>,
    default_reserved_space: Option<Size>,
    policy: Vec<Policy>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Policy {
    keep_storage: Option<Size>,
    max_used_space: Option<Size>,
    reserved_space: Option<Size>,
}

impl Entry {
    /// The bytes that results of builds may take, if it is said; what has no effect is added to the warnings.
    pub(super) fn limit(self, warnings: &mut Vec<String>) -> Result<Option<u64>> {
        if !self.entitlements.is_empty() {
            warnings
                .push("the setting builder.entitlements has no effect: a build gets what its client allows".to_owned());
        }
        let Gc {
            enabled,
            default_keep_storage,
            default_max_used_space,
            default_min_free_space,
            default_reserved_space,
            policy,
        } = self.gc;
        if enabled == Some(false) {
            return Ok(Some(u64::MAX));
        }
        if default_min_free_space.is_some() {
            warnings.push(
                "the setting builder.gc.defaultMinFreeSpace has no effect: only what results take counts".to_owned(),
            );
        }
        if policy.len() > 1 {
            warnings.push("of the policies in builder.gc the one that keeps most counts, for all results".to_owned());
        }
        let one = |sizes: [Option<Size>; 3]| sizes.into_iter().flatten().next().map(bytes).transpose();
        let policies = policy.into_iter().map(|one| [one.max_used_space, one.keep_storage, one.reserved_space]);
        let policies = policies.map(one).collect::<Result<Vec<_>>>()?;
        let default = one([default_max_used_space, default_keep_storage, default_reserved_space])?;
        let limit = policies.into_iter().flatten().max().or(default);
        Ok(limit.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_found() {
        let check = |json: &str, limit: Option<u64>, told: usize| {
            let mut warnings = Vec::new();
            let entry: Entry = serde_json::from_str(json).unwrap();
            assert_eq!((entry.limit(&mut warnings).unwrap(), warnings.len()), (limit, told), "{json}: {warnings:?}");
        };
        check("{}", None, 0);
        check(r#"{"gc": {"enabled": true, "defaultKeepStorage": "2GB"}}"#, Some(2 << 30), 0);
        check(r#"{"gc": {"enabled": false}, "entitlements": {"security-insecure": true}}"#, Some(u64::MAX), 1);
        check(
            r#"{"gc": {"defaultKeepStorage": "1g", "policy": [{"keepStorage": "3g", "filter": ["unused-for=1h"]}, {"keepStorage": 5, "all": true}]}}"#,
            Some(3 << 30),
            1,
        );
        assert!(serde_json::from_str::<Entry>(r#"{"gb": {}}"#).is_err());
    }
}
