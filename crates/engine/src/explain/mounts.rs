//! Mounts, as the container's mount namespace has them.

use super::{DEFAULT, Row, Subject};
use crate::model::{Mount, MountKind};

pub(super) fn rows(subject: &Subject<'_>) -> Vec<Row> {
    let table = subject.live.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok());
    match table {
        Some(table) => table.lines().filter_map(|line| live(subject, line)).collect(),
        None => planned(subject),
    }
}

/// A line of mountinfo, proc(5): `id parent major:minor root target options tags… - type source super-options`.
fn live(subject: &Subject<'_>, line: &str) -> Option<Row> {
    let (mount, system) = line.split_once(" - ")?;
    let mount: Vec<&str> = mount.split(' ').collect();
    let [_, _, _, root, target, options, ..] = mount[..] else { return None };
    let mut system = system.split(' ');
    let kind = system.next()?;
    let source = system.next()?;
    let shown = match (kind, root) {
        ("overlay", _) => format!("{kind} {options}"),
        (_, "/") => format!("{kind} from {source} {options}"),
        _ => format!("{kind} from {source}[{root}] {options}"),
    };
    Some(Row::new(unescape(target), unescape(&shown), because(subject, &unescape(target))))
}

fn planned(subject: &Subject<'_>) -> Vec<Row> {
    let Some(oci) = &subject.oci else { return Vec::new() };
    let mounts = oci.mounts().iter().flatten().map(|mount| {
        let target = mount.destination().display().to_string();
        let kind = mount.typ().as_deref().unwrap_or("bind");
        let source = mount.source().as_ref().map(|source| source.display().to_string()).unwrap_or_default();
        let options = mount.options().as_ref().map(|options| options.join(",")).unwrap_or_default();
        let reason = because(subject, &target);
        Row::new(target, format!("{kind} from {source} {options}"), reason)
    });
    let access = if subject.container.spec.read_only_root { "ro" } else { "rw" };
    std::iter::once(Row::new("/", format!("overlay {access}"), because(subject, "/"))).chain(mounts).collect()
}

fn because(subject: &Subject<'_>, target: &str) -> String {
    let spec = &subject.container.spec;
    if target == "/" {
        let image = format!("image {}", spec.image);
        return if spec.read_only_root { format!("{image}, --read-only") } else { image };
    }
    if let Some(mount) = spec.mounts.iter().find(|mount| mount.target.trim_end_matches('/') == target) {
        return flag(mount);
    }
    if target.starts_with("/dev/shm") && spec.shm_bytes.is_some() {
        return format!("--shm-size {}", super::size(i64::try_from(spec.shm_bytes.unwrap_or(0)).unwrap_or(i64::MAX)));
    }
    if spec.privileged && target.starts_with("/sys") {
        return "--privileged".into();
    }
    let masked = crate::plan::security::masked(spec).iter().any(|path| path == target);
    let readonly = crate::plan::security::readonly(spec).iter().any(|path| path == target);
    match (masked, readonly) {
        (true, _) => "default (masked path)".into(),
        (_, true) => "default (read-only path)".into(),
        _ if target == "/dev/console" => "-t".into(),
        _ => DEFAULT.into(),
    }
}

fn flag(mount: &Mount) -> String {
    let ro = if mount.read_only { ":ro" } else { "" };
    match &mount.kind {
        MountKind::Bind { source, create_source: true, .. } => format!("-v {source}:{}{ro}", mount.target),
        MountKind::Bind { source, .. } => format!("--mount type=bind,source={source},target={}", mount.target),
        MountKind::Volume { name: Some(name), .. } => format!("-v {name}:{}{ro}", mount.target),
        MountKind::Volume { name: None, .. } => format!("-v {} (or the image's VOLUME)", mount.target),
        MountKind::Image { image, .. } => format!("--mount type=image,source={image},target={}", mount.target),
        MountKind::Tmpfs { .. } => format!("--tmpfs {}", mount.target),
    }
}

/// mountinfo writes space, tab, line feed and backslash as three octal digits.
pub(crate) fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
