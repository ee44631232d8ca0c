//! Where instructions come from: linear page to guest-physical page, for code.

use super::{Access, canonical};
use crate::exec::Exec;
use crate::fault::{Fault, GP0};
use crate::host::ram::PAGE;
use crate::host::tlb::Global;
use crate::state::View;

const ENTRIES: usize = 128;
const EMPTY: u64 = 1;

/// Translations of code pages, for the kernel and for user space.
pub(crate) struct FetchTlb {
    entries: [[(u64, u64); ENTRIES]; 2],
}

impl FetchTlb {
    pub(crate) fn new() -> Self {
        Self { entries: [[(EMPTY, 0); ENTRIES]; 2] }
    }

    pub(crate) fn flush(&mut self) {
        self.entries = [[(EMPTY, 0); ENTRIES]; 2];
    }

    /// Forgets all but global pages, whose entries have bit 0 set.
    fn flush_local(&mut self) {
        for e in self.entries.iter_mut().flatten() {
            if e.1 & 1 == 0 {
                *e = (EMPTY, 0);
            }
        }
    }

    pub(crate) fn flush_page(&mut self, lin: u64) {
        for t in &mut self.entries {
            t[(lin >> 12) as usize % ENTRIES] = (EMPTY, 0);
        }
    }
}

impl Exec<'_> {
    /// The guest-physical address of code at a linear address.
    #[inline]
    pub(crate) fn fetch_address(&mut self, lin: u64) -> Result<u64, Fault> {
        Ok(self.fetch_page(lin)?.0)
    }

    /// As [`Self::fetch_address`], and whether the page is global.
    #[inline]
    pub(crate) fn fetch_page(&mut self, lin: u64) -> Result<(u64, Global), Fault> {
        let user = usize::from(self.view == View::User);
        let e = &mut self.fetch.entries[user][(lin >> 12) as usize % ENTRIES];
        if e.0 == lin & !(PAGE - 1) {
            let global = if e.1 & 1 != 0 { Global::Yes } else { Global::No };
            return Ok(((e.1 & !1) | (lin & (PAGE - 1)), global));
        }
        if self.s.long_mode() && !canonical(lin) {
            return Err(GP0);
        }
        let (gpa, global) = self.translate_page(lin, Access::Fetch, self.view)?;
        let bit = u64::from(global == Global::Yes);
        self.fetch.entries[user][(lin >> 12) as usize % ENTRIES] = (lin & !(PAGE - 1), (gpa & !(PAGE - 1)) | bit);
        Ok((gpa, global))
    }

    /// Forgets all translations.
    pub(crate) fn flush_all(&mut self) {
        self.tlb.flush();
        self.fetch.flush();
        self.jit.forget_jumps();
        self.leave = true;
    }

    /// Forgets translations of pages that are not global.
    pub(crate) fn flush_local(&mut self) {
        self.tlb.flush_local();
        self.fetch.flush_local();
        self.jit.forget_local_jumps();
        self.leave = true;
    }

    /// Forgets the translation of one page.
    pub(crate) fn flush_page(&mut self, lin: u64) {
        self.tlb.flush_page(lin);
        self.fetch.flush_page(lin);
        self.jit.forget_page_jumps(lin);
        self.leave = true;
    }
}
