//! A small root file system from the machine's own programs, for tests that must not need a network.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs of the tree; those that the machine lacks are left out, except the shell.
pub const PROGRAMS: &[&str] = &[
    "sh",
    "cat",
    "chmod",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "echo",
    "env",
    "false",
    "grep",
    "head",
    "hostname",
    "id",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mknod",
    "mount",
    "mv",
    "nproc",
    "ps",
    "pwd",
    "readlink",
    "rm",
    "sed",
    "seq",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "tail",
    "tee",
    "test",
    "touch",
    "tr",
    "true",
    "tty",
    "umount",
    "uname",
    "unshare",
    "wc",
    "whoami",
];

/// Makes the tree in `folder`: programs, their libraries, accounts, and the folders that a container expects.
///
/// # Panics
/// When the machine has no shell or the folder can't be written.
pub fn host_tree(folder: &Path) {
    for name in ["usr/bin", "etc", "proc", "sys", "dev", "tmp", "run", "root", "var/tmp", "home"] {
        make_dir(&folder.join(name));
    }
    for name in ["tmp", "var/tmp"] {
        let mode = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(folder.join(name), mode).unwrap_or_else(|error| panic!("chmod {name}: {error}"));
    }
    symlink("usr/bin", folder.join("bin")).unwrap_or_else(|error| panic!("link bin: {error}"));
    symlink("usr/bin", folder.join("sbin")).unwrap_or_else(|error| panic!("link sbin: {error}"));
    let accounts = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n\
                    user:x:1000:1000:user:/home:/bin/sh\n";
    write(&folder.join("etc/passwd"), accounts);
    write(&folder.join("etc/group"), "root:x:0:\nnogroup:x:65534:\nuser:x:1000:\nextra:x:1001:user\n");
    write(&folder.join("etc/os-release"), "ID=insula-test\nPRETTY_NAME=\"Insula test tree\"\n");
    let mut files = BTreeSet::new();
    for name in PROGRAMS {
        let Some(program) = find(name) else {
            assert_ne!(*name, "sh", "this machine has no shell");
            continue;
        };
        copy(&program, &folder.join("usr/bin").join(name));
        files.extend(libraries(&program));
    }
    for file in files {
        let inside = folder.join(file.strip_prefix("/").unwrap_or(&file));
        if let Some(parent) = inside.parent() {
            make_dir(parent);
        }
        copy(&file, &inside);
    }
}

/// Packs the tree as a tar file, the same bytes for the same tree.
///
/// # Panics
/// When `tar` can't be run or fails.
pub fn tar(folder: &Path, file: &Path) {
    let mut command = Command::new("tar");
    command.args(["--create", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--file"]);
    let status = command.arg(file).arg("--directory").arg(folder).arg(".").status();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "tar: {status:?}");
}

/// The program's file on this machine.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
    folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists())
}

/// The libraries and the loader that a program needs, by `ldd`; none for a static one.
#[must_use]
pub fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    parse_libraries(&text)
}

/// Lines such as `libc.so.6 => /lib/libc.so.6 (0x7f…)` and `/lib64/ld-linux.so.2 (0x7f…)`.
fn parse_libraries(text: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let word = line.split("=>").last()?.split_whitespace().next()?;
        word.starts_with('/').then(|| PathBuf::from(word))
    };
    text.lines().filter_map(path).collect()
}

fn make_dir(path: &Path) {
    fs::create_dir_all(path).unwrap_or_else(|error| panic!("mkdir {}: {error}", path.display()));
}

fn write(path: &Path, content: &str) {
    fs::write(path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap_or_else(|error| panic!("copy {} to {}: {error}", from.display(), to.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_lines_are_understood() {
        let text =
            "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n\tstatically linked\n";
        assert_eq!(parse_libraries(text), [PathBuf::from("/lib/libc.so.6"), PathBuf::from("/lib64/ld.so")]);
    }

    #[test]
    fn the_tree_packs_to_the_same_bytes() {
        let island = crate::Island::new();
        let tree = island.dir("tree");
        host_tree(&tree);
        assert!(tree.join("bin/sh").exists() && tree.join("etc/passwd").exists());
        tar(&tree, &island.path("a.tar"));
        tar(&tree, &island.path("b.tar"));
        assert!(fs::read(island.path("a.tar")).unwrap() == fs::read(island.path("b.tar")).unwrap());
    }
}
