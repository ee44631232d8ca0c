//! `insula-init`: the first program in a guest whose kernel came by `insula kernel`. It loads drivers, mounts the root that the
//! kernel's command line names, and makes way for that root's own first program.
//!
//! ```text
//! root=/dev/vda | UUID=… | LABEL=…   a disk           rootfstype=  rootflags=  ro | rw
//! root=virtiofs:TAG                  a shared folder
//! root=overlay:/dev/vda,/dev/vdb     layers, the topmost first, read-only; written to memory, or to insula.upper=/dev/vdc
//! init=/sbin/init                    what runs then
//! ```
//!
//! Without `root=` it is the first disk, writable. Neighbours: `insula kernel`, which puts it into the first file system
//! with the modules and their order.

mod cmdline;
mod modules;
mod root;
mod superblock;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::mount::{MountFlags, mount, mount_move};
use rustix::system::{RebootCommand, reboot};

use cmdline::CommandLine;
use modules::Modules;

/// Programs that are tried if the command line names none, in the kernel's own order.
const PROGRAMS: &[&str] = &["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];
/// Where the root is put together.
const ROOT: &str = "/root";
/// What is mounted for this program, and goes on in the root.
const KERNEL: &[(&str, &str)] = &[("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")];

/// What went wrong, and with what.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    #[error("mounting {what} on {place}")]
    Mount { what: String, place: String, source: rustix::io::Errno },
    #[error("reading {path}")]
    Read { path: String, source: std::io::Error },
    #[error("loading the module {path}")]
    Module { path: String, source: rustix::io::Errno },
    #[error("{0}")]
    Root(String),
    #[error("changing to the root")]
    Change(#[source] rustix::io::Errno),
    #[error("no program runs in the root; {0}")]
    Program(String),
}

fn mount_one(kind: &str, place: &str) -> Result<(), InitError> {
    // Folders may be there.
    let _there = fs::create_dir(place);
    mount(kind, place, kind, MountFlags::NOSUID, None).map_err(|source| InitError::Mount {
        what: kind.to_owned(),
        place: place.to_owned(),
        source,
    })
}

/// Everything up to the root's first program; returns only if that is not possible.
fn start() -> Result<(), InitError> {
    for (kind, place) in KERNEL {
        mount_one(kind, place)?;
    }
    let text = fs::read_to_string("/proc/cmdline")
        .map_err(|source| InitError::Read { path: "/proc/cmdline".to_owned(), source })?;
    let line = CommandLine::parse(&text);
    let modules = Modules::read();
    modules.load("drivers")?;
    root::mount_at(Path::new(ROOT), &line, &modules)?;
    enter()?;
    execute(&line)
}

/// Makes the root the root; what this program came from goes, as it takes memory.
fn enter() -> Result<(), InitError> {
    for (_, place) in KERNEL {
        let inside = format!("{ROOT}{place}");
        // A root without the folder does without, if it can't be made.
        let _there = fs::create_dir(&inside);
        if mount_move(*place, inside.as_str()).is_err() {
            let _still_there = rustix::mount::unmount(*place, rustix::mount::UnmountFlags::DETACH);
        }
    }
    for old in ["/modules", "/init"] {
        let _gone = fs::remove_dir_all(old).or_else(|_| fs::remove_file(old));
    }
    rustix::process::chdir(ROOT).map_err(InitError::Change)?;
    mount_move(".", "/").map_err(InitError::Change)?;
    rustix::process::chroot(".").map_err(InitError::Change)?;
    rustix::process::chdir("/").map_err(InitError::Change)
}

fn execute(line: &CommandLine) -> Result<(), InitError> {
    let programs = line.init.as_deref().map_or_else(|| PROGRAMS.to_vec(), |init| vec![init]);
    let mut why = Vec::new();
    for program in programs {
        let error = Command::new(program).args(&line.arguments).exec();
        why.push(format!("{program}: {error}"));
    }
    Err(InitError::Program(why.join("; ")))
}

fn main() {
    let Err(error) = start() else { return };
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    eprintln!("insula-init: {text}");
    if std::process::id() != 1 {
        std::process::exit(1);
    }
    rustix::fs::sync();
    // A first program that ends makes the kernel panic, and with that boot again, for ever.
    let _refused = reboot(RebootCommand::PowerOff);
}
