//! `--cache-from` and `--cache-to`.

use std::fs;
use std::path::Path;

use docker_wire::extra::{BuildCache, BuildCacheTarget};

use super::{fields, shared};

/// The fields that are known; those of other builders that mean nothing here are refused by name.
fn checked<'a>(text: &'a str, known: &[&str]) -> Result<std::collections::BTreeMap<&'a str, &'a str>, String> {
    let fields = fields(text);
    match fields.keys().find(|name| !known.contains(name)) {
        Some(other) => Err(format!("unknown field {other:?}; there are {}", known.join(", "))),
        None => Ok(fields),
    }
}

fn folder(path: &str) -> Result<BuildCache, String> {
    shared(Path::new(path)).map(BuildCache::Folder).map_err(|failure| failure.text().to_owned())
}

/// An image's name, or `type=registry,ref=NAME`, or `type=local,src=DIR`.
pub(crate) fn source(text: &str) -> Result<BuildCache, String> {
    if !text.contains('=') {
        return Ok(BuildCache::Name(text.to_owned()));
    }
    let fields = checked(text, &["ref", "src", "type"])?;
    match (fields.get("type").copied().unwrap_or_default(), fields.get("ref"), fields.get("src")) {
        ("registry", Some(name), None) => Ok(BuildCache::Name((*name).to_owned())),
        ("local", None, Some(path)) => folder(path),
        ("registry", _, _) => Err("give the name: type=registry,ref=NAME".to_owned()),
        ("local", _, _) => Err("give the folder: type=local,src=DIR".to_owned()),
        (other, _, _) => Err(format!("no type {other:?}; there are registry and local")),
    }
}

/// `type=inline`, `type=registry,ref=NAME` or `type=local,dest=DIR`; the last two with `mode=min` or `mode=max`.
pub(crate) fn target(text: &str) -> Result<BuildCacheTarget, String> {
    let fields = checked(text, &["dest", "mode", "ref", "type"])?;
    let all = match fields.get("mode").copied().unwrap_or("min") {
        "min" => false,
        "max" => true,
        other => return Err(format!("no mode {other:?}; there are min and max")),
    };
    let place = match (fields.get("type").copied().unwrap_or_default(), fields.get("ref"), fields.get("dest")) {
        ("inline", None, None) if !all => None,
        ("inline", _, _) => return Err("the image has its own layers only: type=inline stands alone".to_owned()),
        ("registry", Some(name), None) => Some(BuildCache::Name((*name).to_owned())),
        ("local", None, Some(path)) => {
            fs::create_dir_all(path).map_err(|error| format!("cannot make the folder {path}: {error}"))?;
            Some(folder(path)?)
        }
        ("registry", _, _) => return Err("give the name: type=registry,ref=NAME".to_owned()),
        ("local", _, _) => return Err("give the folder: type=local,dest=DIR".to_owned()),
        (other, _, _) => return Err(format!("no type {other:?}; there are inline, registry and local")),
    };
    Ok(BuildCacheTarget { place, all })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        assert_eq!(source("team/app:1").unwrap(), BuildCache::Name("team/app:1".into()));
        assert_eq!(source("type=registry,ref=h/c").unwrap(), BuildCache::Name("h/c".into()));
        assert!(matches!(source("type=local,src=/").unwrap(), BuildCache::Folder(folder) if folder.path == "/"));
        assert!(source("type=gha").unwrap_err().contains("registry and local"));
        assert!(source("type=local").unwrap_err().contains("src=DIR"));
        assert!(source("type=registry,ref=a,x=y").unwrap_err().contains("unknown field \"x\""));
        assert_eq!(target("type=inline").unwrap(), BuildCacheTarget { place: None, all: false });
        let wanted = BuildCacheTarget { place: Some(BuildCache::Name("h/c".into())), all: true };
        assert_eq!(target("type=registry,ref=h/c,mode=max").unwrap(), wanted);
        assert!(target("type=inline,mode=max").is_err() && target("type=local,dest=/,mode=x").is_err());
    }
}
