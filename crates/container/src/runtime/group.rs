//! The control group of a container.

use crate::create::Doomed;
use crate::error::{Doing, Result};
use cgroup::systemd::{Asked, Scope, Systemd};
use cgroup::{Group, Host, Place, Rights, Version};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, LinuxResources, Mount, Spec};
use rustix::process::{Uid, geteuid};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use sys::process::{Forked, Namespaces, SingleThread};

/// Where a container's group belongs, and the group that will be there.
pub(crate) struct Planned {
    pub(crate) host: Host,
    pub(crate) group: Group,
    /// The unit, where systemd makes the group.
    pub(crate) scope: Option<Scope>,
    place: Place,
}

/// Who makes the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    /// This process.
    Files,
    /// systemd, asked over D-Bus.
    Systemd,
}

/// A group that was made.
pub(crate) struct Made {
    pub(crate) group: Group,
    /// What had to be left out.
    pub(crate) warnings: Vec<String>,
    /// Keeps a scope of systemd's from being empty until the container's process has come.
    pub(crate) _placeholder: Option<Doomed>,
}

/// Looks where the group of a configuration belongs.
pub(crate) fn plan(spec: &Spec, id: &str, rights: Rights, driver: Driver) -> Result<Planned> {
    let linux = spec.linux().as_ref();
    let limits = linux.and_then(|linux| linux.resources().as_ref());
    let host = Host::glance(limits).doing(|| "cannot look at the control groups")?;
    let asked = linux.and_then(|linux| linux.cgroups_path().as_ref());
    let asked = asked.map(|path| path.to_string_lossy());
    let (place, scope) = match driver {
        Driver::Files => (host.place(asked.as_deref(), id).doing(|| "linux.cgroupsPath")?.with_rights(rights), None),
        Driver::Systemd => {
            let scope = Scope::parse(asked.as_deref(), id, rights).doing(|| "linux.cgroupsPath")?;
            let top = connect(rights)?.top().doing(|| "cannot ask systemd for its group")?;
            (scope.place(&top, rights).doing(|| "linux.cgroupsPath")?, Some(scope))
        }
    };
    Ok(Planned { group: host.group_at(&place), host, scope, place })
}

fn connect(rights: Rights) -> Result<Systemd> {
    Systemd::connect(rights).doing(|| "--systemd-cgroup: cannot reach systemd")
}

/// Makes the group, and gives it to the container's user where it is the container's to divide.
pub(crate) fn make(proof: SingleThread, planned: &Planned, spec: &Spec, id: &str) -> Result<Made> {
    let made = make_ours(proof, planned, spec, id)?;
    let owner = if planned.host.version() == Version::V2 { owner(spec) } else { None };
    let given = owner.map_or(Ok(()), |uid| made.group.dirs().iter().try_for_each(|dir| hand_over(dir, uid)));
    match given {
        Ok(()) => Ok(made),
        // a user's group is the user's already, and ids that the user was lent may have no use of it
        Err(_) if rights() == Rights::User => Ok(made),
        Err(error) => {
            // the failure that brought us here is the one worth telling
            let _ = made.group.remove();
            Err(error)
        }
    }
}

/// The user of this machine to whom a container's group is given: with a control group namespace of its own, and the groups mounted
/// for writing.
///
/// # Source
/// runtime-spec `config-linux.md`, "Cgroup ownership".
fn owner(spec: &Spec) -> Option<Uid> {
    let linux = spec.linux().as_ref()?;
    let listed = linux.namespaces().as_deref().unwrap_or_default();
    let find = |kind| listed.iter().find(move |one: &&LinuxNamespace| one.typ() == kind);
    let apart = find(LinuxNamespaceType::Cgroup).is_some_and(|one| one.path().is_none());
    let written = |mount: &Mount| {
        mount.source().as_deref() == Some(Path::new("cgroup"))
            && mount.destination().components().eq(Path::new("/sys/fs/cgroup").components())
            && !mount.options().iter().flatten().any(|option| option == "ro")
    };
    if !apart || !spec.mounts().iter().flatten().any(written) {
        return None;
    }
    let user = spec.process().as_ref()?.user().uid();
    let mappings = linux.uid_mappings().as_deref().unwrap_or_default();
    if find(LinuxNamespaceType::User).is_none() {
        return Some(Uid::from_raw(user));
    }
    let mapped = mappings.iter().find_map(|one| {
        let offset = user.checked_sub(one.container_id()).filter(|offset| *offset < one.size())?;
        one.host_id().checked_add(offset)
    });
    mapped.map(Uid::from_raw)
}

