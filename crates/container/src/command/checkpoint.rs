//! `checkpoint`: writes the processes of a container down, by criu.

use super::flags::{Command, Flag, Order, Parsed};
use super::{Context, Failure, Outcome};
use crate::error::Doing as _;
use crate::runtime::criu::{Criu, SAME, write_descriptors};
use crate::runtime::life::{self, Force, Known};
use crate::runtime::status::Status;
use std::path::{Path, PathBuf};

/// What `checkpoint` and `restore` have in common.
pub(super) static IMAGES: [Flag; 10] = [
    Flag::switch("auto-dedup", "keep memory images free of doubles"),
    Flag::value("empty-ns", "a namespace that is made anew without its content: network"),
    Flag::switch("ext-unix-sk", "allow unix sockets that lead out of the container"),
    Flag::switch("file-locks", "take locks of files along"),
    Flag::value("image-path", "the folder of the images (default: checkpoint)"),
    Flag::switch("lazy-pages", "memory follows when it is touched"),
    Flag::value("manage-cgroups-mode", "soft, full, strict or ignore (default: soft)"),
    Flag::switch("shell-job", "allow a session that began outside"),
    Flag::switch("tcp-established", "take open connections along"),
    Flag::value("work-path", "the folder of the log (default: that of the images)"),
];

static FLAGS: [Flag; 5] = [
    Flag::switch("leave-running", "the container goes on"),
    Flag::value("page-server", "ADDRESS:PORT that memory is sent to"),
    Flag::value("parent-path", "images of an earlier --pre-dump, as seen from the images"),
    Flag::switch("pre-dump", "memory only; the container goes on"),
    Flag::value("status-fd", "a descriptor that is told when lazy pages are served"),
];

pub(super) static COMMAND: Command = Command {
    name: "checkpoint",
    usage: "[FLAGS] ID",
    about: "write the processes of a container down, to be restored later",
    flags: &[&IMAGES, &FLAGS],
    order: Order::Mixed,
    arguments: (1, 1),
    failure_code: 1,
    run,
};

/// The folders of the images and of the log.
pub(super) fn folders(parsed: &Parsed) -> Result<(PathBuf, PathBuf), Failure> {
    let folder = |text: &str| {
        let path = std::path::absolute(text).map_err(|error| Failure::new(format!("{text}: {error}")))?;
        std::fs::create_dir_all(&path).map_err(|error| Failure::new(format!("{text}: {error}")))?;
        Ok::<_, Failure>(path)
    };
    let given = |name: &str| parsed.value(name).filter(|text| !text.is_empty());
    let images = folder(given("image-path").unwrap_or("checkpoint"))?;
    let work = given("work-path").map(folder).transpose()?.unwrap_or_else(|| images.clone());
    Ok((images, work))
}

/// Tells criu what both directions understand.
pub(super) fn common(criu: &mut Criu, parsed: &Parsed) -> Result<(), Failure> {
    for name in SAME.iter().filter(|name| parsed.on(name)) {
        criu.flag(&format!("--{name}"));
    }
    match parsed.value("manage-cgroups-mode").unwrap_or("") {
        "" => criu.flag("--manage-cgroups=soft"),
        mode @ ("soft" | "full" | "strict" | "ignore") => criu.flag(&format!("--manage-cgroups={mode}")),
        other => {
            return Err(Failure::new(format!(
                "invalid manage-cgroups-mode {other:?}: soft, full and strict are known"
            )));
        }
    }
    for kind in parsed.values("empty-ns") {
        if kind != "network" {
            return Err(Failure::new(format!("namespace {kind:?} is not supported by --empty-ns; network is")));
        }
        criu.value("--empty-ns", "net");
    }
    Ok(())
}

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    let known = Known::find(&context.root, parsed.id())?;
    if !matches!(known.status, Status::Running | Status::Paused) {
        return Err(Failure::new(format!("container cannot be checkpointed: it is {}", known.status)));
    }
    let (birth, _pidfd) = known.init()?;
    let (images, work) = folders(parsed)?;
    let before = parsed.on("pre-dump");
    let mut criu = Criu::new(if before { "pre-dump" } else { "dump" }, &images, &work);
    criu.value("--tree", birth.pid.to_string());
    criu.value("--root", &known.record.rootfs);
    common(&mut criu, parsed)?;
    if parsed.on("leave-running") && !before {
        criu.flag("--leave-running");
    }
    if before {
        criu.flag("--track-mem");
    }
    if let Some(parent) = parsed.value("parent-path").filter(|path| !path.is_empty()) {
        criu.flag("--track-mem");
        criu.value("--prev-images-dir", parent);
    }
    if let Some(fd) = parsed.number::<i32>("status-fd")?.filter(|fd| *fd >= 0) {
        criu.value("--status-fd", fd.to_string());
    }
    if let Some(server) = parsed.value("page-server").filter(|text| !text.is_empty()) {
        let (address, port) = server
            .rsplit_once(':')
            .ok_or_else(|| Failure::new("use --page-server ADDRESS:PORT to specify the page server"))?;
        criu.flag("--page-server");
        criu.value("--address", address);
        criu.value("--port", port);
    }
    if let Some(folder) = birth.freezer.as_deref().and_then(Path::parent) {
        criu.value("--freeze-cgroup", folder);
    }
    externals(&mut criu, &known, birth.pid)?;
    if !before {
        write_descriptors(&images, birth.pid)?;
    }
    criu.run()?;
    if !before && !parsed.on("leave-running") {
        life::delete(&context.root, parsed.id(), Force::Yes, &|text| context.log.warn(text))?;
    }
    Ok(0)
}

/// Names what is not the container's own: binds, hidden files, namespaces that were there before.
fn externals(criu: &mut Criu, known: &Known, pid: i32) -> Result<(), Failure> {
    for path in &known.record.binds {
        criu.value("--external", format!("mnt[{0}]:{0}", path.display()));
    }
    for path in &known.record.masked {
        let inside = Path::new(&format!("/proc/{pid}/root")).join(path.strip_prefix("/").unwrap_or(path));
        if std::fs::metadata(inside).is_ok_and(|metadata| !metadata.is_dir()) {
            criu.value("--external", format!("mnt[{0}]:{0}", path.display()));
        }
    }
    for (kind, path) in &known.record.joined {
        let Some((kind, name)) = external_namespace(kind) else { continue };
        let number = rustix::fs::stat(path).doing(|| format!("namespace {}", path.display()))?.st_ino;
        criu.value("--external", format!("{kind}[{number}]:{name}"));
    }
    Ok(())
}

/// criu's word for a kind of namespace, and the name that the images get for one from outside.
pub(super) fn external_namespace(kind: &str) -> Option<(&'static str, &'static str)> {
    match kind {
        "network" => Some(("net", "extRootNetNS")),
        "pid" => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}
