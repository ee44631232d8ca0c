//! The services of a connection: `moby.buildkit.v1.Control`, and the gateway for front ends that run in the client.

use crate::BuildKit;
use crate::build::{self, Asked, Job};
use crate::rpc::{Call, Code, Method, Replies, Status};
use crate::wire::control::{
    DiskUsageRequest, DiskUsageResponse, GcPolicy, InfoResponse, ListWorkersResponse, PruneRequest, SolveRequest,
    SolveResponse, StatusRequest, Typed, UsageRecord, Version, WorkerRecord,
};
use crate::wire::gateway::{self, Cap, PongResponse, ReturnRequest, SolveResult};
use crate::wire::{Empty, Piece, Timestamp};
use crate::{history, session as sessions};
use bytes::BytesMut;
use engine::{CacheEntry, CacheFilter};
use hyper::HeaderMap;
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Says to which solve a call of the gateway belongs.
const SOLVE_ID: &str = "buildkit-controlapi-buildid";
/// The most bytes in one message of a session within a call.
const PIECE: usize = 32 << 10;

macro_rules! methods {
    ($($path:literal $handler:path;)*) => {
        &[$(Method { path: $path, handler: |kit, call, replies| Box::pin($handler(kit, call, replies)) }),*]
    };
}

/// Sorted by path.
pub(crate) static METHODS: &[Method<BuildKit>] = methods! {
    "/containerd.services.content.v1.Content/Info" history::blob_of;
    "/containerd.services.content.v1.Content/Read" history::blob;
    "/moby.buildkit.v1.Control/DiskUsage" disk_usage;
    "/moby.buildkit.v1.Control/Info" info;
    "/moby.buildkit.v1.Control/ListWorkers" list_workers;
    "/moby.buildkit.v1.Control/ListenBuildHistory" history::listen;
    "/moby.buildkit.v1.Control/Prune" prune;
    "/moby.buildkit.v1.Control/Session" session;
    "/moby.buildkit.v1.Control/Solve" solve;
    "/moby.buildkit.v1.Control/Status" status;
    "/moby.buildkit.v1.Control/UpdateBuildHistory" history::update;
    "/moby.buildkit.v1.frontend.LLBBridge/Evaluate" evaluate;
    "/moby.buildkit.v1.frontend.LLBBridge/Ping" ping;
    "/moby.buildkit.v1.frontend.LLBBridge/Return" give_back;
    "/moby.buildkit.v1.frontend.LLBBridge/Solve" gateway_solve;
};

/// What a build's front end takes, as far as clients ask.
const CAPS: &[&str] = &[
    "frontend.inputs",
    "gateway.evaluate",
    "gateway.solve.metadata",
    "proto.refarray",
    "reference.output",
    "return",
    "returnmap",
    "solve.base",
    "solve.inlinereturn",
];

/// What the outputs of a build can have.
const GRAPH_CAPS: &[&str] = &["exporter.image.attestations"];

type Result<T = ()> = std::result::Result<T, Status>;

fn version() -> Version {
    let revision = String::new();
    Version { package: "insula".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), revision }
}

fn worker(kit: &BuildKit) -> WorkerRecord {
    // clients take a label of this name as the sign of an image store that sends archives and keeps caches
    let labels = BTreeMap::from([("org.mobyproject.buildkit.worker.snapshotter".to_owned(), "erofs".to_owned())]);
    WorkerRecord {
        id: kit.worker.clone(),
        labels,
        platforms: vec![oci::platform::Platform::host().into()],
        gc_policy: vec![GcPolicy {
            keep_bytes: i64::try_from(kit.engine.build_cache_limit()).unwrap_or(i64::MAX),
            ..GcPolicy::default()
        }],
        version: Some(version()),
    }
}

async fn info(_: Arc<BuildKit>, _: Call, replies: Replies) -> Result {
    replies.send(&InfoResponse { version: Some(version()) }).await
}

