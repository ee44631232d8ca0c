//! What one virtual CPU holds, and how its modes are told apart.

use crate::flags;

/// Index of the stack pointer among the general registers, which are numbered as in instructions.
pub(crate) const RSP: usize = 4;
pub(crate) const RAX: usize = 0;
pub(crate) const RCX: usize = 1;
pub(crate) const RDX: usize = 2;
pub(crate) const RBX: usize = 3;
pub(crate) const RBP: usize = 5;
pub(crate) const RSI: usize = 6;
pub(crate) const RDI: usize = 7;
pub(crate) const R11: usize = 11;

/// Segment registers by their number in instructions.
pub(crate) const ES: usize = 0;
pub(crate) const CS: usize = 1;
pub(crate) const SS: usize = 2;
pub(crate) const DS: usize = 3;
pub(crate) const FS: usize = 4;
pub(crate) const GS: usize = 5;

pub(crate) const CR0_PE: u64 = 1 << 0;
pub(crate) const CR0_MP: u64 = 1 << 1;
pub(crate) const CR0_EM: u64 = 1 << 2;
pub(crate) const CR0_TS: u64 = 1 << 3;
pub(crate) const CR0_ET: u64 = 1 << 4;
pub(crate) const CR0_NE: u64 = 1 << 5;
pub(crate) const CR0_WP: u64 = 1 << 16;
pub(crate) const CR0_AM: u64 = 1 << 18;
pub(crate) const CR0_NW: u64 = 1 << 29;
pub(crate) const CR0_CD: u64 = 1 << 30;
pub(crate) const CR0_PG: u64 = 1 << 31;

pub(crate) const CR4_TSD: u64 = 1 << 2;
pub(crate) const CR4_DE: u64 = 1 << 3;
pub(crate) const CR4_PSE: u64 = 1 << 4;
pub(crate) const CR4_PAE: u64 = 1 << 5;
pub(crate) const CR4_PGE: u64 = 1 << 7;
pub(crate) const CR4_PCE: u64 = 1 << 8;
pub(crate) const CR4_OSFXSR: u64 = 1 << 9;
pub(crate) const CR4_OSXMMEXCPT: u64 = 1 << 10;
pub(crate) const CR4_UMIP: u64 = 1 << 11;
pub(crate) const CR4_FSGSBASE: u64 = 1 << 16;
pub(crate) const CR4_PCIDE: u64 = 1 << 17;
pub(crate) const CR4_SMEP: u64 = 1 << 20;
pub(crate) const CR4_SMAP: u64 = 1 << 21;

pub(crate) const EFER_SCE: u64 = 1 << 0;
pub(crate) const EFER_LME: u64 = 1 << 8;
pub(crate) const EFER_LMA: u64 = 1 << 10;
pub(crate) const EFER_NXE: u64 = 1 << 11;

/// Bits of [`Segment::attr`], as VMX and KVM lay them out: type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15.
pub(crate) const ATTR_S: u32 = 1 << 4;
pub(crate) const ATTR_P: u32 = 1 << 7;
pub(crate) const ATTR_L: u32 = 1 << 13;
pub(crate) const ATTR_DB: u32 = 1 << 14;
pub(crate) const ATTR_G: u32 = 1 << 15;
/// A null selector was loaded: any use faults.
pub(crate) const ATTR_UNUSABLE: u32 = 1 << 16;

/// A segment register with its hidden part.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Linear address of its first byte.
    pub base: u64,
    /// Last valid offset, in bytes whatever the granularity.
    pub limit: u32,
    /// Access rights: type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16.
    pub attr: u32,
    /// The visible part.
    pub selector: u16,
}

impl Segment {
    pub(crate) fn dpl(&self) -> u8 {
        ((self.attr >> 5) & 3) as u8
    }

    pub(crate) fn kind(&self) -> u32 {
        self.attr & 0xf
    }

    pub(crate) fn usable(&self) -> bool {
        self.attr & ATTR_UNUSABLE == 0
    }

    /// Whether data may be read and written at every offset.
    pub(crate) fn whole(&self) -> bool {
        // Present; of system, code, expanding downwards, writable, only the last.
        const ASKED: u32 = ATTR_P | ATTR_S | 0b1110 | ATTR_UNUSABLE;
        self.limit == u32::MAX && self.attr & ASKED == ATTR_P | ATTR_S | 2
    }

