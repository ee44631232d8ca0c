//! Needs root; each test says why when it can't run.

mod cni;
mod firewall;
mod links;
mod netd;
mod netns;
