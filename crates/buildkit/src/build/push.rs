//! Results that go to their registries: newer clients leave that to a builder with an image store like ours, older ones do
//! it themselves, too.

use super::failed;
use super::job::Job;
use super::progress::Stage;
use crate::BuildKit;
use crate::rpc::Status;
use crate::session::Visit;
use crate::wire::control::Typed;
use engine::{LayerStep, Progress, Proof, Respondent};
use oci::reference::Reference;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Progress that waits for a slow client.
const DEPTH: usize = 64;

/// Whether an output says so.
pub(super) fn is_wanted(exporter: &Typed) -> bool {
    exporter.attrs.get("push").is_some_and(|push| matches!(push.as_str(), "true" | "1"))
}

/// Sends a name and what it stands for; the answer has the digest that the registry knows it by.
///
/// # Errors
/// What the registry says, and what the client says of its credentials.
pub(super) async fn push(
    kit: &BuildKit,
    job: &Job,
    name: &Reference,
    response: &mut BTreeMap<String, String>,
) -> Result<(), Status> {
    let vertex = format!("pushing {name}");
    job.board.lock().await.begin(&vertex).await;
    let pushed = send(kit, job, name, &vertex).await;
    let error = pushed.as_ref().err().map(|status| status.message.clone()).unwrap_or_default();
    job.board.lock().await.end(&vertex, &error).await;
    response.extend(pushed?.map(|digest| ("containerimage.digest".to_owned(), digest)));
    Ok(())
}

async fn send(kit: &BuildKit, job: &Job, name: &Reference, vertex: &str) -> Result<Option<String>, Status> {
    let session = kit.sessions.find(&job.session).await?;
    let visit = Visit::new(Arc::clone(&session), kit.engine.clone());
    let proof: Proof = visit.proof(name.domain()).await.map_err(failed)?.unwrap_or_default();
    let (progress, mut happened) = mpsc::channel(DEPTH);
    let name = name.to_string();
    let sending = kit.engine.push(&name, None, proof, progress);
    let told = async {
        let mut digest = None;
        while let Some(step) = happened.recv().await {
            match step {
                Progress::Pushed { digest: of, .. } => digest = Some(of),
                Progress::Layer(layer, LayerStep::Sent) => {
                    job.board.lock().await.part(vertex, &format!("pushing layer {layer}"), 0, Stage::Done).await;
                }
                _ => {}
            }
        }
        digest
    };
    let (sent, digest) = tokio::join!(sending, told);
    sent.map_err(failed)?;
    Ok(digest)
}
