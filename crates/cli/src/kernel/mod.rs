//! `insula kernel`: kernels for virtual machines on a machine that has none.
//!
//! ```text
//! install   a Debian package, by apt or as a file ──> package: ar, tar ──> vmlinuz ──> vmlinux
//!                                                      └─> module: what its drivers need ──> archive: initrd with insula-init
//! build     Debian's linux-source and guest.config ──> vmlinux, bzImage, and an initrd with insula-init alone
//! shelf     ROOT/kernels/NAME: files, record with checksums; ROOT/kernels/default: which one machines get
//! ```
//!
//! What runs in the guest before its own system does is the program `insula-init`.

mod archive;
mod build;
mod install;
mod list;
mod module;
mod package;
mod shelf;
mod unpack;

use std::path::PathBuf;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::{Action, Command};
use crate::output;

pub(crate) static GROUP: Command = Command {
    name: "kernel",
    usage: "COMMAND",
    about: "Commands about kernels for virtual machines",
    action: Action::Group(&[&build::COMMAND, &list::DEFAULT, &install::COMMAND, &list::COMMAND, &list::RM]),
    ..Command::BLANK
};

/// A kernel that a machine can boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bootable {
    /// The kernel's file.
    pub(crate) kernel: PathBuf,
    /// Its first file system.
    pub(crate) initrd: Option<PathBuf>,
}

/// The kernel for a machine: a file, an installed one by its name, or the default.
///
/// # Errors
/// There is none; what to do is said.
pub(crate) fn choose(context: &Context, given: Option<&str>) -> Result<Bootable, Failure> {
    shelf::Shelf::of(context).choose(given)
}

/// Tells how far it is, beside the output.
fn progress(text: &str) {
    output::write_error(format!("{text}\n").as_bytes());
}