async fn list_workers(kit: Arc<BuildKit>, _: Call, replies: Replies) -> Result {
    replies.send(&ListWorkersResponse { record: vec![worker(&kit)] }).await
}

fn record(entry: CacheEntry) -> UsageRecord {
    let created = entry.created.parse::<jiff::Timestamp>().ok();
    let used = jiff::Timestamp::try_from(entry.used).ok();
    UsageRecord {
        id: entry.id,
        mutable: false,
        in_use: false,
        size: i64::try_from(entry.bytes).unwrap_or(i64::MAX),
        created_at: created.map(Timestamp::from),
        last_used_at: used.map(Timestamp::from),
        usage_count: 1,
        description: entry.text,
        record_type: "regular".to_owned(),
        shared: entry.shared,
    }
}

async fn disk_usage(kit: Arc<BuildKit>, mut call: Call, replies: Replies) -> Result {
    let asked: DiskUsageRequest = call.messages.only().await?;
    let wanted = Filter::read(&asked.filter)?;
    let record = kit.engine.build_cache().into_iter().map(record).filter(|one| wanted.fits(one)).collect();
    replies.send(&DiskUsageResponse { record }).await
}

async fn prune(kit: Arc<BuildKit>, mut call: Call, replies: Replies) -> Result {
    let asked: PruneRequest = call.messages.only().await?;
    if !Filter::read(&asked.filter)?.is_all() {
        return Err(Status::told("prune takes the filters until and unused-for; nothing was removed"));
    }
    let before = kit.engine.build_cache();
    let unused_for = u64::try_from(asked.keep_duration).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos);
    let keep_bytes = u64::try_from(asked.keep_bytes).ok().filter(|bytes| *bytes > 0);
    let filter = CacheFilter { all: asked.all, unused_for, keep_bytes, ..CacheFilter::default() };
    let pruned = kit.engine.prune_build_cache(filter).await.map_err(build::failed)?;
    let gone: BTreeSet<&str> = pruned.keys.iter().map(|key| key.get(..25).unwrap_or(key)).collect();
    let mut left = pruned.bytes;
    for entry in before.into_iter().filter(|entry| gone.contains(entry.id.as_str())) {
        let mut one = record(entry);
        // an image may still have the layer, whose bytes do not come back then
        let bytes = u64::try_from(one.size).unwrap_or(0).min(left);
        left -= bytes;
        one.size = i64::try_from(bytes).unwrap_or(i64::MAX);
        replies.send(&one).await?;
    }
    if left > 0 {
        let description = "folders of RUN --mount=type=cache".to_owned();
        let size = i64::try_from(left).unwrap_or(i64::MAX);
        let record_type = "exec.cachemount".to_owned();
        replies
            .send(&UsageRecord { id: "caches".to_owned(), size, description, record_type, ..UsageRecord::default() })
            .await?;
    }
    Ok(())
}

/// Filters of the cache's records, each of which may have several words.
#[derive(Debug, Default)]
struct Filter {
    ids: Vec<String>,
    shared: Option<bool>,
    types: Vec<String>,
}

impl Filter {
    /// Reads `name==value` and what clients make of it.
    fn read(texts: &[String]) -> Result<Self> {
        let mut out = Self::default();
        for word in texts.iter().flat_map(|text| text.split(',')).filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once("==").or_else(|| word.split_once("~=")).unwrap_or((word, "true"));
            let value = value.trim_matches(['"', '\'', '^', '$']);
            match name {
                "id" => out.ids.push(value.to_owned()),
                "shared" => out.shared = Some(value == "true"),
                "private" => out.shared = Some(value != "true"),
                "type" => out.types.push(value.to_owned()),
                other => {
                    return Err(Status::invalid(format!(
                        "no filter {other:?}; there are id, shared, private and type"
                    )));
                }
            }
        }
        Ok(out)
    }

    fn fits(&self, record: &UsageRecord) -> bool {
        (self.ids.is_empty() || self.ids.iter().any(|id| record.id.starts_with(id)))
            && self.shared.is_none_or(|shared| shared == record.shared)
            && (self.types.is_empty() || self.types.contains(&record.record_type))
    }

    fn is_all(&self) -> bool {
        self.ids.is_empty() && self.shared.is_none() && self.types.is_empty()
    }
}

