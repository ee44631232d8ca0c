//! A vCPU's board: the machine's interrupt controllers, clock, doorbells and bus, as the CPU reaches them.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use hv::clock::{MSR_SYSTEM_TIME, MSR_WALL_CLOCK};
use vm_memory::{Bytes, GuestAddress};

use super::slot::Slot;
use super::{Machine, lock};
use crate::exec::{Board, First};

/// The numbers that KVM's clock had first. CPUID doesn't name them, as with KVM they are there nevertheless.
const OLD_WALL_CLOCK: u32 = 0x11;
const OLD_SYSTEM_TIME: u32 = 0x12;
/// IA32_ARCH_CAPABILITIES.
const ARCH_CAPABILITIES: u32 = 0x10a;

/// CPUID leaf 1, EDX: there is a local APIC and it is on.
const APIC: u32 = 1 << 9;

pub(super) struct VcpuBoard<'a> {
    pub(super) machine: &'a Machine,
    pub(super) bus: &'a dyn hv::Bus,
    pub(super) index: u32,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |v, &b| (v << 8) | u64::from(b))
}

impl VcpuBoard<'_> {
    fn slot(&self) -> &Slot {
        &self.machine.slots.0[self.index as usize]
    }

    /// Of all other vCPUs.
    fn others(&self) -> impl Iterator<Item = &Slot> {
        let all = self.machine.slots.0.iter().enumerate();
        all.filter(|(index, _)| *index as u32 != self.index).map(|(_, slot)| slot)
    }

    /// After anything that may have set a timer.
    fn timer_changed(&self) {
        let due = self.machine.irqchip.due(self.index);
        if due <= self.machine.clock.tsc() || self.machine.shared.counted.is_some() {
            // It comes with the next instruction, not when the timer's thread gets round to it.
            self.slot().wake();
        } else {
            self.machine.timer.arm(due);
        }
    }

    /// Rings a doorbell; false if none is there.
    fn ring(&self, gpa: u64, size: usize, v: u64) -> bool {
        let bells = self.machine.doorbells.read().unwrap_or_else(PoisonError::into_inner);
        for (bell, event) in bells.iter() {
            if bell.gpa == gpa && bell.value.is_none_or(|want| size == 4 && u64::from(want) == v) {
                // A full counter has been rung already.
                let _ = event.write(1);
                return true;
            }
        }
        false
    }

    fn write_wall_clock(&self, gpa: u64) {
        let page = self.machine.clock.wall_clock(2);
        // A guest that names an address without memory gets no time.
        let _ = self.machine.memory.ram().write_slice(&page, GuestAddress(gpa));
    }
}

impl Board for VcpuBoard<'_> {
    fn mmio_read(&self, gpa: u64, size: usize) -> u64 {
        let mut bytes = [0; 8];
        if !self.machine.irqchip.mmio_read(self.index, gpa, &mut bytes[..size]) {
            self.bus.mmio_read(gpa, &mut bytes[..size]);
        }
        number(&bytes[..size])
    }

    fn mmio_write(&self, gpa: u64, size: usize, v: u64) {
        let bytes = v.to_le_bytes();
        if self.machine.irqchip.mmio_write(self.index, gpa, &bytes[..size]) {
            self.timer_changed();
        } else if !self.ring(gpa, size, v) {
            self.bus.mmio_write(gpa, &bytes[..size]);
        }
    }

    fn input(&self, port: u16, size: usize) -> u32 {
        if size == 1
            && let Some(v) = self.machine.irqchip.pio_in(port)
        {
            return u32::from(v);
        }
        let mut bytes = [0; 4];
        self.bus.pio_in(port, &mut bytes[..size]);
        number(&bytes[..size]) as u32
    }

    fn output(&self, port: u16, size: usize, v: u32) {
        if size == 1 && self.machine.irqchip.pio_out(port, v as u8) {
            self.timer_changed();
            return;
        }
        self.bus.pio_out(port, &v.to_le_bytes()[..size]);
    }

    fn cpuid(&self, leaf: u32, sub: u32) -> [u32; 4] {
        let mut registers = self.machine.model.cpuid(self.index, leaf, sub);
        if leaf == 1 && !self.machine.irqchip.enabled(self.index) {
            registers[3] &= !APIC;
        }
        registers
    }

    fn rdmsr(&self, index: u32) -> Option<u64> {
        match index {
            ARCH_CAPABILITIES => Some(self.machine.model.arch_capabilities),
            MSR_SYSTEM_TIME | OLD_SYSTEM_TIME => Some(lock(&self.slot().clock).system_time),
            MSR_WALL_CLOCK | OLD_WALL_CLOCK => Some(lock(&self.slot().clock).wall_clock),
            _ => self.machine.irqchip.read_msr(self.index, index)?.ok(),
        }
    }

    fn wrmsr(&self, index: u32, v: u64) -> bool {
        match index {
            MSR_SYSTEM_TIME | OLD_SYSTEM_TIME => {
                lock(&self.slot().clock).system_time = v;
                self.slot().write_time(&self.machine.clock, &self.machine.memory);
                true
            }
            MSR_WALL_CLOCK | OLD_WALL_CLOCK => {
                lock(&self.slot().clock).wall_clock = v;
                self.write_wall_clock(v);
                true
            }
            _ => match self.machine.irqchip.write_msr(self.index, index, v) {
                Some(done) => {
                    self.timer_changed();
                    done.is_ok()
                }
                None => false,
            },
        }
    }

    fn tsc(&self) -> u64 {
        self.machine.clock.tsc()
    }

    fn tsc_offset(&self) -> u64 {
        self.machine.clock.tsc_offset()
    }

    fn cr8(&self) -> u64 {
        u64::from(self.machine.irqchip.cr8(self.index))
    }

    fn set_cr8(&self, v: u64) {
        self.machine.irqchip.set_cr8(self.index, v as u8);
    }

    fn attention(&self) -> bool {
        self.slot().attention()
    }

    fn attention_flag(&self) -> *const u8 {
        self.slot().attention_flag()
    }

    fn vector_waits(&self) -> bool {
        self.machine.irqchip.has_vector(self.index)
    }

    fn send(&self, id: u32, command: u32) -> bool {
        self.machine.irqchip.send_to(id, command)
    }

    fn dirty(&self, gpa: u64) {
        if self.machine.logging.load(Ordering::Relaxed)
            && let Some((region, offset)) = self.machine.memory.find(gpa, 1)
        {
            region.tracker().mark_written(offset, 1);
        }
    }

    fn decoded(&self, gpa: u64, len: u64, first: First) {
        if let Some((region, offset)) = self.machine.memory.find(gpa, 1) {
            region.tracker().mark_code(offset, len);
        }
        if first == First::Yes {
            self.others().for_each(|slot| slot.code(gpa));
        }
    }

    fn overwritten(&self) {
        self.others().for_each(Slot::wake);
    }
}
