//! Builds: Docker's classic builder, and our own form of it, which carries what that has no word for.

use super::image::{Archive, drain, feed};
use crate::error::ApiError;
use crate::query::{Query, parse_duration};
use crate::reply::{self, Result};
use crate::server::Call;
use crate::translate::create::cgroup_parent;
use bytes::Bytes;
use docker_wire::extra::{Build, BuildCache, BuildCacheTarget, BuildLine, SharedFolder};
use engine::image::build::{Options, Volumes};
use engine::model::{NetworkMode, Resources, Ulimit};
use engine::{
    Annotation, Bases, Bearer, BuildContext, BuildEvent, BuildOutcome, BuildRequest, CacheFilter, CachePlace,
    CacheSource, CacheSteps, CacheTarget, Detail, Engine, EngineError, Entitlement, LogStream, Provenance, PrunedCache,
    Reuse, Squash,
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use oci::platform::Platform;
use oci::reference::Reference;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, oneshot, watch};

/// Events that wait for a slow client.
const DEPTH: usize = 256;
/// The longest first line of our own form, in bytes: secrets are in it.
const MAX_LINE: usize = 64 << 20;

/// What standard error stands between in Docker's classic form.
const RED: &str = "\x1b[91m";
const PLAIN: &str = "\x1b[0m";

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

/// How a build is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As Docker's classic builder does: one stage after the other.
    Classic,
    /// Only the image's id.
    Quiet,
    /// As [`BuildLine`]s, as it happens.
    Own,
}

/// Tells a client.
struct Teller<'a> {
    client: &'a Lines,
    form: Form,
    steps: usize,
    /// The stage whose steps are shown now; those of others wait.
    shown: Option<usize>,
    waiting: BTreeMap<usize, VecDeque<BuildEvent>>,
    /// Letters whose other bytes have not come yet, by step and whether it is its standard error.
    open: BTreeMap<(usize, bool), Vec<u8>>,
}

impl<'a> Teller<'a> {
    fn new(client: &'a Lines, form: Form) -> Self {
        Self { client, form, steps: 0, shown: None, waiting: BTreeMap::new(), open: BTreeMap::new() }
    }

    /// Whether a client reads of the steps: what goes wrong now goes wrong in one of them.
    fn planned(&self) -> bool {
        self.form == Form::Classic && self.steps > 0
    }

    async fn event(&mut self, event: BuildEvent) {
        match self.form {
            Form::Quiet => {}
            Form::Own => {
                if let Some(line) = self.own_line(event) {
                    send(self.client, &line).await;
                }
            }
            Form::Classic => self.in_order(event).await,
        }
    }

    fn own_line(&mut self, event: BuildEvent) -> Option<BuildLine> {
        Some(match event {
            BuildEvent::Planned { steps, .. } => BuildLine::Planned(steps),
            BuildEvent::Warning(text) => BuildLine::Warning(text),
            BuildEvent::Remark(remark) => BuildLine::Warning(remark.line()),
            BuildEvent::Fetching(name) => BuildLine::Warning(fetching(&name)),
            BuildEvent::Begun { stage, step, text } | BuildEvent::Scanning { stage, step, text } => {
                BuildLine::Begun(stage, step, text)
            }
            BuildEvent::Cached { step, .. } => BuildLine::Cached(step),
            BuildEvent::Output { step, stream, bytes, .. } => BuildLine::Output(step, self.text(step, stream, bytes)),
            BuildEvent::Done { step, .. } => BuildLine::Done(step),
            BuildEvent::StageDone { .. }
            | BuildEvent::Looking(_)
            | BuildEvent::Found(_)
            | BuildEvent::Making
            | BuildEvent::Failed { .. }
            | BuildEvent::Keeping(_) => return None,
        })
    }

