//! Modules in the first file system, loaded in the order that `modules/index` gives: what for, then files.

use std::fs::{self, File};

use rustix::io::Errno;
use rustix::system::finit_module;

use crate::InitError;

const FOLDER: &str = "/modules";

/// The order in which modules are loaded.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    index: String,
}

impl Modules {
    /// A kernel without modules has none.
    pub(crate) fn read() -> Self {
        Self { index: fs::read_to_string(format!("{FOLDER}/index")).unwrap_or_default() }
    }

    /// The files for `what`, in order.
    fn files<'a>(&'a self, what: &str) -> impl Iterator<Item = &'a str> {
        let line = self.index.lines().find_map(|line| match line.split_once(' ') {
            Some((key, files)) if key == what => Some(files),
            _ => None,
        });
        line.unwrap_or_default().split_whitespace()
    }

    /// Loads what `what` needs, if there is anything.
    ///
    /// # Errors
    /// A module is refused.
    pub(crate) fn load(&self, what: &str) -> Result<(), InitError> {
        for name in self.files(what) {
            let path = format!("{FOLDER}/{name}");
            let file = File::open(&path).map_err(|source| InitError::Read { path: path.clone(), source })?;
            match finit_module(&file, c"", 0) {
                // It is there already; it is for a device or a processor that is not here.
                Ok(()) | Err(Errno::EXIST | Errno::NODEV) => {}
                Err(source) => return Err(InitError::Module { path, source }),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_what_they_are_for() {
        let modules = Modules { index: "drivers a.ko b.ko\next4 c.ko\nnone\n".to_owned() };
        let check = |what, expect: &[&str]| assert_eq!(modules.files(what).collect::<Vec<_>>(), expect, "{what}");
        check("drivers", &["a.ko", "b.ko"]);
        check("ext4", &["c.ko"]);
        check("none", &[]);
        check("ext", &[]);
    }
}
