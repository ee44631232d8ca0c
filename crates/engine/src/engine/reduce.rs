//! Compressed layers are reduced to what the layers do not have, when nobody is waiting for anything.

use super::inner::Inner;
use image::Reduction;
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Starts the task; it ends with the engine.
pub(super) fn start(inner: &Arc<Inner>) {
    let Some(after) = inner.config.distribution.reduce_after else { return };
    let (news, inner) = (Arc::clone(&inner.taken), Arc::downgrade(inner));
    tokio::spawn(async move {
        let mut tried = BTreeSet::new();
        loop {
            settled(&news, after).await;
            let Some(work) = spawn(&inner, tried) else { return };
            match work.await {
                Ok(done) => tried = done,
                Err(_) => return,
            }
            news.notified().await;
        }
    });
}

/// Returns once nothing has come for so long.
async fn settled(news: &tokio::sync::Notify, after: Duration) {
    while tokio::time::timeout(after, news.notified()).await.is_ok() {}
}

type Tried = BTreeSet<oci::digest::Digest>;

/// Reduces all that can be and was not tried in vain, on a thread of its own that gives way to everybody else.
fn spawn(inner: &Weak<Inner>, mut tried: Tried) -> Option<tokio::sync::oneshot::Receiver<Tried>> {
    let images = inner.upgrade()?.images.clone();
    let (done, wait) = tokio::sync::oneshot::channel();
    let work = move || {
        // of this thread only, as Linux has it
        let _ = rustix::process::setpriority_process(None, 19);
        for (blob, layer) in images.reducible() {
            if done.is_closed() || tried.contains(&blob) {
                continue;
            }
            match images.reduce(&blob, &layer) {
                Ok(Reduction::Reduced(bytes)) => tracing::debug!(%blob, bytes, "reduced a compressed layer"),
                Ok(Reduction::Gone) => {}
                Ok(Reduction::Whole) => drop(tried.insert(blob)),
                Err(error) => {
                    tried.insert(blob);
                    tracing::warn!(%blob, %error, "cannot reduce a compressed layer");
                }
            }
        }
        let _ = done.send(tried);
    };
    std::thread::Builder::new().name("reduce".to_owned()).spawn(work).ok()?;
    Some(wait)
}
