//! After a daemon restart: finding out what became of a container while nobody looked.

use super::Actor;
use crate::decide::{Effect, Found, Input, Step, recovery, starts_again};
use crate::helper::Helper;
use crate::model::{Phase, Runtime};
use control::{Message, Reply, Request, State};
use std::time::Duration;

/// How long a helper may take to say how it is.
const ANSWER: Duration = Duration::from_secs(5);

impl Actor {
    pub(super) async fn recover(&mut self) {
        let runtime = self.inner.config.paths(&self.container.id).runtime;
        let helper = self.ask_state(&runtime.join("shim.sock")).await;
        let execs = helper.as_ref().map(|state| state.execs.clone()).unwrap_or_default();
        let found = Found { helper, exit: self.recorded_exit(), runtime: runtime.exists() };
        for step in recovery(&self.container, &found, &observed) {
            match step {
                Step::Feed(input) => self.feed_quietly(*input).await,
                Step::Release => {
                    self.perform(Effect::Sweep).await;
                    self.perform(Effect::Dismiss).await;
                }
                Step::Delete => return self.perform(Effect::Delete).await,
            }
        }
        if self.container.is_alive() {
            self.resume_probes(&execs).await;
        }
        if self.restart_due.is_none() && starts_again(&self.container) {
            self.await_linked().await;
            self.feed_quietly(Input::Start).await;
        }
    }

    /// Waits for those that it has links to as long as they are about to start, too: it cannot run without them.
    async fn await_linked(&self) {
        let settled = || {
            let linked = self.inner.linked(&self.container).unwrap_or_default();
            !linked.iter().any(|one| starts_again(&one.container) || one.container.phase == Phase::Starting)
        };
        // its start tells what is the matter
        let _ = tokio::time::timeout(ANSWER, self.inner.until(settled)).await;
    }

    /// Connects and asks; keeps the connection if the helper answers.
    async fn ask_state(&mut self, socket: &std::path::Path) -> Option<State> {
        let mut helper = Helper::connect(socket).ok()?;
        let id = helper.send(&Request::State, &[]).await.ok()?;
        let answer = async {
            while let Ok(Some(frame)) = helper.next().await {
                if let (true, Message::Reply(Reply::State(state))) = (frame.id == id, frame.body) {
                    return Some(state);
                }
            }
            None
        };
        let state = tokio::time::timeout(ANSWER, answer).await.ok().flatten()?;
        self.helper = Some(helper);
        Some(state)
    }
}

/// A run that was found, not started, by this daemon.
fn observed(pid: i32) -> Runtime {
    Runtime {
        pid,
        started_ns: crate::clock::now_ns(),
        namespaces: crate::explain::namespaces_of(pid),
        cgroup: Vec::new(),
        warnings: Vec::new(),
    }
}
