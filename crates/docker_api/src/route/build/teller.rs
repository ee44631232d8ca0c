//! How a client is told of a build: as Docker's classic builder does, or in our own form.

use super::{Lines, send};
use docker_wire::extra::BuildLine;
use engine::{BuildEvent, BuildOutcome, EngineError, LogStream};
use oci::reference::Reference;
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};

/// What standard error stands between in Docker's classic form.
const RED: &str = "\x1b[91m";
const PLAIN: &str = "\x1b[0m";

/// How a build is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As Docker's classic builder does: one stage after the other.
    Classic,
    /// Only the image's id.
    Quiet,
    /// As [`BuildLine`]s, as it happens.
    Own,
}

/// Tells a client.
pub(super) struct Teller<'a> {
    client: &'a Lines,
    form: Form,
    steps: usize,
    /// The stage whose steps are shown now; those of others wait.
    shown: Option<usize>,
    waiting: BTreeMap<usize, VecDeque<BuildEvent>>,
    /// Letters whose other bytes have not come yet, by step and whether it is its standard error.
    open: BTreeMap<(usize, bool), Vec<u8>>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(client: &'a Lines, form: Form) -> Self {
        Self { client, form, steps: 0, shown: None, waiting: BTreeMap::new(), open: BTreeMap::new() }
    }

    /// Whether a client reads of the steps: what goes wrong now goes wrong in one of them.
    pub(super) fn planned(&self) -> bool {
        self.form == Form::Classic && self.steps > 0
    }

    pub(super) async fn event(&mut self, event: BuildEvent) {
        match self.form {
            Form::Quiet => {}
            Form::Own => {
                if let Some(line) = self.own_line(event) {
                    send(self.client, &line).await;
                }
            }
            Form::Classic => self.in_order(event).await,
        }
    }

    fn own_line(&mut self, event: BuildEvent) -> Option<BuildLine> {
        Some(match event {
            BuildEvent::Planned { steps, .. } => BuildLine::Planned(steps),
            BuildEvent::Warning(text) => BuildLine::Warning(text),
            BuildEvent::Remark(remark) => BuildLine::Warning(remark.line()),
            BuildEvent::Fetching(name) => BuildLine::Warning(fetching(&name)),
            BuildEvent::Begun { stage, step, text } | BuildEvent::Scanning { stage, step, text } => {
                BuildLine::Begun(stage, step, text)
            }
            BuildEvent::Cached { step, .. } => BuildLine::Cached(step),
            BuildEvent::Output { step, stream, bytes, .. } => BuildLine::Output(step, self.text(step, stream, bytes)),
            BuildEvent::Done { step, .. } => BuildLine::Done(step),
            BuildEvent::StageDone { .. }
            | BuildEvent::Looking(_)
            | BuildEvent::Found(_)
            | BuildEvent::Making
            | BuildEvent::Failed { .. }
            | BuildEvent::Keeping(_) => return None,
        })
    }

    /// Whole letters.
    fn text(&mut self, step: usize, stream: LogStream, bytes: Vec<u8>) -> String {
        let key = (step, stream == LogStream::Stderr);
        let mut all = self.open.remove(&key).unwrap_or_default();
        all.extend(bytes);
        if let Err(error) = std::str::from_utf8(&all)
            && error.error_len().is_none()
        {
            let rest = all.split_off(error.valid_up_to());
            self.open.insert(key, rest);
        }
        String::from_utf8_lossy(&all).into_owned()
    }

    async fn in_order(&mut self, event: BuildEvent) {
        let stage = match &event {
            BuildEvent::Planned { .. } | BuildEvent::Warning(_) | BuildEvent::Fetching(_) => {
                return self.show(event).await;
            }
            // the classic builder has none
            BuildEvent::Remark(_) => return,
            BuildEvent::Looking(_) | BuildEvent::Found(_) | BuildEvent::Making | BuildEvent::Keeping(_) => return,
            BuildEvent::Begun { stage, .. }
            | BuildEvent::Cached { stage, .. }
            | BuildEvent::Output { stage, .. }
            | BuildEvent::Done { stage, .. }
            | BuildEvent::Failed { stage, .. }
            | BuildEvent::Scanning { stage, .. }
            | BuildEvent::StageDone { stage } => *stage,
        };
        let shown = *self.shown.get_or_insert(stage);
        if stage != shown {
            self.waiting.entry(stage).or_default().push_back(event);
            return;
        }
        let ended = matches!(event, BuildEvent::StageDone { .. });
        self.show(event).await;
        if ended {
            self.next_stage().await;
        }
    }

    /// Shows the stages that wait, up to one that is still at work.
    async fn next_stage(&mut self) {
        self.shown = None;
        while let Some((stage, events)) = self.waiting.pop_first() {
            let ended = events.back().is_some_and(|last| matches!(last, BuildEvent::StageDone { .. }));
            for event in events {
                self.show(event).await;
            }
            if !ended {
                self.shown = Some(stage);
                return;
            }
        }
    }

    async fn show(&mut self, event: BuildEvent) {
        let text = match event {
            BuildEvent::Planned { steps, .. } => {
                self.steps = steps;
                return;
            }
            BuildEvent::Warning(text) => format!("[Warning] {text}\n"),
            BuildEvent::Fetching(name) => format!("[Warning] {}\n", fetching(&name)),
            BuildEvent::Begun { step, text, .. } => format!("Step {step}/{} : {text}\n", self.steps),
            BuildEvent::Cached { .. } => " ---> Using cache\n".to_owned(),
            BuildEvent::Output { step, stream: LogStream::Stderr, bytes, .. } => {
                format!("{RED}{}{PLAIN}", self.text(step, LogStream::Stderr, bytes))
            }
            BuildEvent::Output { step, stream, bytes, .. } => self.text(step, stream, bytes),
            BuildEvent::Done { made, .. } => format!(" ---> {made}\n"),
            _ => return,
        };
        send(self.client, &json!({ "stream": text })).await;
    }

    pub(super) async fn classic_end(mut self, outcome: Result<BuildOutcome, EngineError>, names: &[Reference]) {
        // a build that failed leaves stages that nobody has seen
        while !self.waiting.is_empty() {
            self.next_stage().await;
        }
        let built = match outcome {
            Ok(built) => built,
            Err(error) => {
                let message = error.to_string();
                let line = json!({ "errorDetail": { "code": 1, "message": message }, "error": message });
                return send(self.client, &line).await;
            }
        };
        let id = built.product.image.id.to_string();
        send(self.client, &json!({ "aux": { "ID": id } })).await;
        if self.form == Form::Quiet {
            return send(self.client, &json!({ "stream": format!("{id}\n") })).await;
        }
        send(self.client, &json!({ "stream": format!("Successfully built {}\n", built.product.image.id.0.short()) }))
            .await;
        for name in names {
            send(self.client, &json!({ "stream": format!("Successfully tagged {}\n", name.familiar()) })).await;
        }
    }
}

