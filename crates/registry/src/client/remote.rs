//! A repository at its registry, and at the mirrors of that.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, LINK, RANGE};
use hyper::{Method, Uri};
use oci::platform::Platform;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::address::{self, Origin};
use super::blob::BlobStream;
use super::call::{Answered, Ask, host_of};
use super::{Client, ClientError, Progress};
use crate::digest::ContentDigest;
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, MAX_MANIFEST, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::name::{Repository, Tag, Target};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const MANIFESTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
/// The largest configuration of an image that is read, in bytes.
const MAX_CONFIG: usize = 8 << 20;
/// The most pages of a list that are asked for.
const MOST_PAGES: usize = 1000;

/// A manifest that was fetched and is what it should be.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Type, digest and size.
    pub descriptor: Descriptor,
    /// Its bytes as they came.
    pub bytes: Bytes,
    /// What they say.
    pub manifest: Manifest,
}

/// An image for one platform, without its layers.
#[derive(Debug, Clone)]
pub struct Image {
    /// What the name stood for: the manifest, or the index that has it.
    pub named: Fetched,
    /// The image's manifest; its layers are [`Manifest::layers`].
    pub image: Fetched,
    /// The image's configuration.
    pub config: Bytes,
}

/// A repository somewhere else. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Remote {
    client: Client,
    domain: String,
    repository: Repository,
    mirrors: Arc<Vec<Place>>,
    /// What tokens are asked for: pulling, or pushing as well.
    scope: Arc<str>,
}

/// A place that has the content, and how it is called there.
#[derive(Debug, Clone)]
struct Place {
    origin: Origin,
    domain: String,
}

impl Remote {
    pub(super) fn new(client: Client, domain: &str, path: &str) -> Result<Self, ClientError> {
        let bad = |_| ClientError::Address { text: format!("{domain}/{path}"), reason: "it is no repository's name" };
        let repository: Repository = path.parse().map_err(bad)?;
        let mirrors = client.inner.config.mirrors.get(domain).map(Vec::as_slice).unwrap_or_default();
        let place = |mirror: &String| {
            let origin = Origin::of(&address::parse(mirror)?)?;
            Ok(Place { domain: origin.authority(), origin })
        };
        let mirrors = Arc::new(mirrors.iter().map(place).collect::<Result<_, ClientError>>()?);
        let scope = format!("repository:{repository}:pull").into();
        Ok(Self { client, domain: domain.to_owned(), repository, mirrors, scope })
    }

    /// The same repository for pushing: its tokens allow that, and mirrors are not asked.
    #[must_use]
    pub fn writable(mut self) -> Self {
        self.scope = format!("repository:{}:pull,push", self.repository).into();
        self.mirrors = Arc::default();
        self
    }