    /// Whole letters.
    fn text(&mut self, step: usize, stream: LogStream, bytes: Vec<u8>) -> String {
        let key = (step, stream == LogStream::Stderr);
        let mut all = self.open.remove(&key).unwrap_or_default();
        all.extend(bytes);
        if let Err(error) = std::str::from_utf8(&all)
            && error.error_len().is_none()
        {
            let rest = all.split_off(error.valid_up_to());
            self.open.insert(key, rest);
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    async fn in_order(&mut self, event: BuildEvent) {
        let stage = match &event {
            BuildEvent::Planned { .. } | BuildEvent::Warning(_) | BuildEvent::Fetching(_) => {
                return self.show(event).await;
            }
            // the classic builder has none
            BuildEvent::Remark(_) => return,
            BuildEvent::Looking(_) | BuildEvent::Found(_) | BuildEvent::Making | BuildEvent::Keeping(_) => return,
            BuildEvent::Begun { stage, .. }
            | BuildEvent::Cached { stage, .. }
            | BuildEvent::Output { stage, .. }
            | BuildEvent::Done { stage, .. }
            | BuildEvent::Failed { stage, .. }
            | BuildEvent::Scanning { stage, .. }
            | BuildEvent::StageDone { stage } => *stage,
        };
        let shown = *self.shown.get_or_insert(stage);
        if stage != shown {
            self.waiting.entry(stage).or_default().push_back(event);
            return;
        }
        let ended = matches!(event, BuildEvent::StageDone { .. });
        self.show(event).await;
        if ended {
            self.next_stage().await;
        }
    }

    /// Shows the stages that wait, up to one that is still at work.
    async fn next_stage(&mut self) {
        self.shown = None;
        while let Some((stage, events)) = self.waiting.pop_first() {
            let ended = events.back().is_some_and(|last| matches!(last, BuildEvent::StageDone { .. }));
            for event in events {
                self.show(event).await;
            }
            if !ended {
                self.shown = Some(stage);
                return;
            }
        }
    }

    async fn show(&mut self, event: BuildEvent) {
        let text = match event {
            BuildEvent::Planned { steps, .. } => {
                self.steps = steps;
                return;
            }
            BuildEvent::Warning(text) => format!("[Warning] {text}\n"),
            BuildEvent::Fetching(name) => format!("[Warning] {}\n", fetching(&name)),
            BuildEvent::Begun { step, text, .. } => format!("Step {step}/{} : {text}\n", self.steps),
            BuildEvent::Cached { .. } => " ---> Using cache\n".to_owned(),
            BuildEvent::Output { step, stream: LogStream::Stderr, bytes, .. } => {
                format!("{RED}{}{PLAIN}", self.text(step, LogStream::Stderr, bytes))
            }
            BuildEvent::Output { step, stream, bytes, .. } => self.text(step, stream, bytes),
            BuildEvent::Done { made, .. } => format!(" ---> {made}\n"),
            _ => return,
        };
        send(self.client, &json!({ "stream": text })).await;
    }

    async fn classic_end(mut self, outcome: std::result::Result<BuildOutcome, EngineError>, names: &[Reference]) {
        // a build that failed leaves stages that nobody has seen
        while !self.waiting.is_empty() {
            self.next_stage().await;
        }
        let built = match outcome {
            Ok(built) => built,
            Err(error) => {
                let message = error.to_string();
                let line = json!({ "errorDetail": { "code": 1, "message": message }, "error": message });
                return send(self.client, &line).await;
            }
        };
        let id = built.product.image.id.to_string();
        send(self.client, &json!({ "aux": { "ID": id } })).await;
        if self.form == Form::Quiet {
            return send(self.client, &json!({ "stream": format!("{id}\n") })).await;
        }
        send(self.client, &json!({ "stream": format!("Successfully built {}\n", built.product.image.id.0.short()) }))
            .await;
        for name in names {
            send(self.client, &json!({ "stream": format!("Successfully tagged {}\n", name.familiar()) })).await;
        }
    }
}

fn fetching(name: &str) -> String {
    format!("fetching the image {name}")
}

fn names<'a>(given: impl Iterator<Item = &'a str>) -> Result<Vec<Reference>> {
    let name = |text: &str| {
        text.parse::<Reference>()
            .map(Reference::tagged)
            .map_err(|error| ApiError::invalid(format!("invalid tag {text:?}: {error}")))
    };
    given.filter(|text| !text.is_empty()).map(name).collect()
}

/// A parameter that is a JSON document.
pub(super) fn document<T: serde::de::DeserializeOwned + Default>(query: &Query, name: &str) -> Result<T> {
    let Some(text) = query.text(name) else { return Ok(T::default()) };
    let value: Option<T> = serde_json::from_str(text)
        .map_err(|error| ApiError::invalid(format!("invalid value for parameter {name}: {error}")))?;
    // a program that sets nothing sends null
    Ok(value.unwrap_or_default())
}

fn network(text: Option<&str>) -> Result<Option<NetworkMode>> {
    match text.unwrap_or("default") {
        "default" => Ok(None),
        "none" => Ok(Some(NetworkMode::None)),
        "host" => Ok(Some(NetworkMode::Host)),
        other => match other.strip_prefix("container:") {
            Some("") => Err(ApiError::invalid("invalid network mode container: without a container's name")),
            Some(who) => Ok(Some(NetworkMode::Container(who.to_owned()))),
            None => Ok(Some(NetworkMode::Networks(other.to_owned()))),
        },
    }
}

/// Sets the platform; of several they are given back.
fn platform(options: &mut Options, text: Option<&str>) -> Result<Vec<Platform>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
    let mut all: Vec<Platform> = Vec::new();
    for platform in text.split(',').map(str::parse) {
        let platform = platform?;
        if !all.contains(&platform) {
            all.push(platform);
        }
    }
    if let [one] = &all[..] {
        options.platform = one.clone();
        all.clear();
    }
    Ok(all)
}

