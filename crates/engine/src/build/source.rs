//! A build's context and Dockerfile, wherever they are.

use super::execute::SharedFiles;
use super::remote::{self, Fetched};
use super::request::{BuildContext, BuildRequest, Supply};
use crate::engine::Inner;
use crate::error::{EngineError, ErrorClass, Result};
use image::Limits;
use image::build::{ArchiveContext, File, Files, FilesError, FolderContext, Ignore, Keep, Remote, Unpacked};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest Dockerfile that is read, in bytes; the parser has a limit of its own.
const LONGEST: u64 = 16 << 20;

/// See the module.
pub(super) struct Source {
    /// What messages call the Dockerfile.
    pub(super) name: String,
    /// Its text.
    pub(super) text: Vec<u8>,
    files: SharedFiles,
    /// What was left out of them.
    pub(super) ignore: Ignore,
    /// Where they come from, unless they are here.
    supply: Option<Supply>,
    /// A context that was fetched.
    _fetched: Option<Fetched>,
}

impl Source {
    fn new(name: String, text: Vec<u8>, files: SharedFiles) -> Self {
        Self { name, text, files, ignore: Ignore::default(), supply: None, _fetched: None }
    }

    /// Has the files sent that are not here yet, as far as these paths need them; `None` for all.
    pub(super) async fn complete(&mut self, paths: Option<BTreeSet<String>>) -> Result<()> {
        if let Some(supply) = self.supply.take() {
            self.files = Arc::from(supply(paths).await?);
        }
        Ok(())
    }

    pub(super) fn files(&self) -> SharedFiles {
        Arc::clone(&self.files)
    }
}

fn invalid(what: impl std::fmt::Display, error: &dyn std::error::Error) -> EngineError {
    EngineError::because(ErrorClass::Invalid, what, error)
}

pub(super) async fn open(inner: &Arc<Inner>, request: &mut BuildRequest) -> Result<Source> {
    let context = std::mem::take(&mut request.context);
    let asked = if request.dockerfile.is_empty() { "Dockerfile".to_owned() } else { request.dockerfile.clone() };
    open_one(inner, context, asked, request.text.take()).await
}

/// The further contexts, of which only the files count.
pub(super) async fn open_named(inner: &Arc<Inner>, request: &mut BuildRequest) -> Result<BTreeMap<String, Source>> {
    let mut out = BTreeMap::new();
    for (name, context) in std::mem::take(&mut request.contexts) {
        let source = open_one(inner, context, String::new(), Some(Vec::new())).await?;
        out.insert(name, source);
    }
    Ok(out)
}

async fn open_one(inner: &Arc<Inner>, context: BuildContext, asked: String, text: Option<Vec<u8>>) -> Result<Source> {
    let inner = Arc::clone(inner);
    let opened = tokio::task::spawn_blocking(move || match context {
        BuildContext::Empty => empty(&inner, asked, text),
        BuildContext::Folder(folder) => self::folder(&inner, &folder, asked, text, None),
        BuildContext::Files(files) => sent(files, asked, text),
        BuildContext::Supplied(supply) => {
            sent(Box::new(Nothing), asked, text).map(|source| Source { supply: Some(supply), ..source })
        }
        BuildContext::Archive(archive) => self::archive(&inner, archive, asked, text),
        BuildContext::Remote(address) => from_network(&inner, &address, asked, text),
    });
    opened.await.map_err(|error| EngineError::internal("opening the context was cut short", &error))?
}

/// A context with nothing in it.
struct Nothing;

impl Files for Nothing {
    fn look(&self, path: &[u8]) -> std::result::Result<Option<File>, FilesError> {
        let folder = File {
            stat: image::tree::Stat { mode: 0o755, ..Default::default() },
            kind: image::build::FileKind::Directory,
        };
        Ok(path.is_empty().then_some(folder))
    }

    fn names(&self, _: &[u8]) -> std::result::Result<Vec<Vec<u8>>, FilesError> {
        Ok(Vec::new())
    }

    fn open(&self, _: &[u8]) -> std::result::Result<Box<dyn Read + Send>, FilesError> {
        Ok(Box::new(std::io::empty()))
    }
}

fn empty(_: &Inner, name: String, text: Option<Vec<u8>>) -> Result<Source> {
    let text = text.ok_or_else(|| EngineError::invalid("there is neither a context nor a Dockerfile"))?;
    Ok(Source::new(name, text, Arc::new(Nothing)))
}

fn sent(files: Box<dyn Files + Send + Sync>, name: String, text: Option<Vec<u8>>) -> Result<Source> {
    let text = text.ok_or_else(|| EngineError::invalid("there is no Dockerfile"))?;
    Ok(Source::new(name, text, Arc::from(files)))
}

