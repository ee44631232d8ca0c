//! When and where a process runs: scheduling policy, priority of its input and output, processors.

use crate::error::{Doing, Result, SetupError};
use crate::init::memory::list;
use oci_spec::runtime::{IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler};
use rustix::thread::CpuSet;
use sys::sched::SchedAttr;

/// Sets what the configuration asks for; its program inherits it.
pub(crate) fn set(process: &Process) -> Result<()> {
    if let Some(asked) = process.scheduler() {
        sys::sched::sched_setattr(&attr(asked)?).doing(|| format!("process.scheduler: {}", asked.policy()))?;
    }
    if let Some(asked) = process.io_priority() {
        let class = match asked.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = i32::try_from(asked.priority()).unwrap_or(0) & 7;
        sys::sched::ioprio_set(class << 13 | level).doing(|| "process.ioPriority")?;
    }
    Ok(())
}

/// # Source
/// sched_setattr(2), Linux `include/uapi/linux/sched.h`.
fn attr(asked: &Scheduler) -> Result<SchedAttr> {
    let policy = match asked.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = asked.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x1,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x2,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x4,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x8,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
    });
    let priority = asked.priority().unwrap_or(0);
    let priority = u32::try_from(priority)
        .map_err(|_| SetupError::invalid(format!("process.scheduler.priority: {priority} is below 0")))?;
    Ok(SchedAttr {
        policy,
        flags,
        nice: asked.nice().unwrap_or(0),
        priority,
        runtime_ns: asked.runtime().unwrap_or(0),
        deadline_ns: asked.deadline().unwrap_or(0),
        period_ns: asked.period().unwrap_or(0),
    })
}

/// At which moment of an additional process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Before it enters the container's control group.
    Initial,
    /// Before it becomes the program.
    Final,
}

/// Lets this process run on all processors that its control group allows, whatever those of its parent were.
pub(crate) fn all_processors() {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|processor| all.set(processor));
    // where that is refused, it stays where it is
    let _ = rustix::thread::sched_setaffinity(None, &all);
}

/// Keeps this process, and the first one of the container that it makes, on one processor as long as it lives.
///
/// The two take turns for the two milliseconds of a start; the kernel would put the new one on another processor, where nothing
/// that it needs is at hand, and wake that one up for each of their words. The new process runs on all again before it becomes
/// the program ([`all_processors`]).
pub(crate) struct Together {
    before: CpuSet,
}

impl Together {
    /// Not where this process has one processor only, or more than fit in a set, or where it is refused: it goes on as it was.
    pub(crate) fn start() -> Option<Self> {
        let before = rustix::thread::sched_getaffinity(None).ok().filter(|before| before.count() > 1)?;
        let mut one = CpuSet::new();
        one.set(sys::sched::processor().filter(|processor| before.is_set(*processor))?);
        rustix::thread::sched_setaffinity(None, &one).ok()?;
        Some(Self { before })
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        // processors that were taken away in the meantime are not asked for in vain: the kernel leaves them out
        let _ = rustix::thread::sched_setaffinity(None, &self.before);
    }
}

/// The list of processors for that moment, with its name.
fn asked(process: &Process, moment: Moment) -> Option<(&'static str, &str)> {
    let asked = process.exec_cpu_affinity().as_ref()?;
    let (name, text) = match moment {
        Moment::Initial => ("initial", asked.initial()),
        Moment::Final => ("final", asked.cpu_affinity_final()),
    };
    text.as_deref().filter(|text| !text.is_empty()).map(|text| (name, text))
}

/// Whether the configuration says where an additional process runs at that moment.
pub(crate) fn names_processors(process: &Process, moment: Moment) -> bool {
    asked(process, moment).is_some()
}

/// Sets the processors of a process that is added to a running container.
pub(crate) fn affinity(process: &Process, moment: Moment) -> Result<()> {
    let Some((name, text)) = asked(process, moment) else { return Ok(()) };
    let what = || format!("process.execCPUAffinity.{name}: {text:?}");
    let mut set = CpuSet::new();
    let processors = list(text).ok_or_else(|| SetupError::invalid(format!("{} is no list such as 0-3,7", what())))?;
    for processor in processors {
        if processor >= CpuSet::MAX_CPU {
            return Err(SetupError::invalid(format!("{}: no processor {processor}", what())));
        }
        set.set(processor);
    }
    rustix::thread::sched_setaffinity(None, &set).doing(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_stays_on_one_processor_gets_the_others_back() {
        let mine = || rustix::thread::sched_getaffinity(None).unwrap();
        let before = mine();
        let Some(together) = Together::start() else {
            println!("skipped: this machine has one processor only");
            return;
        };
        let one = mine();
        assert_eq!(one.count(), 1);
        assert!((0..CpuSet::MAX_CPU).all(|processor| !one.is_set(processor) || before.is_set(processor)));
        drop(together);
        assert_eq!(mine(), before);
    }
}
