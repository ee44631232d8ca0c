//! The services of a connection: `moby.buildkit.v1.Control`, and the gateway for front ends that run in the client.

use crate::BuildKit;
use crate::build::{self, Asked, Job};
use crate::rpc::{Call, Code, Method, Replies, Status};
use crate::wire::control::{
    DiskUsageRequest, DiskUsageResponse, GcPolicy, InfoResponse, ListWorkersResponse, Platform, PruneRequest,
    SolveRequest, SolveResponse, StatusRequest, Typed, UsageRecord, Version, WorkerRecord,
};
use crate::wire::gateway::{self, Cap, PongResponse, Ref, ReturnRequest, SolveResult};
use crate::wire::{Empty, Timestamp};
use engine::{CacheEntry, CacheFilter};
use hyper::HeaderMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Says to which solve a call of the gateway belongs.
const SOLVE_ID: &str = "buildkit-controlapi-buildid";

macro_rules! methods {
    ($($path:literal $handler:path;)*) => {
        &[$(Method { path: $path, handler: |kit, call, replies| Box::pin($handler(kit, call, replies)) }),*]
    };
}

/// Sorted by path.
pub(crate) static METHODS: &[Method<BuildKit>] = methods! {
    "/moby.buildkit.v1.Control/DiskUsage" disk_usage;
    "/moby.buildkit.v1.Control/Info" info;
    "/moby.buildkit.v1.Control/ListWorkers" list_workers;
    "/moby.buildkit.v1.Control/Prune" prune;
    "/moby.buildkit.v1.Control/Solve" solve;
    "/moby.buildkit.v1.Control/Status" status;
    "/moby.buildkit.v1.frontend.LLBBridge/Ping" ping;
    "/moby.buildkit.v1.frontend.LLBBridge/Return" give_back;
    "/moby.buildkit.v1.frontend.LLBBridge/Solve" gateway_solve;
};

/// What a build's front end takes, as far as clients ask.
const CAPS: &[&str] = &[
    "frontend.inputs",
    "gateway.solve.metadata",
    "proto.refarray",
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
    let platform = |platform: oci::platform::Platform| Platform {
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant.unwrap_or_default(),
    };
    // clients take a label of this name as the sign of an image store that sends archives and keeps caches
    let labels = BTreeMap::from([("org.mobyproject.buildkit.worker.snapshotter".to_owned(), "erofs".to_owned())]);
    WorkerRecord {
        id: kit.worker.clone(),
        labels,
        platforms: vec![platform(oci::platform::Platform::host())],
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
    let job = Arc::new(job);
    let entry = kit.jobs.enter(&asked.reference, &job)?;
    let graphs = asked.definition.is_some_and(|graph| !graph.def.is_empty());
    let work = async {
        match asked.frontend.is_empty() && !graphs {
            // what is built is said at the gateway
            true => job.returned().await?,
            false => {
                let asked = Asked::new(&asked.frontend, asked.frontend_attrs, Vec::new(), graphs)?;
                if let Some(question) = asked.question() {
                    return Err(Status::told(format!("{question:?} is answered at the gateway only")));
                }
                build::build(&kit, &job, asked, replies.gone()).await?;
            }
        }
        build::export(&kit, &job).await
    };
    let done = tokio::select! {
        done = work => done,
        () = replies.gone() => Err(Status::new(Code::CANCELLED, "the client has gone")),
        () = session_gone(&kit, &job) => Err(Status::new(Code::CANCELLED, "the client's session has ended")),
    };
    job.board.lock().await.finish(&done).await;
    drop(entry);
    replies.send(&SolveResponse { exporter_response: done? }).await
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
    let job = kit.jobs.find(&asked.reference).await?;
    let watched = job.watch().await;
    let mut happened = watched.ok_or_else(|| Status::invalid("somebody watches this solve already"))?;
    // the channel ends with the solve
    drop(job);
    while let Some(message) = happened.recv().await {
        replies.send(&message).await?;
    }
    Ok(())
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
    let graphs = asked.definition.is_some_and(|graph| !graph.def.is_empty()) || !asked.frontend_inputs.is_empty();
    let asked = Asked::new(&asked.frontend, asked.frontend_opt, asked.cache_imports, graphs)?;
    if asked.question().is_some() {
        let metadata = build::tell_of(&kit, &job, asked).await?;
        let result = SolveResult { metadata, ..SolveResult::default() };
        return replies.send(&gateway::SolveResponse { result: Some(result) }).await;
    }
    build::build(&kit, &job, asked, replies.gone()).await?;
    let reference = job.outcome().await.map(|outcome| Ref { id: outcome.product.image.id.to_string() });
    replies.send(&gateway::SolveResponse { result: Some(SolveResult { reference, ..SolveResult::default() }) }).await
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
