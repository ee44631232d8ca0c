//! Real programs, built in our builds with the machine's own compilers: `corpus/programs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::rootfs;

use crate::subject::{Subject, finish, skip_unless_insula};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../corpus/programs")
}

/// What a program says, or nothing if the machine does not have it.
fn asked(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A compiler or interpreter of this machine, as files that an image can have.
struct Toolchain {
    /// Files below `/`, at their own places.
    files: Vec<String>,
    /// The libraries of the programs among them, where the loader finds them.
    libraries: Vec<String>,
    /// A folder whose files stand below `/usr/local`.
    local: Option<(String, Vec<String>)>,
}

impl Toolchain {
    /// The files of these Debian packages; nothing if none of a pattern is installed, with the reason printed.
    fn of_packages(patterns: &[String]) -> Option<Self> {
        let mut files = Vec::new();
        for pattern in patterns {
            let listed = asked("dpkg-query", &["-W", "-f", "${db:Status-Abbrev} ${binary:Package}\n", pattern]);
            let names: Vec<String> = listed
                .iter()
                .flat_map(|text| text.lines())
                .filter_map(|line| line.strip_prefix("ii ").map(|name| name.trim().to_owned()))
                .collect();
            if names.is_empty() {
                println!("skipped: no package {pattern} on this machine");
                return None;
            }
            for name in names {
                files.extend(asked("dpkg-query", &["-L", &name])?.lines().filter(|path| is_needed(path)).map(relative));
            }
        }
        let mut found = Self { files, libraries: Vec::new(), local: None };
        let programs: Vec<String> = found.files.iter().filter(|path| has_libraries(path)).cloned().collect();
        programs.iter().for_each(|program| found.need(&Path::new("/").join(program)));
        Some(found)
    }

    fn need(&mut self, program: &Path) {
        self.libraries.extend(rootfs::libraries(program).iter().filter_map(|path| path.to_str()).map(relative));
    }

    fn c() -> Option<Self> {
        let Some(version) = asked("gcc", &["-dumpversion"]) else {
            println!("skipped: no gcc on this machine");
            return None;
        };
        let exact = ["make", "gcc", "cpp", "libc6", "libgcc-s1", "libc6-dev", "linux-libc-dev", "libcrypt-dev"]
            .map(str::to_owned);
        let versioned = [format!("gcc-{version}"), format!("cpp-{version}*"), format!("libgcc-{version}-dev")];
        let mut patterns =
            [exact.to_vec(), versioned.to_vec(), vec!["binutils*".into(), "libbinutils".into()]].concat();
        // Newer releases have the programs in packages of their own.
        patterns.extend(
            asked("dpkg-query", &["-W", &format!("gcc-{version}-x86-64-linux-gnu")])
                .map(|_| format!("gcc-{version}-x86-64-linux-gnu")),
        );
        let mut found = Self::of_packages(&patterns)?;
        // Distributions link it by an alternative.
        found.files.push(relative("/usr/bin/cc"));
        found.files.push(relative("/etc/alternatives/cc"));
        found.files.retain(|path| Path::new("/").join(path).exists());
        Some(found)
    }

    fn python() -> Option<Self> {
        let version = asked("python3", &["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]);
        let version = version.unwrap_or_else(|| "3".to_owned());
        let packages = ["python3-minimal", "python#-minimal", "libpython#-minimal", "libpython#-stdlib"];
        Self::of_packages(&packages.map(|name| name.replace('#', &version)))
    }

    /// The compiler that builds this test, beside a C toolchain to link with.
    fn rust() -> Option<Self> {
        let Some(root) = asked("rustc", &["--print", "sysroot"]) else {
            println!("skipped: no rustc on this machine");
            return None;
        };
        let mut found = Self::c()?;
        let target = format!("lib/rustlib/{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut files = vec!["bin/rustc".to_owned()];
        // Its linker is not everywhere.
        for folder in ["lib", &format!("{target}/lib"), &format!("{target}/bin"), &format!("{target}/bin/gcc-ld")] {
            let entries = fs::read_dir(Path::new(&root).join(folder)).into_iter().flatten();
            let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
            files.extend(names.filter(|name| is_of_the_compiler(name)).map(|name| format!("{folder}/{name}")));
        }
        found.need(&Path::new(&root).join("bin/rustc"));
        found.local = Some((root, files));
        Some(found)
    }

    /// Imports it as `base:1`, over the small tree that all tests have.
    fn import(&self, subject: &Subject) {
        let (list, tar) = (subject.island.path("list"), subject.island.path("base.tar"));
        fs::copy(crate::subject::image_tar(), &tar).unwrap();
        let append = |folder: &str, names: &[String], more: &[&str]| {
            fs::write(&list, names.join("\n")).unwrap();
            let mut command = Command::new("tar");
            command
                .arg("--append")
                .args(more)
                .arg("--file")
                .arg(&tar)
                .args(["--no-recursion", "-C", folder, "-T"])
                .arg(&list);
            finish(&mut command, b"").expect(0);
        };
        append("/", &self.files, &[]);
        let libraries: Vec<String> = self.libraries.iter().collect::<BTreeSet<_>>().into_iter().cloned().collect();
        append("/", &libraries, &["--dereference"]);
        if let Some((folder, files)) = &self.local {
            append(folder, files, &["--transform=flags=r;s,^,usr/local/,"]);
        }
        subject.insula(&["import", tar.to_str().unwrap(), "base:1"]).expect(0);
        fs::remove_file(&tar).unwrap();
    }
}

fn relative(path: &str) -> String {
    path.trim_start_matches('/').to_owned()
}

/// Files, without what only people read and the largest things that no build here needs.
fn is_needed(path: &str) -> bool {
    let useless =
        ["/usr/share/", "san.a", "/lto1", "lto-dump", "/gconv/", "gcov", "-dwp", "gold", "/g++-mapper", ".pyc"];
    // The root's own links, such as /lib, are folders in the small tree.
    let is_inside = path.rfind('/').is_some_and(|at| at > 0);
    let is_file = fs::symlink_metadata(path).is_ok_and(|stat| !stat.is_dir());
    is_inside && is_file && !useless.iter().any(|part| path.contains(part))
}

/// The compiler's libraries and the linker, without the runtimes of sanitizers and other tools.
fn is_of_the_compiler(name: &str) -> bool {
    [".rlib", ".rmeta"].iter().any(|end| name.ends_with(end)) || name.contains(".so") || name.contains("lld")
}

fn has_libraries(path: &str) -> bool {
    path.starts_with("usr/bin/") || path.starts_with("usr/lib/gcc") && !path.contains('.') || path.contains(".so")
}

/// Builds a folder of the corpus and runs what comes out.
fn built(name: &str, toolchain: Option<Toolchain>) {
    let Some(toolchain) = toolchain else { return };
    let Some(subject) = Subject::bare() else { return };
    toolchain.import(&subject);
    let folder = corpus().join(name);
    let build = |options: &[&str]| {
        let words = ["build", "--progress=plain", "--network=none", "-t", "program:1"];
        subject.insula(&[&words[..], options, &[folder.to_str().unwrap()]].concat()).expect(0)
    };
    let first = build(&[]);
    let run = subject.insula(&["run", "--rm", "--network", "none", "program:1"]).expect(0);
    assert_eq!(run.out, fs::read_to_string(folder.join("expected")).unwrap());
    let again = build(&[]);
    assert_eq!(again.text(), first.text());
    assert!(again.err.contains("CACHED"), "{}", again.err);
    subject.insula(&["rmi", "program:1"]).expect(0);
    assert_eq!(subject.insula(&["system", "check"]).expect(0).text(), "all images are as they should be");
    subject.finish();
}

#[test]
fn a_project_in_c() {
    if !skip_unless_insula() {
        built("c", Toolchain::c());
    }
}

#[test]
fn an_application_in_python() {
    if !skip_unless_insula() {
        built("python", Toolchain::python());
    }
}

#[test]
fn a_static_program_in_rust() {
    if !skip_unless_insula() {
        built("rust", Toolchain::rust());
    }
}
