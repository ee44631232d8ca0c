//! `insula kernel install`: Debian's kernel from its package.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Output, Stdio};

use super::archive::Archive;
use super::module::{self, Module, Modules};
use super::package::Package;
use super::shelf::{Draft, Shelf};
use super::{progress, unpack};
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};
use crate::{output, table};

/// Debian's kernel for clouds: small, with virtio's drivers as modules.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// What runs first in the guest.
const INIT: &str = "insula-init";

pub(super) static COMMAND: Command = Command {
    name: "install",
    usage: "[OPTIONS]",
    about: "Install a kernel from Debian's packages",
    flags: &[&[
        Flag::switch("default", "Make it the kernel of machines for which none is named; the first one is, anyway"),
        Flag::value("from", "FILE.deb", "Take this package rather than apt's"),
        Flag::value("name", "NAME", "Its name here (the kernel's release)"),
        Flag::value("package", "NAME", "The package that apt fetches (linux-image-cloud-amd64)"),
    ]],
    action: Action::Run(install),
    ..Command::BLANK
};

fn install(context: &Context, given: &Parsed) -> Outcome {
    let shelf = Shelf::of(context);
    let draft = shelf.draft(given.value("name"))?;
    let file = match given.value("from") {
        Some(file) => PathBuf::from(file),
        None => fetch(given.value("package").unwrap_or(PACKAGE), &draft.path("fetched"))?,
    };
    let package = Package::open(&file)?;
    let (name, version) = package.identity()?;
    progress(&format!("unpacking {name} {version}"));
    let (release, modules) = kernel(&package, &name, &draft)?;
    initrd(&package, &modules, &draft)?;
    let booted = if draft.path("vmlinux").exists() { "vmlinux" } else { "vmlinuz" };
    let fetched = draft.path("fetched");
    if fetched.exists() {
        std::fs::remove_dir_all(&fetched).during(|| format!("removing {}", fetched.display()))?;
    }
    let source = format!("{name} {version}");
    settle(&shelf, draft, given, (&release, &source, booted))
}

/// Puts a finished draft on the shelf and says so.
pub(super) fn settle(shelf: &Shelf, draft: Draft<'_>, given: &Parsed, made: (&str, &str, &str)) -> Outcome {
    let (release, source, booted) = made;
    let record = draft.publish(given.value("name").unwrap_or(release), release, source, booted)?;
    if given.on("default") || shelf.default_name().is_none() {
        shelf.set_default(&record.name)?;
    }
    let size: u64 = record.files.iter().map(|file| file.size).sum();
    let size = table::decimal_size(i64::try_from(size).unwrap_or(i64::MAX), 3);
    progress(&format!("installed in {}, {size}", shelf.place(&record.name).display()));
    output::line(&record.name);
    Ok(0)
}

fn apt(program: &'static str, arguments: &[&str], folder: Option<&Path>) -> Result<Output, Failure> {
    let mut command = Program::new(program);
    // What apt fetches is checked against signed lists, whatever the machine's configuration allows.
    command.args(["-o", "APT::Get::AllowUnauthenticated=false", "-o", "Acquire::AllowInsecureRepositories=false"]);
    command.args(["-o", "APT::Sandbox::User=root", "-q"]).args(arguments).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    command.output().map_err(|error| {
        Failure::new(format!(
            "{program} cannot be run: {error}; on a machine without apt, give a package with --from FILE.deb"
        ))
    })
}

fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("E: ")).collect();
    if errors.is_empty() { output.status.to_string() } else { errors.join("; ") }
}

/// The package with the kernel proper: `linux-image-cloud-amd64` only names the newest one.
fn resolve(package: &str) -> Result<(String, String), Failure> {
    let shown = apt("apt-cache", &["show", "--no-all-versions", "--", package], None)?;
    let text = String::from_utf8_lossy(&shown.stdout);
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let Some(version) = field("Version: ").filter(|_| shown.status.success()) else {
        return Err(Failure::new(format!(
            "apt knows no package {package:?}; read its lists with: apt-get update, or give a package with --from FILE.deb"
        )));
    };
    let depends = field("Depends: ").unwrap_or_default();
    let image = depends.split(", ").find(|name| name.starts_with("linux-image-"));
    match image.and_then(|image| image.split_once(" (= ")) {
        Some((image, version)) => Ok((image.to_owned(), version.trim_end_matches(')').to_owned())),
        None => Ok((package.to_owned(), version.to_owned())),
    }
}

