//! What is not in the context: files and repositories of the network, archives, and files that stand in the Dockerfile.

use super::execute::SharedFiles;
use crate::engine::{Inner, image_error, refused};
use crate::error::{EngineError, ErrorClass, Result};
use image::build::copy::{self, Entry, Resolved, Selection, Shape};
use image::build::{
    ArchiveContext, CopyStep, File, FileKind, Files, FilesError, FolderContext, Ignore, Keep, Remote, Unpacked,
};
use image::tree::{Stat, Time};
use image::{Limits, build::Folder};
use oci::digest::Digest;
use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::runtime::Handle;

/// The longest file that is fetched, in bytes.
const LONGEST: u64 = 256 << 30;

/// Something of the network that is here now.
pub(super) struct Fetched {
    /// What it is known by: a file's contents, a repository's commit.
    pub(super) digest: Digest,
    /// A repository's commit.
    pub(super) commit: Option<String>,
    /// A file, or a folder with a working tree.
    path: PathBuf,
    /// A file's time as its server says.
    changed: Option<i64>,
    /// Goes with the build.
    folder: Arc<tempfile::TempDir>,
}

fn failed(what: &str, error: &dyn std::error::Error) -> EngineError {
    EngineError::because(ErrorClass::Unavailable, what, error)
}

/// One file in memory.
pub(super) struct Inline(File, Vec<u8>);

impl Files for Inline {
    fn look(&self, path: &[u8]) -> std::result::Result<Option<File>, FilesError> {
        Ok(path.is_empty().then(|| self.0.clone()))
    }

    fn names(&self, _: &[u8]) -> std::result::Result<Vec<Vec<u8>>, FilesError> {
        Ok(Vec::new())
    }

    fn open(&self, _: &[u8]) -> std::result::Result<Box<dyn Read + Send>, FilesError> {
        Ok(Box::new(Cursor::new(self.1.clone())))
    }
}

/// A file whose contents stand in the Dockerfile.
pub(super) fn inline(name: &[u8], contents: &[u8], mode: u16, epoch: Option<i64>) -> (Resolved, Inline) {
    let seconds = epoch.unwrap_or_else(|| jiff::Timestamp::now().as_second());
    let stat = Stat { mode, mtime: Time { seconds, nanos: 0 }, ..Stat::default() };
    let file = File { stat, kind: FileKind::Regular(contents.len() as u64) };
    let entry = Entry { path: Vec::new(), origin: Vec::new(), file: file.clone(), digest: None };
    let resolved = Resolved { name: name.to_vec(), shape: Shape::File, entries: vec![entry] };
    (resolved, Inline(file, contents.to_vec()))
}

/// What is in an archive, plain or compressed.
pub(super) fn archive(inner: &Inner, contents: impl Read + Send + 'static) -> Result<(Vec<Resolved>, ArchiveContext)> {
    let work = inner.images.work_folder().map_err(image_error)?;
    unpacked(contents, work.path())
}

fn unpacked(contents: impl Read + Send + 'static, work: &Path) -> Result<(Vec<Resolved>, ArchiveContext)> {
    let unreadable =
        |error: &dyn std::error::Error| EngineError::because(ErrorClass::Invalid, "cannot unpack the archive", error);
    let context = ArchiveContext::read(contents, Limits::default(), work).map_err(|error| unreadable(&error))?;
    let everything = Selection { sources: vec!["/".to_owned()], ..Selection::default() };
    let found = copy::resolve(&context, &everything, "the archive").map_err(|error| unreadable(&error))?;
    Ok((found, context))
}

impl Fetched {
    /// The files that a step copies of it.
    pub(super) fn resolve(&self, remote: &Remote, step: &CopyStep) -> Result<(Vec<Resolved>, SharedFiles)> {
        let invalid = |error: &dyn std::error::Error| {
            EngineError::because(ErrorClass::Invalid, "cannot copy what was fetched", error)
        };
        let mode = |mode: u16, folder| step.chmod.as_ref().map_or(mode, |chmod| chmod.apply(mode, folder));
        match remote {
            Remote::Http { unpack: Unpacked::Yes, .. } => {
                let file = fs::File::open(&self.path).map_err(|error| invalid(&error))?;
                let (found, context) = unpacked(file, self.folder.path())?;
                Ok((found, Arc::new(context)))
            }
            Remote::Http { name, .. } => {
                let size = fs::metadata(&self.path).map_err(|error| invalid(&error))?.len();
                let mtime = Time { seconds: self.changed.unwrap_or(0), nanos: 0 };
                let stat = Stat { mode: mode(0o600, Folder::No), mtime, ..Stat::default() };
                let file = File { stat, kind: FileKind::Regular(size) };
                let origin = b"file".to_vec();
                let entry = Entry { path: Vec::new(), origin, file, digest: Some(self.digest) };
                let resolved = Resolved { name: name.clone().into(), shape: Shape::File, entries: vec![entry] };
                Ok((vec![resolved], self.files(self.folder.path())?))
            }
            Remote::Git { folder, .. } => {
                let files = self.files(&self.path)?;
                let source = folder.clone().unwrap_or_else(|| "/".to_owned());
                let selection = Selection { sources: vec![source], chmod: step.chmod.clone(), ..Selection::default() };
                let mut found =
                    copy::resolve(&*files, &selection, "the repository").map_err(|error| invalid(&error))?;
                for entry in found.iter_mut().flat_map(|resolved| &mut resolved.entries) {
                    (entry.file.stat.uid, entry.file.stat.gid) = (0, 0);
                }
                Ok((found, files))
            }
        }
    }

