//! Names, ids, removal, and what survives a crash.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use image::family::{Family, Member, Predicate, SLSA_PROVENANCE};
use image::{ErrorKind, Force, Image, ImageId, ImportOptions, PruneScope, Pruned, Removed, Store};

use crate::hostile::entry;

fn import(store: &Store, name: Option<&str>, contents: &[u8]) -> Image {
    let bytes = [entry(b"f", b'0', b"", contents), vec![0; 1024]].concat();
    let options = ImportOptions {
        reference: name.map(|name| name.parse().unwrap()),
        created: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
        ..ImportOptions::default()
    };
    store.import(&bytes[..], options).unwrap()
}

fn unused(_: &ImageId) -> bool {
    false
}

#[test]
fn found_by_every_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let web = import(&store, Some("web:2"), b"web");
    let hex = web.id.0.hex();
    for name in [
        "web:2",
        "docker.io/library/web:2",
        &hex,
        &hex[..6],
        &format!("sha256:{hex}"),
        &format!("sha256:{}", &hex[..3]),
    ] {
        assert_eq!(store.get(name).unwrap().id, web.id, "{name}");
    }
    let missing = store.get("web").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("no image \"web\" here"));
    assert_eq!(store.get("Not A Name").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(store.get(&"0".repeat(64)).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn it_is_known_when_an_image_got_its_last_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let image = import(&store, None, b"one");
    assert_eq!(image.tagged, None);
    let before = SystemTime::now() - Duration::from_millis(1);
    store.tag(&image.id, "a:1".parse().unwrap()).unwrap();
    drop(store);
    let tagged = Store::open(folder.path()).unwrap().get("a:1").unwrap().tagged.unwrap();
    assert!(tagged >= before && tagged <= SystemTime::now());
}

#[test]
fn a_name_moves_and_the_layer_is_shared() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let first = import(&store, Some("app"), b"1");
    let again = import(&store, Some("app:same"), b"1");
    assert_eq!(first.id, again.id);
    assert_eq!(again.references.len(), 2);
    let second = import(&store, Some("app"), b"2");
    assert_eq!(store.get("app").unwrap().id, second.id);
    assert_eq!(store.get("app:same").unwrap().id, first.id);
    assert_eq!(store.disk_usage().unwrap().layers, 2);
    store.tag(&second.id, "other:1".parse().unwrap()).unwrap();
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.get("other:1").unwrap().id, second.id);
    assert_eq!(store.list().unwrap().len(), 2);
    assert_eq!(store.check().unwrap(), []);
}

#[test]
fn removal() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let image = import(&store, Some("a:1"), b"1");
    store.tag(&image.id, "a:2".parse().unwrap()).unwrap();
    let hex = image.id.0.hex();
    assert_eq!(store.remove(&hex, &unused, Force::No).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(store.remove("a:1", &|_| true, Force::No).unwrap(), [Removed::Untagged("a:1".parse().unwrap())]);
    assert_eq!(store.remove("a:2", &|_| true, Force::No).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(
        store.remove("a:2", &unused, Force::No).unwrap(),
        [Removed::Untagged("a:2".parse().unwrap()), Removed::Deleted(image.id)]
    );
    assert_eq!(fs::read_dir(folder.path().join("layers")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(folder.path().join("blobs/sha256")).unwrap().count(), 0);
    // what was taken out of sight is gone when the store is given back
    drop(store);
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn prune_takes_what_nobody_needs() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let kept = import(&store, Some("kept"), b"1");
    let dangling = import(&store, None, b"2");
    let used = import(&store, None, b"3");
    let pruned = store.prune(&|id| *id == used.id, PruneScope::Dangling, &|_| true).unwrap();
    assert_eq!(pruned.removed, [Removed::Deleted(dangling.id)]);
    assert!(pruned.reclaimed_bytes > 4096);
    let none = store.prune(&|id| *id == used.id, PruneScope::Unused, &|_| false).unwrap();
    assert_eq!(none, Pruned::default());
    let pruned = store.prune(&|id| *id == used.id, PruneScope::Unused, &|_| true).unwrap();
    assert_eq!(pruned.removed.len(), 2);
    assert!(store.get(&kept.id.to_string()).is_err());
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let error = Store::open(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("in use by another process"));
    drop(store);
    Store::open(folder.path()).unwrap();
}

#[test]
fn leftovers_go_and_damage_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let id = {
        let store = Store::open(root).unwrap();
        import(&store, Some("good"), b"1");
        import(&store, Some("bad"), b"2").id
    };
    fs::create_dir_all(root.join("tmp/work-1/x")).unwrap();
    fs::create_dir_all(root.join("layers").join("0".repeat(64))).unwrap();
    fs::write(root.join("blobs/sha256").join("1".repeat(64)), "x").unwrap();
    fs::write(root.join("blobs/sha256").join(id.0.hex()), "{}").unwrap();
    let store = Store::open(root).unwrap();
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(root.join("layers")).unwrap().count(), 2);
    assert_eq!(fs::read_dir(root.join("blobs/sha256")).unwrap().count(), 2);
    store.get("good").unwrap();
    let error = store.get("bad").unwrap_err();
    assert!(error.to_string().contains("rmi --force"), "{error}");
    assert_eq!(store.check().unwrap().len(), 1);
    store.remove("bad", &unused, Force::No).unwrap();
    assert_eq!(store.check().unwrap(), []);
    drop(store);
    fs::write(root.join("index.json"), "{").unwrap();
    assert!(matches!(Store::open(root), Err(image::ImageError::DamagedIndex { .. })));
}

