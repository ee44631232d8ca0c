//! From the store to an archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};

use oci::digest::Digest;
use oci::reference::Reference;

use super::{
    BundleError, Descriptor, Index, Listed, Manifest, NAME, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, TAG,
    descriptor,
};
use crate::error::ImageError;
use crate::family::{self, Attestation, Family, Member, Predicate};
use crate::model::{Image, LayerId, StoredManifest};
use crate::store::Store;
use crate::tar::{Kind, Writer};
use crate::tree::{Stat, Time};

/// Where a blob of the archive comes from.
enum Source {
    Bytes(Vec<u8>),
    Blob(Digest),
    Layer(LayerId),
}

#[derive(Default)]
struct Content {
    blobs: BTreeMap<Digest, Source>,
    index: Vec<Descriptor>,
    list: Vec<Listed>,
}

/// An image to be written.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The image; of a family the one that those get who cannot choose.
    pub image: Image,
    /// The names that it shall have.
    pub names: Vec<Reference>,
    /// The images of other platforms, and what is attested.
    pub family: Option<Family>,
}

impl Store {
    /// Writes images with the names that they shall have. An image that was pulled goes out as it came: with its manifest,
    /// its configuration and its compressed layers.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn write_bundle(&self, images: &[Packed], out: impl Write) -> Result<(), BundleError> {
        let mut content = Content::default();
        for packed in images {
            self.gather(packed, &mut content)?;
        }
        let mut writer = Writer::new(BufWriter::with_capacity(1 << 18, out));
        for folder in ["blobs", "blobs/sha256"] {
            let stat = Stat { mode: 0o755, ..stat() };
            writer.add(folder.as_bytes(), &stat, &Kind::Directory, &mut io::empty()).map_err(BundleError::Write)?;
        }
        for (digest, source) in &content.blobs {
            let path = format!("blobs/sha256/{}", digest.hex());
            match source {
                Source::Bytes(bytes) => add(&mut writer, &path, bytes.len() as u64, &bytes[..])?,
                Source::Blob(digest) => {
                    let blob = self.whole_blob(digest)?;
                    let opened = File::open(&blob.path).map_err(ImageError::file("read", &blob.path))?;
                    add(&mut writer, &path, blob.size, opened)?;
                }
                Source::Layer(layer) => {
                    let (archive, size) = self.archive(layer)?;
                    add(&mut writer, &path, size, archive)?;
                }
            }
        }
        let (media_type, annotations) = (OCI_INDEX.to_owned(), BTreeMap::new());
        let index = Index { schema_version: 2, media_type, manifests: content.index, annotations };
        for (path, json) in [
            ("index.json", serde_json::to_vec(&index)),
            ("manifest.json", serde_json::to_vec(&content.list)),
            ("oci-layout", Ok(br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())),
        ] {
            let json = json.map_err(|error| BundleError::Write(error.into()))?;
            add(&mut writer, path, json.len() as u64, &json[..])?;
        }
        let mut out = writer.finish().map_err(BundleError::Write)?;
        out.flush().map_err(BundleError::Write)
    }

    /// The manifest that an image came with, if all that it names was kept.
    #[must_use]
    pub fn whole_manifest<'i>(&self, image: &'i Image) -> Option<&'i StoredManifest> {
        image.manifests.iter().find(|manifest| {
            let there = |digest: &Digest| self.blob_size(digest).is_some();
            manifest.blobs.len() == image.layers.len() && there(&manifest.digest) && manifest.blobs.iter().all(there)
        })
    }

    fn gather(&self, packed: &Packed, content: &mut Content) -> Result<(), BundleError> {
        let (mut entry, layers) = self.image(&packed.image, content)?;
        if let Some(family) = packed.family.as_ref().filter(|family| !family.is_plain()) {
            if let ([only], false) = (&family.members[..], family.needs_index()) {
                entry = self.annotate(entry, &only.annotations, content)?;
            } else {
                let bytes = self.index(family, &packed.names, content)?;
                entry = descriptor(OCI_INDEX, &Digest::of(&bytes), bytes.len() as u64);
                content.blobs.insert(Digest::of(&bytes), Source::Bytes(bytes));
            }
        }
        let names: BTreeSet<&Reference> = packed.names.iter().filter(|name| name.tag().is_some()).collect();
        for name in &names {
            let tag = name.tag().unwrap_or_default().to_owned();
            let annotations = [(NAME.to_owned(), name.to_string()), (TAG.to_owned(), tag)].into();
            content.index.push(Descriptor { annotations, ..entry.clone() });
        }
        if names.is_empty() {
            content.index.push(entry);
        }
        let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        content.list.push(Listed {
            config: path(&packed.image.id.0),
            repo_tags: Some(names.iter().map(|name| name.familiar()).collect()),
            layers: Some(layers.iter().map(path).collect()),
        });
        Ok(())
    }

    /// The index of a family, whose images and statements come along.
    fn index(&self, family: &Family, names: &[Reference], content: &mut Content) -> Result<Vec<u8>, BundleError> {
        let mut listed = Vec::new();
        for member in &family.members {
            let (entry, _) = self.image(&self.get(&member.image.to_string())?, content)?;
            let entry = self.annotate(entry, &member.annotations, content)?;
            let digest = entry.digest.parse().map_err(|_| BundleError::Missing { file: entry.digest.clone() })?;
            let predicates = self.predicates(member)?;
            let attestation = Attestation::new(&predicates, names, &member.platform, &digest)
                .map_err(|error| BundleError::Write(error.into()))?;
            if let Some(made) = &attestation {
                for bytes in made.statements.iter().chain([&made.config, &made.manifest]) {
                    content.blobs.insert(Digest::of(bytes), Source::Bytes(bytes.clone()));
                }
            }
            let platform = member.platform.clone();
            listed.push(family::Listed {
                media_type: entry.media_type,
                digest,
                size: entry.size,
                platform,
                attestation,
                annotations: member.described.clone(),
            });
        }
        Ok(family::index(&listed, &family.annotations))
    }

    /// A manifest of the archive with further words of itself.
    fn annotate(
        &self,
        entry: Descriptor,
        words: &BTreeMap<String, String>,
        content: &mut Content,
    ) -> Result<Descriptor, BundleError> {
        if words.is_empty() {
            return Ok(entry);
        }
        let missing = || BundleError::Missing { file: entry.digest.clone() };
        let digest = entry.digest.parse().map_err(|_| missing())?;
        let bytes = match content.blobs.get(&digest) {
            Some(Source::Bytes(bytes)) => bytes.clone(),
            Some(Source::Blob(digest)) => {
                let path = self.whole_blob(digest)?.path.clone();
                std::fs::read(&path).map_err(ImageError::file("read", &path))?
            }
            _ => return Err(missing()),
        };
        let bytes = family::annotated(&bytes, words).map_err(|error| BundleError::Write(error.into()))?;
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        content.blobs.insert(digest, Source::Bytes(bytes));
        Ok(descriptor(&entry.media_type, &digest, size))
    }

    /// What is attested of a member, by kinds.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub fn predicates(&self, member: &Member) -> Result<Vec<(String, Vec<u8>)>, ImageError> {
        let read = |predicate: &Predicate| {
            let missing = || ImageError::NotFound { name: predicate.blob.to_string() };
            let (path, _) = self.blob(&predicate.blob).ok_or_else(missing)?;
            let bytes = std::fs::read(&path).map_err(ImageError::file("read", &path))?;
            Ok((predicate.kind.clone(), bytes))
        };
        member.predicates.iter().map(read).collect()
    }

    /// An image's manifest, and its layers as they are in the archive.
    fn image(&self, image: &Image, content: &mut Content) -> Result<(Descriptor, Vec<Digest>), BundleError> {
        let config = self.config_bytes(&image.id)?;
        let (media_type, digest, size, layers) = match self.whole_manifest(image) {
            Some(manifest) => {
                for digest in manifest.blobs.iter().chain([&manifest.digest]) {
                    content.blobs.insert(*digest, Source::Blob(*digest));
                }
                let size = self.blob(&manifest.digest).map_or(0, |(_, size)| size);
                (manifest.media_type.clone(), manifest.digest, size, manifest.blobs.clone())
            }
            None => {
                let mut layers = Vec::new();
                for layer in &image.layers {
                    layers.push(descriptor(OCI_LAYER, &layer.0, self.archive(layer)?.1));
                    content.blobs.insert(layer.0, Source::Layer(*layer));
                }
                let config = descriptor(OCI_CONFIG, &image.id.0, config.len() as u64);
                let (media_type, annotations) = (OCI_MANIFEST.to_owned(), BTreeMap::new());
                let manifest = Manifest { schema_version: 2, media_type, config, layers, annotations };
                let bytes = serde_json::to_vec(&manifest).map_err(|error| BundleError::Write(error.into()))?;
                let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
                content.blobs.insert(digest, Source::Bytes(bytes));
                (OCI_MANIFEST.to_owned(), digest, size, image.layers.iter().map(|layer| layer.0).collect())
            }
        };
        content.blobs.insert(image.id.0, Source::Bytes(config));
        Ok((descriptor(&media_type, &digest, size), layers))
    }
}

/// The same images give the same archive.
fn stat() -> Stat {
    Stat { mode: 0o644, mtime: Time { seconds: 0, nanos: 0 }, ..Stat::default() }
}

fn add<W: Write>(writer: &mut Writer<W>, path: &str, size: u64, mut data: impl Read) -> Result<(), BundleError> {
    let kind = Kind::File { size, segments: None };
    writer.add(path.as_bytes(), &stat(), &kind, &mut data).map_err(BundleError::Write)
}