fn provenance(text: Option<&str>) -> Result<Option<Provenance>> {
    let detail = match text {
        None | Some("false") => return Ok(None),
        Some("min" | "true") => Detail::Least,
        Some("max") => Detail::Most,
        Some(other) => return Err(ApiError::invalid(format!("no provenance {other:?}; there are min and max"))),
    };
    Ok(Some(Provenance { detail, builder: String::new(), origin: BTreeMap::new() }))
}

fn reference(text: &str) -> Result<Reference> {
    let parsed = text.parse::<Reference>().map(Reference::tagged);
    parsed.map_err(|error| ApiError::invalid(format!("invalid name {text:?} for a cache: {error}")))
}

/// The argument by which Docker's clients ask for a cache in the image itself.
fn inline_wanted(options: &mut Options) -> bool {
    options.arguments.remove("BUILDKIT_INLINE_CACHE").is_some_and(|value| matches!(value.as_str(), "1" | "true"))
}

fn source(cache: &BuildCache) -> Result<CacheSource> {
    Ok(match cache {
        BuildCache::Name(name) => CacheSource::Named(reference(name)?),
        BuildCache::Folder(folder) => CacheSource::Folder(shared(folder)?),
    })
}

fn target(asked: &BuildCacheTarget, owner: Option<(u32, u32)>) -> Result<CacheTarget> {
    let place = match &asked.place {
        None => CachePlace::Image,
        Some(BuildCache::Name(name)) => CachePlace::Registry(reference(name)?),
        Some(BuildCache::Folder(folder)) => CachePlace::Folder(shared(folder)?, owner),
    };
    Ok(CacheTarget { place, steps: if asked.all { CacheSteps::All } else { CacheSteps::Result } })
}

/// A cache in the image itself, if it is wanted.
fn inline(wanted: bool) -> Vec<CacheTarget> {
    if wanted { vec![CacheTarget { place: CachePlace::Image, steps: CacheSteps::Result }] } else { Vec::new() }
}

