//! What the helper says.

use super::{Actor, Pending, effects, reply};
use crate::decide::Input;
use crate::error::{EngineError, ErrorClass};
use crate::health::EXEC_PREFIX;
use crate::helper::HelperError;
use crate::model::ExecState;
use control::{Event, Failure, FailureKind, Frame, Message, ProcessId, Reply};

impl Actor {
    pub(super) async fn on_message(&mut self, message: Result<Option<Frame<Message>>, HelperError>) {
        match message {
            Ok(Some(Frame { id, body: Message::Reply(answer), .. })) => self.on_reply(id, answer).await,
            Ok(Some(Frame { body: Message::Event(event), .. })) => self.on_event(event).await,
            Ok(None) => self.on_helper_gone().await,
            Err(error) => {
                tracing::warn!(container = %self.container.id, %error, "lost the helper");
                self.on_helper_gone().await;
            }
        }
    }

    async fn on_helper_gone(&mut self) {
        self.helper = None;
        // it may have ended properly with only the last message lost
        let input = match self.recorded_exit() {
            Some(exit) if self.container.runtime.is_some() => Input::Ended(exit),
            _ => Input::HelperGone,
        };
        self.feed_quietly(input).await;
        self.tell_starters();
    }

    /// The exit that the helper wrote down, if it belongs to the present run.
    pub(super) fn recorded_exit(&self) -> Option<control::Exit> {
        let text = std::fs::read(self.inner.config.paths(&self.container.id).exit).ok()?;
        serde_json::from_slice(&text).ok()
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::Exited { process: ProcessId::Init, exit } => {
                self.feed_quietly(Input::Ended(exit)).await;
                self.tell_starters();
            }
            Event::Exited { process: ProcessId::Exec(id), exit } if id.starts_with(EXEC_PREFIX) => {
                self.probe_ended(&id, exit.code).await;
            }
            Event::Exited { process: ProcessId::Exec(id), exit } => {
                self.inner.set_exec(&id, ExecState::Exited { code: exit.code });
                let words = vec![("execID", id), ("exitCode", exit.code.to_string())];
                self.tell("exec_die", words);
            }
            Event::OomKilled => self.tell("oom", Vec::new()),
        }
    }

    fn tell(&mut self, action: &str, words: Vec<(&str, String)>) {
        let event = self.event(&self.container, action, words);
        if let Err(error) = self.commit((*self.container).clone(), vec![event]) {
            tracing::error!(container = %self.container.id, %error, "cannot store an event");
        }
    }

    async fn on_reply(&mut self, id: u64, answer: Reply) {
        let Some(pending) = self.pending.remove(&id) else { return };
        if let Reply::Failed(failure) = answer {
            return self.on_failure(pending, failure).await;
        }
        match (pending, answer) {
            (Pending::Create, Reply::Created(created)) => self.on_created(created).await,
            (Pending::Start, Reply::Started { pid }) => {
                let runtime = self.launching.take().map(|launching| launching.runtime(pid));
                if let Some(runtime) = runtime {
                    self.feed_quietly(Input::Launched(runtime)).await;
                    self.own_resolver(pid);
                }
                self.tell_starters();
            }
            (Pending::Freeze(waiting), _) => {
                self.feed_quietly(Input::Frozen).await;
                waiting.into_iter().for_each(|answer| reply(answer, Ok(())));
            }
            (Pending::Thaw(waiting), _) => {
                self.feed_quietly(Input::Thawed).await;
                waiting.into_iter().for_each(|answer| reply(answer, Ok(())));
            }
            (Pending::Plain(answer), _) => reply(answer, Ok(())),
            (Pending::Update(change, answer), _) => {
                let done = self.updated(*change);
                reply(answer, done);
            }
            (Pending::Checkpoint(name, answer), _) => {
                self.tell("checkpoint", vec![("checkpoint", name)]);
                reply(answer, Ok(()));
            }
            (Pending::Exec(exec, answer), Reply::Started { pid }) => {
                self.inner.set_exec(exec.as_str(), ExecState::Running { pid });
                reply(answer, Ok(()));
            }
            _ => {}
        }
    }

    async fn on_failure(&mut self, pending: Pending, failure: Failure) {
        match pending {
            Pending::Create | Pending::Start => {
                if self.launching.take().is_some() {
                    let (code, error) = start_failure(&failure);
                    self.feed_quietly(Input::LaunchFailed { code, error }).await;
                    self.tell_starters();
                }
            }
            Pending::Exec(exec, answer) => {
                let (code, error) = start_failure(&failure);
                self.inner.set_exec(exec.as_str(), ExecState::Exited { code });
                reply(answer, Err(EngineError::new(class(failure.kind), error)));
            }
            Pending::Probe(id) => self.probe_failed(&id, &failure.message).await,
            other => effects::refuse(other, EngineError::new(class(failure.kind), failure.message)),
        }
    }

    /// Answers those who asked for the start.
    pub(super) fn tell_starters(&mut self) {
        if self.container.start_again {
            return;
        }
        let failed = match &self.container.finished {
            Some(finished) if !finished.error.is_empty() && !self.container.is_alive() => Some(finished.error.clone()),
            _ => None,
        };
        for answer in self.starters.drain(..) {
            reply(answer, failed.clone().map_or(Ok(()), |error| Err(EngineError::new(self.start_failure, error))));
        }
    }
}

/// The exit code that stands for a start that failed, and words that clients know to read the same code from.
pub(super) fn start_failure(failure: &Failure) -> (i32, String) {
    let with = |words: &str| {
        if failure.message.contains(words) { failure.message.clone() } else { format!("{}: {words}", failure.message) }
    };
    match failure.kind {
        FailureKind::CommandNotFound => (
            127,
            with("no such file or directory")
                .replace("not found in $PATH: no such file or directory", "not found in $PATH"),
        ),
        FailureKind::CommandNotExecutable => (126, with("permission denied")),
        _ => (128, failure.message.clone()),
    }
}

fn class(kind: FailureKind) -> ErrorClass {
    match kind {
        FailureKind::CommandNotFound | FailureKind::CommandNotExecutable | FailureKind::Invalid => ErrorClass::Invalid,
        FailureKind::Conflict => ErrorClass::Conflict,
        FailureKind::NotFound => ErrorClass::NotFound,
        FailureKind::Unsupported => ErrorClass::Unsupported,
        FailureKind::Internal => ErrorClass::Internal,
    }
}
