//! Pulling: the layers of an image are fetched, verified and unpacked at the same time, several at once, each once.
//!
//! ```text
//! registry -> BlobStream (verified) -> queue -> gunzip, digest -> EROFS      one thread each; the queue is short
//! ```

use super::Engine;
use super::distribution::{LayerStep, Progress, Proof, Teller, refused, short, target, unfound};
use super::images::{parse, wrong};
use crate::config::KeepBlobs;
use crate::error::{EngineError, Result};
use bytes::{Buf, Bytes};
use image::{Image, ImageError, Intake, Keep, LayerId, LayerRules, NewImage, PinnedName, StoredManifest};
use oci::digest::Digest;
use oci::platform::Platform;
use oci::reference::Reference;
use registry::client::{PublicKey, Remote};
use registry::manifest::Descriptor;
use registry::name::Target;
use std::io;
use std::sync::Arc;
use std::sync::mpsc as queue;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

/// Layers that are fetched at once.
const PARALLEL: usize = 3;
/// Pieces of a layer that wait to be unpacked.
const WAITING: usize = 8;

/// An image that is wanted.
#[derive(Debug, Clone, Default)]
pub struct Pull {
    /// Its name.
    pub name: String,
    /// All tags of its repository.
    pub all_tags: bool,
    /// For this platform; the host's if none.
    pub platform: Option<Platform>,
    /// Who asks.
    pub proof: Proof,
    /// Whether the image gets the name.
    pub naming: Naming,
    /// A public key in PEM form whose signature the image must have.
    pub verify: Option<String>,
}

/// Whether an image that is fetched takes the name that it was asked for by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Naming {
    /// It does, from whatever has it.
    #[default]
    Take,
    /// It is only known by its digest.
    Leave,
}

/// What all layers of a pull share.
#[derive(Clone)]
struct Layers {
    engine: Engine,
    remote: Remote,
    intake: Arc<Intake>,
    progress: mpsc::Sender<Progress>,
    teller: Arc<Teller>,
    keep: KeepBlobs,
    /// Closed when nobody waits for the image any more.
    wanted: watch::Receiver<()>,
}

impl Engine {
    /// Fetches an image, or all of a repository. What happens is told to `progress`; when the future is dropped, the work ends
    /// and nothing of it stays.
    ///
    /// # Errors
    /// [`crate::ErrorClass::NotFound`], [`crate::ErrorClass::Denied`] for credentials and signatures, what the registry says.
    pub async fn pull(&self, pull: Pull, progress: mpsc::Sender<Progress>) -> Result<()> {
        let reference = parse(&pull.name)?;
        let key = pull.verify.as_deref().map(PublicKey::from_pem).transpose();
        let key = key.map_err(|error| EngineError::invalid(format!("cannot use the key to verify with: {error}")))?;
        if !pull.all_tags {
            return self.pull_one(&reference.tagged(), &pull, key.as_ref(), &progress).await.map(drop);
        }
        if reference.tag().is_some() || reference.digest().is_some() {
            return Err(EngineError::invalid("a tag cannot be used with all tags (--all-tags)"));
        }
        let tags = self.remote(&reference, pull.proof.clone())?.tags().await.map_err(|e| unfound(&pull.name, e))?;
        for tag in tags {
            let one = reference.with_tag(&tag).map_err(|error| EngineError::internal("a registry's tag", &error))?;
            self.pull_one(&one, &pull, key.as_ref(), &progress).await?;
        }
        Ok(())
    }

    /// Fetches one image, and gives it back.
    ///
    /// # Errors
    /// As [`Self::pull`].
    pub(crate) async fn pull_image(&self, pull: Pull, progress: mpsc::Sender<Progress>) -> Result<Image> {
        self.pull_one(&parse(&pull.name)?.tagged(), &pull, None, &progress).await
    }

