//! What ADD does not simply copy: archives, and things of the network.

use std::io::Read;

use super::plan::{Keep, Remote, Unpacked};

/// How many bytes of a file are looked at.
pub(super) const HEAD: u64 = 64 << 10;
/// A tar header.
const BLOCK: usize = 512;

/// Whether a file that begins so is a tar archive, plain or compressed by gzip, zstd, bzip2 or xz. The last two are
/// known by their first bytes only.
pub(super) fn is_archive(head: &[u8]) -> bool {
    let begin = |reader: &mut dyn Read| {
        let mut block = Vec::new();
        // what cannot be decompressed is copied as it is
        reader.take(BLOCK as u64).read_to_end(&mut block).is_ok_and(|_| is_header(&block))
    };
    match head {
        [0x1f, 0x8b, ..] => begin(&mut flate2::bufread::MultiGzDecoder::new(head)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            zstd::stream::read::Decoder::new(head).is_ok_and(|mut reader| begin(&mut reader))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] | [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', b'&', ..] => true,
        plain => is_header(&plain[..plain.len().min(BLOCK)]),
    }
}

/// Whether it is a tar header: its sum is right.
fn is_header(block: &[u8]) -> bool {
    if block.len() < BLOCK || block.iter().all(|byte| *byte == 0) {
        return false;
    }
    let text: String =
        block[148..156].iter().take_while(|byte| !matches!(byte, 0 | b' ')).map(|byte| char::from(*byte)).collect();
    let text = if text.is_empty() {
        block[148..156]
            .iter()
            .skip_while(|byte| **byte == b' ')
            .take_while(|byte| byte.is_ascii_digit())
            .map(|byte| char::from(*byte))
            .collect()
    } else {
        text
    };
    let Ok(stored) = u32::from_str_radix(&text, 8) else { return false };
    let sum: u32 =
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    sum == stored
}

/// What an address means: a repository if it has git's own scheme or ends in `.git`, a file otherwise; `None` for a path.
pub(super) fn remote(text: &str) -> Option<Remote> {
    let (address, fragment) = text.split_once('#').map_or((text, None), |(address, rest)| (address, Some(rest)));
    let web = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
    let scheme = ["git://", "ssh://"].iter().any(|scheme| text.starts_with(scheme));
    let short = address.split_once('@').is_some_and(|(user, rest)| {
        user.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) && rest.contains(':') && !user.is_empty()
    });
    if scheme || (short && !web) || (web && address.ends_with(".git")) {
        let (reference, folder) = fragment.map_or((None, None), |fragment| match fragment.split_once(':') {
            Some((reference, folder)) => (Some(reference), Some(folder)),
            None => (Some(fragment), None),
        });
        let some = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        return Some(Remote::Git {
            url: address.to_owned(),
            reference: some(reference),
            folder: some(folder),
            keep: Keep::No,
            checksum: None,
        });
    }
    if !web {
        return None;
    }
    let path = text.split_once("://")?.1.split(['?', '#']).next().unwrap_or_default();
    let name = path.split_once('/').map_or("", |(_, path)| path.rsplit('/').next().unwrap_or_default());
    Some(Remote::Http { url: text.to_owned(), name: name.to_owned(), checksum: None, unpack: Unpacked::No })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let git = |text: &str| match remote(text) {
            Some(Remote::Git { url, reference, folder, .. }) => {
                Some((url, reference.unwrap_or_default(), folder.unwrap_or_default()))
            }
            _ => None,
        };
        let is =
            |url: &str, reference: &str, folder: &str| Some((url.to_owned(), reference.to_owned(), folder.to_owned()));
        assert_eq!(git("https://h/x.git#v1:sub"), is("https://h/x.git", "v1", "sub"));
        assert_eq!(git("git@h:a/b.git"), is("git@h:a/b.git", "", ""));
        assert_eq!(git("ssh://git@h/a#:sub"), is("ssh://git@h/a", "", "sub"));
        assert_eq!(git("dir@1/x"), None);
        let http = |text: &str| match remote(text) {
            Some(Remote::Http { name, .. }) => Some(name),
            _ => None,
        };
        assert_eq!(http("https://h/a/b.tar.gz?x=/y").as_deref(), Some("b.tar.gz"));
        assert_eq!(http("http://h").as_deref(), Some(""));
        assert_eq!(remote("a/http://x"), None);
    }
}
