//! Archives that the kernel unpacks as its first root.
//!
//! # Source
//! Linux `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::collections::BTreeSet;

/// A `newc` archive that is being written.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    number: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.number += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // Number, mode, user, group, links, time, size, its device, the device that it is, length of the name, no checksum.
        let head = [self.number, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, length, 0];
        self.bytes.extend_from_slice(b"070701");
        for number in head {
            self.bytes.extend_from_slice(format!("{number:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds a folder with those above it.
    pub(super) fn folder(&mut self, name: &str) {
        for end in name.match_indices('/').map(|(end, _)| end).chain([name.len()]) {
            let part = &name[..end];
            if self.folders.insert(part.to_owned()) {
                self.entry(part, 0o040_755, (0, 0), &[]);
            }
        }
    }

    /// Adds a file.
    pub(super) fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        if let Some((folder, _)) = name.rsplit_once('/') {
            self.folder(folder);
        }
        self.entry(name, 0o100_000 | mode, (0, 0), content);
    }

    /// Adds the console, which the first program is given before it has mounted anything.
    pub(super) fn console(&mut self) {
        self.folder("dev");
        self.entry("dev/console", 0o020_600, (5, 1), &[]);
    }

    /// The archive's bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.number = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn folders_stand_before_their_files_once() {
        let mut archive = Archive::default();
        archive.console();
        archive.file("a/b/c", 0o755, b"content");
        archive.file("a/b/d", 0o644, b"");
        let bytes = archive.finish();
        let Ok(mut cpio) = Command::new("cpio")
            .args(["-t", "-v", "--quiet"])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            println!("skipped: no cpio, which reads what was written");
            return;
        };
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let listed = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        let names: Vec<_> = listed.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert_eq!(names, ["dev", "dev/console", "a", "a/b", "a/b/c", "a/b/d"], "{listed}");
        assert!(listed.contains("crw-------") && listed.contains("-rwxr-xr-x"), "{listed}");
    }

    #[test]
    fn entries_begin_at_multiples_of_four() {
        let mut archive = Archive::default();
        archive.file("x", 0o600, b"12345");
        let bytes = archive.finish();
        let starts: Vec<_> =
            bytes.windows(6).enumerate().filter(|(_, part)| part == b"070701").map(|(at, _)| at).collect();
        // 110 bytes of header, the name with its end, the content.
        assert_eq!(starts, [0, 112 + 8]);
        assert!(bytes.len() % 4 == 0);
    }
}
