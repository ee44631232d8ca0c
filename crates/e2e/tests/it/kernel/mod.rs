//! All tests need root and a kernel to themselves as far as their own names go.

mod bad_input;
mod build;
mod build_cache;
mod build_platforms;
pub(crate) mod build_remote;
mod build_words;
mod clients;
pub(crate) mod compat;
mod corpus;
mod crash;
mod daemon;
mod docker;
mod images;
mod isolation;
mod killed;
mod lifecycle;
mod limits;
mod nested;
mod ordeal;
mod programs;
mod run;
mod runtimes;
mod settings;
mod soak;
mod terminal;
mod trust;
mod volumes;