async fn solve(kit: Arc<BuildKit>, mut call: Call, replies: Replies) -> Result {
    let asked: SolveRequest = call.messages.only().await?;
    let mut job = Job::new(&asked.reference, asked.session);
    job.exporters = asked.exporters;
    if job.exporters.is_empty() && !asked.exporter.is_empty() {
        job.exporters.push(Typed { kind: asked.exporter, attrs: asked.exporter_attrs });
    }
    let cache = asked.cache.unwrap_or_default();
    (job.cache_exports, job.cache_imports) = (cache.exports, cache.imports);
    job.entitlements = asked.entitlements;
    let recording = (!asked.internal).then(|| kit.history.begin(&asked.reference, &job.exporters)).flatten();
    if let Some(build) = &recording {
        job.record(Arc::clone(build));
    }
    let graphs = asked.definition.is_some_and(|graph| !graph.def.is_empty());
    let what = match asked.frontend.is_empty() && !graphs {
        // what is built is said at the gateway
        true => None,
        false => {
            job.asked(&asked.frontend, &asked.frontend_attrs);
            Some(Asked::new(&asked.frontend, asked.frontend_attrs, Vec::new(), graphs))
        }
    };
    let job = Arc::new(job);
    let done = solve_one(&kit, &asked.reference, &job, what, &replies).await;
    job.board.lock().await.finish(&done).await;
    if done.is_err() {
        build::discard(&kit, &job).await;
    }
    if let Some(build) = recording {
        match &done {
            Ok(response) => kit.history.end(&build, Ok(build::came(&kit, &job, response).await)),
            Err(status) => kit.history.end(&build, Err(status)),
        }
    }
    replies.send(&SolveResponse { exporter_response: done? }).await
}

async fn solve_one(
    kit: &BuildKit,
    reference: &str,
    job: &Arc<Job>,
    what: Option<Result<Asked>>,
    replies: &Replies,
) -> Result<BTreeMap<String, String>> {
    let _entry = kit.jobs.enter(reference, job)?;
    let work = async {
        match what {
            None => job.returned().await?,
            Some(asked) => {
                let asked = asked?;
                if let Some(question) = asked.question() {
                    return Err(Status::told(format!("{question:?} is answered at the gateway only")));
                }
                build::build(kit, job, asked, replies.gone()).await?;
            }
        }
        build::export(kit, job).await
    };
    tokio::select! {
        done = work => done,
        () = replies.gone() => Err(Status::new(Code::CANCELLED, "the client has gone")),
        () = session_gone(kit, job) => Err(Status::new(Code::CANCELLED, "the client's session has ended")),
    }
}

/// Returns when the session that the solve has named has ended.
async fn session_gone(kit: &BuildKit, job: &Job) {
    match kit.sessions.find(&job.session).await {
        Ok(session) => session.gone().await,
        // whatever needs it says so
        Err(_) => std::future::pending().await,
    }
}

async fn status(kit: Arc<BuildKit>, mut call: Call, replies: Replies) -> Result {
    let asked: StatusRequest = call.messages.only().await?;
    if let Some(build) = kit.history.build(&asked.reference).filter(|build| build.has_ended()) {
        return build.replay(&replies).await;
    }
    let job = kit.jobs.find(&asked.reference).await?;
    let Some(mut happened) = job.watch().await else {
        return match job.recording() {
            Some(build) => build.replay(&replies).await,
            None => Err(Status::invalid("somebody watches this solve already")),
        };
    };
    // the channel ends with the solve
    drop(job);
    while let Some(message) = happened.recv().await {
        replies.send(&message).await?;
    }
    Ok(())
}

