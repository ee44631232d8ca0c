//! A cell with one bundle and the runtime under test, for tests of the runtime by its command line.

use std::process::Command;

use crate::bundle::{self, Bundle};
use crate::{Cell, Run, finish, wait_for};

/// The id of the container where a test needs only one.
pub const ID: &str = "stage";

/// See the module.
#[derive(Debug)]
pub struct Stage {
    /// Where it happens.
    pub cell: Cell,
    /// The bundle, in the folder `bundle` of the cell's island.
    pub bundle: Bundle,
    runtime: String,
}

impl Stage {
    /// A stage whose container runs `args`; `None` if this machine can't have one or lacks one of `programs`, with the
    /// reason printed.
    #[must_use]
    pub fn open(args: &[&str], programs: &[&str]) -> Option<Self> {
        if !bundle::has_busybox_or_skip() {
            return None;
        }
        let cell = Cell::open(programs)?;
        let bundle = Bundle::new(&cell.island().dir("bundle"), args);
        let runtime = bundle::runtime().display().to_string();
        Some(Self { cell, bundle, runtime })
    }

    /// Lets another program be the runtime, for example a copy of it.
    pub fn take_runtime(&mut self, program: &str) {
        program.clone_into(&mut self.runtime);
    }

    /// The runtime's command line, with a state folder of the cell's own, in the bundle's folder.
    #[must_use]
    pub fn words(&self, words: &[&str]) -> Vec<String> {
        let own = [self.runtime.as_str(), "--root", "/run/oci"];
        own.iter().chain(words).map(|word| (*word).to_owned()).collect()
    }

    /// The runtime's command.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let words = self.words(words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.cell.command_in(self.bundle.folder(), &words)
    }

    /// Runs the runtime to its end.
    #[must_use]
    pub fn oci(&self, words: &[&str]) -> Run {
        finish(&mut self.command(words), b"")
    }

    /// Writes the configuration and runs the container to its end; the runtime removes it.
    #[must_use]
    pub fn run(&self) -> Run {
        let _ = self.bundle.write();
        self.oci(&["run", ID])
    }

    /// Writes the configuration and starts the container in the background, with its streams in the file `output`.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn start(&self) {
        let _ = self.bundle.write();
        let words = self.words(&["run", "--detach", ID]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let script = "exec \"$@\" >output 2>&1 </dev/null";
        let words = [&["sh", "-c", script, "start"][..], &words].concat();
        let run = finish(&mut self.cell.command_in(self.bundle.folder(), &words), b"");
        assert_eq!(run.code, 0, "{}\n{}", run.said(), self.output());
    }

    /// What a container in the background has printed.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.bundle.folder().join("output")).unwrap_or_default()
    }

    /// Removes the container with force, and checks that nothing is left: no process, mount, group or file of the runtime's.
    ///
    /// # Panics
    /// When something is.
    pub fn finish(self) {
        let _ = self.oci(&["delete", "--force", ID]);
        self.assert_clean();
    }

    /// Checks that nothing is left of any container.
    ///
    /// # Panics
    /// When something is.
    #[track_caller]
    pub fn assert_clean(&self) {
        let left = || {
            let mut left = self.cell.leftovers();
            let files = self.cell.shell("[ ! -d /run/oci ] || find /run/oci -mindepth 1");
            left.extend(files.out.lines().map(|line| format!("file {line}")));
            left
        };
        let gone = wait_for(std::time::Duration::from_secs(10), || left().is_empty().then_some(()));
        assert!(gone.is_some(), "left behind:\n  {}", left().join("\n  "));
    }
}
