//! What a Dockerfile says, before variables are replaced.

use std::time::Duration;

use super::error::{Place, Span};
use super::lines::{Directives, Heredoc, Source};
use super::mount::Mount;

/// A whole file.
#[derive(Debug, Clone)]
pub struct Dockerfile {
    /// The directives at its top.
    pub directives: Directives,
    /// The ARGs in front of the first FROM.
    pub globals: Vec<Global>,
    /// The stages, one at least.
    pub stages: Vec<Stage>,
    pub(crate) source: Source,
}

impl Dockerfile {
    /// The place of something in this file, for messages.
    #[must_use]
    pub fn place(&self, span: Span) -> Place {
        self.source.place(span)
    }

    /// How many lines there are.
    #[must_use]
    pub fn lines(&self) -> u32 {
        self.source.count()
    }

    /// The place of a word in an instruction; the whole instruction if it is not there as it is.
    #[must_use]
    pub fn place_of(&self, span: Span, word: &str) -> Place {
        self.source.place(self.source.find(span, word).unwrap_or(span))
    }
}

/// An ARG in front of the first FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// Its names.
    pub names: Vec<Argument>,
    /// Where it stands.
    pub span: Span,
}

/// A stage: FROM and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The image or stage that it begins with, before expansion.
    pub base: String,
    /// Its name, in lower case.
    pub name: Option<String>,
    /// `--platform`, before expansion.
    pub platform: Option<String>,
    /// Where its FROM stands.
    pub span: Span,
    /// Its instructions.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Where it stands.
    pub span: Span,
    /// It and its arguments on one line, as the file has them.
    pub text: String,
    /// What it is.
    pub kind: Kind,
}

/// What an instruction is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// ADD.
    Add(Transfer),
    /// ARG inside of a stage.
    Arg(Vec<Argument>),
    /// CMD.
    Cmd(Command),
    /// COPY.
    Copy(Transfer),
    /// ENTRYPOINT.
    Entrypoint(Command),
    /// ENV.
    Env(Vec<(String, String)>),
    /// EXPOSE, by words.
    Expose(Vec<String>),
    /// HEALTHCHECK.
    Healthcheck(Healthcheck),
    /// LABEL.
    Label(Vec<(String, String)>),
    /// MAINTAINER.
    Maintainer(String),
    /// ONBUILD with the instruction that it keeps for later, here-documents included.
    OnBuild(String),
    /// RUN.
    Run(Run),
    /// SHELL.
    Shell(Vec<String>),
    /// STOPSIGNAL.
    StopSignal(String),
    /// USER.
    User(String),
    /// VOLUME.
    Volume(Vec<String>),
    /// WORKDIR.
    Workdir(String),
}

/// A name of ARG with its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The name.
    pub name: String,
    /// What it is unless somebody says otherwise.
    pub default: Option<String>,
}

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The program and its arguments.
    Exec(Vec<String>),
    /// A line for the shell.
    Shell(String),
}

/// What ADD and COPY have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transfer {
    /// What is copied.
    pub sources: Vec<TransferSource>,
    /// Where it goes.
    pub destination: String,
    /// COPY: from which stage or image.
    pub from: Option<String>,
    /// The owner.
    pub chown: Option<String>,
    /// The permissions.
    pub chmod: Option<String>,
    /// Whether the layer is independent of what is below it.
    pub link: Link,
    /// Whether the sources' parent directories are kept.
    pub parents: Parents,
    /// What is left out.
    pub exclude: Vec<String>,
    /// ADD: whether `.git` of a repository stays.
    pub keep_git_dir: GitDir,
    /// ADD: what the remote file's digest must be.
    pub checksum: Option<String>,
    /// ADD: whether archives are unpacked; unless somebody says, local ones are and remote ones are not.
    pub unpack: Option<Unpack>,
}

/// One source of ADD or COPY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferSource {
    /// A path or pattern or, for ADD, an address.
    Path(String),
    /// A file whose contents stand in the Dockerfile.
    Inline(Heredoc),
}

/// `--link`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Link {
    /// The files go into the tree below, through its symbolic links.
    #[default]
    No,
    /// The files make a layer of their own.
    Yes,
}

/// `--parents`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Parents {
    /// A source's last name counts.
    #[default]
    Drop,
    /// Its whole path counts, or what stands behind `/./`.
    Keep,
}

/// `--keep-git-dir`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum GitDir {
    /// `.git` is left out.
    #[default]
    Drop,
    /// `.git` is copied too.
    Keep,
}

/// `--unpack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unpack {
    /// Archives are unpacked.
    Yes,
    /// They are copied as they are.
    No,
}

/// What RUN has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What is run.
    pub command: Command,
    /// Its here-documents.
    pub heredocs: Vec<Heredoc>,
    /// What is mounted meanwhile.
    pub mounts: Vec<Mount>,
    /// Its network.
    pub network: NetworkMode,
    /// Its rights.
    pub security: SecurityMode,
}

/// `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum NetworkMode {
    /// What the build has.
    #[default]
    Default,
    /// The host's.
    Host,
    /// Only the loopback.
    None,
}

/// `--security`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum SecurityMode {
    /// All rights.
    Insecure,
    /// What containers have.
    #[default]
    Sandbox,
}

/// What HEALTHCHECK says; what is `None` is left to whoever runs the image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", line]`.
    pub test: Vec<String>,
    /// `--interval`.
    pub interval: Option<Duration>,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--start-period`.
    pub start_period: Option<Duration>,
    /// `--start-interval`.
    pub start_interval: Option<Duration>,
    /// `--retries`.
    pub retries: Option<u32>,
}
