//! Instructions by which programs and kernels meet: system calls and the way back, interrupt flag, flags on the stack, division.

use iced_x86::{Mnemonic, OpKind, Register};

use super::flags::Flags;
use super::{Access, Cold, Guest, JAE, JNE, Miss, Pace, R9, R10, R11, RSP_HOST, Translator, in_memory, is_memory};
use crate::cpu::BuiltIn;
use crate::flags;
use crate::host::jit::{
    CPL, CR4, HOST_TSC_OFFSET, PARKED, PENDING, RFLAGS, SPARE, TSC_AUX, TSC_OFFSET, gpr, segment_base, segment_rights,
    segment_selector,
};
use crate::interp::far::{Call, call_segments, return_segments};
use crate::state::{CR4_FSGSBASE, CR4_SMAP, CR4_TSD, CS, EFER_SCE, FS, GS, SS, Segment, View};

/// `jbe rel32`.
const JBE: &[u8] = &[0x0f, 0x86];
/// `je rel32`.
const JE: &[u8] = &[0x0f, 0x84];

/// The view of a kernel behind `syscall`; no answer if its start is not as plain as operating systems have it.
pub(super) fn call_view(b: &BuiltIn) -> Option<View> {
    let cleared = flags::ARITH | flags::IF | flags::TF | flags::AC;
    let plain = b.efer & EFER_SCE != 0 && b.sfmask & cleared == cleared && crate::mmu::canonical(b.lstar);
    let view = if b.cr4 & CR4_SMAP != 0 { View::Kernel } else { View::KernelAc };
    plain.then_some(view)
}

