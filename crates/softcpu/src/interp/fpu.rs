//! x87, MMX and SSE: checks here, the work on the host's own unit ([`crate::host::native`]).
//!
//! The host never sees an unmasked exception: stubs run with every exception masked, and what the guest has unmasked is
//! found in the status afterwards. Source: Intel SDM volume 1, chapters 8 to 12; volume 3A, chapter 13.

use crate::decode::{MEM, Op};
use crate::exec::Exec;
use crate::fault::{Done, Fault, GP0, NM, UD, vector};
use crate::flags::ARITH;
use crate::host::native::{Stub, Unit};
use crate::mmu::Access;
use crate::state::{CR0_EM, CR0_MP, CR0_NE, CR0_TS, CR4_OSFXSR, CR4_OSXMMEXCPT, CpuState, DS, RDI};

/// MXCSR bits that exist, as MXCSR_MASK says.
const MXCSR_KNOWN: u32 = 0xffff;

/// Whether and how a memory operand is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    None,
    Read,
    Write,
    Both,
}

/// What has to be checked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// x87 that waits for exceptions and may make them.
    X87,
    /// x87 that does neither.
    X87Control,
    /// MMX registers.
    Mmx,
    /// XMM registers.
    Sse,
}

/// How an instruction runs natively.
#[derive(Clone, Copy)]
pub(crate) struct Native {
    pub(crate) stub: Option<Stub>,
    pub(crate) memory: Memory,
    /// Bytes of the memory operand.
    pub(crate) bytes: u8,
    /// The memory operand must be aligned to 16.
    pub(crate) aligned: bool,
    pub(crate) class: Class,
    /// It sets arithmetic flags.
    pub(crate) flags: bool,
}

impl Native {
    pub(crate) const NONE: Self =
        Self { stub: None, memory: Memory::None, bytes: 0, aligned: false, class: Class::Sse, flags: false };

    pub(crate) fn unit(&self) -> Unit {
        match self.class {
            Class::Sse => Unit::Sse,
            _ => Unit::X87,
        }
    }
}

fn word(s: &CpuState, at: usize) -> u16 {
    u16::from_le_bytes([s.fx.0[at], s.fx.0[at + 1]])
}

fn set_word(s: &mut CpuState, at: usize, v: u16) {
    s.fx.0[at..at + 2].copy_from_slice(&v.to_le_bytes());
}

const CONTROL: usize = 0;
const STATUS: usize = 2;

fn mxcsr(s: &CpuState) -> u32 {
    u32::from(word(s, 24)) | (u32::from(word(s, 26)) << 16)
}

fn set_mxcsr(s: &mut CpuState, v: u32) {
    s.fx.0[24..28].copy_from_slice(&v.to_le_bytes());
}

