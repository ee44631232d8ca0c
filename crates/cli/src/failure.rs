//! How a command ends: an exit code, or a failure with the code that tells it.

use std::error::Error;
use std::fmt::Write as _;

/// The exit code of a command, or why there is none of its own.
pub(crate) type Outcome = Result<u8, Failure>;

/// What went wrong, in the words that the user reads after `insula: `.
#[derive(Debug)]
pub(crate) struct Failure {
    text: String,
    code: Option<u8>,
    status: Option<u16>,
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: None, status: None }
    }

    /// The daemon's refusal.
    pub(crate) fn daemon(status: u16, message: impl Into<String>) -> Self {
        Self { text: message.into(), code: None, status: Some(status) }
    }

    /// The same, told by a certain exit code.
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = Some(code);
        self
    }

    /// The same, with what was attempted put before.
    pub(crate) fn during(mut self, what: &str) -> Self {
        self.text = format!("{what}: {}", self.text);
        self
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The exit code, if one was set.
    pub(crate) fn code(&self) -> Option<u8> {
        self.code
    }

    /// The HTTP status, if the daemon refused.
    pub(crate) fn status(&self) -> Option<u16> {
        self.status
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            // writing to a string does not fail
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        Self::new(text)
    }
}

/// Puts what was attempted before an error.
pub(crate) trait During<T> {
    /// The same result, whose failure begins with `what`.
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> During<T> for Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| error.into().during(&what()))
    }
}
