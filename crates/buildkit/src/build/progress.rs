//! What happens in a build, as vertexes: one for each step, and some for what comes before and after.

use super::fault::SourceFile;
use crate::history::Build;
use crate::wire::Timestamp;
use crate::wire::control::{
    Position, Range, SourceInfo, StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning,
};
use engine::image::dockerfile::Remark;
use engine::{BuildEvent, EngineError, StageOutline};
use oci::digest::Digest;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What clients show as cancelled rather than failed.
const CANCELLED: &str = "context canceled";
/// The numbers of standard output and standard error.
const OUTPUT: i64 = 1;
const ERRORS: i64 = 2;

/// See the module.
#[derive(Debug)]
pub(crate) struct Board {
    reference: String,
    /// Nothing once the solve has ended.
    sender: Option<mpsc::Sender<StatusResponse>>,
    /// Somebody watches; until then nothing is waited for, and what programs write is dropped.
    watched: bool,
    /// Vertexes that have begun and not ended, by their keys.
    open: BTreeMap<String, Vertex>,
    stages: Vec<StageOutline>,
    /// What warnings belong to.
    definition: Option<String>,
    /// The Dockerfile.
    file: Option<SourceFile>,
    recorder: Option<Arc<Build>>,
    /// The names of what other solves have made, by the images' ids.
    inputs: BTreeMap<String, String>,
    /// The vertex that went wrong.
    failed: Option<String>,
    /// Whether somebody wants what is made.
    wanted: bool,
}

impl Board {
    pub(super) fn new(reference: &str, sender: mpsc::Sender<StatusResponse>) -> Self {
        Self {
            reference: reference.to_owned(),
            sender: Some(sender),
            watched: false,
            open: BTreeMap::new(),
            stages: Vec::new(),
            definition: None,
            file: None,
            recorder: None,
            inputs: BTreeMap::new(),
            failed: None,
            wanted: false,
        }
    }

    /// Something is made of the result.
    pub(super) fn wanted(&mut self) {
        self.wanted = true;
    }

    /// What the images of other solves are called.
    pub(super) fn inputs(&mut self, names: BTreeMap<String, String>) {
        self.inputs = names;
    }

    /// The vertex that went wrong, if there is one.
    pub(super) fn failed_vertex(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    pub(super) fn record(&mut self, build: Arc<Build>) {
        self.recorder = Some(build);
    }

    pub(super) fn watched(&mut self) {
        self.watched = true;
    }

    async fn send(&self, message: StatusResponse) {
        if let Some(recorder) = &self.recorder {
            recorder.note(&message);
        }
        let Some(sender) = &self.sender else { return };
        // whoever watches may have gone
        match self.watched {
            true => drop(sender.send(message).await),
            false if message.logs.is_empty() => drop(sender.try_send(message)),
            false => {}
        }
    }

    async fn vertex(&self, vertex: Vertex) {
        self.send(StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() }).await;
    }

    fn digest(&self, key: &str) -> String {
        Digest::of(format!("{}\0{key}", self.reference).as_bytes()).to_string()
    }

    /// Something begins; what it is called is its key, too.
    pub(crate) async fn begin(&mut self, name: &str) {
        self.begin_as(name, name).await;
    }

    async fn begin_as(&mut self, key: &str, name: &str) {
        // clients would count a second beginning as a second time
        if self.open.contains_key(key) {
            return;
        }
        let started = Some(Timestamp::now());
        let vertex = Vertex { digest: self.digest(key), name: name.to_owned(), started, ..Vertex::default() };
        self.open.insert(key.to_owned(), vertex.clone());
        self.vertex(vertex).await;
    }

    /// It has ended; an empty error is none.
    pub(crate) async fn end(&mut self, key: &str, error: &str) {
        let Some(mut vertex) = self.open.remove(key) else { return };
        vertex.completed = Some(Timestamp::now());
        vertex.error = error.to_owned();
        self.vertex(vertex).await;
    }

    /// How far a part of it is.
    pub(crate) async fn part(&self, key: &str, part: &str, current: u64, stage: Stage) {
        let Some(vertex) = self.open.get(key) else { return };
        let now = Timestamp::now();
        let current = i64::try_from(current).unwrap_or(i64::MAX);
        let status = VertexStatus {
            id: part.to_owned(),
            vertex: vertex.digest.clone(),
            name: part.to_owned(),
            current,
            total: 0,
            timestamp: Some(now),
            started: vertex.started,
            completed: (stage == Stage::Done).then_some(now),
        };
        self.send(StatusResponse { statuses: vec![status], ..StatusResponse::default() }).await;
    }

    /// The name of a step as readers count it; nothing for one that changes no files.
    fn step_name(&self, stage: usize, step: usize, text: &str) -> Option<String> {
        let outline = self.stages.iter().find(|outline| outline.stage == stage)?;
        let number = 1 + outline.steps.iter().position(|known| *known == step)?;
        let count = outline.steps.len();
        let platform = outline.platform.as_ref().map(|platform| format!("{platform} ")).unwrap_or_default();
        let name = match (&outline.name, self.stages.len()) {
            (Some(name), _) => format!("{platform}{name} "),
            (None, 1) => platform,
            (None, _) => format!("{platform}stage-{} ", outline.number),
        };
        // one line, however it stands in the file
        let text = text.lines().next().unwrap_or_default();
        let text = match text.split_once(' ') {
            Some(("FROM", rest)) => {
                let base = rest.rsplit_once(" AS ").map_or(rest, |(base, _)| base);
                format!("FROM {}", self.inputs.get(base).map_or(base, String::as_str))
            }
            _ => text.to_owned(),
        };
        Some(format!("[{name}{number}/{count}] {text}"))
    }