    /// As [`Remote::writable`], and layers of another repository may be mounted.
    #[must_use]
    pub(super) fn mounting(&self, from: &Repository) -> Self {
        let scope = format!("repository:{}:pull,push repository:{from}:pull", self.repository);
        Self { scope: scope.into(), ..self.clone() }
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// Its name at the registry.
    #[must_use]
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    fn text(&self, what: &str) -> String {
        let separator = if what.contains(':') { '@' } else { ':' };
        format!("{}/{}{separator}{what}", self.domain, self.repository)
    }

    /// Where the registry itself answers.
    pub(super) async fn origin(&self) -> Result<Origin, ClientError> {
        self.client.find(&self.domain).await
    }

    pub(super) fn new_ask(&self, method: Method, uri: Uri, what: String) -> Ask {
        let (scope, domain) = (self.scope.to_string(), self.domain.clone());
        Ask { method, uri, headers: HeaderMap::new(), body: Bytes::new(), scope, domain, what }
    }

    /// A request to the registry itself.
    pub(super) async fn ask_origin(&self, method: Method, path: &str, what: &str) -> Result<Ask, ClientError> {
        let uri = self.origin().await?.uri(&format!("/v2/{}/{path}", self.repository))?;
        Ok(self.new_ask(method, uri, self.text(what)))
    }

    /// A request to a mirror.
    fn ask_mirror(&self, mirror: &Place, method: Method, path: &str, what: &str) -> Result<Ask, ClientError> {
        let uri = mirror.origin.uri(&format!("/v2/{}/{path}", self.repository))?;
        Ok(Ask { domain: mirror.domain.clone(), ..self.new_ask(method, uri, self.text(what)) })
    }

    /// Asks the mirrors, then the registry itself.
    async fn ask_any(
        &self,
        method: Method,
        path: &str,
        what: &str,
        headers: &[(HeaderName, &str)],
    ) -> Result<Answered, ClientError> {
        let dress = |ask: Ask| headers.iter().fold(ask, |ask, (name, value)| ask.header(name.clone(), value));
        for mirror in self.mirrors.iter() {
            let ask = self.ask_mirror(mirror, method.clone(), path, what)?;
            match self.client.ask_once(&dress(ask.clone()), None).await {
                Ok(answered) if answered.response.status().is_success() => return Ok(answered),
                Ok(answered) => {
                    tracing::debug!(mirror = mirror.domain, status = %answered.response.status(), "not there")
                }
                Err(error) => tracing::warn!(mirror = mirror.domain, %error, "a mirror cannot be used"),
            }
        }
        self.client.ask(&dress(self.ask_origin(method, path, what).await?)).await
    }

    /// Asks for a blob, from some byte on.
    pub(super) async fn ask_blob(&self, digest: &ContentDigest, at: Option<u64>) -> Result<Answered, ClientError> {
        let range = at.filter(|at| *at > 0).map(|at| format!("bytes={at}-"));
        let headers: Vec<(HeaderName, &str)> = range.iter().map(|range| (RANGE, range.as_str())).collect();
        self.ask_any(Method::GET, &format!("blobs/{digest}"), &digest.to_string(), &headers).await
    }

    /// What a tag stands for, without fetching it.
    ///
    /// # Errors
    /// When there is no such manifest.
    pub async fn resolve(&self, target: &Target) -> Result<ContentDigest, ClientError> {
        if let Target::Digest(digest) = target {
            return Ok(*digest);
        }
        let accept = MANIFESTS.join(", ");
        let path = format!("manifests/{target}");
        let answered = self.ask_any(Method::HEAD, &path, &target.to_string(), &[(ACCEPT, &accept)]).await?;
        match answered.header(CONTENT_DIGEST).and_then(|text| text.parse().ok()) {
            Some(digest) => Ok(digest),
            // Some registries don't say it.
            None => Ok(self.manifest(target).await?.descriptor.digest),
        }
    }

    /// A manifest or index, checked.
    ///
    /// # Errors
    /// When there is none, or it is not what it should be.
    pub async fn manifest(&self, target: &Target) -> Result<Fetched, ClientError> {
        let accept = MANIFESTS.join(", ");
        let path = format!("manifests/{target}");
        let answered = self.ask_any(Method::GET, &path, &target.to_string(), &[(ACCEPT, &accept)]).await?;
        let host = host_of(&answered.uri);
        let media_type = answered.header(CONTENT_TYPE).unwrap_or_default().to_owned();
        let said: Option<ContentDigest> = answered.header(CONTENT_DIGEST).and_then(|text| text.parse().ok());
        let bytes = self.client.read_all(answered, MAX_MANIFEST).await?;
        let expected = match target {
            Target::Digest(digest) => Some(*digest),
            Target::Tag(_) => said,
        };
        let algorithm = expected.map(|digest| digest.algorithm()).unwrap_or_default();
        let actual = ContentDigest::with(algorithm, &bytes);
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            let (expected, actual) = (expected.to_string(), actual.to_string());
            return Err(ClientError::Digest { host, expected, actual });
        }
        let what = self.text(&target.to_string());
        let manifest = Manifest::parse(&bytes, &media_type).map_err(|source| ClientError::Manifest { what, source })?;
        let descriptor = Descriptor::new(&manifest.media_type, actual, bytes.len() as u64);
        Ok(Fetched { descriptor, bytes, manifest })
    }

