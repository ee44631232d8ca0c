//! Caches of a build: in registries, in images, and in folders of the client's, which are copied here and back.

use super::job::Job;
use super::request::{Asked, reference};
use crate::BuildKit;
use crate::rpc::Status;
use crate::session::{Session, Store};
use crate::wire::control::Typed;
use engine::{CachePlace, CacheSource, CacheSteps, CacheTarget};
use oci::reference::Reference;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What the engine is told.
#[derive(Debug, Default)]
pub(super) struct Caches {
    pub(super) from: Vec<CacheSource>,
    pub(super) to: Vec<CacheTarget>,
}

/// Folders for the time of the build.
#[derive(Debug, Default)]
pub(super) struct Copies {
    places: Vec<tempfile::TempDir>,
    /// What is sent once the build is done: the client's name for its folder, and ours.
    send: Vec<(String, PathBuf)>,
}

/// What stands in the option of clients that do not use the message's field.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    r#type: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// Makes the caches ready. One that cannot be read is told of and left out.
pub(super) async fn open(
    kit: &BuildKit,
    session: &Session,
    job: &Job,
    asked: &mut Asked,
) -> Result<(Caches, Copies), Status> {
    let (mut caches, mut copies) = (Caches::default(), Copies::default());
    let mut imports = std::mem::take(&mut asked.cache_imports);
    if let Some(text) = asked.option("cache-imports") {
        let entries: Vec<Entry> = serde_json::from_str(text)
            .map_err(|error| Status::told(format!("the option cache-imports makes no sense: {error}")))?;
        imports.extend(entries.into_iter().map(|Entry { r#type: kind, attrs }| Typed { kind, attrs }));
    }
    imports.extend(job.cache_imports.iter().cloned());
    for one in &imports {
        let source = match one.kind.as_str() {
            "registry" => CacheSource::Named(name(one)?),
            "local" => match copy(kit, session, one, &mut copies).await {
                Ok(folder) => CacheSource::Folder(folder),
                Err(status) => {
                    let text = format!("no cache from the client's folder: {status}");
                    job.board.lock().await.event(engine::BuildEvent::Warning(text)).await;
                    continue;
                }
            },
            other => return Err(unknown(other)),
        };
        if !caches.from.contains(&source) {
            caches.from.push(source);
        }
    }
    for one in &job.cache_exports {
        let place = match one.kind.as_str() {
            "inline" => CachePlace::Image,
            "registry" => CachePlace::Registry(name(one)?),
            "local" => {
                let folder = kit.engine.work_folder().map_err(super::failed)?;
                let (there, here) = (attr(one, "dest")?.to_owned(), folder.path().join("cache"));
                std::fs::create_dir(&here).map_err(|error| Status::told(format!("cannot make a folder: {error}")))?;
                copies.places.push(folder);
                copies.send.push((there, here.clone()));
                CachePlace::Folder(here, None)
            }
            other => return Err(unknown(other)),
        };
        let steps = match one.attrs.get("mode").map(String::as_str) {
            Some("max") => CacheSteps::All,
            _ => CacheSteps::Result,
        };
        caches.to.push(CacheTarget { place, steps });
    }
    Ok((caches, copies))
}

impl Copies {
    /// Sends what was made; the client puts the manifest into its index.
    pub(super) async fn send(self, session: &Session, job: &Job) -> Result<(), Status> {
        for (there, here) in &self.send {
            let vertex = format!("sending cache to the client's {there}");
            job.board.lock().await.begin(&vertex).await;
            let manifest = Store::new(session, there)?.store(here).await?;
            job.board.lock().await.end(&vertex, "").await;
            job.respond("cache.manifest", manifest.to_string());
        }
        Ok(())
    }
}

/// Has a cache of the client's here.
async fn copy(kit: &BuildKit, session: &Session, one: &Typed, copies: &mut Copies) -> Result<PathBuf, Status> {
    let folder = kit.engine.work_folder().map_err(super::failed)?;
    let path = folder.path().join("cache");
    Store::new(session, attr(one, "src")?)?.fetch(attr(one, "digest")?, &path).await?;
    copies.places.push(folder);
    Ok(path)
}

fn attr<'a>(one: &'a Typed, name: &str) -> Result<&'a str, Status> {
    let value = one.attrs.get(name).map(String::as_str);
    value.ok_or_else(|| Status::told(format!("a cache of the type {} needs {name}=", one.kind)))
}

fn name(one: &Typed) -> Result<Reference, Status> {
    reference(attr(one, "ref")?)
}

fn unknown(kind: &str) -> Status {
    Status::told(format!("there is no cache of the type {kind:?} here; there are inline, local and registry"))
}
