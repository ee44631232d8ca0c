//! Scheduling, input and output priority, memory policy: sched_setattr(2), ioprio_set(2), set_mempolicy(2).

#![expect(unsafe_code, reason = "these calls take structures and bit maps that no safe face covers")]

use crate::{Result, SysError};

/// How the calling thread is scheduled, `struct sched_attr`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedAttr {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Niceness, for the time-sharing policies.
    pub nice: i32,
    /// Priority, for the real-time policies.
    pub priority: u32,
    /// Processor time in each period, in nanoseconds, for the deadline policy.
    pub runtime_ns: u64,
    /// When it is due, in nanoseconds from a period's start.
    pub deadline_ns: u64,
    /// The period in nanoseconds.
    pub period_ns: u64,
}

#[repr(C)]
struct RawAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets how the calling thread is scheduled.
///
/// # Errors
/// `EPERM` without the right, `EINVAL` for values that the policy does not take, `EBUSY` where deadlines cannot be met.
pub fn sched_setattr(attr: &SchedAttr) -> Result<()> {
    let raw = RawAttr {
        size: 48,
        policy: attr.policy,
        flags: attr.flags,
        nice: attr.nice,
        priority: attr.priority,
        runtime: attr.runtime_ns,
        deadline: attr.deadline_ns,
        period: attr.period_ns,
    };
    // SAFETY: the structure lives through the call and says its own size.
    let outcome = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const raw, 0) };
    if outcome == 0 { Ok(()) } else { Err(SysError::last("sched_setattr")) }
}

/// The processor that the calling thread runs on: getcpu(2). It may be another by the time that the caller looks.
#[must_use]
pub fn processor() -> Option<usize> {
    let mut processor = 0_u32;
    let none = std::ptr::null_mut::<u32>();
    // SAFETY: the kernel writes one number to `processor`.
    let outcome = unsafe { libc::syscall(libc::SYS_getcpu, &raw mut processor, none, none) };
    (outcome == 0).then(|| usize::try_from(processor).ok()).flatten()
}

/// Sets the input and output priority of the calling thread: `class << 13 | level`.
///
/// # Errors
/// `EPERM` for the real-time class without the right, `EINVAL` for a level or class that there is not.
pub fn ioprio_set(priority: i32) -> Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: plain numbers.
    let outcome = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) };
    if outcome == 0 { Ok(()) } else { Err(SysError::last("ioprio_set")) }
}

/// Sets from which nodes the calling thread's memory comes; programs that it executes inherit it.
///
/// # Errors
/// `EINVAL` for a mode or nodes that this kernel or machine does not have.
pub fn set_mempolicy(mode: u32, nodes: &[usize]) -> Result<()> {
    const BITS: usize = 64;
    let most = nodes.iter().max().copied();
    let mut map = vec![0_u64; most.map_or(0, |most| most / BITS + 1)];
    for node in nodes {
        if let Some(word) = map.get_mut(node / BITS) {
            *word |= 1 << (node % BITS);
        }
    }
    // the kernel looks at one bit less than it is told, and may read the word behind it
    let bits = if nodes.is_empty() { 0 } else { map.len() * BITS + 1 };
    map.push(0);
    let address = if nodes.is_empty() { std::ptr::null() } else { map.as_ptr() };
    // SAFETY: the map is at least as long as its bits say, and lives through the call.
    let outcome = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, address, bits) };
    if outcome == 0 { Ok(()) } else { Err(SysError::last("set_mempolicy")) }
}