    fn real(selector: u16, attr: u32) -> Self {
        Self { base: u64::from(selector) << 4, limit: 0xffff, attr, selector }
    }
}

/// GDTR or IDTR.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Linear address.
    pub base: u64,
    /// Last valid offset in bytes.
    pub limit: u16,
}

/// The image that FXSAVE writes: x87, MMX and SSE registers.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fx(pub [u8; 512]);

impl Fx {
    /// Whether no exception of FP and SIMD is wanted, and none waits.
    pub(crate) fn masked(&self) -> bool {
        let vectors = self.0[24] & 0x80 != 0 && self.0[25] & 0x1f == 0x1f;
        // Of x87: the masks of the control word, and the summary of the status.
        vectors && self.0[0] & 0x3f == 0x3f && self.0[2] & 0x80 == 0
    }
}

impl Default for Fx {
    fn default() -> Self {
        let mut a = [0; 512];
        a[0] = 0x7f;
        a[1] = 0x03;
        a[24] = 0x80;
        a[25] = 0x1f;
        a[28] = 0xff;
        a[29] = 0xff;
        Self(a)
    }
}

impl std::fmt::Debug for Fx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fx(..)")
    }
}

/// How the CPU decodes: the three sizes of code segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum CodeSize {
    Bits16 = 0,
    Bits32 = 1,
    Bits64 = 2,
}

/// Which page permissions apply to a data access: an index into the TLB's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum View {
    /// Supervisor; user pages are out of reach if SMAP is on.
    Kernel = 0,
    /// CPL 3.
    User = 1,
    /// Supervisor with EFLAGS.AC set: user pages are in reach.
    KernelAc = 2,
}

/// One virtual CPU's registers. `repr(C)`: translated code uses the offsets.
#[repr(C, align(64))]
#[derive(Clone, Debug)]
pub(crate) struct CpuState {
    /// rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
    pub gpr: [u64; 16],
    /// Where the next instruction is (offset in CS).
    pub rip: u64,
    /// All of RFLAGS.
    pub rflags: u64,
    /// Where data of the instruction that runs natively stands: 64 bytes and room to keep an address's low four bits.
    pub scratch: [u64; 12],
    /// x87, MMX and SSE.
    pub fx: Fx,
    /// es, cs, ss, ds, fs, gs.
    pub seg: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: Table,
    /// Interrupt descriptor table.
    pub idtr: Table,
    /// Control register 0.
    pub cr0: u64,
    /// Address of the last page fault.
    pub cr2: u64,
    /// Page-table root.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended features.
    pub efer: u64,
    /// Extended control register 0.
    pub xcr0: u64,
    /// Debug registers.
    pub dr: [u64; 8],
    /// Model-specific registers.
    pub msr: Msrs,
    /// The current privilege level.
    pub cpl: u8,
    /// `sti` or `mov ss` just ran: no interrupt before the next instruction is over.
    pub shadow: bool,
    /// It was a load of ss: debug exceptions wait for the next instruction too.
    pub shadow_debug: bool,
    /// An NMI is being handled: no other before IRET.
    pub nmi_blocked: bool,
    /// NMIs that wait: for IRET, or for the end of a shadow.
    pub nmi_pending: u8,
    /// `hlt` ran and nothing has woken the CPU.
    pub halted: bool,
    /// Address of a page fault on its way to CR2.
    pub fault_address: u64,
    /// Debug conditions met by the instruction that runs (bits of DR6).
    pub debug_hits: u64,
    /// Instructions completed.
    pub instructions: u64,
}

/// Model-specific registers that hold plain values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Msrs {
    /// STAR.
    pub star: u64,
    /// LSTAR.
    pub lstar: u64,
    /// CSTAR.
    pub cstar: u64,
    /// SFMASK.
    pub sfmask: u64,
    /// KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// SYSENTER_CS.
    pub sysenter_cs: u64,
    /// SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// PAT.
    pub pat: u64,
    /// TSC_AUX.
    pub tsc_aux: u64,
    /// What is added to the host-derived counter.
    pub tsc_offset: u64,
    /// MISC_ENABLE.
    pub misc_enable: u64,
    /// MTRR default type.
    pub mtrr_def: u64,
    /// MTRR fixed ranges: 64k, 16k x2, 4k x8.
    pub mtrr_fixed: [u64; 11],
    /// MTRR variable ranges: base, mask.
    pub mtrr_var: [u64; 16],
    /// SPEC_CTRL.
    pub spec_ctrl: u64,
}

