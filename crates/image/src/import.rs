//! How an archive becomes a layer in a temporary folder and a configuration.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use oci_spec::image::{Config, HistoryBuilder, ImageConfiguration, ImageConfigurationBuilder, RootFsBuilder};
use serde::{Deserialize, Serialize};

use crate::directory;
use crate::erofs;
use crate::error::ImageError;
use crate::layer::{self, LayerError, Rules};
use crate::model::{ImportOptions, LayerId};
use crate::pipeline;
use crate::recipe;

/// How a layer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerFormat {
    /// One EROFS file.
    Erofs,
    /// A plain directory.
    Directory,
}

impl LayerFormat {
    /// The file or folder of this format in a layer's folder.
    pub(crate) fn file_name(self) -> &'static str {
        match self {
            Self::Erofs => "layer.erofs",
            Self::Directory => "root",
        }
    }
}

/// The file `layer.json` beside a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// The digest of the uncompressed archive.
    pub(crate) diff_id: LayerId,
    /// How it is kept.
    pub(crate) format: LayerFormat,
    /// What it takes on disk.
    pub(crate) size: u64,
    /// The digest of the EROFS file rotated by one block: second block to end, then the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rotated_sha256: Option<oci::digest::Digest>,
    /// The UUID in the superblock, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uuid: Option<String>,
    /// How long its archive is.
    #[serde(default)]
    pub(crate) archive_size: u64,
    /// How long the recipe is that the archive comes back by; 0 for a layer that has none.
    #[serde(default)]
    pub(crate) recipe_size: u64,
}

/// Turns the archive into a layer below `folder`.
pub(crate) fn build_layer(
    reader: impl Read + Send,
    folder: &Path,
    format: LayerFormat,
    rules: Rules,
) -> Result<LayerRecord, ImageError> {
    let path = folder.join(format.file_name());
    let recipe_path = folder.join(recipe::FILE_NAME);
    let recipe = File::create_new(&recipe_path).map_err(ImageError::file("create", &recipe_path))?;
    let tape = |recipe| recipe::Tape::new(recipe).map_err(LayerError::Recipe);
    let (record, recipe) = match format {
        LayerFormat::Erofs => {
            let file = File::create_new(&path).map_err(ImageError::file("create", &path))?;
            let (((finished, file), (archive_size, recipe)), source) = pipeline::run(reader, rules.limits, |pieces| {
                let mut writer = erofs::Writer::new(file)?;
                let applied = layer::apply(pieces, rules, &mut writer, tape(recipe)?)?;
                Ok((writer.finish()?, applied))
            })?;
            file.sync_data().map_err(ImageError::file("write to disk", &path))?;
            let record = LayerRecord {
                diff_id: LayerId(source.digest),
                format,
                size: finished.size,
                rotated_sha256: Some(finished.digest),
                uuid: Some(hex::encode(finished.uuid)),
                archive_size,
                recipe_size: 0,
            };
            (record, recipe)
        }
        LayerFormat::Directory => {
            let ((size, (archive_size, recipe)), source) = pipeline::run(reader, rules.limits, |pieces| {
                let mut writer = directory::Writer::create(&path).map_err(LayerError::from)?;
                let applied = layer::apply(pieces, rules, &mut writer, tape(recipe)?)?;
                Ok((writer.finish().map_err(LayerError::from)?, applied))
            })?;
            let (diff_id, rotated_sha256, uuid) = (LayerId(source.digest), None, None);
            (LayerRecord { diff_id, format, size, rotated_sha256, uuid, archive_size, recipe_size: 0 }, recipe)
        }
    };
    let length = recipe.sync_data().and_then(|()| recipe.metadata());
    let recipe_size = length.map_err(ImageError::file("write to disk", &recipe_path))?.len();
    Ok(LayerRecord { recipe_size, ..record })
}

/// The configuration of an image with one layer.
pub(crate) fn configuration(
    layer: &LayerId,
    options: &ImportOptions,
    created: SystemTime,
) -> Result<ImageConfiguration, ImageError> {
    let created = rfc3339(created);
    let config: Config = options.changes.over(None);
    let history = HistoryBuilder::default()
        .created(created.clone())
        .created_by("insula image import")
        .comment(options.message.clone().unwrap_or_else(|| "imported from an archive".to_owned()))
        .build()
        .map_err(ImageError::Config)?;
    let rootfs = RootFsBuilder::default()
        .typ("layers".to_owned())
        .diff_ids(vec![layer.to_string()])
        .build()
        .map_err(ImageError::Config)?;
    ImageConfigurationBuilder::default()
        .created(created)
        .architecture(options.platform.architecture.as_str())
        .os(options.platform.os.as_str())
        .config(config)
        .rootfs(rootfs)
        .history(vec![history])
        .build()
        .map_err(ImageError::Config)
}

/// The text form that image configurations use, with as many digits of the second as there are.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "1970-01-01T00:00:00Z".to_owned(), |stamp| stamp.to_string())
}

/// The reverse; what cannot be read is the start of 1970.
pub(crate) fn parse_rfc3339(text: Option<&str>) -> SystemTime {
    text.and_then(|text| text.parse::<jiff::Timestamp>().ok()).map_or(SystemTime::UNIX_EPOCH, SystemTime::from)
}
