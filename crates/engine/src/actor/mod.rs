//! The owner of one container: a task that alone changes its record and talks to its helper.
//!
//! Others send it an [`Ask`]; it feeds [`decide`](crate::decide), stores the new record together with the events that
//! tell of it in one transaction, publishes both, and only then carries out the effects.
//!
//! ```text
//!  Ask (users)  ----+                       +--> store: record and events, one transaction
//!  helper messages -+--> feed --> decide ---+--> registry snapshot, watchers
//!  timers      -----+                       +--> effects: launch, signals, timers, deletion
//! ```

mod effects;
mod launch;
mod messages;
mod network;
mod probe;
mod recover;

use crate::decide::{Effect, Input, decide, is_recorded};
use crate::engine::Inner;
use crate::error::{EngineError, ErrorClass, Result};
use crate::helper::Helper;
use crate::model::{Container, EndpointRequest, Event, ExecId, Finished, Network, Phase, Resources, RestartPolicy};
use control::{Afterwards, ProcessId, Streams};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Where an answer goes.
pub(crate) type Answer<T> = oneshot::Sender<Result<T>>;

/// What others ask of a container's owner.
pub(crate) enum Ask {
    /// One of the users' inputs of [`decide`].
    Command(Input, Answer<()>),
    /// Serve a client's connection.
    Attach { attach: Attachment, answer: Answer<()> },
    /// Set a terminal's size.
    Resize { process: ProcessId, rows: u16, cols: u16, answer: Answer<()> },
    /// Run one more process.
    Exec { id: ExecId, exec: Box<control::Exec>, connection: Option<OwnedFd>, answer: Answer<()> },
    /// Tell when it has ended or is gone.
    Wait { until: WaitFor, outcome: oneshot::Sender<Finished>, registered: Answer<()> },
    /// Run its processes on from a checkpoint.
    Restore { images: PathBuf, answer: Answer<()> },
    /// Write its processes down.
    Checkpoint { name: String, images: PathBuf, then: Afterwards, answer: Answer<()> },
    /// Put it into one more network.
    Connect { network: Arc<Network>, request: Box<EndpointRequest>, answer: Answer<()> },
    /// Take it out of a network.
    Disconnect { network: Arc<Network>, answer: Answer<()> },
    /// Forget the place in a network that is no more.
    Forget { network: String, answer: Answer<()> },
    /// Call it by another name, which the registry has reserved.
    Rename { name: String, answer: Answer<()> },
    /// Forget the container that it knows by this name.
    Unlink { alias: String, answer: Answer<()> },
    /// Change limits.
    Update { change: Box<Changed>, planned: Box<oci_spec::runtime::LinuxResources>, answer: Answer<()> },
}

/// What of a container is changed.
pub(crate) struct Changed {
    pub(crate) resources: Resources,
    pub(crate) restart: RestartPolicy,
}

/// A client's connection and what it wants.
pub(crate) struct Attachment {
    pub(crate) connection: OwnedFd,
    pub(crate) streams: Streams,
    pub(crate) ahead: Vec<u8>,
    pub(crate) detach_keys: Vec<u8>,
}

/// What a waiter waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// That it does not run: at once if it does not.
    NotRunning,
    /// Its next end, even if it does not run yet.
    NextExit,
    /// Its removal.
    Removed,
}

/// What a reply of the helper belongs to.
enum Pending {
    Create,
    Start,
    Freeze(Option<Answer<()>>),
    Thaw(Option<Answer<()>>),
    Plain(Answer<()>),
    Update(Box<Changed>, Answer<()>),
    Exec(ExecId, Answer<()>),
    /// A checkpoint, by its name.
    Checkpoint(String, Answer<()>),
    /// A probe of its health, by its exec's id.
    Probe(String),
    /// Nobody waits for it.
    Ignored,
}

