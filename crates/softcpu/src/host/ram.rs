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
    writable: bool,
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
    /// A machine's memory.
    pub(crate) fn of(memory: &hv::Memory) -> Self {
        let regions = memory.regions().iter().map(|r| Region {
            gpa: r.range.gpa,
            len: r.range.size & !(PAGE - 1),
            host: r.host,
            writable: r.sharing != hv::memory::Sharing::ReadOnly,
        });
        Self { regions: regions.collect(), _owner: Box::new(memory.clone()) }
    }

    /// One range at address zero in anonymous memory of this process.
    #[cfg(any(test, feature = "diff"))]
    pub(crate) fn anonymous(len: usize) -> std::io::Result<Self> {
        let area = super::code::Mapping::anonymous(len)?;
        let regions = vec![Region { gpa: 0, len: len as u64, host: area.base(), writable: true }];
        Ok(Self { regions, _owner: Box::new(area) })
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

    /// As [`Self::host`], for writing: outside, true if what lies there swallows writes.
    #[inline]
    fn host_to_write(&self, gpa: u64, len: u64) -> Result<*mut u8, bool> {
        for r in &self.regions {
            let off = gpa.wrapping_sub(r.gpa);
            if off < r.len && len <= r.len - off {
                return if r.writable { Ok(r.host.wrapping_add(off as usize)) } else { Err(true) };
            }
        }
        Err(false)
    }

    /// Whether the memory at `gpa` may be written.
    pub(crate) fn writable(&self, gpa: u64) -> bool {
        self.host_to_write(gpa, 1).is_ok()
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

    /// Writes `B` bytes; false if no memory is there. Memory that can only be read stays as it is.
    #[inline]
    pub(crate) fn store<const B: usize>(&self, gpa: u64, v: u64) -> bool {
        let p = match self.host_to_write(gpa, B as u64) {
            Ok(p) => p,
            Err(swallowed) => return swallowed,
        };
        // SAFETY: `host_to_write` checked that the bytes are in a mapped range.
        unsafe { access::store::<B>(p, v) };
        true
    }

    /// Compare and exchange; what stood there, or nothing if no memory is there.
    #[inline]
    pub(crate) fn exchange<const B: usize>(&self, gpa: u64, old: u64, new: u64) -> Option<u64> {
        let p = self.host_to_write(gpa, B as u64).ok()?;
        // SAFETY: `host_to_write` checked that the bytes are in a mapped range.
        Some(unsafe { access::exchange::<B>(p, old, new) })
    }

    /// Compare and exchange of 16 aligned bytes.
    pub(crate) fn exchange16(&self, gpa: u64, old: u128, new: u128) -> Option<u128> {
        if gpa & 15 != 0 {
            return None;
        }
        let p = self.host_to_write(gpa, 16).ok()?;
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

    #[cfg(any(test, feature = "diff"))]
    /// Copies into guest memory; false if a part of the range is no memory.
    pub(crate) fn write(&self, gpa: u64, from: &[u8]) -> bool {
        let Ok(p) = self.host_to_write(gpa, from.len() as u64) else { return false };
        // SAFETY: `host` checked the target, which no reference covers.
        unsafe { access::copy_forward(p, from.as_ptr(), from.len()) };
        true
    }
}
