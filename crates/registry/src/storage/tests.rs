use std::time::Duration;

use super::*;
use crate::manifest::OCI_MANIFEST;
use crate::name::Target;

const NONE: Duration = Duration::ZERO;

fn store(grace: Duration) -> (tempfile::TempDir, Storage) {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&folder.path().join("registry"), grace).unwrap();
    (folder, storage)
}

fn name(text: &str) -> Repository {
    text.parse().unwrap()
}

fn tag(text: &str) -> Target {
    Target::Tag(text.parse().unwrap())
}

fn image(layers: &[&[u8]], extra: &str) -> Vec<u8> {
    let describe = |bytes: &[u8]| {
        format!(r#"{{"mediaType":"a/b","digest":"{}","size":{}}}"#, ContentDigest::of(bytes), bytes.len())
    };
    let layers: Vec<String> = layers.iter().map(|layer| describe(layer)).collect();
    let config = describe(b"{}");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[{}]{extra}}}"#,
        layers.join(",")
    )
    .into_bytes()
}

fn push(storage: &Storage, repository: &Repository, target: &str, layers: &[&[u8]]) -> ContentDigest {
    for blob in layers.iter().chain(&[&b"{}"[..]]) {
        storage.put_blob(repository, &ContentDigest::of(blob), blob).unwrap();
    }
    let bytes = image(layers, "");
    storage.put_manifest(repository, &tag(target), OCI_MANIFEST, &bytes, Presence::Required).unwrap().digest
}

/// Makes everything look as old as a lease.
fn wait() {
    std::thread::sleep(Duration::from_millis(120));
}

#[test]
fn an_upload_becomes_a_blob_only_when_it_is_whole() {
    let (folder, storage) = store(DEFAULT_GRACE);
    let repository = name("a/b");
    let digest = ContentDigest::of(b"insula");
    let mut upload = storage.begin_upload(&repository, Algorithm::Sha256).unwrap();
    upload.append(b"ins").unwrap();
    let id = upload.id().clone();
    drop(upload);
    // The next process goes on where this one ended.
    drop(storage);
    let storage = Storage::open(&folder.path().join("registry"), DEFAULT_GRACE).unwrap();
    let mut upload = storage.open_upload(&repository, &id).unwrap();
    assert_eq!(upload.length(), 3);
    assert!(storage.blob(&repository, &digest).is_err());
    upload.append(b"ula").unwrap();
    assert_eq!(storage.finish_upload(upload, &digest).unwrap(), 6);
    assert_eq!(storage.blob(&repository, &digest).unwrap().size, 6);
    assert!(storage.blob(&name("a"), &digest).is_err(), "another repository's");
    assert!(storage.open_upload(&repository, &id).is_err());
    assert_eq!(storage.check().unwrap(), []);
}

#[test]
fn other_content_than_said_is_thrown_away() {
    let (_folder, storage) = store(DEFAULT_GRACE);
    let mut upload = storage.begin_upload(&name("a"), Algorithm::Sha256).unwrap();
    upload.append(b"other").unwrap();
    let id = upload.id().clone();
    let digest = ContentDigest::with(Algorithm::Sha512, b"insula");
    let error = storage.finish_upload(upload, &digest).unwrap_err();
    assert!(matches!(error, StorageError::Mismatch { .. }));
    assert!(storage.open_upload(&name("a"), &id).is_err());
    assert!(storage.mount(&name("b"), &digest, None).is_err());
}

#[test]
fn a_manifest_needs_its_blobs() {
    let (_folder, storage) = store(DEFAULT_GRACE);
    let repository = name("a");
    let bytes = image(&[b"x"], "");
    let error = storage.put_manifest(&repository, &tag("1"), "", &bytes, Presence::Required).unwrap_err();
    let StorageError::Missing { missing, .. } = error else { panic!("{error}") };
    assert_eq!(missing, [ContentDigest::of(b"{}"), ContentDigest::of(b"x")]);
    let digest = push(&storage, &repository, "1", &[b"x"]);
    assert_eq!(storage.manifest(&repository, &tag("1")).unwrap().bytes, bytes);
    assert_eq!(storage.tags(&repository).unwrap(), ["1"]);
    storage.delete_manifest(&repository, &Target::Digest(digest)).unwrap();
    assert!(storage.manifest(&repository, &tag("1")).is_err());
    assert_eq!(storage.tags(&repository).unwrap(), [""; 0]);
}