impl Default for CpuState {
    /// The state after reset. Source: Intel SDM volume 3A, table 10-1.
    fn default() -> Self {
        let data = Segment::real(0, 0x93);
        let mut cs = Segment::real(0xf000, 0x9b);
        cs.base = 0xffff_0000;
        let mut gpr = [0; 16];
        gpr[RDX] = 0x600;
        Self {
            gpr,
            rip: 0xfff0,
            rflags: flags::ONE,
            scratch: [0; 12],
            fx: Fx::default(),
            seg: [data, cs, data, data, data, data],
            ldtr: Segment::real(0, 0x82),
            tr: Segment::real(0, 0x8b),
            gdtr: Table { base: 0, limit: 0xffff },
            idtr: Table { base: 0, limit: 0xffff },
            cr0: CR0_ET | CR0_NW | CR0_CD,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 1,
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            msr: Msrs { pat: 0x0007_0406_0007_0406, misc_enable: 1, ..Msrs::default() },
            cpl: 0,
            shadow: false,
            shadow_debug: false,
            nmi_blocked: false,
            nmi_pending: 0,
            halted: false,
            fault_address: 0,
            debug_hits: 0,
            instructions: 0,
        }
    }
}

impl CpuState {
    pub(crate) fn long_mode(&self) -> bool {
        self.efer & EFER_LMA != 0
    }

    pub(crate) fn protected(&self) -> bool {
        self.cr0 & CR0_PE != 0
    }

    pub(crate) fn v8086(&self) -> bool {
        self.rflags & flags::VM != 0
    }

    pub(crate) fn code_size(&self) -> CodeSize {
        let a = self.seg[CS].attr;
        if self.long_mode() && a & ATTR_L != 0 {
            CodeSize::Bits64
        } else if a & ATTR_DB != 0 {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        }
    }

    /// Whether CS holds 64-bit code.
    pub(crate) fn code64(&self) -> bool {
        self.long_mode() && self.seg[CS].attr & ATTR_L != 0
    }

    /// Whether CS holds 32-bit code and segments play no part in it, but fs and gs.
    pub(crate) fn flat32(&self) -> bool {
        let (cs, ss) = (&self.seg[CS], &self.seg[SS]);
        let flat = |s: &Segment| s.base == 0 && s.whole();
        self.code_size() == CodeSize::Bits32
            && self.protected()
            && cs.base == 0
            && cs.limit == u32::MAX
            && ss.attr & ATTR_DB != 0
            && flat(ss)
            && flat(&self.seg[DS])
            && flat(&self.seg[ES])
            && self.rip <= u64::from(u32::MAX)
    }

    pub(crate) fn view(&self) -> View {
        if self.cpl == 3 {
            View::User
        } else if self.rflags & flags::AC != 0 || self.cr4 & CR4_SMAP == 0 {
            View::KernelAc
        } else {
            View::Kernel
        }
    }

    /// Mask of the stack pointer's width.
    pub(crate) fn stack_mask(&self) -> u64 {
        if self.code64() {
            u64::MAX
        } else if self.seg[SS].attr & ATTR_DB != 0 {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    pub(crate) fn iopl(&self) -> u8 {
        ((self.rflags & flags::IOPL) >> 12) as u8
    }

    /// Whether debug exceptions wait for the end of the next instruction.
    pub(crate) fn debug_waits(&self) -> bool {
        self.shadow && self.shadow_debug
    }

    /// Whether an NMI can be taken now.
    pub(crate) fn nmi_due(&self) -> bool {
        self.nmi_pending > 0 && !self.nmi_blocked && !self.shadow
    }

    /// Whether data at odd addresses fault: at level 3, if both the system and the program ask for it.
    pub(crate) fn checks_alignment(&self) -> bool {
        self.cpl == 3 && self.rflags & flags::AC != 0 && self.cr0 & CR0_AM != 0
    }

    /// Registers after a start-up IPI: real mode at `page` << 12. Source: SDM volume 3A, section 9.4.
    pub(crate) fn start_up(&mut self, page: u8) {
        self.seg[CS] = Segment::real(u16::from(page) << 8, 0x9b);
        self.rip = 0;
        self.halted = false;
    }
}
