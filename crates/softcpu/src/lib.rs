//! The software CPU: decodes, interprets and translates guest code where there is no usable KVM.

pub mod irqchip;
