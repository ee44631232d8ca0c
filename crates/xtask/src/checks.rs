//! The static half of `cargo xtask ci`: format, lints, layers, documents.

use anyhow::{Result, bail};

use crate::setup::{self, Purpose};
use crate::{docs, layers, shell, workspace};

/// Files that every release carries.
const REQUIRED: &[&str] = &["CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SPECIFICATION.md"];

/// Runs every static check; the cheapest first.
pub(crate) fn run() -> Result<()> {
    setup::ensure(Purpose::Test)?;
    shell::step("required files", || match REQUIRED.iter().find(|name| !workspace::root().join(name).is_file()) {
        Some(name) => bail!("{name} is missing"),
        None => Ok(()),
    })?;
    shell::step("format", || workspace::cargo().args(["fmt", "--all", "--check"]).check())?;
    shell::step("layers", layers::run)?;
    shell::step("lints", || {
        let clippy = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
        workspace::cargo().args(clippy).check()
    })?;
    shell::step("documents", || docs::run(&docs::Arguments::default()))
}
