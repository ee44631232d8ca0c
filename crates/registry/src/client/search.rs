//! Searching for images, and trying credentials.

use hyper::Method;
use hyper::header::HeaderMap;
use serde::Deserialize;

use super::address::{self, Origin};
use super::call::{Ask, host_of};
use super::credential::{Credential, Credentials};
use super::{Client, ClientError};
use crate::escape::percent_encode;
use crate::manifest::MAX_MANIFEST;

/// Where Docker's hub is searched.
const HUB_SEARCH: &str = "https://index.docker.io/v1/search";

/// An image that a search has found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Found {
    /// Its repository.
    pub name: String,
    /// What its maker says.
    #[serde(default)]
    pub description: String,
    /// How many people like it.
    #[serde(default)]
    pub star_count: u64,
    /// Whether it is one of Docker's own selection.
    #[serde(default)]
    pub is_official: bool,
    /// Whether the registry built it itself.
    #[serde(default)]
    pub is_automated: bool,
}

/// That a registry knows us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoggedIn {
    /// It accepts the credential.
    Accepted,
    /// It lets everybody in, whoever they are.
    Everybody,
}

#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    results: Vec<Found>,
}

#[derive(Deserialize)]
struct Catalog {
    #[serde(default)]
    repositories: Option<Vec<String>>,
}

impl Client {
    /// Searches a registry: by its search if it has one, else in the list of its repositories.
    ///
    /// # Errors
    /// When the registry has neither.
    pub async fn search(&self, domain: &str, term: &str, limit: usize) -> Result<Vec<Found>, ClientError> {
        let hub = domain == oci::reference::DEFAULT_DOMAIN;
        let origin = if hub { Origin::of(&address::parse(HUB_SEARCH)?)? } else { self.find(domain).await? };
        let ask = self.hello(&origin, domain)?;
        let query = format!("/v1/search?q={}&n={limit}", percent_encode(term));
        let search = Ask { uri: origin.uri(&query)?, what: format!("a search for {term:?}"), ..ask.clone() };
        match self.ask(&search).await {
            Ok(answered) => {
                let host = host_of(&answered.uri);
                let bytes = self.read_all(answered, MAX_MANIFEST).await?;
                let results: Results = serde_json::from_slice(&bytes).map_err(|error| ClientError::Protocol {
                    host,
                    reason: format!("its search results cannot be read: {error}"),
                })?;
                return Ok(results.results.into_iter().take(limit).collect());
            }
            Err(ClientError::NotFound { .. } | ClientError::Status { .. }) if !hub => {}
            Err(error) => return Err(error),
        }
        let uri = origin.uri("/v2/_catalog?n=10000")?;
        let ask =
            Ask { uri, scope: "registry:catalog:*".to_owned(), what: "its list of repositories".to_owned(), ..ask };
        let answered = self.ask(&ask).await?;
        let host = host_of(&answered.uri);
        let bytes = self.read_all(answered, MAX_MANIFEST).await?;
        let catalog: Catalog = serde_json::from_slice(&bytes).map_err(|error| ClientError::Protocol {
            host,
            reason: format!("its list of repositories cannot be read: {error}"),
        })?;
        let names = catalog.repositories.unwrap_or_default().into_iter().filter(|name| name.contains(term));
        let found = |name| {
            let description = String::new();
            Found { name, description, star_count: 0, is_official: false, is_automated: false }
        };
        Ok(names.take(limit).map(found).collect())
    }

    /// Tries a credential, and changes nothing.
    ///
    /// # Errors
    /// [`ClientError::Denied`] when the registry does not accept it.
    pub async fn log_in(&self, domain: &str, credential: Credential) -> Result<LoggedIn, ClientError> {
        // Somebody else's tokens must not answer for this credential.
        let nobody = Self::new(self.inner.config.clone(), Credentials::None);
        let origin = nobody.find(domain).await?;
        let ask = Ask { method: Method::GET, headers: HeaderMap::new(), ..nobody.hello(&origin, domain)? };
        let open = nobody.ask_once(&ask, None).await.is_ok_and(|answered| answered.response.status().is_success());
        let somebody = Self::new(self.inner.config.clone(), Credentials::Fixed(credential));
        let ask = Ask { domain: domain.to_owned(), ..ask };
        somebody.ask(&ask).await?;
        Ok(if open { LoggedIn::Everybody } else { LoggedIn::Accepted })
    }
}