pub(crate) struct Actor {
    inner: Arc<Inner>,
    container: Arc<Container>,
    inbox: mpsc::Receiver<Ask>,
    helper: Option<Helper>,
    pending: HashMap<u64, Pending>,
    /// Clients that attached before the start.
    attachments: Vec<Attachment>,
    /// What the current launch knows before the program runs.
    launching: Option<launch::Launching>,
    /// Held while it runs, so that its layers stay mounted.
    layers: Option<image::Layers>,
    /// The run before is still on its way out of its networks.
    leaving: Option<tokio::task::JoinHandle<()>>,
    /// The checkpoint that the next launch goes on from.
    restoring: Option<PathBuf>,
    /// What kind of failure kept the last start from happening.
    start_failure: ErrorClass,
    starters: Vec<Answer<()>>,
    stoppers: Vec<Answer<()>>,
    removers: Vec<Answer<()>>,
    waiters: Vec<(WaitFor, oneshot::Sender<Finished>)>,
    grace_over: Option<Instant>,
    restart_due: Option<Instant>,
    probe_due: Option<Instant>,
    /// The probe that runs.
    probing: Option<probe::Probing>,
    gone: bool,
}

/// How many asks may queue for one container before callers wait.
const INBOX: usize = 64;

/// Starts the owner of a container and returns its inbox. `recovering` lets it look for a helper that still runs.
pub(crate) fn spawn(inner: &Arc<Inner>, container: Arc<Container>, recovering: Recovering) -> mpsc::Sender<Ask> {
    let (sender, inbox) = mpsc::channel(INBOX);
    let actor = Actor {
        inner: Arc::clone(inner),
        container,
        inbox,
        helper: None,
        pending: HashMap::new(),
        attachments: Vec::new(),
        launching: None,
        layers: None,
        leaving: None,
        restoring: None,
        start_failure: ErrorClass::Invalid,
        starters: Vec::new(),
        stoppers: Vec::new(),
        removers: Vec::new(),
        waiters: Vec::new(),
        grace_over: None,
        restart_due: None,
        probe_due: None,
        probing: None,
        gone: false,
    };
    tokio::spawn(actor.run(recovering));
    sender
}

/// Whether a container is new to this daemon or from one before.
pub(crate) enum Recovering {
    /// New.
    No,
    /// From the store: `begin` is closed when all others are known, `done` is dropped when its true state is.
    Yes { begin: watch::Receiver<()>, done: mpsc::Sender<()> },
}

impl Actor {
    async fn run(mut self, recovering: Recovering) {
        if let Recovering::Yes { mut begin, done } = recovering {
            while begin.changed().await.is_ok() {}
            self.recover().await;
            drop(done);
        }
        while !self.gone {
            let overdue = self.probing.as_ref().and_then(|probing| probing.limit);
            let timer = [self.grace_over, self.restart_due, self.probe_due, overdue].into_iter().flatten().min();
            tokio::select! {
                biased;
                message = next_message(&mut self.helper) => self.on_message(message).await,
                ask = self.inbox.recv() => match ask {
                    Some(ask) => self.on_ask(ask).await,
                    None => break,
                },
                () = sleep_until(timer), if timer.is_some() => self.on_timer().await,
            }
        }
    }

    async fn on_timer(&mut self) {
        let now = Instant::now();
        if self.grace_over.is_some_and(|due| due <= now) {
            self.grace_over = None;
            self.feed_quietly(Input::GraceOver).await;
        }
        if self.restart_due.is_some_and(|due| due <= now) {
            self.restart_due = None;
            self.feed_quietly(Input::RestartDue).await;
        }
        if self.probe_due.is_some_and(|due| due <= now) {
            self.probe_due = None;
            self.feed_quietly(Input::ProbeDue).await;
        }
        self.end_late_probe(now).await;
    }

