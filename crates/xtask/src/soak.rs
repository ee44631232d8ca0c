//! `cargo xtask soak`: release programs work for long, and are killed at every turn.
//!
//! The tests are those of a usual run (`crates/e2e/tests/it/kernel`), with numbers that a usual run has no time for.

use anyhow::{Result, ensure};

use crate::setup::{self, Purpose};
use crate::shell::step;
use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often the daemon is killed in the second part
    #[arg(long, default_value_t = 400)]
    kills: u32,
    /// Which kills: what a failure has printed
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs `cargo xtask soak`.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the soak needs root: its containers do");
    setup::ensure(Purpose::Test)?;
    let bin = step("build in release", workspace::install_release)?;
    let test = |name: &str| {
        let run = workspace::cargo().env("INSULA_E2E_BIN", &bin).env("INSULA_E2E_SOAK", "yes");
        run.args(["test", "--quiet", "-p", "e2e", "--test", "it", "--", "--nocapture", name])
    };
    step("5000 starts, 500 containers at once, 50 clients that listen", || test("kernel::soak").check())?;
    step("a daemon that is killed", || {
        let kills = test("kernel::ordeal").env("INSULA_E2E_FAULTS", arguments.kills.to_string());
        match arguments.seed {
            Some(seed) => kills.env("INSULA_E2E_SEED", seed.to_string()).check(),
            None => kills.check(),
        }
    })
}