/// A session within a call, whose messages are pieces of its connection.
async fn session(kit: Arc<BuildKit>, mut call: Call, replies: Replies) -> Result {
    let greeting = sessions::Greeting::read(&call.metadata)?;
    let (ours, theirs) = tokio::io::duplex(PIECE);
    let (mut reader, mut writer) = tokio::io::split(theirs);
    let coming = async {
        while let Some(piece) = call.messages.next::<Piece>().await? {
            if writer.write_all(&piece.data).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let going = async {
        let mut buffer = BytesMut::with_capacity(PIECE);
        while reader.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {
            replies.send(&Piece { data: buffer.split().freeze() }).await?;
            buffer.reserve(PIECE);
        }
        Ok(())
    };
    tokio::select! {
        () = kit.sessions.hold(greeting, TokioIo::new(ours)) => Ok(()),
        done = coming => done,
        done = going => done,
    }
}

async fn job_of(kit: &BuildKit, metadata: &HeaderMap) -> Result<Arc<Job>> {
    let id = metadata.get(SOLVE_ID).and_then(|id| id.to_str().ok());
    kit.jobs.find(id.ok_or_else(|| Status::invalid(format!("the call has no {SOLVE_ID}")))?).await
}

async fn ping(kit: Arc<BuildKit>, call: Call, replies: Replies) -> Result {
    job_of(&kit, &call.metadata).await?;
    let cap = |id: &&str| Cap { id: (*id).to_owned(), enabled: true };
    let frontend_caps = CAPS.iter().map(cap).collect();
    let graph_caps = GRAPH_CAPS.iter().map(cap).collect();
    replies.send(&PongResponse { frontend_caps, graph_caps, workers: vec![worker(&kit)] }).await
}

async fn gateway_solve(kit: Arc<BuildKit>, mut call: Call, replies: Replies) -> Result {
    let job = job_of(&kit, &call.metadata).await?;
    let asked: gateway::SolveRequest = call.messages.only().await?;
    let graphs = asked.definition.is_some_and(|graph| !graph.def.is_empty());
    job.asked(&asked.frontend, &asked.frontend_opt);
    let inputs = asked.frontend_inputs;
    let asked = Asked::new(&asked.frontend, asked.frontend_opt, asked.cache_imports, graphs)?.with_inputs(&inputs)?;
    if asked.question().is_some() {
        let metadata = build::tell_of(&kit, &job, asked).await?;
        let result = SolveResult { metadata, ..SolveResult::default() };
        return replies.send(&gateway::SolveResponse { result: Some(result) }).await;
    }
    build::build(&kit, &job, asked, replies.gone()).await?;
    let result = job.outcome().await.map(|outcome| build::result(&outcome.product)).unwrap_or_default();
    replies.send(&gateway::SolveResponse { result: Some(result) }).await
}

/// Everything is built by the time that there is a reference to it.
async fn evaluate(kit: Arc<BuildKit>, mut call: Call, replies: Replies) -> Result {
    let job = job_of(&kit, &call.metadata).await?;
    let asked: gateway::EvaluateRequest = call.messages.only().await?;
    match job.outcome().await {
        Some(outcome) if outcome.product.images().iter().any(|id| id.to_string() == asked.reference) => {
            replies.send(&Empty {}).await
        }
        _ => Err(Status::new(Code::NOT_FOUND, format!("this solve has no result {:?}", asked.reference))),
    }
}

async fn give_back(kit: Arc<BuildKit>, mut call: Call, replies: Replies) -> Result {
    let job = job_of(&kit, &call.metadata).await?;
    let asked: ReturnRequest = call.messages.only().await?;
    job.give_back(match asked.error {
        Some(status) => Err(status.into()),
        None => Ok(()),
    });
    replies.send(&Empty {}).await
}
