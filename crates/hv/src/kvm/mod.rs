//! The backend on `/dev/kvm`, with KVM's own interrupt controllers, timer and clock.
//!
//! Source: Linux `Documentation/virt/kvm/api.rst`.

mod convert;
mod vcpu;
mod vm;

pub use vm::KvmVm;

use std::os::fd::{FromRawFd, IntoRawFd};
use std::path::Path;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_msr_entry};
use kvm_ioctls::{Cap, Kvm};
use rustix::fs::OFlags;
use vmm_sys_util::errno;

use crate::cpu_model::{CpuModel, Leaf, NO_WEAKNESS};
use crate::vm::VmError;

/// IA32_ARCH_CAPABILITIES.
const MSR_ARCH_CAPABILITIES: u32 = 0x10a;
/// Version of KVM's interface: the only one there has been since 2007.
const API_VERSION: i32 = 12;

/// What this backend can't do without.
const NEEDED: &[(Cap, &str)] = &[
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::Irqchip, "in-kernel interrupt controller"),
    (Cap::Irqfd, "irqfd"),
    (Cap::Pit2, "in-kernel timer"),
    (Cap::ImmediateExit, "immediate exit"),
    (Cap::TscDeadlineTimer, "TSC deadline timer"),
    (Cap::UserMemory, "user memory"),
    (Cap::ExtCpuid, "CPUID tables"),
];

fn host(what: &'static str) -> impl Fn(errno::Error) -> VmError {
    move |source| VmError::Host { what, source: source.into() }
}

/// Opens `/dev/kvm` and looks whether it has what this backend needs.
fn open() -> Result<Kvm, VmError> {
    let device = sys::handed::open(Path::new("/dev/kvm"), OFlags::RDWR).map_err(|source| {
        VmError::Absent(match source.raw_os_error() {
            Some(libc::ENOENT) => "there is no /dev/kvm (no virtualization in this processor, or it is off)".to_owned(),
            Some(libc::EACCES | libc::EPERM) => "no access to /dev/kvm: join the group kvm".to_owned(),
            _ => format!("/dev/kvm: {source}"),
        })
    })?;
    // SAFETY: the descriptor is open, ours, and given away here; what is no KVM fails at its first request.
    let kvm = unsafe { Kvm::from_raw_fd(device.into_raw_fd()) };
    if kvm.get_api_version() != API_VERSION {
        return Err(VmError::Lacks("interface of version 12"));
    }
    match NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        Some((_, name)) => Err(VmError::Lacks(name)),
        None => Ok(kvm),
    }
}

/// What the host's KVM can give a guest, as a table of CPUID.
fn host_leaves(kvm: &Kvm) -> Result<Vec<Leaf>, VmError> {
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(host("KVM_GET_SUPPORTED_CPUID"))?;
    let mut leaves: Vec<Leaf> = supported
        .as_slice()
        .iter()
        .map(|entry| Leaf {
            function: entry.function,
            index: entry.index,
            registers: [entry.eax, entry.ebx, entry.ecx, entry.edx],
        })
        .collect();
    for leaf in leaves.iter_mut().filter(|leaf| leaf.function == 1) {
        // KVM can these but does not list them: the in-kernel controller's deadline timer, and that it is a hypervisor.
        leaf.registers[2] |= 1 << 24 | 1 << 31;
    }
    Ok(leaves)
}

/// `model` as this host can give it.
fn restrict(kvm: &Kvm, model: &CpuModel) -> Result<CpuModel, VmError> {
    let mut model = model.restricted(&host_leaves(kvm)?).map_err(|missing| VmError::Features(missing.join(", ")))?;
    let wanted = kvm_msr_entry { index: MSR_ARCH_CAPABILITIES, ..Default::default() };
    let mut msrs = Msrs::from_entries(&[wanted]).map_err(|_| VmError::Lacks("feature MSRs"))?;
    let told = kvm.get_msrs(&mut msrs).unwrap_or(0) == 1;
    // The guest has to work around what the host's processor has.
    model.arch_capabilities &= if told { msrs.as_slice()[0].data & NO_WEAKNESS } else { 0 };
    Ok(model)
}

/// A vCPU's table in KVM's form.
fn cpuid(model: &CpuModel, vcpu: u32) -> Result<CpuId, VmError> {
    let entries: Vec<_> = model
        .for_vcpu(vcpu)
        .into_iter()
        .map(|leaf| kvm_cpuid_entry2 {
            function: leaf.function,
            index: leaf.index,
            flags: if matches!(leaf.function, 4 | 7 | 0xb) { kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
            eax: leaf.registers[0],
            ebx: leaf.registers[1],
            ecx: leaf.registers[2],
            edx: leaf.registers[3],
            ..Default::default()
        })
        .collect();
    CpuId::from_entries(&entries).map_err(|_| VmError::Lacks("room for this CPUID table"))
}
