//! `insula-oci` starts with every container, and so does what the bench compares it with and starts it by.

use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "../sys/build/musl.rs"]
mod musl;

fn main() {
    musl::link(&["insula-oci", "example start_floor"]);
    lay_out("insula-oci", Path::new("build/run.order"));
}

/// Has the linker put the functions that a run goes through side by side: fifteen page faults fewer, of sixty-five, and three hundredths
/// of its time. Only lld can, which comes with the compiler.
fn lay_out(program: &str, order: &Path) {
    println!("cargo::rerun-if-changed={}", order.display());
    println!("cargo::rerun-if-env-changed=INSULA_LINK_MAP");
    let Some(lld) = lld() else { return };
    // beside the program: another checkout may link what this one has built
    let copy = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("run.order");
    if std::fs::copy(order, &copy).is_err() {
        return;
    }
    let argument = |text: &str| println!("cargo::rustc-link-arg-bin={program}={text}");
    argument("-fuse-ld=lld");
    argument(&format!("-B{}", lld.display()));
    argument(&format!("-Wl,--symbol-ordering-file={}", copy.display()));
    // names of another compiler's are no fault
    argument("-Wl,--no-warn-symbol-ordering");
    if let Some(map) = std::env::var_os("INSULA_LINK_MAP") {
        argument(&format!("-Wl,-Map={}", Path::new(&map).display()));
    }
}

/// The folder in which a C compiler finds the compiler's own lld under the name that it looks for.
fn lld() -> Option<PathBuf> {
    let var = |name: &str| std::env::var(name).ok();
    let told = var("RUSTC_LINKER").is_some() || var("CARGO_ENCODED_RUSTFLAGS")?.contains("link");
    if told || var("CARGO_CFG_TARGET_OS")? != "linux" || var("HOST")? != var("TARGET")? {
        return None;
    }
    let printed = Command::new(var("RUSTC")?).args(["--print", "sysroot"]).output().ok()?;
    let sysroot = PathBuf::from(String::from_utf8(printed.stdout).ok()?.trim());
    let folder = sysroot.join("lib/rustlib").join(var("HOST")?).join("bin/gcc-ld");
    folder.join("ld.lld").is_file().then_some(folder)
}
