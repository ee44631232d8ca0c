//! The numbers of system calls by name, for each interface that a machine's kernel has.

use oci_spec::runtime::Arch;

/// One way into the kernel that filters tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abi {
    X86_64,
    /// 64-bit registers and 32-bit addresses: the numbers of `X86_64` with a bit set, and a few of its own.
    X32,
    X86,
    Aarch64,
    Arm,
}

/// The bit in the numbers of [`Abi::X32`].
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// x32's own numbers, for calls whose structures differ.
///
/// # Source
/// Linux `arch/x86/entry/syscalls/syscall_64.tbl`.
const X32_OWN: [(&str, u32); 36] = [
    ("rt_sigaction", 512),
    ("rt_sigreturn", 513),
    ("ioctl", 514),
    ("readv", 515),
    ("writev", 516),
    ("recvfrom", 517),
    ("sendmsg", 518),
    ("recvmsg", 519),
    ("execve", 520),
    ("ptrace", 521),
    ("rt_sigpending", 522),
    ("rt_sigtimedwait", 523),
    ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525),
    ("timer_create", 526),
    ("mq_notify", 527),
    ("kexec_load", 528),
    ("waitid", 529),
    ("set_robust_list", 530),
    ("get_robust_list", 531),
    ("vmsplice", 532),
    ("move_pages", 533),
    ("preadv", 534),
    ("pwritev", 535),
    ("rt_tgsigqueueinfo", 536),
    ("recvmmsg", 537),
    ("sendmmsg", 538),
    ("process_vm_readv", 539),
    ("process_vm_writev", 540),
    ("setsockopt", 541),
    ("getsockopt", 542),
    ("io_setup", 543),
    ("io_submit", 544),
    ("execveat", 545),
    ("preadv2", 546),
    ("pwritev2", 547),
];

impl Abi {
    /// The machine's own.
    pub(crate) const fn native() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    /// What a profile's architecture means on this machine; `None` for other machines' architectures, whose calls
    /// never arrive here.
    pub(crate) fn of(arch: Arch) -> Option<Self> {
        let abi = match arch {
            Arch::ScmpArchNative => return Some(Self::native()),
            Arch::ScmpArchX86_64 => Self::X86_64,
            Arch::ScmpArchX32 => Self::X32,
            Arch::ScmpArchX86 => Self::X86,
            Arch::ScmpArchAarch64 => Self::Aarch64,
            Arch::ScmpArchArm => Self::Arm,
            _ => return None,
        };
        let is_arm = matches!(abi, Self::Aarch64 | Self::Arm);
        (is_arm == (Self::native() == Self::Aarch64)).then_some(abi)
    }

    /// The kernel's `AUDIT_ARCH_*` value.
    pub(crate) const fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The number of the call `name`, as it arrives in a filter.
    pub(crate) fn number(self, name: &str) -> Option<u32> {
        let found = match self {
            Self::X86_64 => name.parse::<syscalls::x86_64::Sysno>().ok().map(|call| call.id()),
            Self::X32 => {
                let own = X32_OWN.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
                let number = own.or_else(|| Self::X86_64.number(name));
                return number.map(|number| number | X32_BIT);
            }
            Self::X86 => name.parse::<syscalls::x86::Sysno>().ok().map(|call| call.id()),
            Self::Aarch64 => name.parse::<syscalls::aarch64::Sysno>().ok().map(|call| call.id()),
            Self::Arm => arm_number(name),
        };
        found.and_then(|number| u32::try_from(number).ok())
    }
}

/// 32-bit Arm's calls, with its private ones, which lie far above the others.
fn arm_number(name: &str) -> Option<i32> {
    const PRIVATE: i32 = 0x0f_0000;
    match name {
        "breakpoint" => Some(PRIVATE + 1),
        "cacheflush" => Some(PRIVATE + 2),
        "set_tls" => Some(PRIVATE + 5),
        _ => name.parse::<syscalls::arm::Sysno>().ok().map(|call| call.id()),
    }
}
