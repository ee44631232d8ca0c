//! What the fuzz targets call. The seeds in `fuzz/corpus-seeds` go through the same functions in this crate's tests.

use crate::client;
use crate::manifest::Manifest;
use crate::server;

/// A request's line and headers: a path, then one header or query a line.
pub fn request(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    server::parse_path(lines.next().unwrap_or_default());
    for line in lines {
        server::parse_headers(line);
        client::parse_headers(line);
    }
}

/// A manifest of a stranger.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::parse(bytes, "") {
        assert!(!manifest.media_type.is_empty());
        let again = Manifest::parse(bytes, &manifest.media_type);
        assert!(again.is_ok(), "a manifest is accepted as what it is: {again:?}");
        let _ = (manifest.blobs().count(), manifest.kind().map(str::len));
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::{Target, disturb, replay};

    const TARGETS: &[Target] = &[("registry_manifest", super::manifest), ("registry_request", super::request)];

    #[test]
    fn seeds_replay() {
        replay(TARGETS);
    }

    #[test]
    fn noise_and_damaged_seeds_do_no_harm() {
        disturb(TARGETS);
    }
}