    async fn on_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Command(input, answer) => self.on_command(input, answer).await,
            Ask::Attach { attach, answer } => self.on_attach(attach, answer).await,
            Ask::Resize { process, rows, cols, answer } => {
                self.request(&control::Request::Resize { process, rows, cols }, &[], Pending::Plain(answer)).await;
            }
            Ask::Exec { id, exec, connection, answer } => self.on_exec(id, exec, connection, answer).await,
            Ask::Connect { network, request, answer } => self.on_connect(network, *request, answer).await,
            Ask::Disconnect { network, answer } => self.on_disconnect(network, answer).await,
            Ask::Forget { network, answer } => self.on_forget(&network, answer),
            Ask::Restore { images, answer } => {
                self.restoring = Some(images);
                self.on_command(Input::Start, answer).await;
                // a start that was refused restores nothing later
                self.restoring = None;
            }
            Ask::Checkpoint { name, images, then, answer } => {
                let request = control::Request::Checkpoint { images, then };
                self.request(&request, &[], Pending::Checkpoint(name, answer)).await;
            }
            Ask::Wait { until, outcome, registered } => self.on_wait(until, outcome, registered),
            Ask::Rename { name, answer } => {
                let mut next = (*self.container).clone();
                let old = std::mem::replace(&mut next.name, name);
                let event = self.event(&next, "rename", vec![("oldName", format!("/{old}"))]);
                let renamed = self.commit(next, vec![event]);
                if renamed.is_ok() {
                    self.rename_in_networks();
                }
                let _ = answer.send(renamed);
            }
            Ask::Unlink { alias, answer } => {
                let _ = answer.send(self.unlink(&alias));
            }
            Ask::Update { change, planned, answer } => {
                if self.container.is_alive() && change.resources != self.container.spec.resources {
                    let request = control::Request::Update { resources: planned };
                    self.request(&request, &[], Pending::Update(change, answer)).await;
                } else {
                    let _ = answer.send(self.updated(*change));
                }
            }
        }
    }

    fn updated(&mut self, change: Changed) -> Result<()> {
        let mut next = (*self.container).clone();
        next.spec.resources = change.resources;
        next.spec.restart = change.restart;
        // a restart that is due is one of the policy before
        next.restarting &= next.start_again || change.restart != RestartPolicy::No;
        let event = self.event(&next, "update", Vec::new());
        self.commit(next, vec![event])
    }

    async fn on_command(&mut self, input: Input, answer: Answer<()>) {
        // the answer comes when what was asked for has happened, not when it was begun
        let before = self.container.phase;
        match input {
            Input::Start => match self.feed(Input::Start).await {
                Ok(()) if self.container.phase == Phase::Starting => self.starters.push(answer),
                Ok(()) => self.answer_failed_start(answer),
                Err(error) => reply(answer, Err(error)),
            },
            Input::Stop { .. } => match self.feed(input).await {
                Ok(()) if self.container.is_alive() => self.stoppers.push(answer),
                other => reply(answer, other),
            },
            Input::Restart { .. } => match self.feed(input).await {
                Ok(()) if self.container.is_alive() || self.container.start_again => self.starters.push(answer),
                Ok(()) => self.answer_failed_start(answer),
                Err(error) => reply(answer, Err(error)),
            },
            Input::Remove { .. } => match self.feed(input).await {
                Ok(()) if !self.gone => self.removers.push(answer),
                other => reply(answer, other),
            },
            Input::Pause | Input::Unpause => match decide(&self.container, &input, crate::clock::now_ns()) {
                Ok(_) if input == Input::Pause => {
                    self.request(&control::Request::Pause, &[], Pending::Freeze(Some(answer))).await;
                }
                Ok(_) => self.request(&control::Request::Resume, &[], Pending::Thaw(Some(answer))).await,
                Err(error) => reply(answer, Err(error)),
            },
            Input::Kill(signal) if signal == crate::signal::KILL && before != Phase::Starting => {
                // a kill is done when the container has ended
                match self.feed(input).await {
                    Ok(()) if self.container.is_alive() => self.stoppers.push(answer),
                    other => reply(answer, other),
                }
            }
            other => reply(answer, self.feed(other).await),
        }
    }

    fn answer_failed_start(&self, answer: Answer<()>) {
        let error = self.container.finished.as_ref().map(|finished| finished.error.clone()).unwrap_or_default();
        reply(answer, Err(EngineError::new(self.start_failure, error)));
    }

    fn on_wait(&mut self, until: WaitFor, outcome: oneshot::Sender<Finished>, registered: Answer<()>) {
        if until == WaitFor::NotRunning && !self.container.is_alive() && !self.container.restarting {
            let _ = outcome.send(self.finished());
        } else {
            self.waiters.push((until, outcome));
        }
        reply(registered, Ok(()));
    }

    fn finished(&self) -> Finished {
        let never = Finished { code: 0, oom_killed: false, at_ns: 0, error: String::new() };
        self.container.finished.clone().unwrap_or(never)
    }

    /// Decides, stores, publishes, acts.
    async fn feed(&mut self, input: Input) -> Result<()> {
        let decision = decide(&self.container, &input, crate::clock::now_ns())?;
        let mut events = Vec::new();
        for effect in &decision.effects {
            if let Effect::Emit(action, words) = effect {
                events.push(self.event(&decision.container, action, words.clone()));
            }
        }
        self.commit(decision.container, events)?;
        for effect in decision.effects {
            // boxed: an effect may feed again (a launch that fails at once)
            Box::pin(self.perform(effect)).await;
        }
        self.settle();
        Ok(())
    }

    async fn feed_quietly(&mut self, input: Input) {
        if let Err(error) = self.feed(input.clone()).await {
            tracing::warn!(container = %self.container.id, ?input, %error, "input refused");
        }
    }

    /// Stores the record with its events in one transaction, then shows both to everybody.
    fn commit(&mut self, next: Container, events: Vec<Event>) -> Result<()> {
        let changed = next != *self.container;
        let recorded = changed && is_recorded(&self.container, &next, !events.is_empty());
        let record = recorded.then_some(&next);
        if record.is_some() || !events.is_empty() {
            self.inner.store_change(record, &events)?;
        }
        if changed {
            self.container = Arc::new(next);
            self.inner.publish(&self.container);
        }
        for event in events {
            self.inner.events.publish(event);
        }
        Ok(())
    }

    fn event(&self, container: &Container, action: &str, words: Vec<(&str, String)>) -> Event {
        self.inner.container_event(container, action, words)
    }

    /// Answers those whose wish has come true.
    fn settle(&mut self) {
        if self.container.is_alive() {
            return;
        }
        for answer in self.stoppers.drain(..) {
            reply(answer, Ok(()));
        }
        // of a restart that was called off
        self.tell_starters();
        if matches!(self.container.phase, Phase::Exited | Phase::Removing) || self.container.finished.is_some() {
            let finished = self.finished();
            let gone = self.gone;
            let mut rest = Vec::new();
            for (until, outcome) in self.waiters.drain(..) {
                let waits = match until {
                    WaitFor::Removed => !gone,
                    // also where it is about to run again, as with Docker
                    WaitFor::NotRunning | WaitFor::NextExit => false,
                };
                if waits {
                    rest.push((until, outcome));
                } else {
                    let _ = outcome.send(finished.clone());
                }
            }
            self.waiters = rest;
        }
        if self.gone {
            for answer in self.removers.drain(..) {
                reply(answer, Ok(()));
            }
        }
    }
}

/// Answers; a caller that went away does not matter.
fn reply<T>(answer: Answer<T>, result: Result<T>) {
    let _ = answer.send(result);
}

async fn next_message(
    helper: &mut Option<Helper>,
) -> std::result::Result<Option<control::Frame<control::Message>>, crate::helper::HelperError> {
    match helper {
        Some(helper) => helper.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn after(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}
