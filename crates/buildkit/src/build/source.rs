//! Where a build's Dockerfile and files come from: folders of the client's, an archive that it sends, or the network.

use super::fault::SourceFile;
use super::job::Job;
use super::progress::Stage;
use super::request::Asked;
use crate::BuildKit;
use crate::rpc::{Code, Status};
use crate::session::{Part, Session, pull, receive};
use engine::image::build::{ArrivedContext, Files, Ignore, ImageRequest, NamedContext};
use engine::{BuildContext, Engine, EngineError, ErrorClass, Supply};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The longest Dockerfile that is read, in bytes; the parser has a limit of its own.
const LONGEST: u64 = 16 << 20;
/// How often progress is told of.
const OFTEN: Duration = Duration::from_millis(200);
/// What stands before the number of something that the client sends itself.
const UPLOAD: &str = "http://buildkit-session/";

/// What was found.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) context: BuildContext,
    /// The Dockerfile, where it is not in the context.
    pub(super) file: Option<SourceFile>,
    /// What names stand for.
    pub(super) named: BTreeMap<String, NamedContext>,
    /// The files of those that are files.
    pub(super) contexts: BTreeMap<String, BuildContext>,
}

/// Parts of the client's files, told of as vertexes.
#[derive(Debug, Clone)]
struct Transfer {
    engine: Engine,
    session: Arc<Session>,
    job: Arc<Job>,
}

impl Transfer {
    /// Has a part of the client's files; `vertex` has begun already.
    async fn files(&self, part: &Part, vertex: &str, what: &str) -> Result<ArrivedContext, Status> {
        let arriving = self.engine.arriving().map_err(super::failed)?;
        let bytes = AtomicU64::new(0);
        let receiving = receive(&self.session, part, arriving, |count| bytes.store(count, Ordering::Relaxed));
        let mut receiving = std::pin::pin!(receiving);
        let mut tick = tokio::time::interval(OFTEN);
        let done = loop {
            tokio::select! {
                done = &mut receiving => break done,
                _ = tick.tick() => {
                    let count = bytes.load(Ordering::Relaxed);
                    self.job.board.lock().await.part(vertex, what, count, Stage::Going).await;
                }
            }
        };
        let mut board = self.job.board.lock().await;
        match &done {
            Ok(_) => board.part(vertex, what, bytes.load(Ordering::Relaxed), Stage::Done).await,
            Err(status) => board.end(vertex, &status.message).await,
        }
        done
    }

    async fn begin(&self, vertex: &str) {
        self.job.board.lock().await.begin(vertex).await;
    }

    async fn end(&self, vertex: &str) {
        self.job.board.lock().await.end(vertex, "").await;
    }

    /// The Dockerfile from the client, and what stands in the file of patterns beside it.
    async fn dockerfile(&self, folder: &str, name: &str) -> Result<(SourceFile, Option<Vec<u8>>), Status> {
        let vertex = format!("[internal] load build definition from {name}");
        self.begin(&vertex).await;
        self.job.board.lock().await.define(&vertex);
        let beside = format!("{name}.dockerignore");
        let mut follow = vec![name.to_owned(), beside.clone()];
        if name == "Dockerfile" {
            // file systems of other systems do not tell letters apart
            follow.push("dockerfile".to_owned());
        }
        let part = Part { folder: folder.to_owned(), follow, ..Part::default() };
        let files = self.files(&part, &vertex, "transferring dockerfile:").await?;
        let mut text = read(&files, name)?;
        if text.is_none() && name == "Dockerfile" {
            text = read(&files, "dockerfile")?;
        }
        let Some(text) = text else {
            let error = format!("failed to read dockerfile: open {name}: no such file or directory");
            self.job.board.lock().await.end(&vertex, &error).await;
            return Err(Status::told(error));
        };
        let ignore = read(&files, &beside)?;
        self.end(&vertex).await;
        Ok((SourceFile { name: name.to_owned(), text }, ignore))
    }

    /// The patterns of a folder's `.dockerignore`, if there is one.
    async fn ignore(&self, folder: &str, label: &str) -> Result<Option<Vec<u8>>, Status> {
        let vertex = &format!("[{label}] load .dockerignore");
        self.begin(vertex).await;
        let follow = vec![".dockerignore".to_owned()];
        let part = Part { folder: folder.to_owned(), follow, ..Part::default() };
        let files = self.files(&part, vertex, "transferring context:").await?;
        let found = read(&files, ".dockerignore")?;
        self.end(vertex).await;
        Ok(found)
    }

