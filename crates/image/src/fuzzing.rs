//! What the fuzz targets call. The seeds in `fuzz/corpus-seeds` go through the same functions in this crate's tests.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use oci_spec::image::ImageConfiguration;

use crate::build::{File, FileKind, Files, FilesError, Graph, Ignore, Images, Options, Plan};
use crate::config::ConfigChanges;
use crate::dockerfile::{Dockerfile, Expander, Kind};
use crate::erofs::{self, verify_first_block};
use crate::layer::{self, LayerError, Rules};
use crate::model::{DeviceNodes, EndMark, Limits};
use crate::pipeline;
use crate::store::{canonical_json, layers_of};
use crate::tree::Stat;

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
    let rules = Rules { limits: LIMITS, devices: DeviceNodes::Keep, end: EndMark::Required };
    let outcome = pipeline::run(bytes, LIMITS, |pieces| {
        let mut writer = erofs::Writer::new(Cursor::new(Vec::new())).map_err(LayerError::from)?;
        let tape = crate::recipe::Tape::new(std::io::sink()).map_err(LayerError::Recipe)?;
        layer::apply(pieces, rules, &mut writer, tape)?;
        Ok(writer.finish()?)
    });
    if let Ok(((finished, file), _)) = outcome {
        let image = file.into_inner();
        let uuid = verify_first_block(&image[..erofs::BLOCK_SIZE], finished.size);
        assert_eq!(uuid, Ok(finished.uuid), "the writer's own image does not pass its check");
    }
}

/// A compressed layer beside its archive: what is taken apart comes back; and parts that somebody has damaged.
pub fn parts(bytes: &[u8]) {
    let mut archive = Vec::new();
    // as far as it can be decompressed
    let _ = flate2::bufread::MultiGzDecoder::new(bytes).take(1 << 20).read_to_end(&mut archive);
    let mut parts = Vec::new();
    if crate::deflate::reduce(bytes, &archive[..], &mut parts).is_ok() {
        let mut back = Vec::new();
        let restored = crate::deflate::restore(&parts[..], &archive[..], &mut back);
        assert!(restored.is_ok() && back == bytes, "a stream does not come back from its parts");
    }
    let pattern: Vec<u8> = (0..20_000_u32).map(|at| (at * at / 7) as u8).collect();
    let _ = crate::deflate::restore(bytes, &pattern[..], std::io::sink());
}

/// The configuration of a stranger's image: its layers, a change upon it, and the text that is kept of one that was made here,
/// which reads back as itself.
pub fn config(bytes: &[u8]) {
    let Ok(config) = ImageConfiguration::from_reader(bytes) else { return };
    drop(layers_of(bytes).map_err(|error| error.to_string()));
    let mut changes = ConfigChanges::default();
    drop(changes.apply("ENV A=$PATH"));
    drop(changes.over(config.config().as_ref()));
    if let Ok(text) = canonical_json(&config) {
        // Lists that the file has as the keys of an object have no order of their own.
        let again = ImageConfiguration::from_reader(&text[..]).map(|again| canonical_json(&again));
        assert!(matches!(again, Ok(Ok(again)) if again == text), "a configuration reads back as another one");
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

/// A Dockerfile, its stages, and its words with a few variables. What is wrong is said in words.
pub fn dockerfile(bytes: &[u8]) {
    let file = match Dockerfile::parse("Dockerfile", bytes) {
        Ok(file) => file,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let (options, images) = (Options::default(), Images::new());
    let plan = Graph::resolve(&file, &options, &images)
        .and_then(|graph| Plan::new(&file, &graph, &options, &images, &OneFile));
    match plan {
        Ok(plan) => assert_eq!(plan.keys(&BTreeMap::new()), plan.keys(&BTreeMap::new())),
        Err(error) => drop(error.to_string()),
    }
    let values = [("A", "a b"), ("B", "/usr/lib.tar.gz")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let values = BTreeMap::from(values);
    let expander = Expander::new(&values, file.directives.escape);
    for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
        drop(expander.words(&instruction.text));
        if let Kind::OnBuild(trigger) = &instruction.kind {
            // a trigger may still be wrong in itself: it is read when it is used
            drop(Dockerfile::parse_trigger(trigger).map_err(|error| error.to_string()));
        }
    }
}

/// A context with one file, `a`.
struct OneFile;

impl Files for OneFile {
    fn look(&self, path: &[u8]) -> Result<Option<File>, FilesError> {
        let kind = match path {
            b"" => FileKind::Directory,
            b"a" => FileKind::Regular(1),
            _ => return Ok(None),
        };
        Ok(Some(File { stat: Stat::default(), kind }))
    }

    fn names(&self, _: &[u8]) -> Result<Vec<Vec<u8>>, FilesError> {
        Ok(vec![b"a".to_vec()])
    }

    fn open(&self, _: &[u8]) -> Result<Box<dyn Read + Send>, FilesError> {
        Ok(Box::new(&b"a"[..]))
    }
}

/// A `.dockerignore`: an excluded file is one whose folder could not have held an exception, or the exception decides.
pub fn dockerignore(bytes: &[u8]) {
    let Ok(ignore) = Ignore::parse(bytes) else { return };
    for path in ["a", "a/b/c.txt", "src/main.rs", "README.md", ".git/config"] {
        if let Some((folder, _)) = path.rsplit_once('/')
            && ignore.excludes(folder)
            && !ignore.excludes(path)
        {
            assert!(ignore.may_except_below(folder), "{path} is an exception that nobody would look for");
        }
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::{Target, disturb, replay};
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

    const SMALL: &[Target] = &[
        ("image_config", super::config),
        ("image_dockerfile", super::dockerfile),
        ("image_dockerignore", super::dockerignore),
        ("image_parts", super::parts),
    ];

    #[test]
    fn small_seeds_replay() {
        replay(SMALL);
    }

    #[test]
    fn noise_and_damaged_seeds_do_no_harm() {
        disturb(SMALL);
    }
}
