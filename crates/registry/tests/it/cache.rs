//! A cache of another registry.

use std::sync::Arc;

use registry::name::Target;
use registry::server::Upstream;

use crate::tools::{breaking, client, describe, noise, pull, push, start, start_with, tag};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_is_fetched_once_and_stays() {
    let origin = start().await;
    let direct = client().remote(&origin.domain(), "team/app").unwrap();
    let layer = noise(1, 5_000_000);
    let digest = push(&direct, "1", std::slice::from_ref(&layer)).await;
    // The way to the origin breaks as well.
    let way = breaking(origin.address, 3, 2_000_000).await;
    let upstream = Upstream { domain: way.address.to_string(), client: client() };
    let cache = start_with(|config| config.proxy = Some(upstream)).await;
    let remote = client().remote(&cache.domain(), "team/app").unwrap();
    let mut pulls = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (remote, descriptor) = (remote.clone(), describe("a/b", &layer));
        pulls.spawn(async move { pull(&remote, &descriptor).await });
    }
    while let Some(pulled) = pulls.join_next().await {
        assert!(pulled.unwrap() == layer);
    }
    assert_eq!(remote.resolve(&tag("1")).await.unwrap(), digest);
    assert_eq!(remote.manifest(&tag("1")).await.unwrap().descriptor.digest, digest);
    assert_eq!(remote.tags().await.unwrap(), ["1"]);
    // The origin is gone; what was asked for is still here.
    drop(origin);
    assert_eq!(remote.manifest(&Target::Digest(digest)).await.unwrap().descriptor.digest, digest);
    assert!(pull(&remote, &describe("a/b", &layer)).await == layer);
    let refused = remote.push_blob(&describe("a/b", b"x"), Arc::new(bytes::Bytes::from_static(b"x")), &[], None).await;
    assert!(refused.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_of_the_origin_is_not_given_on() {
    let origin = start().await;
    let direct = client().remote(&origin.domain(), "a").unwrap();
    let layer = noise(2, 700_000);
    let descriptor = describe("a/b", &layer);
    push(&direct, "1", std::slice::from_ref(&layer)).await;
    let hex = descriptor.digest.hex();
    let path = origin.storage.root().join("blobs/sha256").join(&hex[..2]).join(&hex);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[600_000] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let upstream = Upstream { domain: origin.domain(), client: client() };
    let cache = start_with(|config| config.proxy = Some(upstream)).await;
    let url = format!("GET /v2/a/blobs/{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", descriptor.digest);
    let mut stream = tokio::net::TcpStream::connect(cache.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, url.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // An error is as good as an early end.
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(answer.len() - head < 700_000, "a whole wrong blob was given");
    assert!(cache.storage.blob(&"a".parse().unwrap(), &descriptor.digest).is_err());
    assert_eq!(cache.storage.check().unwrap(), []);
}
