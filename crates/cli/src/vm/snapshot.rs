//! `insula vm snapshot`: a machine's state in a folder.
//!
//! The machine's process sees nothing of the host, so the files are made here and handed to it. The folder gets its name when
//! all is on the disk: whatever is killed on the way leaves no snapshot, but `FOLDER.partial`, which the next try takes away. One that is
//! whole, as the machine says, gets its name from whoever wants to add to it.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::place::Place;
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    name: "snapshot",
    usage: "[OPTIONS] NAME FOLDER",
    about: "Write a machine to a new folder; it goes on afterwards if it ran",
    flags: &[&[
        Flag::switch("compress", "Make the memory's file small; restoring unpacks it"),
        Flag::switch("incremental", "Only what was written since the snapshot before"),
    ]],
    arguments: (2, 2),
    action: Action::Run(snapshot),
    ..Command::BLANK
};

/// The folder while it is written. It goes with this, unless it has got its name.
struct Draft {
    partial: PathBuf,
    /// Locked: what is not is left from a program that was killed.
    lock: File,
    named: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.named {
            // What is half written is no snapshot; the error that led here is the one to be told.
            let _left = fs::remove_dir_all(&self.partial);
        }
    }
}

impl Draft {
    fn make(folder: &Path) -> Result<Self, Failure> {
        let partial = unnamed(folder);
        let making = || format!("making {}", partial.display());
        for _ in 0..2 {
            match fs::DirBuilder::new().mode(0o700).create(&partial) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                outcome => outcome.during(making)?,
            }
            let lock = File::open(&partial).during(making)?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                break;
            }
            if fs::read_dir(&partial).during(making)?.next().is_none() {
                return Ok(Self { partial, lock, named: false });
            }
            fs::remove_dir_all(&partial).during(making)?;
        }
        Err(busy(&partial))
    }

    /// What a client that was killed has left of a snapshot that its machine has written to the end; none if it is not there.
    fn left(folder: &Path) -> Result<Option<Self>, Failure> {
        let partial = unnamed(folder);
        let Ok(lock) = File::open(&partial) else { return Ok(None) };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(busy(&partial));
        }
        // The state comes last. An empty one is that of somebody who was killed before he asked for anything.
        let whole = fs::metadata(partial.join("state")).is_ok_and(|state| state.len() > 0);
        // It is good, and stays whatever comes.
        Ok(whole.then_some(Self { partial, lock, named: true }))
    }

    fn file(&self, name: &str) -> Result<File, Failure> {
        let path = self.partial.join(name);
        let made = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
        made.during(|| format!("making {}", path.display()))
    }

    fn name(mut self, folder: &Path) -> Result<(), Failure> {
        self.lock.sync_all().during(|| format!("writing {}", self.partial.display()))?;
        match rustix::fs::renameat_with(CWD, &self.partial, CWD, folder, RenameFlags::NOREPLACE) {
            Ok(()) => self.named = true,
            Err(Errno::EXIST) => return Err(exists(folder)),
            Err(errno) => return Err(Failure::new(format!("cannot name {}: {errno}", folder.display()))),
        }
        let above = folder.parent().unwrap_or(Path::new("/"));
        File::open(above).and_then(|above| above.sync_all()).during(|| format!("writing {}", above.display()))
    }
}

/// Where a snapshot is written.
fn unnamed(folder: &Path) -> PathBuf {
    let mut partial = folder.to_owned().into_os_string();
    partial.push(".partial");
    PathBuf::from(partial)
}

fn busy(partial: &Path) -> Failure {
    Failure::new(format!("{} is being written by somebody else", partial.display()))
}

/// The snapshot that an incremental one is to add to, and it is there; none if the machine knows of none, and says what it needs.
fn parent(place: &Place) -> Result<Option<PathBuf>, Failure> {
    let told: Value = serde_json::from_slice(&place.request("GET", "/", None)?).unwrap_or_default();
    let Some(parent) = told.get("snapshot").and_then(Value::as_str).map(PathBuf::from) else { return Ok(None) };
    if !parent.join("state").exists() {
        let gone = || {
            let (parent, name) = (parent.display(), &place.name);
            Failure::new(format!(
                "the snapshot before, {parent}, is gone: take a whole one with: insula vm snapshot {name} FOLDER"
            ))
        };
        Draft::left(&parent)?.ok_or_else(gone)?.name(&parent)?;
    }
    Ok(Some(parent))
}

fn exists(folder: &Path) -> Failure {
    Failure::new(format!("{} is there already; give a folder that is not", folder.display()))
}

fn snapshot(context: &Context, given: &Parsed) -> Outcome {
    let place = Place::find(context, given.first())?;
    let folder = given.arguments.get(1).map_or("", String::as_str);
    let folder = std::path::absolute(folder).during(|| format!("the folder {folder:?}"))?;
    if folder.exists() {
        return Err(exists(&folder));
    }
    if !place.alive() {
        return Err(Failure::new(format!("the machine {:?} is not running", place.name)));
    }
    let parent = if given.on("incremental") { parent(&place)? } else { None };
    let draft = Draft::make(&folder)?;
    let (memory, state) = (draft.file("memory")?, draft.file("state")?);
    let mut body = json!({
        "path": folder,
        "extent": if given.on("incremental") { "incremental" } else { "full" },
        "packing": if given.on("compress") { "zstd" } else { "none" },
    });
    // A machine of before this was asked for does not know the word.
    if let Some(parent) = parent {
        body["parent"] = json!(parent);
    }
    let names = (folder.join("memory"), folder.join("state"));
    place.hand_over("/snapshot", &body, &[(&names.0, memory.as_fd()), (&names.1, state.as_fd())])?;
    draft.name(&folder).map(|()| 0)
}
