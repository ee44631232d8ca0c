//! Virtual machines: assembled from a specification, booted, paused, saved and restored.
//!
//! ```text
//!  MachineSpec ──> machine::assembly: memory, hypervisor, buses, devices, tables, kernel ──> Machine
//!                                                                                             │ threads
//!      vcpuN: hv::Vcpu::run ──> bus ──> device registers        devices: virtio::service ─────┘
//! ```
//!
//! Neighbours: `hv` and `softcpu` run the processors, `virtio` has the devices. The program `insula-vmm` puts one machine
//! behind a socket.

mod acpi;
pub mod backend;
mod boot;
mod bus;
mod device;
/// Entry points for the fuzz targets in `fuzz/`: each takes bytes from a stranger and must neither panic nor hang.
#[doc(hidden)]
pub mod fuzzing;
pub mod jail;
mod layout;
mod machine;
pub mod program;

pub use boot::BootError;
pub use machine::{
    Check, ConsoleOutput, Event, Extent, Machine, MachineError, Packing, SnapshotError, SpecError, Writing,
};
