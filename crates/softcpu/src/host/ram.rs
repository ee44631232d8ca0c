//! Guest memory by guest-physical address.

use super::access;

/// Bytes of a page, everywhere here.
pub(crate) const PAGE: u64 = 4096;

/// Host address of a page of guest memory; made by [`Ram`] alone, and valid as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostPage(pub(super) *mut u8);

#[derive(Clone, Copy)]
struct Region {
    gpa: u64,
    len: u64,
    host: *mut u8,
}

/// All guest memory: a few mapped ranges.
pub(crate) struct Ram {
    regions: Vec<Region>,
    /// Keeps the mappings.
    _owner: Box<dyn Send + Sync>,
}

// SAFETY: the pointers name shared memory that lives as long as the owner; it is reached by single machine accesses only.
unsafe impl Send for Ram {}
// SAFETY: as above; nothing else in it changes.
unsafe impl Sync for Ram {}

impl Ram {
    /// Memory in `regions`: (guest-physical address, length, host address), whole pages each.
    ///
    /// # Safety
    /// Each range is mapped readable and writable as long as `owner` lives, and no Rust reference covers it.
    pub(crate) unsafe fn new(regions: &[(u64, u64, *mut u8)], owner: Box<dyn Send + Sync>) -> Self {
        let regions = regions.iter().map(|&(gpa, len, host)| Region { gpa, len: len & !(PAGE - 1), host }).collect();
        Self { regions, _owner: owner }
    }

    /// One range at address zero in anonymous memory of this process.
    #[cfg(any(test, feature = "diff"))]
    pub(crate) fn anonymous(len: usize) -> std::io::Result<Self> {
        let area = super::code::Mapping::anonymous(len)?;
        let regions = [(0, len as u64, area.base())];
        // SAFETY: the mapping is moved into the owner and nothing else knows it.
        Ok(unsafe { Self::new(&regions, Box::new(area)) })
    }

    #[inline]
    fn host(&self, gpa: u64, len: u64) -> Option<*mut u8> {
        for r in &self.regions {
            let off = gpa.wrapping_sub(r.gpa);
            if off < r.len && len <= r.len - off {
                return Some(r.host.wrapping_add(off as usize));
            }
        }
        None
    }

    /// The end of the highest range.
    pub(crate) fn end(&self) -> u64 {
        self.regions.iter().map(|r| r.gpa + r.len).max().unwrap_or(0)
    }

    /// The page that holds `gpa`, or nothing if no memory is there.
    #[inline]
    pub(crate) fn page(&self, gpa: u64) -> Option<HostPage> {
        self.host(gpa & !(PAGE - 1), PAGE).map(HostPage)
    }

    /// Reads `B` bytes, or nothing if no memory is there.
    #[inline]
    pub(crate) fn load<const B: usize>(&self, gpa: u64) -> Option<u64> {
        let p = self.host(gpa, B as u64)?;
        // SAFETY: `host` checked that the bytes are in a mapped range.
        Some(unsafe { access::load::<B>(p) })
    }

    /// Writes `B` bytes; false if no memory is there.
    #[inline]
    pub(crate) fn store<const B: usize>(&self, gpa: u64, v: u64) -> bool {
        let Some(p) = self.host(gpa, B as u64) else { return false };
        // SAFETY: `host` checked that the bytes are in a mapped range.
        unsafe { access::store::<B>(p, v) };
        true
    }

    /// Compare and exchange; what stood there, or nothing if no memory is there.
    #[inline]
    pub(crate) fn exchange<const B: usize>(&self, gpa: u64, old: u64, new: u64) -> Option<u64> {
        let p = self.host(gpa, B as u64)?;
        // SAFETY: `host` checked that the bytes are in a mapped range.
        Some(unsafe { access::exchange::<B>(p, old, new) })
    }

    /// Compare and exchange of 16 aligned bytes.
    pub(crate) fn exchange16(&self, gpa: u64, old: u128, new: u128) -> Option<u128> {
        if gpa & 15 != 0 {
            return None;
        }
        let p = self.host(gpa, 16)?;
        // SAFETY: `host` checked the range, and page-aligned mappings keep the alignment of the address.
        Some(unsafe { access::exchange16(p, old, new) })
    }

    /// Copies out of guest memory; false if a part of the range is no memory.
    pub(crate) fn read(&self, gpa: u64, out: &mut [u8]) -> bool {
        let Some(p) = self.host(gpa, out.len() as u64) else { return false };
        // SAFETY: `host` checked the source, `out` is ours.
        unsafe { access::copy_forward(out.as_mut_ptr(), p, out.len()) };
        true
    }

    /// Copies into guest memory; false if a part of the range is no memory.
    pub(crate) fn write(&self, gpa: u64, from: &[u8]) -> bool {
        let Some(p) = self.host(gpa, from.len() as u64) else { return false };
        // SAFETY: `host` checked the target, which no reference covers.
        unsafe { access::copy_forward(p, from.as_ptr(), from.len()) };
        true
    }
}
