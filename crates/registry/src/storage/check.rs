//! Verifying all that is there.

use std::fmt;

use super::upload::digest_file;
use super::{Storage, StorageError, durable};
use crate::digest::{Algorithm, ContentDigest};
use crate::manifest::Manifest;
use crate::name::{Repository, Tag, Target};

/// Something in the store that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A blob's content is not what its name says.
    Damaged {
        /// The blob.
        digest: ContentDigest,
    },
    /// Something is referred to that is not there.
    Missing {
        /// In which repository.
        repository: Repository,
        /// By what: a manifest's digest, or a tag.
        by: String,
        /// What is missing.
        digest: ContentDigest,
    },
    /// A manifest that cannot be read.
    Unreadable {
        /// In which repository.
        repository: Repository,
        /// The manifest.
        digest: ContentDigest,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { digest } => write!(f, "blob {digest} is damaged; delete it and push it again"),
            Self::Missing { repository, by, digest } => {
                write!(f, "{by} in {repository} needs {digest}, which is missing")
            }
            Self::Unreadable { repository, digest } => write!(f, "manifest {digest} in {repository} cannot be read"),
        }
    }
}

impl Storage {
    /// Reads everything: every blob against its digest, every reference against what is there; requests may go on
    /// meanwhile. In a cache
    /// ([`super::Presence::Later`]) what was not fetched yet counts as missing.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn check(&self) -> Result<Vec<Problem>, StorageError> {
        let mut problems = Vec::new();
        for algorithm in Algorithm::ALL {
            self.check_blobs(algorithm, &mut problems)?;
        }
        for repository in self.repositories()? {
            self.check_repository(&repository, &mut problems)?;
        }
        Ok(problems)
    }

    fn check_blobs(&self, algorithm: Algorithm, problems: &mut Vec<Problem>) -> Result<(), StorageError> {
        let top = self.0.root.join("blobs").join(algorithm.name());
        for shelf in durable::names(&top)? {
            for name in durable::names(&top.join(&shelf))? {
                let Ok(digest) = ContentDigest::from_hex(algorithm, &name) else { continue };
                // Collected meanwhile.
                let Some(content) = self.content(&digest)? else { continue };
                let path = self.blob_path(&digest);
                let read = digest_file(&content.file, algorithm).map_err(StorageError::file("read", &path))?;
                if read.finish() != digest {
                    problems.push(Problem::Damaged { digest });
                }
            }
        }
        Ok(())
    }

    fn check_repository(&self, repository: &Repository, problems: &mut Vec<Problem>) -> Result<(), StorageError> {
        for tag in self.tags(repository)? {
            let Ok(tag) = tag.parse::<Tag>() else { continue };
            let by = format!("tag {tag}");
            let target = Target::Tag(tag);
            let Ok(digest) = self.resolve(repository, &target) else { continue };
            let gone = !self.manifest_link(repository, &digest).exists();
            let still = self.resolve(repository, &target).is_ok_and(|now| now == digest);
            if gone && still {
                problems.push(Problem::Missing { repository: repository.clone(), by, digest });
            }
        }
        for digest in self.manifests(repository)? {
            let stored = match self.manifest(repository, &Target::Digest(digest)) {
                Ok(stored) => stored,
                // Deleted since the list was made.
                Err(StorageError::NoManifest { .. }) if !self.manifest_link(repository, &digest).exists() => continue,
                Err(StorageError::NoManifest { .. }) => {
                    let by = "the list of manifests".to_owned();
                    problems.push(Problem::Missing { repository: repository.clone(), by, digest });
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Ok(manifest) = Manifest::parse(&stored.bytes, &stored.media_type) else {
                problems.push(Problem::Unreadable { repository: repository.clone(), digest });
                continue;
            };
            let needs = manifest.blobs().filter(|blob| !blob.is_foreign()).chain(&manifest.manifests);
            for needed in needs.filter(|needed| self.blob(repository, &needed.digest).is_err()) {
                if !self.manifest_link(repository, &digest).exists() {
                    break;
                }
                let by = format!("manifest {digest}");
                problems.push(Problem::Missing { repository: repository.clone(), by, digest: needed.digest });
            }
        }
        Ok(())
    }
}
