//! The engine's one error at its edge: a class that facades map to their codes, and words for the user.

use image::dockerfile::{Place, Pointed};
use std::fmt;

/// What kind of failure; each facade has one table from these to its own codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The object that was named does not exist.
    NotFound,
    /// The object's state or another object is in the way.
    Conflict,
    /// The request is wrong.
    Invalid,
    /// The caller may not do this.
    Denied,
    /// This host or this build cannot do it.
    Unsupported,
    /// Not now: shutting down, or a helper does not answer.
    Unavailable,
    /// The fault is ours or the kernel's.
    Internal,
    /// There was nothing to do: it is already so.
    NotModified,
}

/// A failed operation: what it was, and the causes below it.
#[derive(Debug)]
pub struct EngineError {
    class: ErrorClass,
    message: String,
    mark: Option<Box<Mark>>,
}

/// What an error about a place in a Dockerfile consists of, for those who show the place themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark {
    /// Where.
    pub place: Place,
    /// What is wrong there.
    pub what: String,
}

impl std::error::Error for EngineError {}

impl fmt::Display for EngineError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl EngineError {
    /// An error of `class`; `message` says what was wrong, with what, and what to do.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), mark: None }
    }

    /// An error about a place in a Dockerfile.
    pub fn pointed<E: std::error::Error>(class: ErrorClass, error: &Pointed<E>) -> Self {
        let mut what = chain(&*error.fault);
        if let Some(hint) = &error.hint {
            what.push_str(&format!("; {hint}"));
        }
        Self::new(class, error.to_string()).marked(Some(Box::new(Mark { place: (*error.place).clone(), what })))
    }

    pub(crate) fn marked(self, mark: Option<Box<Mark>>) -> Self {
        Self { mark, ..self }
    }

    /// The place that it is about.
    #[must_use]
    pub fn mark(&self) -> Option<&Mark> {
        self.mark.as_deref()
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Invalid, message)
    }

    /// The state is in the way.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Conflict, message)
    }

    /// No such object.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::NotFound, message)
    }

    /// `what` failed because of `cause`, whose chain is written out in one line.
    pub fn internal(what: impl fmt::Display, cause: &dyn std::error::Error) -> Self {
        Self::because(ErrorClass::Internal, what, cause)
    }

    /// As [`Self::internal`], with a class.
    pub fn because(class: ErrorClass, what: impl fmt::Display, cause: &dyn std::error::Error) -> Self {
        Self::new(class, format!("{what}: {}", chain(cause)))
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.class
    }
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

/// The engine's result.
pub type Result<T> = std::result::Result<T, EngineError>;
