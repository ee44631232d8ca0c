//! The state of processors and interrupt controllers as plain data: what a snapshot keeps, whatever the backend.
//!
//! Registers have the names of the Intel SDM. Byte strings are written in hexadecimal. The layouts of the local APIC's
//! page and of the XSAVE area are the SDM's.

use serde::{Deserialize, Serialize};

/// General registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the registers")]
pub struct Regs {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Segment {
    /// Linear address of the first byte.
    pub base: u64,
    /// Offset of the last byte (granularity applied).
    pub limit: u32,
    /// The visible part.
    pub selector: u16,
    /// Access rights as in bytes 5 and 6 of a descriptor: type, S, DPL, P in bits 0 to 7, AVL, L, D/B, G in bits 12 to 15;
    /// bit 16 set means unusable.
    pub access: u32,
}

/// A descriptor table register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Table {
    /// Linear address.
    pub base: u64,
    /// Offset of the last byte.
    pub limit: u16,
}

/// System registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the registers")]
pub struct Sregs {
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldt: Segment,
    pub gdt: Table,
    pub idt: Table,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    pub apic_base: u64,
}

/// A model-specific register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msr {
    /// Its number.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// An exception on its way to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// Its vector.
    pub vector: u8,
    /// Its error code, if it has one.
    pub error_code: Option<u32>,
}

/// An interrupt on its way to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Injected {
    /// Its vector.
    pub vector: u8,
    /// Whether it comes from an INT instruction.
    pub software: bool,
}

/// What a processor was in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Events {
    /// An exception that is being delivered.
    pub exception: Option<Exception>,
    /// An interrupt that was taken from the local APIC and is being delivered.
    pub interrupt: Option<Injected>,
    /// Interrupts are held off for one instruction: bit 0 after MOV SS, bit 1 after STI.
    pub shadow: u8,
    /// An NMI is waiting.
    pub nmi_pending: bool,
    /// NMIs are held off until IRET.
    pub nmi_masked: bool,
    /// The start-up vector that came by IPI.
    pub sipi_vector: u8,
}

/// Debug registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the registers")]
pub struct DebugRegs {
    pub dr: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,
}

impl Default for DebugRegs {
    fn default() -> Self {
        Self { dr: [0; 4], dr6: 0xffff_0ff0, dr7: 0x400 }
    }
}

/// What a processor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MpState {
    /// It executes.
    #[default]
    Runnable,
    /// It waits for the INIT IPI.
    Uninitialized,
    /// It was initialised and waits for the start-up IPI.
    InitReceived,
    /// It got the start-up IPI and is about to execute.
    SipiReceived,
    /// It executed HLT and waits for an interrupt.
    Halted,
}

/// Bytes of a local APIC's register page that mean something.
pub const LAPIC_SIZE: usize = 1024;
/// Bytes of the part of the XSAVE area that every processor has: the FXSAVE image and the header.
pub const XSAVE_MIN: usize = 576;

/// The state of one vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuState {
    /// General registers.
    pub regs: Regs,
    /// System registers.
    pub sregs: Sregs,
    /// x87, MMX and SSE registers: an XSAVE area in standard form, at least [`XSAVE_MIN`] bytes, XSTATE_BV set.
    #[serde(with = "hex::serde")]
    pub xsave: Vec<u8>,
    /// Extended control register 0.
    pub xcr0: u64,
    /// Model-specific registers, those of [`crate::cpu_model::MSRS`].
    pub msrs: Vec<Msr>,
    /// The local APIC's registers as at its page, [`LAPIC_SIZE`] bytes. The timer's deadline is an MSR.
    #[serde(with = "hex::serde")]
    pub lapic: Vec<u8>,
    /// What it was in the middle of.
    pub events: Events,
    /// Debug registers.
    pub debug: DebugRegs,
    /// What it is doing.
    pub mp_state: MpState,
}

/// One 8259A.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PicState {
    /// Levels of the inputs as last seen.
    pub last_irr: u8,
    /// Requested.
    pub irr: u8,
    /// Masked.
    pub imr: u8,
    /// In service.
    pub isr: u8,
    /// Input of lowest priority plus one: rotation.
    pub priority_add: u8,
    /// Vector of input 0.
    pub irq_base: u8,
    /// Which register a read gives: 0 is IRR, 1 is ISR.
    pub read_reg_select: u8,
    /// Poll command pending.
    pub poll: u8,
    /// Special mask mode.
    pub special_mask: u8,
    /// Next word of the initialisation sequence, 0 when done.
    pub init_state: u8,
    /// End of interrupt is automatic.
    pub auto_eoi: u8,
    /// Priorities rotate with it.
    pub rotate_on_auto_eoi: u8,
    /// Special fully nested mode.
    pub special_fully_nested_mode: u8,
    /// Initialisation has a fourth word.
    pub init4: u8,
    /// Edge or level register: a bit set is level.
    pub elcr: u8,
    /// Bits of the edge or level register that can be set.
    pub elcr_mask: u8,
}

/// Inputs of the IOAPIC.
pub const IOAPIC_PINS: usize = 24;

/// The IOAPIC.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IoapicState {
    /// The index register.
    pub select: u32,
    /// Its id.
    pub id: u32,
    /// Levels of the inputs that have been asserted.
    pub irr: u32,
    /// Redirection entries as registers: [`IOAPIC_PINS`] of them.
    pub redirection: Vec<u64>,
}

/// One channel of the 8254.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PitChannel {
    /// Reload value, 1 to 65536.
    pub count: u32,
    /// The latched count.
    pub latched_count: u16,
    /// Bytes of the latched count still to be read, as the 8254's read state.
    pub count_latched: u8,
    /// The latched status, if any.
    pub status_latched: u8,
    /// The status byte.
    pub status: u8,
    /// State of the read flip-flop: 1 low byte, 2 high byte, 3 low of word, 4 high of word.
    pub read_state: u8,
    /// As `read_state`, for writes.
    pub write_state: u8,
    /// The low byte of a word being written.
    pub write_latch: u8,
    /// 1 low byte, 2 high byte, 3 both.
    pub rw_mode: u8,
    /// 0 to 5.
    pub mode: u8,
    /// Binary-coded decimal.
    pub bcd: u8,
    /// The gate input.
    pub gate: u8,
    /// Guest time at which the count was loaded, nanoseconds of [`crate::clock::ClockState::ns`]; below zero
    /// if that was so long ago that nothing is to come of it.
    pub loaded_ns: i64,
}

/// The 8254 timer and port 0x61.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PitState {
    /// Its three channels.
    pub channels: [PitChannel; 3],
    /// Bits 0 and 1 of port 0x61: gate of channel 2, speaker.
    pub speaker: u8,
}

/// Interrupt controllers and timer that belong to no vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IrqchipState {
    /// Master and slave.
    pub pics: [PicState; 2],
    /// The IOAPIC.
    pub ioapic: IoapicState,
    /// The timer.
    pub pit: PitState,
}