/// Lets apt fetch a package to a folder, and gives the file.
fn fetch(package: &str, folder: &Path) -> Result<PathBuf, Failure> {
    let (image, version) = resolve(package)?;
    let during = || format!("making {}", folder.display());
    std::fs::create_dir(folder).during(during)?;
    progress(&format!("fetching {image} {version} by apt"));
    let fetched = apt("apt-get", &["download", "--", &format!("{image}={version}")], Some(folder))?;
    if !fetched.status.success() {
        return Err(Failure::new(format!(
            "apt cannot fetch {image} {version}: {}; are its lists old? read them with: apt-get update",
            complaint(&fetched)
        )));
    }
    let mut files = std::fs::read_dir(folder).during(during)?.flatten().map(|entry| entry.path());
    files
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .ok_or_else(|| Failure::new("apt fetched nothing"))
}

/// Writes the kernel as it is in the package, and unpacked if it can be; gives its release, and what its modules say.
fn kernel(package: &Package, name: &str, draft: &Draft<'_>) -> Result<(String, Modules), Failure> {
    let mut modules = Modules::default();
    let mut found: BTreeMap<&str, (String, Vec<u8>)> = BTreeMap::new();
    package.files(&mut |path, content| {
        if module::is_module(path)
            && let Some(module) = Module::read(path, &read_module(content)?)
        {
            modules.add(module);
        }
        for (prefix, file) in [("boot/vmlinuz-", "vmlinuz"), ("boot/config-", "config")] {
            if let Some(release) = path.strip_prefix(prefix) {
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes)?;
                found.insert(file, (release.to_owned(), bytes));
            }
        }
        Ok(())
    })?;
    for (file, (_, bytes)) in &found {
        draft.write(file, bytes)?;
    }
    let (release, bytes) = found.remove("vmlinuz").ok_or_else(|| {
        Failure::new(format!("the package {name} has no kernel in /boot; give one whose name begins with linux-image-"))
    })?;
    if let Some(vmlinux) = unpack::vmlinux(&bytes) {
        progress(&format!("unpacking the kernel {release}"));
        draft.write("vmlinux", &vmlinux)?;
    }
    Ok((release, modules))
}

/// Writes the first file system: `insula-init`, and the modules that a guest needs with the order in which they are loaded.
fn initrd(package: &Package, modules: &Modules, draft: &Draft<'_>) -> Result<(), Failure> {
    let wanted = modules.wanted();
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    let mut index = String::new();
    for (what, order) in &wanted {
        index.push_str(what);
        for module in order {
            let file = module.path.rsplit('/').next().unwrap_or(&module.path);
            let file = file.split_once(".ko").map_or(file, |(stem, _)| stem);
            index.push_str(&format!(" {file}.ko"));
            names.insert(&module.path, format!("modules/{file}.ko"));
        }
        index.push('\n');
    }
    progress(&format!("making the initrd with {} modules", names.len()));
    let mut archive = first_files()?;
    archive.file("modules/index", 0o644, index.as_bytes());
    package.files(&mut |path, content| {
        if let Some(name) = names.get(path) {
            archive.file(name, 0o644, &read_module(content)?);
        }
        Ok(())
    })?;
    draft.write("initrd", &archive.finish())
}

/// A module's bytes, unpacked if they are packed.
fn read_module(content: &mut dyn std::io::Read) -> std::io::Result<Vec<u8>> {
    let (mut packed, mut plain) = (Vec::new(), Vec::new());
    content.read_to_end(&mut packed)?;
    if packed.starts_with(b"\x7fELF") {
        return Ok(packed);
    }
    image::decompress(packed.as_slice()).map_err(std::io::Error::other)?.read_to_end(&mut plain)?;
    Ok(plain)
}

/// The folders of every guest's first file system, and the program in it.
pub(super) fn first_files() -> Result<Archive, Failure> {
    let own = std::env::current_exe().ok().map(|path| path.with_file_name(INIT)).filter(|path| path.is_file());
    let path = own.or_else(|| {
        std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(INIT)).find(|path| path.is_file())
    });
    let path =
        path.ok_or_else(|| Failure::new(format!("{INIT} is not there; install it beside insula, or put it in PATH")))?;
    let program = std::fs::read(&path).during(|| format!("reading {}", path.display()))?;
    let mut archive = Archive::default();
    archive.console();
    ["proc", "sys", "run", "root"].iter().for_each(|folder| archive.folder(folder));
    archive.file("init", 0o755, &unpack::loaded(program));
    Ok(archive)
}
