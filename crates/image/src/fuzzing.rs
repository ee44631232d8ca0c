//! What the fuzz targets call. The seeds in `fuzz/corpus-seeds` go through the same functions in this crate's tests.

use std::io::Cursor;

use crate::config::ConfigChanges;
use crate::erofs::{self, verify_first_block};
use crate::layer::{self, LayerError, Rules};
use crate::model::{DeviceNodes, Limits};
use crate::pipeline;

/// Small enough that an input that passes all checks is done at once.
const LIMITS: Limits = Limits {
    entries: 2_000,
    archive_bytes: 8 << 20,
    file_bytes: 1 << 40,
    layer_bytes: 16 << 20,
    compression_ratio: 100,
};

/// A whole import in memory: decompression, tar, whiteouts, EROFS. What comes out must pass its own check.
pub fn layer(bytes: &[u8]) {
    let rules = Rules { limits: LIMITS, devices: DeviceNodes::Keep };
    let outcome = pipeline::run(bytes, LIMITS, |pieces| {
        let mut writer = erofs::Writer::new(Cursor::new(Vec::new())).map_err(LayerError::from)?;
        layer::apply(pieces, rules, &mut writer)?;
        Ok(writer.finish()?)
    });
    if let Ok(((finished, file), _)) = outcome {
        let image = file.into_inner();
        let uuid = verify_first_block(&image[..erofs::BLOCK_SIZE], finished.size);
        assert_eq!(uuid, Ok(finished.uuid), "the writer's own image does not pass its check");
    }
}

/// An instruction that changes an image's configuration.
pub fn change(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(ConfigChanges::default().apply(text));
    }
}

/// The first block of a file that should be a layer.
pub fn superblock(bytes: &[u8]) {
    let _ = verify_first_block(bytes, bytes.len() as u64);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    #[test]
    fn seeds_replay() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus-seeds");
        let mut count = 0;
        for target in ["image_layer", "image_change", "image_superblock"] {
            let run = match target {
                "image_layer" => super::layer,
                "image_change" => super::change,
                _ => super::superblock,
            };
            for entry in fs::read_dir(seeds.join(target)).unwrap() {
                run(&fs::read(entry.unwrap().path()).unwrap());
                count += 1;
            }
        }
        assert!(count >= 8, "only {count} seeds");
    }
}
