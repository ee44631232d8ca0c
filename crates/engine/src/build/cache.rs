//! The cache of builds: what it has, and how it is kept within bounds.

use crate::engine::{Engine, Inner, image_error};
use crate::error::{EngineError, Result};
use image::CacheUse;
use oci::digest::Digest;
use std::collections::{BTreeMap, BTreeSet};
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
#[derive(Debug, Clone, Default)]
pub struct CacheFilter {
    /// Those whose layers images have, too.
    pub all: bool,
    /// Only those that were not used for so long.
    pub unused_for: Option<Duration>,
    /// So many bytes of those may stay, the ones used last.
    pub keep_bytes: Option<u64>,
    /// Only those whose key has one of these in it.
    pub ids: Option<Vec<String>>,
    /// Only those of these instructions.
    pub texts: Option<Vec<String>>,
    /// Only those whose layers images have, or have not.
    pub shared: Option<bool>,
}

impl CacheFilter {
    /// Whether it is about records that are chosen one by one, and not about the cache as a whole.
    fn picks(&self) -> bool {
        self.ids.is_some() || self.texts.is_some() || self.shared.is_some()
    }

    fn fits(&self, one: &CacheUse) -> bool {
        let hex = one.key.hex();
        let any = |wanted: &Option<Vec<String>>, test: &dyn Fn(&String) -> bool| {
            wanted.as_ref().is_none_or(|wanted| wanted.iter().any(test))
        };
        any(&self.ids, &|id| !id.is_empty() && hex.contains(id.as_str()))
            && any(&self.texts, &|text| *text == one.record.text)
            && self.shared.is_none_or(|shared| shared == one.shared)
    }
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

    /// How many bytes results of builds may take.
    #[must_use]
    pub fn build_cache_limit(&self) -> u64 {
        self.inner.config.cache_bytes.unwrap_or(CACHE_BYTES)
    }

    /// Forgets records. What builds at work hold stays as long as they do.
    ///
    /// # Errors
    /// [`crate::ErrorClass::Internal`] if the disk fails.
    pub async fn prune_build_cache(&self, filter: CacheFilter) -> Result<PrunedCache> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || {
            let now = SystemTime::now();
            let mut wanted = inner.images.cache();
            wanted.retain(|one| {
                let idle = now.duration_since(one.used).unwrap_or_default();
                (filter.all || !one.shared || one.record.layer.is_none())
                    && filter.unused_for.is_none_or(|least| idle >= least)
                    && filter.fits(one)
            });
            let gone = match filter.keep_bytes {
                Some(keep) => oldest(wanted, keep, usize::MAX),
                None => wanted.iter().map(|one| one.key).collect(),
            };
            let (keys, mut bytes) = inner.images.prune_cache(&|one| gone.contains(&one.key)).map_err(image_error)?;
            if filter.all && filter.unused_for.is_none() && filter.keep_bytes.is_none() && !filter.picks() {
                let caches = inner.config.root.join("build-caches");
                bytes += crate::files::disk_bytes(&caches);
                crate::sweep::folder(&caches)
                    .map_err(|error| EngineError::internal("cannot remove cache folders", &error))?;
            }
            Ok(PrunedCache { keys: keys.iter().map(Digest::hex).collect(), bytes })
        });
        done.await.map_err(|error| EngineError::internal("the work was cut short", &error))?
    }
}

/// The bytes of layers that nobody else has. Records may share a layer.
fn own_bytes(all: &[CacheUse]) -> u64 {
    let mut seen = BTreeSet::new();
    let own = all.iter().filter(|one| !one.shared && one.record.layer.is_none_or(|layer| seen.insert(layer)));
    own.map(|one| one.record.size).sum()
}

/// The records that were not used for the longest time, as many as there are too many.
fn oldest(mut all: Vec<CacheUse>, keep_bytes: u64, keep_records: usize) -> BTreeSet<Digest> {
    all.sort_by_key(|one| one.used);
    let (mut bytes, mut count) = (own_bytes(&all), all.len());
    // a layer is there as long as one record has it
    let mut left: BTreeMap<_, usize> = BTreeMap::new();
    all.iter().filter_map(|one| one.record.layer).for_each(|layer| *left.entry(layer).or_default() += 1);
    let mut gone = BTreeSet::new();
    for one in &all {
        if bytes <= keep_bytes && count <= keep_records {
            break;
        }
        let last = one.record.layer.and_then(|layer| left.get_mut(&layer)).is_none_or(|records| {
            *records -= 1;
            *records == 0
        });
        bytes = bytes.saturating_sub(if one.shared || !last { 0 } else { one.record.size });
        count -= 1;
        gone.insert(one.key);
    }
    gone
}

/// Removes the records that were not used for the longest time, if there is too much.
pub(super) fn bound(inner: &Inner) {
    let all = inner.images.cache();
    let limit = inner.config.cache_bytes.unwrap_or(CACHE_BYTES);
    if own_bytes(&all) <= limit && all.len() <= KEPT_RECORDS {
        return;
    }
    // some room, so that not every build has to do this
    let gone = oldest(all, limit / 10 * 9, KEPT_RECORDS / 10 * 9);
    if let Err(error) = inner.images.prune_cache(&|one: &CacheUse| gone.contains(&one.key)) {
        tracing::warn!(%error, "cannot make the build cache smaller");
    }
}
