//! The mounts of the configuration, in the order in which they are written.
//!
//! Whatever is bound from the host is opened outside, as a detached copy, before the first process is born: that works for a
//! process in a user namespace too. Where we lack the right outside (an unprivileged user), it is opened inside, where the new
//! user namespace gives it. The kernel's own file systems are made inside, where their namespaces are.

use super::fresh::Fresh;
use super::{Inside, copy, groups, leave_open, root};
use crate::error::{Doing, Result, SetupError};
use crate::stdio::Ends;
use crate::sync::Word;
use cgroup::{Group, Version};
use control::FailureKind;
use oci_spec::runtime::{LinuxIdMapping, Mount, Spec};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use sys::mount::{
    Depth, FsContext, MountAttr, MountAttrs, MountPropagationFlags, OpenTreeFlags, fspick, mount_setattr,
    move_mount_onto, open_tree,
};
use sys::mount_options::Options;
use sys::process::Namespaces;

/// What was opened outside for a mount.
pub(crate) enum Source {
    /// Nothing: it is made inside.
    Inside,
    /// Nothing, for want of rights: it is opened inside.
    Later { path: PathBuf, depth: Depth },
    /// A detached copy of a file or a folder.
    Tree { tree: OwnedFd, folder: bool },
    /// The container's control groups, one for each hierarchy.
    Groups(Vec<groups::Shown>),
}

const PROC_MAGIC: u64 = 0x9fa0;
/// The longest value that fsconfig(2) takes.
const LONGEST_VALUE: usize = 255;

/// Makes room for the descriptors of many mounts, one for each that is bound. Returns the limit as it was, if it had to be raised.
pub(crate) fn make_room(spec: &Spec) -> Option<Rlimit> {
    const USUAL: usize = 200;
    if spec.mounts().as_ref().map_or(0, Vec::len) < USUAL {
        return None;
    }
    let have = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: have.maximum, maximum: have.maximum };
    // where that is not enough, opening says so
    rustix::process::setrlimit(Resource::Nofile, raised).ok().map(|()| have)
}

/// Opens what each mount of the configuration binds from the host.
pub(crate) fn open_sources(spec: &Spec, group: &Group, version: Version) -> Result<Vec<Source>> {
    spec.mounts().iter().flatten().map(|mount| open_source(spec, mount, group, version)).collect()
}

fn words(mount: &Mount) -> &[String] {
    mount.options().as_deref().unwrap_or_default()
}

/// The type; an empty one is none.
fn kind_of(mount: &Mount) -> &str {
    mount.typ().as_deref().filter(|kind| !kind.is_empty()).unwrap_or("none")
}

fn open_source(spec: &Spec, mount: &Mount, group: &Group, version: Version) -> Result<Source> {
    let kind = kind_of(mount);
    if matches!(kind, "cgroup" | "cgroup2") {
        return groups::open(spec, kind, group, version);
    }
    let options = Options::parse(words(mount));
    let depth = match (options.bind, kind) {
        _ if options.remount => return Ok(Source::Inside),
        (Some(depth), _) => depth,
        (None, "bind") => Depth::Recursive,
        (None, _) => return Ok(Source::Inside),
    };
    let path = mount.source().clone().unwrap_or_default();
    let tree = match clone(&path, depth) {
        Ok(tree) => tree,
        Err(error) if error.errno == Errno::PERM => return Ok(Source::Later { path, depth }),
        Err(error) => return Err(missing_source(&path, error)),
    };
    let folder = is_folder(&tree).doing(|| format!("bind source {}", path.display()))?;
    let mapped = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
    if let Some(depth) = options.idmap.or(mapped.then_some(Depth::One)) {
        idmap(spec, mount, &tree, depth)?;
    }
    Ok(Source::Tree { tree, folder })
}

fn clone(path: &Path, depth: Depth) -> sys::Result<OwnedFd> {
    let below = if depth == Depth::Recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | below)
}

fn missing_source(path: &Path, error: sys::SysError) -> SetupError {
    match error.errno {
        Errno::NOENT | Errno::NOTDIR => SetupError::new(
            FailureKind::NotFound,
            format!("invalid mount config for type \"bind\": bind source path does not exist: {}", path.display()),
        ),
        _ => SetupError::new(FailureKind::Internal, format!("bind source {}: {error}", path.display())),
    }
}

