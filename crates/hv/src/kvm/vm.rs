//! One machine in KVM.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KVM_PIT_SPEAKER_DUMMY, KvmIrqRouting, Msrs, kvm_clock_data,
    kvm_irq_routing_entry, kvm_irqchip, kvm_msi, kvm_msr_entry, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::vcpu::KvmVcpu;
use super::{MSR_ARCH_CAPABILITIES, convert, cpuid, host, open, restrict};
use crate::clock::{ClockState, host_tsc_khz};
use crate::cpu_model::CpuModel;
use crate::memory::{Memory, Sharing};
use crate::state::{IOAPIC_PINS, IrqchipState};
use crate::vcpu::Vcpu;
use crate::vm::{Backend, Doorbell, Level, Logging, Msi, Vm, VmError};

/// Three pages that KVM wants on Intel's processors, in the hole for devices.
const TSS_ADDRESS: usize = 0xfffb_d000;
/// One more.
const IDENTITY_MAP: u64 = 0xfffb_c000;
/// The highest number that an MSI route may have.
const MAX_GSI: u32 = 4095;

/// A machine run by the processor.
pub struct KvmVm {
    kvm: Kvm,
    vm: VmFd,
    memory: Memory,
    model: CpuModel,
    routes: Mutex<BTreeMap<u32, Msi>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn chip_entry(gsi: u32, chip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip.irqchip = chip;
    entry.u.irqchip.pin = pin;
    entry
}

fn msi_entry(gsi: u32, msi: Msi) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi.address_lo = msi.address as u32;
    entry.u.msi.address_hi = (msi.address >> 32) as u32;
    entry.u.msi.data = msi.data;
    entry
}

/// KVM's width and value of a doorbell: any width and value, or four bytes with one value.
fn at(bell: Doorbell) -> IoEventAddress {
    IoEventAddress::Mmio(bell.gpa)
}

