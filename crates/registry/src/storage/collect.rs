//! Garbage collection, while requests go on.
//!
//! Mark: every manifest of every repository is read; what it refers to is live. Sweep: a link that is not live and whose
//! lease (its time) is over goes; then content that no link names and whose lease is over. What is removed is looked at
//! again under the gate, held alone for one removal at a time: whoever refers to something touches it first, under the gate
//! held shared. So a removal either comes before the reference, which is then refused, or sees the touch.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Storage, StorageError, durable, links};
use crate::digest::{Algorithm, ContentDigest};
use crate::manifest::Manifest;
use crate::name::{Repository, Target};

/// What is done with manifests that have no tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Untagged {
    /// They stay: somebody may pull them by digest.
    #[default]
    Keep,
    /// They go, unless an index or the subject of a kept manifest needs them.
    Remove,
}

/// How to collect.
#[derive(Debug, Clone, Copy)]
pub struct Collection {
    /// What happens to manifests without a tag.
    pub untagged: Untagged,
    /// Uploads that nothing was added to for so long are thrown away.
    pub upload_expiry: Duration,
}

impl Default for Collection {
    fn default() -> Self {
        Self { untagged: Untagged::Keep, upload_expiry: Duration::from_secs(24 * 3600) }
    }
}

/// What a collection has removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Manifests.
    pub manifests: u64,
    /// Blobs, manifests' content among them.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Uploads.
    pub uploads: u64,
}

/// The kernel's clock for files may lag behind by a tick; so much is a touch after the start taken to be late.
const CLOCK_LAG: Duration = Duration::from_millis(50);

/// Until when something must last have been touched to be removed: before the collection began, or a touch under the gate
/// would not count, and by the grace earlier.
#[derive(Clone, Copy)]
struct Deadline(Option<SystemTime>);

impl Deadline {
    fn before(span: Duration) -> Self {
        Self(SystemTime::now().checked_sub(span.saturating_add(CLOCK_LAG)))
    }

    /// Whether the lease is over; what is not there has none.
    fn is_over(self, path: &Path) -> bool {
        let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
        modified.map_or(true, |modified| self.0.is_some_and(|deadline| modified < deadline))
    }
}

impl Storage {
    /// Removes what nothing refers to. Runs beside everything else; one at a time is enough.
    ///
    /// # Errors
    /// When a folder or manifest cannot be read: then nothing that it may refer to is removed.
    pub fn collect(&self, how: Collection) -> Result<Collected, StorageError> {
        let mut done = Collected::default();
        let (deadline, uploads) = (Deadline::before(self.0.grace), Deadline::before(how.upload_expiry));
        let mut repositories = Vec::new();
        self.each_repository(|repository, _| {
            repositories.push(repository);
            Ok(())
        })?;
        let mut live = HashSet::new();
        for repository in &repositories {
            self.collect_uploads(repository, uploads, &mut done)?;
            self.collect_repository(repository, (how.untagged, deadline), &mut live, &mut done)?;
            self.remove_empty(repository);
        }
        for algorithm in Algorithm::ALL {
            self.sweep(algorithm, &live, deadline, &mut done)?;
        }
        Ok(done)
    }

    fn collect_uploads(
        &self,
        repository: &Repository,
        deadline: Deadline,
        done: &mut Collected,
    ) -> Result<(), StorageError> {
        let folder = self.folder(repository).join("_uploads");
        for name in durable::names(&folder)? {
            let path = folder.join(name);
            let _gate = self.alone();
            if deadline.is_over(&path) && durable::remove(&path)? {
                done.uploads += 1;
            }
        }
        Ok(())
    }

