//! `insula kernel build`: a small kernel from Debian's sources.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};

use super::install::{first_files, settle};
use super::progress;
use super::shelf::{Draft, Shelf};
use crate::context::Context;
use crate::failure::{During as _, Failure, Outcome};
use crate::flags::{Action, Command, Flag, Parsed};

/// What the kernel is to have; all else is left out.
const CONFIG: &str = include_str!("guest.config");
/// Where Debian's packages put the sources.
const SOURCES: &str = "/usr/src";
/// Programs and headers that a build needs, each with its package.
const NEEDED: &[(&str, &str)] = &[
    ("bc", "bc"),
    ("bison", "bison"),
    ("flex", "flex"),
    ("gcc", "gcc"),
    ("/usr/include/libelf.h", "libelf-dev"),
    ("make", "make"),
    ("objcopy", "binutils"),
    ("perl", "perl"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
];
/// How many files a build makes, for the progress that is shown.
const STEP: u32 = 200;

pub(super) static COMMAND: Command = Command {
    name: "build",
    usage: "[OPTIONS]",
    about: "Build a small kernel from Debian's sources",
    flags: &[&[
        Flag::switch("default", "Make it the kernel of machines for which none is named; the first one is, anyway"),
        Flag::value("jobs", "N", "How many compilers run at once (default: one for each processor)").short('j'),
        Flag::value("name", "NAME", "Its name here (small- and the kernel's release)"),
        Flag::value(
            "source",
            "PATH",
            "The sources, a folder or an archive (default: the newest /usr/src/linux-source-*)",
        ),
    ]],
    action: Action::Run(build),
    ..Command::BLANK
};

fn build(context: &Context, given: &Parsed) -> Outcome {
    let source = match given.value("source") {
        Some(path) => Some(PathBuf::from(path)),
        None => newest(Path::new(SOURCES)),
    };
    let missing = missing();
    let Some(source) = source.filter(|path| path.exists() && missing.is_empty()) else {
        let mut packages = missing;
        if given.value("source").is_none() && newest(Path::new(SOURCES)).is_none() {
            packages.push("linux-source");
        }
        return Err(Failure::new(match (packages.is_empty(), given.value("source")) {
            (true, Some(path)) => format!("there are no sources at {path:?}"),
            _ => format!("a build needs more packages; install them with: apt-get install {}", packages.join(" ")),
        }));
    };
    let jobs = given.read("jobs", |text| text.parse::<u32>().map_err(|_| "give a number".to_owned()))?;
    let cpus = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
    let shelf = Shelf::of(context);
    let draft = shelf.draft(given.value("name"))?;
    let tree = unpacked(&source, &draft)?;
    let made = Build { tree, out: draft.path("out"), jobs: jobs.unwrap_or(cpus).max(1) };
    made.configure()?;
    made.compile()?;
    let release = made.release()?;
    made.take(&draft)?;
    draft.write("initrd", &first_files()?.finish())?;
    for used in ["out", "source"] {
        let folder = draft.path(used);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).during(|| format!("removing {}", folder.display()))?;
        }
    }
    settle(&shelf, draft, given, (&format!("small-{release}"), &source.display().to_string(), "vmlinux"))
}

/// The newest of Debian's archives of sources.
fn newest(folder: &Path) -> Option<PathBuf> {
    let version = |path: &Path| {
        let name = path.file_name()?.to_str()?.strip_prefix("linux-source-")?.strip_suffix(".tar.xz")?.to_owned();
        name.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>()
    };
    let paths = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    paths.filter_map(|path| Some((version(&path)?, path))).max().map(|(_, path)| path)
}

/// The packages that a build lacks here.
fn missing() -> Vec<&'static str> {
    let folders: Vec<_> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let there = |name: &str| folders.iter().any(|folder: &PathBuf| folder.join(name).exists());
    NEEDED.iter().filter(|(name, _)| !there(name)).map(|(_, package)| *package).collect()
}

/// The folder with the sources: as it is, or out of an archive.
fn unpacked(source: &Path, draft: &Draft<'_>) -> Result<PathBuf, Failure> {
    if source.is_dir() {
        return source.canonicalize().during(|| format!("opening {}", source.display()));
    }
    let folder = draft.path("source");
    std::fs::create_dir(&folder).during(|| format!("making {}", folder.display()))?;
    progress(&format!("unpacking {}", source.display()));
    let mut tar = Program::new("tar");
    tar.arg("-C").arg(&folder).args(["--strip-components=1", "-xf"]).arg(source);
    run(&mut tar, "unpacking the sources")?;
    Ok(folder)
}