fn is_folder(fd: &OwnedFd) -> rustix::io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Maps the owners of a bind by the mount's own mappings, or by the container's: through the user namespace of a short-lived
/// child.
fn idmap(spec: &Spec, mount: &Mount, tree: &OwnedFd, depth: Depth) -> Result<()> {
    let what = || format!("mount on {}: idmap", mount.destination().display());
    let linux = spec.linux().as_ref();
    let pair = |uids: Option<&Vec<LinuxIdMapping>>, gids: Option<&Vec<LinuxIdMapping>>| {
        Some((uids.filter(|all| !all.is_empty())?.clone(), gids.filter(|all| !all.is_empty())?.clone()))
    };
    let own = pair(mount.uid_mappings().as_ref(), mount.gid_mappings().as_ref());
    let (uids, gids) = own
        .or_else(|| pair(linux?.uid_mappings().as_ref(), linux?.gid_mappings().as_ref()))
        .ok_or_else(|| SetupError::invalid(format!("{} needs uidMappings and gidMappings", what())))?;
    let user = crate::namespaces::user_namespace(&uids, &gids).doing(what)?;
    let attrs = MountAttrs { set: MountAttr::IDMAP, user_namespace: Some(user.as_fd()), ..MountAttrs::default() };
    mount_setattr(tree.as_fd(), depth, &attrs).doing(what)
}

/// Places all mounts of the configuration in the attached root.
pub(crate) fn place(inside: &Inside<'_>, root: BorrowedFd<'_>) -> Result<Fresh> {
    let mut fresh = Fresh::default();
    for (mount, source) in inside.spec.mounts().iter().flatten().zip(&inside.sources) {
        let shown = mount.destination().display();
        one(inside, mount, source, root, &mut fresh)
            .map_err(|error| SetupError::new(error.kind, format!("cannot mount on {shown}: {}", error.message)))?;
    }
    Ok(fresh)
}

fn one(inside: &Inside<'_>, mount: &Mount, source: &Source, root: BorrowedFd<'_>, already: &mut Fresh) -> Result<()> {
    let options = Options::parse(words(mount));
    let destination = mount.destination();
    if !destination.is_absolute() {
        let text = format!("mount destination {} is not absolute; it is taken from the root", destination.display());
        inside.line.say(&Word::Warning(text), &[])?;
    }
    refuse_proc(destination, kind_of(mount), &options)?;
    if matches!(source, Source::Tree { .. } | Source::Later { .. }) {
        // what is bound may cover what was fresh
        already.hide(destination);
    }
    match source {
        _ if options.remount => remount(mount, &options, root),
        Source::Tree { tree, folder } => bind(inside, mount, &options, tree, *folder, root),
        Source::Later { path, depth } => {
            let tree = clone(path, *depth).map_err(|error| missing_source(path, error))?;
            let folder = is_folder(&tree).doing(|| format!("bind source {}", path.display()))?;
            bind(inside, mount, &options, &tree, folder, root)
        }
        Source::Groups(all) => groups::place(mount, &options, all, root, already),
        Source::Inside if kind_of(mount) == "tmpfs" && options.set.contains(MountAttr::RDONLY) => {
            // what is mounted or made below needs its place there first
            let open = Options { set: options.set - MountAttr::RDONLY, ..options };
            fresh(inside, mount, &open, root, already)?;
            already.close_later(destination);
            Ok(())
        }
        Source::Inside => fresh(inside, mount, &options, root, already),
    }
}

/// Makes read-only what had to stay open until everything stood.
pub(crate) fn close(inside: &Inside<'_>, fresh: &mut Fresh, root: BorrowedFd<'_>) -> Result<()> {
    let console = Path::new("/dev/console");
    for destination in fresh.take_closing() {
        if matches!(inside.ends, Ends::Terminal(_)) && console.starts_with(&destination) {
            // the terminal is mounted there when all else is done
            leave_open(root::ensure_file(root, console).doing(|| "cannot make /dev/console")?);
        }
        let what = || format!("cannot make the mount on {} read-only", destination.display());
        let mount = root::resolve(root, &destination, OFlags::PATH | OFlags::DIRECTORY).doing(what)?;
        let attrs = MountAttrs { set: MountAttr::RDONLY, ..MountAttrs::default() };
        mount_setattr(mount.as_fd(), Depth::One, &attrs).doing(what)?;
        leave_open(mount);
    }
    Ok(())
}

