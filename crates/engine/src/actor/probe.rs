//! Probes of a container's health: execs whose output is kept.

use super::{Actor, Pending};
use crate::decide::Input;
use crate::error::{EngineError, Result};
use crate::health::{self, EXEC_PREFIX};
use crate::model::{ExecSpec, Probe};
use control::{ExecAttach, Framing, ProcessId, Request, Streams};
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a probe's last output may take to come after word of its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A probe that runs.
#[derive(Debug)]
pub(super) struct Probing {
    id: String,
    started_ns: u64,
    output: JoinHandle<String>,
    /// When it has taken too long; `None` once it was killed for that.
    pub(super) limit: Option<Instant>,
    /// It was killed for taking too long, which was so many nanoseconds.
    late_ns: Option<u64>,
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.output.abort();
    }
}

impl Actor {
    /// Runs the health check's command.
    pub(super) async fn probe(&mut self) {
        if self.probing.is_some() {
            return;
        }
        let started_ns = crate::clock::now_ns();
        if let Err(error) = self.try_probe(started_ns).await {
            self.judge(started_ns, -1, error.to_string()).await;
        }
    }

    async fn try_probe(&mut self, started_ns: u64) -> Result<()> {
        let container = &self.container;
        let Some(check) = &container.spec.health else { return Ok(()) };
        let Some(args) = health::command(check) else { return Ok(()) };
        let timeout = Duration::from_nanos(health::timeout_ns(check));
        let spec = ExecSpec { args, attach_stdout: true, attach_stderr: true, ..ExecSpec::default() };
        let cannot = |error: &dyn std::error::Error| EngineError::internal("cannot begin a health check", error);
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| cannot(&error))?;
        let id = format!("{EXEC_PREFIX}{:016x}", u64::from_ne_bytes(random));
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(|error| cannot(&error))?;
        ours.set_nonblocking(true).map_err(|error| cannot(&error))?;
        let ours = UnixStream::from_std(ours).map_err(|error| cannot(&error))?;
        let exec = control::Exec {
            id: id.clone(),
            process: self.inner.exec_process(container, &spec)?,
            seccomp: self.inner.seccomp(container)?,
            open_stdin: false,
            attach: Some(ExecAttach {
                streams: Streams { stdin: false, stdout: true, stderr: true },
                ahead: Vec::new(),
                detach_keys: Vec::new(),
                framing: Framing::Multiplexed,
            }),
        };
        let output = tokio::spawn(health::gather(ours));
        let limit = Some(Instant::now() + timeout);
        self.probing = Some(Probing { id: id.clone(), started_ns, output, limit, late_ns: None });
        self.request(&Request::Exec(Box::new(exec)), &[theirs.as_fd()], Pending::Probe(id)).await;
        Ok(())
    }

    /// Kills a probe that has taken too long; word of its end follows.
    pub(super) async fn end_late_probe(&mut self, now: Instant) {
        let Some(probing) = self.probing.as_mut().filter(|probing| probing.limit.is_some_and(|limit| limit <= now))
        else {
            return;
        };
        probing.limit = None;
        probing.late_ns = self.container.spec.health.as_ref().map(health::timeout_ns);
        let process = ProcessId::Exec(probing.id.clone());
        self.request(&Request::Kill { process }, &[], Pending::Ignored).await;
    }

    /// A probe's process has ended.
    pub(super) async fn probe_ended(&mut self, id: &str, code: i32) {
        // one of a daemon before us has no say any more
        let Some(mut probing) = self.probing.take_if(|probing| probing.id == id) else { return };
        let output = tokio::time::timeout(LAST_WORDS, &mut probing.output).await;
        let output = output.ok().and_then(std::result::Result::ok).unwrap_or_default();
        let (code, output) = match probing.late_ns {
            None => (code, output),
            Some(late) => {
                let words = format!("Health check exceeded timeout ({})", span(late));
                (-1, if output.is_empty() { words } else { format!("{words}: {output}") })
            }
        };
        self.judge(probing.started_ns, code, output).await;
    }

    /// A probe's program could not be run.
    pub(super) async fn probe_failed(&mut self, id: &str, why: &str) {
        if let Some(probing) = self.probing.take_if(|probing| probing.id == id) {
            self.judge(probing.started_ns, -1, why.to_owned()).await;
        }
    }

    async fn judge(&mut self, started_ns: u64, code: i32, output: String) {
        let probe = Probe { started_ns, ended_ns: crate::clock::now_ns(), code, output };
        self.feed_quietly(Input::Probed(probe)).await;
    }

    /// After a daemon restart: ends the probes that the last one began, and goes on with our own.
    pub(super) async fn resume_probes(&mut self, execs: &[(String, i32)]) {
        for (id, _) in execs.iter().filter(|(id, _)| id.starts_with(EXEC_PREFIX)) {
            let process = ProcessId::Exec(id.clone());
            self.request(&Request::Kill { process }, &[], Pending::Ignored).await;
        }
        if self.probe_due.is_none() {
            let next = health::next_ms(&self.container, crate::clock::now_ns());
            self.probe_due = next.map(super::after);
        }
    }
}

/// A span as Go's clients word it: `1s`, `1.5s`, `250ms`, `1m30s`.
fn span(ns: u64) -> String {
    let (seconds, rest) = (ns / 1_000_000_000, ns % 1_000_000_000);
    if seconds == 0 {
        return format!("{}ms", trimmed(ns / 1_000_000, ns % 1_000_000, 6));
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let mut text = String::new();
    if hours > 0 {
        text = format!("{hours}h");
    }
    if seconds >= 60 {
        text.push_str(&format!("{minutes}m"));
    }
    text.push_str(&trimmed(seconds % 60, rest, 9));
    text.push('s');
    text
}

/// A decimal number without zeros at its end.
fn trimmed(whole: u64, fraction: u64, digits: usize) -> String {
    let text = format!("{whole}.{fraction:0digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn spans_are_worded_as_go_does() {
        let check = |ns: u64, expect: &str| assert_eq!(super::span(ns), expect);
        check(1_000_000_000, "1s");
        check(1_500_000_000, "1.5s");
        check(250_000_000, "250ms");
        check(1_500_000, "1.5ms");
        check(90_000_000_000, "1m30s");
        check(3_600_000_000_000, "1h0m0s");
    }
}