    async fn pull_one(
        &self,
        reference: &Reference,
        pull: &Pull,
        key: Option<&PublicKey>,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<Image> {
        let name = reference.familiar();
        let tell = async |one| drop(progress.send(one).await);
        let short_name = match reference.digest() {
            Some(digest) => digest.to_string(),
            None => reference.tag().unwrap_or_default().to_owned(),
        };
        let remote = self.remote(reference, pull.proof.clone())?;
        let mut wanted = target(reference)?;
        if let Some(key) = key {
            let digest = remote.resolve(&wanted).await.map_err(|error| unfound(&name, error))?;
            remote.verify(&digest, key).await.map_err(refused)?;
            // A tag may move meanwhile: what was verified is what is fetched.
            wanted = Target::Digest(digest);
            tell(Progress::Line(format!("Signature: verified for {digest}"))).await;
        }
        let platform = pull.platform.clone().unwrap_or_else(Platform::host);
        let found = remote.image(&wanted, &platform).await.map_err(|error| unfound(&name, error))?;
        tell(Progress::Named(short_name, format!("Pulling from {}", reference.path()))).await;
        let before = self.inner.images.get(&name).ok().map(|image| image.id);
        let image = self.fetch((reference, pull.naming), &remote, &found, progress).await?;
        tell(Progress::Line(format!("Digest: {}", found.named.descriptor.digest))).await;
        let status = if before == Some(image.id) { "Image is up to date" } else { "Downloaded newer image" };
        tell(Progress::Line(format!("Status: {status} for {name}"))).await;
        self.tell_as(&image, "pull", &name);
        self.inner.taken.notify_one();
        Ok(image)
    }

    /// Fetches a layer of no image into an intake, which holds it then.
    ///
    /// # Errors
    /// What the registry says; a layer that is another one than `id`.
    pub(crate) async fn fetch_layer(
        &self,
        remote: &Remote,
        descriptor: &Descriptor,
        id: LayerId,
        intake: &Arc<Intake>,
    ) -> Result<()> {
        let (progress, mut steps) = mpsc::channel(WAITING);
        let (_wanted, watched) = watch::channel(());
        let layers = Layers {
            engine: self.clone(),
            remote: remote.clone(),
            intake: Arc::clone(intake),
            progress: progress.clone(),
            teller: Teller::new(progress, LayerStep::Fetching),
            keep: KeepBlobs::No,
            wanted: watched,
        };
        let fetched = async move { layers.fetch(descriptor, id).await };
        let unheard = async { while steps.recv().await.is_some() {} };
        tokio::join!(fetched, unheard).0
    }

    async fn fetch(
        &self,
        (reference, naming): (&Reference, Naming),
        remote: &Remote,
        found: &registry::client::Image,
        progress: &mpsc::Sender<Progress>,
    ) -> Result<Image> {
        let descriptors = &found.image.manifest.layers;
        let ids = image::layers_of(&found.config).map_err(wrong)?;
        if ids.len() != descriptors.len() {
            let name = reference.familiar();
            let text = "its manifest and its configuration disagree about the number of layers";
            return Err(EngineError::invalid(format!("cannot use the image {name}: {text}")));
        }
        let (_wanted, watched) = watch::channel(());
        let layers = Layers {
            engine: self.clone(),
            remote: remote.clone(),
            intake: Arc::new(self.inner.images.intake()),
            progress: progress.clone(),
            teller: Teller::new(progress.clone(), LayerStep::Fetching),
            keep: self.inner.config.distribution.keep,
            wanted: watched,
        };
        for descriptor in descriptors {
            let _ = progress.send(Progress::Layer(short(&descriptor.digest), LayerStep::Waiting)).await;
        }
        let places = Arc::new(Semaphore::new(self.inner.reach().downloads.unwrap_or(PARALLEL)));
        let mut running = JoinSet::new();
        for (descriptor, id) in descriptors.iter().cloned().zip(ids) {
            let (layers, places) = (layers.clone(), Arc::clone(&places));
            running.spawn(async move {
                let _place = places.acquire_owned().await;
                layers.fetch(&descriptor, id).await
            });
        }
        while let Some(joined) = running.join_next().await {
            joined.map_err(|error| EngineError::internal("fetching a layer was cut short", &error))??;
        }
        let manifest = manifest(reference, found, layers.keep);
        let kept: Vec<Bytes> = [&found.named.bytes, &found.image.bytes].map(Bytes::clone).into();
        let new = NewImage {
            config: found.config.to_vec(),
            manifest,
            // An image that was pulled by its digest has no tag, as everywhere.
            reference: (reference.digest().is_none() && naming == Naming::Take).then(|| reference.clone()),
        };
        let intake = Arc::clone(&layers.intake);
        drop(layers);
        self.blocking(move |_| {
            if new.manifest.is_some() {
                for bytes in kept {
                    intake.blob(&bytes[..], &Digest::of(&bytes)).map_err(wrong)?;
                }
            }
            intake.image(new).map_err(wrong)
        })
        .await
    }
}

/// What is remembered of a manifest: where it is, and which compressed layers were kept for it. Digests that are not sha256 are
/// not remembered.
fn manifest(reference: &Reference, found: &registry::client::Image, keep: KeepBlobs) -> Option<StoredManifest> {
    let blobs = match keep {
        KeepBlobs::Yes => {
            found.image.manifest.layers.iter().map(|layer| layer.digest.sha256()).collect::<Option<_>>()?
        }
        KeepBlobs::No => Vec::new(),
    };
    let name = PinnedName { repository: reference.repository(), digest: found.named.descriptor.digest.sha256()? };
    Some(StoredManifest {
        digest: found.image.descriptor.digest.sha256()?,
        media_type: found.image.descriptor.media_type.clone(),
        blobs,
        names: vec![name],
    })
}

impl Layers {
    async fn tell(&self, descriptor: &Descriptor, step: LayerStep) {
        let _ = self.progress.send(Progress::Layer(short(&descriptor.digest), step)).await;
    }

