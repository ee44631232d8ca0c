//! `kill -9` while images are pushed: what was acknowledged is there, and nothing is half there.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use registry::client::{Client, ClientConfig, Credentials};
use registry::digest::ContentDigest;
use registry::manifest::OCI_MANIFEST;
use registry::name::Target;
use registry::storage::{DEFAULT_GRACE, Storage};

use crate::tools::{describe, manifest, noise, settings, tag};

/// A registry in a process of its own, which is killed at the end.
struct Process {
    child: Child,
    domain: String,
}

impl Process {
    fn start(root: &Path) -> Self {
        let test = std::env::current_exe().unwrap();
        let program: PathBuf = test.parent().and_then(Path::parent).unwrap().join("examples/serve");
        let mut command = Command::new(program);
        command.arg("--root").arg(root).args(["--collect-ms", "10", "--grace-ms", "20000"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut domain = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut domain).unwrap();
        Self { child, domain: domain.trim().to_owned() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("registry");
    let mut acknowledged: Vec<(String, ContentDigest)> = Vec::new();
    let mut state = 0x1234_5678_9abc_def1_u64;
    for round in 0..12_u64 {
        let process = Process::start(&root);
        let (dead, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut pushers = Vec::new();
        for pusher in 0..3_u64 {
            let (domain, dead, count) = (process.domain.clone(), Arc::clone(&dead), Arc::clone(&count));
            pushers.push(tokio::spawn(push_until_dead(domain, round * 10 + pusher, dead, count)));
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Somewhere within the images that follow so many.
        let (wanted, late) = (usize::try_from(state >> 62).unwrap(), Instant::now() + Duration::from_secs(20));
        while count.load(Ordering::Relaxed) < wanted && Instant::now() < late {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis((state >> 40) % 80)).await;
        drop(process);
        dead.store(true, Ordering::Relaxed);
        for pusher in pushers {
            acknowledged.extend(pusher.await.unwrap());
        }
        let storage = Storage::open(&root, DEFAULT_GRACE).unwrap();
        assert_eq!(storage.check().unwrap(), [], "round {round}");
        let repository = "crash".parse().unwrap();
        for (name, digest) in &acknowledged {
            let found = storage.manifest(&repository, &tag(name));
            assert_eq!(found.map(|found| found.digest).ok(), Some(*digest), "round {round}: {name}");
        }
    }
    assert!(acknowledged.len() > 8, "only {} images were pushed", acknowledged.len());
}

/// Pushes images, until one is refused by a dead registry.
async fn push_until_dead(
    domain: String,
    seed: u64,
    dead: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
) -> Vec<(String, ContentDigest)> {
    let client = Client::new(ClientConfig { retries: 0, ..settings() }, Credentials::None);
    let remote = client.remote(&domain, "crash").unwrap();
    let mut done = Vec::new();
    for number in 0.. {
        if dead.load(Ordering::Relaxed) {
            break;
        }
        let size = if number % 3 == 2 { 1_500_000 } else { 3_000 };
        let layer = noise(seed * 1000 + number, size);
        let is = describe("a/b", &layer);
        let config = Bytes::from(format!("{{\"n\":{number},\"seed\":{seed}}}"));
        let config_is = describe("a/c", &config);
        let name = format!("t{seed}-{number}");
        let outcome = async {
            remote.push_blob(&is, Arc::new(layer), &[], None).await?;
            remote.push_blob(&config_is, Arc::new(config), &[], None).await?;
            remote.push_manifest(&tag(&name), OCI_MANIFEST, manifest(&config_is, &[is], "")).await
        };
        match outcome.await {
            Ok(digest) => {
                done.push((name, digest));
                count.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => break,
        }
    }
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("registry");
    let layer = noise(1, 3_000_000);
    let (repository, id) = ("a".parse().unwrap(), {
        let storage = Storage::open(&root, DEFAULT_GRACE).unwrap();
        let mut upload = storage.begin_upload(&"a".parse().unwrap(), registry::digest::Algorithm::Sha256).unwrap();
        upload.append(&layer[..2_000_000]).unwrap();
        upload.id().clone()
    });
    let storage = Storage::open(&root, DEFAULT_GRACE).unwrap();
    let mut upload = storage.open_upload(&repository, &id).unwrap();
    assert_eq!(upload.length(), 2_000_000);
    upload.append(&layer[2_000_000..]).unwrap();
    storage.finish_upload(upload, &ContentDigest::of(&layer)).unwrap();
    assert_eq!(storage.check().unwrap(), []);
    assert!(storage.manifest(&repository, &Target::Digest(ContentDigest::of(b""))).is_err());
}
