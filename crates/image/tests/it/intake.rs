//! Images that come in parts, and go out byte for byte as they came.

use std::fs;
use std::io::{Read, Write};
use std::process::Command;

use image::{
    ErrorKind, Force, ImageError, ImageId, Keep, LayerFormat, LayerId, LayerRules, NewImage, PinnedName, PruneScope,
    Reduction, Store, StoredManifest,
};

use oci::digest::Digest;

use crate::hostile::entry;

fn unused(_: &ImageId) -> bool {
    false
}

/// An archive of the machine's own tar with files of many lengths, a sparse one, links, and a file that a later one replaces.
fn archive() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("d/e")).unwrap();
    for length in [0_usize, 1, 511, 512, 4000, 4095, 4096, 4097, 12_288, 300_001] {
        let bytes: Vec<u8> = (0..length).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
        fs::write(root.join(format!("d/{length}")), bytes).unwrap();
    }
    fs::hard_link(root.join("d/4097"), root.join("d/e/link")).unwrap();
    std::os::unix::fs::symlink("../4096", root.join("d/e/symlink")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, &[7; 5000], 1 << 20).unwrap();
    let tar = |arguments: &[&str], names: &[&str]| {
        let file = folder.path().join("a.tar");
        let mut command = Command::new("tar");
        let done = command.args(arguments).arg("-f").arg(&file).arg("-C").arg(&root).args(names).status().unwrap();
        assert!(done.success());
        fs::read(file).unwrap()
    };
    tar(&["-c", "--sparse", "--format=gnu"], &["."]);
    fs::write(root.join("d/12288"), vec![9; 9000]).unwrap();
    tar(&["-r", "--format=gnu"], &["./d/12288"])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(layers: &[LayerId]) -> Vec<u8> {
    let layers: Vec<String> = layers.iter().map(|layer| format!("\"{layer}\"")).collect();
    let layers = layers.join(",");
    // Spaces and the order of fields are not ours: they have to stay.
    format!(
        "{{ \"os\":\"linux\", \"architecture\":\"amd64\",  \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{layers}]}}}}"
    )
    .into_bytes()
}

fn whole(mut reader: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn archives_come_back_byte_for_byte() {
    for format in [LayerFormat::Erofs, LayerFormat::Directory] {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_with_format(folder.path(), format).unwrap();
        // Behind the end mark may be anything.
        let bytes = [archive(), b"trailing".to_vec()].concat();
        let intake = store.intake();
        let taken = intake.layer(&gzip(&bytes)[..], LayerRules::default(), None, Keep::No).unwrap();
        assert_eq!((taken.layer.0, taken.blob), (Digest::of(&bytes), None));
        let new = NewImage { config: config(&[taken.layer]), manifest: None, reference: None };
        let image = intake.image(new).unwrap();
        drop(intake);
        let (reader, length) = store.archive(&image.layers[0]).unwrap();
        assert_eq!(length, bytes.len() as u64);
        assert_eq!(whole(reader), bytes, "{format:?}");
        assert_eq!(store.check().unwrap(), []);
    }
}

/// The end of an eStargz stream: an empty member whose header says where the table of contents begins.
fn stargz_footer(at: usize) -> Vec<u8> {
    let extra = [&b"SG"[..], &22_u16.to_le_bytes(), format!("{at:016x}STARGZ").as_bytes()].concat();
    let header = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
    let length = u16::try_from(extra.len()).unwrap().to_le_bytes();
    [&header[..], &length, &extra, &[1, 0, 0, 0xff, 0xff], &[0; 8]].concat()
}

/// A frame that decoders skip, as zstd:chunked keeps its table of contents in.
fn skippable(bytes: &[u8]) -> Vec<u8> {
    [&0x184d_2a50_u32.to_le_bytes()[..], &u32::try_from(bytes.len()).unwrap().to_le_bytes(), bytes].concat()
}

/// Layers that could be fetched in pieces are whole layers all the same.
#[test]
fn seekable_layers_are_read_as_plain() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let toc = entry(b"stargz.index.json", b'0', b"", b"{\"version\":1,\"entries\":[]}");
    let files = [entry(b"a", b'0', b"", &[7; 3000]), entry(b".no.prefetch.landmark", b'0', b"", b"\x0f")].concat();
    let pieces: Vec<&[u8]> = files.chunks(700).collect();
    let mut stargz: Vec<u8> = pieces.iter().flat_map(|piece| gzip(piece)).collect();
    let at = stargz.len();
    let end = [toc.clone(), vec![0; 1024]].concat();
    stargz.extend(gzip(&end));
    stargz.extend(stargz_footer(at));
    let mut chunked: Vec<u8> = pieces.iter().flat_map(|piece| zstd::encode_all(*piece, 3).unwrap()).collect();
    chunked.extend(zstd::encode_all(&[0; 1024][..], 3).unwrap());
    chunked.extend(skippable(&zstd::encode_all(&b"{\"version\":1}"[..], 3).unwrap()));
    chunked.extend(skippable(&[5; 64]));
    for (stream, plain) in [(stargz, [&files[..], &end].concat()), (chunked, [&files[..], &[0; 1024]].concat())] {
        let intake = store.intake();
        let taken = intake.layer(&stream[..], LayerRules::default(), None, Keep::Measured).unwrap();
        assert_eq!(taken.layer.0, Digest::of(&plain));
        assert_eq!(taken.blob, Some((Digest::of(&stream), stream.len() as u64)), "all of it was read");
        let image = intake.image(NewImage { config: config(&[taken.layer]), manifest: None, reference: None }).unwrap();
        drop(intake);
        assert_eq!(whole(store.archive(&image.layers[0]).unwrap().0), plain);
    }
    assert_eq!(store.check().unwrap(), []);
}

