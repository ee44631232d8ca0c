//! The fences around the process that need no namespace: capabilities, landlock, limits, filters.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::lists::{self, Network, Shares};

/// What the thread that serves shared folders keeps: to act for any of the guest's users, on what it can reach.
pub(super) const FOR_SHARES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP);
/// Their names.
pub(super) const FOR_SHARES_NAMES: &[&str] =
    &["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_SETFCAP"];
/// The most descriptors: guests' connections are the many.
const MOST_FILES: u64 = 16 << 10;
/// The last capability's number is below this on any kernel.
const CAPABILITIES: u32 = 64;

fn set_capabilities(set: CapabilitySet) -> rustix::io::Result<()> {
    let sets = CapabilitySets { effective: set, permitted: set, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

/// The calling thread gives up all its capabilities.
pub(super) fn drop_capabilities() {
    // Less is always allowed.
    let _never = set_capabilities(CapabilitySet::empty());
}

fn kept(shares: Shares) -> CapabilitySet {
    if shares == Shares::Some { FOR_SHARES } else { CapabilitySet::empty() }
}

/// Nothing that is executed may ever have more than the machine's shares need.
pub(super) fn bound_capabilities(shares: Shares) -> rustix::io::Result<()> {
    for number in 0..CAPABILITIES {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if kept(shares).contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The kernel has no more of them.
            Err(rustix::io::Errno::INVAL) => break,
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Gives up all capabilities but those that the machine's shares need.
pub(super) fn keep_capabilities(shares: Shares) -> rustix::io::Result<()> {
    let had = rustix::thread::capabilities(None)?.permitted;
    set_capabilities(kept(shares) & had)
}

/// Limits, no debugger, no privileges by executing anything.
pub(super) fn limit(threads: Option<u64>) -> rustix::io::Result<()> {
    use rustix::process::{getrlimit, setrlimit};
    let most = |limit: u64| Rlimit { current: Some(limit), maximum: Some(limit) };
    let files = getrlimit(Resource::Nofile).maximum.map_or(MOST_FILES, |files| files.min(MOST_FILES));
    setrlimit(Resource::Nofile, most(files))?;
    setrlimit(Resource::Core, most(0))?;
    if let Some(threads) = threads {
        setrlimit(Resource::Nproc, most(threads))?;
    }
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)
}

fn ruleset(network: Network, open: &[BorrowedFd<'_>]) -> Result<RulesetCreated, RulesetError> {
    let abi = ABI::V7;
    let mut rules =
        Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(AccessFs::from_all(abi))?;
    if network == Network::None {
        rules = rules.handle_access(AccessNet::from_all(abi))?;
    }
    // A guest's sockets lead to listeners with names in the process's folder, never to abstract ones; nobody is signalled.
    let mut rules = rules.scope(Scope::AbstractUnixSocket | Scope::Signal)?.create()?;
    for folder in open {
        let beneath = PathBeneath::new(folder, AccessFs::from_all(abi) & !AccessFs::Execute);
        rules = rules.add_rule(beneath)?;
    }
    Ok(rules)
}

/// Landlock: files only below the given folders, no network but what the machine needs. Whether the kernel does that.
pub(super) fn landlock(network: Network, open: &[OwnedFd]) -> Result<bool, RulesetError> {
    use rustix::fd::AsFd;
    let open: Vec<_> = open.iter().map(AsFd::as_fd).collect();
    let status = ruleset(network, &open)?.restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// The main thread's filter; every thread that it starts narrows it.
pub(super) fn filter(network: Network, shares: Shares) -> sys::Result<()> {
    sys::seccomp::report_trapped()?;
    lists::of_main(network, shares).confine()
}
