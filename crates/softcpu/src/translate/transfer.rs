//! Jumps, calls, returns, and the stack.

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::flags::{First, Flags};
use super::{Access, Cold, Guest, JMP, JNE, Miss, R9, R10, R11, RSP_HOST, Translator, Turn, in_memory, system};
use crate::host::jit::{
    ATTENTION, Behind, RFLAGS, RIP, SPARE, gpr, jump_table, jump_table_of, segment_base, swapped_gs,
};
use crate::host::ram::PAGE;
use crate::state::{GS, View};

impl Translator<'_> {
    /// Push, pop, leave; no answer if it is none of them or the interpreter's.
    pub(super) fn stack(&mut self, g: &Guest, behind: usize) -> Option<()> {
        let i = &g.instr;
        let wide = i.stack_pointer_increment().unsigned_abs() as usize == self.word();
        let leave = if self.narrow() { Code::Leaved } else { Code::Leaveq };
        match i.mnemonic() {
            Mnemonic::Push if wide => self.push(g, behind),
            Mnemonic::Pushfq | Mnemonic::Pushfd => self.push_flags(g, behind),
            Mnemonic::Pop if wide => self.pop(g, behind),
            Mnemonic::Leave if i.code() == leave => {
                self.mov_word(R9, 5);
                let slow = self.stack_lookup(g, Access::Read);
                self.placed = None;
                self.lea_word(R11, 5, self.word() as i32);
                self.load_word(5, R9, 0);
                self.slow_step(g, behind, vec![slow], self.flags);
                Some(())
            }
            _ => None,
        }
    }

    /// sti, cli, stac, clac and swapgs of the kernel; no answer if it is none of them.
    pub(super) fn system(&mut self, g: &Guest, behind: usize) -> Option<()> {
        if self.place.view == View::User {
            return None;
        }
        self.placed = None;
        // or / and byte [rsp + disp], imm
        let (op, byte, v): (u8, i32, u8) = match g.instr.mnemonic() {
            Mnemonic::Swapgs => {
                let base = segment_base(GS);
                self.code.load(R9, RSP_HOST, base);
                self.code.load(R10, RSP_HOST, swapped_gs());
                self.code.store(RSP_HOST, base, R10);
                self.code.store(RSP_HOST, swapped_gs(), R9);
                return Some(());
            }
            Mnemonic::Sti => return self.set_interrupt_flag(g, behind),
            Mnemonic::Cli => (0xa4, 1, 0xfd),
            Mnemonic::Stac if self.place.smap() => (0x8c, 2, 4),
            Mnemonic::Clac if self.place.smap() => (0xa4, 2, 0xfb),
            _ => return None,
        };
        self.free_flags(g);
        self.code.raw(&[0x80, op, 0x24]);
        self.code.u32((RFLAGS + byte) as u32);
        self.code.u8(v);
        match g.instr.mnemonic() {
            Mnemonic::Stac => self.place.view = View::KernelAc,
            Mnemonic::Clac => self.place.view = View::Kernel,
            _ => {}
        }
        Some(())
    }

    fn stack_lookup(&mut self, g: &Guest, access: Access) -> Miss {
        self.free_flags(g);
        self.window_lookup(access, self.word())
    }

    /// The interpreter does the instruction if one of `from` is taken, where flags are at `flags`; it goes on here.
    pub(super) fn slow_step(&mut self, g: &Guest, behind: usize, from: Vec<Miss>, flags: Flags) {
        let (resume, placed, ready) = (self.code.len(), self.placed.is_some(), self.ready);
        self.cold.push(Cold::Step { from, rip: g.rip, behind, flags, resume, placed, ready });
    }

    fn push(&mut self, g: &Guest, behind: usize) -> Option<()> {
        let i = &g.instr;
        let word = self.word() as i32;
        let value = match i.op0_kind() {
            OpKind::Register if self.is_word(i.op0_register()) => None,
            OpKind::Memory => return self.push_memory(g, behind),
            k if k != OpKind::Register && self.narrow() => Some(i.immediate(0) as i32),
            k if k != OpKind::Register => Some(i32::try_from(i.immediate(0) as i64).ok()?),
            _ => return None,
        };
        self.lea_word(R9, R11, -word);
        let slow = self.stack_lookup(g, Access::Write);
        match value {
            Some(v) => self.store_word_imm(R9, 0, v),
            None => {
                let r = i.op0_register();
                let r = r.full_register();
                let n = r.number() as u8;
                if in_memory(r) {
                    self.placed = None;
                    self.code.load(R10, RSP_HOST, gpr(n));
                    self.code.store(R9, 0, R10);
                } else {
                    self.store_word(R9, 0, if r == Register::RSP { R11 } else { n });
                }
            }
        }
        self.lea_word(R11, R11, -word);
        self.slow_step(g, behind, vec![slow], self.flags);
        Some(())
    }

    fn pop(&mut self, g: &Guest, behind: usize) -> Option<()> {
        let r = g.instr.op0_register();
        if g.instr.op0_kind() != OpKind::Register || !self.is_word(r) {
            return None;
        }
        let r = r.full_register();
        self.mov_word(R9, R11);
        let slow = self.stack_lookup(g, Access::Read);
        if r == Register::RSP {
            self.load_word(R11, R9, 0);
            self.slow_step(g, behind, vec![slow], self.flags);
            return Some(());
        }
        self.lea_word(R11, R11, self.word() as i32);
        if in_memory(r) {
            self.placed = None;
            self.code.load(R10, R9, 0);
            self.code.store(RSP_HOST, gpr(r.number() as u8), R10);
        } else {
            self.load_word(r.number() as u8, R9, 0);
        }
        self.forget_place_of_changed(g);
        self.slow_step(g, behind, vec![slow], self.flags);
        Some(())
    }

    /// The instruction that ends the block.
    pub(super) fn transfer(&mut self, g: &Guest, behind: usize) {
        let (next, target) = (self.place.next(g), self.place.target(g));
        match g.instr.mnemonic() {
            Mnemonic::Syscall => match system::call_view(&self.place.built_in) {
                Some(view) => return self.system_call(view, next),
                None => return self.step_and_leave(g),
            },
            Mnemonic::Sysretq => return self.system_return(g),
            _ => {}
        }
        match g.instr.flow_control() {
            FlowControl::UnconditionalBranch => self.jump_or_poll(g, target),
            FlowControl::ConditionalBranch => {
                self.before(g);
                let flags = self.flags;
                if let Turn::Through(rest) = self.turn {
                    let c = g.instr.condition_code() as u8 - 1;
                    // The other way round.
                    let from = self.code.branch(&[0x0f, 0x80 | (c ^ 1)]);
                    self.cold.push(Cold::Early { from, rip: next, flags, rest });
                    return;
                }
                if let Turn::Here(begin) = self.turn
                    && self.setter.is_some()
                {
                    let c = g.instr.condition_code() as u8 - 1;
                    let start = self.place.at;
                    self.code.branch_to(&[0x0f, 0x80 | c], start, start + begin as u64);
                    self.jump_to(next);
                    return;
                }
                let taken = self.condition(&g.instr);
                self.jump_to(next);
                if self.turn == Turn::First && self.setter.is_some() {
                    self.turn = Turn::Others(taken);
                    return;
                }
                self.flags = flags;
                self.code.here(taken);
                self.jump_or_poll(g, target);
            }
            FlowControl::Call => {
                if self.push_return(g, behind, next).is_some() {
                    self.jump_or_poll(g, target);
                }
            }
            FlowControl::Return => self.ret(g, behind),
            FlowControl::IndirectBranch | FlowControl::IndirectCall => self.indirect(g, behind, next),
            _ => self.step_and_leave(g),
        }
    }

    /// A conditional branch on the guest's condition; where its distance stands.
    fn condition(&mut self, i: &Instruction) -> usize {
        if i.is_jcx_short() {
            // jrcxz or jecxz over a jump around.
            if i.mnemonic() == Mnemonic::Jecxz {
                self.code.u8(0x67);
            }
            self.code.raw(&[0xe3, 5]);
            let around = self.code.branch(JMP);
            let taken = self.code.branch(JMP);
            self.code.here(around);
            return taken;
        }
        let c = i.condition_code() as u8 - 1;
        self.code.branch(&[0x0f, 0x80 | c])
    }

    /// Continues at an address: linked inside the page and between pages of a kernel, by the table of jumps elsewhere.
    pub(super) fn jump_to(&mut self, target: u64) {
        self.fetch_again();
        let flags = self.flags;
        if (target ^ self.place.lin) & !(PAGE - 1) == 0 {
            let from = self.code.branch(JMP);
            self.cold.push(Cold::Exit { from, rip: target, flags });
        } else if self.place.view != View::User {
            let from = self.code.branch(JMP);
            self.cold.push(Cold::FarExit { from, rip: target, flags });
        } else {
            self.park_flags();
            self.code.mov_imm(R10, target);
            self.jump_r10();
        }
    }

    /// As [`Self::jump_to`], but a jump back looks first whether something else wants the CPU.
    fn jump_or_poll(&mut self, g: &Guest, target: u64) {
        let near = (target ^ self.place.lin) & !(PAGE - 1) == 0;
        if target <= g.rip && near {
            let then = self.flags_there(target);
            self.poll(target, then);
        } else if target <= g.rip && self.place.view != View::User {
            self.poll(target, First::Host);
        }
        self.jump_to(target);
    }

    /// Continues at the address in r10 by the table of jumps. Flags are parked.
    pub(super) fn jump_r10(&mut self) {
        debug_assert_eq!(self.flags, Flags::Parked, "flags of a jump by the table");
        self.code.load(R9, RSP_HOST, ATTENTION);
        // cmp byte [r9], 0
        self.code.raw(&[0x41, 0x80, 0x39, 0]);
        let wanted = self.code.branch(JNE);
        // movzx r9d, r10w; shl r9d, 4
        self.code.raw(&[0x45, 0x0f, 0xb7, 0xca, 0x41, 0xc1, 0xe1, 4]);
        // add r9, [table]
        self.code.indexed_none(0x03, R9, jump_table(jump_table_of(self.place.view, self.place.size)));
        // cmp [r9], r10
        self.code.raw(&[0x4d, 0x39, 0x11]);
        let missing = self.code.branch(JNE);
        // jmp [r9 + 8]
        self.code.raw(&[0x41, 0xff, 0x61, 8]);
        self.code.here(wanted);
        self.code.here(missing);
        self.code.store(RSP_HOST, RIP, R10);
        self.leave();
    }

    /// Pushes a return address. If its page is not at hand the interpreter does the whole call and the block is left.
    fn push_return(&mut self, g: &Guest, behind: usize, next: u64) -> Option<()> {
        let word = self.word() as i32;
        self.lea_word(R9, R11, -word);
        let slow = self.stack_lookup(g, Access::Write);
        match i32::try_from(next as i64) {
            _ if self.narrow() => self.store_word_imm(R9, 0, next as u32 as i32),
            Ok(v) => self.code.store_imm(R9, 0, v),
            Err(_) => {
                self.code.mov_imm(R10, next);
                self.code.store(R9, 0, R10);
            }
        }
        self.lea_word(R11, R11, -word);
        self.slow_leave(g, behind, slow);
        Some(())
    }

    /// The interpreter does a transfer, and the dispatcher goes on.
    fn slow_leave(&mut self, g: &Guest, behind: usize, slow: Miss) {
        debug_assert_eq!(behind, 0, "a transfer ends its block");
        self.cold.push(Cold::Last { from: vec![slow], rip: g.rip, behind, flags: self.flags });
    }

    /// The interpreter does the last instruction, and the dispatcher goes on.
    pub(super) fn step_and_leave(&mut self, g: &Guest) {
        self.call_step(g.rip, 0, Behind::Dispatcher);
    }

    fn ret(&mut self, g: &Guest, behind: usize) {
        self.park_flags();
        let extra = if g.instr.op_count() > 0 { g.instr.immediate(0) as i32 } else { 0 };
        self.mov_word(R9, R11);
        let slow = self.stack_lookup(g, Access::Read);
        self.load_word(R10, R9, 0);
        self.lea_word(R11, R11, self.word() as i32 + extra);
        self.slow_leave(g, behind, slow);
        self.jump_r10();
    }

    /// jmp and call through a register or memory.
    fn indirect(&mut self, g: &Guest, behind: usize, next: u64) {
        let i = &g.instr;
        self.park_flags();
        if i.op0_kind() == OpKind::Register {
            let r = i.op0_register();
            let n = r.full_register().number() as u8;
            match n {
                9..=11 => self.code.load(R10, RSP_HOST, gpr(n)),
                4 => self.mov_word(R10, R11),
                _ => self.mov_word(R10, n),
            }
        } else {
            let mark = self.code.len();
            if self.address(i, g.rip).is_none() {
                self.code.bytes.truncate(mark);
                self.step_and_leave(g);
                return;
            }
            self.free_flags(g);
            let slow = self.lookup(Access::Read, self.word(), false);
            self.load_word(R10, R9, 0);
            self.slow_leave(g, behind, slow);
        }
        if i.flow_control() == FlowControl::IndirectCall {
            self.code.store(RSP_HOST, SPARE, R10);
            if self.push_return(g, behind, next).is_none() {
                return;
            }
            self.code.load(R10, RSP_HOST, SPARE);
        }
        self.jump_r10();
    }
}
