//! One load, store or locked exchange of guest memory.
//!
//! Guest memory is written by other vCPUs and by devices at any time, so it is never seen through references: each access
//! is one machine instruction, at any alignment, and its value is whatever stood there. x86 on x86 has one memory model,
//! so plain moves order as the guest expects.

use std::arch::asm;

/// Reads `B` bytes at `p`.
///
/// # Safety
/// `p` points at `B` bytes of mapped memory.
#[inline(always)]
pub(super) unsafe fn load<const B: usize>(p: *const u8) -> u64 {
    let v: u64;
    // SAFETY: the caller promises that the bytes are mapped; the move reads nothing else.
    unsafe {
        match B {
            1 => {
                asm!("movzx {v:e}, byte ptr [{p}]", v = out(reg) v, p = in(reg) p, options(nostack, preserves_flags, readonly))
            }
            2 => {
                asm!("movzx {v:e}, word ptr [{p}]", v = out(reg) v, p = in(reg) p, options(nostack, preserves_flags, readonly))
            }
            4 => {
                asm!("mov {v:e}, dword ptr [{p}]", v = out(reg) v, p = in(reg) p, options(nostack, preserves_flags, readonly))
            }
            _ => {
                asm!("mov {v}, qword ptr [{p}]", v = out(reg) v, p = in(reg) p, options(nostack, preserves_flags, readonly))
            }
        }
    }
    v
}

/// Writes the low `B` bytes of `v` at `p`.
///
/// # Safety
/// `p` points at `B` bytes of mapped, writable memory that no Rust reference covers.
#[inline(always)]
pub(super) unsafe fn store<const B: usize>(p: *mut u8, v: u64) {
    // SAFETY: the caller promises that the bytes are mapped and ours to write.
    unsafe {
        match B {
            1 => {
                asm!("mov byte ptr [{p}], {v}", v = in(reg_byte) v as u8, p = in(reg) p, options(nostack, preserves_flags))
            }
            2 => asm!("mov word ptr [{p}], {v:x}", v = in(reg) v, p = in(reg) p, options(nostack, preserves_flags)),
            4 => asm!("mov dword ptr [{p}], {v:e}", v = in(reg) v, p = in(reg) p, options(nostack, preserves_flags)),
            _ => asm!("mov qword ptr [{p}], {v}", v = in(reg) v, p = in(reg) p, options(nostack, preserves_flags)),
        }
    }
}

/// Puts `new` at `p` if `old` stands there, as one locked step; returns what stood there.
///
/// # Safety
/// As for [`store`].
#[inline(always)]
pub(super) unsafe fn exchange<const B: usize>(p: *mut u8, old: u64, new: u64) -> u64 {
    let mut a = old;
    // SAFETY: the caller promises that the bytes are mapped and ours to write; a locked access may cross a line.
    unsafe {
        match B {
            1 => {
                asm!("lock cmpxchg byte ptr [{p}], {n}", n = in(reg_byte) new as u8, p = in(reg) p, inout("rax") a, options(nostack))
            }
            2 => {
                asm!("lock cmpxchg word ptr [{p}], {n:x}", n = in(reg) new, p = in(reg) p, inout("rax") a, options(nostack))
            }
            4 => {
                asm!("lock cmpxchg dword ptr [{p}], {n:e}", n = in(reg) new, p = in(reg) p, inout("rax") a, options(nostack))
            }
            _ => {
                asm!("lock cmpxchg qword ptr [{p}], {n}", n = in(reg) new, p = in(reg) p, inout("rax") a, options(nostack))
            }
        }
    }
    a & crate::flags::mask::<B>()
}

/// As [`exchange`], for 16 bytes; `p` is aligned to 16.
///
/// # Safety
/// As for [`store`], and `p` is aligned.
pub(super) unsafe fn exchange16(p: *mut u8, old: u128, new: u128) -> u128 {
    let (mut lo, mut hi) = (old as u64, (old >> 64) as u64);
    // SAFETY: the caller promises mapped, aligned, writable bytes; rbx belongs to LLVM and is put back, so that
    // no operand may be left to it to place: that could be rbx.
    unsafe {
        asm!(
            "xchg rbx, rsi",
            "lock cmpxchg16b xmmword ptr [rdi]",
            "mov rbx, rsi",
            inout("rsi") new as u64 => _,
            in("rdi") p,
            in("rcx") (new >> 64) as u64,
            inout("rax") lo,
            inout("rdx") hi,
            options(nostack)
        );
    }
    u128::from(lo) | (u128::from(hi) << 64)
}

/// `rep movsb`: copies forward byte by byte as the instruction does, also when the ranges overlap.
///
/// # Safety
/// Both ranges of `n` bytes are mapped, the second writable and covered by no Rust reference.
pub(super) unsafe fn copy_forward(dst: *mut u8, src: *const u8, n: usize) {
    // SAFETY: the caller promises both ranges; the direction flag is clear in Rust code.
    unsafe {
        asm!("rep movsb", inout("rcx") n => _, inout("rdi") dst => _, inout("rsi") src => _, options(nostack, preserves_flags));
    }
}

/// `rep stos` of elements of `B` bytes.
///
/// # Safety
/// The `n * B` bytes at `dst` are mapped, writable and covered by no Rust reference.
pub(super) unsafe fn fill<const B: usize>(dst: *mut u8, v: u64, n: usize) {
    // SAFETY: the caller promises the range; the direction flag is clear in Rust code.
    unsafe {
        match B {
            1 => {
                asm!("rep stosb", inout("rcx") n => _, inout("rdi") dst => _, in("rax") v, options(nostack, preserves_flags))
            }
            2 => {
                asm!("rep stosw", inout("rcx") n => _, inout("rdi") dst => _, in("rax") v, options(nostack, preserves_flags))
            }
            4 => {
                asm!("rep stosd", inout("rcx") n => _, inout("rdi") dst => _, in("rax") v, options(nostack, preserves_flags))
            }
            _ => {
                asm!("rep stosq", inout("rcx") n => _, inout("rdi") dst => _, in("rax") v, options(nostack, preserves_flags))
            }
        }
    }
}
