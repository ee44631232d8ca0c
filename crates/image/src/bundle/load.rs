//! From an archive to the store, in one go: layers are taken as they come by, and put together at the end.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use oci::digest::Digest;
use oci::platform::Platform;
use oci::reference::Reference;

use super::{
    BundleError, DOCKER_LIST, Descriptor, Index, Listed, Manifest, NAME, OCI_INDEX, OCI_MANIFEST, PlatformWords,
};
use crate::family::{ATTESTATION, Family, Member, Predicate, REFERENCE_DIGEST, REFERENCE_TYPE, STATEMENT};
use crate::model::{EndMark, Image, Limits, StoredManifest};
use crate::pipeline;
use crate::store::{Intake, Keep, LayerRules, NewImage, Store, TakenLayer};
use crate::tar::{Kind, Reader};

/// The most bytes of small files that are kept in memory.
const MAX_SMALL: usize = 64 << 20;
/// The largest of them.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Bytes that show what a file is.
const SHOWN: usize = 512;

/// An image that was loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image.
    pub image: Image,
    /// The names that it got.
    pub names: Vec<Reference>,
}

/// What an archive had.
struct Found {
    intake: Intake,
    documents: BTreeMap<String, Vec<u8>>,
    layers: BTreeMap<String, TakenLayer>,
    /// Names that stand for others.
    links: BTreeMap<String, String>,
    /// Only images for this one are wanted.
    platform: Option<Platform>,
}

impl Store {
    /// Takes all images of an archive, or only those for a platform: Docker's or OCI's form, plain or compressed with gzip or
    /// zstd. When anything fails, nothing of it is left.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn read_bundle(
        &self,
        reader: impl Read + Send,
        platform: Option<Platform>,
    ) -> Result<Vec<Loaded>, BundleError> {
        let input = BufReader::with_capacity(1 << 20, pipeline::decompress(reader)?);
        let mut reader = Reader::new(input, Limits::default()).ending(EndMark::Optional);
        let mut found = Found {
            intake: self.intake(),
            documents: BTreeMap::new(),
            layers: BTreeMap::new(),
            links: BTreeMap::new(),
            platform,
        };
        let mut small = 0;
        while let Some(entry) = reader.next_entry()? {
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            match entry.kind {
                Kind::File { size, segments: None } => {
                    small += found.file(path, size, &mut reader.contents())?;
                    if small > MAX_SMALL {
                        return Err(BundleError::TooMuch { limit: MAX_SMALL });
                    }
                }
                Kind::Hardlink(target) => drop(found.links.insert(path, String::from_utf8_lossy(&target).into_owned())),
                Kind::Symlink(target) => {
                    let target = beside(&path, &String::from_utf8_lossy(&target));
                    found.links.insert(path, target);
                }
                _ => {}
            }
        }
        reader.drain()?;
        found.images()
    }
}

