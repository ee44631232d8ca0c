//! `insula-oci` starts with every container, and so does what the bench compares it with and starts it by.

#[path = "../sys/build/musl.rs"]
mod musl;

fn main() {
    musl::link(&["insula-oci", "example start_floor"]);
}
