//! Which files COPY and ADD mean, and where each of them goes.

use oci::digest::Digest;

use super::files::{File, FileKind, Files, FilesError, find, join};
use super::ignore::{Ignore, IgnoreError, clean};
use super::key::Canonical;
use super::mode::{Chmod, Folder};
use crate::dockerfile::glob::{Glob, Stars, has_wildcard};
use crate::dockerfile::{GlobError, Parents};
use crate::path;

/// The most files of one COPY.
const ENTRIES_MAX: usize = 4_000_000;
/// The deepest folder.
const DEPTH_MAX: usize = 512;

/// Why files cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A source is not there.
    #[error("\"{source_path}\" is not in {place}")]
    Missing {
        /// What was asked for.
        source_path: String,
        /// The context, a stage or an image.
        place: String,
    },
    /// A source is no pattern.
    #[error("\"{source_path}\" is no pattern")]
    Pattern {
        /// What was asked for.
        source_path: String,
        /// Why.
        #[source]
        source: GlobError,
    },
    /// `--exclude` is no pattern.
    #[error("--exclude cannot be used")]
    Exclude(#[source] IgnoreError),
    /// The tree cannot be read.
    #[error("cannot read {place}")]
    Files {
        /// The context, a stage or an image.
        place: String,
        /// Why.
        #[source]
        source: FilesError,
    },
    /// Too many files.
    #[error("{what}: more than the limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
}

/// What is asked for; everything is expanded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Paths and patterns.
    pub sources: Vec<String>,
    /// Whether parents are kept.
    pub parents: Parents,
    /// What is left out.
    pub exclude: Vec<String>,
    /// Which permissions the copies get.
    pub chmod: Option<Chmod>,
}

/// What one source, or one match of a pattern, turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The name that it has inside of a folder: the last one of the source.
    pub name: Vec<u8>,
    /// How it meets the destination.
    pub shape: Shape,
    /// What is copied, parents before what is in them.
    pub entries: Vec<Entry>,
}

/// How a source meets the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// One file, which becomes the destination or goes into it.
    File,
    /// A folder: what is in it goes into the destination.
    Contents,
    /// One file that is an archive: what is in it goes into the destination.
    Archive,
}

/// One file to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path below the destination; empty for the one file of [`Shape::File`] and the folder of [`Shape::Contents`].
    pub path: Vec<u8>,
    /// Its path in the source tree.
    pub origin: Vec<u8>,
    /// Its metadata and kind, with the permissions that it gets.
    pub file: File,
    /// The digest of its contents.
    pub digest: Option<Digest>,
}

/// A destination: an absolute clean path, and whether it has to be a folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The path.
    pub path: String,
    /// Whether a slash at its end says that it is a folder.
    pub slash: Slash,
}

/// Whether a destination has to be a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slash {
    /// It has to.
    Folder,
    /// It is a folder if one is there already.
    Open,
}

/// What is at the destination before the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// A folder, or a link to one.
    Folder,
    /// Anything else, or nothing.
    Other,
}

impl Destination {
    /// A destination as the Dockerfile has it, seen from `workdir`.
    #[must_use]
    pub fn new(text: &str, workdir: &str) -> Self {
        let last = text.rsplit('/').next().unwrap_or_default();
        let slash = if ["", ".", ".."].contains(&last) { Slash::Folder } else { Slash::Open };
        let path = if text.starts_with('/') { text.to_owned() } else { format!("/{workdir}/{text}") };
        Self { path: clean(&path), slash }
    }

    /// The absolute paths of a source's files.
    #[must_use]
    pub fn place<'a>(&self, source: &'a Resolved, existing: Existing) -> Vec<(Vec<u8>, &'a Entry)> {
        let root = self.path.trim_matches('/').as_bytes();
        let into = self.slash == Slash::Folder || existing == Existing::Folder;
        let root = if source.shape == Shape::File && into { join(root, &source.name) } else { root.to_vec() };
        source.entries.iter().map(|entry| ([b"/", &join(&root, &entry.path)[..]].concat(), entry)).collect()
    }
}

/// Resolves sources in a tree that messages call `place`.
///
/// A plain path has to be there; a pattern may match nothing. The last symbolic link of a plain path is followed, those
/// inside of a folder are copied as they are.
///
/// # Errors
/// [`CopyError`].
pub fn resolve(files: &dyn Files, selection: &Selection, place: &str) -> Result<Vec<Resolved>, CopyError> {
    let exclude = Ignore::from_patterns(&selection.exclude).map_err(CopyError::Exclude)?;
    let mut walk = Walk { files, place, exclude, chmod: selection.chmod.as_ref(), count: 0 };
    let mut out = Vec::new();
    for source in &selection.sources {
        match selection.parents {
            Parents::Drop => walk.source(source, &mut out)?,
            Parents::Keep => out.push(walk.with_parents(source)?),
        }
    }
    Ok(out)
}