fn fetching(name: &str) -> String {
    format!("fetching the image {name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn stages_are_told_one_after_the_other() {
        let (sender, mut lines) = mpsc::channel(64);
        let mut teller = Teller::new(&sender, Form::Classic);
        let begun = |stage, step| BuildEvent::Begun { stage, step, text: format!("RUN {step}") };
        let written =
            |stage, step, stream, text: &[u8]| BuildEvent::Output { stage, step, stream, bytes: text.to_vec() };
        let output = |stage, step, text: &[u8]| written(stage, step, LogStream::Stdout, text);
        let events = vec![
            BuildEvent::Planned { steps: 4, stages: Vec::new() },
            begun(0, 1),
            begun(1, 3),
            output(0, 1, b"\xc3"),
            output(1, 3, b"other\n"),
            written(0, 1, LogStream::Stderr, b"no\n"),
            output(0, 1, b"\xa4\n"),
            BuildEvent::StageDone { stage: 1 },
            BuildEvent::StageDone { stage: 0 },
        ];
        for event in events {
            teller.event(event).await;
        }
        teller.classic_end(Err(EngineError::invalid("broken")), &[]).await;
        drop(sender);
        let mut all = String::new();
        while let Some(Ok(line)) = lines.recv().await {
            let value: Value = serde_json::from_slice(&line).unwrap();
            all.push_str(value["stream"].as_str().or(value["error"].as_str()).unwrap());
        }
        assert_eq!(all, "Step 1/4 : RUN 1\n\u{1b}[91mno\n\u{1b}[0m\u{e4}\nStep 3/4 : RUN 3\nother\nbroken");
    }
}
