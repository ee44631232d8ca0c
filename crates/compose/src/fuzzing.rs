//! What the fuzz targets call. The seeds in `fuzz/corpus-seeds` go through the same functions in this crate's tests.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use crate::create::{self, Found, Which};
use crate::{Loader, Options, Project, emit, hash, yaml};

/// A Compose file, which may include and extend itself, through the whole way to the daemon's requests. What is written of the
/// project is read again as the same.
pub fn file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let read = |path: &Path| match path.to_str() {
        Some("/p/compose.yaml") => Ok(text.to_owned()),
        Some("/p/x.env") => Ok("A=1\nB=\"$A\"\n".to_owned()),
        _ => Err(Error::from(ErrorKind::NotFound)),
    };
    let options = Options {
        current: PathBuf::from("/p"),
        profiles: vec!["*".to_owned()],
        environment: [("A".to_owned(), "a".to_owned()), ("HOME".to_owned(), "/root".to_owned())].into(),
        ..Options::default()
    };
    let loaded = match Loader::new(&read).load(&options) {
        Ok(loaded) => loaded,
        // the message finds its place in the text
        Err(error) => return drop(error.to_string()),
    };
    let Ok(mut project) = Project::new(loaded, &[]) else { return };
    let written = emit::yaml(&project.tree());
    match yaml::parse(&written, "written") {
        Ok(again) => assert_eq!(again, [project.tree()], "{written}"),
        Err(error) => panic!("{error}\n{written}"),
    }
    if project.resolve(&read).is_err() {
        return;
    }
    for service in project.services.values() {
        assert_eq!(hash::service(&service.node).len(), 64);
        drop(create::container(&project, service, &Which::Number(1), &Found::default()));
        drop(create::injected(&project, service));
    }
}

/// A file of variables.
pub fn dotenv(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for format in [crate::dotenv::Format::Full, crate::dotenv::Format::Raw] {
        drop(crate::dotenv::parse(text, format, &|name| (name == "A").then(|| "$B".to_owned())));
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::{Target, disturb, replay};

    const TARGETS: &[Target] = &[("compose_file", super::file), ("compose_dotenv", super::dotenv)];

    #[test]
    fn seeds_replay() {
        replay(TARGETS);
    }

    #[test]
    fn noise_and_damaged_seeds_do_no_harm() {
        disturb(TARGETS);
    }
}
