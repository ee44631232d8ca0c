//! Needs root; each test says why when it can't run.

mod claim;
mod cni;
mod firewall;
mod links;
mod netd;
mod netns;