    async fn fetch(&self, descriptor: &Descriptor, id: LayerId) -> Result<()> {
        let _turn = self.engine.inner.fetching.turn(descriptor.digest).await;
        let blob = match self.keep {
            KeepBlobs::Yes => descriptor.digest.sha256(),
            KeepBlobs::No => None,
        };
        let has_layer = self.intake.holds_layer(&id);
        if has_layer && blob.is_none_or(|blob| self.intake.holds_blob(&blob)) {
            self.tell(descriptor, LayerStep::Present).await;
            return Ok(());
        }
        let progress: Arc<dyn registry::client::Progress> = Arc::clone(&self.teller) as _;
        let stream = self.remote.blob(descriptor, Some(progress)).await.map_err(refused)?;
        let (sender, receiver) = queue::sync_channel(WAITING);
        let runtime = tokio::runtime::Handle::current();
        let mut wanted = self.wanted.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut stream = stream;
            loop {
                let next = runtime.block_on(async {
                    tokio::select! {
                        next = stream.next() => next.map_err(io::Error::other),
                        // Nobody sends anything: this is the end of the one who could.
                        _ = wanted.changed() => Err(io::ErrorKind::Interrupted.into()),
                    }
                });
                let last = !matches!(next, Ok(Some(_)));
                if sender.send(next).is_err() || last {
                    return;
                }
            }
        });
        let intake = Arc::clone(&self.intake);
        let unpacked = tokio::task::spawn_blocking(move || -> std::result::Result<(), ImageError> {
            let archive = Archive { pieces: receiver, piece: Bytes::new(), over: false };
            match (has_layer, blob) {
                (true, Some(blob)) => intake.blob(archive, &blob).map(drop),
                (_, blob) => {
                    let keep = blob.map_or(Keep::No, Keep::As);
                    intake.layer(archive, LayerRules::default(), Some(id), keep).map(drop)
                }
            }
        });
        let interrupted = |error| EngineError::internal("fetching a layer was cut short", &error);
        reading.await.map_err(interrupted)?;
        self.tell(descriptor, LayerStep::Fetched).await;
        unpacked.await.map_err(interrupted)?.map_err(|error| broken(descriptor, error))?;
        self.tell(descriptor, LayerStep::Stored).await;
        Ok(())
    }
}

fn broken(descriptor: &Descriptor, error: ImageError) -> EngineError {
    let error = wrong(error);
    EngineError::new(error.class(), format!("cannot take layer {}: {error}", descriptor.digest))
}

/// A layer as it comes. What ends without its end is an error.
struct Archive {
    pieces: queue::Receiver<io::Result<Option<Bytes>>>,
    piece: Bytes,
    over: bool,
}

impl io::Read for Archive {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            if self.over {
                return Ok(0);
            }
            match self.pieces.recv().map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?? {
                Some(piece) => self.piece = piece,
                None => self.over = true,
            }
        }
        let count = out.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut out[..count]);
        Ok(count)
    }
}