    pub(super) async fn event(&mut self, event: BuildEvent) {
        let key = |step: usize| format!("step {step}");
        match event {
            BuildEvent::Planned { stages, .. } => self.stages = stages,
            BuildEvent::Warning(text) => {
                self.warn(VertexWarning { short: text.into_bytes(), ..VertexWarning::default() }).await;
            }
            BuildEvent::Remark(remark) => self.warn(self.remark(&remark)).await,
            BuildEvent::Looking(name) => self.begin(&metadata(&name)).await,
            BuildEvent::Fetching(name) => {
                self.part(&metadata(&name), &format!("fetching {name}"), 0, Stage::Going).await;
            }
            BuildEvent::Found(name) => self.end(&metadata(&name), "").await,
            BuildEvent::Begun { stage, step, text } => {
                if let Some(name) = self.step_name(stage, step, &text) {
                    self.begin_as(&key(step), &name).await;
                }
            }
            BuildEvent::Scanning { step, text, .. } => self.begin_as(&key(step), &text).await,
            BuildEvent::Cached { step, .. } => {
                if let Some(vertex) = self.open.get_mut(&key(step)) {
                    vertex.cached = true;
                }
            }
            BuildEvent::Output { step, stream, bytes, .. } => {
                let Some(vertex) = self.open.get(&key(step)) else { return };
                let (vertex, timestamp) = (vertex.digest.clone(), Some(Timestamp::now()));
                let stream = if stream == engine::LogStream::Stderr { ERRORS } else { OUTPUT };
                let log = VertexLog { vertex, timestamp, stream, msg: bytes };
                self.send(StatusResponse { logs: vec![log], ..StatusResponse::default() }).await;
            }
            BuildEvent::Done { step, .. } => self.end(&key(step), "").await,
            BuildEvent::Failed { step, error, .. } => {
                self.failed = Some(self.digest(&key(step)));
                self.end(&key(step), &error).await;
            }
            BuildEvent::Making if self.wanted => self.begin(MAKING).await,
            BuildEvent::Making => {}
            BuildEvent::Keeping(place) => {
                self.end(MAKING, "").await;
                self.begin(&format!("exporting cache to {place}")).await;
            }
            BuildEvent::StageDone { .. } => {}
        }
    }

    fn remark(&self, remark: &Remark) -> VertexWarning {
        let position = |line: u32| Some(Position { line: i32::try_from(line).unwrap_or(i32::MAX), character: 0 });
        let span = remark.span;
        let info = self.file.as_ref().map(|file| SourceInfo {
            filename: file.name.clone(),
            data: file.text.clone(),
            language: "Dockerfile".to_owned(),
        });
        VertexWarning {
            short: remark.line().into_bytes(),
            detail: vec![remark.check.about().as_bytes().to_vec()],
            url: remark.check.url(),
            info,
            ranges: vec![Range { start: position(span.line), end: position(span.last_line.max(span.line)) }],
            ..VertexWarning::default()
        }
    }

    async fn warn(&self, warning: VertexWarning) {
        let Some(key) = &self.definition else { return };
        let warning = VertexWarning { vertex: self.digest(key), level: 1, ..warning };
        self.send(StatusResponse { warnings: vec![warning], ..StatusResponse::default() }).await;
    }

    /// Warnings belong to this from now on.
    pub(super) fn define(&mut self, key: &str) {
        self.definition = Some(key.to_owned());
    }

    /// What remarks are about.
    pub(super) fn about(&mut self, file: SourceFile) {
        self.file = Some(file);
    }

    /// The build has failed: what was going on elsewhere is given up.
    pub(super) async fn failed(&mut self, error: &EngineError) {
        let only = self.open.len() == 1;
        let open: Vec<String> = self.open.keys().cloned().collect();
        for key in open {
            // what looks for an image says itself why there is none
            let own = only || key.starts_with("[internal]") || key == MAKING;
            let text = if own { error.to_string() } else { CANCELLED.to_owned() };
            self.end(&key, &text).await;
        }
    }

    /// The solve has ended, well or not; what is still going on was given up then.
    pub(crate) async fn finish<T, E>(&mut self, outcome: &Result<T, E>) {
        let open: Vec<String> = self.open.keys().cloned().collect();
        let error = if outcome.is_ok() { "" } else { CANCELLED };
        for key in open {
            self.end(&key, error).await;
        }
        self.sender = None;
    }
}

/// Whether a part is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Going,
    Done,
}

/// What the making of the image is called.
pub(crate) const MAKING: &str = "exporting to image";

fn metadata(name: &str) -> String {
    let full = name.parse::<oci::reference::Reference>().map(oci::reference::Reference::tagged);
    format!("[internal] load metadata for {}", full.map_or_else(|_| name.to_owned(), |full| full.to_string()))
}