fn classic_request(query: &Query) -> Result<BuildRequest> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Limit {
        name: String,
        soft: i64,
        hard: i64,
    }
    let arguments: BTreeMap<String, Option<String>> = document(query, "buildargs")?;
    let labels: BTreeMap<String, String> = document(query, "labels")?;
    let mut options = Options {
        target: query.text("target").map(str::to_owned),
        arguments: arguments.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        labels: labels.into_iter().collect(),
        volumes: Volumes::Reset,
        ..Options::default()
    };
    let platforms = platform(&mut options, query.text("platform"))?;
    let limits: Option<Vec<Limit>> = document(query, "ulimits")?;
    let caches: Option<Vec<String>> = document(query, "cachefrom")?;
    let wanted = inline_wanted(&mut options);
    let limit = |one: Limit| Ulimit { name: one.name, soft: one.soft, hard: one.hard };
    Ok(BuildRequest {
        dockerfile: query.text("dockerfile").unwrap_or_default().to_owned(),
        options,
        platforms,
        names: names(query.all("t"))?,
        reuse: if query.flag("nocache") { Reuse::No } else { Reuse::Yes },
        pull: if query.flag("pull") { Bases::Always } else { Bases::Missing },
        squash: if query.flag("squash") { Squash::Yes } else { Squash::No },
        network: network(query.text("networkmode"))?,
        cgroup_parent: cgroup_parent(query.text("cgroupparent").map(str::to_owned))?,
        resources: Resources {
            memory_bytes: query.number::<i64>("memory")?.filter(|bytes| *bytes > 0),
            memory_swap_bytes: query.number::<i64>("memswap")?.filter(|bytes| *bytes != 0),
            cpu_shares: query.number::<u64>("cpushares")?.filter(|shares| *shares > 0),
            cpu_quota_us: query.number::<i64>("cpuquota")?.filter(|quota| *quota > 0),
            cpu_period_us: query.number::<u64>("cpuperiod")?.filter(|period| *period > 0),
            cpuset_cpus: query.text("cpusetcpus").map(str::to_owned),
            cpuset_mems: query.text("cpusetmems").map(str::to_owned),
            ..Resources::default()
        },
        shm_bytes: query.number::<u64>("shmsize")?.filter(|bytes| *bytes > 0),
        ulimits: limits.unwrap_or_default().into_iter().map(limit).collect(),
        extra_hosts: query
            .all("extrahosts")
            .flat_map(|list| list.split(','))
            .filter(|host| !host.is_empty())
            .map(str::to_owned)
            .collect(),
        cache_from: caches
            .unwrap_or_default()
            .iter()
            .map(|name| reference(name).map(CacheSource::Named))
            .collect::<Result<_>>()?,
        cache_to: inline(wanted),
        ..BuildRequest::default()
    })
}

/// A folder that is here what it is for the client.
fn shared(folder: &SharedFolder) -> Result<PathBuf> {
    let path = Path::new(&folder.path);
    let same = std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_dir() && (meta.dev(), meta.ino()) == (folder.device, folder.inode));
    if same && path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(ApiError::invalid(format!(
        "the daemon does not see the folder {0} as you do; send it: tar -C {0} -c . | insula build -",
        folder.path
    )))
}

