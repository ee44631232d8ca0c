//! The guest's time: one time-stamp counter and KVM's paravirtual clock, the same on both backends.
//!
//! The guest reads the TSC (never trapping), and learns from a page that it names by MSR what a tick is worth. Time stops
//! while the machine is paused: what was the time then is the time when it goes on.
//!
//! Source: Linux `Documentation/virt/kvm/x86/msr.rst` (MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW), `pvclock-abi.h`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Where the guest wants the wall clock of its boot: address of a `pvclock_wall_clock`.
pub const MSR_WALL_CLOCK: u32 = 0x4b56_4d00;
/// Where a vCPU wants its time page: address of a `pvclock_vcpu_time_info`, bit 0 set to switch it on.
pub const MSR_SYSTEM_TIME: u32 = 0x4b56_4d01;
/// Bytes of the time page's content.
pub const TIME_PAGE_SIZE: usize = 32;
/// Bytes of the wall clock's content.
pub const WALL_CLOCK_SIZE: usize = 12;
/// Flag of the time page: all vCPUs' counters agree.
const TSC_STABLE: u8 = 1;

/// The guest's time at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState {
    /// Nanoseconds that the guest has been running.
    pub ns: u64,
    /// The time-stamp counter at the same moment.
    pub tsc: u64,
    /// Ticks of the counter in a millisecond.
    pub tsc_khz: u32,
}

/// Turns ticks of the TSC into nanoseconds: `(ticks << shift) * mul >> 32`, as the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    mul: u32,
    shift: i8,
}

impl Scale {
    /// The scale of a counter with `khz` ticks a millisecond (at least 1).
    pub fn new(khz: u32) -> Self {
        // ns = ticks * 1e6 / khz. Find the shift that makes the 32-bit fraction as exact as it can be.
        let mut shift = 0i8;
        let mut per_tick = (1_000_000u128 << 32) / u128::from(khz.max(1));
        while per_tick > u128::from(u32::MAX) {
            per_tick >>= 1;
            shift += 1;
        }
        while per_tick < 1 << 31 {
            shift -= 1;
            per_tick = (1_000_000u128 << (32 + -i32::from(shift))) / u128::from(khz.max(1));
        }
        Self { mul: per_tick as u32, shift }
    }

    /// Nanoseconds in `ticks`.
    pub fn ns(self, ticks: u64) -> u64 {
        let shifted = if self.shift < 0 { u128::from(ticks >> -self.shift) } else { u128::from(ticks) << self.shift };
        ((shifted * u128::from(self.mul)) >> 32) as u64
    }

