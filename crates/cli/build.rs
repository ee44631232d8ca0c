//! `insula` starts with every command.

#[path = "../sys/build/musl.rs"]
mod musl;

fn main() {
    musl::link(&["insula"]);
}