fn own_request(asked: &Build) -> Result<BuildRequest> {
    let mut options = Options {
        target: asked.target.clone(),
        arguments: asked.arguments.clone(),
        labels: asked.labels.clone().into_iter().collect(),
        epoch: asked.epoch,
        ..Options::default()
    };
    let platforms = platform(&mut options, asked.platform.as_deref())?;
    let mut cache_to = inline(inline_wanted(&mut options));
    for one in &asked.cache_to {
        cache_to.push(target(one, asked.owner)?);
    }
    let right = |name: &String| {
        let known = "network.host and security.insecure";
        Entitlement::find(name).ok_or_else(|| ApiError::invalid(format!("no right {name:?}; there are {known}")))
    };
    let context = match (&asked.folder, &asked.remote) {
        (Some(folder), _) => BuildContext::Folder(shared(folder)?),
        (None, Some(address)) => BuildContext::Remote(address.clone()),
        (None, None) => BuildContext::Empty,
    };
    Ok(BuildRequest {
        context,
        dockerfile: asked.dockerfile.clone(),
        text: asked.text.clone().map(String::into_bytes),
        options,
        platforms,
        provenance: provenance(asked.provenance.as_deref())?,
        sbom: asked.sbom.clone(),
        annotations: annotations(&asked.annotations)?,
        names: names(asked.tags.iter().map(String::as_str))?,
        reuse: if asked.no_cache { Reuse::No } else { Reuse::Yes },
        pull: if asked.pull { Bases::Always } else { Bases::Missing },
        squash: if asked.squash { Squash::Yes } else { Squash::No },
        network: network(asked.network.as_deref())?,
        resources: Resources {
            memory_bytes: asked.memory_bytes,
            memory_swap_bytes: asked.memory_swap_bytes,
            cpu_shares: asked.cpu_shares,
            cpu_quota_us: asked.cpu_quota_us,
            cpu_period_us: asked.cpu_period_us,
            cpuset_cpus: asked.cpuset_cpus.clone(),
            ..Resources::default()
        },
        shm_bytes: asked.shm_bytes,
        ulimits: asked.ulimits.iter().map(|text| ulimit(text)).collect::<Result<_>>()?,
        extra_hosts: asked.extra_hosts.clone(),
        secrets: asked.secrets.clone(),
        ssh: asked.ssh.iter().map(|(id, path)| (id.clone(), PathBuf::from(path))).collect(),
        allow: asked.allow.iter().map(right).collect::<Result<_>>()?,
        cache_from: asked.cache_from.iter().map(source).collect::<Result<_>>()?,
        cache_to,
        ..BuildRequest::default()
    })
}

/// `[BEARER,…[PLATFORM]:]NAME=VALUE`, where a bearer is `manifest`, `index` or `manifest-descriptor`.
fn annotations(texts: &[String]) -> Result<Vec<Annotation>> {
    let mut out = Vec::new();
    for text in texts {
        let wrong =
            || ApiError::invalid(format!("invalid annotation {text:?}: give it as [manifest|index:]NAME=VALUE"));
        let (left, value) = text.split_once('=').ok_or_else(wrong)?;
        let (bearers, name) = left.rsplit_once(':').unwrap_or(("manifest", left));
        for bearer in bearers.split(',') {
            let (bearer, platform) = bearer.split_once('[').unwrap_or((bearer, ""));
            let platform = platform.trim_end_matches(']');
            let platform = (!platform.is_empty()).then(|| platform.parse()).transpose().map_err(|_| wrong())?;
            let bearer = Bearer::find(bearer).ok_or_else(wrong)?;
            out.push(Annotation { bearer, platform, name: name.to_owned(), value: value.to_owned() });
        }
    }
    Ok(out)
}