    /// Ticks in `ns`, rounded up.
    pub fn ticks(self, ns: u64) -> u64 {
        let ticks = (u128::from(ns) << 32).div_ceil(u128::from(self.mul));
        let ticks = if self.shift < 0 { ticks << -self.shift } else { ticks >> self.shift };
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// The host's time-stamp counter.
pub fn host_tsc() -> u64 {
    // SAFETY: every x86-64 processor has it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::MonotonicRaw);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Nanoseconds since 1970, the host's.
fn realtime_ns() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A pair of readings taken as close together as the scheduler allows.
fn pair() -> (u64, u64) {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..8 {
        let before = host_tsc();
        let ns = monotonic_ns();
        let after = host_tsc();
        if after.wrapping_sub(before) < best.0 {
            best = (after.wrapping_sub(before), before + after.wrapping_sub(before) / 2, ns);
        }
    }
    (best.1, best.2)
}

/// Ticks of the host's TSC in a millisecond: what the processor says (CPUID leaves 0x15 and 0x40000010), else measured.
pub fn host_tsc_khz() -> u32 {
    static KHZ: OnceLock<u32> = OnceLock::new();
    *KHZ.get_or_init(|| told_khz().unwrap_or_else(measured_khz))
}

fn told_khz() -> Option<u32> {
    use std::arch::x86_64::__cpuid;
    let (basic, hypervisor) = (__cpuid(0).eax, __cpuid(0x4000_0000));
    if basic >= 0x15 {
        let leaf = __cpuid(0x15);
        if leaf.eax != 0 && leaf.ebx != 0 && leaf.ecx != 0 {
            return u32::try_from(u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax) / 1000).ok();
        }
    }
    let virtual_host = __cpuid(1).ecx & 1 << 31 != 0;
    if virtual_host && hypervisor.eax >= 0x4000_0010 && hypervisor.eax < 0x4001_0000 {
        let khz = __cpuid(0x4000_0010).eax;
        return (khz != 0).then_some(khz);
    }
    None
}

/// Compares the counter with the monotonic clock over a few milliseconds: right to some parts in a million.
fn measured_khz() -> u32 {
    let (tsc, ns) = pair();
    std::thread::sleep(std::time::Duration::from_millis(4));
    let (later_tsc, later_ns) = pair();
    let khz = u128::from(later_tsc - tsc) * 1_000_000 / u128::from((later_ns - ns).max(1));
    u32::try_from(khz).unwrap_or(u32::MAX).max(1)
}

/// Where a machine's time comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeSource {
    /// The host's time-stamp counter.
    #[default]
    Host,
    /// The guest's instructions, one a nanosecond, and what it sleeps: the same guest takes the same time always. Only for
    /// backends that count, and for one processor.
    Instructions,
}

/// Ticks in a millisecond of a clock that counts instructions.
const COUNTED_KHZ: u32 = 1_000_000;

/// The clock of a machine whose backend keeps time itself: the software CPU's.
///
/// Guest TSC = source + offset; guest nanoseconds = scale(guest TSC) + base. The source is the host's TSC, or the number of
/// instructions as it was last told.
#[derive(Debug)]
pub struct GuestClock {
    source: TimeSource,
    /// Instructions, if they are the source.
    counted: AtomicU64,
    khz: u32,
    scale: Scale,
    tsc_offset: AtomicU64,
    ns_base: AtomicU64,
}

impl Default for GuestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl GuestClock {
    /// A clock that starts at zero now.
    pub fn new() -> Self {
        Self::of(TimeSource::Host)
    }

    /// A clock that starts at zero now.
    pub fn of(source: TimeSource) -> Self {
        let (khz, offset) = match source {
            TimeSource::Host => (host_tsc_khz(), 0u64.wrapping_sub(host_tsc())),
            TimeSource::Instructions => (COUNTED_KHZ, 0),
        };
        Self {
            source,
            counted: AtomicU64::new(0),
            khz,
            scale: Scale::new(khz),
            tsc_offset: AtomicU64::new(offset),
            ns_base: AtomicU64::new(0),
        }
    }

    /// Where time comes from.
    pub fn source(&self) -> TimeSource {
        self.source
    }

    /// So many instructions have run: of use if they are the source.
    #[inline]
    pub fn count(&self, instructions: u64) {
        self.counted.store(instructions, Ordering::Relaxed);
    }

    /// Nothing happens for so many ticks: a guest that sleeps need not be waited for if its instructions are the source.
    pub fn skip(&self, ticks: u64) {
        self.tsc_offset.fetch_add(ticks, Ordering::Relaxed);
    }

    fn ticks(&self) -> u64 {
        match self.source {
            TimeSource::Host => host_tsc(),
            TimeSource::Instructions => self.counted.load(Ordering::Relaxed),
        }
    }

    /// What to add to the source's ticks for the guest's TSC. Changes only while no vCPU runs.
    pub fn tsc_offset(&self) -> u64 {
        self.tsc_offset.load(Ordering::Relaxed)
    }

    /// The guest's TSC, now.
    pub fn tsc(&self) -> u64 {
        self.ticks().wrapping_add(self.tsc_offset())
    }

    /// The guest's nanoseconds, now.
    pub fn ns(&self) -> u64 {
        self.ns_at(self.tsc())
    }

    /// The guest's nanoseconds when its TSC is `tsc`.
    pub fn ns_at(&self, tsc: u64) -> u64 {
        self.scale.ns(tsc).wrapping_add(self.ns_base.load(Ordering::Relaxed))
    }

