//! `insula-oci` starts with every container, and so does the floor that the bench compares it with.

#[path = "../sys/build/musl.rs"]
mod musl;

fn main() {
    musl::link(&["insula-oci", "example start_floor"]);
}
