//! The software CPU: decodes, interprets and translates guest code where there is no usable KVM.

mod code_pages;
mod cpu;
mod decode;
#[cfg(any(test, feature = "diff"))]
pub mod diff;
mod event;
mod exec;
mod fault;
mod flags;
mod host;
mod interp;
pub mod irqchip;
mod mmu;
mod state;
mod translate;
mod vm;

pub use cpu::Tier;
pub use vm::{Choices, SoftVm};
