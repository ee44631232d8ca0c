//! A process that is killed at one of its calls.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Pid;

/// Attaches strace to all threads of a process, which is killed when one of them makes its `nth` call of a kind, counted from
/// 1 and from now. The tracer ends with the process; whoever asked waits for both.
///
/// # Panics
/// When there is no strace, or it does not attach itself.
#[must_use]
pub fn kill_at(pid: Pid, call: &str, nth: usize) -> Child {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.as_raw_nonzero().to_string()]);
    command.arg(format!("--trace={call}")).arg(format!("--inject={call}:signal=SIGKILL:when={nth}"));
    let mut tracer = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace can be started");
    let folder = PathBuf::from(format!("/proc/{}/task", pid.as_raw_nonzero()));
    let status = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("status")).unwrap_or_default();
    let attached = || {
        // A call may have come at once.
        let ended = tracer.try_wait().is_ok_and(|status| status.is_some());
        let mut threads = fs::read_dir(&folder).into_iter().flatten().flatten().map(status);
        (ended || threads.all(|text| !text.contains("TracerPid:\t0\n"))).then_some(())
    };
    assert!(crate::wait_for(Duration::from_secs(10), attached).is_some(), "strace does not attach itself");
    tracer
}
