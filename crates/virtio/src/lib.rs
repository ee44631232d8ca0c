//! Virtio: every device a guest sees, the queues it speaks through, and the two transports that carry them.
//!
//! ```text
//!   vCPU thread                                   device's thread
//!   transport::{mmio, pci}  registers    Service  waits on Slot's one descriptor
//!        |        \__ interrupt status (atomics)     |
//!        |        \__ serve_at_once: what needs no wait is done here, without the other thread
//!        v                                           v
//!   slot::Slot   status, features, queues, one lock: device::Device::serve(running, wake)
//!                                                    |
//!                              queue::{Queue, Chain} over hv's guest memory
//! ```
//!
//! A [`device::Device`] knows its configuration space and its requests; everything that devices have in common (status,
//! feature negotiation, queue setup, kicks, snapshots, the reset after a protocol error) stands once, in [`slot`]. The guest
//! is hostile: nothing it writes makes this crate panic, loop without end or touch memory that is not the guest's.
//!
//! Neighbours: `hv` below gives the memory; `vmm` above places the transports on its buses and runs the services.

pub mod device;
pub mod events;
pub mod fuzzing;
pub mod interrupt;
pub mod limit;
pub mod queue;
pub mod service;
pub mod slot;
pub mod transport;

#[cfg(test)]
mod testing;

pub use hv::Memory;
