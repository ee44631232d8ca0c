//! The mounts of a container: the kernel's own file systems, its three files, and what the user asked for.

use super::Surroundings;
use super::namespaces::mapping;
use crate::error::{EngineError, Result};
use crate::model::{Container, ContainerSpec, IpcMode, Mount, MountKind, Propagation, ReadOnlyDepth};
use oci_spec::runtime::{Mount as OciMount, MountBuilder};
use std::path::Path;

/// Checks targets and sources.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`], naming the mount.
pub(crate) fn check(spec: &ContainerSpec) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for mount in &spec.mounts {
        let target = mount.target.as_str();
        let bad = |why: &str| EngineError::invalid(format!("invalid mount config for {target:?}: {why}"));
        if !target.starts_with('/') {
            return Err(bad("the path in the container must be absolute"));
        }
        if target.trim_end_matches('/').is_empty() {
            return Err(bad("the path in the container can't be '/'"));
        }
        if Path::new(target).components().any(|part| part == std::path::Component::ParentDir) {
            return Err(bad("the path in the container must not have '..'"));
        }
        if !seen.insert(target.trim_end_matches('/')) {
            return Err(EngineError::invalid(format!("Duplicate mount point: {target}")));
        }
        match &mount.kind {
            MountKind::Bind { source, create_source, propagation, read_only_depth, .. } => {
                if !source.starts_with('/') {
                    return Err(bad("the bind source must be an absolute path"));
                }
                if *read_only_depth == ReadOnlyDepth::Forced
                    && (!mount.read_only || !matches!(propagation, Propagation::Unsaid | Propagation::Rprivate))
                {
                    return Err(bad(
                        "a read-only bind that is forced for all below it must be read-only, with propagation rprivate",
                    ));
                }
                if !create_source && !Path::new(source).exists() {
                    return Err(EngineError::invalid(format!(
                        "invalid mount config for type \"bind\": bind source path does not exist: {source}"
                    )));
                }
            }
            MountKind::Volume { name, subpath, options, .. } => {
                if let Some(name) = name {
                    crate::volume::check_name(name)?;
                }
                crate::volume::LocalOptions::parse(options)?;
                check_subpath(subpath.as_deref()).map_err(bad)?;
            }
            MountKind::Image { image, subpath } => {
                if image.is_empty() {
                    return Err(bad("an image must be named"));
                }
                check_subpath(subpath.as_deref()).map_err(bad)?;
            }
            MountKind::Tmpfs { .. } => {}
        }
    }
    if spec.shm_bytes == Some(0) {
        return Err(EngineError::invalid("SHM size can not be less than 0 or 0"));
    }
    Ok(())
}

/// Whether a bind shows the daemon's folder `root`, or lies in it.
pub(crate) fn concerns(source: &Path, root: &Path) -> bool {
    source.starts_with(root) || root.starts_with(source)
}

/// Says how mounts travel where nobody has. What the daemon takes away below its folder `root` must go in containers that see it,
/// too: else they would hold it for as long as they run.
///
/// # Errors
/// [`crate::ErrorClass::Invalid`] where somebody wants it otherwise.
pub(crate) fn settle(mounts: &mut [Mount], root: &Path) -> Result<()> {
    for mount in mounts {
        let MountKind::Bind { source, propagation, .. } = &mut mount.kind else { continue };
        match (concerns(Path::new(source), root), *propagation) {
            (false, Propagation::Unsaid) => *propagation = Propagation::Rprivate,
            (true, Propagation::Unsaid) => *propagation = Propagation::Rslave,
            (false, _) | (true, Propagation::Rslave | Propagation::Rshared) => {}
            (true, other) => {
                return Err(EngineError::invalid(format!(
                    "invalid mount config: must use either propagation mode \"rslave\" or \"rshared\" when mount source is within the daemon root, daemon root: {:?}, bind mount source: {source:?}, propagation: {:?}",
                    root,
                    propagation_word(other)
                )));
            }
        }
    }
    Ok(())
}

/// A part of a volume or an image is named from its root, and lies in it.
fn check_subpath(path: Option<&str>) -> std::result::Result<(), &'static str> {
    use std::path::Component::{CurDir, Normal};
    match path {
        Some(path) if !Path::new(path).components().all(|part| matches!(part, Normal(_) | CurDir)) => {
            Err("the subpath must be a relative path within the volume")
        }
        _ => Ok(()),
    }
}

/// `shared` or `slave` where a bind asks that mounts travel, else the runtime's private default.
pub(crate) fn root_propagation(spec: &ContainerSpec) -> Option<String> {
    let of = |wanted: &[Propagation]| {
        spec.mounts
            .iter()
            .any(|mount| matches!(&mount.kind, MountKind::Bind { propagation, .. } if wanted.contains(propagation)))
    };
    if of(&[Propagation::Shared, Propagation::Rshared]) {
        Some("shared".into())
    } else if of(&[Propagation::Slave, Propagation::Rslave]) {
        Some("rslave".into())
    } else {
        None
    }
}

