//! `insula-oci`: an OCI runtime with runc's command line.

fn main() -> std::process::ExitCode {
    container::command::main(std::env::args_os().skip(1))
}