/// Gives a group to a user: the folder, and the files of it that the kernel names for that.
fn hand_over(dir: &Path, owner: Uid) -> Result<()> {
    let what = |path: &Path| format!("cannot give {} to user {}", path.display(), owner.as_raw());
    let named = std::fs::read_to_string("/sys/kernel/cgroup/delegate");
    let named = named.unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".to_owned());
    rustix::fs::chown(dir, Some(owner), None).doing(|| what(dir))?;
    for name in named.lines() {
        let path = dir.join(name);
        match rustix::fs::chown(&path, Some(owner), None) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno).doing(|| what(&path)),
        }
    }
    Ok(())
}

fn make_ours(proof: SingleThread, planned: &Planned, spec: &Spec, id: &str) -> Result<Made> {
    let resources = resources(spec);
    let what = || "cannot make the control group";
    let Some(scope) = &planned.scope else {
        let (group, applied) = planned.host.create_or_share(&planned.place, &resources).doing(what)?;
        return Ok(Made { group, warnings: applied.warnings, _placeholder: None });
    };
    let forked = sys::process::clone3(proof, Namespaces::empty(), None).doing(|| "cannot make a process")?;
    let Forked::Parent { pid, pidfd } = forked else {
        let _ = crate::process::die_with_parent();
        loop {
            // killed when the container's own process is in the scope
            rustix::event::pause();
        }
    };
    let placeholder = Doomed::new(pidfd);
    let asked =
        Asked { version: planned.host.version(), resources: &resources, annotations: spec.annotations().as_ref() };
    let mut systemd = connect(rights())?;
    let number = u32::try_from(pid).unwrap_or(0);
    systemd.start(scope, number, id, &asked).doing(|| "systemd did not make the scope")?;
    let adopted = planned.host.adopt(&planned.place, &resources).doing(what);
    let (group, applied) = adopted.inspect_err(|_| {
        // the failure that brought us here is the one worth telling
        let _ = systemd.stop(scope);
    })?;
    Ok(Made { group, warnings: applied.warnings, _placeholder: Some(placeholder) })
}

/// Whether control groups that may not be used are done without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rootless {
    Yes,
    No,
    /// Where this process is not the machine's root.
    Seen,
}

/// Whose rights this process has.
pub(crate) fn rights() -> Rights {
    rights_by(Rootless::Seen)
}

/// Whose rights this process is to take itself to have. Root of a user namespace is told from the machine's by `USER`, as with runc:
/// engines of a user's run so, and nobody else pays for a look at the namespace.
pub(crate) fn rights_by(asked: Rootless) -> Rights {
    let somebody = || std::env::var_os("USER").is_some_and(|name| !name.is_empty() && name != "root");
    let full = match asked {
        Rootless::Yes => false,
        Rootless::No => true,
        Rootless::Seen => own_user().is_root() && !(somebody() && sys::process::in_user_namespace()),
    };
    if full { Rights::Full } else { Rights::User }
}

/// Whose process this is; no command changes it.
pub(super) fn own_user() -> Uid {
    static USER: OnceLock<Uid> = OnceLock::new();
    *USER.get_or_init(geteuid)
}

fn resources(spec: &Spec) -> LinuxResources {
    let asked = spec.linux().as_ref().and_then(|linux| linux.resources().clone());
    asked.unwrap_or_else(|| {
        let mut nothing = LinuxResources::default();
        nothing.set_devices(None);
        nothing
    })
}

/// Has systemd forget a scope.
pub(crate) fn stop(scope: &Scope) -> Result<()> {
    connect(rights())?.stop(scope).doing(|| "systemd did not stop the scope")
}

/// Has systemd know limits that have changed.
pub(crate) fn tell(scope: &Scope, resources: &LinuxResources) -> Result<()> {
    let version = Host::glance(Some(resources)).doing(|| "cannot look at the control groups")?.version();
    let asked = Asked { version, resources, annotations: None };
    connect(rights())?.set(scope, &asked).doing(|| "systemd did not take the limits")
}

/// A group as criu is told where to put processes: `CONTROLLER:/PATH` of version 1, `/PATH` of version 2.
pub(crate) fn roots(host: &Host, group: &Group) -> Vec<String> {
    let below = |dir: &Path| {
        let tops = host.hierarchies().map(|(top, _)| top);
        let top = tops.filter(|top| dir.starts_with(top)).max_by_key(|top| top.components().count())?;
        dir.strip_prefix(top).ok()?.to_str().map(str::to_owned)
    };
    let named = |(name, dir): (String, PathBuf)| {
        let below = below(&dir)?;
        Some(if name.is_empty() { format!("/{below}") } else { format!("{name}:/{below}") })
    };
    group.controller_dirs().into_iter().filter_map(named).collect()
}

/// The file that tells whether a group is frozen.
pub(crate) fn freezer(group: &Group) -> Option<PathBuf> {
    let dirs = group.controller_dirs();
    let version_2 = || dirs.get("").map(|dir| dir.join("cgroup.freeze"));
    dirs.get("freezer").map(|dir| dir.join("freezer.state")).or_else(version_2)
}
