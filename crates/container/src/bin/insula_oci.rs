//! `insula-oci`: an OCI runtime with runc's command line.

#![no_main]

sys::entry!(container::command::main);
#[cfg(musl)]
sys::in_place_of_glibc!();
