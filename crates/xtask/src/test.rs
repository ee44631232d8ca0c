//! `cargo xtask test`: makes the machine ready, builds the programs, runs every test.
//!
//! Tests run under cargo-nextest, a process each: a test that unshares or leaks cannot touch the next one, and the
//! groups of `.config/nextest.toml` hold back those that load the kernel. With `CI` set in the environment the static
//! checks go first, so that a change with a lint does not pass either.

use std::path::Path;

use anyhow::{Context, Result};

use crate::setup::{self, Purpose};
use crate::shell::{self, find_program};
use crate::{checks, workspace};

#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Passed on to cargo nextest: names or filters of tests, --no-capture, …
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest: Vec<String>,
}

/// Runs `cargo xtask test`.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(Purpose::Test)?;
    if std::env::var_os("CI").is_some_and(|value| value != "false" && !value.is_empty()) {
        checks::run()?;
    }
    ensure_nextest()?;
    // The tests of one crate start the programs of others, and these find each other in one folder.
    let programs = shell::step("build the programs that tests start", || workspace::build(&["--workspace", "--bins"]))?;
    let shim = programs.iter().find(|path| path.ends_with("insula-shim"));
    let folder = shim.and_then(|path| path.parent()).context("the build made no program named insula-shim")?;
    if !rustix::process::geteuid().is_root() {
        println!("test: not root, so each test that needs the kernel's privileged calls says why it is skipped");
    }
    nextest(folder, arguments)
}

fn nextest(programs: &Path, arguments: &Arguments) -> Result<()> {
    workspace::cargo()
        .env("INSULA_E2E_BIN", programs)
        .args(["nextest", "run", "--workspace"])
        .args(&arguments.nextest)
        .check()
}

fn ensure_nextest() -> Result<()> {
    let home = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let installed =
        find_program("cargo-nextest").is_some() || home.is_some_and(|home| home.join("bin/cargo-nextest").is_file());
    if installed {
        return Ok(());
    }
    shell::step("install cargo-nextest, once", || {
        // Outside the repository: its static linking is for our programs.
        let install = workspace::cargo().dir(Path::new("/")).args(["install", "cargo-nextest", "--locked", "--quiet"]);
        install.check().context("cannot install cargo-nextest; see https://nexte.st for ready-made binaries")
    })
}
