//! `kill -9` while images are pushed: what was acknowledged is there, and nothing is half there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use registry::client::{Client, ClientConfig, ClientError, Credentials};
use registry::digest::ContentDigest;
use registry::manifest::OCI_MANIFEST;
use registry::name::Target;
use registry::storage::{Collection, DEFAULT_GRACE, Storage, Untagged};
use rustix::process::Pid;
use testkit::Dice;

use crate::tools::{describe, files, manifest, noise, settings, tag};

/// Kills of a usual run; `INSULA_E2E_FAULTS` says another number, `INSULA_E2E_SEED` which.
const USUAL: usize = 14;
/// Calls after which the disk is another one, or just before that.
const CALLS: [&str; 9] = ["fdatasync", "fsync", "link", "mkdir", "openat", "rename", "rmdir", "unlink", "write"];

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
        command.arg("--root").arg(root).args(["--collect-ms", "10", "--grace-ms", "300"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut domain = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut domain).unwrap();
        Self { child, domain: domain.trim().to_owned() }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the registry has acknowledged, tag by tag: the manifest, or that it is gone.
type Acknowledged = BTreeMap<String, Option<ContentDigest>>;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("registry");
    let mut acknowledged = Acknowledged::new();
    let mut dice = Dice::new();
    let has_strace = testkit::rootfs::find("strace").is_some();
    if !has_strace {
        println!("no strace on this machine: the registry is killed at moments, and at no calls");
    }
    let (seed, mut at_calls) = (dice.seed, 0);
    for round in 0..Dice::rounds(USUAL, 1000) {
        let mut process = Process::start(&root);
        let (dead, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let call = (has_strace && dice.below(2) == 0)
            .then(|| testkit::kill_at(process.pid(), CALLS[dice.below(CALLS.len())], 1 + dice.below(6)));
        let mut pushers = Vec::new();
        for pusher in 0..3_usize {
            let (domain, dead, count) = (process.domain.clone(), Arc::clone(&dead), Arc::clone(&count));
            let seed = u64::try_from(dice.below(1 << 40)).unwrap();
            pushers.push(tokio::spawn(push_until_dead(domain, (round, pusher), Dice::of(seed), dead, count)));
        }
        // Somewhere within the images that follow so many.
        let (wanted, late) = (dice.below(4), Instant::now() + Duration::from_secs(20));
        let mut ended = false;
        while (call.is_some() || count.load(Ordering::Relaxed) < wanted) && !ended && Instant::now() < late {
            tokio::time::sleep(Duration::from_millis(1)).await;
            ended = process.child.try_wait().unwrap().is_some();
            if call.is_some() && count.load(Ordering::Relaxed) > 12 {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.below(80) as u64)).await;
        at_calls += usize::from(ended);
        drop(process);
        if let Some(mut tracer) = call {
            tracer.wait().unwrap();
        }
        dead.store(true, Ordering::Relaxed);
        for pusher in pushers {
            acknowledged.extend(pusher.await.unwrap());
        }
        let storage = Storage::open(&root, DEFAULT_GRACE).unwrap();
        assert_eq!(storage.check().unwrap(), [], "round {round}, INSULA_E2E_SEED={seed}");
        let repository = "crash".parse().unwrap();
        for (name, digest) in &acknowledged {
            let found = storage.manifest(&repository, &tag(name)).map(|found| found.digest).ok();
            assert_eq!(found, *digest, "round {round}: {name}, INSULA_E2E_SEED={seed}");
        }
    }
    let pushed = acknowledged.values().flatten().count();
    println!("{pushed} images were pushed, {at_calls} registries died of a call, INSULA_E2E_SEED={seed}");
    assert!(pushed > 8, "only {pushed} images were pushed");
    assert_space_comes_back(&root);
}

/// Removes all tags; then nothing is worth any room.
fn assert_space_comes_back(root: &Path) {
    let storage = Storage::open(root, Duration::ZERO).unwrap();
    let repository = "crash".parse().unwrap();
    for name in storage.tags(&repository).unwrap() {
        storage.delete_manifest(&repository, &tag(&name)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(120));
    let all = Collection { untagged: Untagged::Remove, upload_expiry: Duration::ZERO };
    storage.collect(all).unwrap();
    assert_eq!(files(&root.join("blobs")), Vec::<PathBuf>::new());
    assert_eq!(files(&root.join("repositories")), Vec::<PathBuf>::new());
    assert_eq!(files(&root.join("tmp")), Vec::<PathBuf>::new());
}

/// Pushes images and deletes some, until one is refused by a dead registry.
async fn push_until_dead(
    domain: String,
    (round, pusher): (usize, usize),
    mut dice: Dice,
    dead: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
) -> Acknowledged {
    let client = Client::new(ClientConfig { retries: 0, ..settings() }, Credentials::None);
    let remote = client.remote(&domain, "crash").unwrap();
    let mut done = Acknowledged::new();
    for number in 0.. {
        if dead.load(Ordering::Relaxed) {
            break;
        }
        // Some are what another pusher has as well, perhaps at the same time.
        let size = if dice.below(3) == 0 { 1_500_000 } else { 3_000 };
        let layer = noise(u64::try_from(dice.below(20)).unwrap(), size);
        let is = describe("a/b", &layer);
        let config = Bytes::from(format!("{{\"n\":{number},\"pusher\":[{round},{pusher}]}}"));
        let config_is = describe("a/c", &config);
        let name = format!("t{round}-{pusher}-{number}");
        let outcome = async {
            remote.push_blob(&is, Arc::new(layer), &[], None).await?;
            remote.push_blob(&config_is, Arc::new(config), &[], None).await?;
            remote.push_manifest(&tag(&name), OCI_MANIFEST, manifest(&config_is, &[is], "")).await
        };
        match outcome.await {
            Ok(digest) => {
                done.insert(name.clone(), Some(digest));
                count.fetch_add(1, Ordering::Relaxed);
            }
            // A registry that lives, but was too slow for its own lease, says so.
            Err(ClientError::NotFound { .. } | ClientError::Status { .. }) => continue,
            Err(_) => break,
        }
        if dice.below(4) == 0 {
            match remote.delete(&tag(&name)).await {
                Ok(()) => done.insert(name, None),
                // Nobody knows whether it is gone.
                Err(_) => done.remove(&name),
            };
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