#[test]
fn what_came_in_goes_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let bytes = [entry(b"f", b'0', b"", b"web"), vec![0; 1024]].concat();
    let packed = gzip(&bytes);
    let intake = store.intake();
    let digest = Digest::of(&packed);
    assert!(!intake.holds_blob(&digest));
    let taken = intake.layer(&packed[..], LayerRules::default(), None, Keep::Measured).unwrap();
    assert_eq!(taken.blob, Some((digest, packed.len() as u64)));
    let manifest = b"{\"a manifest\": 1}";
    intake.blob(&manifest[..], &Digest::of(manifest)).unwrap();
    let name = PinnedName { repository: "docker.io/library/web".into(), digest: Digest::of(manifest) };
    let stored = StoredManifest {
        digest: Digest::of(manifest),
        media_type: "application/x".into(),
        blobs: vec![digest],
        names: vec![name],
    };
    let config = config(&[taken.layer]);
    let reference = Some("web:1".parse().unwrap());
    let image = intake.image(NewImage { config: config.clone(), manifest: Some(stored.clone()), reference }).unwrap();
    drop(intake);
    assert_eq!(image.id.0, Digest::of(&config));
    let store = {
        drop(store);
        Store::open(folder.path()).unwrap()
    };
    let again = store.get(&format!("web@{}", Digest::of(manifest))).unwrap();
    assert_eq!((again.id, &again.manifests), (image.id, &vec![stored]));
    assert_eq!(store.config_bytes(&image.id).unwrap(), config);
    let (path, size) = store.blob(&digest).unwrap();
    assert_eq!((fs::read(&path).unwrap(), size), (packed.clone(), packed.len() as u64));
    assert_eq!(store.check().unwrap(), []);
    // A damaged blob is found.
    fs::write(&path, b"x").unwrap();
    let problems = store.check().unwrap();
    assert!(problems.len() == 1 && problems[0].object == format!("blob {digest}"), "{problems:?}");
    // With its last tag in a repository its digest there goes, too.
    store.tag(&image.id, "other:1".parse().unwrap()).unwrap();
    store.remove("web:1", &unused, Force::No).unwrap();
    assert!(store.get("other:1").unwrap().manifests[0].names.is_empty());
    store.remove("other:1", &unused, Force::No).unwrap();
    assert!(store.blob(&digest).is_none() && fs::read_dir(folder.path().join("layers")).unwrap().next().is_none());
}

