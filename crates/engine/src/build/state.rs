//! What builds share as long as the engine lives: digests of context files, and who writes to which cache folder.

use super::output::Product;
use image::build::{DigestMemo, FileIdentity};
use oci::digest::Digest;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// So many files' digests are remembered.
const REMEMBERED: usize = 1 << 20;
/// So many builds' results wait to be fetched.
const FETCHED_SOON: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    memo: Arc<Memo>,
    caches: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
    /// What builds without a name have made, for whoever fetches it next; the newest first.
    products: Mutex<VecDeque<(String, Product)>>,
}

impl Shared {
    pub(super) fn memo(&self) -> Box<dyn DigestMemo> {
        Box::new(Handle(Arc::clone(&self.memo)))
    }

    pub(super) fn keep(&self, name: String, product: Product) -> String {
        let mut products = self.products.lock().unwrap_or_else(PoisonError::into_inner);
        products.truncate(FETCHED_SOON - 1);
        products.push_front((name.clone(), product));
        name
    }

    pub(crate) fn product(&self, name: &str) -> Option<Product> {
        let products = self.products.lock().unwrap_or_else(PoisonError::into_inner);
        products.iter().find(|(known, _)| known == name).map(|(_, product)| product.clone())
    }

    /// The lock of a cache folder.
    pub(super) fn lock(&self, folder: &Path) -> Arc<tokio::sync::Mutex<()>> {
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        caches.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(caches.entry(folder.to_owned()).or_default())
    }
}

#[derive(Debug, Default)]
struct Memo(Mutex<HashMap<FileIdentity, Digest>>);

#[derive(Debug)]
struct Handle(Arc<Memo>);

impl DigestMemo for Handle {
    fn get(&self, file: &FileIdentity) -> Option<Digest> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).get(file).copied()
    }

    fn put(&self, file: FileIdentity, digest: Digest) {
        let mut known = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(file, digest);
    }
}