fn bind(
    inside: &Inside<'_>,
    mount: &Mount,
    options: &Options,
    tree: &OwnedFd,
    folder: bool,
    root: BorrowedFd<'_>,
) -> Result<()> {
    let destination = mount.destination();
    let (target, _) = target(root, destination, if folder { Shape::Folder } else { Shape::File })?;
    if Path::new("/").join(destination) == Path::new("/proc") && !is_proc(tree)? {
        return Err(SetupError::invalid("only proc may be mounted there"));
    }
    if kind_of(mount) != "cgroup2" {
        for (word, _) in &options.data {
            let text = format!("mount on {}: option {word:?} means nothing for a bind", destination.display());
            inside.line.say(&Word::Warning(text), &[])?;
        }
    }
    finish(tree.as_fd(), options, Bound::Yes, inside.own.contains(Namespaces::USER))?;
    move_mount_onto(tree.as_fd(), target.as_fd()).doing(|| "cannot place it")?;
    leave_open(target);
    Ok(())
}

/// A new file system.
fn fresh(
    inside: &Inside<'_>,
    mount: &Mount,
    options: &Options,
    root: BorrowedFd<'_>,
    already: &mut Fresh,
) -> Result<()> {
    let kind = kind_of(mount);
    if kind == "none" {
        return Err(SetupError::invalid("invalid mount: it has neither a type nor the option \"bind\""));
    }
    let destination = mount.destination();
    let label = inside.spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    let label = label.filter(|label| !label.is_empty() && !matches!(kind, "proc" | "sysfs"));
    let long = options.data.iter().any(|(_, value)| value.as_ref().is_some_and(|text| text.len() > LONGEST_VALUE));
    let mapped = inside.own.contains(Namespaces::USER);
    let rest = Options { propagation: options.propagation.clone(), ..Options::default() };
    let told = kind != "tmpfs" || options.data.iter().any(|(key, _)| key == "mode");
    if told && label.is_none() && destination.is_absolute() && already.make(mount, kind, options, root) {
        return Ok(());
    }
    // otherwise, too, most need nothing of what they cover
    if !long && told && !options.copy_up && destination.is_absolute() {
        let tree = own_or_the_hosts(inside, mount, options, label, None, root)?;
        finish(tree.as_fd(), &rest, Bound::No, mapped)?;
        if !already.place(tree.as_fd(), destination, root) {
            let target = point(mount, root)?.0;
            move_mount_onto(tree.as_fd(), target.as_fd()).doing(|| "cannot place it")?;
            leave_open(target);
        }
        already.add(kind, destination, tree);
        return Ok(());
    }
    let (target, found) = point(mount, root)?;
    // a folder in memory looks like what it covers, unless it is told
    let mode = !told && matches!(found, Found::There | Found::Linked);
    let mode = if mode { Some(rustix::fs::fstat(&target).doing(|| "the mount point")?.st_mode & 0o7777) } else { None };
    if long {
        return classic(mount, options, label, target.as_fd(), root);
    }
    let tree = own_or_the_hosts(inside, mount, options, label, mode, target.as_fd())?;
    finish(tree.as_fd(), &rest, Bound::No, mapped)?;
    move_mount_onto(tree.as_fd(), target.as_fd()).doing(|| "cannot place it")?;
    leave_open(target);
    already.add(kind, destination, tree);
    Ok(())
}

/// Where a new file system goes.
fn point(mount: &Mount, root: BorrowedFd<'_>) -> Result<(OwnedFd, Found)> {
    let point = target(root, mount.destination(), Shape::Folder);
    let detour = !matches!(point, Ok((_, Found::There | Found::Made)));
    if detour && matches!(kind_of(mount), "proc" | "sysfs") {
        refuse_link(root, mount.destination())?;
    }
    point
}

