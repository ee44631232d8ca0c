//! Manifests, tags and referrers of a repository.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::{Storage, StorageError, durable, flat, links, unflat};
use crate::digest::{Algorithm, ContentDigest};
use crate::manifest::{Descriptor, MAX_MANIFEST, Manifest};
use crate::name::{Repository, Tag, Target};

/// What the link to a manifest says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    media_type: String,
}

/// A manifest as it came.
#[derive(Debug, Clone)]
pub struct StoredManifest {
    /// Its digest.
    pub digest: ContentDigest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What was made of a manifest that was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its digest.
    pub digest: ContentDigest,
    /// The manifest that it is about.
    pub subject: Option<ContentDigest>,
}

/// Whether what a manifest refers to has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Yes: a client pushes it.
    Required,
    /// It may come later: a cache fetches what is asked for.
    Later,
}

impl Storage {
    /// Keeps a manifest, under a tag if `target` is one.
    ///
    /// # Errors
    /// When it is none, its digest is another, or what it refers to is not in the repository.
    pub fn put_manifest(
        &self,
        repository: &Repository,
        target: &Target,
        content_type: &str,
        bytes: &[u8],
        presence: Presence,
    ) -> Result<Accepted, StorageError> {
        let digest = match target {
            Target::Digest(expected) => {
                let actual = ContentDigest::with(expected.algorithm(), bytes);
                if actual != *expected {
                    return Err(StorageError::Mismatch { expected: Box::new(*expected), actual: Box::new(actual) });
                }
                actual
            }
            Target::Tag(_) => ContentDigest::with(Algorithm::default(), bytes),
        };
        let manifest = Manifest::parse(bytes, content_type).map_err(StorageError::Manifest)?;
        let _gate = self.shared();
        if presence == Presence::Required {
            self.require(repository, &manifest)?;
        }
        self.put_content(&digest, bytes)?;
        let subject = manifest.subject.as_ref().map(|subject| subject.digest);
        if let Some(subject) = &subject {
            self.put_referrer(repository, subject, &manifest, &digest, bytes.len() as u64)?;
        }
        let link = Link { media_type: manifest.media_type };
        self.put_json(&self.manifest_link(repository, &digest), &link)?;
        if let Target::Tag(tag) = target {
            let path = self.tag_path(repository, tag);
            durable::publish(&self.tmp(), &path, digest.to_string().as_bytes())?;
        }
        Ok(Accepted { digest, subject })
    }

    /// Checks that all a manifest refers to is there, and renews the leases on it.
    fn require(&self, repository: &Repository, manifest: &Manifest) -> Result<(), StorageError> {
        let blobs = manifest.blobs().filter(|blob| !blob.is_foreign()).map(|blob| (blob.digest, false));
        let children = manifest.manifests.iter().map(|child| (child.digest, true));
        let mut missing: Vec<ContentDigest> = Vec::new();
        for (digest, is_manifest) in blobs.chain(children) {
            let links = [self.manifest_link(repository, &digest), self.blob_link(repository, &digest)];
            let links = if is_manifest { &links[..1] } else { &links[..] };
            let linked = links.iter().any(|link| durable::touch(link));
            let there = linked && self.blob_path(&digest).exists();
            if !there && !missing.contains(&digest) {
                missing.push(digest);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(StorageError::Missing { repository: repository.clone(), missing })
    }

    fn put_json(&self, path: &std::path::Path, value: &impl Serialize) -> Result<(), StorageError> {
        let text = serde_json::to_vec(value).map_err(|error| StorageError::file("write", path)(error.into()))?;
        durable::publish(&self.tmp(), path, &text)
    }

    /// Written before the manifest's own link, and only listed when that is there.
    fn put_referrer(
        &self,
        repository: &Repository,
        subject: &ContentDigest,
        manifest: &Manifest,
        digest: &ContentDigest,
        size: u64,
    ) -> Result<(), StorageError> {
        let mut descriptor = Descriptor::new(&manifest.media_type, *digest, size);
        descriptor.artifact_type = manifest.kind().map(str::to_owned);
        descriptor.annotations.clone_from(&manifest.annotations);
        self.put_json(&self.referrers_folder(repository, subject).join(flat(digest)), &descriptor)
    }

    /// What a tag stands for, or the digest itself.
    pub(super) fn resolve(&self, repository: &Repository, target: &Target) -> Result<ContentDigest, StorageError> {
        let tag = match target {
            Target::Digest(digest) => return Ok(*digest),
            Target::Tag(tag) => tag,
        };
        let path = self.tag_path(repository, tag);
        let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => unknown(repository, target),
            _ => StorageError::file("read", &path)(error),
        })?;
        let damaged = |_| StorageError::file("read", &path)(io::Error::other("there is no digest in it"));
        text.trim().parse().map_err(damaged)
    }

