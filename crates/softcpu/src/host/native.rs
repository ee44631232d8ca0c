//! FP and SIMD instructions run as they are: the host's own unit computes them, bit for bit.
//!
//! For each instruction a stub is made once: it loads the registers that the instruction reads from the [`CpuState`],
//! runs it with its memory operand pointed at the scratch bytes of the state, and stores what it wrote. The interpreter
//! moves guest memory to and from the scratch bytes, so that faults come before anything has changed.

use std::collections::HashMap;
use std::mem::offset_of;

use iced_x86::{Encoder, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};

use super::code::{CodeBuf, Entry};
use super::emit::Code;
use crate::flags;
use crate::state::CpuState;

const SCRATCH: i32 = offset_of!(CpuState, scratch) as i32;
const RFLAGS: i32 = offset_of!(CpuState, rflags) as i32;
const FX: i32 = offset_of!(CpuState, fx) as i32;
/// Where XMM registers start in the FXSAVE image.
const XMM: i32 = FX + 160;
/// MXCSR in the image.
const MXCSR: i32 = FX + 24;
/// In the scratch bytes: an FXSAVE image does not fit, so flags and the host's MXCSR stand behind the operand.
const HOST_MXCSR: i32 = SCRATCH + 72;

/// What of the machine an instruction uses beside general registers and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// XMM registers and MXCSR, or none of the units.
    Sse,
    /// x87 or MMX registers: the whole image is loaded and stored.
    X87,
}

/// A stub for one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stub(Entry);

/// All stubs of a CPU.
pub(crate) struct Natives {
    code: CodeBuf,
    known: HashMap<Instruction, Stub>,
    uses: InstructionInfoFactory,
}

/// What goes in and out of a stub.
#[derive(Default)]
struct Uses {
    gpr_in: u16,
    gpr_out: u16,
    xmm_in: u16,
    xmm_out: u16,
}

impl Natives {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { code: CodeBuf::new(1 << 20)?, known: HashMap::new(), uses: InstructionInfoFactory::new() })
    }

    /// The stub of an instruction; nothing if it can't be encoded for the host. Where it stands in memory doesn't matter.
    pub(crate) fn stub(&mut self, instr: &Instruction, unit: Unit) -> Option<Stub> {
        let mut key = *instr;
        key.set_ip(0);
        if let Some(s) = self.known.get(&key) {
            return Some(*s);
        }
        let code = self.build(&key, unit)?;
        let entry = self.code.push(&code.bytes)?;
        self.known.insert(key, Stub(entry));
        Some(Stub(entry))
    }

    /// Whether there may be no room for the stubs of another block: then all decoded blocks and [`Self::clear`] are due.
    pub(crate) fn nearly_full(&self) -> bool {
        self.code.left() < 1 << 16
    }

    /// Forgets all stubs; no op may hold one any more.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
        self.code.truncate(0);
    }

    fn scan(&mut self, instr: &Instruction) -> Uses {
        let mut u = Uses::default();
        for r in self.uses.info(instr).used_registers() {
            let reg = r.register();
            let (read, write) = match r.access() {
                OpAccess::Read | OpAccess::CondRead => (true, false),
                OpAccess::Write => (false, true),
                OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite => (true, true),
                _ => (false, false),
            };
            if reg.is_xmm() {
                let bit = 1 << reg.number();
                // A part of the register may stay as it is.
                u.xmm_in |= bit;
                if write {
                    u.xmm_out |= bit;
                }
            } else if reg.is_gpr() {
                let bit = 1 << reg.full_register().number();
                if read || write {
                    u.gpr_in |= bit;
                }
                if write {
                    u.gpr_out |= bit;
                }
            }
        }
        u
    }

    fn build(&mut self, instr: &Instruction, unit: Unit) -> Option<Code> {
        let mut instr = *instr;
        let has_mem = (0..instr.op_count()).any(|i| instr.op_kind(i) == OpKind::Memory);
        if has_mem {
            // The address registers are not the stub's business.
            set_mem(&mut instr, Register::RAX);
        }
        if instr.op_count() > 0
            && (0..instr.op_count())
                .any(|i| matches!(instr.op_kind(i), OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI))
        {
            return None;
        }
        let mut uses = self.scan(&instr);
        if has_mem {
            uses = self.without_base(&instr, uses);
        }
        let state = [11_u8, 10, 9, 8].into_iter().find(|r| uses.gpr_in & (1 << r) == 0)?;
        if has_mem {
            set_mem(&mut instr, gpr64(state));
        }
        let stack = rename_stack(&mut instr, &mut uses, state)?;
        let reads_flags = instr.rflags_read() != 0;
        let writes_flags = instr.rflags_modified() != 0;
        let mut c = Code::default();
        for r in [3, 5, 12, 13, 14, 15] {
            c.push(r);
        }
        c.mov(state, 7);
        if unit == Unit::X87 {
            c.fx_group(1, state, FX);
        } else {
            c.fx_group(3, state, HOST_MXCSR);
            c.fx_group(2, state, MXCSR);
            each(uses.xmm_in, |x| c.load_xmm(x, state, XMM + 16 * i32::from(x)));
        }
        if reads_flags {
            c.push_mem(state, RFLAGS);
            // and dword [rsp], the six
            c.raw(&[0x81, 0x24, 0x24]);
            c.u32(flags::ARITH as u32);
            c.popfq();
        }
        each(uses.gpr_in, |r| {
            let guest = if Some(r) == stack { 4 } else { r };
            c.load(r, state, 8 * i32::from(guest));
        });
        let mut enc = Encoder::new(64);
        enc.encode(&instr, 0).ok()?;
        c.raw(&enc.take_buffer());
        if writes_flags {
            c.pushfq();
            // pop [state + scratch + 64]
            c.raw(&[0x41, 0x8f, 0x80 | (state & 7)]);
            c.u32((SCRATCH + 64) as u32);
        }
        each(uses.gpr_out, |r| {
            let guest = if Some(r) == stack { 4 } else { r };
            c.store(state, 8 * i32::from(guest), r);
        });
        if unit == Unit::X87 {
            c.fx_group(0, state, FX);
        } else {
            each(uses.xmm_out, |x| c.store_xmm(state, XMM + 16 * i32::from(x), x));
            c.fx_group(3, state, MXCSR);
            c.fx_group(2, state, HOST_MXCSR);
        }
        for r in [15, 14, 13, 12, 5, 3] {
            c.pop(r);
        }
        c.ret();
        Some(c)
    }

    /// The base register that stands for the memory operand is in use only if another operand names it too.
    fn without_base(&mut self, instr: &Instruction, with: Uses) -> Uses {
        let mut other = *instr;
        set_mem(&mut other, Register::RCX);
        let seen = self.scan(&other);
        Uses {
            gpr_in: with.gpr_in & seen.gpr_in,
            gpr_out: with.gpr_out & seen.gpr_out,
            xmm_in: with.xmm_in,
            xmm_out: with.xmm_out,
        }
    }

    /// Runs a stub on a state. MXCSR and the x87 control word in it have every exception masked, the caller sees to that.
    pub(crate) fn run(&self, stub: Stub, state: &mut CpuState) {
        assert!((stub.0.0 as usize) < self.code.used(), "a stub of another CPU");
        let at = self.code.address(stub.0) as *const ();
        // SAFETY: `at` is code that `build` made with this signature: it changes the state and caller-saved registers only.
        let f: extern "sysv64" fn(*mut CpuState) = unsafe { std::mem::transmute(at) };
        f(state);
        // Where the host's unit stood is an address of ours, and no guest's business; newer processors tell it only behind exceptions.
        state.fx.0[LAST_INSTRUCTION..LAST_OPERAND + 8].fill(0);
    }
}

