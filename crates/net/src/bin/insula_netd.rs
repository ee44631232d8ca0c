//! `insula-netd SOCKET`: the helper of a host for names and the packet filter; see `net::netd`.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use sys::socket::ShortPath;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(path), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: insula-netd SOCKET");
        return ExitCode::from(2);
    };
    match run(Path::new(&path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("insula-netd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot listen at {}: {error}", path.display());
    let short = ShortPath::of(path).map_err(failed)?;
    if UnixStream::connect(&short).is_ok() {
        return Err(format!("another helper listens at {}", path.display()));
    }
    // Left by a helper that was killed.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(&short).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    // Out of the session of whoever started it: a signal to that one's group is not meant for us.
    let _ = rustix::process::setsid();
    // Three descriptors a container, one a port.
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let outcome = net::netd::serve(OwnedFd::from(listener).into(), path).map_err(|error| error.to_string());
    let _ = std::fs::remove_file(path);
    outcome
}