#[test]
fn referrers_are_listed_while_they_are_there() {
    let (_folder, storage) = store(DEFAULT_GRACE);
    let repository = name("a");
    let subject = push(&storage, &repository, "1", &[b"x"]);
    let extra = format!(r#","artifactType":"t/u","subject":{{"mediaType":"a/b","digest":"{subject}","size":1}}"#);
    let bytes = image(&[], &extra);
    let digest = ContentDigest::of(&bytes);
    let put = storage.put_manifest(&repository, &Target::Digest(digest), "", &bytes, Presence::Required).unwrap();
    assert_eq!(put.subject, Some(subject));
    let listed = storage.referrers(&repository, &subject).unwrap();
    assert_eq!((listed[0].digest, listed[0].artifact_type.as_deref()), (digest, Some("t/u")));
    storage.delete_manifest(&repository, &Target::Digest(digest)).unwrap();
    assert_eq!(storage.referrers(&repository, &subject).unwrap(), []);
}

#[test]
fn collection_takes_what_nothing_refers_to_after_its_lease() {
    let (_folder, storage) = store(NONE);
    let (one, two) = (name("one"), name("two/deep"));
    push(&storage, &one, "1", &[b"kept", b"shared"]);
    let gone = push(&storage, &two, "1", &[b"lost", b"shared"]);
    storage.delete_manifest(&two, &Target::Digest(gone)).unwrap();
    drop(storage.begin_upload(&one, Algorithm::Sha256).unwrap());
    wait();
    let how = Collection { upload_expiry: NONE, ..Collection::default() };
    let done = storage.collect(how).unwrap();
    // "lost" and the manifest; "shared" and the configuration are needed by the other repository.
    assert_eq!((done.blobs, done.uploads), (2, 1));
    assert!(storage.blob(&one, &ContentDigest::of(b"shared")).is_ok());
    assert!(storage.blob(&two, &ContentDigest::of(b"shared")).is_err());
    assert_eq!(storage.repositories().unwrap(), [one]);
    assert_eq!(storage.check().unwrap(), []);
    assert_eq!(storage.collect(how).unwrap(), Collected::default());
}

#[test]
fn a_lease_spares_what_was_just_uploaded() {
    let (_folder, storage) = store(DEFAULT_GRACE);
    storage.put_blob(&name("a"), &ContentDigest::of(b"x"), b"x").unwrap();
    wait();
    assert_eq!(storage.collect(Collection::default()).unwrap(), Collected::default());
    assert!(storage.blob(&name("a"), &ContentDigest::of(b"x")).is_ok());
}

#[test]
fn untagged_manifests_go_only_when_asked_and_not_needed() {
    let (_folder, storage) = store(NONE);
    let repository = name("a");
    let old = push(&storage, &repository, "1", &[b"old"]);
    let child = push(&storage, &repository, "1", &[b"new"]);
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{child}","size":1}}]}}"#,
        crate::manifest::OCI_INDEX
    );
    storage.put_manifest(&repository, &tag("1"), "", index.as_bytes(), Presence::Required).unwrap();
    wait();
    assert_eq!(storage.collect(Collection::default()).unwrap(), Collected::default());
    let how = Collection { untagged: Untagged::Remove, ..Collection::default() };
    let done = storage.collect(how).unwrap();
    assert_eq!((done.manifests, done.blobs), (1, 2));
    assert!(storage.manifest(&repository, &Target::Digest(old)).is_err());
    assert!(storage.manifest(&repository, &Target::Digest(child)).is_ok());
    assert_eq!(storage.check().unwrap(), []);
}

#[test]
fn collection_under_load_never_breaks_a_manifest() {
    let (_folder, storage) = store(NONE);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = Flag(&stop);
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                storage.collect(Collection { untagged: Untagged::Remove, ..Collection::default() }).unwrap();
            }
        });
        for round in 0..40_u32 {
            let repository = name(if round % 2 == 0 { "a" } else { "b" });
            let layer = (round % 4).to_le_bytes();
            let blobs = [&layer[..], b"{}"];
            // With no lease at all a blob may go before its manifest comes; then that is refused, and the client tries again.
            loop {
                for blob in blobs {
                    storage.put_blob(&repository, &ContentDigest::of(blob), blob).or_else(lost).unwrap();
                }
                let bytes = image(&[&layer], "");
                match storage.put_manifest(&repository, &tag("t"), "", &bytes, Presence::Required) {
                    Ok(_) => break,
                    Err(StorageError::Missing { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(storage.check().unwrap(), [], "round {round}");
        }
    });
}

/// Raises a flag at the end, also when a test fails.
struct Flag<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

fn lost(error: StorageError) -> Result<(), StorageError> {
    if matches!(error, StorageError::NoBlob { .. }) { Ok(()) } else { Err(error) }
}

#[test]
fn one_process_at_a_time() {
    let (_folder, storage) = store(DEFAULT_GRACE);
    assert!(matches!(Storage::open(storage.root(), DEFAULT_GRACE), Err(StorageError::Locked { .. })));
}