    /// An image for a platform: through an index if there is one, with its configuration.
    ///
    /// # Errors
    /// When there is none, or none for that platform.
    pub async fn image(&self, target: &Target, platform: &Platform) -> Result<Image, ClientError> {
        let named = self.manifest(target).await?;
        let mut image = named.clone();
        let mut depth = 0;
        while image.manifest.is_index() {
            depth += 1;
            let chosen = choose(&image.manifest.manifests, platform).filter(|_| depth < 4);
            let Some(chosen) = chosen else {
                let there = image.manifest.manifests.iter().filter_map(platform_of);
                let there = there.map(|platform| platform.to_string()).collect();
                let (what, platform) = (self.text(&target.to_string()), platform.to_string());
                return Err(ClientError::Platform { what, platform, there });
            };
            let digest = chosen.digest;
            image = self.manifest(&Target::Digest(digest)).await?;
        }
        let config = match &image.manifest.config {
            Some(config) => self.blob(config, None).await?.into_bytes(MAX_CONFIG).await?,
            None => Bytes::new(),
        };
        Ok(Image { named, image, config })
    }

    /// A blob, as a stream that is verified at its end.
    ///
    /// # Errors
    /// When it is not there. What goes wrong later comes from the stream.
    pub async fn blob(
        &self,
        descriptor: &Descriptor,
        progress: Option<Arc<dyn Progress>>,
    ) -> Result<BlobStream, ClientError> {
        BlobStream::open(self.clone(), descriptor.clone(), progress).await
    }

