//! A container that exists, and what can be done to it.

use serde_json::Value;
use testkit::wait_for;

use crate::subject::{Run, SOON, Subject};

/// A container by its id.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) id: String,
    pub(crate) group: String,
}

impl Container<'_> {
    /// A command whose first operand is the id: `verb flags id`.
    pub(crate) fn call(&self, verb: &str, flags: &[&str]) -> Run {
        self.subject.call(&[&[verb], flags, &[&*self.id]].concat())
    }

    /// What `state` says.
    #[track_caller]
    pub(crate) fn state(&self) -> Value {
        self.call("state", &[]).expect(0).json()
    }

    #[track_caller]
    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.state()["pid"].as_i64().unwrap()).unwrap()
    }

    /// Waits until the container has a status.
    #[track_caller]
    pub(crate) fn await_status(&self, status: &str) {
        let seen = wait_for(SOON, || (self.status() == status).then_some(()));
        assert!(seen.is_some(), "{} is {}, not {status}", self.id, self.status());
    }

    /// Sends a signal to the first process.
    pub(crate) fn kill(&self, signal: &str) -> Run {
        self.subject.call(&["kill", &self.id, signal])
    }

    /// Ends the container and waits until it is stopped.
    #[track_caller]
    pub(crate) fn end(&self) {
        self.kill("KILL").expect(0);
        self.await_status("stopped");
    }

    /// Runs a program in the container.
    pub(crate) fn exec(&self, words: &[&str]) -> Run {
        self.exec_with(&[], words)
    }

    /// Runs a program in the container with flags.
    pub(crate) fn exec_with(&self, flags: &[&str], words: &[&str]) -> Run {
        self.subject.call(&[&["exec"], flags, &[&*self.id], words].concat())
    }

    /// The content of a file of the container's control group.
    #[track_caller]
    pub(crate) fn limit(&self, controller: &str, file: &str) -> String {
        let path = self.subject.group_folder(controller, &self.group).join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.trim().to_owned()
    }

    /// Waits until a program of the container has made a file, and gives its content.
    #[track_caller]
    pub(crate) fn await_file(&self, path: &std::path::Path) -> String {
        let read = || std::fs::read_to_string(path).ok().filter(|text| !text.is_empty());
        wait_for(SOON, read)
            .unwrap_or_else(|| panic!("{} did not appear; {}", path.display(), self.call("state", &[]).out))
    }
}