/// A new file system, or what the host has there, where the kernel lets this process make none.
fn own_or_the_hosts(
    inside: &Inside<'_>,
    mount: &Mount,
    options: &Options,
    label: Option<&str>,
    mode: Option<u32>,
    target: BorrowedFd<'_>,
) -> Result<OwnedFd> {
    make(mount, options, label, mode, target).or_else(|error| {
        let shared = match kind_of(mount) {
            "mqueue" => Some("/dev/mqueue"),
            "proc" if !inside.own.contains(Namespaces::PID) => Some("/proc"),
            "sysfs" => Some("/sys"),
            _ => None,
        };
        shared.map_or(Err(None), |path| the_hosts(path, options).map_err(Some)).map_err(|_| error)
    })
}

/// A detached mount of a new file system, with its options and attributes.
fn make(
    mount: &Mount,
    options: &Options,
    label: Option<&str>,
    mode: Option<u32>,
    target: BorrowedFd<'_>,
) -> Result<OwnedFd> {
    let kind = kind_of(mount);
    let attributes = options.set | options.set_below;
    let assemble = || -> std::result::Result<OwnedFd, sys::mount::FsError> {
        let context = FsContext::open(kind)?;
        let source = mount.source().as_deref().unwrap_or(Path::new(kind)).to_string_lossy();
        context.set_string("source", if source.is_empty() { kind } else { &source })?;
        tell(&context, options)?;
        if let Some(mode) = mode {
            context.set_string("mode", &format!("{mode:o}"))?;
        }
        if let Some(label) = label.filter(|_| !is_made_before(kind)) {
            context.set_string("context", label)?;
        }
        context.create()?;
        let tree = context.mount(if options.copy_up { attributes - MountAttr::RDONLY } else { attributes })?;
        leave_open(context.into_fd());
        Ok(tree)
    };
    let tree = assemble().map_err(|error| {
        let kind = if error.option.is_empty() { FailureKind::Internal } else { FailureKind::Invalid };
        SetupError::new(kind, error.to_string())
    })?;
    if let Some(label) = label.filter(|_| is_made_before(kind)) {
        let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
        rustix::fs::setxattr(path, "security.selinux", label.as_bytes(), XattrFlags::empty())
            .doing(|| format!("cannot label it {label:?}"))?;
    }
    if options.copy_up {
        copy::folder(target, tree.as_fd()).doing(|| "tmpcopyup")?;
        if attributes.contains(MountAttr::RDONLY) {
            let attrs = MountAttrs { set: MountAttr::RDONLY, ..MountAttrs::default() };
            mount_setattr(tree.as_fd(), Depth::One, &attrs).doing(|| "cannot set its attributes")?;
        }
    }
    Ok(tree)
}

/// Whether a file system is older than its mount, so that it takes no label from it: that of a namespace's message queues.
fn is_made_before(kind: &str) -> bool {
    kind == "mqueue"
}

/// Tells a file system its own options.
fn tell(context: &FsContext, options: &Options) -> std::result::Result<(), sys::mount::FsError> {
    for key in &options.whole {
        context.set_flag(key)?;
    }
    options.data.iter().try_for_each(|(key, value)| match value {
        Some(value) => context.set_string(key, value),
        None => context.set_flag(key),
    })
}

/// By mount(2), which takes longer options than fsconfig(2): a page in all.
fn classic(
    mount: &Mount,
    options: &Options,
    label: Option<&str>,
    target: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
) -> Result<()> {
    let word = |(key, value): &(String, Option<String>)| match value {
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    };
    let label = label.filter(|_| !is_made_before(kind_of(mount))).map(|label| format!("context=\"{label}\""));
    let data: Vec<String> = options.data.iter().map(word).chain(label).collect();
    let source = mount.source().as_deref().unwrap_or(Path::new("none")).to_string_lossy();
    let place = PathBuf::from(format!("/proc/self/fd/{}", target.as_raw_fd()));
    sys::mount::mount_classic(&source, &place, kind_of(mount), &data.join(",")).doing(|| kind_of(mount).to_owned())?;
    let placed = root::resolve(root, mount.destination(), OFlags::PATH).doing(|| "cannot find the new mount")?;
    finish(placed.as_fd(), options, Bound::No, false)
}

