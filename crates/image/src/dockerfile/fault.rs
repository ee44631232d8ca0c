//! What can be wrong with a Dockerfile's text.

use super::error::Pointed;
use super::expand::ExpandError;

/// A Dockerfile that cannot be understood, with the place.
pub type DockerfileError = Pointed<Fault>;

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// More of something than is allowed.
    #[error("{what}: more than the limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
    /// Bytes that are no UTF-8 outside of a comment.
    #[error("the line has bytes that are no UTF-8")]
    NotText,
    /// No instruction in the whole file.
    #[error("file with no instructions")]
    Empty,
    /// A directive stands there twice.
    #[error("the directive \"{name}\" stands there a second time")]
    DirectiveTwice {
        /// Its name.
        name: String,
    },
    /// `escape` has another value than the two that there are.
    #[error("the escape character \"{value}\" is neither \\ nor `")]
    Escape {
        /// The value.
        value: String,
    },
    /// A here-document without its end.
    #[error("the here-document \"{name}\" has no end")]
    HeredocOpen {
        /// Its delimiter.
        name: String,
    },
    /// A first word that is no instruction.
    #[error("unknown instruction \"{word}\"")]
    UnknownInstruction {
        /// The word.
        word: String,
    },
    /// An instruction before the first FROM.
    #[error("{instruction} stands before the first FROM")]
    NoStage {
        /// The instruction.
        instruction: &'static str,
    },
    /// No FROM at all.
    #[error("the file has no FROM")]
    NoFrom,
    /// An instruction with too few or too many arguments.
    #[error("{instruction} needs {expected}")]
    Arguments {
        /// The instruction.
        instruction: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// A flag that the instruction does not have.
    #[error("{instruction} has no flag --{flag}")]
    UnknownFlag {
        /// The instruction.
        instruction: &'static str,
        /// The flag.
        flag: String,
    },
    /// A flag that may stand there only once.
    #[error("the flag --{flag} stands there twice")]
    FlagTwice {
        /// The flag.
        flag: String,
    },
    /// A flag with a value that makes no sense.
    #[error("\"{value}\" is no value of --{flag}: {expected}")]
    FlagValue {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What it takes.
        expected: String,
    },
    /// A JSON list with something other than texts.
    #[error("a list in JSON form has texts only")]
    NotTexts,
    /// A word of ENV or LABEL without an equals sign.
    #[error("\"{word}\" is not of the form NAME=value")]
    NoEquals {
        /// The word.
        word: String,
    },
    /// A name that is empty.
    #[error("a name must not be empty")]
    EmptyName,
    /// A stage's name that is none.
    #[error("\"{name}\" is no name for a stage")]
    StageName {
        /// The name.
        name: String,
    },
    /// An instruction that cannot be a trigger.
    #[error("{instruction} cannot be a trigger of ONBUILD")]
    Trigger {
        /// The instruction.
        instruction: &'static str,
    },
    /// An option of `--mount` that is unknown, or does not belong to the mount's type.
    #[error("a mount of type {kind} has no option \"{option}\"")]
    MountOption {
        /// The type.
        kind: &'static str,
        /// The option.
        option: String,
    },
    /// Here-documents that cannot be used like this.
    #[error("here-documents cannot be used in {place}")]
    HeredocPlace {
        /// Where.
        place: &'static str,
    },
    /// Variables that cannot be resolved.
    #[error("cannot expand the variables in \"{word}\"")]
    Expand {
        /// The word.
        word: String,
        /// Why.
        #[source]
        source: ExpandError,
    },
}