#[test]
fn intakes_hold_what_they_took() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let bytes = [entry(b"f", b'0', b"", b"web"), vec![0; 1024]].concat();
    let (first, second) = (store.intake(), store.intake());
    let taken = first.layer(&bytes[..], LayerRules::default(), None, Keep::Measured).unwrap();
    assert!(second.holds_layer(&taken.layer) && second.holds_blob(&taken.layer.0));
    drop(first);
    store.prune(&unused, PruneScope::Unused, &|_| true).unwrap();
    assert!(second.holds_layer(&taken.layer) && store.blob(&taken.layer.0).is_some());
    drop(second);
    assert!(store.blob(&taken.layer.0).is_none());
    let third = store.intake();
    assert!(!third.holds_layer(&taken.layer));
    let missing = third.image(NewImage { config: config(&[taken.layer]), manifest: None, reference: None });
    assert!(matches!(missing, Err(ImageError::MissingLayer { .. })));
    let other = third.layer(&bytes[..], LayerRules::default(), Some(LayerId(Digest::of(b"x"))), Keep::No);
    assert_eq!(other.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(matches!(third.blob(&b"x"[..], &Digest::of(b"y")), Err(ImageError::OtherBlob { .. })));
    // what was pruned is swept aside, which ends with the store
    drop((third, store));
    assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

/// An image of one layer, whose blob is kept.
fn kept(store: &Store, packed: &[u8], expected: Option<LayerId>) -> (image::Image, Digest) {
    let (intake, digest) = (store.intake(), Digest::of(packed));
    let taken = intake.layer(packed, LayerRules::default(), expected, Keep::As(digest)).unwrap();
    assert_eq!(taken.blob, Some((digest, packed.len() as u64)));
    let manifest = format!("{{\"manifest of\": \"{digest}\"}}");
    let of_manifest = Digest::of(manifest.as_bytes());
    intake.blob(manifest.as_bytes(), &of_manifest).unwrap();
    let stored = StoredManifest {
        digest: of_manifest,
        media_type: "application/x".into(),
        blobs: vec![digest],
        names: Vec::new(),
    };
    let new = NewImage { config: config(&[taken.layer]), manifest: Some(stored), reference: None };
    (intake.image(new).unwrap(), digest)
}

#[test]
fn compressed_layers_come_back_from_their_parts() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let bytes = archive();
    let packed = gzip(&bytes);
    let (image, digest) = kept(&store, &packed, None);
    assert_eq!(store.reducible(), [(digest, image.layers[0])]);
    let before = store.disk_usage().unwrap().blob_bytes;
    let Reduction::Reduced(saved) = store.reduce(&digest, &image.layers[0]).unwrap() else { panic!("not reduced") };
    assert_eq!(before - store.disk_usage().unwrap().blob_bytes, saved);
    assert!(saved > packed.len() as u64 / 2 && store.blob(&digest).is_none() && store.reducible().is_empty());
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    let back = store.whole_blob(&digest).unwrap();
    assert_eq!((fs::read(&back.path).unwrap(), back.size), (packed.clone(), packed.len() as u64));
    assert_eq!(store.blob_size(&digest), Some(back.size));
    let image = store.get(&image.id.to_string()).unwrap();
    assert!(store.whole_manifest(&image).is_some());
    let mut saved = Vec::new();
    let whole = image::bundle::Packed { image: image.clone(), names: Vec::new(), family: None };
    store.write_bundle(&[whole], &mut saved).unwrap();
    assert!(saved.windows(packed.len()).any(|window| window == packed));
    assert_eq!(store.check().unwrap(), []);
    // it comes once more, and goes once more
    kept(&store, &packed, None);
    assert!(store.blob(&digest).is_some());
    store.reduce(&digest, &image.layers[0]).unwrap();
    let parts = folder.path().join(format!("blobs/sha256/{}.parts", digest.hex()));
    let mut damaged = fs::read(&parts).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&parts, damaged).unwrap();
    let problems = store.check().unwrap();
    assert!(problems.len() == 1 && problems[0].object == format!("blob {digest}"), "{problems:?}");
    assert!(store.whole_blob(&digest).is_err());
    store.remove(&image.id.to_string(), &unused, Force::No).unwrap();
    assert!(!parts.exists());
}

#[test]
fn what_cannot_be_taken_apart_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let bytes = archive();
    let (image, digest) = kept(&store, &zstd::stream::encode_all(&bytes[..], 3).unwrap(), None);
    assert_eq!(store.reduce(&digest, &image.layers[0]).unwrap(), Reduction::Whole);
    assert!(store.blob(&digest).is_some());
    store.remove(&image.id.to_string(), &unused, Force::No).unwrap();
    // one that was never compressed is its own archive: it is not kept twice
    let (image, digest) = kept(&store, &bytes, Some(LayerId(Digest::of(&bytes))));
    assert_eq!(image.layers[0].0, digest);
    assert!(store.blob(&digest).is_none() && store.reducible().is_empty());
    let back = store.whole_blob(&digest).unwrap();
    assert_eq!((fs::read(&back.path).unwrap(), back.size), (bytes.clone(), bytes.len() as u64));
    assert!(store.whole_manifest(&image).is_some());
    assert_eq!(store.check().unwrap(), []);
}

#[test]
fn an_image_may_have_no_layers() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for (number, root) in [r#"{"type":"layers"}"#, r#"{"type":"layers","diff_ids":null}"#].iter().enumerate() {
        let config = format!("{{ \"os\":\"linux\", \"architecture\":\"amd64\", \"rootfs\":{root} }}").into_bytes();
        assert_eq!(image::layers_of(&config).unwrap(), []);
        let reference = Some(format!("empty:{number}").parse().unwrap());
        let made = store.intake().image(NewImage { config: config.clone(), manifest: None, reference }).unwrap();
        assert_eq!((made.id.0, made.layers.len()), (Digest::of(&config), 0), "byte for byte as it came");
    }
    drop(store);
    assert_eq!(Store::open(folder.path()).unwrap().list().unwrap().len(), 2);
}
