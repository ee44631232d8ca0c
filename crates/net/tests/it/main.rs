//! Network namespaces on the running kernel; they live in descriptors only, so nothing is left behind.

mod kernel;
