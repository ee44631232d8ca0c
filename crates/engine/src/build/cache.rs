//! The cache of builds: what it has, and how it is kept within bounds.

use crate::engine::{Engine, Inner, image_error};
use crate::error::{EngineError, Result};
use image::CacheUse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// So many bytes of layers that no image has are kept.
pub const CACHE_BYTES: u64 = 20 << 30;
/// So many records are kept.
const KEPT_RECORDS: usize = 20_000;

/// One step's record.
#[derive(Debug, Clone)]
pub struct CacheEntry {
    /// The first digits of its key.
    pub id: String,
    /// The instruction.
    pub text: String,
    /// The layer's bytes on disk.
    pub bytes: u64,
    /// An image has the layer too.
    pub shared: bool,
    /// When it was made, as RFC 3339.
    pub created: String,
    /// When it was last used.
    pub used: SystemTime,
}

/// Which records are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheFilter {
    /// Those whose layers images have, too.
    pub all: bool,
    /// Only those that were not used for so long.
    pub unused_for: Option<Duration>,
}

/// What a prune did.
#[derive(Debug, Clone, Default)]
pub struct PrunedCache {
    /// The keys that are gone.
    pub keys: Vec<String>,
    /// The bytes that came back.
    pub bytes: u64,
}

impl Engine {
    /// What builds have in the cache. Records that share a layer are listed once.
    #[must_use]
    pub fn build_cache(&self) -> Vec<CacheEntry> {
        let mut seen = BTreeSet::new();
        let all = self.inner.images.cache().into_iter();
        let layers = all.filter(|one| one.record.layer.is_some_and(|layer| seen.insert(layer)));
        layers
            .map(|one| CacheEntry {
                id: one.key.hex().chars().take(25).collect(),
                text: one.record.text,
                bytes: one.record.size,
                shared: one.shared,
                created: one.record.created,
                used: one.used,
            })
            .collect()
    }

    /// Forgets records. What builds at work hold stays as long as they do.
    ///
    /// # Errors
    /// [`crate::ErrorClass::Internal`] if the disk fails.
    pub async fn prune_build_cache(&self, filter: CacheFilter) -> Result<PrunedCache> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || {
            let now = SystemTime::now();
            let (keys, mut bytes) = inner
                .images
                .prune_cache(&|one| {
                    let idle = now.duration_since(one.used).unwrap_or_default();
                    (filter.all || !one.shared || one.record.layer.is_none())
                        && filter.unused_for.is_none_or(|least| idle >= least)
                })
                .map_err(image_error)?;
            if filter.all && filter.unused_for.is_none() {
                let caches = inner.config.root.join("build-caches");
                bytes += crate::files::disk_bytes(&caches);
                crate::sweep::folder(&caches)
                    .map_err(|error| EngineError::internal("cannot remove cache folders", &error))?;
            }
            Ok(PrunedCache { keys: keys.iter().map(oci::digest::Digest::hex).collect(), bytes })
        });
        done.await.map_err(|error| EngineError::internal("the work was cut short", &error))?
    }
}

/// Removes the records that were not used for the longest time, if there is too much.
pub(super) fn bound(inner: &Inner) {
    let mut all = inner.images.cache();
    let total: u64 = all.iter().filter(|one| !one.shared).map(|one| one.record.size).sum();
    if total <= CACHE_BYTES && all.len() <= KEPT_RECORDS {
        return;
    }
    all.sort_by_key(|one| one.used);
    let (mut bytes, mut count) = (total, all.len());
    let mut gone = BTreeSet::new();
    for one in &all {
        // some room, so that not every build has to do this
        if bytes <= CACHE_BYTES / 10 * 9 && count <= KEPT_RECORDS / 10 * 9 {
            break;
        }
        bytes = bytes.saturating_sub(if one.shared { 0 } else { one.record.size });
        count -= 1;
        gone.insert(one.key);
    }
    if let Err(error) = inner.images.prune_cache(&|one: &CacheUse| gone.contains(&one.key)) {
        tracing::warn!(%error, "cannot make the build cache smaller");
    }
}
