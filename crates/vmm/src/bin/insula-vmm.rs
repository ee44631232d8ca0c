//! `insula-vmm`: runs one virtual machine, told what to do over a unix socket.

use std::path::PathBuf;
use std::process::ExitCode;

use vmm::program::{Options, run};

const USAGE: &str = "\
insula-vmm: run one virtual machine

Usage: insula-vmm --api-sock PATH [--console-sock PATH] [--console-log PATH] [--lock PATH]
       insula-vmm --probe

  --api-sock PATH       listen there for requests: docs/api/vmm.yaml describes them
  --console-sock PATH   listen there for terminals of the serial console
  --console-log PATH    keep the last of what the console shows
  --lock PATH           a file that is locked, with the process number in it, while the program runs
  --probe               say, as JSON, what runs guests on this host: tried with a tiny guest
  --version             show the version
";

/// Reads the command line; an error is a text for the user.
fn options(mut words: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let (mut api, mut console, mut log, mut lock) = (None, None, None, None);
    while let Some(word) = words.next() {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let place: &mut Option<PathBuf> = match flag.as_str() {
            "--api-sock" => &mut api,
            "--console-log" => &mut log,
            "--console-sock" => &mut console,
            "--lock" => &mut lock,
            "--help" | "-h" | "--version" => return Ok(None),
            other => return Err(format!("unknown argument {other:?}")),
        };
        let value = value.or_else(|| words.next()).ok_or_else(|| format!("{flag} needs a path"))?;
        *place = Some(value.into());
    }
    let api = api.ok_or("--api-sock is needed")?;
    Ok(Some(Options { api, console, log, lock }))
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words == ["--probe"] {
        println!("{}", vmm::backend::report());
        return ExitCode::SUCCESS;
    }
    let version = words.iter().any(|word| word == "--version");
    match options(words.into_iter()) {
        Ok(Some(options)) => match run(&options) {
            Ok(code) => code.into(),
            Err(error) => {
                let mut text = error.to_string();
                let mut below = std::error::Error::source(&error);
                while let Some(error) = below {
                    text.push_str(&format!(": {error}"));
                    below = error.source();
                }
                eprintln!("insula-vmm: {text}");
                ExitCode::FAILURE
            }
        },
        Ok(None) if version => {
            println!("insula-vmm {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(None) => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("insula-vmm: {why}\n\n{USAGE}");
            ExitCode::from(64)
        }
    }
}