impl Translator<'_> {
    /// `op byte [rsp + disp], imm` of the 80 group.
    fn byte_group(&mut self, op: u8, disp: i32, v: u8) {
        self.code.raw(&[0x80, 0x84 | (op << 3), 0x24]);
        self.code.u32(disp as u32);
        self.code.u8(v);
    }

    /// A branch that is taken if an interrupt waits for the CPU to take interrupts. Flags are lost.
    fn branch_if_pending(&mut self) -> usize {
        self.byte_group(7, PENDING, 0);
        self.code.branch(JNE)
    }

    /// sti: nothing is between it and the next instruction but a look at what waits.
    pub(super) fn set_interrupt_flag(&mut self, g: &Guest, behind: usize) -> Option<()> {
        // The next instruction must follow without a way out, as no interrupt comes before it.
        if g.instr.mnemonic() != Mnemonic::Sti || self.place.view == View::User || behind == 0 {
            return None;
        }
        self.free_flags(g);
        // test byte [rflags + 1], 2
        self.code.raw(&[0xf6, 0x84, 0x24]);
        self.code.u32((RFLAGS + 1) as u32);
        self.code.u8(2);
        let already = self.code.branch(JNE);
        let slow = self.branch_if_pending();
        self.byte_group(1, RFLAGS + 1, 2);
        self.code.here(already);
        self.slow_step(g, behind, vec![slow.into()], self.flags);
        Some(())
    }

    /// pushfq, and pushfd in 32-bit code.
    pub(super) fn push_flags(&mut self, g: &Guest, behind: usize) -> Option<()> {
        let own = if self.narrow() { Mnemonic::Pushfd } else { Mnemonic::Pushfq };
        if g.instr.mnemonic() != own {
            return None;
        }
        let word = self.word();
        let before = self.flags;
        self.placed = None;
        self.fetch_flags();
        self.code.pushfq();
        self.code.pop(R10);
        self.code.store(RSP_HOST, SPARE, R10);
        self.lea_word(R9, R11, -(word as i32));
        if before != Flags::Parked {
            self.park();
        }
        // They are still parked if they were.
        self.flags = Flags::Parked;
        let slow = self.window_lookup(Access::Write, word);
        self.code.load(R10, RSP_HOST, SPARE);
        self.and_r10(flags::ARITH as u32);
        self.code.store(RSP_HOST, SPARE, R10);
        self.code.load(R10, RSP_HOST, RFLAGS);
        self.and_r10(!(flags::ARITH | flags::VM | flags::RF) as u32);
        // or r10, [spare]
        self.code.indexed_none(0x0b, R10, SPARE);
        self.store_word(R9, 0, R10);
        self.lea_word(R11, R11, -(word as i32));
        self.slow_step(g, behind, vec![slow], Flags::Parked);
        Some(())
    }

    /// `and r10, v`, of which the upper half is zero.
    fn and_r10(&mut self, v: u32) {
        self.code.raw(&[0x41, 0x81, 0xe2]);
        self.code.u32(v);
    }

    fn set_segment(&mut self, n: usize, s: &Segment) {
        debug_assert_eq!(s.base, 0, "a flat segment");
        self.code.store_imm(RSP_HOST, segment_base(n), 0);
        self.code.mov_imm(R10, u64::from(s.limit) | (u64::from(s.attr) << 32));
        self.code.store(RSP_HOST, segment_rights(n), R10);
        // The selector and the room behind it.
        self.code.store_imm(RSP_HOST, segment_selector(n), i32::from(s.selector));
    }

    fn set_level(&mut self, cpl: u8) {
        // mov byte [cpl], imm
        self.code.raw(&[0xc6, 0x84, 0x24]);
        self.code.u32(CPL as u32);
        self.code.u8(cpl);
    }

    /// syscall out of 64-bit code: see [`call_view`] for what is known of the kernel.
    pub(super) fn system_call(&mut self, view: View, next: u64) {
        let b = self.place.built_in;
        self.fetch_flags();
        self.code.pushfq();
        self.code.pop(R9);
        // and r9d, the six
        self.code.raw(&[0x41, 0x81, 0xe1]);
        self.code.u32(flags::ARITH as u32);
        self.code.load(R10, RSP_HOST, RFLAGS);
        self.and_r10(!(flags::ARITH | flags::RF) as u32);
        // or r10, r9
        self.code.raw(&[0x4d, 0x09, 0xca]);
        self.code.store(RSP_HOST, gpr(11), R10);
        self.and_r10(!b.sfmask as u32);
        // or r10d, 2
        self.code.raw(&[0x41, 0x83, 0xca, flags::ONE as u8]);
        self.code.store(RSP_HOST, RFLAGS, R10);
        self.code.mov_imm(1, next);
        let (cs, ss) = call_segments(b.star);
        self.set_segment(CS, &cs);
        self.set_segment(SS, &ss);
        self.set_level(0);
        // mov r9d, 1; test r9d, r9d: none of the six.
        self.code.mov_imm(R9, 1);
        self.code.raw(&[0x45, 0x85, 0xc9]);
        self.place.view = view;
        self.jump_to(b.lstar);
    }

    /// sysret to 64-bit code. What is unusual is left to the interpreter.
    pub(super) fn system_return(&mut self, g: &Guest) {
        self.park_flags();
        self.code.mov(R10, 1);
        // shl r10, 16; sar r10, 16; cmp r10, rcx
        self.code.raw(&[0x49, 0xc1, 0xe2, 16, 0x49, 0xc1, 0xfa, 16, 0x49, 0x39, 0xca]);
        let mut slow: Vec<Miss> = vec![self.code.branch(JNE).into()];
        self.code.load(R10, RSP_HOST, gpr(11));
        // Single steps and checks of alignment are the interpreter's.
        self.test_r10((flags::TF | flags::AC) as u32);
        slow.push(self.code.branch(JNE).into());
        self.test_r10(flags::IF as u32);
        let off = self.code.branch(JE);
        slow.push(self.branch_if_pending().into());
        self.code.here(off);
        self.and_r10((flags::POPF | flags::VIF | flags::VIP) as u32);
        // or r10d, 2
        self.code.raw(&[0x41, 0x83, 0xca, flags::ONE as u8]);
        self.code.store(RSP_HOST, RFLAGS, R10);
        // As lahf and seto have them: mov r9d, r10d; shl r9d, 8; shr r10d, 11; and r10d, 1; and r9d, 0xff00; or r9d, r10d
        self.code.raw(&[0x45, 0x89, 0xd1, 0x41, 0xc1, 0xe1, 8, 0x41, 0xc1, 0xea, 11, 0x41, 0x83, 0xe2, 1]);
        self.code.raw(&[0x41, 0x81, 0xe1, 0x00, 0xff, 0x00, 0x00, 0x45, 0x09, 0xd1]);
        self.code.store(RSP_HOST, SPARE, R9);
        let (cs, ss) = return_segments(self.place.built_in.star, Call::Long);
        self.set_segment(CS, &cs);
        self.set_segment(SS, &ss);
        self.set_level(3);
        let before = std::mem::replace(&mut self.place.view, View::User);
        self.code.load(R10, RSP_HOST, SPARE);
        self.code.store(RSP_HOST, PARKED, R10);
        self.code.mov(R10, 1);
        self.jump_r10();
        self.place.view = before;
        self.cold.push(Cold::Last { from: slow, rip: g.rip, behind: 0, flags: Flags::Parked });
    }

    fn test_r10(&mut self, bits: u32) {
        self.code.raw(&[0x41, 0xf7, 0xc2]);
        self.code.u32(bits);
    }

    /// What tells or sets registers of the processor's own: bases and selectors of segments, the time-stamp counter; no answer if it is
    /// nothing of the kind.
    pub(super) fn processor(&mut self, g: &Guest, behind: usize) -> Option<()> {
        self.placed = None;
        match g.instr.mnemonic() {
            Mnemonic::Rdfsbase => self.read_base(g, FS),
            Mnemonic::Rdgsbase => self.read_base(g, GS),
            Mnemonic::Wrfsbase => self.write_base(g, behind, FS),
            Mnemonic::Wrgsbase => self.write_base(g, behind, GS),
            Mnemonic::Mov => self.read_selector(g),
            Mnemonic::Rdtsc | Mnemonic::Rdtscp => self.read_counter(g, behind),
            _ => None,
        }
    }

    /// Puts r9 into a guest register, as wide as `r` is.
    fn set_guest(&mut self, r: Register) {
        let n = r.full_register().number() as u8;
        if r.size() == 2 {
            if in_memory(r) {
                // mov [rsp + disp], r9w
                self.code.raw(&[0x66, 0x44, 0x89, 0x8c, 0x24]);
                self.code.u32(gpr(n) as u32);
            } else {
                let n = if n == 4 { R11 } else { n };
                // mov n, r9w
                self.code.raw(&[0x66, 0x44 | (n >> 3), 0x89, 0xc8 | (n & 7)]);
            }
            return;
        }
        if r.size() == 4 {
            self.code.mov32(R9, R9);
        }
        match n {
            4 => self.code.mov(R11, R9),
            _ if in_memory(r) => self.code.store(RSP_HOST, gpr(n), R9),
            _ => self.code.mov(n, R9),
        }
    }

    fn read_base(&mut self, g: &Guest, segment: usize) -> Option<()> {
        if self.place.built_in.cr4 & CR4_FSGSBASE == 0 {
            return None;
        }
        self.code.load(R9, RSP_HOST, segment_base(segment));
        self.set_guest(g.instr.op0_register());
        Some(())
    }

    fn write_base(&mut self, g: &Guest, behind: usize, segment: usize) -> Option<()> {
        if self.place.built_in.cr4 & CR4_FSGSBASE == 0 {
            return None;
        }
        let r = g.instr.op0_register();
        self.free_flags(g);
        match r.full_register().number() as u8 {
            4 => self.code.mov(R9, R11),
            n if in_memory(r) => self.code.load(R9, RSP_HOST, gpr(n)),
            n => self.code.mov(R9, n),
        }
        if r.size() == 4 {
            self.code.mov32(R9, R9);
        }
        self.code.mov(R10, R9);
        // shl r10, 16; sar r10, 16; cmp r10, r9
        self.code.raw(&[0x49, 0xc1, 0xe2, 16, 0x49, 0xc1, 0xfa, 16, 0x4d, 0x39, 0xca]);
        let slow = self.code.branch(JNE);
        self.code.store(RSP_HOST, segment_base(segment), R9);
        self.slow_step(g, behind, vec![slow.into()], self.flags);
        Some(())
    }

    /// mov from a segment register to a general one.
    fn read_selector(&mut self, g: &Guest) -> Option<()> {
        let i = &g.instr;
        let registers = i.op0_kind() == OpKind::Register && i.op1_kind() == OpKind::Register;
        if !registers || !i.op1_register().is_segment_register() {
            return None;
        }
        // movzx r9d, word [rsp + disp]
        self.code.raw(&[0x44, 0x0f, 0xb7, 0x8c, 0x24]);
        self.code.u32(segment_selector(i.op1_register().number()) as u32);
        self.set_guest(i.op0_register());
        Some(())
    }

    /// rdtsc and rdtscp, if the host's counter is the source of time and the system lets everybody read it.
    fn read_counter(&mut self, g: &Guest, behind: usize) -> Option<()> {
        if self.place.pace == Pace::Counted {
            return None;
        }
        self.free_flags(g);
        // test byte [cr4], TSD
        self.code.raw(&[0xf6, 0x84, 0x24]);
        self.code.u32(CR4 as u32);
        self.code.u8(CR4_TSD as u8);
        let slow = self.code.branch(JNE);
        // rdtsc; shl rdx, 32; add rax, rdx
        self.code.raw(&[0x0f, 0x31, 0x48, 0xc1, 0xe2, 32, 0x48, 0x01, 0xd0]);
        // add rax, [offsets]
        self.code.indexed_none(0x03, 0, HOST_TSC_OFFSET);
        self.code.indexed_none(0x03, 0, TSC_OFFSET);
        self.code.mov(2, 0);
        // shr rdx, 32; mov eax, eax
        self.code.raw(&[0x48, 0xc1, 0xea, 32, 0x89, 0xc0]);
        if g.instr.mnemonic() == Mnemonic::Rdtscp {
            // mov ecx, [tsc_aux]
            self.code.raw(&[0x8b, 0x8c, 0x24]);
            self.code.u32(TSC_AUX as u32);
        }
        self.slow_step(g, behind, vec![slow.into()], self.flags);
        Some(())
    }

    /// div and idiv of 32 and 64 bits where the quotient certainly fits: else there may be a fault to deliver.
    pub(super) fn divide(&mut self, g: &Guest, behind: usize) -> Option<()> {
        let i = &g.instr;
        let signed = match i.mnemonic() {
            Mnemonic::Div => false,
            Mnemonic::Idiv => true,
            _ => return None,
        };
        let size = if is_memory(i, 0) { i.memory_size().size() } else { i.op0_register().size() };
        if !matches!(size, 4 | 8) {
            return None;
        }
        // REX.W and nothing, by the size.
        let w = if size == 8 { 8 } else { 0 };
        // It leaves them as they are, as the interpreter does.
        let mut slow: Vec<Miss> = Vec::new();
        self.free_flags(g);
        if i.op0_kind() == OpKind::Memory {
            self.address(i, g.rip)?;
            slow.push(self.lookup(Access::Read, size, false));
            // mov r10, [r9]
            self.code.raw(&[0x45 | w, 0x8b, 0x11]);
        } else {
            let r = i.op0_register();
            let n = r.full_register().number() as u8;
            match n {
                4 => self.code.mov(R10, R11),
                _ if in_memory(r) => self.code.load(R10, RSP_HOST, gpr(n)),
                _ => self.code.mov(R10, n),
            }
        }
        if signed {
            // mov r9, rax; sar r9, all; cmp r9, rdx
            self.code.raw(&[0x41 | w, 0x89, 0xc1, 0x41 | w, 0xc1, 0xf9, 8 * size as u8 - 1, 0x41 | w, 0x39, 0xd1]);
            slow.push(self.code.branch(JNE).into());
            // lea r9, [r10 + 1]; cmp r9, 1: zero and minus one
            self.code.raw(&[0x45 | w, 0x8d, 0x4a, 1, 0x41 | w, 0x83, 0xf9, 1]);
            slow.push(self.code.branch(JBE).into());
            // idiv r10
            self.code.raw(&[0x41 | w, 0xf7, 0xfa]);
        } else {
            // cmp rdx, r10; div r10
            self.code.raw(&[0x44 | w, 0x39, 0xd2]);
            slow.push(self.code.branch(JAE).into());
            self.code.raw(&[0x41 | w, 0xf7, 0xf2]);
        }
        self.slow_step(g, behind, slow, self.flags);
        Some(())
    }

    /// push of a memory operand.
    pub(super) fn push_memory(&mut self, g: &Guest, behind: usize) -> Option<()> {
        self.address(&g.instr, g.rip)?;
        self.free_flags(g);
        let word = self.word();
        let read = self.lookup(Access::Read, word, false);
        self.load_word(R10, R9, 0);
        self.code.store(RSP_HOST, SPARE, R10);
        self.lea_word(R9, R11, -(word as i32));
        let write = self.window_lookup(Access::Write, word);
        self.code.load(R10, RSP_HOST, SPARE);
        self.store_word(R9, 0, R10);
        self.lea_word(R11, R11, -(word as i32));
        self.slow_step(g, behind, vec![read, write], self.flags);
        Some(())
    }
}