impl Exec<'_> {
    /// Faults if the unit is not to be used now.
    fn unit_ready(&self, class: Class) -> Done {
        let (cr0, cr4) = (self.s.cr0, self.s.cr4);
        match class {
            Class::X87 | Class::X87Control if cr0 & (CR0_EM | CR0_TS) != 0 => Err(NM),
            Class::Mmx | Class::Sse if cr0 & CR0_EM != 0 => Err(UD),
            Class::Sse if cr4 & CR4_OSFXSR == 0 => Err(UD),
            Class::Mmx | Class::Sse if cr0 & CR0_TS != 0 => Err(NM),
            _ => Ok(()),
        }
    }

    /// Reports an x87 exception that an earlier instruction left.
    fn pending_x87(&self) -> Done {
        if word(self.s, STATUS) & 0x80 != 0 && self.s.cr0 & CR0_NE != 0 {
            return Err(Fault::plain(vector::MF));
        }
        Ok(())
    }

    /// Reads `n` bytes of memory into the scratch bytes.
    fn load_scratch(&mut self, seg: usize, off: u64, n: u8) -> Done {
        self.probe_if_long(seg, off, n, Access::Read)?;
        let mut at = 0;
        while at < n {
            let o = off.wrapping_add(u64::from(at));
            let i = usize::from(at / 8);
            match n - at {
                8.. => self.s.scratch[i] = self.read::<8>(seg, o)?,
                4..=7 => self.put_scratch::<4>(at, seg, o)?,
                2..=3 => self.put_scratch::<2>(at, seg, o)?,
                _ => self.put_scratch::<1>(at, seg, o)?,
            }
            at += match n - at {
                8.. => 8,
                4..=7 => 4,
                2..=3 => 2,
                _ => 1,
            };
        }
        Ok(())
    }

    fn put_scratch<const B: usize>(&mut self, at: u8, seg: usize, off: u64) -> Done {
        let v = self.read::<B>(seg, off)?;
        let w = &mut self.s.scratch[usize::from(at / 8)];
        let shift = (at % 8) * 8;
        *w = (*w & !(crate::flags::mask::<B>() << shift)) | (v << shift);
        Ok(())
    }

    /// Checks all of an operand at once if it is moved in several steps, so that its fault comes before any of them.
    fn probe_if_long(&mut self, seg: usize, off: u64, n: u8, access: Access) -> Done {
        if n > 8 && (off & 0xfff) + u64::from(n) > 0x1000 { self.probe(seg, off, u64::from(n), access) } else { Ok(()) }
    }

    /// Writes `n` scratch bytes to memory, whose permission was checked.
    fn store_scratch(&mut self, seg: usize, off: u64, n: u8) -> Done {
        let mut at = 0_u8;
        while at < n {
            let v = self.s.scratch[usize::from(at / 8)] >> ((at % 8) * 8);
            let o = off.wrapping_add(u64::from(at));
            at += match n - at {
                8.. => self.write::<8>(seg, o, v).map(|()| 8)?,
                4..=7 => self.write::<4>(seg, o, v).map(|()| 4)?,
                2..=3 => self.write::<2>(seg, o, v).map(|()| 2)?,
                _ => self.write::<1>(seg, o, v).map(|()| 1)?,
            };
        }
        Ok(())
    }
}

/// Any instruction that runs natively.
pub(crate) fn native(x: &mut Exec<'_>, op: &Op) -> Done {
    let n = op.native;
    let Some(stub) = n.stub else { return Err(UD) };
    x.unit_ready(n.class)?;
    if matches!(n.class, Class::X87 | Class::Mmx) {
        x.pending_x87()?;
    }
    let (seg, mut off) = (usize::from(op.seg), 0);
    if n.memory != Memory::None {
        off = x.offset(op);
        if n.aligned && x.linear(seg, off, 16, Access::Read)? & 15 != 0 {
            return Err(GP0);
        }
        if n.memory != Memory::Read {
            x.probe(seg, off, u64::from(n.bytes), Access::Write)?;
        }
        if n.memory != Memory::Write {
            x.load_scratch(seg, off, n.bytes)?;
        }
    }
    match n.class {
        Class::Sse => run_sse(x, stub)?,
        Class::X87 => run_x87(x, stub),
        _ => x.natives.run(stub, x.s),
    }
    if n.flags {
        let f = x.s.scratch[8];
        x.set_flags(ARITH, f);
    }
    if matches!(n.memory, Memory::Write | Memory::Both) {
        x.store_scratch(seg, off, n.bytes)?;
    }
    Ok(())
}

/// Runs with SIMD exceptions masked; undoes it if the guest wanted one.
fn run_sse(x: &mut Exec<'_>, stub: Stub) -> Done {
    let before = mxcsr(x.s);
    if before & 0x1f80 == 0x1f80 {
        x.natives.run(stub, x.s);
        return Ok(());
    }
    let saved = x.s.clone();
    set_mxcsr(x.s, (before & !0x3f) | 0x1f80);
    x.natives.run(stub, x.s);
    let raised = mxcsr(x.s) & 0x3f;
    let unmasked = raised & !(before >> 7) & 0x3f;
    if unmasked == 0 {
        set_mxcsr(x.s, before | raised);
        return Ok(());
    }
    *x.s = saved;
    set_mxcsr(x.s, before | raised);
    Err(if x.s.cr4 & CR4_OSXMMEXCPT != 0 { Fault::plain(vector::XM) } else { UD })
}

