//! Compares the software CPU with the host's for a while: `softcpu_fuzz [SECONDS [SEED]]`. Prints disagreements, then every
//! instruction form that ran and how often.

use std::time::Duration;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>().unwrap_or(0));
    let seconds = args.next().unwrap_or(10);
    let seed = args.next().unwrap_or_else(|| u64::from(std::process::id()));
    let report = softcpu::diff::run(seed, u64::MAX, Duration::from_secs(seconds))?;
    for f in &report.failures {
        println!("{f}");
    }
    println!(
        "seed {seed}: {} instructions ({} translated) of {} forms and {} blocks, {} disagreements",
        report.cases,
        report.translated,
        report.coverage.len(),
        report.blocks,
        report.failed
    );
    for (form, (ran, completed)) in &report.coverage {
        println!("{form}\t{ran}\t{completed}");
    }
    std::process::exit(i32::from(report.failed > 0));
}
