//! Reads the store again and compares it with its digests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use oci::digest::{Digest, Digester};

use super::{Known, blob_path, import_record, layer_folder, load_config, reduced};
use crate::erofs;
use crate::import::{LayerFormat, LayerRecord};
use crate::model::{ImageId, LayerId, Problem};
use crate::recipe::Replay;

pub(super) fn check(root: &Path, images: &BTreeMap<ImageId, Known>, layers: &BTreeSet<LayerId>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for id in images.keys() {
        if let Err(reason) = load_config(root, id) {
            let description = format!("{reason}; remove it with: insula rmi --force {id}, and make it again");
            problems.push(Problem { object: format!("image {id}"), description });
        }
    }
    for (id, known) in images {
        for manifest in &known.manifests {
            let names = manifest.names.iter().map(|name| &name.digest);
            for digest in manifest.blobs.iter().chain([&manifest.digest]).chain(names).collect::<BTreeSet<_>>() {
                if let Err(reason) = check_blob(root, digest) {
                    let description = format!("{reason}; remove it with: insula rmi --force {id}, and pull it again");
                    problems.push(Problem { object: format!("blob {digest}"), description });
                }
            }
        }
    }
    for layer in layers {
        let Err(reason) = check_layer(root, layer) else { continue };
        let users: Vec<String> =
            images.iter().filter(|(_, known)| known.layers.contains(layer)).map(|(id, _)| id.to_string()).collect();
        let description = format!("{reason}; remove and make again: {}", users.join(" "));
        problems.push(Problem { object: format!("layer {layer}"), description });
    }
    problems
}

fn check_blob(root: &Path, digest: &Digest) -> Result<(), String> {
    let path = blob_path(root, digest);
    if !path.is_file() {
        let restored = reduced::restore(root, digest, io::sink());
        return restored.map(drop).map_err(|error| format!("{} cannot be made again ({error})", path.display()));
    }
    let failed = |error: io::Error| format!("{} cannot be read ({error})", path.display());
    let actual = digest_of(File::open(&path).map_err(failed)?).map_err(failed)?;
    if actual == *digest { Ok(()) } else { Err(format!("{} does not have the digest of its name", path.display())) }
}

fn digest_of(mut reader: impl Read) -> io::Result<Digest> {
    let mut digester = Digester::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(digester.finish()),
            count => digester.update(&buffer[..count]),
        }
    }
}

/// Whether the layer's archive comes back as it was.
fn check_archive(folder: &Path, record: &LayerRecord) -> Result<(), String> {
    if record.recipe_size == 0 {
        return Ok(());
    }
    let file = (record.format == LayerFormat::Erofs).then(|| Path::new(record.format.file_name()));
    let actual = Replay::open(folder, file).and_then(digest_of);
    match actual.map_err(|error| format!("the archive of {} cannot be made again ({error})", folder.display()))? {
        actual if actual == record.diff_id.0 => Ok(()),
        _ => Err(format!("the archive that {} gives is not the layer's", folder.display())),
    }
}

fn check_layer(root: &Path, layer: &LayerId) -> Result<(), String> {
    let record = import_record(root, layer).map_err(|reason| format!("layer.json {reason}"))?;
    let path = layer_folder(root, layer).join(record.format.file_name());
    match record.format {
        LayerFormat::Directory if path.is_dir() => Ok(()),
        LayerFormat::Directory => Err(format!("{} is missing", path.display())),
        LayerFormat::Erofs => {
            let digest =
                rotated_digest(&path).map_err(|error| format!("{} cannot be read ({error})", path.display()))?;
            match record {
                LayerRecord { rotated_sha256: Some(expected), .. } if expected == digest => {
                    check_archive(&layer_folder(root, layer), &record)
                }
                _ => Err(format!("{} does not have the digest that it should have", path.display())),
            }
        }
    }
}

/// The digest of the file from its second block to its end and then of its first.
fn rotated_digest(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut first = vec![0; erofs::BLOCK_SIZE];
    file.read_exact(&mut first)?;
    let mut digester = Digester::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        digester.update(&buffer[..count]);
    }
    digester.update(&first);
    Ok(digester.finish())
}
