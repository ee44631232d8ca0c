//! The runtimes that containers can be run by: our own, and programs with runc's command line that the settings name.

use crate::error::{EngineError, Result};
use control::Runtime;
use std::collections::BTreeMap;

/// Our own runtime's name.
pub const OWN: &str = "insula";
/// Names that scripts know it by, unless the settings give them to a program.
const ALIASES: [&str; 2] = ["io.containerd.runc.v2", "runc"];

/// The runtimes by name, and which one containers get that name none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtimes {
    /// The one that is taken where none is named.
    pub default: String,
    /// Programs by name.
    pub programs: BTreeMap<String, Runtime>,
}

impl Default for Runtimes {
    fn default() -> Self {
        Self { default: OWN.to_owned(), programs: BTreeMap::new() }
    }
}

impl Runtimes {
    /// All names with their programs; `None` is our own.
    pub fn all(&self) -> impl Iterator<Item = (&str, Option<&Runtime>)> {
        let own = std::iter::once(OWN).chain(ALIASES).filter(|name| !self.programs.contains_key(*name));
        own.map(|name| (name, None)).chain(self.programs.iter().map(|(name, program)| (name.as_str(), Some(program))))
    }

    /// The program behind a name; `None` is our own.
    ///
    /// # Errors
    /// [`crate::ErrorClass::Invalid`] for a name that nothing goes by.
    pub fn find(&self, name: &str) -> Result<Option<&Runtime>> {
        let found = self.all().find(|(known, _)| *known == name);
        found
            .map(|(_, program)| program)
            .ok_or_else(|| EngineError::invalid(format!("unknown or invalid runtime name: {name}")))
    }

    /// What a container is recorded with that asks for `name` or for none; `None` is our own by its own name.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub(crate) fn choose(&self, name: Option<String>) -> Result<Option<String>> {
        let name = name.unwrap_or_else(|| self.default.clone());
        self.find(&name)?;
        Ok(Some(name).filter(|name| name != OWN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_unknown_ones_refused() {
        let crun = Runtime { program: "/usr/bin/crun".into(), arguments: Vec::new() };
        let mut runtimes = Runtimes::default();
        assert_eq!(runtimes.choose(None).unwrap(), None);
        assert_eq!(runtimes.choose(Some("insula".into())).unwrap(), None);
        assert_eq!(runtimes.choose(Some("runc".into())).unwrap().as_deref(), Some("runc"));
        assert_eq!(runtimes.find("runc").unwrap(), None);
        assert_eq!(runtimes.find("crun").unwrap_err().to_string(), "unknown or invalid runtime name: crun");
        runtimes.programs.insert("crun".into(), crun.clone());
        runtimes.programs.insert("runc".into(), crun.clone());
        runtimes.default = "crun".into();
        assert_eq!(runtimes.choose(None).unwrap().as_deref(), Some("crun"));
        assert_eq!(runtimes.choose(Some("insula".into())).unwrap(), None);
        assert_eq!(runtimes.find("runc").unwrap(), Some(&crun));
        assert_eq!(runtimes.all().count(), 4);
    }
}
