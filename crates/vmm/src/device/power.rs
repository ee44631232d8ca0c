//! The ports of the firmware tables: sleep control, sleep status, reset; and the power button.

use std::sync::Arc;

use hv::{Level, Vm};

use super::Registers;
use crate::acpi::SLEEP_5;
use crate::layout;

/// What the guest asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PowerOrder {
    /// Start again.
    Reset,
    /// Switch off.
    Off,
}

/// The three ports.
pub(crate) struct Power {
    order: Box<dyn Fn(PowerOrder) + Send + Sync>,
}

impl Power {
    pub(crate) fn new(order: Box<dyn Fn(PowerOrder) + Send + Sync>) -> Self {
        Self { order }
    }
}

impl Registers for Power {
    fn read(&self, _offset: u64, into: &mut [u8]) {
        into.fill(0);
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        match (offset, bytes.first()) {
            (0, Some(&SLEEP_5)) => (self.order)(PowerOrder::Off),
            (2, Some(1)) => (self.order)(PowerOrder::Reset),
            _ => {}
        }
    }
}

/// The power button.
pub(crate) struct Button(Arc<dyn Vm>);

impl Button {
    pub(crate) fn new(vm: Arc<dyn Vm>) -> Self {
        Self(vm)
    }

    /// Presses it: what follows is the guest's business.
    pub(crate) fn press(&self) -> Result<(), hv::VmError> {
        self.0.set_irq_line(layout::EVENT_GSI, Level::High)?;
        self.0.set_irq_line(layout::EVENT_GSI, Level::Low)
    }
}
