//! Solves that are going on.

use super::progress::Board;
use crate::history::Build;
use crate::rpc::Status;
use crate::wire::control::{StatusResponse, Typed};
use engine::BuildOutcome;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, Notify, mpsc, watch};

/// How long calls about a solve wait for it: they come at the same time.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages that wait for whoever watches.
const DEPTH: usize = 1024;
/// So many solves that have ended are remembered.
const REMEMBERED: usize = 32;
/// The most solves at a time.
const MOST: usize = 1024;

/// A solve.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) session: String,
    pub(crate) exporters: Vec<Typed>,
    pub(crate) cache_exports: Vec<Typed>,
    pub(crate) cache_imports: Vec<Typed>,
    pub(crate) entitlements: Vec<String>,
    pub(crate) board: Mutex<Board>,
    /// Nothing if nobody is to know.
    recording: Option<Arc<Build>>,
    watched: StdMutex<Option<mpsc::Receiver<StatusResponse>>>,
    outcome: Mutex<Option<BuildOutcome>>,
    /// What the answer says besides.
    response: StdMutex<BTreeMap<String, String>>,
    returned: watch::Sender<Option<Result<(), Status>>>,
    cancel: watch::Sender<bool>,
}

impl Job {
    /// A solve that has not begun.
    pub(crate) fn new(reference: &str, session: String) -> Self {
        let (sender, receiver) = mpsc::channel(DEPTH);
        Self {
            session,
            exporters: Vec::new(),
            cache_exports: Vec::new(),
            cache_imports: Vec::new(),
            entitlements: Vec::new(),
            board: Mutex::new(Board::new(reference, sender)),
            recording: None,
            watched: StdMutex::new(Some(receiver)),
            outcome: Mutex::default(),
            response: StdMutex::default(),
            returned: watch::Sender::new(None),
            cancel: watch::Sender::new(false),
        }
    }

    /// Has it recorded what happens.
    pub(crate) fn record(&mut self, build: Arc<Build>) {
        self.board.get_mut().record(Arc::clone(&build));
        self.recording = Some(build);
    }

    /// What it is that is built.
    pub(crate) fn asked(&self, frontend: &str, options: &BTreeMap<String, String>) {
        if let Some(build) = &self.recording {
            build.asked(frontend, options);
        }
    }

    /// Where that is recorded.
    pub(crate) fn recording(&self) -> Option<&Build> {
        self.recording.as_deref()
    }

    /// What happens; for one who asks.
    pub(crate) async fn watch(&self) -> Option<mpsc::Receiver<StatusResponse>> {
        let receiver = self.watched.lock().unwrap_or_else(PoisonError::into_inner).take();
        if receiver.is_some() {
            self.board.lock().await.watched();
        }
        receiver
    }

    /// Keeps the result.
    pub(super) async fn built(&self, outcome: BuildOutcome) -> Result<(), Status> {
        let mut kept = self.outcome.lock().await;
        if kept.is_some() {
            return Err(Status::invalid("this solve has a result already; one solve builds one thing"));
        }
        *kept = Some(outcome);
        Ok(())
    }

    /// The result, if there is one.
    pub(crate) async fn outcome(&self) -> Option<BuildOutcome> {
        self.outcome.lock().await.clone()
    }

    /// The answer says this, too.
    pub(super) fn respond(&self, key: &str, value: String) {
        self.response.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), value);
    }

    /// What the answer says besides.
    pub(super) fn response(&self) -> BTreeMap<String, String> {
        self.response.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The client's front end has said its last word.
    pub(crate) fn give_back(&self, outcome: Result<(), Status>) {
        self.returned.send_replace(Some(outcome));
    }

    /// Waits for that word.
    pub(crate) async fn returned(&self) -> Result<(), Status> {
        let mut returned = self.returned.subscribe();
        match returned.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }

    /// Ends what is going on.
    pub(crate) fn stop(&self) {
        self.cancel.send_replace(true);
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_over(&self) -> bool {
        *self.cancel.borrow()
    }

    /// Returns when it is to end.
    pub(crate) async fn cancelled(&self) {
        let _ = self.cancel.subscribe().wait_for(|cancel| *cancel).await;
    }
}

/// All solves, by their references.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    open: StdMutex<BTreeMap<String, Arc<Job>>>,
    /// The last ones that have ended: whoever asks what happened may come when it has.
    ended: StdMutex<VecDeque<(String, Arc<Job>)>>,
    changed: Notify,
}

/// A solve's place among the others, given up when dropped.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    jobs: &'a Jobs,
    reference: String,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut open = self.jobs.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(job) = open.remove(&self.reference) {
            job.stop();
            let mut ended = self.jobs.ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.truncate(REMEMBERED - 1);
            ended.push_front((self.reference.clone(), job));
        }
    }
}

impl Jobs {
    /// One that is going on, or was just now.
    fn known(&self, reference: &str) -> Option<Arc<Job>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let past = || ended.iter().find(|(name, _)| name == reference).map(|(_, job)| Arc::clone(job));
        open.get(reference).cloned().or_else(past)
    }

    /// Makes a solve known.
    pub(crate) fn enter(&self, reference: &str, job: &Arc<Job>) -> Result<Entry<'_>, Status> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if reference.is_empty() || open.contains_key(reference) || open.len() >= MOST {
            return Err(Status::invalid(format!(
                "there can be no solve {reference:?}: it has no name, or there is one"
            )));
        }
        open.insert(reference.to_owned(), Arc::clone(job));
        drop(open);
        self.changed.notify_waiters();
        Ok(Entry { jobs: self, reference: reference.to_owned() })
    }

    /// Ends one.
    pub(crate) fn cancel(&self, reference: &str) {
        if let Some(job) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(reference) {
            job.stop();
        }
    }

    /// Finds one, which may be on its way.
    pub(crate) async fn find(&self, reference: &str) -> Result<Arc<Job>, Status> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                let mut changed = std::pin::pin!(changed);
                changed.as_mut().enable();
                if let Some(job) = self.known(reference) {
                    return job;
                }
                changed.await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.map_err(|_| Status::unavailable(format!("no solve {reference:?} is going on")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_comes_late_still_hears() {
        let jobs = Jobs::default();
        let job = Arc::new(Job::new("r", String::new()));
        let entry = jobs.enter("r", &job).unwrap();
        assert!(jobs.enter("r", &job).is_err() && jobs.enter("", &job).is_err());
        job.board.lock().await.begin("x").await;
        job.board.lock().await.finish(&Ok::<(), ()>(())).await;
        drop((entry, job));
        let late = jobs.find("r").await.unwrap();
        let mut heard = late.watch().await.unwrap();
        let mut vertexes = Vec::new();
        while let Some(message) = heard.recv().await {
            vertexes.extend(message.vertexes);
        }
        assert_eq!(vertexes.iter().map(|one| one.completed.is_some()).collect::<Vec<_>>(), [false, true]);
        assert!(late.watch().await.is_none(), "one watches");
    }
}
