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
