//! `insula-shim`: the helper beside one container. Started by the daemon, with the first connection as standard input.

use std::os::fd::AsFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if let [_, first, words @ ..] = arguments.as_slice()
        && first == container::shim::IN_FRONT
    {
        let Err(error) = container::shim::init(words) else { return ExitCode::SUCCESS };
        eprintln!("insula-shim: {error}");
        return ExitCode::FAILURE;
    }
    // processes of ours come into sight of containers' programs
    if let Err(error) = sys::program::be_read_only(&arguments) {
        eprintln!("insula-shim: cannot run from a read-only place: {error}");
        return ExitCode::FAILURE;
    }
    let serve = match arguments.get(1..).unwrap_or_default() {
        [] => container::shim::run,
        [only] if only == "--zygote" => container::shim::zygote,
        _ => {
            eprintln!(
                "insula-shim {}: the daemon starts this program; it takes no arguments",
                env!("CARGO_PKG_VERSION")
            );
            return ExitCode::from(2);
        }
    };
    let outcome =
        std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| error.to_string()).and_then(|connection| {
            // the inherited one must not hold the connection open
            let null = std::fs::File::open("/dev/null").map_err(|error| error.to_string())?;
            rustix::stdio::dup2_stdin(&null).map_err(|error| error.to_string())?;
            serve(connection).map_err(|error| error.to_string())
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("insula-shim: {error}");
            ExitCode::FAILURE
        }
    }
}