    /// Ticks of the guest's TSC in a millisecond.
    pub fn tsc_khz(&self) -> u32 {
        self.khz
    }

    /// How ticks become nanoseconds.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// The guest's time, now.
    pub fn state(&self) -> ClockState {
        let tsc = self.tsc();
        ClockState { ns: self.ns_at(tsc), tsc, tsc_khz: self.khz }
    }

    /// Goes on from `state`, now. Time pages have to be written anew: [`Self::time_page`].
    pub fn set(&self, state: ClockState) {
        self.tsc_offset.store(state.tsc.wrapping_sub(self.ticks()), Ordering::Relaxed);
        self.ns_base.store(state.ns.wrapping_sub(self.scale.ns(state.tsc)), Ordering::Relaxed);
    }

    /// The content of a vCPU's time page, with an even `version` that is two more at each writing.
    ///
    /// To be written in two steps as the guest expects: the version plus one, then all else, then the version.
    pub fn time_page(&self, version: u32) -> [u8; TIME_PAGE_SIZE] {
        let now = self.state();
        let mut page = [0; TIME_PAGE_SIZE];
        page[0..4].copy_from_slice(&version.to_le_bytes());
        page[8..16].copy_from_slice(&now.tsc.to_le_bytes());
        page[16..24].copy_from_slice(&now.ns.to_le_bytes());
        page[24..28].copy_from_slice(&self.scale.mul.to_le_bytes());
        page[28] = self.scale.shift.to_le_bytes()[0];
        page[29] = TSC_STABLE;
        page
    }

    /// The content of the wall clock: the host's time of day at the guest's nanosecond 0; the beginning of 1970 if the guest's
    /// instructions are the time.
    pub fn wall_clock(&self, version: u32) -> [u8; WALL_CLOCK_SIZE] {
        let now = match self.source {
            TimeSource::Host => realtime_ns(),
            TimeSource::Instructions => self.ns(),
        };
        let boot = now.saturating_sub(self.ns());
        let mut page = [0; WALL_CLOCK_SIZE];
        page[0..4].copy_from_slice(&version.to_le_bytes());
        page[4..8].copy_from_slice(&((boot / 1_000_000_000) as u32).to_le_bytes());
        page[8..12].copy_from_slice(&((boot % 1_000_000_000) as u32).to_le_bytes());
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_exact_to_parts_in_a_billion() {
        for khz in [1, 999_999, 1_000_000, 1_000_001, 2_300_000, 3_141_592, 4_000_000, u32::MAX] {
            let scale = Scale::new(khz);
            let ticks = u64::from(khz) * 1000 * 86_400;
            let (got, expect) = (scale.ns(ticks), 86_400_000_000_000u64);
            assert!(got.abs_diff(expect) < expect / 100_000_000 + 2, "{khz}: {got}");
            let back = scale.ticks(got);
            assert!(back.abs_diff(ticks) <= 1 << 12, "{khz}: {ticks} became {back}");
        }
    }

    #[test]
    fn time_goes_on_from_where_it_was_set() {
        let clock = GuestClock::new();
        clock.set(ClockState { ns: 5_000_000_000, tsc: 77, tsc_khz: clock.tsc_khz() });
        let state = clock.state();
        assert!(state.ns >= 5_000_000_000 && state.tsc >= 77);
        // The guest computes the same time from the page as we do.
        let page = clock.time_page(2);
        let field = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
        assert_eq!(clock.ns_at(field(8)), field(16));
        assert_eq!((page[0], page[29]), (2, 1));
    }

    #[test]
    fn the_wall_clock_is_the_time_of_boot() {
        let clock = GuestClock::new();
        let wall = clock.wall_clock(2);
        let seconds = u64::from(u32::from_le_bytes(wall[4..8].try_into().unwrap()));
        assert!(seconds.abs_diff(realtime_ns() / 1_000_000_000) <= 1 + clock.ns() / 1_000_000_000);
    }
}
