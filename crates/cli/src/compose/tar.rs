//! Small archives in memory: a file or two that go into a container, or a folder.

use crate::failure::Failure;

const BLOCK: usize = 512;

/// A file of an archive.
pub(super) struct Entry<'a> {
    /// Its path, without a slash at its beginning; a folder's has one at its end.
    pub(super) path: &'a str,
    pub(super) content: &'a [u8],
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
}

/// An archive in POSIX's ustar form.
///
/// # Errors
/// A path that the form has no room for.
pub(super) fn archive(entries: &[Entry<'_>]) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(&header(entry)?);
        bytes.extend_from_slice(entry.content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    Ok(bytes)
}

fn header(entry: &Entry<'_>) -> Result<[u8; BLOCK], Failure> {
    let too_long = || Failure::new(format!("the path {:?} is too long for an archive; shorten it", entry.path));
    let (prefix, name) = if entry.path.len() <= 100 {
        ("", entry.path)
    } else {
        let cut = entry.path.char_indices().filter(|(at, letter)| *letter == '/' && entry.path.len() - at - 1 <= 100);
        let at = cut.map(|(at, _)| at).next().filter(|at| *at <= 155).ok_or_else(too_long)?;
        (entry.path.get(..at).unwrap_or_default(), entry.path.get(at + 1..).unwrap_or_default())
    };
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in block.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    put(0, name.as_bytes());
    put(100, format!("{:07o}\0", entry.mode & 0o7777).as_bytes());
    put(108, format!("{:07o}\0", entry.owner.0).as_bytes());
    put(116, format!("{:07o}\0", entry.owner.1).as_bytes());
    put(124, format!("{:011o}\0", entry.content.len()).as_bytes());
    put(136, format!("{:011o}\0", 0).as_bytes());
    put(148, b"        ");
    put(156, if entry.path.ends_with('/') { b"5" } else { b"0" });
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    for (to, from) in block.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").as_bytes()) {
        *to = *from;
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn tar_reads_what_is_written() {
        let long = format!("{}/{}", "d".repeat(90), "f".repeat(90));
        let entries = [
            Entry { path: "etc/a", content: b"hello", mode: 0o440, owner: (7, 8) },
            Entry { path: "srv/", content: b"", mode: 0o755, owner: (0, 0) },
            Entry { path: &long, content: &[b'x'; 600], mode: 0o644, owner: (0, 0) },
        ];
        let bytes = archive(&entries).unwrap();
        let mut tar = Command::new("tar")
            .args(["-tvf", "-", "--numeric-owner"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(&bytes).unwrap();
        let listed = String::from_utf8(tar.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<&str> = listed.lines().collect();
        assert!(lines[0].starts_with("-r--r----- 7/8") && lines[0].ends_with(" etc/a"), "{listed}");
        assert!(lines[1].starts_with("drwxr-xr-x") && lines[1].ends_with(" srv/"), "{listed}");
        assert!(lines[2].contains(" 600 ") && lines[2].ends_with(&long), "{listed}");
        assert!(archive(&[Entry { path: &"x".repeat(300), content: b"", mode: 0, owner: (0, 0) }]).is_err());
    }
}
