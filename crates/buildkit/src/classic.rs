//! Builds by BuildKit's way of working over the old request: clients from before buildx ask so, and open a session beside it.
//!
//! # Source
//! Docker Engine API, "ImageBuild" with `version=2`; the lines of the answer are as Docker 20.10 gives them.

use crate::BuildKit;
use crate::build::{self, Asked, Job};
use crate::rpc::Status;
use crate::wire::control::Typed;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use engine::BuildContext;
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A build as the old request has it.
#[derive(Debug)]
pub struct ClassicBuild {
    /// The name that the client gives it.
    pub id: String,
    /// The session's.
    pub session: String,
    /// The front end's options.
    pub options: BTreeMap<String, String>,
    /// The context, where it came with a request.
    pub context: Option<BuildContext>,
    /// Kinds of outputs and their settings.
    pub outputs: Vec<(String, BTreeMap<String, String>)>,
    /// Images with caches in them.
    pub cache_from: Vec<String>,
}

type Lines = mpsc::Sender<io::Result<Bytes>>;

async fn send(lines: &Lines, value: &Value) {
    let mut line = value.to_string();
    line.push('\n');
    // whoever has gone ends the build by it
    let _ = lines.send(Ok(line.into())).await;
}

impl BuildKit {
    /// Builds, and tells of it in lines of JSON.
    pub async fn build(self: Arc<Self>, asked: ClassicBuild, lines: mpsc::Sender<io::Result<Bytes>>) {
        let last = match self.build_classic(asked, &lines).await {
            Ok(Some(id)) => json!({ "id": "moby.image.id", "aux": { "ID": id } }),
            Ok(None) => return,
            Err(status) => {
                let message = status.message;
                json!({ "errorDetail": { "message": message }, "error": message })
            }
        };
        send(&lines, &last).await;
    }

    async fn build_classic(&self, asked: ClassicBuild, lines: &Lines) -> Result<Option<String>, Status> {
        let ClassicBuild { id, session, options, context, outputs, cache_from } = asked;
        let inline =
            options.get("build-arg:BUILDKIT_INLINE_CACHE").is_some_and(|value| value == "1" || value == "true");
        let mut job = Job::new(&id, session);
        job.exporters = outputs.into_iter().map(|(kind, attrs)| Typed { kind, attrs }).collect();
        let import =
            |name: String| Typed { kind: "registry".to_owned(), attrs: BTreeMap::from([("ref".to_owned(), name)]) };
        job.cache_imports = cache_from.into_iter().map(import).collect();
        if inline {
            job.cache_exports.push(Typed { kind: "inline".to_owned(), attrs: BTreeMap::new() });
        }
        let recording = self.history.begin(&id, &job.exporters);
        if let Some(build) = &recording {
            job.record(Arc::clone(build));
            job.asked("dockerfile.v0", &options);
        }
        let job = Arc::new(job);
        let entry = match self.jobs.enter(&id, &job) {
            Ok(entry) => entry,
            Err(status) => {
                recording.iter().for_each(|build| self.history.end(build, Err(&status)));
                return Err(status);
            }
        };
        let watched = job.watch().await;
        let tell = async {
            let Some(mut happened) = watched else { return };
            while let Some(message) = happened.recv().await {
                let aux = STANDARD.encode(message.encode_to_vec());
                send(lines, &json!({ "id": "moby.buildkit.trace", "aux": aux })).await;
            }
        };
        let work = async move {
            let done = async {
                build::build(self, &job, Asked::with_context(options, context)?, lines.closed()).await?;
                build::export(self, &job).await
            };
            let done = done.await;
            job.board.lock().await.finish(&done).await;
            if let Some(build) = recording {
                match &done {
                    Ok(response) => self.history.end(&build, Ok(build::came(self, &job, response).await)),
                    Err(status) => self.history.end(&build, Err(status)),
                }
            }
            drop(entry);
            // nothing more is told once nobody has the job
            drop(job);
            done
        };
        let (done, ()) = tokio::join!(work, tell);
        Ok(done?.remove("containerimage.config.digest"))
    }
}
