//! After a daemon restart: finding out what became of a container while nobody looked.

use super::{Actor, Pending};
use crate::decide::Input;
use crate::helper::Helper;
use crate::model::{Phase, RestartPolicy, Runtime};
use control::{Message, Reply, Request, State};
use std::time::Duration;

/// How long a helper may take to say how it is.
const ANSWER: Duration = Duration::from_secs(5);

impl Actor {
    pub(super) async fn recover(&mut self) {
        if self.container.phase == Phase::Removing {
            return self.perform(crate::decide::Effect::Delete).await;
        }
        let runtime = self.inner.config.paths(&self.container.id).runtime;
        let state = self.ask_state(&runtime.join("shim.sock")).await;
        match state {
            Some(state) => self.adopt(state).await,
            None => self.without_helper(runtime.exists()).await,
        }
        let again = match self.container.spec.restart {
            RestartPolicy::Always => true,
            RestartPolicy::UnlessStopped => !self.container.stopped_by_user,
            RestartPolicy::No => false,
            RestartPolicy::OnFailure { .. } => self.container.restarting,
        };
        if again && self.container.phase == Phase::Exited && self.restart_due.is_none() {
            self.feed_quietly(Input::Start).await;
        }
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

    async fn adopt(&mut self, state: State) {
        let recorded = self.container.phase;
        match state.phase {
            control::Phase::Empty | control::Phase::Created => {
                // the daemon died between creation and start; nobody was told that it runs
                self.request(&Request::Quit, &[], Pending::Ignored).await;
                self.helper = None;
                if recorded == Phase::Starting {
                    let error = "the daemon ended while it started the container".to_owned();
                    self.feed_quietly(Input::LaunchFailed { code: 128, error }).await;
                }
            }
            control::Phase::Running | control::Phase::Paused => {
                if !self.container.is_alive() || recorded == Phase::Starting {
                    self.feed_quietly(Input::Launched(observed(state.pid))).await;
                }
                if state.phase == control::Phase::Paused && recorded != Phase::Paused {
                    self.feed_quietly(Input::Frozen).await;
                } else if state.phase == control::Phase::Running && recorded == Phase::Paused {
                    self.feed_quietly(Input::Thawed).await;
                }
                self.resume_probes(&state.execs).await;
            }
            control::Phase::Exited => {
                if let Some(exit) = state.exit {
                    self.ended_unseen(exit).await;
                }
            }
        }
    }

    async fn ended_unseen(&mut self, exit: control::Exit) {
        if !self.container.is_alive() {
            let mut run = observed(0);
            run.started_ns = exit.at_ns;
            self.feed_quietly(Input::Launched(run)).await;
        }
        self.feed_quietly(Input::Ended(exit)).await;
    }

    async fn without_helper(&mut self, had_runtime: bool) {
        let seen_alive = self.container.is_alive();
        match self.recorded_exit() {
            Some(exit) if seen_alive || had_runtime => self.ended_unseen(exit).await,
            _ if seen_alive => self.feed_quietly(Input::HelperGone).await,
            _ if had_runtime => {
                // a start of which nothing came
                self.sweep_quietly().await;
            }
            _ => {}
        }
    }

    async fn sweep_quietly(&mut self) {
        self.perform(crate::decide::Effect::Sweep).await;
        self.perform(crate::decide::Effect::Dismiss).await;
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