/// What the host has there, where the kernel lets this process make none of its own. Read-only, as it is the host's, save for
/// message queues.
fn the_hosts(path: &str, options: &Options) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
    let what = || format!("the host's {path}");
    let tree = open_tree(CWD, Path::new(path), flags).doing(what)?;
    let readonly = if path == "/sys" { MountAttr::RDONLY } else { MountAttr::empty() };
    let propagation = Some(MountPropagationFlags::PRIVATE);
    let attrs = MountAttrs { set: readonly, propagation, ..MountAttrs::default() };
    mount_setattr(tree.as_fd(), Depth::Recursive, &attrs).doing(what)?;
    let attrs = MountAttrs { set: options.set, ..MountAttrs::default() };
    mount_setattr(tree.as_fd(), Depth::One, &attrs).doing(what)?;
    Ok(tree)
}

/// Changes what is mounted there already: the mount's attributes become those that are written, and the file system's own
/// options change where there are any. The file system itself is never made read-only, as it may be the host's.
fn remount(mount: &Mount, options: &Options, root: BorrowedFd<'_>) -> Result<()> {
    let place = root::resolve(root, mount.destination(), OFlags::PATH).map_err(missing_target)?;
    let kept = MountAttr::RDONLY | MountAttr::NOSUID | MountAttr::NODEV | MountAttr::NOEXEC | MountAttr::NOSYMFOLLOW;
    let changed = Options { clear: options.clear | (kept - options.set), ..options.clone() };
    finish(place.as_fd(), &changed, Bound::No, false).map_err(|error| {
        SetupError::new(error.kind, format!("option \"remount\": {}; is it a mount point?", error.message))
    })?;
    if options.bind.is_some() || (options.data.is_empty() && options.whole.is_empty()) {
        return Ok(());
    }
    let change = || -> std::result::Result<(), sys::mount::FsError> {
        let context = fspick(place.as_fd(), kind_of(mount))?;
        tell(&context, options)?;
        context.reconfigure()
    };
    change().doing(|| "option \"remount\"")
}

/// What is to be mounted somewhere.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Folder,
    File,
}

/// Whether a mount point had to be made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It was there, under this very path.
    There,
    /// It was there, behind a symbolic link.
    Linked,
    /// It is new, in a folder that was there under this very path.
    Made,
    /// It is new, with folders above it or behind a symbolic link.
    MadeBelow,
}

/// The mount point, made where it is missing.
fn target(root: BorrowedFd<'_>, destination: &Path, shape: Shape) -> Result<(OwnedFd, Found)> {
    let flags = if shape == Shape::Folder { OFlags::PATH | OFlags::DIRECTORY } else { OFlags::PATH };
    match root::resolve_plain(root, destination, flags) {
        Ok(target) => return Ok((target, Found::There)),
        Err(Errno::NOENT | Errno::LOOP) => {}
        Err(errno) => return Err(missing_target(errno)),
    }
    // the usual one: missing in a folder that is what it says it is
    if let (Some(parent), Some(name), Shape::Folder) = (destination.parent(), destination.file_name(), shape)
        && let Ok(parent) = root::resolve_plain(root, parent, OFlags::PATH | OFlags::DIRECTORY)
        && rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)).is_ok()
    {
        let target = root::resolve_plain(parent.as_fd(), Path::new(name), flags).map_err(missing_target)?;
        leave_open(parent);
        return Ok((target, Found::Made));
    }
    let found = if root::resolve(root, destination, flags).is_ok() { Found::Linked } else { Found::MadeBelow };
    let target = match shape {
        Shape::Folder => root::ensure_dir(root, destination),
        Shape::File => root::ensure_file(root, destination),
    };
    let target = target.map_err(missing_target)?;
    // a link or a `..` may have led to where the path itself does not say that it leads
    if !destination.starts_with("/proc") && is_proc(&target)? {
        return Err(SetupError::invalid("the path leads into /proc, where nothing may be mounted"));
    }
    Ok((target, found))
}

