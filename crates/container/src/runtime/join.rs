//! One more process in a container.

use super::group;
use super::life::{self, Known, keyring_of};
use super::status::Status;
use crate::error::{Doing, Result, SetupError};
use crate::exec::{self, Lifetime, Plan, Running, Terms};
use crate::stdio::Stdio;
use cgroup::Rights;
use control::FailureKind;
use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};
use sys::process::{Namespaces, SingleThread};

/// What to run.
pub(crate) struct Order<'a> {
    pub(crate) process: &'a Process,
    pub(crate) stdio: Stdio,
    pub(crate) preserved: u32,
    /// Groups below the container's, each for one controller or for all.
    pub(crate) groups: Vec<SubGroup<'a>>,
    pub(crate) paused: WhilePaused,
}

/// Whether a process may be added to a container whose processes stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhilePaused {
    Refused,
    Allowed,
}

/// A group below the container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SubGroup<'a> {
    /// Only for these controllers, split by commas.
    pub(crate) controllers: Option<&'a str>,
    pub(crate) path: &'a str,
}

/// Starts the process.
///
/// # Errors
/// [`FailureKind::Conflict`] for a container that does not run, and as [`exec::exec`].
pub(crate) fn run(proof: SingleThread, mut known: Known, order: &Order<'_>) -> Result<Running> {
    let refuse = |text: &str| Err(SetupError::new(FailureKind::Conflict, text));
    match known.status {
        Status::Running | Status::Created => {}
        Status::Paused if order.paused == WhilePaused::Allowed => {}
        Status::Paused => return refuse("cannot exec in a paused container (use --ignore-paused to override)"),
        Status::Stopped | Status::Creating => return refuse("cannot exec in a stopped container"),
    }
    let pidfd = known.process.take().ok_or_else(life::not_running)?;
    let birth = known.birth.as_ref().ok_or_else(life::not_running)?;
    let seccomp = known.record.seccomp(&known.folder)?;
    let keyring = if known.record.keyring { Some(keyring_of(&known.record.id)?) } else { None };
    let namespaces = Namespaces::from_bits_truncate(birth.namespaces);
    let state = life::state_of(&known.record, "running", Some(birth.pid));
    let agent = known.record.listener.as_ref().filter(|_| seccomp.is_some());
    let agent = agent.map(|agent| agent.describe(&known.record.oci_version, Some(&state)));
    let groups = join_files(&known, &order.groups)?;
    // the new process is in the container's sight from its birth, and takes along what is open here (CVE-2016-9962)
    drop(known.folder);
    let personality = known.record.personality;
    let scope = known.record.unit().filter(|_| order.groups.is_empty() && group::rights() == Rights::User);
    let plan = Plan {
        process: order.process,
        seccomp: seccomp.as_ref(),
        stdio: order.stdio,
        init: pidfd.as_fd(),
        namespaces,
        groups,
        terms: Terms { preserved: order.preserved, keyring, lifetime: Lifetime::Free, agent, personality, scope },
    };
    exec::exec(proof, plan)
}

/// The files that let a process enter the container's groups.
fn join_files(known: &Known, asked: &[SubGroup<'_>]) -> Result<Vec<OwnedFd>> {
    let group = known.group()?;
    if asked.is_empty() {
        return group.join_fds().doing(|| "cannot open the control group");
    }
    // controllers that share a hierarchy share a folder
    let mut by_folder: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for (name, folder) in group.controller_dirs() {
        by_folder.entry(folder).or_default().push(name);
    }
    let names = |list: &str| list.split(',').map(str::to_owned).collect::<Vec<_>>();
    for name in asked.iter().filter_map(|one| one.controllers).flat_map(names) {
        if !by_folder.values().flatten().any(|have| *have == name) {
            return Err(SetupError::invalid(format!("--cgroup: unknown controller {name:?}")));
        }
    }
    if let Some(up) = asked.iter().find(|one| Path::new(one.path).components().any(|part| part == Component::ParentDir))
    {
        return Err(SetupError::invalid(format!(
            "--cgroup: bad sub cgroup path: {} is not a sub cgroup path",
            up.path
        )));
    }
    let mut files = Vec::new();
    for (folder, names) in &by_folder {
        let file = find(asked, names).map_or_else(|| folder.clone(), |path| folder.join(path)).join("cgroup.procs");
        let opened = rustix::fs::open(&file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let opened = opened.map_err(|errno| match errno {
            Errno::NOENT => "no such file or directory".to_owned(),
            errno => errno.to_string(),
        });
        files.push(opened.doing(|| format!("--cgroup: adding pid to {}", file.display()))?);
    }
    Ok(files)
}

fn find(asked: &[SubGroup<'_>], names: &[String]) -> Option<PathBuf> {
    let serves = |one: &&SubGroup<'_>| {
        one.controllers.is_none_or(|list| list.split(',').any(|name| names.iter().any(|have| have == name)))
    };
    let path = Path::new(asked.iter().rev().find(serves)?.path);
    Some(path.components().filter(|part| matches!(part, Component::Normal(_))).collect())
}