/// Of the last x87 instruction: its address, and its operand's, in the image that fxsave makes.
/// Source: Intel SDM volume 1, table 10-2.
pub(super) const LAST_INSTRUCTION: usize = 8;
pub(super) const LAST_OPERAND: usize = 16;

fn each(set: u16, mut f: impl FnMut(u8)) {
    for r in 0..16 {
        if set & (1 << r) != 0 {
            f(r);
        }
    }
}

/// The general register with a number, 64 bits wide.
pub(crate) fn gpr64(n: u8) -> Register {
    const ALL: [Register; 16] = [
        Register::RAX,
        Register::RCX,
        Register::RDX,
        Register::RBX,
        Register::RSP,
        Register::RBP,
        Register::RSI,
        Register::RDI,
        Register::R8,
        Register::R9,
        Register::R10,
        Register::R11,
        Register::R12,
        Register::R13,
        Register::R14,
        Register::R15,
    ];
    ALL[usize::from(n & 15)]
}

fn set_mem(instr: &mut Instruction, base: Register) {
    instr.set_segment_prefix(Register::None);
    instr.set_memory_base(base);
    instr.set_memory_index(Register::None);
    instr.set_memory_index_scale(1);
    instr.set_memory_displacement64(SCRATCH as u64);
    instr.set_memory_displ_size(8);
}

/// The host's stack pointer is not the guest's: another register plays it. Returns which.
fn rename_stack(instr: &mut Instruction, uses: &mut Uses, state: u8) -> Option<Option<u8>> {
    if uses.gpr_in & (1 << 4) == 0 {
        return Some(None);
    }
    let spare = [15_u8, 14, 13, 12].into_iter().find(|&r| r != state && uses.gpr_in & (1 << r) == 0)?;
    for i in 0..instr.op_count() {
        if instr.op_kind(i) != OpKind::Register {
            continue;
        }
        let r = instr.op_register(i);
        if r.is_gpr() && r.full_register() == Register::RSP {
            let size = r.size();
            let base = match size {
                1 => Register::R8L,
                2 => Register::R8W,
                4 => Register::R8D,
                _ => Register::R8,
            };
            instr.set_op_register(i, base + u32::from(spare - 8));
        }
    }
    for set in [&mut uses.gpr_in, &mut uses.gpr_out] {
        if *set & (1 << 4) != 0 {
            *set = (*set & !(1 << 4)) | (1 << spare);
        }
    }
    Some(Some(spare))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_operands_are_encoded() {
        let i = iced_x86::Decoder::new(64, &[0x66, 0x0f, 0x28, 0x3a], 0).decode();
        let mut i2 = i;
        set_mem(&mut i2, Register::R11);
        Encoder::new(64).encode(&i2, 0).unwrap();
        Natives::new().unwrap().stub(&i, Unit::Sse).unwrap();
    }
}
