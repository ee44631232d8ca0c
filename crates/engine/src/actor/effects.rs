//! Carrying out what was decided.

use super::{Actor, Answer, Attachment, Pending, after, reply};
use crate::decide::Effect;
use crate::error::{EngineError, ErrorClass};
use crate::helper::HelperError;
use crate::model::{ExecId, Phase};
use control::{ProcessId, Request};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How long a helper may take to end after it was let go; it then has nothing left to do but to exit.
const FAREWELL: Duration = Duration::from_secs(2);

impl Actor {
    pub(super) async fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Launch => self.launch().await,
            Effect::Signal(signal) => {
                self.request(&Request::Signal { signal, all: false }, &[], Pending::Ignored).await;
            }
            Effect::Freeze => self.request(&Request::Pause, &[], Pending::Freeze(None)).await,
            Effect::Thaw => self.request(&Request::Resume, &[], Pending::Thaw(None)).await,
            Effect::ArmGrace(ms) => self.grace_over = Some(after(ms)),
            Effect::ArmProbe(ms) => self.probe_due = Some(after(ms)),
            Effect::Probe => self.probe().await,
            Effect::ArmRestart(ms) => self.restart_due = Some(after(ms)),
            Effect::Dismiss => self.dismiss().await,
            Effect::Sweep => self.sweep(),
            Effect::Delete => self.delete().await,
            // stored and shown together with the record
            Effect::Emit(..) => {}
        }
    }

    /// Sends a request and notes what its reply belongs to; without a helper the caller learns so at once.
    pub(super) async fn request(&mut self, request: &Request, fds: &[BorrowedFd<'_>], pending: Pending) {
        let Some(helper) = &mut self.helper else {
            let state = EngineError::conflict(format!("container {} is not running", self.container.id));
            return refuse(pending, state);
        };
        match helper.send(request, fds).await {
            Ok(id) => {
                self.pending.insert(id, pending);
            }
            Err(error) => refuse(pending, unreachable_helper(&error)),
        }
    }

    pub(super) async fn on_attach(&mut self, attach: Attachment, answer: Answer<()>) {
        let event = self.event(&self.container, "attach", Vec::new());
        if let Err(error) = self.commit((*self.container).clone(), vec![event]) {
            return reply(answer, Err(error));
        }
        if self.helper.is_none() || !self.container.is_alive() {
            // kept until the start, which may be the first or another one
            if matches!(self.container.phase, Phase::Created | Phase::Exited) {
                self.attachments.push(attach);
            }
            return reply(answer, Ok(()));
        }
        self.send_attachment(attach, Pending::Plain(answer)).await;
    }

    pub(super) async fn send_attachment(&mut self, attach: Attachment, pending: Pending) {
        let request = Request::Attach {
            process: ProcessId::Init,
            streams: attach.streams,
            ahead: attach.ahead,
            detach_keys: attach.detach_keys,
        };
        self.request(&request, &[attach.connection.as_fd()], pending).await;
    }

    pub(super) async fn on_exec(
        &mut self,
        id: ExecId,
        exec: Box<control::Exec>,
        connection: Option<OwnedFd>,
        answer: Answer<()>,
    ) {
        let command = exec.process.args().clone().unwrap_or_default().join(" ");
        let words = vec![("execID", id.to_string())];
        let event = self.event(&self.container, &format!("exec_start: {command}"), words);
        if let Err(error) = self.commit((*self.container).clone(), vec![event]) {
            return reply(answer, Err(error));
        }
        let fds: Vec<BorrowedFd<'_>> = connection.iter().map(AsFd::as_fd).collect();
        self.request(&Request::Exec(exec), &fds, Pending::Exec(id, answer)).await;
    }

    /// Lets the helper end, and with it the run's sockets and files.
    async fn dismiss(&mut self) {
        self.grace_over = None;
        self.probe_due = None;
        self.probing = None;
        self.launching = None;
        self.attachments.clear();
        if let Some(mut helper) = self.helper.take()
            && helper.send(&Request::Quit, &[]).await.is_ok()
        {
            let farewell = async { while let Ok(Some(_)) = helper.next().await {} };
            if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
                tracing::warn!(container = %self.container.id, "the helper does not end");
            }
        }
        for (_, pending) in self.pending.drain() {
            refuse(pending, EngineError::conflict(format!("container {} has ended", self.container.id)));
        }
        self.layers = None;
        self.leave_networks();
        self.inner.end_execs(&self.container.id);
        self.inner.release_mounts(&self.container);
        let runtime = self.inner.config.paths(&self.container.id).runtime;
        remove_folder(&runtime);
    }

    /// A killed helper takes its container along (the kernel kills init with it); what remains is its cgroup.
    fn sweep(&mut self) {
        let path = self.inner.config.cgroup_of(&self.container);
        if let Err(error) = crate::sweep::cgroup(&self.inner.cgroups, &path) {
            tracing::warn!(container = %self.container.id, %error, "cannot remove the cgroup of a lost helper");
        }
    }

    async fn delete(&mut self) {
        let paths = self.inner.config.paths(&self.container.id);
        // as Docker: they go with a container that was made to go, else only if the removal says so
        let with_volumes = self.container.spec.auto_remove || self.container.remove_volumes;
        let volumes = if with_volumes { self.container.anonymous_volumes.clone() } else { Vec::new() };
        let folder = paths.dir.clone();
        let written = std::fs::read_dir(folder.join("upper")).is_ok_and(|mut entries| entries.next().is_some());
        let deleted = if written {
            // a writable layer can be large: not on a thread that others wait for
            tokio::task::spawn_blocking(move || crate::sweep::folder(&folder)).await
        } else {
            Ok(crate::sweep::folder(&folder))
        };
        if let Ok(Err(error)) = deleted {
            tracing::warn!(container = %self.container.id, %error, "cannot delete all files");
        }
        remove_folder(&paths.runtime);
        for volume in volumes {
            if let Err(error) = self.inner.remove_volume(&volume) {
                tracing::warn!(%volume, %error, "cannot remove an anonymous volume");
            }
        }
        let end = self.finished();
        let code = end.code;
        if self.container.spec.auto_remove {
            self.inner.remember_end(self.container.id.clone(), end);
        }
        let event = self.event(&self.container, "destroy", vec![("exitCode", code.to_string())]);
        if let Err(error) = self.inner.forget_container(&self.container, &event) {
            tracing::error!(container = %self.container.id, %error, "cannot remove the record");
        }
        self.inner.events.publish(event);
        self.gone = true;
        self.settle();
    }
}

fn remove_folder(folder: &std::path::Path) {
    if let Err(error) = crate::sweep::runtime_folder(folder) {
        tracing::warn!(folder = %folder.display(), %error, "cannot remove a runtime folder");
    }
}

pub(super) fn refuse(pending: Pending, error: EngineError) {
    match pending {
        Pending::Plain(answer)
        | Pending::Update(_, answer)
        | Pending::Exec(_, answer)
        | Pending::Checkpoint(_, answer) => reply(answer, Err(error)),
        Pending::Freeze(Some(answer)) | Pending::Thaw(Some(answer)) => reply(answer, Err(error)),
        Pending::Freeze(None) | Pending::Thaw(None) | Pending::Create | Pending::Start => {}
        Pending::Probe(_) | Pending::Ignored => {}
    }
}

pub(super) fn unreachable_helper(error: &HelperError) -> EngineError {
    EngineError::because(ErrorClass::Unavailable, "the container's helper process does not answer", error)
}