    /// A folder of the client's without what its `.dockerignore` leaves out.
    async fn folder(
        &self,
        folder: &str,
        ignore: Option<Vec<u8>>,
        follow: Vec<String>,
        (label, what): (&str, &str),
    ) -> Result<ArrivedContext, Status> {
        let ignore = match ignore {
            Some(beside) => Some(beside),
            None => self.ignore(folder, label).await?,
        };
        let vertex = format!("[{label}] {what}");
        self.begin(&vertex).await;
        let exclude = patterns(&ignore.unwrap_or_default());
        let part = Part { folder: folder.to_owned(), exclude, follow };
        let files = self.files(&part, &vertex, "transferring context:").await?;
        self.end(&vertex).await;
        Ok(files)
    }

    /// The build context, once it is known what is read of it.
    async fn context(
        self,
        folder: String,
        ignore: Option<Vec<u8>>,
        paths: Option<BTreeSet<String>>,
    ) -> Result<Box<dyn Files + Send + Sync>, EngineError> {
        if paths.as_ref().is_some_and(BTreeSet::is_empty) {
            return Ok(Box::new(self.engine.arriving()?.done()));
        }
        let follow = paths.into_iter().flatten().collect();
        match self.folder(&folder, ignore, follow, ("internal", "load build context")).await {
            Ok(files) => Ok(Box::new(files)),
            Err(status) => Err(EngineError::new(ErrorClass::Invalid, status.message)),
        }
    }
}

pub(super) async fn open(
    kit: &BuildKit,
    session: &Arc<Session>,
    job: &Arc<Job>,
    asked: &mut Asked,
) -> Result<Opened, Status> {
    let transfer = Transfer { engine: kit.engine.clone(), session: Arc::clone(session), job: Arc::clone(job) };
    if let Some(context) = asked.context.take() {
        return Ok(Opened { context, file: None, named: BTreeMap::new(), contexts: BTreeMap::new() });
    }
    let name = asked.option("filename").unwrap_or("Dockerfile");
    let local = asked.option("dockerfilekey");
    let Some(address) = asked.option("context") else {
        let (file, ignore) = transfer.dockerfile(local.unwrap_or("dockerfile"), name).await?;
        let folder = asked.option("contextkey").unwrap_or("context").to_owned();
        let (named, contexts) =
            named(&transfer, asked.group("context:").collect(), std::mem::take(&mut asked.inputs)).await?;
        let supply: Supply = Box::new(move |paths| Box::pin(transfer.context(folder, ignore, paths)));
        return Ok(Opened { context: BuildContext::Supplied(supply), file: Some(file), named, contexts });
    };
    let file = match local {
        Some(folder) => Some(transfer.dockerfile(folder, name).await?.0),
        None => None,
    };
    let context = match address.strip_prefix(UPLOAD) {
        None => BuildContext::Remote(address.to_owned()),
        Some(path) => BuildContext::Archive(Box::new(pull(session, path)?)),
    };
    let (named, contexts) =
        named(&transfer, asked.group("context:").collect(), std::mem::take(&mut asked.inputs)).await?;
    Ok(Opened { context, file, named, contexts })
}

/// The Dockerfile alone, from a folder of the client's.
pub(super) async fn dockerfile(
    kit: &BuildKit,
    session: &Arc<Session>,
    job: &Arc<Job>,
    (folder, name): (&str, &str),
) -> Result<SourceFile, Status> {
    let transfer = Transfer { engine: kit.engine.clone(), session: Arc::clone(session), job: Arc::clone(job) };
    transfer.dockerfile(folder, name).await.map(|(file, _)| file)
}

/// The Dockerfile, and what is left out of the context.
pub(super) async fn checked(
    kit: &BuildKit,
    session: &Arc<Session>,
    job: &Arc<Job>,
    (folder, name): (&str, &str),
    context: &str,
) -> Result<(SourceFile, Ignore), Status> {
    let transfer = Transfer { engine: kit.engine.clone(), session: Arc::clone(session), job: Arc::clone(job) };
    let (file, beside) = transfer.dockerfile(folder, name).await?;
    let patterns = match beside {
        Some(beside) => Some(beside),
        None => transfer.ignore(context, "internal").await?,
    };
    let ignore = Ignore::parse(&patterns.unwrap_or_default());
    let ignore =
        ignore.map_err(|error| Status::told(format!("cannot use .dockerignore: {}", engine::chain(&error))))?;
    Ok((file, ignore))
}

