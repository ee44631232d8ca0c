//! The table of what is done of the Docker Engine API, `docs/compat/docker.toml`: a page is made from it, and tests ask whether it is
//! true.

use serde::Deserialize;
use serde_json::{Map, Value};

/// Where it stands in the repository.
pub const PATH: &str = "docs/compat/docker.toml";

/// All routes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// In the order of their paths, then methods.
    pub route: Vec<Route>,
}

/// A route with its fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Method and path: `GET /containers/{id}/json`.
    pub call: String,
    /// Whether it is there.
    pub does: Does,
    /// Why it does less than all.
    #[serde(default)]
    pub note: String,
    /// The version of the API that brought it, if that is after 1.24.
    #[serde(default)]
    pub since: String,
    /// What a test adds to the path, or sends.
    #[serde(default)]
    pub probe: String,
    /// What can be asked in the query.
    #[serde(default)]
    pub query: Vec<Field>,
    /// What can be asked in the body.
    #[serde(default)]
    pub body: Vec<Field>,
    /// What is always in the answer.
    #[serde(default)]
    pub answer: Vec<String>,
}

/// Something that can be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Its name, with dots between the names of objects.
    pub name: String,
    /// Whether it does anything.
    pub does: Does,
    /// Why it does less than all.
    #[serde(default)]
    pub note: String,
    /// A value that is set and looked up again.
    pub sample: Option<Value>,
    /// The test that shows it, if it needs more than a sample.
    #[serde(default)]
    pub test: String,
    /// Where it is shown, if under another name.
    pub at: Option<String>,
    /// What is shown, if it is something else.
    pub seen: Option<Value>,
    /// What has to be said along with it.
    #[serde(default)]
    pub beside: Map<String, Value>,
}

/// How much is done.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Does {
    /// All of it.
    Yes,
    /// Some of it.
    Partly,
    /// Nothing.
    No,
}

impl Does {
    /// The word that the table has for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Partly => "partly",
            Self::No => "no",
        }
    }
}

impl Table {
    /// Reads it.
    ///
    /// # Errors
    /// What is no table, or has a name that no table has.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// That of this repository, as it was when this crate was built.
    #[must_use]
    pub fn of_this_repository() -> Self {
        Self::parse(include_str!("../../../docs/compat/docker.toml")).unwrap_or_else(|error| panic!("{PATH}: {error}"))
    }

    /// One of its routes.
    #[must_use]
    #[track_caller]
    pub fn route(&self, call: &str) -> &Route {
        let found = self.route.iter().find(|route| route.call == call);
        found.unwrap_or_else(|| panic!("{PATH} does not tell of {call}"))
    }
}
