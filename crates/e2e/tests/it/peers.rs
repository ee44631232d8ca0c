//! Programs beside the subject: a registry of ours, and the field's clients.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::subject::{Run, Subject, finish, program};

/// A registry of ours on this machine.
pub(crate) struct Registry {
    child: Child,
    pub(crate) address: String,
}

impl Registry {
    /// Serves on a free port; `extra` are further options.
    pub(crate) fn start(subject: &Subject, extra: &[&str]) -> Self {
        let log = File::create(subject.island.path("registry.log")).unwrap();
        let mut command = Command::new(program("insulad"));
        command.args(["registry", "serve", "--listen", "127.0.0.1:0", "--root"]).arg(subject.island.path("registry"));
        let mut child = command.args(extra).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { child, address: address.trim().to_owned() }
    }

    /// An image's name there.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The stock client, or ours where it is not installed.
pub(crate) fn docker(subject: &Subject, words: &[&str]) -> Run {
    match subject.docker_command(words) {
        Some(mut command) => finish(&mut command, b""),
        None => subject.insula(words),
    }
}

/// Another program of the field; nothing if it is not installed, with the reason printed.
pub(crate) fn tool(subject: &Subject, name: &str, words: &[&str]) -> Option<Run> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(found) = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file()) else {
        println!("skipped: no {name} in PATH");
        return None;
    };
    let mut command = Command::new(found);
    if name == "podman" {
        let folder = |name: &str| subject.island.path(name).display().to_string();
        command.args(["--root", &folder("podman"), "--runroot", &folder("podman-run"), "--storage-driver=vfs"]);
    }
    Some(finish(command.args(words).current_dir(subject.island.root()), b""))
}