#[test]
fn the_same_archive_gives_the_same_image() {
    let ids: Vec<_> = (0..2)
        .map(|_| {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path()).unwrap();
            let mut options = ImportOptions { created: Some(SystemTime::UNIX_EPOCH), ..ImportOptions::default() };
            for label in 0..20 {
                options.changes.labels.insert(format!("l{label}"), "v".to_owned());
            }
            let bytes = [entry(b"f", b'0', b"", b"same"), vec![0; 1024]].concat();
            let image = store.import(&bytes[..], options).unwrap();
            let layer = store.root().join("layers").join(image.layers[0].0.hex()).join("layer.erofs");
            (image.id, fs::read(layer).unwrap())
        })
        .collect();
    assert!(ids[0] == ids[1]);
}

/// Half of an archive, and then nothing for a long time.
struct Stalling(std::io::Cursor<Vec<u8>>);

impl Read for Stalling {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.read(out)?;
        if count == 0 {
            println!("half way");
            std::thread::sleep(Duration::from_secs(60));
        }
        Ok(count)
    }
}

#[test]
fn killed_half_way() {
    const VICTIM: &str = "INSULA_TEST_IMPORT_INTO";
    if let Some(root) = std::env::var_os(VICTIM) {
        let store = Store::open(root.as_ref()).unwrap();
        let half = crate::hostile::entry_of_size(b"f", b'0', b"", &vec![7; 6 << 20], 12 << 20);
        drop(store.import(Stalling(std::io::Cursor::new(half)), ImportOptions::default()));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::killed_half_way", "--nocapture"])
        .env(VICTIM, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(victim.stdout.take().unwrap());
    assert!(output.lines().map_while(Result::ok).any(|line| line.contains("half way")));
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 1);
    victim.kill().unwrap();
    victim.wait().unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert!(store.list().unwrap().is_empty());
    for part in ["tmp", "layers", "blobs/sha256"] {
        assert_eq!(fs::read_dir(folder.path().join(part)).unwrap().count(), 0, "{part}");
    }
}

/// A family of images, and what is attested of the first.
fn family(store: &Store, images: &[(&str, &Image)]) -> Family {
    let intake = store.intake();
    let bytes = br#"{"builder":{"id":"me"}}"#;
    let blob = oci::digest::Digest::of(bytes);
    intake.blob(&bytes[..], &blob).unwrap();
    let mut members: Vec<Member> = images
        .iter()
        .map(|(platform, image)| Member {
            platform: platform.parse().unwrap(),
            image: image.id,
            predicates: Vec::new(),
            annotations: BTreeMap::new(),
            described: BTreeMap::new(),
        })
        .collect();
    members[0].predicates.push(Predicate { kind: SLSA_PROVENANCE.to_owned(), blob });
    let family = Family { members, ..Family::default() };
    store.name_family(&family, &["many:1".parse().unwrap()]).unwrap();
    family
}

#[test]
fn a_name_stands_for_images_of_several_platforms() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (host, foreign) = (import(&store, None, b"host"), import(&store, None, b"foreign"));
    let name = "many:1".parse().unwrap();
    let here = oci::platform::Platform::host().to_string();
    let made = family(&store, &[("linux/abacus", &foreign), (&here, &host)]);
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.family(&name), Some(made.clone()));
    assert_eq!(store.predicates(&made.members[0]).unwrap()[0].1, br#"{"builder":{"id":"me"}}"#);
    assert_eq!(store.get("many:1").unwrap().id, host.id);
    let on = |platform: &str| store.on_platform("many:1", &platform.parse().unwrap()).unwrap().map(|image| image.id);
    assert_eq!((on("linux/abacus"), on(&here), on("linux/slide-rule")), (Some(foreign.id), Some(host.id), None));
    // what is there for the name's sake is in no list, and stays
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(store.is_member(&foreign.id) && !store.is_member(&host.id));
    assert_eq!(store.prune(&unused, PruneScope::Dangling, &|_| true).unwrap(), Pruned::default());
    // an archive has all, and gives all back
    let packed = image::bundle::Packed {
        image: store.get("many:1").unwrap(),
        names: vec![name.clone()],
        family: store.family(&name),
    };
    let mut archive = Vec::new();
    store.write_bundle(&[packed], &mut archive).unwrap();
    // another name for the same; with the first one's end nothing goes but that
    store.name_family(&made, &["other:1".parse().unwrap()]).unwrap();
    assert_eq!(store.remove("many:1", &unused, Force::No).unwrap(), [Removed::Untagged(name.clone())]);
    assert_eq!(store.check().unwrap(), []);
    let removed = store.remove("other:1", &unused, Force::No).unwrap();
    let other = Removed::Untagged("other:1".parse().unwrap());
    assert_eq!(removed, [other, Removed::Deleted(host.id), Removed::Deleted(foreign.id)]);
    assert_eq!(store.disk_usage().unwrap().blob_bytes, 0);
    let loaded = store.read_bundle(&archive[..], None).unwrap();
    assert_eq!((loaded.len(), loaded[0].image.id, &loaded[0].names), (1, host.id, &vec![name.clone()]));
    assert_eq!(store.family(&name), Some(made));
    // a name that goes to another image stands for nothing else any more
    store.tag(&host.id, name.clone()).unwrap();
    assert!(store.family(&name).is_none());
    let pruned = store.prune(&unused, PruneScope::Dangling, &|_| true).unwrap();
    assert_eq!(pruned.removed, [Removed::Deleted(foreign.id)]);
}

