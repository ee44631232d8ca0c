//! One file per section of the specification; all tests need root and a kernel.

mod cgroups;
mod checkpoint;
mod command;
mod config;
mod devices;
mod escapes;
mod events;
mod exec;
mod features;
mod hooks;
mod lifecycle;
mod linux;
mod malformed;
mod mounts;
mod namespaces;
mod process;
mod rootless;
mod seccomp;
mod terminal;
mod update;
