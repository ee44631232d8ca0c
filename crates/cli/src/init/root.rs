//! The guest's root: found, and mounted.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};

use crate::InitError;
use crate::cmdline::{CommandLine, Writable};
use crate::modules::Modules;
use crate::superblock::{self, Found};

/// The first disk.
const FIRST: &str = "/dev/vda";
/// Where layers are mounted.
const LAYERS: &str = "/run/layers";
/// How often a disk that is not there yet is looked for, and the time between.
const TRIES: u32 = 1_000;
const BETWEEN: Duration = Duration::from_millis(10);

fn mounted(what: &str, place: &str, kind: &str, flags: MountFlags, options: &str) -> Result<(), InitError> {
    let _there = fs::create_dir_all(place);
    let options = std::ffi::CString::new(options).unwrap_or_default();
    mount(what, place, kind, flags, Some(options.as_c_str())).map_err(|source| InitError::Mount {
        what: format!("{what} ({kind})"),
        place: place.to_owned(),
        source,
    })
}

fn probe(disk: &str) -> Option<Found> {
    let mut bytes = Vec::new();
    File::open(disk).ok()?.take(superblock::SIZE as u64).read_to_end(&mut bytes).ok()?;
    superblock::probe(&bytes)
}

/// Every block device there is.
fn disks() -> Vec<String> {
    let names = fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let mut disks: Vec<_> = names.map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy())).collect();
    disks.sort();
    disks
}

/// The disk that is meant, if it is there.
fn find(named: &str) -> Option<String> {
    let by =
        |test: &dyn Fn(&Found) -> bool| disks().into_iter().find(|disk| probe(disk).is_some_and(|found| test(&found)));
    match named.split_once('=') {
        Some(("UUID", number)) => by(&|found| found.number.eq_ignore_ascii_case(number)),
        Some(("LABEL", name)) => by(&|found| found.name == name),
        _ => Some(named.to_owned()).filter(|disk| Path::new(disk).exists()),
    }
}

/// Waits for the disk that is meant: devices come in their own time.
fn wait_for(named: &str) -> Result<String, InitError> {
    for _ in 0..TRIES {
        if let Some(disk) = find(named) {
            return Ok(disk);
        }
        std::thread::sleep(BETWEEN);
    }
    let there = disks();
    let there =
        if there.is_empty() { "there is no disk at all".to_owned() } else { format!("there are {}", there.join(", ")) };
    Err(InitError::Root(format!("no disk {named}: {there}; name one by root= on the command line")))
}

fn mount_disk(
    named: &str,
    place: &str,
    line: &CommandLine,
    access: MountFlags,
    modules: &Modules,
) -> Result<(), InitError> {
    let disk = wait_for(named)?;
    let kind = line.kind.clone().or_else(|| probe(&disk).map(|found| found.kind.to_owned()));
    let kind = kind.ok_or_else(|| {
        InitError::Root(format!("the disk {disk} has no file system that is known; name its type by rootfstype="))
    })?;
    modules.load(&kind)?;
    mounted(&disk, place, &kind, access, &line.options)
}

/// Layers, the topmost first, under something that takes what is written.
fn mount_layers(disks: &str, place: &str, line: &CommandLine, modules: &Modules) -> Result<(), InitError> {
    modules.load("overlay")?;
    let upper = format!("{LAYERS}/upper");
    match &line.upper {
        Some(disk) => mount_disk(disk, &upper, &CommandLine::default(), MountFlags::empty(), modules)?,
        None => mounted("tmpfs", &upper, "tmpfs", MountFlags::empty(), "mode=0755")?,
    }
    let mut lower = Vec::new();
    for (number, disk) in disks.split(',').enumerate() {
        let layer = format!("{LAYERS}/{number}");
        mount_disk(disk, &layer, line, MountFlags::RDONLY, modules)?;
        lower.push(layer);
    }
    let (files, work) = (format!("{upper}/files"), format!("{upper}/work"));
    for folder in [&files, &work] {
        fs::create_dir_all(folder).map_err(|source| InitError::Read { path: folder.clone(), source })?;
    }
    let options = format!("lowerdir={},upperdir={files},workdir={work}", lower.join(":"));
    mounted("overlay", place, "overlay", MountFlags::empty(), &options)
}

/// Mounts the root that the command line names.
///
/// # Errors
/// It is not there, or can't be mounted.
pub(crate) fn mount_at(place: &Path, line: &CommandLine, modules: &Modules) -> Result<(), InitError> {
    let place = place.to_string_lossy();
    // Without a word about it, the kernel's own rule holds for a root that is named.
    let writable = line.writable.unwrap_or(if line.root.is_some() { Writable::No } else { Writable::Yes });
    let access = if writable == Writable::Yes { MountFlags::empty() } else { MountFlags::RDONLY };
    let named = line.root.as_deref().unwrap_or(FIRST);
    match named.split_once(':') {
        Some(("virtiofs", tag)) => {
            modules.load("virtiofs")?;
            mounted(tag, &place, "virtiofs", access, &line.options)
        }
        Some(("overlay", disks)) => mount_layers(disks, &place, line, modules),
        _ => mount_disk(named, &place, line, access, modules),
    }
}
