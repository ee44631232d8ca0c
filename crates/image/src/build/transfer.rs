//! ADD and COPY: what is copied, from where, and what its key is made of.

use std::io::Read as _;

use oci::digest::Digest;

use super::archive;
use super::config::Layer;
use super::copy::{self, Destination, Resolved, Selection, Shape, Slash};
use super::error::{BuildError, BuildFault};
use super::files::{FileKind, FilesError};
use super::graph::Origin;
use super::key::Canonical;
use super::mode::{Chmod, Folder, Owner};
use super::plan::{Action, CopySource, CopyStep, Input, Recipe, Remote};
use super::stage::{Env, Stager, place_name};
use crate::dockerfile::{
    EXPANSION_MAX, Expander, Expansion, Heredoc, Parents, Quotes, Span, Transfer, TransferSource, Unpack,
};

impl Stager<'_> {
    pub(super) fn transfer(
        &mut self,
        transfer: &Transfer,
        name: &'static str,
        span: Span,
    ) -> Result<(Action, Option<Recipe>), BuildError> {
        let step = self.copy_step(transfer, name, span)?;
        let mut line = name.to_owned();
        if transfer.parents == Parents::Keep {
            line.push_str(" --parents");
        }
        let flag = |flag: &Option<String>| flag.as_ref().map(|text| self.word(text, span)).transpose();
        if let Some(owner) = flag(&transfer.chown)? {
            line.push_str(&format!(" --chown={owner}"));
        }
        if let Some(chmod) = flag(&transfer.chmod)? {
            line.push_str(&format!(" --chmod={chmod}"));
        }
        for source in &transfer.sources {
            match source {
                TransferSource::Path(path) => line.push_str(&format!(" {}", self.word(path, span)?)),
                TransferSource::Inline(heredoc) => line.push_str(&format!(" <<{}", heredoc.name)),
            }
        }
        line.push_str(&format!(" {} # buildkit", self.word(&transfer.destination, span)?));
        let recipe = self.copy_recipe(&step, name, span)?;
        self.spec.note(line, Layer::One, self.shared.created.as_deref());
        Ok((Action::Copy(Box::new(step)), Some(recipe)))
    }

    fn copy_step(&mut self, transfer: &Transfer, name: &str, span: Span) -> Result<CopyStep, BuildError> {
        let text = self.path(&transfer.destination, "the destination", span)?;
        let destination = Destination::new(&text, &self.spec.config.working_dir);
        self.check_path(&destination.path, &transfer.destination, span)?;
        if transfer.sources.len() > 1 && destination.slash == Slash::Open {
            return Err(self.error_at(
                span,
                &transfer.destination,
                BuildFault::DestinationNotFolder { destination: text },
            ));
        }
        let flag = |flag: &Option<String>| flag.as_ref().map(|text| self.word(text, span)).transpose();
        let owner = flag(&transfer.chown)?.map(|text| Owner::parse(&text)).transpose();
        let chmod = flag(&transfer.chmod)?.map(|text| Chmod::parse(&text)).transpose();
        let owner = owner.map_err(|fault| self.error(span, fault))?;
        let chmod = chmod.map_err(|fault| self.error(span, fault))?;
        let exclude = transfer.exclude.iter().map(|text| self.word(text, span)).collect::<Result<Vec<_>, _>>()?;
        let origin = match &transfer.from {
            None => Origin::Context,
            Some(from) => self.node.origins.get(from).cloned().unwrap_or(Origin::Context),
        };
        let mut sources = Vec::new();
        let mut selection = Selection { sources: Vec::new(), parents: transfer.parents, exclude, chmod: chmod.clone() };
        for source in &transfer.sources {
            match source {
                TransferSource::Inline(heredoc) => {
                    let mode = chmod.as_ref().map_or(0o644, |chmod| chmod.apply(0o644, Folder::No));
                    let contents = self.heredoc(heredoc, span)?;
                    sources.push(CopySource::Inline { name: heredoc.name.clone(), contents, mode });
                }
                TransferSource::Path(path) => {
                    let path = self.path(path, "a source", span)?;
                    let remote = if name == "ADD" { self.remote(&path, transfer, &destination, span)? } else { None };
                    if let Some(remote) = remote {
                        sources.push(CopySource::Remote(remote));
                        continue;
                    }
                    selection.sources = vec![path.clone()];
                    if !origin.is_given() {
                        sources.push(CopySource::Later(selection.clone()));
                        continue;
                    }
                    let found = self.resolve(&origin, &selection, span)?;
                    if found.is_empty() {
                        self.warnings
                            .push(format!("line {}: \"{path}\" matches nothing in the build context", span.line));
                    }
                    for mut resolved in found {
                        if name == "ADD" && transfer.unpack != Some(Unpack::No) {
                            self.mark_archive(&mut resolved, span)?;
                        }
                        sources.push(CopySource::Files(resolved));
                    }
                }
            }
        }
        let remote = sources.iter().any(|source| matches!(source, CopySource::Remote(_)));
        if transfer.checksum.is_some() && !(remote && transfer.sources.len() == 1) {
            let reason = "it needs one source, an address of http, https or git";
            return Err(self.error(span, BuildFault::Checksum { reason }));
        }
        Ok(CopyStep { sources, destination, owner, chmod, link: transfer.link, origin })
    }

    /// A path; an empty one is the folder that it is seen from, as in Docker's builds.
    fn path(&mut self, word: &str, what: &str, span: Span) -> Result<String, BuildError> {
        let text = self.word(word, span)?;
        if !text.is_empty() {
            return Ok(text);
        }
        let line = span.line;
        self.warnings
            .push(format!("line {line}: {what}, {word:?}, is empty once its variables are replaced: it is \".\""));
        Ok(".".to_owned())
    }

    fn heredoc(&self, heredoc: &Heredoc, span: Span) -> Result<String, BuildError> {
        let text = heredoc.text();
        if heredoc.expand == Expansion::No {
            return Ok(text);
        }
        let env = Env(&self.env);
        if text.len() <= EXPANSION_MAX {
            let expander = Expander { variables: &env, escape: '\\', quotes: Quotes::Ignore };
            let name = format!("<<{}", heredoc.name);
            return expander.word(&text).map_err(|source| self.error(span, BuildFault::Expand { word: name, source }));
        }
        Err(self
            .error(span, BuildFault::Limit { what: "bytes of a here-document with variables", limit: EXPANSION_MAX }))
    }

    fn remote(
        &self,
        path: &str,
        transfer: &Transfer,
        destination: &Destination,
        span: Span,
    ) -> Result<Option<Remote>, BuildError> {
        let checksum = transfer.checksum.as_ref().map(|text| self.word(text, span)).transpose()?;
        let Some(mut remote) = archive::remote(path) else { return Ok(None) };
        match &mut remote {
            Remote::Http { name, checksum: expected, unpack, .. } => {
                if name.is_empty() && destination.slash == Slash::Folder {
                    let value = path.to_owned();
                    let what = "address with a file's name, which a folder as the destination needs";
                    return Err(self.error(span, BuildFault::Value { what, value }));
                }
                let good = |text: &String| text.parse::<Digest>().is_ok();
                if checksum.as_ref().is_some_and(|text| !good(text)) {
                    let reason = "for a file it is sha256: and 64 hexadecimal digits";
                    return Err(self.error(span, BuildFault::Checksum { reason }));
                }
                *expected = checksum;
                *unpack = transfer.unpack.into();
            }
            Remote::Git { checksum: expected, keep, .. } => {
                *expected = checksum;
                *keep = transfer.keep_git_dir.into();
            }
        }
        Ok(Some(remote))
    }

    /// A single regular file that is an archive will be unpacked.
    fn mark_archive(&self, resolved: &mut Resolved, span: Span) -> Result<(), BuildError> {
        let [entry] = &resolved.entries[..] else { return Ok(()) };
        if resolved.shape != Shape::File || !matches!(entry.file.kind, FileKind::Regular(_)) {
            return Ok(());
        }
        let failed = |source| {
            let place = place_name(&Origin::Context);
            self.error(span, copy::CopyError::Files { place, source })
        };
        let mut head = Vec::new();
        let file = self.shared.files(&Origin::Context).open(&entry.origin).map_err(failed)?;
        file.take(archive::HEAD)
            .read_to_end(&mut head)
            .map_err(|source| failed(FilesError::io("read", &entry.origin, source)))?;
        if archive::is_archive(&head) {
            resolved.shape = Shape::Archive;
        }
        Ok(())
    }

    fn copy_recipe(&self, step: &CopyStep, name: &str, span: Span) -> Result<Recipe, BuildError> {
        let mut canonical = self.canonical(name);
        canonical.field("destination", step.destination.path.as_bytes());
        canonical.number("slash", step.destination.slash as u64);
        if let Some(owner) = &step.owner {
            canonical.field("owner", owner.to_string().as_bytes());
        }
        canonical.number("link", step.link as u64);
        let mut inputs = Vec::new();
        for source in &step.sources {
            match source {
                CopySource::Files(resolved) => {
                    inputs.push(Input::Content(copy::digest(std::slice::from_ref(resolved))))
                }
                CopySource::Inline { name, contents, mode } => {
                    canonical.field("inline", name.as_bytes());
                    canonical.field("contents", contents.as_bytes());
                    canonical.number("mode", (*mode).into());
                }
                CopySource::Later(selection) => {
                    selection.sources.iter().for_each(|text| canonical.field("source", text.as_bytes()));
                    selection.exclude.iter().for_each(|text| canonical.field("exclude", text.as_bytes()));
                    canonical.number("parents", selection.parents as u64);
                    chmod(&mut canonical, selection.chmod.as_ref());
                    inputs.push(match &step.origin {
                        Origin::Stage(index) => Input::Stage(*index),
                        other => self.image_input(other, span)?,
                    });
                }
                CopySource::Remote(remote) => {
                    remote_definition(remote, &mut canonical);
                    chmod(&mut canonical, step.chmod.as_ref());
                    inputs.push(match remote {
                        Remote::Http { checksum: Some(checksum), .. } => {
                            Input::Content(Digest::of(checksum.as_bytes()))
                        }
                        other => Input::Remote(other.clone()),
                    });
                }
            }
        }
        Ok(Recipe { definition: canonical.finish(), inputs, link: step.link })
    }
}

fn chmod(canonical: &mut Canonical, chmod: Option<&Chmod>) {
    if let Some(chmod) = chmod {
        canonical.field("chmod", chmod.to_string().as_bytes());
    }
}

/// What is fetched, without what it is then.
fn remote_definition(remote: &Remote, canonical: &mut Canonical) {
    match remote {
        Remote::Http { url, name, unpack, .. } => {
            canonical.field("address", url.as_bytes());
            canonical.field("name", name.as_bytes());
            canonical.number("unpack", *unpack as u64);
        }
        Remote::Git { url, reference, folder, keep, .. } => {
            canonical.field("repository", url.as_bytes());
            canonical.field("reference", reference.as_deref().unwrap_or_default().as_bytes());
            canonical.field("folder", folder.as_deref().unwrap_or_default().as_bytes());
            canonical.number("git", *keep as u64);
        }
    }
}