#[test]
fn a_platform_of_a_name_goes_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (host, foreign) = (import(&store, None, b"host"), import(&store, None, b"foreign"));
    let here = oci::platform::Platform::host();
    let (name, other) = ("many:1".parse().unwrap(), "other:1".parse().unwrap());
    let made = family(&store, &[("linux/abacus", &foreign), (&here.to_string(), &host)]);
    store.name_family(&made, std::slice::from_ref(&other)).unwrap();
    let abacus = ["linux/abacus".parse().unwrap()];
    // for all names, and what a container has stays
    assert_eq!(store.remove_platforms("many:1", &abacus, &|id| *id == foreign.id).unwrap(), []);
    assert!(store.family(&name).is_none() && store.family(&other).is_none());
    assert_eq!((store.get("many:1").unwrap().id, store.get("other:1").unwrap().id), (host.id, host.id));
    store.get(&foreign.id.to_string()).unwrap();
    let made = family(&store, &[("linux/abacus", &foreign), (&here.to_string(), &host)]);
    assert_eq!(made.members.len(), 2);
    // the name stands for what is left, and for nothing in the end
    let removed = store.remove_platforms("many:1", &[here], &unused).unwrap();
    assert_eq!((removed.as_slice(), store.get("many:1").unwrap().id), (&[][..], foreign.id), "other:1 has it");
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.family(&name).unwrap().members.len(), 1);
    let removed = store.remove_platforms("many:1", &abacus, &unused).unwrap();
    assert_eq!(removed, [Removed::Untagged(name), Removed::Deleted(foreign.id)]);
    assert!(store.get("many:1").is_err());
}
