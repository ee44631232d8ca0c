//! `cargo xtask bench order`: the functions that a `run` goes through, in the order in which it comes to them.
//!
//! A run takes two milliseconds, and a good part of what the runtime itself costs is page faults and cold caches: its code lies
//! among code that is not used. The linker lays the functions named in `crates/container/build/run.order` side by side.
//! Their names hold for one release of the compiler and one set of dependencies, and are ignored where they do not fit;
//! so this is to be run when either changes, or much of the runtime does.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::measure::Groups;
use super::peers::small_tree;
use super::runtime::{config, make_parents};
use crate::workspace;

const LIST: &str = "crates/container/build/run.order";
const HEAD: &str = "\
# Functions of insula-oci in the order in which a `run` comes to them, for the linker (build.rs).
# Written by `cargo xtask bench order`; names that the program does not have are ignored.
";

/// A function's place in the program.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Function {
    start: u64,
    end: u64,
    name: String,
}

/// Builds the runtime, goes through one `run` an instruction at a time, and writes the list anew.
pub(super) fn write() -> Result<String> {
    let dir = std::env::temp_dir().join(format!("insula-bench-order-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let groups = Groups::create()?;
    let outcome = trained(&dir, &groups);
    groups.remove();
    super::clear(&dir);
    let (functions, text) = outcome?;
    fs::write(workspace::root().join(LIST), text).with_context(|| format!("cannot write {LIST}"))?;
    Ok(format!("{functions} functions in {LIST}\n"))
}

fn trained(dir: &Path, groups: &Groups) -> Result<(usize, String)> {
    let map = dir.join("map");
    let program = build(&map)?;
    let functions = functions(&fs::read_to_string(&map).context("the linker wrote no map")?);
    let (rootfs, bundle, group) = (dir.join("rootfs"), dir.join("bundle"), format!("{}/order", groups.work("order")));
    small_tree(&rootfs)?;
    make_parents(&group)?;
    fs::create_dir_all(&bundle).with_context(|| format!("cannot create {}", bundle.display()))?;
    fs::write(bundle.join("config.json"), config(&rootfs, &["true"], &group).to_string())
        .context("cannot write the configuration")?;
    let mut seen = HashSet::new();
    let mut passed = Vec::new();
    let mut child = Command::new("sh")
        .args(["-c", "echo here; read -r word; exec \"$@\" < /dev/null > /dev/null", "sh"])
        .arg(&program)
        .arg("--root")
        .arg(dir.join("state"))
        .arg("run")
        .arg("--bundle")
        .arg(&bundle)
        .arg("order")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start sh")?;
    let stdin = child.stdin.take();
    // the end of its own start would pass for that of the runtime
    child.stdout.take().context("sh has no output")?.read_exact(&mut [0; 5]).context("sh does not start")?;
    let mut look = |address| {
        if seen.insert(address) {
            passed.push(address);
        }
    };
    // the shell reads to the end
    sys::trace::follow(child.id().cast_signed(), || drop(stdin), &mut look).context("cannot follow the runtime")?;
    // its end has been taken by whoever followed it
    let _ = child.wait();
    let mut named = HashSet::new();
    let mut text = HEAD.to_owned();
    for name in passed.iter().filter_map(|address| at(&functions, *address)) {
        if named.insert(name) {
            writeln!(text, "{name}")?;
        }
    }
    ensure!(named.len() > 100, "only {} functions were seen; did the run fail?", named.len());
    Ok((named.len(), text))
}

/// The runtime as it is released, and what the linker says of it.
fn build(map: &Path) -> Result<PathBuf> {
    let words = ["--profile", "shim", "-p", "container", "--bin", "insula-oci"];
    let built = workspace::build_by(workspace::cargo().env("INSULA_LINK_MAP", map), &words)?;
    built.into_iter().find(|path| path.ends_with("insula-oci")).context("cargo built no insula-oci")
}

/// The function sections in a map of lld's: address, address in the file, size, alignment, then `FILE:(.text.NAME)`, below which
/// stand the symbols in it. The linker is told symbols: functions that are seldom called lie in `.text.unlikely.NAME`, and
/// those of the C library written in assembler in a plain `.text`, whose first symbol says who they are.
fn functions(map: &str) -> Vec<Function> {
    let number = |text: Option<&str>| u64::from_str_radix(text?, 16).ok();
    let mut functions: Vec<Function> = Vec::new();
    let mut lines = map.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((_, section)) = line.rsplit_once(":(.text") else { continue };
        let name = section.trim_start_matches('.').trim_start_matches("unlikely.").trim_end_matches(')');
        let name = match name {
            "" => lines.peek().and_then(|symbol| symbol.split_whitespace().nth(4)).unwrap_or_default(),
            name => name,
        };
        let mut words = line.split_whitespace();
        if let (Some(start), Some(size)) = (number(words.next()), number(words.nth(1))) {
            functions.push(Function { start, end: start + size, name: name.to_owned() });
        }
    }
    functions.sort();
    functions
}

fn at(functions: &[Function], address: u64) -> Option<&str> {
    let before = functions.partition_point(|function| function.start <= address).checked_sub(1)?;
    let function = functions.get(before)?;
    (address < function.end).then_some(function.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_a_map() {
        let map = "             VMA              LMA     Size Align Out     In      Symbol
          254680           254680   6fb53    16 .text
          254680           254680      2c    16         /t/libx.rlib(x.o):(.text._ZN1a1b17h0E)
          254680           254680      2c     1                 a::b
          2546b0           2546b0      10    16         /t/libc.a(memcpy.lo):(.text.memcpy)
          2546c0           2546c0      10     1         /t/libx.rlib(x.o):(.text.unlikely._ZN1a1c17h0E)
          2546d0           2546d0      10    16         /t/libc.a(memset.lo):(.text)
          2546d0           2546d0       0     1                 memset
";
        let functions = functions(map);
        assert_eq!(functions.len(), 4);
        assert_eq!(at(&functions, 0x25_46c1), Some("_ZN1a1c17h0E"));
        assert_eq!(at(&functions, 0x25_46d1), Some("memset"));
        assert_eq!(at(&functions, 0x25_4680), Some("_ZN1a1b17h0E"));
        assert_eq!(at(&functions, 0x25_46ab), Some("_ZN1a1b17h0E"));
        assert_eq!(at(&functions, 0x25_46ac), None);
        assert_eq!(at(&functions, 0x25_46b1), Some("memcpy"));
        assert_eq!(at(&functions, 0x10), None);
    }
}
