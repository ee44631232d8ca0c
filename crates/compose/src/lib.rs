//! Compose files: reading them, and what follows from them. No input, output, clock or daemon beyond reading files.
//!
//! A file's way: [`yaml`] makes a [`node`] tree of it, [`interpolate`] puts variables' values in, [`shape`] checks it against
//! [`schema`] and writes short forms out, [`merge`] lays files over each other, and [`load`] does all that with `include` and
//! `extends`. [`normal`] fills in what follows from other settings and looks for contradictions; the result is a
//! [`project::Project`]. [`create`] says what the Docker Engine API is to be asked for, [`hash`] tells whether a container is
//! still what the file says, [`order`] which service comes first. [`emit`] writes trees as YAML and JSON.
//!
//! The neighbour is `cli`, whose `compose` commands ask the daemon.

pub mod create;
pub mod dotenv;
pub mod emit;
#[doc(hidden)]
pub mod fuzzing;
pub mod hash;
pub mod interpolate;
pub mod load;
mod merge;
pub mod node;
mod normal;
pub mod order;
pub mod project;
mod schema;
mod shape;
mod short;
pub mod unit;
pub mod yaml;

pub use load::{Loader, Options};
pub use node::FileError;
pub use project::Project;
pub use shape::words as shell_words;
