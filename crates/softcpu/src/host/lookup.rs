//! The TLB's lookup as code: in front of accesses, and once for all where an access has to look again.
//!
//! It turns the linear address in r9 into a host address; r10 becomes the place of the page in its table; flags are lost.

use super::emit::{Code, R9, R10, RSP_HOST};
use super::jit::TLB;
use super::ram::PAGE;
use super::tlb::Tlb;
use crate::state::View;

/// What a lookup is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read = 0,
    Write = 1,
}

/// Sizes of operands are counted by their logarithm: one to sixteen bytes.
const SIZES: usize = 5;
const VIEWS: [View; 3] = [View::Kernel, View::User, View::KernelAc];
const ACCESSES: [Access; 2] = [Access::Read, Access::Write];

/// Addresses of lookups that are called: with the address in r9, and the carry set if they fail.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lookups {
    plain: [[[u64; SIZES]; 2]; 3],
    /// For writes, which open the view's window on the page that they find.
    stack: [[u64; SIZES]; 3],
}

/// Offset of a table in the core.
pub(crate) const fn table(view: View, access: Access) -> i32 {
    TLB + Tlb::TABLE * (2 * view as i32 + access as i32)
}

/// Offset of a view's window on the stack.
pub(crate) const fn window(view: View) -> i32 {
    TLB - Tlb::VIEWS + Tlb::WINDOWS + Tlb::WINDOW * view as i32
}

fn size_index(size: usize) -> usize {
    size.trailing_zeros() as usize
}

impl Lookups {
    /// Makes them; `place` finds room for code.
    pub(super) fn new(mut place: impl FnMut(&Code) -> std::io::Result<u64>) -> std::io::Result<Self> {
        let mut all = Self::default();
        for view in VIEWS {
            for size in (0..SIZES).map(|n| 1 << n) {
                for access in ACCESSES {
                    let at = place(&called(view, access, size, |_| {}))?;
                    all.plain[view as usize][access as usize][size_index(size)] = at;
                }
                let at = place(&called(view, Access::Write, size, |c| open_window(c, view)))?;
                all.stack[view as usize][size_index(size)] = at;
            }
        }
        Ok(all)
    }

    /// The one for an access of `size` bytes, a power of two.
    pub(crate) fn plain(&self, view: View, access: Access, size: usize) -> u64 {
        self.plain[view as usize][access as usize][size_index(size)]
    }

    /// The one for an access to the stack.
    pub(crate) fn stack(&self, view: View, access: Access, size: usize) -> u64 {
        match access {
            Access::Read => self.plain(view, access, size),
            Access::Write => self.stack[view as usize][size_index(size)],
        }
    }
}

/// Bytes of the return address, by which everything in the core is further away.
const RETURN: i32 = 8;

fn called(view: View, access: Access, size: usize, then: impl FnOnce(&mut Code)) -> Code {
    let mut c = Code::default();
    let table = table(view, access) + RETURN;
    place(&mut c);
    // xor r9, [table + r10]; cmp r9, the last offset that fits; ja
    c.indexed(0x33, R9, R10, table);
    c.raw(&[0x49, 0x81, 0xf9]);
    c.u32(PAGE as u32 - size as u32);
    let fails = c.branch(&[0x0f, 0x87]);
    // add r9, [table + 8 + r10]
    c.indexed(0x03, R9, R10, table + 8);
    then(&mut c);
    // clc
    c.u8(0xf8);
    c.ret();
    c.here(fails);
    // stc
    c.u8(0xf9);
    c.ret();
    c
}

/// Makes r10 the offset in a table of where the page of r9 would stand.
pub(crate) fn place(c: &mut Code) {
    c.mov(R10, R9);
    // shr r10, 8; and r10d, the offset of the last entry
    c.raw(&[0x49, 0xc1, 0xea, 8, 0x41, 0x81, 0xe2]);
    c.u32(Tlb::TABLE as u32 - 16);
}

/// Copies the entry at r10.
fn open_window(c: &mut Code, view: View) {
    let (table, window) = (table(view, Access::Write) + RETURN, window(view) + RETURN);
    for part in [0, 8] {
        // push [table + r10]; pop [window]: the address of the push is of before it, that of the pop of behind it.
        c.raw(&[0x42, 0xff, 0xb4, 0x14]);
        c.u32((table + part) as u32);
        c.raw(&[0x8f, 0x84, 0x24]);
        c.u32((window + part) as u32);
    }
    c.store_imm(RSP_HOST, window + 16, Tlb::WINDOW_END);
}
