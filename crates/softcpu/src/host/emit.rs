//! A few x86-64 instructions as bytes: what goes around guest instructions in generated code.
//!
//! Guest instructions themselves are encoded by iced. Memory operands here are `[base + disp32]` always.

use super::jit::PARKED;

/// A general register of the host by number.
pub(crate) type Reg = u8;

/// The host's stack pointer: the core, in translated code.
pub(crate) const RSP_HOST: Reg = 4;
/// Scratch in translated code: the host address of a memory operand.
pub(crate) const R9: Reg = 9;
/// Scratch in translated code.
pub(crate) const R10: Reg = 10;
/// Guest rsp in translated code.
pub(crate) const R11: Reg = 11;

/// Bytes of code under way.
#[derive(Default)]
pub(crate) struct Code {
    pub(crate) bytes: Vec<u8>,
}

impl Code {
    pub(crate) fn u8(&mut self, b: u8) {
        self.bytes.push(b);
    }

    pub(crate) fn raw(&mut self, b: &[u8]) {
        self.bytes.extend_from_slice(b);
    }

    pub(crate) fn u32(&mut self, v: u32) {
        self.raw(&v.to_le_bytes());
    }

    fn rex(&mut self, w: u8, reg: Reg, index: Reg, base: Reg) {
        self.u8(0x40 | (w << 3) | ((reg >> 3) << 2) | ((index >> 3) << 1) | (base >> 3));
    }

    /// ModRM (and SIB) of `[base + disp32]`.
    fn mem(&mut self, reg: Reg, base: Reg, disp: i32) {
        self.u8(0x80 | ((reg & 7) << 3) | (base & 7));
        if base & 7 == 4 {
            self.u8(0x24);
        }
        self.u32(disp as u32);
    }

    fn reg(&mut self, reg: Reg, rm: Reg) {
        self.u8(0xc0 | ((reg & 7) << 3) | (rm & 7));
    }

    /// `mov reg, [base+disp]`, 64 bits.
    pub(crate) fn load(&mut self, reg: Reg, base: Reg, disp: i32) {
        self.rex(1, reg, 0, base);
        self.u8(0x8b);
        self.mem(reg, base, disp);
    }

    /// `mov [base+disp], reg`, 64 bits.
    pub(crate) fn store(&mut self, base: Reg, disp: i32, reg: Reg) {
        self.rex(1, reg, 0, base);
        self.u8(0x89);
        self.mem(reg, base, disp);
    }

    /// `mov reg, [base+disp]`, 32 bits: the upper half becomes zero.
    pub(crate) fn load32(&mut self, reg: Reg, base: Reg, disp: i32) {
        self.rex(0, reg, 0, base);
        self.u8(0x8b);
        self.mem(reg, base, disp);
    }

    /// `mov [base+disp], reg`, 32 bits.
    pub(crate) fn store32(&mut self, base: Reg, disp: i32, reg: Reg) {
        self.rex(0, reg, 0, base);
        self.u8(0x89);
        self.mem(reg, base, disp);
    }

    /// `mov dst, src`, 64 bits.
    pub(crate) fn mov(&mut self, dst: Reg, src: Reg) {
        self.rex(1, src, 0, dst);
        self.u8(0x89);
        self.reg(src, dst);
    }

    /// `movups xmm, [base+disp]`.
    pub(crate) fn load_xmm(&mut self, xmm: Reg, base: Reg, disp: i32) {
        self.rex(0, xmm, 0, base);
        self.raw(&[0x0f, 0x10]);
        self.mem(xmm, base, disp);
    }

    /// `movups [base+disp], xmm`.
    pub(crate) fn store_xmm(&mut self, base: Reg, disp: i32, xmm: Reg) {
        self.rex(0, xmm, 0, base);
        self.raw(&[0x0f, 0x11]);
        self.mem(xmm, base, disp);
    }

    /// `op [base+disp]` of the 0F AE group: 0 fxsave, 1 fxrstor, 2 ldmxcsr, 3 stmxcsr.
    pub(crate) fn fx_group(&mut self, op: u8, base: Reg, disp: i32) {
        self.rex(u8::from(op < 2), 0, 0, base);
        self.raw(&[0x0f, 0xae]);
        self.mem(op, base, disp);
    }

    pub(crate) fn push(&mut self, reg: Reg) {
        if reg >= 8 {
            self.u8(0x41);
        }
        self.u8(0x50 | (reg & 7));
    }

    pub(crate) fn pop(&mut self, reg: Reg) {
        if reg >= 8 {
            self.u8(0x41);
        }
        self.u8(0x58 | (reg & 7));
    }

    /// `push qword [base+disp]`.
    pub(crate) fn push_mem(&mut self, base: Reg, disp: i32) {
        self.rex(0, 0, 0, base);
        self.u8(0xff);
        self.mem(6, base, disp);
    }

    pub(crate) fn pushfq(&mut self) {
        self.u8(0x9c);
    }

