//! What the fuzz targets call. The seeds in `fuzz/corpus-seeds` go through the same functions in this crate's tests.

use crate::command;
use crate::runtime::config;
use crate::runtime::record::{Birth, Record};
use crate::runtime::status::Seen;
use oci_spec::runtime::Spec;

/// A bundle's configuration. What is taken is the same configuration when it is written and read again.
pub fn config(bytes: &[u8]) {
    match config::understand(bytes, "config.json") {
        Ok((spec, _)) => {
            let text = serde_json::to_vec(&spec).unwrap_or_default();
            // a value that was read can be written
            assert!(serde_json::from_slice::<Spec>(&text).is_ok_and(|again| again == *spec), "{spec:?}");
        }
        // the message finds its place in the text
        Err(error) => assert!(!error.message.is_empty()),
    }
}

/// A command line: one argument a line, the first is the command's name. Nothing is run.
pub fn arguments(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let words: Vec<String> = text.lines().map(str::to_owned).collect();
    command::understand(&words);
}

/// The files that a container's folder has, as somebody may have left them: the records, and what proc_pid_stat(5) says.
pub fn record(bytes: &[u8]) {
    if let Ok(Some((record, birth))) = Record::parse(bytes) {
        assert!(serde_json::to_vec(&record).is_ok() && serde_json::to_vec(&birth).is_ok());
        // may name a unit or none
        drop(record.unit());
    }
    if let Ok(birth) = serde_json::from_slice::<Birth>(bytes) {
        assert!(serde_json::to_vec(&birth).is_ok());
    }
    // a line of another form is no process
    let _seen = Seen::parse(bytes);
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::{Target, disturb, replay};

    const TARGETS: &[Target] = &[
        ("container_arguments", super::arguments),
        ("container_config", super::config),
        ("container_record", super::record),
    ];

    #[test]
    fn seeds_replay() {
        replay(TARGETS);
    }

    #[test]
    fn noise_and_damaged_seeds_do_no_harm() {
        disturb(TARGETS);
    }
}