/// Runs with x87 exceptions masked; what the guest has unmasked becomes pending.
fn run_x87(x: &mut Exec<'_>, stub: Stub) {
    let control = word(x.s, CONTROL);
    if control & 0x3f == 0x3f {
        x.natives.run(stub, x.s);
        return;
    }
    let saved = x.s.clone();
    let old_status = word(x.s, STATUS);
    set_word(x.s, CONTROL, control | 0x3f);
    set_word(x.s, STATUS, old_status & !0x80bf);
    x.natives.run(stub, x.s);
    set_word(x.s, CONTROL, control);
    let status = word(x.s, STATUS);
    let raised = status & 0x3f & !control;
    if raised & 7 != 0 {
        // Invalid operation, denormal and zero divide leave the operands alone.
        *x.s = saved;
        set_word(x.s, STATUS, old_status | (status & 0x7f) | 0x8080);
    } else if raised != 0 {
        set_word(x.s, STATUS, status | (old_status & 0x3f) | 0x8080);
    } else {
        set_word(x.s, STATUS, status | (old_status & 0x3f));
    }
}

pub(crate) fn fwait(x: &mut Exec<'_>, _: &Op) -> Done {
    if x.s.cr0 & (CR0_MP | CR0_TS) == CR0_MP | CR0_TS {
        return Err(NM);
    }
    x.pending_x87()
}

pub(crate) fn ldmxcsr(x: &mut Exec<'_>, op: &Op) -> Done {
    x.unit_ready(Class::Sse)?;
    let off = x.offset(op);
    let v = x.read::<4>(usize::from(op.seg), off)? as u32;
    if v & !MXCSR_KNOWN != 0 {
        return Err(GP0);
    }
    set_mxcsr(x.s, v);
    Ok(())
}

pub(crate) fn stmxcsr(x: &mut Exec<'_>, op: &Op) -> Done {
    x.unit_ready(Class::Sse)?;
    let off = x.offset(op);
    let v = u64::from(mxcsr(x.s));
    x.write::<4>(usize::from(op.seg), off, v)
}

/// Where an image of 512 bytes lies, checked.
fn image(x: &mut Exec<'_>, op: &Op, access: Access) -> Result<(usize, u64), Fault> {
    if x.s.cr0 & CR0_EM != 0 {
        return Err(UD);
    }
    if x.s.cr0 & CR0_TS != 0 {
        return Err(NM);
    }
    let off = x.offset(op);
    let seg = usize::from(op.seg);
    let lin = x.linear(seg, off, 512, access)?;
    x.check_canonical(lin, 1, seg)?;
    if lin & 15 != 0 {
        return Err(GP0);
    }
    x.probe(seg, off, 512, access)?;
    Ok((seg, off))
}

/// How many bytes of the image hold anything: XMM8 to XMM15 are in it in 64-bit code only.
fn image_bytes(x: &Exec<'_>) -> usize {
    if x.s.code64() { 416 } else { 288 }
}

pub(crate) fn fxsave(x: &mut Exec<'_>, op: &Op) -> Done {
    let (seg, off) = image(x, op, Access::Write)?;
    let mut fx = x.s.fx;
    fx.0[28..32].copy_from_slice(&MXCSR_KNOWN.to_le_bytes());
    for at in (0..image_bytes(x)).step_by(8) {
        let v = fx.0[at..at + 8].iter().rev().fold(0, |v, &b| (v << 8) | u64::from(b));
        x.write::<8>(seg, off.wrapping_add(at as u64), v)?;
    }
    Ok(())
}

