//! `checkpoint`: writes the processes of a container down, by criu.

use super::flags::{Command, Flag, Order, Parsed};
use super::{Context, Failure, Outcome};
use crate::runtime::criu::{Criu, Field, Message, Outside, SAME, SOFT, Verb, write_descriptors};
use crate::runtime::life::{self, Force, Known};
use crate::runtime::status::Status;
use std::path::{Path, PathBuf};
use sys::process::Namespaces;

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
    for (_, field) in SAME.iter().filter(|(name, _)| parsed.on(name)) {
        criu.flag(*field);
    }
    let mode = match parsed.value("manage-cgroups-mode").unwrap_or("") {
        "ignore" => 0,
        "" | "soft" => SOFT,
        "full" => 4,
        "strict" => 5,
        other => {
            let text = format!("invalid manage-cgroups-mode {other:?}: soft, full, strict and ignore are known");
            return Err(Failure::new(text));
        }
    };
    criu.flag(Field::ManageGroups);
    criu.number(Field::GroupsMode, mode);
    for kind in parsed.values("empty-ns") {
        if kind != "network" {
            return Err(Failure::new(format!("namespace {kind:?} is not supported by --empty-ns; network is")));
        }
        criu.number(Field::Empty, Namespaces::NET.bits());
    }
    Ok(())
}

/// The images of an earlier `--pre-dump`. criu leads a symbolic link there, so the folder is named as seen from the new images.
fn parent_of<'a>(parsed: &'a Parsed, images: &Path) -> Result<Option<&'a str>, Failure> {
    let Some(parent) = parsed.value("parent-path").filter(|path| !path.is_empty()) else { return Ok(None) };
    if Path::new(parent).is_absolute() {
        return Err(Failure::new(format!("--parent-path {parent}: it must be relative to the folder of the images")));
    }
    let found = images.join(parent);
    if found.is_dir() {
        return Ok(Some(parent));
    }
    Err(Failure::new(format!("invalid --parent-path {parent}: {} is no folder", found.display())))
}

fn run(context: &Context, parsed: &Parsed) -> Outcome {
    let known = Known::find(&context.root, parsed.id())?;
    if !matches!(known.status, Status::Running | Status::Paused) {
        return Err(Failure::new(format!("container cannot be checkpointed: it is {}", known.status)));
    }
    let (birth, _pidfd) = known.init()?;
    let (images, work) = folders(parsed)?;
    let before = parsed.on("pre-dump");
    let mut criu = Criu::new(if before { Verb::PreDump } else { Verb::Dump }, &images, &work);
    criu.number(Field::Pid, u64::try_from(birth.pid).unwrap_or(0));
    criu.text(Field::Root, &known.record.rootfs);
    criu.configuration((*known.record.annotations).as_ref());
    common(&mut criu, parsed)?;
    if parsed.on("leave-running") && !before {
        criu.flag(Field::LeaveRunning);
    }
    if before {
        criu.flag(Field::TrackMemory);
    }
    if let Some(parent) = parent_of(parsed, &images)? {
        criu.flag(Field::TrackMemory);
        criu.text(Field::Parent, parent);
    }
    if let Some(fd) = parsed.number::<i32>("status-fd")?.and_then(|fd| u64::try_from(fd).ok()) {
        criu.number(Field::StatusDescriptor, fd);
    }
    if let Some(server) = parsed.value("page-server").filter(|text| !text.is_empty()) {
        let (address, port) = server
            .rsplit_once(':')
            .ok_or_else(|| Failure::new("use --page-server ADDRESS:PORT to specify the page server"))?;
        let port: u16 = port.parse().map_err(|_| Failure::new(format!("--page-server: {port:?} is no port")))?;
        let mut message = Message::default();
        message.bytes(1, address.as_bytes());
        message.number(2, port.into());
        criu.message(Field::PageServer, &message);
    }
    if let Some(folder) = birth.freezer.as_deref().and_then(Path::parent) {
        criu.text(Field::FreezeGroup, folder);
    }
    let record = &known.record;
    criu.externals(&Outside { binds: &record.binds, masked: &record.masked }, birth.pid);
    criu.joined(&record.joined)?;
    if !before {
        write_descriptors(&images, birth.pid)?;
    }
    criu.run(&mut |_, _| Ok(()))?;
    if !before && !parsed.on("leave-running") {
        life::delete(&context.root, parsed.id(), Force::Yes, &|text| context.log.warn(text))?;
    }
    Ok(0)
}