/// The digest of what a copy will write, whatever the times of the files: the part of a cache key.
#[must_use]
pub fn digest(sources: &[Resolved]) -> Digest {
    let mut canonical = Canonical::new("insula.build.files.v1");
    for source in sources {
        canonical.field("name", &source.name);
        canonical.field("shape", &[source.shape as u8]);
        for Entry { path, file: File { stat, kind }, digest, .. } in &source.entries {
            canonical.field("path", path);
            canonical.number("mode", stat.mode.into());
            canonical.number("uid", stat.uid.into());
            canonical.number("gid", stat.gid.into());
            for (name, value) in &stat.xattrs {
                canonical.field("xattr", name);
                canonical.field("value", value);
            }
            match kind {
                FileKind::Directory => canonical.field("folder", b""),
                FileKind::Regular(size) => canonical.number("file", *size),
                FileKind::Symlink(target) => canonical.field("link", target),
                FileKind::Device { kind, major, minor } => {
                    canonical.field("device", &[*kind as u8]);
                    canonical.number("major", (*major).into());
                    canonical.number("minor", (*minor).into());
                }
                FileKind::Fifo => canonical.field("fifo", b""),
                FileKind::Socket => canonical.field("socket", b""),
            }
            if let Some(digest) = digest {
                canonical.field("contents", digest.as_bytes());
            }
        }
    }
    canonical.finish()
}

struct Walk<'a> {
    files: &'a dyn Files,
    place: &'a str,
    exclude: Ignore,
    chmod: Option<&'a Chmod>,
    count: usize,
}