    fn files(&self, folder: &Path) -> Result<SharedFiles> {
        let context = FolderContext::open(folder, Ignore::default());
        Ok(Arc::new(context.map_err(|error| failed("cannot open what was fetched", &error))?))
    }

    /// The folder or file itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Fetches something; on a thread that may block.
pub(super) fn fetch(inner: &Inner, remote: &Remote) -> Result<Fetched> {
    let folder = Arc::new(inner.images.work_folder().map_err(image_error)?);
    match remote {
        Remote::Http { url, checksum, .. } => {
            let path = folder.path().join("file");
            let changed = get(inner, url, &path)?;
            let mut file = fs::File::open(&path).map_err(|error| failed("cannot read what was fetched", &error))?;
            let mut digester = oci::digest::Digester::new();
            std::io::copy(&mut file, &mut digester).map_err(|error| failed("cannot read what was fetched", &error))?;
            let digest = digester.finish();
            if checksum.as_ref().is_some_and(|wanted| *wanted != digest.to_string()) {
                let wanted = checksum.as_deref().unwrap_or_default();
                return Err(EngineError::invalid(format!(
                    "{url} has the digest {digest}, and --checksum wants {wanted}"
                )));
            }
            Ok(Fetched { digest, commit: None, path, changed, folder })
        }
        Remote::Git { url, reference, keep, checksum, .. } => {
            let path = folder.path().join("tree");
            let commit = clone(url, reference.as_deref(), &path)?;
            if checksum.as_ref().is_some_and(|wanted| !commit.starts_with(wanted.as_str())) {
                let wanted = checksum.as_deref().unwrap_or_default();
                return Err(EngineError::invalid(format!(
                    "{url} is at commit {commit}, and --checksum wants {wanted}"
                )));
            }
            if *keep == Keep::No {
                fs::remove_dir_all(path.join(".git")).map_err(|error| failed("cannot remove .git", &error))?;
            }
            Ok(Fetched { digest: Digest::of(commit.as_bytes()), commit: Some(commit), path, changed: None, folder })
        }
    }
}

/// Fetches `url` to `path`; the time of its last change in seconds since 1970, if the server says.
fn get(inner: &Inner, url: &str, path: &Path) -> Result<Option<i64>> {
    let mut file = fs::File::create(path).map_err(|error| failed("cannot keep what was fetched", &error))?;
    let fetched =
        Handle::current().block_on(inner.reach().client.download(url, &mut file, LONGEST)).map_err(refused)?;
    file.set_len(fetched.size).map_err(|error| failed("cannot keep what was fetched", &error))?;
    let time = fetched.changed.and_then(|text| jiff::fmt::rfc2822::parse(text.trim()).ok());
    Ok(time.map(|time| time.timestamp().as_second()))
}

/// Fetches one commit of a repository by the program `git`, and gives its name.
fn clone(url: &str, reference: Option<&str>, folder: &Path) -> Result<String> {
    if url.starts_with('-') || reference.is_some_and(|reference| reference.starts_with('-')) {
        return Err(EngineError::invalid(format!("{url:?} is no address of a repository")));
    }
    fs::create_dir(folder).map_err(|error| failed("cannot make a folder", &error))?;
    let git = |arguments: &[&str]| -> Result<String> {
        let output = Command::new("git")
            .args(["-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false"])
            .args(arguments)
            .current_dir(folder)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed("cannot run git, which repositories need; install it", &error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        let why = String::from_utf8_lossy(&output.stderr);
        Err(EngineError::new(ErrorClass::Unavailable, format!("cannot fetch the repository {url}: {}", why.trim())))
    };
    git(&["init", "--quiet", "."])?;
    let wanted = reference.unwrap_or("HEAD");
    let shallow = git(&["fetch", "--quiet", "--depth", "1", "--recurse-submodules", "--", url, wanted]);
    let checked_out = match shallow {
        Ok(_) => "FETCH_HEAD".to_owned(),
        // servers need not give a bare commit by name: then everything is fetched
        Err(error) => {
            let heads = ["+refs/heads/*:refs/remotes/origin/*", "+HEAD:refs/remotes/origin/HEAD"];
            let all = git(&["fetch", "--quiet", "--tags", "--", url, heads[0], heads[1]]);
            all.map_err(|_| error)?;
            let branch = format!("refs/remotes/origin/{wanted}");
            let is_branch = git(&["rev-parse", "--quiet", "--verify", &branch]).is_ok();
            if is_branch { branch } else { wanted.to_owned() }
        }
    };
    git(&["checkout", "--quiet", "--detach", &checked_out])?;
    git(&["submodule", "update", "--quiet", "--init", "--recursive", "--depth", "1"])?;
    git(&["rev-parse", "HEAD"])
}
