//! Builds: Docker's classic builder, and our own form of it, which carries what that has no word for.

mod request;
mod teller;

use super::image::{Archive, drain, feed};
use crate::error::ApiError;
use crate::query::parse_duration;
use crate::reply::{self, Result};
use crate::server::Call;
use bytes::Bytes;
use docker_wire::extra::{Build, BuildLine};
use engine::image::build::Volumes;
use engine::{BuildContext, BuildOutcome, BuildRequest, CacheFilter, Engine, EngineError, PrunedCache};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::io;
use tokio::sync::{mpsc, oneshot, watch};

pub(super) use request::document;
use request::{classic_request, own_request, shared};
use teller::{Form, Teller};

/// Events that wait for a slow client.
const DEPTH: usize = 256;
/// The longest first line of our own form, in bytes: secrets are in it.
const MAX_LINE: usize = 64 << 20;

type Lines = mpsc::Sender<io::Result<Bytes>>;

/// `POST /build`
pub(crate) async fn classic(mut call: Call) -> Result {
    // without a session there is nothing that only BuildKit's way could do
    let newer = call.query.text("version") == Some("2");
    if newer && call.query.text("session").or(call.query.text("buildid")).is_some() {
        return super::buildkit::build(call).await;
    }
    let mut request = match classic_request(&call.query) {
        Ok(request) => request,
        Err(error) => {
            // who sends an archive hears of the refusal once all is sent
            drain(call.request.body_mut()).await;
            return Err(error);
        }
    };
    request.proofs = super::registry::proofs(&call);
    if newer {
        request.options.volumes = Volumes::default();
    }
    let quiet = call.query.flag("q");
    let engine = call.api.engine.clone();
    request.context = match call.query.text("remote") {
        Some(address) => BuildContext::Remote(address.to_owned()),
        None => archive(call.request.into_body(), Bytes::new()),
    };
    let (sender, told) = mpsc::channel(DEPTH);
    let (refuse, refused) = oneshot::channel();
    tokio::spawn(async move {
        let names = request.names.clone();
        let mut teller = Teller::new(&sender, if quiet { Form::Quiet } else { Form::Classic });
        let outcome = match run(&engine, request, &sender, &mut teller).await {
            // nothing was told yet: the answer is the refusal, unless there is an answer already or the steps have begun
            Err(error) if !teller.planned() && sender.capacity() == sender.max_capacity() => match refuse.send(error) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            outcome => outcome,
        };
        teller.classic_end(outcome, &names).await;
    });
    begun(told, refused).await
}

/// An answer as soon as there is a first line of it: what is wrong with a build from the start is an answer of its own.
async fn begun(mut told: mpsc::Receiver<io::Result<Bytes>>, refused: oneshot::Receiver<EngineError>) -> Result {
    let first = told.recv().await;
    if first.is_none()
        && let Ok(error) = refused.await
    {
        return Err(error.into());
    }
    let (out, reply) = reply::stream("application/json");
    tokio::spawn(async move {
        let mut next = first;
        while let Some(line) = next
            && out.send(line).await.is_ok()
        {
            next = tokio::select! {
                line = told.recv() => line,
                () = out.closed() => None,
            };
        }
    });
    Ok(reply)
}

/// `POST /insula/build`
pub(crate) async fn own(call: Call) -> Result {
    let proofs = super::registry::proofs(&call);
    let mut body = call.request.into_body();
    let (asked, rest) = first_line(&mut body).await?;
    let output = asked.output.clone().map(|folder| shared(&folder)).transpose()?;
    let owner = asked.owner;
    let mut request = own_request(&asked)?;
    request.proofs = proofs;
    if asked.archive {
        request.context = archive(body, rest);
    } else {
        // a body that is not read to its end hides that its sender goes away
        drain(&mut body).await;
    }
    let engine = call.api.engine.clone();
    let (sender, reply) = reply::stream("application/json");
    if asked.check {
        let review = engine.review(request).await?;
        tokio::spawn(async move {
            send(&sender, &BuildLine::Checked(review.checked.remarks.len(), review.report)).await;
            if let Some(error) = review.fault {
                send(&sender, &BuildLine::Error(error.to_string())).await;
            }
        });
        return Ok(reply);
    }
    tokio::spawn(async move {
        let mut teller = Teller::new(&sender, Form::Own);
        let mut outcome = run(&engine, request, &sender, &mut teller).await;
        if let (Ok(built), Some(folder)) = (&outcome, output)
            && let Err(error) = engine.copy_out(&built.product, folder, owner).await
        {
            outcome = Err(error);
        }
        if let Ok(built) = &outcome {
            let several = built.product.family.as_ref().is_some_and(|family| family.members.len() > 1);
            if asked.tags.is_empty() && asked.output.is_some() {
                engine.remove_product(&built.product).await;
            } else if asked.tags.is_empty() && several {
                match engine.keep_product(&built.product) {
                    Ok(name) => send(&sender, &BuildLine::Together(name)).await,
                    Err(error) => outcome = Err(error),
                }
            }
        }
        let last = match outcome {
            Ok(built) => BuildLine::Image(built.product.image.id.to_string(), built.reused),
            Err(error) => BuildLine::Error(error.to_string()),
        };
        send(&sender, &last).await;
    });
    Ok(reply)
}