    pub(crate) fn popfq(&mut self) {
        self.u8(0x9d);
    }

    pub(crate) fn ret(&mut self) {
        self.u8(0xc3);
    }

    /// Puts the flags away into the core. r10 is lost.
    pub(crate) fn park(&mut self) {
        self.mov(R10, 0);
        // lahf; seto al
        self.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
        self.store(RSP_HOST, PARKED, 0);
        self.mov(0, R10);
    }

    /// Makes the flags that stand parked in the core the host's. r10 is lost.
    pub(crate) fn unpark(&mut self) {
        self.mov(R10, 0);
        self.load(0, RSP_HOST, PARKED);
        // add al, 0x7f; sahf
        self.raw(&[0x04, 0x7f, 0x9e]);
        self.mov(0, R10);
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// `mov reg, imm`, by the shortest form.
    pub(crate) fn mov_imm(&mut self, reg: Reg, v: u64) {
        if v <= u64::from(u32::MAX) {
            if reg >= 8 {
                self.u8(0x41);
            }
            self.u8(0xb8 | (reg & 7));
            self.u32(v as u32);
        } else if v as i64 >= i64::from(i32::MIN) && (v as i64) < 0 {
            self.rex(1, 0, 0, reg);
            self.u8(0xc7);
            self.reg(0, reg);
            self.u32(v as u32);
        } else {
            self.rex(1, 0, 0, reg);
            self.u8(0xb8 | (reg & 7));
            self.raw(&v.to_le_bytes());
        }
    }

    /// `mov qword [base+disp], imm`, if it fits 32 bits with its sign.
    pub(crate) fn store_imm(&mut self, base: Reg, disp: i32, v: i32) {
        self.rex(1, 0, 0, base);
        self.u8(0xc7);
        self.mem(0, base, disp);
        self.u32(v as u32);
    }

    /// `mov dword [base+disp], imm`.
    pub(crate) fn store32_imm(&mut self, base: Reg, disp: i32, v: i32) {
        self.rex(0, 0, 0, base);
        self.u8(0xc7);
        self.mem(0, base, disp);
        self.u32(v as u32);
    }

    /// As [`Self::store_imm`], with a value that is not known yet; returns where it stands.
    pub(crate) fn store_imm_later(&mut self, base: Reg, disp: i32) -> usize {
        self.store_imm(base, disp, 0);
        self.len() - 4
    }

    /// `lea dst, [base+disp]`, 64 bits.
    pub(crate) fn lea(&mut self, dst: Reg, base: Reg, disp: i32) {
        self.rex(1, dst, 0, base);
        self.u8(0x8d);
        self.mem(dst, base, disp);
    }

    /// `lea dst, [base+disp]`, 32 bits: the upper half becomes zero.
    pub(crate) fn lea32(&mut self, dst: Reg, base: Reg, disp: i32) {
        self.rex(0, dst, 0, base);
        self.u8(0x8d);
        self.mem(dst, base, disp);
    }

    /// `jmp [base+disp]`.
    pub(crate) fn jump_mem(&mut self, base: Reg, disp: i32) {
        self.rex(0, 0, 0, base);
        self.u8(0xff);
        self.mem(4, base, disp);
    }

    /// A jump or call with 32 bits of distance that is not known yet; returns where it stands.
    pub(crate) fn branch(&mut self, opcode: &[u8]) -> usize {
        self.raw(opcode);
        self.u32(0);
        self.len() - 4
    }

    /// Makes the branch at `at` lead here.
    pub(crate) fn here(&mut self, at: usize) {
        let distance = (self.len() - at - 4) as u32;
        self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
    }

    /// A branch to an absolute address, with the code itself starting at `start`.
    pub(crate) fn branch_to(&mut self, opcode: &[u8], start: u64, target: u64) {
        self.raw(opcode);
        let next = start + self.len() as u64 + 4;
        self.u32(target.wrapping_sub(next) as u32);
    }

    /// `op reg, [rsp + index + disp]`, 64 bits: index is added as it is.
    pub(crate) fn indexed(&mut self, opcode: u8, reg: Reg, index: Reg, disp: i32) {
        self.rex(1, reg, index, RSP_HOST);
        self.raw(&[opcode, 0x84 | ((reg & 7) << 3), ((index & 7) << 3) | 4]);
        self.u32(disp as u32);
    }

    /// `op reg, [rsp + disp]`, 64 bits.
    pub(crate) fn indexed_none(&mut self, opcode: u8, reg: Reg, disp: i32) {
        self.rex(1, reg, 0, RSP_HOST);
        self.u8(opcode);
        self.mem(reg, RSP_HOST, disp);
    }

    /// `mov dst, src`, 32 bits: the upper half becomes zero.
    pub(crate) fn mov32(&mut self, dst: Reg, src: Reg) {
        self.rex(0, src, 0, dst);
        self.u8(0x89);
        self.reg(src, dst);
    }
}
