//! A Debian package as a file, read without dpkg.
//!
//! # Source
//! deb(5): an `ar` archive of `debian-binary`, `control.tar.*` and `data.tar.*`.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use image::Limits;
use image::tar::{Kind, Reader, TarError};

const MAGIC: &[u8; 8] = b"!<arch>\n";
/// Bytes of a member's header.
const HEADER: usize = 60;
/// No file of a kernel's package is larger.
const MOST_FILE: u64 = 1 << 30;

/// Why a package can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum PackageError {
    #[error("reading {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no Debian package", .0.display())]
    Format(PathBuf),
    #[error("the package {} has no {what}", path.display())]
    Missing { path: PathBuf, what: &'static str },
    #[error("reading an archive in the package {}", path.display())]
    Archive { path: PathBuf, source: TarError },
    #[error("the package {} is packed in a way that is not known", path.display())]
    Packed { path: PathBuf, source: image::LayerError },
}

/// A package's file.
#[derive(Debug)]
pub(super) struct Package {
    path: PathBuf,
    /// Name, where it begins and size of each member.
    members: Vec<(String, u64, u64)>,
}

impl Package {
    /// # Errors
    /// The file can't be read, or is no package.
    pub(super) fn open(path: &Path) -> Result<Self, PackageError> {
        let fail = |source| PackageError::Read { path: path.to_owned(), source };
        let format = || PackageError::Format(path.to_owned());
        let mut file = File::open(path).map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic).map_err(|_| format())?;
        let mut members = Vec::new();
        let mut at = MAGIC.len() as u64;
        while &magic == MAGIC && at + HEADER as u64 <= length {
            let mut header = [0; HEADER];
            file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut header)).map_err(fail)?;
            let text = |from: usize, to: usize| String::from_utf8_lossy(&header[from..to]).trim_end().to_owned();
            let size: u64 = text(48, 58).parse().map_err(|_| format())?;
            let begin = at + HEADER as u64;
            if !header.ends_with(b"`\n") || begin.checked_add(size).is_none_or(|end| end > length) {
                return Err(format());
            }
            members.push((text(0, 16).trim_end_matches('/').to_owned(), begin, size));
            at = (begin + size).next_multiple_of(2);
        }
        if members.first().is_none_or(|(name, ..)| name != "debian-binary") {
            return Err(format());
        }
        Ok(Self { path: path.to_owned(), members })
    }

    /// Shows every regular file of the member whose name begins with `name` to `visit`, which reads what it wants of it.
    fn each(
        &self,
        name: &'static str,
        visit: &mut dyn FnMut(&str, &mut dyn Read) -> io::Result<()>,
    ) -> Result<(), PackageError> {
        let path = || self.path.clone();
        let member =
            self.members.iter().find(|(member, ..)| member.strip_prefix(name).is_some_and(|end| end.starts_with('.')));
        let &(_, begin, size) = member.ok_or_else(|| PackageError::Missing { path: path(), what: name })?;
        let fail = |source| PackageError::Read { path: path(), source };
        let mut file = File::open(&self.path).map_err(fail)?;
        file.seek(SeekFrom::Start(begin)).map_err(fail)?;
        let plain =
            image::decompress(file.take(size)).map_err(|source| PackageError::Packed { path: path(), source })?;
        let mut reader = Reader::new(BufReader::with_capacity(1 << 18, plain), Limits::default());
        let broken = |source| PackageError::Archive { path: path(), source };
        while let Some(entry) = reader.next_entry().map_err(broken)? {
            if let Kind::File { size, segments: None } = entry.kind
                && size <= MOST_FILE
            {
                visit(&String::from_utf8_lossy(&entry.path), &mut reader.contents()).map_err(fail)?;
            }
        }
        Ok(())
    }

    /// Shows every regular file that the package installs.
    ///
    /// # Errors
    /// The package is damaged.
    pub(super) fn files(
        &self,
        visit: &mut dyn FnMut(&str, &mut dyn Read) -> io::Result<()>,
    ) -> Result<(), PackageError> {
        self.each("data.tar", visit)
    }

    /// Its name and version.
    ///
    /// # Errors
    /// The package is damaged.
    pub(super) fn identity(&self) -> Result<(String, String), PackageError> {
        let mut control = String::new();
        self.each("control.tar", &mut |name, content| {
            if name == "control" {
                content.read_to_string(&mut control)?;
            }
            Ok(())
        })?;
        let field = |name: &str| {
            control.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
        };
        field("Package")
            .zip(field("Version"))
            .ok_or_else(|| PackageError::Missing { path: self.path.clone(), what: "name or version" })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    /// An archive of these files.
    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, content) in files {
            let mut header = [0; 512];
            header[..name.len()].copy_from_slice(name.as_bytes());
            for (at, text) in [(100, "0000644"), (108, "0000000"), (116, "0000000"), (136, "00000000000")] {
                header[at..at + text.len()].copy_from_slice(text.as_bytes());
            }
            header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
            header[156] = b'0';
            header[257..265].copy_from_slice(b"ustar\x0000");
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            bytes.extend(header);
            bytes.extend(*content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend([0; 1024]);
        bytes
    }

    /// A package of these files.
    pub(crate) fn package(control: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
        let members = [
            ("debian-binary", b"2.0\n".to_vec()),
            ("control.tar", tar(&[("./control", control.as_bytes())])),
            ("data.tar", tar(files)),
        ];
        let mut bytes = MAGIC.to_vec();
        for (name, content) in members {
            // The names with a dot behind are those of archives.
            let name = if name.ends_with("tar") { format!("{name}.") } else { name.to_owned() };
            bytes.extend(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, content.len()).as_bytes(),
            );
            bytes.extend(&content);
            bytes.resize(bytes.len().next_multiple_of(2), b'\n');
        }
        bytes
    }

    #[test]
    fn packages_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.deb");
        let whole = package("Package: linux\nVersion: 1:2-3\n", &[("./boot/vmlinuz-6", b"kernel"), ("./a", b"")]);
        std::fs::write(&path, &whole).unwrap();
        let opened = Package::open(&path).unwrap();
        assert_eq!(opened.identity().unwrap(), ("linux".to_owned(), "1:2-3".to_owned()));
        let mut seen = Vec::new();
        opened
            .files(&mut |name, content| {
                let mut text = String::new();
                content.read_to_string(&mut text)?;
                seen.push((name.to_owned(), text));
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, [("boot/vmlinuz-6".to_owned(), "kernel".to_owned()), ("a".to_owned(), String::new())]);
        for (length, expect) in
            [(4, "no Debian package"), (whole.len() - 600, "no Debian package"), (72, "no control.tar")]
        {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = Package::open(&path).and_then(|package| package.identity()).unwrap_err();
            assert!(error.to_string().contains(expect), "{error}");
        }
        std::fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        assert!(Package::open(&path).unwrap_err().to_string().contains("no Debian package"));
    }

    /// Reads whatever stands in a file as a package: its identity, and the start of each file.
    fn read_all(path: &Path, bytes: &[u8]) {
        std::fs::write(path, bytes).unwrap();
        let Ok(package) = Package::open(path) else { return };
        let _identity = package.identity();
        let _files = package.files(&mut |name, content| {
            assert!(!name.starts_with('/'), "{name}");
            content.take(4096).read_to_end(&mut Vec::new()).map(drop)
        });
    }

    /// The same package as `dpkg-deb` packs it, by xz, zstd and gzip; nothing where it is not installed.
    fn packed() -> Vec<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let (tree, path) = (folder.path().join("tree"), folder.path().join("p.deb"));
        std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: x <x@localhost>\nDescription: x\n";
        std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
        std::fs::write(tree.join("file"), "content").unwrap();
        let make = |kind: &&str| {
            let mut command = std::process::Command::new("dpkg-deb");
            let made = command.arg(format!("-Z{kind}")).arg("-b").arg(&tree).arg(&path).output();
            if !made.is_ok_and(|made| made.status.success()) {
                println!("skipped {kind}: dpkg-deb does not pack so");
                return None;
            }
            let package = Package::open(&path).unwrap();
            assert_eq!(package.identity().unwrap(), ("p".to_owned(), "1".to_owned()), "{kind}");
            std::fs::read(&path).ok()
        };
        ["xz", "zstd", "gzip"].iter().filter_map(make).collect()
    }

    #[test]
    fn damaged_packages_are_refused_or_read_but_harm_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.deb");
        let mut seeds = packed();
        seeds.push(package("Package: linux\nVersion: 1:2-3\n", &[("./boot/vmlinuz-6", b"kernel"), ("./a", b"")]));
        let edits = vec((any::<prop::sample::Index>(), any::<u8>()), 1..8);
        let input = (vec(any::<u8>(), 0..400), prop::sample::select(seeds), edits, any::<prop::sample::Index>());
        let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
        let outcome = TestRunner::new(config).run(&input, |(noise, mut seed, edits, cut)| {
            read_all(&path, &noise);
            read_all(&path, &[MAGIC.as_slice(), &noise].concat());
            let length = seed.len();
            edits.iter().for_each(|(at, byte)| seed[at.index(length)] = *byte);
            read_all(&path, &seed);
            read_all(&path, &seed[..cut.index(seed.len())]);
            Ok(())
        });
        outcome.unwrap();
    }
}
