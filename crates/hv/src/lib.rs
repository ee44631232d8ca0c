//! The contract between a machine and whatever runs its processors.
//!
//! Above it stand device models, boot, snapshots and migration, which know only these types; below it the KVM backend
//! and the software CPU (crate `softcpu`). Both have the same processor model ([`cpu_model`]), the same clock
//! ([`clock`]) and the same state types ([`state`]), so that a snapshot taken on one is restored on the other.
//!
//! ```text
//!  vmm, virtio:   Bus (MMIO, ports)        Memory (guest RAM)       Vm: irq lines, MSI, dirty pages, clock
//!                      ^                        ^                        |
//!                      | calls                  | shares                 v
//!  backend:       Vcpu::run  ------------> RAM accesses          interrupt controllers, ioeventfd, irqfd
//! ```
//!
//! The crate may contain unsafe code: mappings of guest memory and KVM's shared pages are made here and nowhere else.

#![expect(unsafe_code, reason = "guest memory mappings and KVM's shared pages are made in this crate")]

pub mod bus;
pub mod clock;
pub mod cpu_model;
pub mod kvm;
pub mod memory;
pub mod state;
pub mod thread;
pub mod vcpu;
pub mod vectored;
pub mod vm;

pub use bus::Bus;
pub use memory::{Memory, MemoryError};
pub use state::{IrqchipState, VcpuState};
pub use vcpu::{Exit, Kick, Kicker, RunError, Vcpu};
pub use vm::{Backend, Doorbell, Level, Msi, Vm, VmError};
