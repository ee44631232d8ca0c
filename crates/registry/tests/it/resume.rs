//! Connections that break anywhere.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::tools::{breaking, client, describe, noise, pull, push, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_where_it_was() {
    let server = start().await;
    let layer = noise(1, 3_000_000);
    let direct = client().remote(&server.domain(), "a").unwrap();
    push(&direct, "1", std::slice::from_ref(&layer)).await;
    for seed in 1..=6 {
        let way = breaking(server.address, seed, 450_000).await;
        let remote = client().remote(&way.address.to_string(), "a").unwrap();
        assert_eq!(pull(&remote, &describe("a/b", &layer)).await, layer, "seed {seed}");
        assert!(way.cuts.load(Ordering::Relaxed) >= 4, "seed {seed}: the way did not break");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_goes_on_where_it_was() {
    let server = start().await;
    for seed in 1..=6 {
        let way = breaking(server.address, seed, 1_500_000).await;
        let remote = client().remote(&way.address.to_string(), "b").unwrap();
        let layer = noise(seed, 4_000_000);
        let descriptor = describe("a/b", &layer);
        let pushed = remote.push_blob(&descriptor, Arc::new(layer.clone()), &[], None).await;
        assert!(pushed.is_ok(), "seed {seed}: {pushed:?}");
        assert!(way.cuts.load(Ordering::Relaxed) >= 2, "seed {seed}: the way did not break");
        let direct = client().remote(&server.domain(), "b").unwrap();
        assert_eq!(pull(&direct, &descriptor).await, layer, "seed {seed}");
    }
    assert_eq!(server.storage.check().unwrap(), []);
}
