//! `insula-vmm`: runs one virtual machine, told what to do over a unix socket.

use std::path::PathBuf;
use std::process::ExitCode;

use vmm::jail::Leaving;
use vmm::program::{Confinement, Group, Options, Origin, run};

const USAGE: &str = "\
insula-vmm: run one virtual machine

Usage: insula-vmm --api-sock PATH [OPTIONS]
       insula-vmm --probe

  --api-sock PATH       listen there for requests: docs/api/vmm.yaml describes them
  --console-sock PATH   listen there for terminals of the serial console
  --console-log PATH    keep the last of what the console shows
  --lock PATH           a file that is locked, with the process number in it, while the program runs
  --machine FILE        what the machine is to be, as in the API; opened before the program confines itself
  --restore FOLDER      the snapshot that the machine is to be restored from, in the same way
  --inside FOLDER       a folder that is made the program's root; what it opens later is looked for there
  --cgroup PATH         a control group to make and to run in
  --overhead BYTES      the most memory that the group may use beside the guest's
  --leave               end as soon as the machine's process, a child of this one's parent, answers
  --no-jail             do not confine the program, to look for faults
  --probe               say, as JSON, what runs guests on this host: tried with a tiny guest
  --version             show the version
";

/// Reads the command line; an error is a text for the user.
fn options(mut words: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let (mut api, mut console, mut log, mut lock) = (None, None, None, None);
    let (mut machine, mut restore, mut inside) = (None, None, None);
    let (mut group, mut overhead): (Option<PathBuf>, Option<PathBuf>) = (None, None);
    let (mut leaving, mut jailed) = (Leaving::Wait, true);
    while let Some(word) = words.next() {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let place: &mut Option<PathBuf> = match flag.as_str() {
            "--api-sock" => &mut api,
            "--cgroup" => &mut group,
            "--console-log" => &mut log,
            "--console-sock" => &mut console,
            "--inside" => &mut inside,
            "--leave" => {
                leaving = Leaving::Leave;
                continue;
            }
            "--lock" => &mut lock,
            "--machine" => &mut machine,
            "--no-jail" => {
                jailed = false;
                continue;
            }
            "--overhead" => &mut overhead,
            "--restore" => &mut restore,
            "--help" | "-h" | "--version" => return Ok(None),
            other => return Err(format!("unknown argument {other:?}")),
        };
        let value = value.or_else(|| words.next()).ok_or_else(|| format!("{flag} needs a path"))?;
        *place = Some(value.into());
    }
    let api = api.ok_or("--api-sock is needed")?;
    let origin = match (machine, restore) {
        (Some(_), Some(_)) => return Err("give --machine or --restore, not both".to_owned()),
        (machine, restore) => machine.map(Origin::Specification).or(restore.map(Origin::Snapshot)),
    };
    let jail = if jailed { Confinement::Jail { root: inside, leaving } } else { Confinement::None };
    let number =
        |text: PathBuf| text.to_str().and_then(|text| text.parse().ok()).ok_or("--overhead needs a number of bytes");
    let overhead = overhead.map(number).transpose()?;
    let group = group.map(|path| Group { path: path.to_string_lossy().into_owned(), overhead });
    Ok(Some(Options { api, console, log, lock, origin, jail, group }))
}

fn main() -> ExitCode {
    // Whoever started this program may have left more open than was meant for it.
    sys::process::close_from(3);
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
