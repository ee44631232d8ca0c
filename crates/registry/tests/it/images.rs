//! Pushing and pulling whole images.

use std::io::Read as _;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use registry::client::{BlobSource, ClientConfig, ClientError, Credentials, Progress, Pushed};
use registry::digest::{Algorithm, ContentDigest};
use registry::manifest::{Descriptor, OCI_INDEX, OCI_MANIFEST};
use registry::name::Target;

use crate::tools::{client, describe, manifest, noise, pull, push, settings, start, tag};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_is_pulled() {
    let server = start().await;
    let remote = client().remote(&server.domain(), "team/web").unwrap();
    let layers = [noise(1, 3_000_000), noise(2, 10), noise(3, 0)];
    let digest = push(&remote, "1", &layers).await;
    let image = remote.image(&tag("1"), &"linux/amd64".parse().unwrap()).await.unwrap();
    assert_eq!(image.named.descriptor.digest, digest);
    assert!(image.config.starts_with(b"{\"architecture\""));
    let each = |_, stream: registry::client::BlobStream| async move { stream.into_bytes(1 << 30).await };
    let pulled: Vec<Bytes> = remote.blobs(&image.image.manifest.layers, 3, None, each).await.unwrap();
    assert_eq!(pulled, layers);
    assert_eq!(remote.tags().await.unwrap(), ["1"]);
    assert_eq!(remote.resolve(&tag("1")).await.unwrap(), digest);
    assert_eq!(client().search(&server.domain(), "we", 5).await.unwrap()[0].name, "team/web");
    let error = remote.image(&tag("2"), &"linux/amd64".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, ClientError::NotFound { .. }), "{error}");
    assert_eq!(server.storage.check().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_the_platform() {
    let server = start().await;
    let remote = client().remote(&server.domain(), "multi").unwrap();
    let mut entries = Vec::new();
    for (seed, architecture) in [(1, "arm64"), (2, "amd64")] {
        let digest = push(&remote, architecture, &[noise(seed, 100)]).await;
        let size = remote.manifest(&Target::Digest(digest)).await.unwrap().bytes.len();
        entries.push(format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":{size},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
        ));
    }
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, entries.join(","));
    remote.push_manifest(&tag("all"), OCI_INDEX, index.into()).await.unwrap();
    let image = remote.image(&tag("all"), &"linux/amd64".parse().unwrap()).await.unwrap();
    assert_eq!(image.image.manifest.layers[0].digest, ContentDigest::of(&noise(2, 100)));
    let error = remote.image(&tag("all"), &"linux/s390x".parse().unwrap()).await.unwrap_err();
    assert!(error.to_string().ends_with("it has: linux/arm64, linux/amd64"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_looked_for_mounted_then_sent() {
    let server = start().await;
    let (one, two) =
        (client().remote(&server.domain(), "one").unwrap(), client().remote(&server.domain(), "two").unwrap());
    let layer = noise(5, 100_000);
    let descriptor = describe("a/b", &layer);
    let source: Arc<dyn BlobSource> = Arc::new(layer);
    let from = [one.repository().clone()];
    let put = |remote: registry::client::Remote| {
        let (descriptor, source, from) = (descriptor.clone(), Arc::clone(&source), from.clone());
        async move { remote.push_blob(&descriptor, source, &from, None).await.unwrap() }
    };
    assert_eq!(put(one.clone()).await, Pushed::Uploaded);
    assert_eq!(put(one.clone()).await, Pushed::Existed);
    assert_eq!(put(two.clone()).await, Pushed::Mounted);
    assert_eq!(pull(&two, &descriptor).await, noise(5, 100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_and_sha512_arrive_whole() {
    let server = start().await;
    let config = ClientConfig { chunk: Some(70_000), ..settings() };
    let remote = registry::client::Client::new(config, Credentials::None).remote(&server.domain(), "chunks").unwrap();
    let layer = noise(6, 1_000_000);
    let digest = ContentDigest::with(Algorithm::Sha512, &layer);
    let descriptor = Descriptor::new("a/b", digest, layer.len() as u64);
    let pushed = remote.push_blob(&descriptor, Arc::new(layer.clone()), &[], None).await.unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    assert_eq!(pull(&remote, &descriptor).await, layer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_can_be_read_on_a_blocking_thread_and_tells_its_progress() {
    #[derive(Default)]
    struct Seen(Mutex<Vec<u64>>);
    impl Progress for Seen {
        fn advanced(&self, _: &ContentDigest, done: u64, all: u64) {
            assert_eq!(all, 2_000_000);
            self.0.lock().unwrap().push(done);
        }
    }
    let server = start().await;
    let remote = client().remote(&server.domain(), "a").unwrap();
    let layer = noise(7, 2_000_000);
    let descriptor = describe("a/b", &layer);
    remote.push_blob(&descriptor, Arc::new(layer.clone()), &[], None).await.unwrap();
    let seen = Arc::new(Seen::default());
    let stream = remote.blob(&descriptor, Some(seen.clone())).await.unwrap();
    let mut reader = stream.into_reader(tokio::runtime::Handle::current());
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    });
    assert_eq!(read.await.unwrap().unwrap(), layer);
    let seen = seen.0.lock().unwrap();
    assert!(seen.is_sorted() && seen.last() == Some(&2_000_000), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_never_reaches_its_end() {
    let server = start().await;
    let remote = client().remote(&server.domain(), "a").unwrap();
    let layer = noise(8, 500_000);
    let descriptor = describe("a/b", &layer);
    remote.push_blob(&descriptor, Arc::new(layer), &[], None).await.unwrap();
    // The disk forgets a bit.
    let hex = descriptor.digest.hex();
    let path = server.storage.root().join("blobs/sha256").join(&hex[..2]).join(&hex);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1234] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let mut stream = remote.blob(&descriptor, None).await.unwrap();
    let mut came = 0;
    let error = loop {
        match stream.next().await {
            Ok(Some(piece)) => came += piece.len(),
            Ok(None) => panic!("wrong content was accepted"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ClientError::Digest { .. }) && came < 500_000, "{error}");
    assert_eq!(server.storage.check().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_found_and_filtered() {
    let server = start().await;
    let remote = client().remote(&server.domain(), "a").unwrap();
    let subject = push(&remote, "1", &[]).await;
    let empty = Bytes::from_static(b"{}");
    let config = describe("application/vnd.oci.empty.v1+json", &empty);
    remote.push_blob(&config, Arc::new(empty), &[], None).await.unwrap();
    for kind in ["x/sbom", "x/other"] {
        let extra = format!(
            r#","artifactType":"{kind}","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":1}}"#
        );
        let text = manifest(&config, &[], &extra);
        let target = Target::Digest(ContentDigest::of(&text));
        remote.push_manifest(&target, OCI_MANIFEST, text).await.unwrap();
    }
    assert_eq!(remote.referrers(&subject, None).await.unwrap().len(), 2);
    let found = remote.referrers(&subject, Some("x/sbom")).await.unwrap();
    assert_eq!(found[0].artifact_type.as_deref(), Some("x/sbom"));
    assert_eq!(found.len(), 1);
}
