//! What can go wrong with control groups.

use std::path::PathBuf;

use sys::SysError;

/// A control group operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The table of mounts could not be read.
    #[error("cannot read the mount table {}", path.display())]
    Mounts {
        /// The table's file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No control group file system is mounted.
    #[error("no control group file system is mounted; mount one, for example: mount -t cgroup2 none /sys/fs/cgroup")]
    NotMounted,
    /// A group path that could leave the hierarchy or names none.
    #[error("invalid control group path {path:?}: it must be absolute and have no empty, \".\" or \"..\" parts")]
    BadPath {
        /// The path as given.
        path: String,
    },
    /// A group directory could not be made.
    #[error("cannot make the control group {}", dir.display())]
    Make {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: SysError,
    },
    /// A group directory could not be removed.
    #[error("cannot remove the control group {}", dir.display())]
    Remove {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: SysError,
    },
    /// The group exists and has processes, so it belongs to somebody else.
    #[error("the control group {} is in use by process {pid}; stop it or choose another name", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// One of its processes.
        pid: i32,
    },
    /// The group exists and has processes; in runc's words.
    #[error("container's cgroup is not empty: {count} process(es) found in {}", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// How many processes it has.
        count: usize,
    },
    /// A version 2 setting on a host with version 1.
    #[error(
        "invalid configuration: cannot use unified on cgroup v1: this host's controllers are in version 1 hierarchies; leave linux.resources.unified out"
    )]
    NoUnified,
    /// A limit that is below what is in use, and that was not to be set then.
    #[error("rejecting {what} limit {limit} <= usage {used}, as checkBeforeUpdate asks")]
    BelowUsage {
        /// Memory, or memory and swap.
        what: &'static str,
        /// The limit asked for, in bytes.
        limit: u64,
        /// What is in use, in bytes.
        used: u64,
    },
    /// A value that the kernel replaced by the nearest that it takes.
    #[error("the kernel made {shown:?} of {value:?} in {}; ask for a value in its range", file.display())]
    Clamped {
        /// The file.
        file: PathBuf,
        /// The value that was asked for.
        value: String,
        /// The value that it has now.
        shown: String,
    },
    /// Something asked for that the kernel of this host can't do.
    #[error("{lack}; leave that setting out, or use a kernel that has it")]
    Lacking {
        /// What it lacks.
        lack: &'static str,
    },
    /// A value of the configuration that can't be right.
    #[error("invalid {what} {value:?}: {reason}")]
    BadValue {
        /// Which value.
        what: &'static str,
        /// As given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A group that was there before, in which nothing can run.
    #[error("container's cgroup unexpectedly frozen: {}; thaw it: echo THAWED > {}/freezer.state", dir.display(), dir.display())]
    Frozen {
        /// Its folder.
        dir: PathBuf,
    },
    /// A group that does not exist.
    #[error("no control group {path} here")]
    NotFound {
        /// The group's path inside the hierarchies.
        path: String,
    },
    /// The kernel refused a value.
    #[error("cannot write {value:?} to {}{hint}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The value.
        value: String,
        /// What the errno usually means here; empty or starting with a separator.
        hint: &'static str,
        /// Why.
        source: SysError,
    },
    /// A file of the group could not be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: SysError,
    },
    /// A file of the group said something that is not what the kernel documents.
    #[error("cannot understand {} in {}", text, file.display())]
    Parse {
        /// The file.
        file: PathBuf,
        /// The part that made no sense.
        text: String,
    },
    /// A resource that this host's control groups can't limit.
    #[error("this host's control groups cannot limit {what}: the controller {controller} is not available; {advice}")]
    Unsupported {
        /// The resource.
        what: &'static str,
        /// The controller that would do it.
        controller: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A device rule that makes no sense.
    #[error("invalid device rule {rule:?}: {reason}")]
    DeviceRule {
        /// The rule.
        rule: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The device filter could not be loaded or attached.
    #[error("cannot install the device filter of {}", dir.display())]
    DeviceFilter {
        /// The group.
        dir: PathBuf,
        /// Why.
        source: SysError,
    },
    /// The group did not reach the frozen or thawed state in time.
    #[error("the control group {} did not become {state} within {timeout_ms} ms", dir.display())]
    StateTimeout {
        /// The group.
        dir: PathBuf,
        /// The state asked for.
        state: &'static str,
        /// How long was waited.
        timeout_ms: u64,
    },
    /// A process could not be signalled.
    #[error("cannot send signal {signal} to process {pid} of the control group")]
    Signal {
        /// The process.
        pid: i32,
        /// The signal.
        signal: i32,
        /// Why.
        source: SysError,
    },
}

/// The result of a control group operation.
pub type Result<T> = std::result::Result<T, CgroupError>;
