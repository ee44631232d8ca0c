//! From the store to an archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};

use oci::digest::Digest;
use oci::reference::Reference;

use super::{
    BundleError, Descriptor, Index, Listed, Manifest, NAME, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, TAG,
};
use crate::error::ImageError;
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

impl Store {
    /// Writes images with the names that they shall have. An image that was pulled goes out as it came: with its manifest,
    /// its configuration and its compressed layers.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn write_bundle(&self, images: &[(Image, Vec<Reference>)], out: impl Write) -> Result<(), BundleError> {
        let mut content = Content::default();
        for (image, names) in images {
            self.gather(image, names, &mut content)?;
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
        let index = Index { schema_version: 2, media_type: OCI_INDEX.to_owned(), manifests: content.index };
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

    fn gather(&self, image: &Image, names: &[Reference], content: &mut Content) -> Result<(), BundleError> {
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
                let manifest = Manifest { schema_version: 2, media_type: OCI_MANIFEST.to_owned(), config, layers };
                let bytes = serde_json::to_vec(&manifest).map_err(|error| BundleError::Write(error.into()))?;
                let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
                content.blobs.insert(digest, Source::Bytes(bytes));
                (OCI_MANIFEST.to_owned(), digest, size, image.layers.iter().map(|layer| layer.0).collect())
            }
        };
        content.blobs.insert(image.id.0, Source::Bytes(config));
        let entry = descriptor(&media_type, &digest, size);
        let names: BTreeSet<&Reference> = names.iter().filter(|name| name.tag().is_some()).collect();
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
            config: path(&image.id.0),
            repo_tags: Some(names.iter().map(|name| name.familiar()).collect()),
            layers: layers.iter().map(path).collect(),
        });
        Ok(())
    }
}

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Descriptor {
    let (media_type, digest) = (media_type.to_owned(), digest.to_string());
    Descriptor { media_type, digest, size, annotations: BTreeMap::new(), platform: None }
}

/// The same images give the same archive.
fn stat() -> Stat {
    Stat { mode: 0o644, mtime: Time { seconds: 0, nanos: 0 }, ..Stat::default() }
}

fn add<W: Write>(writer: &mut Writer<W>, path: &str, size: u64, mut data: impl Read) -> Result<(), BundleError> {
    let kind = Kind::File { size, segments: None };
    writer.add(path.as_bytes(), &stat(), &kind, &mut data).map_err(BundleError::Write)
}