/// The contexts that have names: what each stands for, and the files of those that are files.
async fn named(
    transfer: &Transfer,
    given: Vec<(String, String)>,
    inputs: BTreeMap<String, ImageRequest>,
) -> Result<(BTreeMap<String, NamedContext>, BTreeMap<String, BuildContext>), Status> {
    let (mut named, mut contexts) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in given {
        // for one platform of several
        let name = name.split_once("::").map_or(name.as_str(), |(name, _)| name).to_owned();
        if let Some(input) = value.strip_prefix("input:") {
            let unknown = || Status::told(format!("the context {name} is {value:?}, and there is no such input"));
            let image = inputs.get(input).ok_or_else(unknown)?.clone();
            match named.entry(name.clone()).or_insert_with(|| NamedContext::Built(Vec::new())) {
                NamedContext::Built(images) => images.push(image),
                other => *other = NamedContext::Built(vec![image]),
            }
            continue;
        }
        if let Some(image) = value.strip_prefix("docker-image://") {
            named.insert(name, NamedContext::Image(image.to_owned()));
            continue;
        }
        let context = match value.split_once(':') {
            Some(("local", folder)) => {
                let label = format!("context {name}");
                let files = transfer.folder(folder, None, Vec::new(), (&label, "load from client")).await?;
                BuildContext::Files(Box::new(files))
            }
            Some(("http" | "https" | "git" | "ssh", _)) => BuildContext::Remote(value.clone()),
            _ => {
                let text = format!(
                    "the context {name} cannot be {value:?}; it can be a folder, a repository, an archive in the network or \
                     docker-image://NAME"
                );
                return Err(Status::told(text));
            }
        };
        named.insert(name.clone(), NamedContext::Files);
        contexts.insert(name, context);
    }
    Ok((named, contexts))
}

/// A file's text, if it is there.
fn read(files: &ArrivedContext, name: &str) -> Result<Option<Vec<u8>>, Status> {
    let path = name.trim_start_matches("./").as_bytes();
    let failed = |error: &dyn std::error::Error| {
        Status::new(Code::INTERNAL, format!("cannot read {name}: {}", engine::chain(error)))
    };
    // it may be a symbolic link to another one that came along
    let mut path = path.to_vec();
    for _ in 0..8 {
        use engine::image::build::FileKind;
        match files.look(&path).map_err(|error| failed(&error))?.map(|file| file.kind) {
            Some(FileKind::Symlink(target)) => {
                let folder = path.rsplitn(2, |byte| *byte == b'/').nth(1).unwrap_or_default();
                path = if folder.is_empty() { target } else { [folder, b"/", &target].concat() };
            }
            Some(FileKind::Regular(_)) => {
                let mut text = Vec::new();
                let file = files.open(&path).map_err(|error| failed(&error))?;
                file.take(LONGEST).read_to_end(&mut text).map_err(|error| failed(&error))?;
                return Ok(Some(text));
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// The patterns of a `.dockerignore` as clients take them.
///
/// # Source
/// Docker's documentation, ".dockerignore files": comments, empty lines, `!`, and cleaned paths without a leading slash.
fn patterns(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| match line.strip_prefix('!') {
            Some(rest) => format!("!{}", clean(rest.trim())),
            None => clean(line),
        })
        .filter(|pattern| !pattern.is_empty() && pattern != "!")
        .collect()
}

/// A path without `.`, `..`, and doubled slashes.
fn clean(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." if out.last().is_some_and(|last| *last != "..") => drop(out.pop()),
            ".." if path.starts_with('/') => {}
            name => out.push(name),
        }
    }
    out.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_cleaned() {
        let text = b"\xef\xbb\xbf# no\n a/ \n\n/b//c/.\n! /d/../e\n**/*.o\n./\n../x\n#\n";
        assert_eq!(patterns(text), ["a", "b/c", "!e", "**/*.o", "../x"]);
    }
}
