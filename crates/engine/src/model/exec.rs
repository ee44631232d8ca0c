//! Further processes in a running container.

use super::{ContainerId, ExecId};

/// A process to run beside a container's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecSpec {
    /// Program and arguments; not empty.
    pub args: Vec<String>,
    /// `KEY=value`, on top of the container's.
    pub env: Vec<String>,
    /// Working folder; the container's if none.
    pub working_dir: Option<String>,
    /// `user[:group]`; the container's if none.
    pub user: Option<String>,
    /// It has a terminal.
    pub tty: bool,
    /// The terminal's first size, rows and columns.
    pub console_size: Option<(u16, u16)>,
    /// The client gives it input.
    pub attach_stdin: bool,
    /// The client wants its standard output.
    pub attach_stdout: bool,
    /// The client wants its standard error.
    pub attach_stderr: bool,
    /// All capabilities and no seccomp.
    pub privileged: bool,
    /// Key sequence that detaches, as Docker writes it: `ctrl-p,ctrl-q`.
    pub detach_keys: Option<String>,
}

/// An exec and how it went. Execs live as long as the daemon does and their container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Its id.
    pub id: ExecId,
    /// Its container.
    pub container: ContainerId,
    /// What was asked for.
    pub spec: ExecSpec,
    /// Where it is.
    pub state: ExecState,
}

/// Where an exec is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecState {
    /// Not started.
    Created,
    /// The helper has been asked to start it; its answer may come after the first output.
    Starting,
    /// Runs.
    Running {
        /// Process id on the host.
        pid: i32,
    },
    /// Has ended.
    Exited {
        /// Exit code; 126 and 127 where it could not be run.
        code: i32,
    },
}
