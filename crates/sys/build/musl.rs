//! For build scripts: links programs that live for milliseconds with musl's C library where the machine has it.
//!
//! A runtime's run takes two milliseconds. In a static program, glibc spends nearly half a millisecond of these
//! before `main`, asking the processor about its caches with CPUID: on a virtual machine every such question leaves the
//! guest. musl asks nothing. Where Rust's own musl target is installed, that is the way to have it; it cannot be assumed, while
//! Debian's `musl-dev` can be installed by `cargo xtask setup`. So the library alone is exchanged at the link:
//! both follow the same ABI for what the standard library and `libc` take from it on Linux, the kernel's own (`rustix` does not use a C
//! library at all). Without musl the program is linked as all others are, and is only slower.

use std::path::{Path, PathBuf};

/// Links the package's programs of these names with musl where that can be done; the package's code then sees `cfg(musl)`. A name
/// that begins with `example ` means all of the package's examples.
pub(crate) fn link(programs: &[&str]) {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../sys/build/musl.rs");
    println!("cargo::rerun-if-env-changed=INSULA_MUSL");
    println!("cargo::rustc-check-cfg=cfg(musl)");
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let (arch, environment) = (var("CARGO_CFG_TARGET_ARCH"), var("CARGO_CFG_TARGET_ENV"));
    let is_static = var("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static");
    if environment != "gnu" || !is_static || var("HOST") != var("TARGET") || var("INSULA_MUSL") == "no" {
        return;
    }
    // Debian and Ubuntu, Fedora, Arch; or where the variable says
    let told = Some(var("INSULA_MUSL")).filter(|folder| !folder.is_empty());
    let usual = [
        format!("/usr/lib/{arch}-linux-musl"),
        format!("/usr/{arch}-linux-musl/lib64"),
        "/usr/lib/musl/lib".to_owned(),
    ];
    let whole =
        |folder: &PathBuf| ["libc.a", "crt1.o", "crti.o", "crtn.o"].iter().all(|file| folder.join(file).is_file());
    let places = told.map_or_else(|| usual.to_vec(), |folder| vec![folder]);
    let Some(folder) = places.into_iter().map(PathBuf::from).find(whole) else {
        // looked for again at each build, for whoever installs it
        println!("cargo::rerun-if-changed={}", Path::new(&usual[0]).join("libc.a").display());
        return;
    };
    let argument = |text: &str| {
        for program in programs {
            match program.strip_prefix("example ") {
                Some(_) => println!("cargo::rustc-link-arg-examples={text}"),
                None => println!("cargo::rustc-link-arg-bin={program}={text}"),
            }
        }
    };
    argument("-nostartfiles");
    argument(&format!("-L{}", folder.display()));
    for file in ["crt1.o", "crti.o", "crtn.o"] {
        argument(&folder.join(file).display().to_string());
    }
    // the program then stands in for what only glibc has: `sys::in_place_of_glibc`
    println!("cargo::rustc-cfg=musl");
    if !names(&folder.join("libc.a"), "open64") {
        // musl since 1.2.4 offers the names of the large file interface to compilers only
        for name in LARGE_FILE_NAMES {
            let plain = name.replacen("64", "", 1);
            argument(&format!("-Wl,--defsym={name}={plain}"));
        }
    }
}

/// The names with `64` that the standard library and `libc` refer to.
const LARGE_FILE_NAMES: [&str; 17] = [
    "creat64",
    "fcntl64",
    "fstat64",
    "fstatat64",
    "fstatfs64",
    "ftruncate64",
    "getrlimit64",
    "lseek64",
    "lstat64",
    "mmap64",
    "open64",
    "openat64",
    "pread64",
    "pwrite64",
    "readdir64",
    "setrlimit64",
    "stat64",
];

/// Whether an archive's symbol table has a name.
fn names(archive: &Path, name: &str) -> bool {
    let wanted = [b"\0", name.as_bytes(), b"\0"].concat();
    std::fs::read(archive).is_ok_and(|bytes| bytes.windows(wanted.len()).any(|window| window == wanted))
}
