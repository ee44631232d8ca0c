//! What goes wrong: to the log, in the two forms that callers read, and to standard error.

use crate::runtime::clock;
use std::io::Write as _;
use std::path::PathBuf;

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Form {
    /// `time="…" level=error msg="…"`
    #[default]
    Text,
    /// `{"level":"error","msg":"…","time":"…"}`
    Json,
}

/// Where messages go.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) file: Option<PathBuf>,
    pub(crate) form: Form,
    pub(crate) debug: bool,
}

impl Log {
    /// Something that had to be left out or changed.
    pub(crate) fn warn(&self, message: &str) {
        self.line("warning", message);
    }

    /// What only somebody who looks for a fault wants to see.
    pub(crate) fn debug(&self, message: &str) {
        if self.debug {
            self.line("debug", message);
        }
    }

    /// The end of it: in the log, and on standard error where the log is elsewhere.
    pub(crate) fn error(&self, message: &str) {
        let elsewhere = self.line("error", message);
        if elsewhere {
            // nobody to tell when that fails
            let _ = writeln!(std::io::stderr(), "{message}");
        }
    }

    /// Writes a line; says whether that was to another place than standard error.
    fn line(&self, level: &str, message: &str) -> bool {
        let time = clock::Moment::now().seconds();
        let line = match self.form {
            Form::Json => format!(
                "{{\"level\":\"{level}\",\"msg\":{},\"time\":\"{time}\"}}\n",
                serde_json::Value::String(message.to_owned())
            ),
            Form::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
        };
        let opened = self.file.as_ref().and_then(|path| {
            use std::os::unix::fs::OpenOptionsExt as _;
            std::fs::OpenOptions::new().create(true).append(true).mode(0o644).open(path).ok()
        });
        match opened {
            Some(mut file) => {
                // a full disk must not hide the message from standard error
                let _ = file.write_all(line.as_bytes());
                true
            }
            None => {
                let _ = std::io::stderr().write_all(line.as_bytes());
                false
            }
        }
    }
}
