//! `insula-oci`: an OCI runtime with runc's command line.

#![no_main]

#[global_allocator]
static ARENA: sys::arena::Arena = sys::arena::Arena::new();

sys::entry!(container::command::main);
#[cfg(musl)]
sys::in_place_of_glibc!();
