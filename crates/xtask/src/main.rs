//! Automation of this repository: `cargo xtask <command>`.
//!
//! One file a command. Everything that starts a program goes through [`shell`], so that a failure names the command, a
//! hanging program is ended, and an interrupt reaches the clean-up of whoever is waiting.

mod bench;
mod checks;
mod compat;
mod demo;
mod docs;
mod island;
mod layers;
mod residue;
mod setup;
mod shell;
mod soak;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Automation of the Insula repository", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure Insula beside its peers
    Bench(bench::Arguments),
    /// Static checks, then every test: what must pass before a change lands
    Ci,
    /// From nothing to an isolated job in a container, and back to nothing
    Demo(demo::Arguments),
    /// Check that the documents name only what exists
    Docs(docs::Arguments),
    /// Check that the crates depend on each other only as layers.toml allows
    Layers,
    /// Install the Debian packages that a task needs
    Setup(setup::Arguments),
    /// Work for long, and be killed again and again: nothing grows, nothing is lost
    Soak(soak::Arguments),
    /// Run every test: unit, component, kernel, conformance
    Test(test::Arguments),
}

fn main() -> ExitCode {
    let task = Arguments::parse().task;
    let outcome = shell::watch_signals().and_then(|()| match task {
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Ci => checks::run().and_then(|()| test::run(&test::Arguments::default())),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Docs(arguments) => docs::run(&arguments),
        Task::Layers => layers::run(),
        Task::Setup(arguments) => setup::run(&arguments),
        Task::Soak(arguments) => soak::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if shell::interrupted() { ExitCode::from(130) } else { ExitCode::FAILURE }
        }
    }
}