fn run(program: &mut Program, what: &str) -> Result<String, Failure> {
    let output = program.stdin(Stdio::null()).output().during(|| what.to_owned())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last: Vec<_> = said.lines().rev().take(5).collect();
    Err(Failure::new(format!("{what} failed: {}", last.into_iter().rev().collect::<Vec<_>>().join("; "))))
}

/// The lines of a fragment that a configuration does not have.
fn refused<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let set: std::collections::BTreeSet<&str> = config.lines().collect();
    let wanted = fragment.lines().filter(|line| line.starts_with("CONFIG_"));
    let kept = |line: &str| match line.strip_suffix("=n") {
        Some(name) => !set.iter().any(|other| other.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))),
        None => set.contains(line),
    };
    wanted.filter(|line| !kept(line)).collect()
}

/// A kernel that is being built.
struct Build {
    tree: PathBuf,
    out: PathBuf,
    jobs: u32,
}

impl Build {
    fn make(&self) -> Program {
        let mut make = Program::new("make");
        make.arg("-C").arg(&self.tree).arg(format!("O={}", self.out.display())).env("LC_ALL", "C");
        // The same sources give the same kernel.
        make.env("KBUILD_BUILD_USER", "insula").env("KBUILD_BUILD_HOST", "insula");
        make
    }

    fn configure(&self) -> Result<(), Failure> {
        progress("configuring");
        let fragment = self.out.join("guest.config");
        let during = || format!("writing {}", fragment.display());
        std::fs::create_dir_all(&self.out).during(during)?;
        std::fs::write(&fragment, CONFIG).during(during)?;
        run(self.make().env("KCONFIG_ALLCONFIG", &fragment).arg("allnoconfig"), "configuring the kernel")?;
        let config =
            std::fs::read_to_string(self.out.join(".config")).during(|| "reading the configuration".to_owned())?;
        let refused = refused(CONFIG, &config);
        if !refused.is_empty() {
            progress(&format!("these sources do not know: {}", refused.join(" ")));
        }
        Ok(())
    }

    fn compile(&self) -> Result<(), Failure> {
        progress("compiling: this takes a few minutes on an idle machine");
        let log = self.out.join("log");
        let file = File::create(&log).during(|| format!("writing {}", log.display()))?;
        let mut child = self
            .make()
            .arg(format!("-j{}", self.jobs))
            .args(["vmlinux", "bzImage"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .during(|| "compiling the kernel".to_owned())?;
        let mut steps = 0;
        for line in
            child.stdout.take().map(BufReader::new).into_iter().flat_map(|out| out.lines().map_while(Result::ok))
        {
            steps += 1;
            if steps % STEP == 0 {
                progress(&format!("{steps} steps: {}", line.trim()));
            }
        }
        let status = child.wait().during(|| "compiling the kernel".to_owned())?;
        if status.success() {
            return Ok(());
        }
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let errors: Vec<_> = said.lines().filter(|line| line.contains("rror")).take(5).collect();
        Err(Failure::new(format!("compiling the kernel failed: {}", errors.join("; "))))
    }

    fn release(&self) -> Result<String, Failure> {
        let path = self.out.join("include/config/kernel.release");
        let text = std::fs::read_to_string(&path).during(|| format!("reading {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// Puts what was built into the draft.
    fn take(&self, draft: &Draft<'_>) -> Result<(), Failure> {
        let mut strip = Program::new("objcopy");
        strip.arg("--strip-all").arg(self.out.join("vmlinux")).arg(draft.path("vmlinux"));
        run(&mut strip, "writing the kernel")?;
        for (made, name) in [("arch/x86/boot/bzImage", "vmlinuz"), (".config", "config")] {
            let path = self.out.join(made);
            std::fs::copy(&path, draft.path(name)).during(|| format!("copying {}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_sources_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            ["linux-source-6.1.tar.xz", "linux-source-6.12.tar.xz", "linux-source-6.9.tar.xz", "linux-patch-7.1.xz"]
        {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(newest(folder.path()), Some(folder.path().join("linux-source-6.12.tar.xz")));
        assert_eq!(newest(Path::new("/nowhere")), None);
    }

    #[test]
    fn what_the_sources_do_not_know_is_told() {
        let fragment = "# more\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=n\nCONFIG_D=\"x\"\nCONFIG_E=y\n";
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y\nCONFIG_D=\"x\"\nCONFIG_EE=y\n";
        assert_eq!(refused(fragment, config), ["CONFIG_C=n", "CONFIG_E=y"]);
    }

    #[test]
    fn the_fragment_names_nothing_twice() {
        let mut names: Vec<_> =
            CONFIG.lines().filter_map(|line| line.strip_prefix("CONFIG_")?.split('=').next()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(CONFIG.lines().all(|line| line.is_empty() || line.starts_with('#') || line.starts_with("CONFIG_")));
    }
}