/// `name=soft[:hard]`
fn ulimit(text: &str) -> Result<Ulimit> {
    let read = || {
        let (name, values) = text.split_once('=')?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        Some(Ulimit { name: name.to_owned(), soft: soft.parse().ok()?, hard: hard.parse().ok()? })
    };
    read().ok_or_else(|| ApiError::invalid(format!("invalid limit {text:?}: give it as name=soft:hard")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_in_a_query_is_as_if_it_were_not_there() {
        let query = Query::parse(Some("labels=null&buildargs=%7B%22a%22%3A%22b%22%7D"));
        let labels: BTreeMap<String, String> = document(&query, "labels").unwrap();
        let arguments: BTreeMap<String, String> = document(&query, "buildargs").unwrap();
        assert!(labels.is_empty() && arguments["a"] == "b");
    }

    #[test]
    fn annotations_are_read() {
        let read = |text: &str| annotations(&[text.to_owned()]);
        let one = &read("org.a=b=c").unwrap()[0];
        assert_eq!((one.bearer, one.name.as_str(), one.value.as_str()), (Bearer::Manifest, "org.a", "b=c"));
        let two = read("index,manifest[linux/arm64]:k=v").unwrap();
        assert_eq!((two[0].bearer, two[1].bearer), (Bearer::Index, Bearer::Manifest));
        assert_eq!(two[1].platform.as_ref().unwrap().architecture, "arm64");
        assert!(read("k").is_err() && read("nobody:k=v").is_err());
    }

    #[test]
    fn limits_are_read() {
        let limit = ulimit("nofile=10:20").unwrap();
        assert_eq!((limit.name.as_str(), limit.soft, limit.hard), ("nofile", 10, 20));
        assert_eq!(ulimit("core=0").unwrap().hard, 0);
        assert!(ulimit("nofile").is_err());
    }

    #[test]
    fn the_classic_query_becomes_a_request() {
        let query = "t=a&t=b:2&dockerfile=d%2FF&buildargs=%7B%22A%22%3A%221%22%2C%22B%22%3Anull%7D&labels=%7B%22l%22%3A%22v%22%7D\
                     &nocache=1&pull=true&target=x&networkmode=none&shmsize=0&memory=1048576&extrahosts=h%3A1.2.3.4\
                     &ulimits=%5B%7B%22Name%22%3A%22nofile%22%2C%22Soft%22%3A1%2C%22Hard%22%3A2%7D%5D&squash=0&cgroupparent=%2Fjobs";
        let request = classic_request(&Query::parse(Some(query))).unwrap();
        assert_eq!(request.names.iter().map(Reference::familiar).collect::<Vec<_>>(), ["a:latest", "b:2"]);
        assert_eq!(request.dockerfile, "d/F");
        assert_eq!(request.options.arguments, BTreeMap::from([("A".to_owned(), "1".to_owned())]));
        assert_eq!((request.reuse, request.pull, request.squash), (Reuse::No, Bases::Always, Squash::No));
        assert_eq!((request.network, request.shm_bytes), (Some(NetworkMode::None), None));
        assert_eq!((request.resources.memory_bytes, request.ulimits.len()), (Some(1 << 20), 1));
        assert_eq!(request.extra_hosts, ["h:1.2.3.4"]);
        assert_eq!(request.cgroup_parent.as_deref(), Some("/jobs"));
        assert!(classic_request(&Query::parse(Some("cgroupparent=..%2Fx"))).is_err());
        assert!(classic_request(&Query::parse(Some("t=UPPER"))).is_err());
        assert!(classic_request(&Query::parse(Some("networkmode=container:"))).is_err());
    }

    #[tokio::test]
    async fn stages_are_told_one_after_the_other() {
        let (sender, mut lines) = mpsc::channel(64);
        let mut teller = Teller::new(&sender, Form::Classic);
        let begun = |stage, step| BuildEvent::Begun { stage, step, text: format!("RUN {step}") };
        let written =
            |stage, step, stream, text: &[u8]| BuildEvent::Output { stage, step, stream, bytes: text.to_vec() };
        let output = |stage, step, text: &[u8]| written(stage, step, LogStream::Stdout, text);
        let events = vec![
            BuildEvent::Planned { steps: 4, stages: Vec::new() },
            begun(0, 1),
            begun(1, 3),
            output(0, 1, b"\xc3"),
            output(1, 3, b"other\n"),
            written(0, 1, LogStream::Stderr, b"no\n"),
            output(0, 1, b"\xa4\n"),
            BuildEvent::StageDone { stage: 1 },
            BuildEvent::StageDone { stage: 0 },
        ];
        for event in events {
            teller.event(event).await;
        }
        teller.classic_end(Err(EngineError::invalid("broken")), &[]).await;
        drop(sender);
        let mut all = String::new();
        while let Some(Ok(line)) = lines.recv().await {
            let value: Value = serde_json::from_slice(&line).unwrap();
            all.push_str(value["stream"].as_str().or(value["error"].as_str()).unwrap());
        }
        assert_eq!(all, "Step 1/4 : RUN 1\n\u{1b}[91mno\n\u{1b}[0m\u{e4}\nStep 3/4 : RUN 3\nother\nbroken");
    }
}
