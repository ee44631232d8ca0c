//! What docker's own client and library ask for, of whichever subject is chosen.

mod bake;
mod buildx;
mod compose;
mod compose_outside;
mod compose_plugin;
mod compose_turns;
mod copy;
mod health;
mod libraries;
mod library;
mod life;
mod logs;
mod manners;
mod neighbours;
pub(crate) mod network;
mod ours;
mod pizza;
mod protocol;
mod settings;
mod volumes_of_builds;