/// All mounts, in the order in which they are made: parents before children.
pub(crate) fn plan(container: &Container, around: &Surroundings<'_>) -> Vec<OciMount> {
    let spec = &container.spec;
    let mut mounts = kernel(spec, around.joins.shm.as_deref());
    let own = |target: &str| spec.mounts.iter().any(|mount| mount.target.trim_end_matches('/') == target);
    let files = [
        ("/etc/resolv.conf", &around.paths.resolv_conf),
        ("/etc/hostname", &around.paths.hostname),
        ("/etc/hosts", &around.paths.hosts),
    ];
    mounts.retain(|mount| !mount.destination().to_str().is_some_and(own));
    let mut asked: Vec<&Mount> = spec.mounts.iter().collect();
    asked.sort_by_key(|mount| Path::new(&mount.target).components().count());
    let (below, asked): (Vec<&Mount>, Vec<&Mount>) =
        asked.into_iter().partition(|mount| Path::new("/etc").starts_with(&mount.target));
    mounts.extend(below.into_iter().map(|mount| requested(mount, container)));
    mounts.extend(
        files
            .iter()
            .filter(|(target, _)| !own(target))
            .map(|(target, source)| one(target, "bind", &source.to_string_lossy(), &["rbind", "rprivate"])),
    );
    mounts.extend(asked.into_iter().map(|mount| requested(mount, container)));
    mounts
}

fn one(target: &str, kind: &str, source: &str, options: &[&str]) -> OciMount {
    MountBuilder::default()
        .destination(target)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
        .build()
        .unwrap_or_default()
}

/// The kernel's own file systems.
fn kernel(spec: &ContainerSpec, shared: Option<&Path>) -> Vec<OciMount> {
    let sys_mode = if spec.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        one("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        one("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        one(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        one("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys_mode]),
        one("/sys/fs/cgroup", "cgroup", "cgroup", &[sys_mode, "nosuid", "noexec", "nodev"]),
    ];
    if spec.namespaces.ipc == IpcMode::Host {
        mounts.push(one("/dev/mqueue", "bind", "/dev/mqueue", &["rbind", "nosuid", "noexec", "nodev"]));
        mounts.push(one("/dev/shm", "bind", "/dev/shm", &["rbind", "nosuid", "noexec", "nodev"]));
        mounts.retain(|mount| {
            mount.typ().as_deref() != Some("bind") || mount.source().as_deref().is_some_and(Path::exists)
        });
        return mounts;
    }
    mounts.push(one("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
    if let Some(shared) = shared {
        let words = ["rbind", "rprivate", "nosuid", "noexec", "nodev"];
        mounts.push(one("/dev/shm", "bind", &shared.to_string_lossy(), &words));
    } else if spec.namespaces.ipc != IpcMode::None {
        let size = format!("size={}", spec.shm_bytes.unwrap_or(crate::shm::BYTES));
        mounts.push(one("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]));
    }
    mounts
}

fn requested(mount: &Mount, container: &Container) -> OciMount {
    let access = if mount.read_only { "ro" } else { "rw" };
    // with all that is mounted below; mount_setattr(2) can since Linux 5.12
    let all_below = if mount.read_only { "rro" } else { "rw" };
    match &mount.kind {
        MountKind::Bind { source, propagation, non_recursive, read_only_depth, .. } => {
            let bind = if *non_recursive { "bind" } else { "rbind" };
            let access = if *read_only_depth == ReadOnlyDepth::Top { access } else { all_below };
            one(&mount.target, "bind", source, &[bind, access, propagation_word(*propagation)])
        }
        MountKind::Volume { .. } => {
            let volume = container.volumes.iter().find(|volume| volume.target == mount.target);
            let source = volume.map(|volume| volume.source.as_str()).unwrap_or_default();
            let Some(ids) = container.ids else {
                return one(&mount.target, "bind", source, &["rbind", all_below, "rprivate"]);
            };
            // files keep the owners that the container sees, so that containers with different ranges can share it
            let mut shown = one(&mount.target, "bind", source, &["bind", "idmap", access, "rprivate"]);
            shown.set_uid_mappings(Some(mapping(ids.first_uid, ids.count)));
            shown.set_gid_mappings(Some(mapping(ids.first_gid, ids.count)));
            shown
        }
        // the start knows where its files are
        MountKind::Image { .. } => one(&mount.target, "bind", "", &["rbind", "rro", "rprivate"]),
        MountKind::Tmpfs { bytes, mode, options } => {
            let mut all = vec!["nosuid".to_owned(), "nodev".to_owned(), "noexec".to_owned(), access.to_owned()];
            all.extend(bytes.map(|bytes| format!("size={bytes}")));
            all.extend(mode.map(|mode| format!("mode={mode:o}")));
            // a later word wins over an earlier one: `exec` over the default `noexec`
            for option in options {
                let opposite = option.strip_prefix("no").map_or_else(|| format!("no{option}"), str::to_owned);
                all.retain(|have| have != &opposite && have != option);
                all.push(option.clone());
            }
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            one(&mount.target, "tmpfs", "tmpfs", &all)
        }
    }
}

fn propagation_word(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Unsaid | Propagation::Rprivate => "rprivate",
        Propagation::Private => "private",
        Propagation::Rshared => "rshared",
        Propagation::Shared => "shared",
        Propagation::Rslave => "rslave",
        Propagation::Slave => "slave",
    }
}