    fn collect_repository(
        &self,
        repository: &Repository,
        (untagged, deadline): (Untagged, Deadline),
        live: &mut HashSet<ContentDigest>,
        done: &mut Collected,
    ) -> Result<(), StorageError> {
        // Links before manifests: a blob that a manifest refers to was linked before that manifest was read.
        let blobs = links(&self.folder(repository).join("_blobs"))?;
        let mut manifests = BTreeMap::new();
        for digest in self.manifests(repository)? {
            match self.manifest(repository, &Target::Digest(digest)) {
                Ok(stored) => {
                    let parsed = Manifest::parse(&stored.bytes, &stored.media_type).map_err(StorageError::Manifest)?;
                    manifests.insert(digest, parsed);
                }
                // deleted meanwhile
                Err(StorageError::NoManifest { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if untagged == Untagged::Remove {
            self.remove_untagged(repository, &mut manifests, deadline, done)?;
        }
        let mut needed: HashSet<ContentDigest> = manifests.keys().copied().collect();
        needed.extend(manifests.values().flat_map(Manifest::blobs).map(|blob| blob.digest));
        for digest in blobs {
            if needed.contains(&digest) || !self.expire(&self.blob_link(repository, &digest), deadline)? {
                needed.insert(digest);
            }
        }
        live.extend(needed);
        Ok(())
    }

    fn remove_untagged(
        &self,
        repository: &Repository,
        manifests: &mut BTreeMap<ContentDigest, Manifest>,
        deadline: Deadline,
        done: &mut Collected,
    ) -> Result<(), StorageError> {
        let kept = kept(self.tagged(repository)?, manifests);
        let doomed: Vec<ContentDigest> = manifests.keys().filter(|digest| !kept.contains(digest)).copied().collect();
        for digest in doomed {
            let _gate = self.alone();
            let link = self.manifest_link(repository, &digest);
            // A tag may have come since the list was made.
            if !link.exists() || !deadline.is_over(&link) || self.tagged(repository)?.contains(&digest) {
                continue;
            }
            self.remove_manifest(repository, &digest)?;
            manifests.remove(&digest);
            done.manifests += 1;
        }
        Ok(())
    }

    /// Removes a link whose lease is over; whether it is gone.
    fn expire(&self, link: &Path, deadline: Deadline) -> Result<bool, StorageError> {
        if !deadline.is_over(link) {
            return Ok(false);
        }
        let _gate = self.alone();
        if !deadline.is_over(link) {
            return Ok(false);
        }
        durable::remove(link).map(|_| true)
    }

    /// Removes a repository's folders where they are empty.
    fn remove_empty(&self, repository: &Repository) {
        let _gate = self.alone();
        let folder = self.folder(repository);
        for subject in durable::names(&folder.join("_referrers")).unwrap_or_default() {
            let _ = fs::remove_dir(folder.join("_referrers").join(subject));
        }
        let inner =
            ["_blobs/sha256", "_blobs/sha512", "_blobs", "_manifests/sha256", "_manifests/sha512", "_manifests"];
        for inner in inner.into_iter().chain(["_tags", "_uploads", "_referrers", ""]) {
            // Those that are not empty stay.
            let _ = fs::remove_dir(folder.join(inner));
        }
    }

    fn sweep(
        &self,
        algorithm: Algorithm,
        live: &HashSet<ContentDigest>,
        deadline: Deadline,
        done: &mut Collected,
    ) -> Result<(), StorageError> {
        let top = self.0.root.join("blobs").join(algorithm.name());
        for shelf in durable::names(&top)? {
            let shelf = top.join(shelf);
            for name in durable::names(&shelf)? {
                let digest = ContentDigest::from_hex(algorithm, &name).ok();
                if digest.is_some_and(|digest| live.contains(&digest)) {
                    continue;
                }
                let path = shelf.join(name);
                if !deadline.is_over(&path) {
                    continue;
                }
                let size = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
                if self.expire(&path, deadline)? {
                    done.blobs += 1;
                    done.bytes += size;
                }
            }
        }
        Ok(())
    }
}

/// All that tags lead to: themselves, the manifests of indexes, and whatever is about something kept.
fn kept(tagged: BTreeSet<ContentDigest>, manifests: &BTreeMap<ContentDigest, Manifest>) -> BTreeSet<ContentDigest> {
    let mut about: BTreeMap<ContentDigest, Vec<ContentDigest>> = BTreeMap::new();
    for (digest, manifest) in manifests {
        if let Some(subject) = &manifest.subject {
            about.entry(subject.digest).or_default().push(*digest);
        }
    }
    let mut kept = BTreeSet::new();
    let mut open: Vec<ContentDigest> = tagged.into_iter().collect();
    while let Some(digest) = open.pop() {
        if !kept.insert(digest) {
            continue;
        }
        open.extend(
            manifests.get(&digest).into_iter().flat_map(|manifest| &manifest.manifests).map(|child| child.digest),
        );
        open.extend(about.get(&digest).into_iter().flatten());
    }
    kept
}