fn folder(
    inner: &Inner,
    folder: &Path,
    asked: String,
    text: Option<Vec<u8>>,
    fetched: Option<Fetched>,
) -> Result<Source> {
    let path = folder.join(&asked);
    let text = match text {
        Some(text) => text,
        None => read(&path)?,
    };
    let (ignore, _) = Ignore::find(folder, &path).map_err(|error| invalid("cannot use .dockerignore", &error))?;
    let context =
        FolderContext::open(folder, ignore.clone()).map_err(|error| invalid("cannot open the context", &error))?;
    let name = Path::new(&asked).strip_prefix(folder).map_or(asked.clone(), |name| name.display().to_string());
    let files = Arc::new(context.remembering(inner.builds.memo()));
    Ok(Source { ignore, _fetched: fetched, ..Source::new(name, text, files) })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let open = std::fs::File::open(path).map_err(|error| {
        invalid(format!("cannot read the Dockerfile {}; name it with: --file PATH", path.display()), &error)
    })?;
    let mut text = Vec::new();
    open.take(LONGEST).read_to_end(&mut text).map_err(|error| invalid("cannot read the Dockerfile", &error))?;
    Ok(text)
}

fn archive(inner: &Inner, archive: Box<dyn Read + Send>, asked: String, text: Option<Vec<u8>>) -> Result<Source> {
    let folder = inner.images.root().join("tmp");
    let context = ArchiveContext::read(archive, Limits::default(), &folder)
        .map_err(|error| invalid("cannot read the build context", &error))?;
    from_archive(context, asked, text)
}

fn from_archive(context: ArchiveContext, asked: String, text: Option<Vec<u8>>) -> Result<Source> {
    let member = |name: &str| -> Result<Option<Vec<u8>>> {
        let path = name.trim_start_matches("./").trim_start_matches('/').as_bytes();
        if context.look(path).map_err(|error| invalid("cannot read the build context", &error))?.is_none() {
            return Ok(None);
        }
        let file = context.open(path).map_err(|error| invalid(format!("cannot read {name}"), &error))?;
        let mut text = Vec::new();
        file.take(LONGEST).read_to_end(&mut text).map_err(|error| invalid(format!("cannot read {name}"), &error))?;
        Ok(Some(text))
    };
    let text = match text {
        Some(text) => text,
        None => member(&asked)?.ok_or_else(|| {
            EngineError::invalid(format!("Cannot locate specified Dockerfile: {asked}: it is not in the build context"))
        })?,
    };
    let patterns = match member(&format!("{asked}.dockerignore"))? {
        Some(beside) => Some(beside),
        None => member(".dockerignore")?,
    };
    let ignore = patterns.map(|bytes| Ignore::parse(&bytes)).transpose();
    let ignore = ignore.map_err(|error| invalid("cannot use .dockerignore", &error))?.unwrap_or_default();
    // how Docker's client calls one from outside of the context
    let name = if asked.starts_with(".dockerfile.") { "Dockerfile".to_owned() } else { asked };
    Ok(Source { ignore: ignore.clone(), ..Source::new(name, text, Arc::new(context.without(ignore))) })
}

/// A repository, an archive, or a file that is the Dockerfile.
fn from_network(inner: &Inner, address: &str, asked: String, text: Option<Vec<u8>>) -> Result<Source> {
    let (url, fragment) = address.split_once('#').map_or((address, None), |(url, rest)| (url, Some(rest)));
    let web = url.starts_with("http://") || url.starts_with("https://");
    if !web || url.ends_with(".git") || fragment.is_some() {
        let (reference, sub) = fragment.map_or((None, None), |text| match text.split_once(':') {
            Some((reference, folder)) => (Some(reference), Some(folder)),
            None => (Some(text), None),
        });
        let some = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        let url =
            if web || url.contains("://") || url.contains('@') { url.to_owned() } else { format!("https://{url}") };
        let wanted = Remote::Git { url, reference: some(reference), folder: None, keep: Keep::No, checksum: None };
        let fetched = remote::fetch(inner, &wanted)?;
        let folder: PathBuf = match some(sub) {
            // a link in the repository must not lead out of it
            Some(sub) => {
                let root =
                    fetched.path().canonicalize().map_err(|error| invalid("cannot open the repository", &error))?;
                let folder = root.join(sub.trim_start_matches('/')).canonicalize();
                let folder = folder.map_err(|error| invalid(format!("no folder {sub:?} in the repository"), &error))?;
                if !folder.starts_with(&root) {
                    return Err(EngineError::invalid(format!("{sub:?} leads out of the repository")));
                }
                folder
            }
            None => fetched.path().to_owned(),
        };
        let inside = folder.join(&asked).canonicalize().is_ok_and(|path| path.starts_with(fetched.path()));
        if text.is_none() && !inside {
            return Err(EngineError::invalid(format!("the Dockerfile {asked:?} is not in the repository")));
        }
        return self::folder(inner, &folder, asked, text, Some(fetched));
    }
    let wanted = Remote::Http { url: url.to_owned(), name: String::new(), checksum: None, unpack: Unpacked::No };
    let fetched = remote::fetch(inner, &wanted)?;
    let open = std::fs::File::open(fetched.path()).map_err(|error| invalid("cannot read the context", &error))?;
    match remote::archive(inner, open) {
        Ok((_, context)) => from_archive(context, asked, text),
        Err(_) => empty(inner, asked, Some(read(fetched.path())?)),
    }
}