pub(crate) fn fxrstor(x: &mut Exec<'_>, op: &Op) -> Done {
    let (seg, off) = image(x, op, Access::Read)?;
    let mut fx = x.s.fx;
    for at in (0..image_bytes(x)).step_by(8) {
        let v = x.read::<8>(seg, off.wrapping_add(at as u64))?;
        fx.0[at..at + 8].copy_from_slice(&v.to_le_bytes());
    }
    let m = u32::from_le_bytes([fx.0[24], fx.0[25], fx.0[26], fx.0[27]]);
    if m & !MXCSR_KNOWN != 0 {
        return Err(GP0);
    }
    fx.0[0] = (fx.0[0] & 0x7f) | 0x40;
    fx.0[1] &= 0x1f;
    // The summary of exceptions is computed, not loaded.
    let unmasked = fx.0[2] & !fx.0[0] & 0x3f != 0;
    fx.0[2] = (fx.0[2] & 0x7f) | if unmasked { 0x80 } else { 0 };
    fx.0[3] = (fx.0[3] & 0x7f) | if unmasked { 0x80 } else { 0 };
    for st in fx.0[32..160].chunks_mut(16) {
        st[10..].fill(0);
    }
    x.s.fx = fx;
    Ok(())
}

/// maskmovdqu and maskmovq: bytes whose mask has its high bit set go to ds:rdi. `b` and `c` are register numbers.
fn masked_store(x: &mut Exec<'_>, op: &Op, values: &[u8], mask: &[u8]) -> Done {
    let width = match op.addr {
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    };
    let off = x.s.gpr[RDI] & width;
    let seg = if op.seg as usize == crate::state::ES { DS } else { usize::from(op.seg) };
    for (i, m) in mask.iter().enumerate() {
        if m & 0x80 != 0 {
            x.probe(seg, off.wrapping_add(i as u64) & width, 1, Access::Write)?;
        }
    }
    for (i, (v, m)) in values.iter().zip(mask).enumerate() {
        if m & 0x80 != 0 {
            x.write::<1>(seg, off.wrapping_add(i as u64) & width, u64::from(*v))?;
        }
    }
    Ok(())
}

pub(crate) fn maskmovdqu(x: &mut Exec<'_>, op: &Op) -> Done {
    x.unit_ready(Class::Sse)?;
    let fx = x.s.fx;
    let reg = |n: u8| &fx.0[160 + 16 * usize::from(n)..176 + 16 * usize::from(n)];
    masked_store(x, op, reg(op.b), reg(op.c))
}

pub(crate) fn maskmovq(x: &mut Exec<'_>, op: &Op) -> Done {
    x.unit_ready(Class::Mmx)?;
    x.pending_x87()?;
    // The image has the registers in the order of the x87 stack, whose top any MMX instruction sets to zero.
    let mut fx = x.s.fx;
    let top = usize::from((word(x.s, STATUS) >> 11) & 7);
    fx.0[32..160].rotate_right(16 * top);
    let reg = |n: u8| &fx.0[32 + 16 * usize::from(n)..40 + 16 * usize::from(n)];
    masked_store(x, op, reg(op.b), reg(op.c))?;
    fx.0[4] = 0xff;
    x.s.fx = fx;
    let status = word(x.s, STATUS) & !0x3800;
    set_word(x.s, STATUS, status);
    Ok(())
}

/// Whether an operand code names memory, for the table.
pub(crate) fn in_memory(op: &Op) -> bool {
    op.a == MEM || op.b == MEM || op.c == MEM
}

/// Handlers of the instructions whose memory operand is a whole x87 image.
pub(crate) fn x87_image(m: iced_x86::Mnemonic, op: &mut Op) -> crate::decode::Handler {
    op.native.class = Class::X87Control;
    match m {
        iced_x86::Mnemonic::Fnsave => fnsave,
        iced_x86::Mnemonic::Frstor => frstor,
        _ => super::invalid,
    }
}