    /// A manifest by tag or digest.
    ///
    /// # Errors
    /// When the repository has none.
    pub fn manifest(&self, repository: &Repository, target: &Target) -> Result<StoredManifest, StorageError> {
        let digest = self.resolve(repository, target)?;
        let path = self.manifest_link(repository, &digest);
        let text = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => unknown(repository, target),
            _ => StorageError::file("read", &path)(error),
        })?;
        let link: Link =
            serde_json::from_slice(&text).map_err(|error| StorageError::file("read", &path)(error.into()))?;
        let content = self.content(&digest)?.ok_or_else(|| unknown(repository, target))?;
        let mut bytes = Vec::with_capacity(usize::try_from(content.size).unwrap_or(0).min(MAX_MANIFEST));
        let path = self.blob_path(&digest);
        let most = MAX_MANIFEST as u64;
        content.file.take(most).read_to_end(&mut bytes).map_err(StorageError::file("read", &path))?;
        Ok(StoredManifest { digest, media_type: link.media_type, bytes })
    }

    /// Removes a tag; or a manifest with all tags that stand for it.
    ///
    /// # Errors
    /// When the repository has none.
    pub fn delete_manifest(&self, repository: &Repository, target: &Target) -> Result<(), StorageError> {
        let _gate = self.alone();
        match target {
            Target::Tag(tag) => {
                let path = self.tag_path(repository, tag);
                if !durable::remove(&path)? {
                    return Err(unknown(repository, target));
                }
                durable::sync_dir(path.parent().unwrap_or(&path))
            }
            Target::Digest(digest) => self.remove_manifest(repository, digest),
        }
    }

    /// Tags go first, so that none ever stands for nothing; the gate is held alone.
    pub(super) fn remove_manifest(&self, repository: &Repository, digest: &ContentDigest) -> Result<(), StorageError> {
        let target = Target::Digest(*digest);
        let stored = self.manifest(repository, &target)?;
        let folder = self.folder(repository).join("_tags");
        let mut removed = false;
        for tag in durable::names(&folder)? {
            let points = fs::read_to_string(folder.join(&tag)).is_ok_and(|text| text.trim() == digest.to_string());
            removed |= points && durable::remove(&folder.join(tag))?;
        }
        if removed {
            durable::sync_dir(&folder)?;
        }
        let link = self.manifest_link(repository, digest);
        durable::remove(&link)?;
        durable::sync_dir(link.parent().unwrap_or(&link))?;
        let subject = Manifest::parse(&stored.bytes, &stored.media_type).ok().and_then(|manifest| manifest.subject);
        if let Some(subject) = subject {
            durable::remove(&self.referrers_folder(repository, &subject.digest).join(flat(digest)))?;
        }
        Ok(())
    }

    /// All tags, sorted.
    ///
    /// # Errors
    /// When there is no such repository.
    pub fn tags(&self, repository: &Repository) -> Result<Vec<String>, StorageError> {
        if !self.folder(repository).join("_manifests").is_dir() {
            return Err(StorageError::NoRepository { repository: repository.clone() });
        }
        durable::names(&self.folder(repository).join("_tags"))
    }

    /// The manifests whose subject is `subject`, sorted by digest; nothing if there are none.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn referrers(&self, repository: &Repository, subject: &ContentDigest) -> Result<Vec<Descriptor>, StorageError> {
        let folder = self.referrers_folder(repository, subject);
        let mut found = Vec::new();
        for name in durable::names(&folder)? {
            let Some(digest) = unflat(&name) else { continue };
            if !self.manifest_link(repository, &digest).exists() {
                continue;
            }
            let path = folder.join(&name);
            let text = fs::read(&path).map_err(StorageError::file("read", &path))?;
            found.extend(serde_json::from_slice::<Descriptor>(&text));
        }
        Ok(found)
    }

    /// The digests that tags of the repository stand for.
    pub(super) fn tagged(&self, repository: &Repository) -> Result<BTreeSet<ContentDigest>, StorageError> {
        let names = durable::names(&self.folder(repository).join("_tags"))?;
        let tags = names.iter().filter_map(|name| name.parse::<Tag>().ok());
        Ok(tags.filter_map(|tag| self.resolve(repository, &Target::Tag(tag)).ok()).collect())
    }

    /// The digests of all manifests of the repository.
    pub(super) fn manifests(&self, repository: &Repository) -> Result<Vec<ContentDigest>, StorageError> {
        links(&self.folder(repository).join("_manifests"))
    }
}

fn unknown(repository: &Repository, target: &Target) -> StorageError {
    StorageError::NoManifest { repository: repository.clone(), target: target.to_string() }
}