impl Walk<'_> {
    fn failed(&self) -> impl Fn(FilesError) -> CopyError + use<> {
        let place = self.place.to_owned();
        move |source| CopyError::Files { place: place.clone(), source }
    }

    fn missing(&self, source: &str) -> CopyError {
        CopyError::Missing { source_path: source.to_owned(), place: self.place.to_owned() }
    }

    fn source(&mut self, source: &str, out: &mut Vec<Resolved>) -> Result<(), CopyError> {
        let clean = clean(&format!("/{source}"));
        let wanted = clean.trim_start_matches('/');
        if !has_wildcard(wanted) {
            return self.one(wanted.as_bytes(), source, out);
        }
        let pattern = |error| CopyError::Pattern { source_path: source.to_owned(), source: error };
        let names: Vec<&str> = wanted.split('/').collect();
        let globs = names.iter().map(|name| Glob::path(name, Stars::Plain)).collect::<Result<Vec<_>, _>>();
        let mut found = Vec::new();
        self.matching(&[], &names, &globs.map_err(pattern)?, &mut found)?;
        for path in found {
            self.one(&path, source, out)?;
        }
        Ok(())
    }

    /// The paths that a pattern matches, component by component, in byte order.
    fn matching(
        &mut self,
        folder: &[u8],
        names: &[&str],
        globs: &[Glob],
        out: &mut Vec<Vec<u8>>,
    ) -> Result<(), CopyError> {
        let ([name, names @ ..], [glob, globs @ ..]) = (names, globs) else {
            self.counted()?;
            out.push(folder.to_vec());
            return Ok(());
        };
        if !has_wildcard(name) {
            let next = join(folder, name.as_bytes());
            return match find(self.files, &next).map_err(self.failed())? {
                Some(_) => self.matching(&next, names, globs, out),
                None => Ok(()),
            };
        }
        let Some(found) = find(self.files, folder).map_err(self.failed())? else { return Ok(()) };
        if found.file.kind != FileKind::Directory {
            return Ok(());
        }
        for child in self.files.names(&found.path).map_err(self.failed())? {
            if glob.matches(&String::from_utf8_lossy(&child)) {
                self.matching(&join(folder, &child), names, globs, out)?;
            }
        }
        Ok(())
    }

    /// One path, whose last link is followed.
    fn one(&mut self, wanted: &[u8], source: &str, out: &mut Vec<Resolved>) -> Result<(), CopyError> {
        let found = find(self.files, wanted).map_err(self.failed())?.ok_or_else(|| self.missing(source))?;
        let name = path::split(wanted).map_or(&b""[..], |(_, name)| name).to_vec();
        let mut entries = Vec::new();
        if found.file.kind == FileKind::Directory {
            // what is in the folder is copied: one that is made for it is a new one, as the parents are
            let mut file = found.file;
            (file.stat.mode, file.stat.uid, file.stat.gid) = (0o755, 0, 0);
            file.stat.xattrs.clear();
            self.tree(&found.path, &[], file, &mut entries, 0)?;
            out.push(Resolved { name, shape: Shape::Contents, entries });
        } else if !self.exclude.excludes(&String::from_utf8_lossy(&name)) {
            entries.push(self.entry(&found.path, &[], found.file)?);
            out.push(Resolved { name, shape: Shape::File, entries });
        }
        Ok(())
    }

    /// A folder and all that is in it and not left out.
    fn tree(
        &mut self,
        origin: &[u8],
        path: &[u8],
        file: File,
        out: &mut Vec<Entry>,
        depth: usize,
    ) -> Result<(), CopyError> {
        if depth > DEPTH_MAX {
            return Err(CopyError::Limit { what: "folders inside of folders", limit: DEPTH_MAX });
        }
        // a socket's name means nothing without the program behind it, and Docker leaves it out too
        if file.kind == FileKind::Socket {
            return Ok(());
        }
        let folder = file.kind == FileKind::Directory;
        let excluded = !path.is_empty() && self.exclude.excludes(&String::from_utf8_lossy(path));
        if excluded && !(folder && self.exclude.may_except_below(&String::from_utf8_lossy(path))) {
            return Ok(());
        }
        let at = out.len();
        out.push(self.entry(origin, path, file)?);
        if folder {
            for name in self.files.names(origin).map_err(self.failed())? {
                let next = join(origin, &name);
                if let Some(child) = self.files.look(&next).map_err(self.failed())? {
                    self.tree(&next, &join(path, &name), child, out, depth + 1)?;
                }
            }
        }
        // an excluded folder without exceptions in it goes again
        if excluded && out.len() == at + 1 {
            out.truncate(at);
        }
        Ok(())
    }

    /// `--parents`: everything that matches below the root or below what stands in front of `/./`, with its parents.
    fn with_parents(&mut self, source: &str) -> Result<Resolved, CopyError> {
        let (pivot, pattern) = match source.split_once("/./") {
            Some((pivot, pattern)) => (clean(&format!("/{pivot}")), pattern),
            None if source.starts_with("./") => ("/".to_owned(), source),
            None => ("/".to_owned(), source),
        };
        let pattern = clean(&format!("/{pattern}"));
        let pattern = pattern.trim_start_matches('/');
        let root = find(self.files, pivot.trim_start_matches('/').as_bytes()).map_err(self.failed())?;
        let root = root.ok_or_else(|| self.missing(source))?;
        let glob = Glob::path(pattern, Stars::Double)
            .map_err(|error| CopyError::Pattern { source_path: source.to_owned(), source: error })?;
        let mut entries = Vec::new();
        self.included(&root.path, &[], root.file, (&glob, pattern), &mut entries)?;
        if entries.is_empty() && !has_wildcard(pattern) {
            return Err(self.missing(source));
        }
        Ok(Resolved { name: Vec::new(), shape: Shape::Contents, entries })
    }

    fn included(
        &mut self,
        origin: &[u8],
        path: &[u8],
        file: File,
        wanted: (&Glob, &str),
        out: &mut Vec<Entry>,
    ) -> Result<(), CopyError> {
        let text = String::from_utf8_lossy(path);
        if wanted.1.is_empty() || (!path.is_empty() && wanted.0.matches(&text)) {
            return self.tree(origin, path, file, out, path::components(path).count());
        }
        if file.kind != FileKind::Directory || !may_lead(wanted.1, &text) {
            return Ok(());
        }
        if path::components(path).count() > DEPTH_MAX {
            return Err(CopyError::Limit { what: "folders inside of folders", limit: DEPTH_MAX });
        }
        let at = out.len();
        out.push(self.entry(origin, path, file)?);
        for name in self.files.names(origin).map_err(self.failed())? {
            let next = join(origin, &name);
            if let Some(child) = self.files.look(&next).map_err(self.failed())? {
                self.included(&next, &join(path, &name), child, wanted, out)?;
            }
        }
        if out.len() == at + 1 {
            out.truncate(at);
        }
        Ok(())
    }

    fn entry(&mut self, origin: &[u8], path: &[u8], mut file: File) -> Result<Entry, CopyError> {
        self.counted()?;
        let digest = match file.kind {
            FileKind::Regular(_) => Some(self.files.digest(origin).map_err(self.failed())?),
            _ => None,
        };
        let folder = if file.kind == FileKind::Directory { Folder::Yes } else { Folder::No };
        if let (Some(chmod), false) = (self.chmod, matches!(file.kind, FileKind::Symlink(_))) {
            file.stat.mode = chmod.apply(file.stat.mode, folder);
        }
        Ok(Entry { path: path.to_vec(), origin: origin.to_vec(), file, digest })
    }

    fn counted(&mut self) -> Result<(), CopyError> {
        self.count += 1;
        if self.count > ENTRIES_MAX {
            return Err(CopyError::Limit { what: "files of one copy", limit: ENTRIES_MAX });
        }
        Ok(())
    }
}

/// Whether something below this folder could match the pattern.
fn may_lead(pattern: &str, folder: &str) -> bool {
    let mut names = pattern.split('/');
    for part in folder.split('/').filter(|part| !part.is_empty()) {
        match names.next() {
            None => return false,
            Some(name) if name.contains("**") => return true,
            Some(name) if !has_wildcard(name) && name != part => return false,
            Some(_) => {}
        }
    }
    true
}