fn is_proc(fd: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::fstatfs(fd).doing(|| "fstatfs")?;
    Ok(u64::try_from(stat.f_type).is_ok_and(|have| have == PROC_MAGIC))
}

pub(super) fn missing_target(errno: Errno) -> SetupError {
    let hint =
        if errno == Errno::ROFS { "; the root is read-only, and the image has nothing there to mount on" } else { "" };
    SetupError::new(FailureKind::Internal, format!("cannot make the mount point: {errno}{hint}"))
}

/// Files of /proc that may be replaced, as lxcfs does.
const REPLACEABLE: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "net/dev",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

/// Nothing of an image or a user may stand in for the kernel's own files.
fn refuse_proc(destination: &Path, kind: &str, options: &Options) -> Result<()> {
    let whole = Path::new("/").join(destination);
    if whole.components().any(|part| part == Component::ParentDir) {
        // looked at when it is resolved
        return Ok(());
    }
    let Ok(below) = whole.strip_prefix("/proc") else { return Ok(()) };
    if options.remount {
        return Ok(());
    }
    if below.as_os_str().is_empty() {
        return if matches!(kind, "proc" | "bind" | "none") || options.bind.is_some() {
            Ok(())
        } else {
            Err(SetupError::invalid("only proc may be mounted there"))
        };
    }
    if REPLACEABLE.iter().any(|file| below == Path::new(file)) {
        Ok(())
    } else {
        Err(SetupError::invalid("a mount inside /proc would hide the kernel's files from the container"))
    }
}

/// A link in its place would put the kernel's files where the masked paths are not looked for.
fn refuse_link(root: BorrowedFd<'_>, destination: &Path) -> Result<()> {
    let plain = destination.strip_prefix("/").unwrap_or(destination);
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat2(root, plain, flags, Mode::empty(), resolve) {
        Err(Errno::LOOP) => {
            Err(SetupError::invalid("must be mounted on ordinary directory: the image has a symbolic link there"))
        }
        _ => Ok(()),
    }
}

/// Whether a mount is bound from the host, which tells its default propagation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    Yes,
    No,
}

/// Attributes and propagation of a mount.
fn finish(tree: BorrowedFd<'_>, options: &Options, bound: Bound, mapped: bool) -> Result<()> {
    let recursive = options.bind != Some(Depth::One);
    let below = !options.set_below.is_empty() || !options.clear_below.is_empty();
    let mut propagation =
        (bound == Bound::Yes && options.propagation.is_empty()).then_some(MountPropagationFlags::PRIVATE);
    if below || (propagation.is_some() && recursive) {
        let attrs =
            MountAttrs { set: options.set_below, clear: options.clear_below, propagation, user_namespace: None };
        mount_setattr(tree, Depth::Recursive, &attrs).doing(|| "cannot set its attributes")?;
        propagation = None;
    }
    if !options.set.is_empty() || !options.clear.is_empty() || propagation.is_some() {
        let attrs = MountAttrs { set: options.set, clear: options.clear, propagation, user_namespace: None };
        let changed = mount_setattr(tree, Depth::One, &attrs).or_else(|error| {
            if error.errno != Errno::PERM {
                return Err(error);
            }
            // what another user namespace has locked stays as it is
            let times = MountAttr::ATIME_FIELD | MountAttr::NODIRATIME;
            let attrs = MountAttrs { set: options.set - times, propagation, ..MountAttrs::default() };
            mount_setattr(tree, Depth::One, &attrs)
        });
        changed.doing(|| "cannot set its attributes")?;
    }
    for (kind, depth) in &options.propagation {
        let set = |kind| {
            let attrs = MountAttrs { propagation: Some(kind), ..MountAttrs::default() };
            mount_setattr(tree, *depth, &attrs).doing(|| "cannot set its propagation")
        };
        if *kind == MountPropagationFlags::SHARED && mapped && bound == Bound::Yes {
            // shared inside, but what a user namespace mounts must not appear on the host
            set(MountPropagationFlags::DOWNSTREAM)?;
        }
        set(*kind)?;
    }
    Ok(())
}
