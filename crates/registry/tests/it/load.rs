//! Garbage is collected while images are pushed, pulled, mounted and deleted: nothing that is referred to is lost, nothing else
//! stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use registry::client::{ClientError, Pushed, Remote};
use registry::digest::ContentDigest;
use registry::manifest::{Descriptor, OCI_MANIFEST};
use registry::name::Target;
use registry::storage::{Collection, Untagged};
use testkit::Dice;

use crate::tools::{Running, client, describe, files, manifest, noise, pull, start_with, tag};

/// How long what nobody refers to is spared: shorter than some pushes take here.
const GRACE: Duration = Duration::from_millis(250);
/// Steps of each worker in a usual run.
const USUAL: usize = 40;
const WORKERS: usize = 5;
const REPOSITORIES: [&str; 3] = ["one", "team/two", "team/two/three"];

/// An image that must be there.
struct Kept {
    digest: ContentDigest,
    blobs: Vec<Descriptor>,
}

/// Somebody with tags of their own; what is in them, others have as well.
struct Worker {
    number: usize,
    dice: Dice,
    domain: String,
    kept: BTreeMap<(usize, String), Kept>,
    made: usize,
    /// Pushes that took longer than the grace, and were told so.
    late: Arc<AtomicUsize>,
    mounted: Arc<AtomicUsize>,
}

impl Worker {
    fn remote(&self, repository: usize) -> Remote {
        client().remote(&self.domain, REPOSITORIES[repository]).unwrap()
    }

    async fn work(mut self, steps: usize) -> BTreeMap<(usize, String), Kept> {
        for _ in 0..steps {
            match self.dice.below(6) {
                0 | 1 => self.push().await,
                2 => self.delete().await,
                _ => self.check_one().await,
            }
        }
        for key in self.kept.keys().cloned().collect::<Vec<_>>() {
            self.check(&key).await;
        }
        self.kept
    }

    async fn push(&mut self) {
        let (repository, name) =
            (self.dice.below(REPOSITORIES.len()), format!("w{}-{}", self.number, self.dice.below(4)));
        let remote = self.remote(repository);
        let others: Vec<_> = REPOSITORIES.iter().map(|path| path.parse().unwrap()).collect();
        let config = Bytes::from(format!("{{\"by\":{},\"n\":{}}}", self.number, self.made));
        self.made += 1;
        let mut contents = vec![("a/c", config)];
        for _ in 0..=self.dice.below(3) {
            let seed = u64::try_from(self.dice.below(12)).unwrap();
            contents.push(("a/b", noise(seed, 20_000 << (seed % 5))));
        }
        let blobs: Vec<Descriptor> = contents.iter().map(|(kind, bytes)| describe(kind, bytes)).collect();
        let pause = self.dice.below(8) == 0;
        let outcome = async {
            for (descriptor, (_, bytes)) in blobs.iter().zip(contents) {
                let pushed = remote.push_blob(descriptor, Arc::new(bytes), &others, None).await?;
                self.mounted.fetch_add(usize::from(pushed == Pushed::Mounted), Ordering::Relaxed);
            }
            if pause {
                tokio::time::sleep(GRACE * 2).await;
            }
            remote.push_manifest(&tag(&name), OCI_MANIFEST, manifest(&blobs[0], &blobs[1..], "")).await
        };
        match outcome.await {
            Ok(digest) => drop(self.kept.insert((repository, name), Kept { digest, blobs })),
            Err(ClientError::NotFound { .. } | ClientError::Status { .. }) => {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => panic!("{error}: {error:?}"),
        }
    }

    fn any(&mut self) -> Option<(usize, String)> {
        let at = self.dice.below(self.kept.len());
        self.kept.keys().nth(at).cloned()
    }

    async fn delete(&mut self) {
        let Some(key) = self.any() else { return };
        let kept = self.kept.remove(&key).unwrap();
        let target = if self.dice.below(2) == 0 { tag(&key.1) } else { Target::Digest(kept.digest) };
        self.remote(key.0).delete(&target).await.unwrap();
    }

    async fn check_one(&mut self) {
        if let Some(key) = self.any() {
            self.check(&key).await;
        }
    }

    async fn check(&self, key: &(usize, String)) {
        let (remote, kept) = (self.remote(key.0), &self.kept[key]);
        assert_eq!(remote.resolve(&tag(&key.1)).await.unwrap(), kept.digest, "{key:?}");
        for blob in &kept.blobs {
            assert_eq!(ContentDigest::of(&pull(&remote, blob).await), blob.digest, "{key:?}");
        }
    }
}

/// All content on the disk, by the digits of its digests.
fn on_disk(server: &Running) -> BTreeSet<String> {
    let names = files(&server.storage.root().join("blobs"));
    names.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_collected_under_load() {
    let server = start_with(|config| {
        config.grace = GRACE;
        config.collect = None;
    })
    .await;
    let how = Collection { untagged: Untagged::Remove, ..Collection::default() };
    let (storage, stop) = (server.storage.clone(), Arc::new(AtomicBool::new(false)));
    let told = Arc::clone(&stop);
    let collector = std::thread::spawn(move || {
        let mut removed = 0;
        while !told.load(Ordering::Relaxed) {
            removed += storage.collect(how).unwrap().blobs;
        }
        removed
    });
    let mut dice = Dice::new();
    println!("INSULA_E2E_SEED={}", dice.seed);
    let (late, mounted): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let dice = Dice::of(u64::try_from(dice.below(1 << 40)).unwrap());
            let (late, mounted) = (Arc::clone(&late), Arc::clone(&mounted));
            let worker =
                Worker { number, dice, domain: server.domain(), kept: BTreeMap::new(), made: 0, late, mounted };
            tokio::spawn(worker.work(Dice::rounds(USUAL, 1000)))
        })
        .collect();
    let mut kept = Vec::new();
    for worker in workers {
        kept.extend(worker.await.unwrap().into_values());
    }
    stop.store(true, Ordering::Relaxed);
    let removed = collector.join().unwrap();
    // What the last ones have left behind is worth its grace.
    tokio::time::sleep(GRACE * 2).await;
    server.storage.collect(how).unwrap();
    assert_eq!(server.storage.check().unwrap(), []);
    let blobs = kept.iter().flat_map(|kept| kept.blobs.iter().map(|blob| blob.digest).chain([kept.digest]));
    let expected: BTreeSet<String> = blobs.map(|digest| digest.hex()).collect();
    assert_eq!(on_disk(&server), expected);
    let (late, mounted) = (late.load(Ordering::Relaxed), mounted.load(Ordering::Relaxed));
    println!(
        "{} images are kept, {removed} blobs were removed, {mounted} mounted, {late} pushes were late",
        kept.len()
    );
    assert!(removed > 0 && mounted > 0 && !kept.is_empty());
}
