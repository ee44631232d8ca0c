//! Servers for tests, images to push, and a way that breaks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use registry::client::{Client, ClientConfig, Credentials, Proxies, Remote};
use registry::digest::ContentDigest;
use registry::manifest::{Descriptor, OCI_MANIFEST};
use registry::name::Target;
use registry::server::{Config, Server};
use registry::storage::Storage;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A registry in this process; it ends with this value.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) storage: Storage,
    _folder: tempfile::TempDir,
    _stop: watch::Sender<bool>,
}

impl Running {
    /// The registry's name in images.
    pub(crate) fn domain(&self) -> String {
        self.address.to_string()
    }
}

pub(crate) async fn start() -> Running {
    start_with(|_| ()).await
}

/// Starts a registry with another configuration.
pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::new("127.0.0.1:0".parse().unwrap(), folder.path().join("registry"));
    change(&mut config);
    let server = Server::bind(config).await.unwrap();
    let (address, storage) = (server.address().unwrap(), server.storage());
    let (stop, told) = watch::channel(false);
    tokio::spawn(server.run(told));
    Running { address, storage, _folder: folder, _stop: stop }
}

/// Settings that don't depend on the machine.
pub(crate) fn settings() -> ClientConfig {
    let pause = Duration::from_millis(5);
    ClientConfig { proxies: Proxies::default(), pause, retries: 8, ..ClientConfig::default() }
}

pub(crate) fn client() -> Client {
    Client::new(settings(), Credentials::None)
}

pub(crate) fn tag(text: &str) -> Target {
    Target::Tag(text.parse().unwrap())
}

/// Bytes that look random and are the same each time.
pub(crate) fn noise(seed: u64, size: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

pub(crate) fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type, ContentDigest::of(bytes), bytes.len() as u64)
}

/// The text of an image manifest with further fields.
pub(crate) fn manifest(config: &Descriptor, layers: &[Descriptor], extra: &str) -> Bytes {
    let json = |value: &Descriptor| serde_json::to_string(value).unwrap();
    let layers: Vec<String> = layers.iter().map(json).collect();
    let config = json(config);
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[{}]{extra}}}"#,
        layers.join(",")
    );
    text.into()
}

/// Pushes an image with these layers; gives its digest.
pub(crate) async fn push(remote: &Remote, name: &str, layers: &[Bytes]) -> ContentDigest {
    let config = Bytes::from_static(b"{\"architecture\":\"amd64\",\"os\":\"linux\"}");
    let config_is = describe("application/vnd.oci.image.config.v1+json", &config);
    remote.push_blob(&config_is, Arc::new(config), &[], None).await.unwrap();
    let mut descriptors = Vec::new();
    for layer in layers {
        let descriptor = describe("application/vnd.oci.image.layer.v1.tar", layer);
        remote.push_blob(&descriptor, Arc::new(layer.clone()), &[], None).await.unwrap();
        descriptors.push(descriptor);
    }
    let text = manifest(&config_is, &descriptors, "");
    remote.push_manifest(&tag(name), OCI_MANIFEST, text).await.unwrap()
}

/// All files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// All bytes of a blob.
pub(crate) async fn pull(remote: &Remote, descriptor: &Descriptor) -> Bytes {
    remote.blob(descriptor, None).await.unwrap().into_bytes(1 << 30).await.unwrap()
}

/// A way to a server whose connections are cut after so many bytes that follow from a seed, in both directions.
pub(crate) struct Breaking {
    pub(crate) address: SocketAddr,
    pub(crate) cuts: Arc<AtomicU64>,
}

pub(crate) async fn breaking(to: SocketAddr, seed: u64, most: u64) -> Breaking {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, cuts) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&cuts);
    tokio::spawn(async move {
        let mut state = seed | 1;
        while let Ok((client, _)) = listener.accept().await {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Small ones cut heads, large ones bodies.
            let budget = if state >> 62 == 0 { (state >> 33) % 400 } else { (state >> 33) % most };
            tokio::spawn(carry(client, to, budget, Arc::clone(&counter)));
        }
    });
    Breaking { address, cuts }
}

async fn carry(mut client: TcpStream, to: SocketAddr, mut budget: u64, cuts: Arc<AtomicU64>) {
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    let (mut up, mut down) = (vec![0; 8192], vec![0; 8192]);
    loop {
        let (count, is_up) = tokio::select! {
            read = client.read(&mut up) => (read.unwrap_or(0), true),
            read = server.read(&mut down) => (read.unwrap_or(0), false),
        };
        if count == 0 {
            return;
        }
        let now = usize::try_from(budget.min(count as u64)).unwrap();
        budget -= now as u64;
        let sent = match is_up {
            true => server.write_all(&up[..now]).await,
            false => client.write_all(&down[..now]).await,
        };
        if sent.is_err() {
            return;
        }
        if budget == 0 {
            cuts.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
}
