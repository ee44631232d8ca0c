//! Reads the store again and compares it with its digests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use oci::digest::{Digest, Digester};

use super::{Known, import_record, layer_folder, load_config};
use crate::erofs;
use crate::import::{LayerFormat, LayerRecord};
use crate::model::{ImageId, LayerId, Problem};

pub(super) fn check(root: &Path, images: &BTreeMap<ImageId, Known>, layers: &BTreeSet<LayerId>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for id in images.keys() {
        if let Err(reason) = load_config(root, id) {
            let description = format!("{reason}; remove it with: insula rmi --force {id}, and make it again");
            problems.push(Problem { object: format!("image {id}"), description });
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
                LayerRecord { rotated_sha256: Some(expected), .. } if expected == digest => Ok(()),
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