impl KvmVm {
    /// A machine with this memory and, as far as the host has it, this processor model.
    ///
    /// # Errors
    /// There is no KVM, it lacks something, or the host's processor can't run the model.
    pub fn new(memory: Memory, model: &CpuModel) -> Result<Self, VmError> {
        let kvm = open()?;
        let model = restrict(&kvm, model)?;
        let vm = kvm.create_vm().map_err(host("KVM_CREATE_VM"))?;
        vm.set_identity_map_address(IDENTITY_MAP).map_err(host("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(TSS_ADDRESS).map_err(host("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip().map_err(host("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        vm.create_pit2(pit).map_err(host("KVM_CREATE_PIT2"))?;
        let vm = Self { kvm, vm, memory, model, routes: Mutex::default() };
        vm.set_memory(Logging::Off)?;
        vm.set_routes(&BTreeMap::new())?;
        Ok(vm)
    }

    /// The model that machines on this host would have.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn possible_model(model: &CpuModel) -> Result<CpuModel, VmError> {
        restrict(&open()?, model)
    }

    fn set_memory(&self, logging: Logging) -> Result<(), VmError> {
        for (slot, region) in self.memory.regions().iter().enumerate() {
            let log = if logging == Logging::On { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
            let read_only = if region.sharing == Sharing::ReadOnly { KVM_MEM_READONLY } else { 0 };
            let slot = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: log | read_only,
                guest_phys_addr: region.range.gpa,
                memory_size: region.range.size,
                userspace_addr: region.host as u64,
            };
            // SAFETY: the range is a mapping that `self.memory` keeps for as long as the machine, and no Rust reference
            // points into it.
            unsafe { self.vm.set_user_memory_region(slot) }.map_err(host("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }

    /// Lines go to the PICs and to the IOAPIC, and the given numbers to MSIs.
    fn set_routes(&self, msis: &BTreeMap<u32, Msi>) -> Result<(), VmError> {
        let pics = (0..16).map(|gsi| {
            let chip = if gsi < 8 { KVM_IRQCHIP_PIC_MASTER } else { KVM_IRQCHIP_PIC_SLAVE };
            chip_entry(gsi, chip, gsi % 8)
        });
        let pins = (0..IOAPIC_PINS as u32).map(|gsi| chip_entry(gsi, KVM_IRQCHIP_IOAPIC, gsi));
        let entries: Vec<_> = pics.chain(pins).chain(msis.iter().map(|(gsi, msi)| msi_entry(*gsi, *msi))).collect();
        let routing = KvmIrqRouting::from_entries(&entries).map_err(|_| VmError::Lacks("room for more MSI routes"))?;
        self.vm.set_gsi_routing(&routing).map_err(host("KVM_SET_GSI_ROUTING"))
    }

    fn chip(&self, chip_id: u32) -> Result<kvm_irqchip, VmError> {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        self.vm.get_irqchip(&mut chip).map_err(host("KVM_GET_IRQCHIP"))?;
        Ok(chip)
    }

    fn now_ns(&self) -> Result<u64, VmError> {
        Ok(self.vm.get_clock().map_err(host("KVM_GET_CLOCK"))?.clock)
    }
}

impl Vm for KvmVm {
    fn backend(&self) -> Backend {
        Backend::Kvm
    }

    fn memory(&self) -> &Memory {
        &self.memory
    }

    fn cpu_model(&self) -> &CpuModel {
        &self.model
    }

    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, VmError> {
        let vcpu = self.vm.create_vcpu(index.into()).map_err(host("KVM_CREATE_VCPU"))?;
        vcpu.set_cpuid2(&cpuid(&self.model, index)?).map_err(host("KVM_SET_CPUID2"))?;
        if self.model.features().any(|name| name == "arch_capabilities") {
            let index = MSR_ARCH_CAPABILITIES;
            let entry = kvm_msr_entry { index, data: self.model.arch_capabilities, ..Default::default() };
            let msrs = Msrs::from_entries(&[entry]).map_err(|_| VmError::Lacks("feature MSRs"))?;
            if vcpu.set_msrs(&msrs).map_err(host("KVM_SET_MSRS"))? != 1 {
                return Err(VmError::Msr { index, value: entry.data });
            }
        }
        KvmVcpu::new(vcpu, index, self.memory.clone()).map(|vcpu| Box::new(vcpu) as Box<dyn Vcpu>)
    }

    fn set_irq_line(&self, gsi: u32, level: Level) -> Result<(), VmError> {
        if gsi as usize >= IOAPIC_PINS {
            return Err(VmError::Line(gsi));
        }
        self.vm.set_irq_line(gsi, level == Level::High).map_err(host("KVM_IRQ_LINE"))
    }

    fn signal_msi(&self, msi: Msi) -> Result<(), VmError> {
        let message = kvm_msi {
            address_lo: msi.address as u32,
            address_hi: (msi.address >> 32) as u32,
            data: msi.data,
            ..Default::default()
        };
        // Zero is an interrupt that the guest has blocked: that is its business.
        self.vm.signal_msi(message).map(|_| ()).map_err(host("KVM_SIGNAL_MSI"))
    }

    fn register_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), VmError> {
        self.vm.register_irqfd(event, gsi).map_err(host("KVM_IRQFD"))
    }

    fn unregister_irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), VmError> {
        self.vm.unregister_irqfd(event, gsi).map_err(host("KVM_IRQFD"))
    }

    fn set_msi_route(&self, gsi: u32, msi: Option<Msi>) -> Result<(), VmError> {
        if (gsi as usize) < IOAPIC_PINS || gsi > MAX_GSI {
            return Err(VmError::Line(gsi));
        }
        let mut routes = lock(&self.routes);
        let mut next = routes.clone();
        match msi {
            Some(msi) => next.insert(gsi, msi),
            None => next.remove(&gsi),
        };
        self.set_routes(&next)?;
        *routes = next;
        Ok(())
    }

    fn register_ioeventfd(&self, event: &EventFd, bell: Doorbell) -> Result<(), VmError> {
        match bell.value {
            Some(value) => self.vm.register_ioevent(event, &at(bell), value),
            None => self.vm.register_ioevent(event, &at(bell), NoDatamatch),
        }
        .map_err(host("KVM_IOEVENTFD"))
    }

    fn unregister_ioeventfd(&self, event: &EventFd, bell: Doorbell) -> Result<(), VmError> {
        match bell.value {
            Some(value) => self.vm.unregister_ioevent(event, &at(bell), value),
            None => self.vm.unregister_ioevent(event, &at(bell), NoDatamatch),
        }
        .map_err(host("KVM_IOEVENTFD"))
    }

    fn irqchip(&self) -> Result<IrqchipState, VmError> {
        let pit = self.vm.get_pit2().map_err(host("KVM_GET_PIT2"))?;
        Ok(IrqchipState {
            pics: [convert::pic(&self.chip(KVM_IRQCHIP_PIC_MASTER)?), convert::pic(&self.chip(KVM_IRQCHIP_PIC_SLAVE)?)],
            ioapic: convert::ioapic(&self.chip(KVM_IRQCHIP_IOAPIC)?),
            pit: convert::pit(&pit, self.now_ns()?, convert::port61(&pit)),
        })
    }

    fn set_irqchip(&self, state: &IrqchipState) -> Result<(), VmError> {
        let chips = [
            convert::to_pic(KVM_IRQCHIP_PIC_MASTER, &state.pics[0]),
            convert::to_pic(KVM_IRQCHIP_PIC_SLAVE, &state.pics[1]),
            convert::to_ioapic(&state.ioapic)?,
        ];
        for chip in &chips {
            self.vm.set_irqchip(chip).map_err(host("KVM_SET_IRQCHIP"))?;
        }
        self.vm.set_pit2(&convert::to_pit(&state.pit)).map_err(host("KVM_SET_PIT2"))
    }

    fn clock(&self) -> Result<ClockState, VmError> {
        let clock = self.vm.get_clock().map_err(host("KVM_GET_CLOCK"))?;
        Ok(ClockState { ns: clock.clock, tsc: clock.host_tsc, tsc_khz: host_tsc_khz() })
    }

    fn set_clock(&self, clock: ClockState) -> Result<(), VmError> {
        let clock = kvm_clock_data { clock: clock.ns, ..Default::default() };
        self.vm.set_clock(&clock).map_err(host("KVM_SET_CLOCK"))
    }

    fn log_dirty(&self, logging: Logging) -> Result<(), VmError> {
        self.set_memory(logging)
    }

    fn take_dirty(&self) -> Result<Vec<Vec<u64>>, VmError> {
        let mut dirty = self.memory.take_dirty();
        for (slot, (region, pages)) in self.memory.regions().iter().zip(&mut dirty).enumerate() {
            // While nothing is logged there is no log: ENOENT.
            let log = match self.vm.get_dirty_log(slot as u32, region.range.size as usize) {
                Err(source) if source.errno() == libc::ENOENT => continue,
                log => log.map_err(host("KVM_GET_DIRTY_LOG"))?,
            };
            pages.iter_mut().zip(log).for_each(|(pages, log)| *pages |= log);
        }
        Ok(dirty)
    }
}

impl std::fmt::Debug for KvmVm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvmVm").field("kvm", &self.kvm).field("memory", &self.memory).finish_non_exhaustive()
    }
}
