//! Proving who we are: Basic, and Bearer tokens from a token service.
//!
//! # Source
//! Docker's registry documentation, "Token authentication specification" and "OAuth2 Token Authentication".

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// How long a token is valid when the service does not say.
const DEFAULT_VALIDITY: Duration = Duration::from_secs(60);
/// Tokens are not used in their last seconds.
const MARGIN: Duration = Duration::from_secs(10);
/// The most tokens that are kept.
const MOST_TOKENS: usize = 1000;

/// What a registry asks for in `WWW-Authenticate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with every request.
    Basic,
    /// A token.
    Bearer {
        /// Where tokens are to be had.
        realm: String,
        /// What the token is for, in the registry's words.
        service: Option<String>,
        /// What the request would have needed.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The best of the challenges in some headers; none if we know none of them.
    pub(super) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for header in headers {
            for (scheme, parameters) in split(header) {
                let get = |name: &str| {
                    parameters
                        .iter()
                        .find(|(known, _)| known.eq_ignore_ascii_case(name))
                        .map(|(_, value)| value.clone())
                };
                if scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = get("realm")
                {
                    return Some(Self::Bearer { realm, service: get("service"), scope: get("scope") });
                }
                if scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
}

type Parameters = Vec<(String, String)>;

/// Splits `Scheme a="b", c=d, Other e=f` into its challenges.
fn split(header: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = take_value(value);
            if let Some((_, parameters)) = found.last_mut() {
                parameters.push((word.to_owned(), value));
            }
            rest = after;
        } else {
            if !word.is_empty() {
                found.push((word.to_owned(), Vec::new()));
            }
            rest = after;
        }
        rest = rest.trim_start_matches([' ', ',']);
        // A stray character must not stop us for ever.
        if word.is_empty() && rest.starts_with('=') {
            rest = &rest[1..];
        }
    }
    found
}

/// A token or a quoted string, and what follows it.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// What a token service answers.
#[derive(Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

impl Answer {
    /// The token and how long it may be used; nothing if there is none.
    pub(super) fn into_token(self) -> Option<(String, Duration)> {
        let token = if self.token.is_empty() { self.access_token } else { self.token };
        let validity = self.expires_in.map_or(DEFAULT_VALIDITY, |seconds| Duration::from_secs(seconds.min(86_400)));
        (!token.is_empty()).then_some((token, validity))
    }
}

/// Tokens that are still valid, by realm, service and scope.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<String, (String, Instant)>>);

impl Tokens {
    pub(super) fn get(&self, key: &str) -> Option<String> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(key).filter(|(_, end)| Instant::now() < *end).map(|(token, _)| token.clone())
    }

    pub(super) fn keep(&self, key: String, token: &str, validity: Duration) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= MOST_TOKENS {
            tokens.retain(|_, (_, end)| Instant::now() < *end);
        }
        if tokens.len() < MOST_TOKENS {
            tokens.insert(key, (token.to_owned(), Instant::now() + validity.saturating_sub(MARGIN)));
        }
    }

    pub(super) fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_are_read() {
        let check = |header: &str, expect| assert_eq!(Challenge::parse([header].into_iter()), expect, "{header}");
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            Some(Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) })
        };
        check(
            r#"Bearer realm="https://a/t",service="s",scope="repository:x/y:pull,push""#,
            bearer("https://a/t", Some("s"), Some("repository:x/y:pull,push")),
        );
        check(r#"bearer  Realm=https://a/t , x="a\"b""#, bearer("https://a/t", None, None));
        check(r#"Basic realm="x", Bearer realm="r""#, bearer("r", None, None));
        check(r#"Basic realm="x""#, Some(Challenge::Basic));
        check("Negotiate", None);
        check("Bearer", None);
        check("", None);
    }

    #[test]
    fn tokens_end() {
        let tokens = Tokens::default();
        tokens.keep("a".into(), "t", Duration::from_secs(60));
        tokens.keep("b".into(), "t", Duration::from_secs(5));
        assert_eq!(tokens.get("a").as_deref(), Some("t"));
        assert_eq!(tokens.get("b"), None);
        tokens.forget("a");
        assert_eq!(tokens.get("a"), None);
    }

    proptest! {
        #[test]
        fn any_header_is_read_to_its_end(text in "[ -~]{0,80}") {
            let _ = Challenge::parse([text.as_str()].into_iter());
        }
    }
}