/// Where a symbolic link leads.
fn beside(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What the first bytes of a file show.
enum Looks {
    Document,
    Packed,
    Plain,
    Other,
}

fn looks(first: &[u8]) -> Looks {
    match first {
        [b'{' | b'[', ..] => Looks::Document,
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => Looks::Packed,
        first if first.get(257..262) == Some(b"ustar") => Looks::Plain,
        // An archive without entries is zeros.
        first if first.len() == SHOWN && first.iter().all(|byte| *byte == 0) => Looks::Plain,
        _ => Looks::Other,
    }
}

impl Found {
    /// Takes one file; how many bytes of memory it needs.
    fn file(&mut self, path: String, size: u64, data: &mut (impl BufRead + Send)) -> Result<usize, BundleError> {
        let mut first = Vec::with_capacity(SHOWN);
        let read = data.by_ref().take(SHOWN as u64).read_to_end(&mut first);
        read.map_err(|error| BundleError::Layer(crate::layer::LayerError::Read(error)))?;
        let kind = looks(&first);
        let mut whole = io::Cursor::new(first).chain(data);
        let keep = match kind {
            Looks::Document if size <= MAX_DOCUMENT => {
                let mut bytes = Vec::new();
                whole
                    .read_to_end(&mut bytes)
                    .map_err(|error| BundleError::Layer(crate::layer::LayerError::Read(error)))?;
                let length = bytes.len();
                self.documents.insert(path, bytes);
                return Ok(length);
            }
            Looks::Packed => Keep::Measured,
            Looks::Plain => Keep::No,
            Looks::Document | Looks::Other => return Ok(0),
        };
        let taken = self.intake.layer(whole, LayerRules::default(), None, keep)?;
        self.layers.insert(path, taken);
        Ok(0)
    }

    fn document<T: serde::de::DeserializeOwned>(&self, file: &str) -> Result<T, BundleError> {
        let bytes = self.bytes(file)?;
        serde_json::from_slice(bytes).map_err(|source| BundleError::Json { file: file.to_owned(), source })
    }

    fn bytes(&self, file: &str) -> Result<&[u8], BundleError> {
        let file = self.links.get(file).map_or(file, String::as_str);
        self.documents.get(file).map(Vec::as_slice).ok_or_else(|| BundleError::Missing { file: file.to_owned() })
    }

    fn layer(&self, file: &str) -> Result<&TakenLayer, BundleError> {
        let file = self.links.get(file).map_or(file, String::as_str);
        self.layers.get(file).ok_or_else(|| BundleError::Missing { file: file.to_owned() })
    }

    fn images(&self) -> Result<Vec<Loaded>, BundleError> {
        if let Some(platform) = &self.platform {
            return self.images_for(platform);
        }
        let mut loaded = self.single_images()?;
        if self.documents.contains_key("index.json") {
            let index: Index = self.document("index.json")?;
            for entry in index.manifests.iter().filter(|entry| is_index(&entry.media_type)) {
                self.family(entry, &mut loaded)?;
            }
        }
        Ok(loaded)
    }

    /// The images for one platform, as if the archive had no others.
    fn images_for(&self, platform: &Platform) -> Result<Vec<Loaded>, BundleError> {
        let fits = |config: &str| Ok::<_, BundleError>(self.document::<Platform>(config)?.is(platform));
        let mut loaded = Vec::new();
        if self.documents.contains_key("index.json") {
            let index: Index = self.document("index.json")?;
            for entry in index.manifests {
                let Some(chosen) = self.entry_for(entry, platform)? else { continue };
                let manifest: Manifest = self.document(&blob_file(&chosen.digest))?;
                if fits(&blob_file(&manifest.config.digest))? {
                    loaded.push(self.described(&chosen)?);
                }
            }
        } else if self.documents.contains_key("manifest.json") {
            for listed in &self.document::<Vec<Listed>>("manifest.json")? {
                if fits(&listed.config)? {
                    loaded.push(self.listed(listed)?);
                }
            }
        } else {
            return Err(BundleError::NoImages);
        }
        if loaded.is_empty() { Err(BundleError::NoPlatform { platform: platform.clone() }) } else { Ok(loaded) }
    }

    /// The entry itself, or of an index the one for a platform, which has the index's name.
    fn entry_for(&self, entry: Descriptor, platform: &Platform) -> Result<Option<Descriptor>, BundleError> {
        if !is_index(&entry.media_type) {
            return Ok(Some(entry));
        }
        let index: Index = self.document(&blob_file(&entry.digest))?;
        let is_for = |words: &PlatformWords| {
            let PlatformWords { os, architecture, variant } = words.clone();
            Platform { os, architecture, variant }.is(platform)
        };
        let mut there = index.manifests.into_iter().filter(|one| self.documents.contains_key(&blob_file(&one.digest)));
        let one = there.find(|one| one.platform.as_ref().is_some_and(is_for));
        Ok(one.map(|one| Descriptor { annotations: entry.annotations, ..one }))
    }

    /// What an index of the archive has for other platforms, and what is attested, goes to the image's name.
    fn family(&self, entry: &Descriptor, loaded: &mut [Loaded]) -> Result<(), BundleError> {
        let Ok(names) = entry_name(entry).map(|name| name.parse::<Reference>()).transpose() else { return Ok(()) };
        let Some(name) = names.map(Reference::tagged) else { return Ok(()) };
        let Some(main) = loaded.iter_mut().find(|one| one.names.contains(&name)) else { return Ok(()) };
        let index: Index = self.document(&blob_file(&entry.digest))?;
        let mut family = Family { members: Vec::new(), annotations: index.annotations.clone() };
        let there = |one: &&Descriptor| self.documents.contains_key(&blob_file(&one.digest));
        for one in index.manifests.iter().filter(there) {
            let Some(platform) = one.platform.as_ref().filter(|platform| platform.os != "unknown") else { continue };
            let variant = platform.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
            let Ok(platform) = format!("{}/{}{variant}", platform.os, platform.architecture).parse() else { continue };
            let image = self.described(&Descriptor { annotations: BTreeMap::new(), ..one.clone() })?.image.id;
            let attested = index.manifests.iter().filter(there).filter(|other| is_about(other, &one.digest));
            let mut predicates = Vec::new();
            for manifest in attested {
                predicates.extend(self.predicates(manifest)?);
            }
            let annotations = self.document::<Manifest>(&blob_file(&one.digest))?.annotations;
            let described = one.annotations.clone();
            family.members.push(Member { platform, image, predicates, annotations, described });
        }
        if family.main().is_some_and(|member| member.image == main.image.id) && !family.is_plain() {
            main.image = self.intake.name_family(&family, &[name])?;
        }
        Ok(())
    }

    /// What the statements of an attestation say.
    fn predicates(&self, entry: &Descriptor) -> Result<Vec<Predicate>, BundleError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Statement {
            predicate_type: String,
            predicate: serde_json::Value,
        }
        let manifest: Manifest = self.document(&blob_file(&entry.digest))?;
        let mut out = Vec::new();
        for layer in manifest.layers.iter().filter(|layer| layer.media_type == STATEMENT) {
            let statement: Statement = self.document(&blob_file(&layer.digest))?;
            let bytes = statement.predicate.to_string().into_bytes();
            let blob = Digest::of(&bytes);
            self.intake.blob(&bytes[..], &blob)?;
            out.push(Predicate { kind: statement.predicate_type, blob });
        }
        Ok(out)
    }

    fn single_images(&self) -> Result<Vec<Loaded>, BundleError> {
        if self.documents.contains_key("manifest.json") {
            let list: Vec<Listed> = self.document("manifest.json")?;
            return list.iter().map(|listed| self.listed(listed)).collect();
        }
        if !self.documents.contains_key("index.json") {
            return Err(BundleError::NoImages);
        }
        let index: Index = self.document("index.json")?;
        let mut loaded: Vec<Loaded> = Vec::new();
        for entry in &index.manifests {
            let one = self.described(entry)?;
            match loaded.iter_mut().find(|other| other.image.id == one.image.id) {
                Some(other) => {
                    other.names.extend(one.names);
                    other.image = one.image;
                }
                None => loaded.push(one),
            }
        }
        Ok(loaded)
    }

    /// An image of Docker's list.
    fn listed(&self, listed: &Listed) -> Result<Loaded, BundleError> {
        let config = self.bytes(&listed.config)?.to_vec();
        let layers = listed.layers.iter().flatten().map(|file| self.layer(file)).collect::<Result<Vec<_>, _>>()?;
        // The manifest is in the other list, where there is one.
        let digest = Digest::of(&config).to_string();
        let manifest = self.documents.contains_key("index.json").then(|| self.document::<Index>("index.json"));
        let mut manifests = manifest.transpose()?.map(|index| index.manifests).unwrap_or_default().into_iter();
        let manifest = manifests.find(|entry| {
            self.document::<Manifest>(&blob_file(&entry.digest)).is_ok_and(|manifest| manifest.config.digest == digest)
        });
        let names = listed.repo_tags.iter().flatten().filter_map(|name| name.parse::<Reference>().ok()).collect();
        self.take(&listed.config, config, &layers, manifest.as_ref(), names)
    }

    /// An image of an OCI index; from an index in that, the one for this machine.
    fn described(&self, entry: &Descriptor) -> Result<Loaded, BundleError> {
        let mut chosen = entry.clone();
        for _ in 0..4 {
            if !is_index(&chosen.media_type) {
                break;
            }
            let file = blob_file(&chosen.digest);
            let index: Index = self.document(&file)?;
            let best = index.manifests.into_iter().filter(|one| self.documents.contains_key(&blob_file(&one.digest)));
            chosen = best.min_by_key(fitness).ok_or(BundleError::Missing { file })?;
        }
        let manifest: Manifest = self.document(&blob_file(&chosen.digest))?;
        let file = blob_file(&manifest.config.digest);
        let config = self.bytes(&file)?.to_vec();
        let layers = manifest.layers.iter().map(|layer| self.layer(&blob_file(&layer.digest)));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let names = entry_name(entry).and_then(|name| name.parse::<Reference>().ok()).into_iter().collect();
        self.take(&file, config, &layers, Some(&chosen), names)
    }

    fn take(
        &self,
        file: &str,
        config: Vec<u8>,
        layers: &[&TakenLayer],
        manifest: Option<&Descriptor>,
        names: Vec<Reference>,
    ) -> Result<Loaded, BundleError> {
        let expected = crate::store::layers_of(&config)?;
        if !layers.iter().map(|taken| taken.layer).eq(expected) {
            return Err(BundleError::OtherLayers { config: file.to_owned() });
        }
        let manifest = manifest.map(|entry| self.manifest(entry, layers)).transpose()?.flatten();
        let names: Vec<Reference> = names.into_iter().map(Reference::tagged).collect();
        let new = NewImage { config, manifest, reference: names.first().cloned() };
        let mut image = self.intake.image(new)?;
        for name in names.iter().skip(1) {
            self.intake.name(&image.id, name.clone())?;
        }
        image.references.extend(names.iter().skip(1).cloned());
        Ok(Loaded { image, names })
    }

    /// Keeps a manifest whose layers were kept.
    fn manifest(&self, entry: &Descriptor, layers: &[&TakenLayer]) -> Result<Option<StoredManifest>, BundleError> {
        let blobs: Option<Vec<Digest>> = layers.iter().map(|taken| taken.blob.map(|(digest, _)| digest)).collect();
        let (Some(blobs), Ok(digest)) = (blobs, entry.digest.parse::<Digest>()) else { return Ok(None) };
        self.intake.blob(self.bytes(&blob_file(&entry.digest))?, &digest)?;
        let media_type = if entry.media_type.is_empty() { OCI_MANIFEST } else { &entry.media_type };
        Ok(Some(StoredManifest { digest, media_type: media_type.to_owned(), blobs, names: Vec::new() }))
    }
}

fn is_index(media_type: &str) -> bool {
    media_type == OCI_INDEX || media_type == DOCKER_LIST
}

/// The name that an index gives to an image.
fn entry_name(entry: &Descriptor) -> Option<&String> {
    entry.annotations.get(NAME).or_else(|| {
        // skopeo writes a whole name there, others a tag alone, which is no image's name.
        entry.annotations.get(super::TAG).filter(|name| name.contains([':', '/']))
    })
}

/// Whether a manifest is an attestation of the one with this digest.
fn is_about(manifest: &Descriptor, digest: &str) -> bool {
    let annotation = |name: &str| manifest.annotations.get(name).map(String::as_str);
    annotation(REFERENCE_TYPE) == Some(ATTESTATION) && annotation(REFERENCE_DIGEST) == Some(digest)
}

fn blob_file(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// Lower is better.
fn fitness(entry: &Descriptor) -> u8 {
    let host = Platform::host();
    match &entry.platform {
        Some(platform) if platform.architecture == host.architecture && platform.os == host.os => 0,
        Some(platform) if platform.os == "unknown" => 3,
        Some(_) => 2,
        None => 1,
    }
}
