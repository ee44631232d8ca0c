//! What can be wrong with a build before anything is run.

use super::copy::CopyError;
use super::mode::{ChmodError, OwnerError};
use crate::dockerfile::{DockerfileError, ExpandError, Pointed};

/// A build that cannot be planned, with the place in the Dockerfile.
pub type BuildError = Pointed<BuildFault>;

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum BuildFault {
    /// Variables that cannot be resolved.
    #[error("cannot expand the variables in \"{word}\"")]
    Expand {
        /// The word.
        word: String,
        /// Why.
        #[source]
        source: ExpandError,
    },
    /// FROM with nothing left after expansion.
    #[error("FROM names no image: \"{base}\" is empty once its variables are replaced")]
    EmptyBase {
        /// What stands there.
        base: String,
    },
    /// An image's name that is none.
    #[error("\"{name}\" is neither an earlier stage nor an image's name")]
    ImageName {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: oci::reference::ReferenceError,
    },
    /// A platform that is none.
    #[error("\"{platform}\" is no platform")]
    Platform {
        /// The text.
        platform: String,
        /// Why.
        #[source]
        source: oci::platform::PlatformError,
    },
    /// A stage that uses itself.
    #[error("stage \"{stage}\" uses itself")]
    Cycle {
        /// Its name or number.
        stage: String,
    },
    /// A stage that comes later.
    #[error("stage \"{stage}\" comes later in the file; a stage can use those before it only")]
    Forward {
        /// Its name or number.
        stage: String,
    },
    /// A stage's number that does not exist.
    #[error("there is no stage {number}: the file has {count}, counted from 0")]
    StageNumber {
        /// The number.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// Variables where there can be none.
    #[error("\"{name}\" has a variable, and a stage's or image's name here cannot")]
    VariableInFrom {
        /// The name.
        name: String,
    },
    /// `--target` that is no stage.
    #[error("no stage is called \"{target}\"")]
    Target {
        /// The name.
        target: String,
    },
    /// A trigger of a base image that cannot be understood.
    #[error("the base image \"{image}\" has a trigger (ONBUILD) that cannot be understood: {trigger}")]
    Trigger {
        /// The image.
        image: String,
        /// The trigger.
        trigger: String,
        /// Why.
        #[source]
        source: Box<DockerfileError>,
    },
    /// An image that the plan needs and nobody gave.
    #[error("the image \"{name}\" is needed and is not there")]
    MissingImage {
        /// Its name.
        name: String,
    },
    /// Files that cannot be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// `--chmod` that is none.
    #[error(transparent)]
    Chmod(#[from] ChmodError),
    /// `--chown` that is none.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// Several sources and a destination that is no folder.
    #[error("several sources need a folder as their destination, and \"{destination}\" does not end with a slash")]
    DestinationNotFolder {
        /// The destination.
        destination: String,
    },
    /// `--checksum` that cannot be used.
    #[error("--checksum: {reason}")]
    Checksum {
        /// Why.
        reason: &'static str,
    },
    /// A value that makes no sense.
    #[error("\"{value}\" is no {what}")]
    Value {
        /// What it should be.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// An empty value.
    #[error("{what} is empty once its variables are replaced")]
    Empty {
        /// What.
        what: &'static str,
    },
    /// Too much.
    #[error("{what}: more than the limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
}