/// `GET /insula/tree/{name}`: what the image's layers give together.
pub(crate) async fn tree(call: Call) -> Result {
    let product = call.engine().product(call.who()).await?;
    let (sender, reply) = reply::stream("application/x-tar");
    let engine = call.api.engine.clone();
    tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces { sender, piece: Vec::new() };
        if let Err(error) = engine.write_tree(&product, &mut pieces) {
            // an error in the stream cuts the connection
            let _ = pieces.sender.blocking_send(Err(io::Error::other(error)));
        }
    });
    Ok(reply)
}

/// Writes into an answer.
struct Pieces {
    sender: Lines,
    piece: Vec<u8>,
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= 256 << 10 {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        if piece.is_empty() { Ok(()) } else { self.sender.blocking_send(Ok(piece.into())).map_err(gone) }
    }
}

/// `POST /build/prune`
pub(crate) async fn prune(call: Call) -> Result {
    let keys = ["description", "id", "inuse", "parent", "private", "shared", "type", "until", "unused-for"];
    let filters = call.query.filters(&keys)?;
    let known = ["until", "unused-for"];
    let given = known.iter().find_map(|key| filters.values(key)?.iter().next());
    let bad = |text: &String| ApiError::invalid(format!("invalid time {text:?}: give a length as in 24h or 1h30m"));
    let unused_for = given.map(|text| parse_duration(text).ok_or_else(|| bad(text))).transpose()?;
    // an older and a newer name
    let keep_bytes = match call.query.number::<u64>("reserved-space")? {
        Some(bytes) => Some(bytes),
        None => call.query.number::<u64>("keep-storage")?,
    };
    let keep_bytes = keep_bytes.filter(|bytes| *bytes > 0);
    let (shared, private) = (filters.flag("shared")?, filters.flag("private")?.map(|private| !private));
    let values = |key: &str| filters.values(key).map(<[String]>::to_vec);
    // a record is of the ordinary kind, in nobody's use, and stands upon no other
    let none = filters.flag("inuse")? == Some(true)
        || filters.values("parent").is_some()
        || !filters.matches("type", |kind| kind == "regular")
        || shared.zip(private).is_some_and(|(one, other)| one != other);
    let all = call.query.flag("all");
    let shared = shared.or(private);
    let filter = CacheFilter { all, unused_for, keep_bytes, ids: values("id"), texts: values("description"), shared };
    let pruned = if none { PrunedCache::default() } else { call.engine().prune_build_cache(filter).await? };
    reply::json(&json!({ "CachesDeleted": reply::removed(pruned.keys), "SpaceReclaimed": pruned.bytes }))
}

/// The cache's records as `GET /system/df` shows them.
pub(crate) fn cache(call: &Call) -> Vec<Value> {
    let entries = call.engine().build_cache();
    entries
        .into_iter()
        .map(|one| {
            let used = jiff::Timestamp::try_from(one.used).map(|time| time.to_string()).unwrap_or_default();
            json!({
                "ID": one.id, "Type": "regular", "Description": one.text, "InUse": false, "Shared": one.shared,
                "Size": one.bytes, "CreatedAt": one.created, "LastUsedAt": used, "UsageCount": 1, "Parents": [],
            })
        })
        .collect()
}

/// A body as a context.
pub(super) fn archive(mut body: Incoming, early: Bytes) -> BuildContext {
    let (pieces, archive) = Archive::new();
    tokio::spawn(async move {
        if early.is_empty() || pieces.send(Ok(early)).await.is_ok() {
            feed(&mut body, pieces).await;
        } else {
            drain(&mut body).await;
        }
    });
    BuildContext::Archive(Box::new(archive))
}

async fn first_line(body: &mut Incoming) -> Result<(Build, Bytes)> {
    let mut line = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::invalid(format!("the request's body cannot be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let at = data.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(&data[..at.unwrap_or(data.len())]);
        if line.len() > MAX_LINE {
            return Err(ApiError::invalid(format!("the request's first line is longer than {MAX_LINE} bytes")));
        }
        if let Some(at) = at {
            return Ok((parse(&line)?, data.slice(at + 1..)));
        }
    }
    Ok((parse(&line)?, Bytes::new()))
}

fn parse(line: &[u8]) -> Result<Build> {
    serde_json::from_slice(line).map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))
}

/// Builds and tells of it, until the end or until the client goes away.
async fn run(
    engine: &Engine,
    request: BuildRequest,
    client: &Lines,
    teller: &mut Teller<'_>,
) -> std::result::Result<BuildOutcome, EngineError> {
    let (events, mut happened) = mpsc::channel(DEPTH);
    let (stop, stopped) = watch::channel(false);
    let build = engine.build(request, events, stopped);
    let tell = async {
        while let Some(event) = happened.recv().await {
            teller.event(event).await;
        }
    };
    let both = async { tokio::join!(build, tell).0 };
    let mut both = std::pin::pin!(both);
    tokio::select! {
        outcome = &mut both => outcome,
        () = client.closed() => {
            let _ = stop.send(true);
            both.await
        }
    }
}

async fn send(client: &Lines, value: &impl serde::Serialize) {
    let _ = client.send(reply::json_line(value).map_err(io::Error::other)).await;
}
