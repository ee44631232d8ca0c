//! The image and runtime specifications in our hands: names, digests, platforms, capabilities, system call filters.
//!
//! Nothing here calls the kernel; everything is a function of its input, so that the same text gives the same answer on
//! every machine. The specifications' own structures come from the `oci-spec` crate.
//!
//! Neighbours: nothing of ours below; `image`, `container` and `engine` above.

pub mod caps;
pub mod digest;
/// Entry points for the fuzz targets in `fuzz/`: each takes bytes from a stranger and must neither panic nor hang.
#[doc(hidden)]
pub mod fuzzing;
pub mod platform;
pub mod reference;
pub mod seccomp;
