//! The memory policy: from which NUMA nodes the container's memory comes.

use crate::error::{Doing, Result, SetupError};
use oci_spec::runtime::{LinuxMemoryPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Spec};

/// Sets the policy of this process, which its program inherits.
pub(crate) fn policy(spec: &Spec) -> Result<()> {
    let Some(policy) = spec.linux().as_ref().and_then(|linux| linux.memory_policy().as_ref()) else { return Ok(()) };
    let nodes = check(policy)?;
    sys::sched::set_mempolicy(mode(policy), &nodes).doing(|| "linux.memoryPolicy")
}

/// The nodes that a policy names.
///
/// # Errors
/// [`control::FailureKind::Invalid`] for nodes that are no list, and for a mode that needs nodes and has none or the reverse.
pub(crate) fn check(policy: &LinuxMemoryPolicy) -> Result<Vec<usize>> {
    let text = policy.nodes().as_deref().unwrap_or_default();
    let nodes = list(text).ok_or_else(|| {
        SetupError::invalid(format!(
            "linux.memoryPolicy.nodes: invalid memory policy node list {text:?}: it is none such as 0-3,7"
        ))
    })?;
    let nodeless = matches!(policy.mode(), MemoryPolicyModeType::MpolDefault | MemoryPolicyModeType::MpolLocal);
    let optional = policy.mode() == MemoryPolicyModeType::MpolPreferred;
    if nodeless && !nodes.is_empty() {
        return Err(SetupError::invalid({
            let (mode, count) = (policy.mode(), nodes.len());
            format!("linux.memoryPolicy: {mode} mode requires 0 nodes but got {count}")
        }));
    }
    if !nodeless && !optional && nodes.is_empty() {
        return Err(SetupError::invalid(format!("linux.memoryPolicy: {} needs nodes", policy.mode())));
    }
    Ok(nodes)
}

/// # Source
/// set_mempolicy(2), Linux `include/uapi/linux/mempolicy.h`.
fn mode(policy: &LinuxMemoryPolicy) -> u32 {
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    policy.flags().iter().flatten().fold(mode, |mode, flag| {
        mode | match flag {
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
        }
    })
}

/// The numbers in a list of numbers and ranges, as the kernel writes processors and nodes: `0-3,7`. `None` for anything else.
pub(crate) fn list(text: &str) -> Option<Vec<usize>> {
    /// More than any machine has.
    const MOST: usize = 65_536;
    let mut all = Vec::new();
    for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?);
        if last < first || last >= MOST {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn lists_of_numbers() {
        assert_eq!(list("0-2,7"), Some(vec![0, 1, 2, 7]));
        assert_eq!(list(""), Some(vec![]));
        for wrong in ["a", "1-", "3-1", "1,,2", "-1", "99999999"] {
            assert_eq!(list(wrong), None, "{wrong}");
        }
    }
}
