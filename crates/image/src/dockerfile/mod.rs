//! Dockerfiles: from bytes to instructions, each with its place in the file.
//!
//! ```text
//! bytes -> Source (lines) -> Logical (continuation lines joined, here-documents taken) -> Instruction -> Dockerfile
//! ```
//!
//! Variables are not replaced here: what they are depends on the image that a stage begins with. That, stages and what is
//! to be done belong to [`crate::build`]. [`Expander`] is the one place that knows quotes and `${…}`.
//!
//! Nothing here panics on any bytes, and [`limits`] bounds what a file may have.
//!
//! # Source
//! Docker's Dockerfile reference for the syntax 1.x without the `-labs` channel, with `--parents` and `--exclude`.

mod ast;
mod check;
pub(crate) mod duration;
pub(crate) mod error;
mod expand;
mod fault;
pub(crate) mod glob;
mod instruction;
pub mod limits;
mod lines;
mod mount;
#[cfg(test)]
mod tests;
mod words;

pub use ast::{
    Argument, Command, Dockerfile, GitDir, Global, Healthcheck, Instruction, Kind, Link, NetworkMode, Parents, Run,
    SecurityMode, Stage, Transfer, TransferSource, Unpack,
};
pub use check::{Check, Remark, Settings};
pub use error::{Place, Pointed, Span};
pub use expand::{EXPANSION_MAX, ExpandError, Expander, Quotes, Variables};
pub use fault::{DockerfileError, Fault};
pub use glob::GlobError;
pub use lines::{Directives, Expansion, Heredoc, Tabs};
pub use mount::{Access, Mount, MountOwner, Presence, Sharing};

use instruction::Parsed;
use lines::Source;

impl Dockerfile {
    /// Reads a Dockerfile; `name` is what messages call it.
    ///
    /// # Errors
    /// [`DockerfileError`]: the first thing that is wrong, with its place.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, DockerfileError> {
        let source = Source::new(name, bytes)?;
        let (directives, skip) = source.directives()?;
        let (mut globals, mut stages): (Vec<Global>, Vec<Stage>) = (Vec::new(), Vec::new());
        for logical in source.logical(skip, directives.escape)? {
            let (keyword, parsed, instruction) = instruction::parse(&source, &logical, directives.escape)?;
            match (parsed, stages.last_mut()) {
                (Parsed::From { base, name, platform }, _) => {
                    if stages.len() >= limits::STAGES {
                        let fault = Fault::Limit { what: "stages of the file", limit: limits::STAGES };
                        return Err(source.error(instruction.span, fault));
                    }
                    stages.push(Stage { base, name, platform, span: instruction.span, instructions: Vec::new() });
                }
                (Parsed::Kind(_), Some(stage)) => stage.instructions.push(instruction),
                (Parsed::Kind(Kind::Arg(names)), None) => globals.push(Global { names, span: instruction.span }),
                (Parsed::Kind(_), None) => {
                    let mut error = source.error(instruction.span, Fault::NoStage { instruction: keyword });
                    error.hint = Some("begin with FROM, for example: FROM scratch".to_owned());
                    return Err(error);
                }
            }
        }
        if stages.is_empty() {
            let span = globals.last().map_or(Span { line: 1, column: 1, width: 1, last_line: 1 }, |global| global.span);
            let mut error = source.error(span, if globals.is_empty() { Fault::Empty } else { Fault::NoFrom });
            error.hint = Some("begin with FROM, for example: FROM scratch".to_owned());
            return Err(error);
        }
        Ok(Self { directives, globals, stages, source })
    }

    /// Reads the one instruction of an ONBUILD trigger, as an image's configuration keeps it.
    ///
    /// # Errors
    /// [`DockerfileError`], also for anything but one instruction, and for what cannot be a trigger.
    pub fn parse_trigger(text: &str) -> Result<Instruction, DockerfileError> {
        let source = Source::new("ONBUILD", text.as_bytes())?;
        let first = Span { line: 1, column: 1, width: 1, last_line: 1 };
        let lines = source.logical(0, '\\')?;
        let [logical] = &lines[..] else { return Err(source.error(first, Fault::Empty)) };
        let (keyword, parsed, instruction) = instruction::parse(&source, logical, '\\')?;
        match parsed {
            Parsed::From { .. } | Parsed::Kind(Kind::OnBuild(_) | Kind::Maintainer(_)) => {
                Err(source.error(first, Fault::Trigger { instruction: keyword }))
            }
            Parsed::Kind(_) => Ok(instruction),
        }
    }
}
