//! Builds as BuildKit's clients ask for them: `Solve` names what becomes of the result, the gateway's `Solve` what is built, `Status`
//! tells of it, and `Return` says that nothing more comes.
//!
//! ```text
//! Control.Solve(ref, exporters, session) ──────────────── waits ────────────> answer: what was exported
//! Control.Status(ref) <── vertexes, logs ──────────────────────────────────── end
//! LLBBridge.Ping, .Solve(frontend, its options, inputs) ──> image   .Return(result or error)
//! ```
//!
//! What one solve has made can be an input of another one: see [`input`].
//!
//! Clients that name a front end in `Control.Solve` need no gateway.

mod caches;
mod export;
mod fault;
mod input;
mod job;
mod progress;
mod push;
mod question;
mod request;
mod source;

pub(crate) use export::{came, discard, export};
pub(crate) use fault::failed;
pub(crate) use input::result;
pub(crate) use job::{Job, Jobs};
pub(crate) use request::Asked;

use crate::BuildKit;
use crate::rpc::{Code, Status};
use crate::session::Visit;
use engine::image::build::NamedContext;
use engine::{BuildEvent, BuildOutcome};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Events that wait for a slow client.
const DEPTH: usize = 256;

/// Builds what is asked for, and keeps the result in the job.
///
/// # Errors
/// What the build says, with its place in the Dockerfile; [`Code::CANCELLED`] once `gone` has come.
pub(crate) async fn build(
    kit: &BuildKit,
    job: &Arc<Job>,
    mut asked: Asked,
    gone: impl Future<Output = ()>,
) -> Result<(), Status> {
    let session = kit.sessions.find(&job.session).await?;
    let (stop, stopped) = watch::channel(false);
    let work = async {
        let source = source::open(kit, &session, job, &mut asked).await?;
        prepare(job, names_of(&source.named)).await;
        let (caches, copies) = caches::open(kit, &session, job, &mut asked).await?;
        let visit = Arc::new(Visit::new(Arc::clone(&session), kit.engine.clone()));
        let (request, file) = request::make(job, asked, source, caches, Some(visit))?;
        job.board.lock().await.about(file.clone());
        let (events, happened) = mpsc::channel(DEPTH);
        let building = kit.engine.build(request, events, stopped);
        let (outcome, ()) = tokio::join!(building, tell(job, happened));
        let outcome: BuildOutcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                let mut board = job.board.lock().await;
                board.failed(&error).await;
                return Err(fault::with_vertex(fault::with_source(error, &file), board.failed_vertex()));
            }
        };
        copies.send(&session, job).await?;
        job.built(outcome).await
    };
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => {
            if job.is_over() {
                discard(kit, job).await;
            }
            return done;
        }
        () = gone => {}
        () = session.gone() => {}
        () = job.cancelled() => {}
    }
    let _ = stop.send(true);
    // steps at work are waited for, so that nothing is left of them
    let _ = work.await;
    // one that was done in this moment, too
    discard(kit, job).await;
    Err(Status::new(Code::CANCELLED, "the build was cancelled"))
}

/// What the images of other solves are called here.
fn names_of(named: &BTreeMap<String, NamedContext>) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for (name, context) in named {
        if let NamedContext::Built(images) = context {
            names.extend(images.iter().map(|image| (image.name.clone(), name.clone())));
        }
    }
    names
}

/// Tells the board what it cannot see.
async fn prepare(job: &Job, names: BTreeMap<String, String>) {
    let mut board = job.board.lock().await;
    board.inputs(names);
    if !job.exporters.is_empty() {
        board.wanted();
    }
}

/// Answers what is asked of the Dockerfile in place of a build; the words of the answer by their names.
///
/// # Errors
/// What is wrong with the file, and what the client says.
pub(crate) async fn tell_of(kit: &BuildKit, job: &Arc<Job>, asked: Asked) -> Result<BTreeMap<String, Vec<u8>>, Status> {
    let session = kit.sessions.find(&job.session).await?;
    if asked.option("context").is_some() && asked.option("dockerfilekey").is_none() {
        return Err(Status::told("only a Dockerfile of the client's can be told of; fetch the context first"));
    }
    let name = asked.option("filename").unwrap_or("Dockerfile").to_owned();
    let folder = asked.option("dockerfilekey").unwrap_or("dockerfile").to_owned();
    let question = asked.question().unwrap_or_default();
    if question == question::CHECK {
        let files = asked.option("contextkey").unwrap_or("context");
        let (file, ignore) = source::checked(kit, &session, job, (&folder, &name), files).await?;
        let (text, options) = ((&*file.name, &*file.text), request::options(&asked)?);
        let review = kit.engine.review_file(text, &options, Some(&ignore)).map_err(failed)?;
        return Ok(question::review(&review, &file));
    }
    let file = source::dockerfile(kit, &session, job, (&folder, &name)).await?;
    question::answer(question, &file, &asked)
}

/// What a request for a build is taken for, without building; for the fuzz target.
pub(crate) fn read(job: &Job, asked: Asked) -> Result<engine::BuildRequest, Status> {
    let opened = source::Opened {
        context: engine::BuildContext::Empty,
        file: None,
        named: BTreeMap::new(),
        contexts: BTreeMap::new(),
    };
    request::make(job, asked, opened, caches::Caches::default(), None).map(|(request, _)| request)
}

async fn tell(job: &Job, mut happened: mpsc::Receiver<BuildEvent>) {
    while let Some(event) = happened.recv().await {
        job.board.lock().await.event(event).await;
    }
}
