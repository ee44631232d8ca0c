//! Networks on the running kernel, in namespaces that live in descriptors only, so nothing is left behind.

mod hosts;
mod kernel;