    /// Fetches blobs, `parallel` at once, each by `each` with its place in the list; gives the outcomes in the list's order.
    /// The first error stops the others.
    ///
    /// # Errors
    /// That of a blob, or of `each`.
    pub async fn blobs<T, E, F>(
        &self,
        descriptors: &[Descriptor],
        parallel: usize,
        progress: Option<Arc<dyn Progress>>,
        each: impl Fn(usize, BlobStream) -> F + Clone + Send + Sync + 'static,
    ) -> Result<Vec<T>, E>
    where
        T: Send + 'static,
        E: From<ClientError> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let places = Arc::new(Semaphore::new(parallel.max(1)));
        let mut running = JoinSet::new();
        for (at, descriptor) in descriptors.iter().cloned().enumerate() {
            let (places, remote, progress, each) = (Arc::clone(&places), self.clone(), progress.clone(), each.clone());
            running.spawn(async move {
                let _place = places.acquire_owned().await;
                let stream = remote.blob(&descriptor, progress).await.map_err(E::from)?;
                each(at, stream).await.map(|outcome| (at, outcome))
            });
        }
        let mut outcomes: Vec<Option<T>> = descriptors.iter().map(|_| None).collect();
        while let Some(joined) = running.join_next().await {
            // Dropping the set stops what still runs.
            let (at, outcome) = joined.map_err(|error| {
                let (host, source) = (self.domain.clone(), error.into());
                E::from(ClientError::Broken { host, times: 1, source })
            })??;
            outcomes[at] = Some(outcome);
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// A blob's size, if the repository has it.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn blob_size(&self, digest: &ContentDigest) -> Result<Option<u64>, ClientError> {
        let path = format!("blobs/{digest}");
        match self.ask_any(Method::HEAD, &path, &digest.to_string(), &[]).await {
            Ok(answered) => {
                let length = answered.header(hyper::header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
                Ok(Some(length.unwrap_or(0)))
            }
            Err(ClientError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All tags, as the registry sorts them.
    ///
    /// # Errors
    /// When there is no such repository.
    pub async fn tags(&self) -> Result<Vec<String>, ClientError> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        const PATH: &str = "tags/list?n=1000";
        let listed = async |ask: Ask| {
            let mut tags = Vec::new();
            self.pages(ask, "tags", |bytes| {
                let page: Page = serde_json::from_slice(bytes)?;
                // A stranger's list has only what can be a tag.
                tags.extend(page.tags.unwrap_or_default().into_iter().filter(|tag| tag.parse::<Tag>().is_ok()));
                Ok(())
            })
            .await?;
            Ok::<_, ClientError>(tags)
        };
        for mirror in self.mirrors.iter() {
            match listed(self.ask_mirror(mirror, Method::GET, PATH, "tags")?).await {
                Ok(tags) if !tags.is_empty() => return Ok(tags),
                Ok(_) => tracing::debug!(mirror = mirror.domain, "has no tags"),
                Err(error) => tracing::debug!(mirror = mirror.domain, %error, "a mirror does not list tags"),
            }
        }
        listed(self.ask_origin(Method::GET, PATH, "tags").await?).await
    }

    /// The manifests that are about another one, of one artifact type if it is given. A registry without that list is asked for
    /// the tag that stands in for it.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn referrers(&self, subject: &ContentDigest, kind: Option<&str>) -> Result<Vec<Descriptor>, ClientError> {
        let filter =
            kind.map(|kind| format!("?artifactType={}", crate::escape::percent_encode(kind))).unwrap_or_default();
        let mut found = Vec::new();
        let path = format!("referrers/{subject}{filter}");
        let ask = self.ask_origin(Method::GET, &path, "referrers").await?;
        let listed = self.pages(ask, "referrers", |bytes| {
            found.extend(serde_json::from_slice::<Manifest>(bytes)?.manifests);
            Ok(())
        });
        match listed.await {
            Ok(()) => {}
            Err(ClientError::NotFound { .. } | ClientError::Status { .. }) => {
                let tag = format!("{}-{:.64}", subject.algorithm(), subject.hex());
                let Ok(tag) = tag.parse() else { return Ok(Vec::new()) };
                match self.manifest(&Target::Tag(tag)).await {
                    Ok(index) => found = index.manifest.manifests,
                    Err(ClientError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
        // Registries may ignore the filter.
        found.retain(|descriptor| kind.is_none_or(|kind| descriptor.artifact_type.as_deref() == Some(kind)));
        Ok(found)
    }

    /// Follows a list through its pages.
    async fn pages(
        &self,
        mut ask: Ask,
        what: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), serde_json::Error>,
    ) -> Result<(), ClientError> {
        for _ in 0..MOST_PAGES {
            let answered = self.client.ask(&ask).await?;
            let here = answered.uri.clone();
            let next = answered.header(LINK).and_then(next_of).map(|link| address::join(&here, &link)).transpose()?;
            let bytes = self.client.read_all(answered, 2 * MAX_MANIFEST).await?;
            let reason = |error: serde_json::Error| format!("its list of {what} cannot be read: {error}");
            take(&bytes).map_err(|error| ClientError::Protocol { host: host_of(&here), reason: reason(error) })?;
            match next {
                // Only at the same registry: the proof goes along.
                Some(next) if Origin::of(&next)? == Origin::of(&ask.uri)? && next != ask.uri => ask.uri = next,
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Removes a manifest, or a tag where the registry can do that.
    ///
    /// # Errors
    /// When there is none, or the registry does not delete.
    pub async fn delete(&self, target: &Target) -> Result<(), ClientError> {
        let remote = Self { scope: format!("repository:{}:pull,push,delete", self.repository).into(), ..self.clone() };
        let ask = remote.ask_origin(Method::DELETE, &format!("manifests/{target}"), &target.to_string()).await?;
        self.client.ask(&ask).await.map(drop)
    }
}

/// The address in a `Link` header whose relation is `next`.
fn next_of(header: &str) -> Option<String> {
    header.split(',').find_map(|link| {
        let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters.split(';').any(|one| matches!(one.trim(), "rel=\"next\"" | "rel=next"));
        next.then(|| address.to_owned())
    })
}

fn platform_of(descriptor: &Descriptor) -> Option<Platform> {
    let platform = descriptor.platform.as_ref()?;
    let variant = platform.variant.as_deref().filter(|variant| !variant.is_empty());
    let text = match variant {
        Some(variant) => format!("{}/{}/{variant}", platform.os, platform.architecture),
        None => format!("{}/{}", platform.os, platform.architecture),
    };
    text.parse().ok()
}

/// The best of an index for a platform: the same, else one that runs on it, else one that says nothing.
fn choose<'a>(manifests: &'a [Descriptor], wanted: &Platform) -> Option<&'a Descriptor> {
    let rank = |descriptor: &&Descriptor| {
        let platform = platform_of(descriptor);
        match &platform {
            Some(platform) if platform == wanted => Some(0),
            Some(platform) if platform.architecture == wanted.architecture && platform.runs_on(wanted) => Some(1),
            Some(platform) if is_older_arm(platform, wanted) => Some(2),
            Some(platform) if platform.runs_on(wanted) => Some(10),
            None if descriptor.platform.is_none() && descriptor.artifact_type.is_none() => Some(20),
            _ => None,
        }
    };
    let ranked = manifests.iter().filter_map(|descriptor| Some((rank(&descriptor)?, descriptor)));
    // The first of equals, as the index is sorted by its maker's liking.
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, descriptor)| descriptor)
}

/// Whether an image is for an older 32-bit ARM, which newer ones run.
fn is_older_arm(platform: &Platform, wanted: &Platform) -> bool {
    let number = |platform: &Platform| platform.variant.as_deref()?.strip_prefix('v')?.parse::<u8>().ok();
    platform.os == wanted.os
        && platform.architecture == "arm"
        && wanted.architecture == "arm"
        && number(platform).zip(number(wanted)).is_some_and(|(have, want)| have <= want)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::DescriptorPlatform;

    fn entry(text: &str) -> Descriptor {
        let platform: Platform = text.parse().unwrap();
        let mut descriptor = Descriptor::new(OCI_MANIFEST, ContentDigest::of(text.as_bytes()), 1);
        descriptor.platform = Some(DescriptorPlatform {
            architecture: platform.architecture,
            os: platform.os,
            variant: platform.variant,
            os_version: None,
        });
        descriptor
    }

    #[test]
    fn the_best_platform_is_chosen() {
        let check = |wanted: &str, there: &[&str], expect: Option<&str>| {
            let entries: Vec<Descriptor> = there.iter().map(|text| entry(text)).collect();
            let chosen = choose(&entries, &wanted.parse().unwrap());
            assert_eq!(chosen.map(|one| one.digest), expect.map(|text| ContentDigest::of(text.as_bytes())), "{wanted}");
        };
        check("linux/amd64", &["linux/386", "linux/amd64", "linux/arm64"], Some("linux/amd64"));
        check("linux/amd64", &["linux/386", "linux/arm64"], Some("linux/386"));
        check("linux/arm64", &["linux/amd64", "linux/arm64"], Some("linux/arm64"));
        check("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"], Some("linux/arm/v5"));
        check("linux/arm/v6", &["linux/arm/v7"], None);
        check("linux/amd64", &["windows/amd64"], None);
    }

    #[test]
    fn links_to_the_next_page_are_found() {
        assert_eq!(next_of(r#"</v2/a?n=1>; rel="next""#).as_deref(), Some("/v2/a?n=1"));
        assert_eq!(next_of(r#"<a>; rel="prev", <b>; rel=next"#).as_deref(), Some("b"));
        assert_eq!(next_of("a; rel=next"), None);
    }
}