/// The tag of a register as fnsave stores it: 0 valid, 1 zero, 2 special. Source: SDM volume 1, section 8.1.7.
fn tag(reg: &[u8]) -> u16 {
    let exponent = u16::from_le_bytes([reg[8], reg[9]]) & 0x7fff;
    let fraction_zero = reg[..8].iter().all(|&b| b == 0);
    match exponent {
        0 if fraction_zero => 1,
        0x7fff | 0 => 2,
        _ if reg[7] & 0x80 == 0 => 2,
        _ => 0,
    }
}

/// Bytes of the environment: words or double words by the operand size.
fn environment_width(op: &Op) -> u64 {
    if op.size == 94 { 2 } else { 4 }
}

fn fnsave(x: &mut Exec<'_>, op: &Op) -> Done {
    x.unit_ready(Class::X87Control)?;
    let (off, seg, w) = (x.offset(op), usize::from(op.seg), environment_width(op));
    x.probe(seg, off, 7 * w + 80, Access::Write)?;
    let fx = x.s.fx;
    let status = word(x.s, STATUS);
    let top = usize::from((status >> 11) & 7);
    let tags = (0..8).fold(0, |t, i: usize| {
        let reg = &fx.0[32 + 16 * ((i + 8 - top) & 7)..][..10];
        t | (if fx.0[4] & (1 << i) == 0 { 3 } else { tag(reg) }) << (2 * i)
    });
    let opcode = word(x.s, 6);
    let (ip, dp) = (word(x.s, 8), word(x.s, 16));
    let words = if w == 2 {
        [word(x.s, CONTROL), status, tags, ip, 0, dp, 0]
    } else {
        [word(x.s, CONTROL), status, tags, ip, opcode, dp, 0]
    };
    for (i, v) in words.into_iter().enumerate() {
        let o = off.wrapping_add(i as u64 * w);
        if w == 2 {
            x.write::<2>(seg, o, u64::from(v))?;
        } else {
            let high = if i < 3 || i == 6 { 0xffff_0000 } else { 0 };
            x.write::<4>(seg, o, u64::from(v) | high)?;
        }
    }
    for i in 0..80_usize {
        let b = fx.0[32 + 16 * (i / 10) + i % 10];
        x.write::<1>(seg, off.wrapping_add(7 * w + i as u64), u64::from(b))?;
    }
    // The registers keep their contents; the order of the image follows the top of the stack.
    x.s.fx.0[32..160].rotate_right(16 * top);
    let fresh = crate::state::Fx::default();
    x.s.fx.0[..24].copy_from_slice(&fresh.0[..24]);
    Ok(())
}

fn frstor(x: &mut Exec<'_>, op: &Op) -> Done {
    x.unit_ready(Class::X87Control)?;
    let (off, seg, w) = (x.offset(op), usize::from(op.seg), environment_width(op));
    x.probe(seg, off, 7 * w + 80, Access::Read)?;
    let mut fx = x.s.fx;
    let mut words = [0_u16; 3];
    for (i, v) in words.iter_mut().enumerate() {
        *v = x.read::<2>(seg, off.wrapping_add(i as u64 * w))? as u16;
    }
    let control = (words[0] & 0x1f3f) | 0x40;
    let unmasked = words[1] & !control & 0x3f != 0;
    let status = (words[1] & 0x7f7f) | if unmasked { 0x8080 } else { 0 };
    fx.0[0..2].copy_from_slice(&control.to_le_bytes());
    fx.0[2..4].copy_from_slice(&status.to_le_bytes());
    fx.0[4] = (0..8).fold(0, |t, i| if (words[2] >> (2 * i)) & 3 == 3 { t } else { t | (1 << i) });
    for i in 0..80_usize {
        fx.0[32 + 16 * (i / 10) + i % 10] = x.read::<1>(seg, off.wrapping_add(7 * w + i as u64))? as u8;
    }
    x.s.fx = fx;
    Ok(())
}
