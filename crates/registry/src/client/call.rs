//! One request: proof, redirects, another try.

use std::sync::PoisonError;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    USER_AGENT, WARNING, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde::Deserialize;

use super::address::{self, Origin};
use super::credential::Credential;
use super::token::{Answer, Challenge};
use super::{Client, ClientError, Known};
use crate::body::Body;
use crate::escape::percent_encode;

/// How long the head of an answer may take; some registries think long about a large upload.
const HEAD_PATIENCE: Duration = Duration::from_secs(180);
const MOST_REDIRECTS: usize = 6;
/// The longest words of an error or a token that are read, in bytes.
const MAX_WORDS: usize = 256 << 10;
const AGENT: &str = concat!("insula/", env!("CARGO_PKG_VERSION"));

/// A request that can be sent more than once.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// What a token would have to allow: `repository:NAME:pull`.
    pub(super) scope: String,
    /// The registry as image names have it; credentials are looked up by it.
    pub(super) domain: String,
    /// What is asked for, in errors.
    pub(super) what: String,
}

impl Ask {
    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }
}

/// An answer, and where it came from at last.
pub(super) struct Answered {
    pub(super) response: Response<Incoming>,
    pub(super) uri: Uri,
}

impl Answered {
    pub(super) fn header(&self, name: HeaderName) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// A `Location`, from here.
    pub(super) fn location(&self) -> Result<Uri, ClientError> {
        let location = self.header(LOCATION).ok_or_else(|| ClientError::Protocol {
            host: host_of(&self.uri),
            reason: "an answer has no Location".to_owned(),
        })?;
        address::join(&self.uri, location)
    }
}

pub(super) fn host_of(uri: &Uri) -> String {
    uri.authority().map_or_else(String::new, ToString::to_string)
}

impl Client {
    /// Sends a request until there is an answer that is no passing trouble. Only for requests that do no harm when they are
    /// done twice.
    ///
    /// # Errors
    /// When there is no answer, or none but errors.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Answered, ClientError> {
        let mut pause = self.inner.config.pause;
        let mut tries = 0;
        loop {
            let outcome = match self.ask_once(ask, None).await {
                Ok(answered) if !is_passing(answered.response.status()) => return self.good(ask, answered).await,
                other => other,
            };
            tries += 1;
            let wanted = outcome.as_ref().ok().and_then(|answered| retry_after(answered.response.headers()));
            let wait = wanted.unwrap_or(pause);
            let can_again = match &outcome {
                Ok(_) => true,
                // One that was never reached is told at once: a wrong name or port does not mend itself.
                Err(ClientError::Connect { .. }) => self.has_answered(&Origin::of(&ask.uri)?),
                Err(error) => matches!(error, ClientError::Broken { .. }),
            };
            if tries > self.inner.config.retries || !can_again || wait > self.inner.config.longest_pause {
                return self.good(ask, outcome?).await;
            }
            tracing::debug!(what = ask.what, tries, "trying again");
            tokio::time::sleep(jittered(wait)).await;
            pause = (pause * 2).min(self.inner.config.longest_pause);
        }
    }

    /// Makes errors of answers that are some.
    pub(super) async fn good(&self, ask: &Ask, answered: Answered) -> Result<Answered, ClientError> {
        let status = answered.response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(answered);
        }
        let (host, what) = (host_of(&answered.uri), ask.what.clone());
        let wait = retry_after(answered.response.headers());
        let bytes = read_small(answered.response.into_body()).await.unwrap_or_default();
        let message = words(&bytes, status);
        Err(match status {
            StatusCode::NOT_FOUND => ClientError::NotFound { host, what, message },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ClientError::Denied { host, what, message },
            StatusCode::TOO_MANY_REQUESTS => ClientError::RateLimited { host, wait },
            _ => ClientError::Status { host, what, status, message },
        })
    }

    /// Sends a request, with proof and following redirects. A body that can be sent once only is given as `stream`; its
    /// proof has to be known from requests before.
    pub(super) async fn ask_once(&self, ask: &Ask, stream: Option<Body>) -> Result<Answered, ClientError> {
        let first = Origin::of(&ask.uri)?;
        let mut uri = ask.uri.clone();
        let mut streamed = stream;
        let is_stream = streamed.is_some();
        let mut proof = self.known_proof(&first, ask).await?;
        let (mut proven, mut redirects) = (false, 0);
        loop {
            let body = streamed.take().unwrap_or_else(|| whole(&ask.body));
            // What we are is told to the registry only, not to where it sends us.
            let same = Origin::of(&uri)? == first;
            let response = self.send(ask, &uri, proof.as_deref().filter(|_| same), body).await?;
            if same {
                self.note_answer(&first);
            }
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && same && !proven && !is_stream {
                proven = true;
                if let Some(better) = self.better_proof(&first, ask, response.headers(), proof.as_deref()).await? {
                    proof = Some(better);
                    continue;
                }
            }
            let answered = Answered { response, uri: uri.clone() };
            let can_follow = matches!(ask.method, Method::GET | Method::HEAD) && redirects < MOST_REDIRECTS;
            if can_follow && matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                redirects += 1;
                let next = answered.location()?;
                if first.secure && !Origin::of(&next)?.secure {
                    let reason = format!("it sends us from HTTPS to plain HTTP at {}", host_of(&next));
                    return Err(ClientError::Protocol { host: host_of(&uri), reason });
                }
                uri = next;
                continue;
            }
            return Ok(answered);
        }
    }

    async fn send(
        &self,
        ask: &Ask,
        uri: &Uri,
        proof: Option<&str>,
        body: Body,
    ) -> Result<Response<Incoming>, ClientError> {
        let origin = Origin::of(uri)?;
        let host = origin.authority();
        let bad = |reason: String| ClientError::Protocol { host: host.clone(), reason };
        let mut request = Request::new(body);
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = ask.headers.clone();
        let mut set = |name: HeaderName, value: &str| match HeaderValue::from_str(value) {
            Ok(value) => {
                request.headers_mut().insert(name, value);
                Ok(())
            }
            Err(_) => Err(bad(format!("the header {name} would have forbidden characters"))),
        };
        set(HOST, &host)?;
        set(USER_AGENT, AGENT)?;
        if let Some(proof) = proof {
            set(AUTHORIZATION, proof)?;
        }
        if let Some(proof) = self.inner.connector.proxy_authorization(&origin)? {
            set(HeaderName::from_static("proxy-authorization"), &proof)?;
        }
        let sent = tokio::time::timeout(HEAD_PATIENCE, self.inner.http.request(request)).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                if error.is_connect() && is_distrust(&error) {
                    let folder = self.inner.config.trust.certificates.clone().unwrap_or_default();
                    let ca = folder.join(&host).join("ca.crt");
                    return Err(ClientError::Https { host, ca, source: error.into() });
                }
                if error.is_connect() {
                    return Err(ClientError::Connect { host, source: error.into() });
                }
                return Err(ClientError::Broken { host, times: 1, source: error.into() });
            }
            Err(late) => return Err(ClientError::Broken { host, times: 1, source: late.into() }),
        };
        for warning in response.headers().get_all(WARNING).iter().filter_map(|value| value.to_str().ok()) {
            // 299 - "text" is how registries speak to users.
            if let Some(text) = warning.strip_prefix("299 - ") {
                tracing::warn!(registry = host, "{}", text.trim_matches('"'));
            }
        }
        Ok(response)
    }

    /// Where a registry answers: HTTPS, or plain HTTP where that will do.
    pub(super) async fn find(&self, domain: &str) -> Result<Origin, ClientError> {
        self.find_origin(Origin::of_domain(domain, true)?, domain).await
    }

    pub(super) async fn find_origin(&self, secure: Origin, domain: &str) -> Result<Origin, ClientError> {
        if !self.inner.config.trust.is_insecure(&secure) {
            return Ok(secure);
        }
        let known = |this: &Self| {
            let known = this.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(&secure).and_then(|known| known.origin.clone())
        };
        if let Some(origin) = known(self) {
            return Ok(origin);
        }
        // A port that was left out is another one for plain HTTP.
        let written = domain.rsplit(']').next().unwrap_or_default().contains(':');
        let plain = Origin { secure: false, port: if written { secure.port } else { 80 }, ..secure.clone() };
        let origin = match self.ask_once(&self.hello(&secure, domain)?, None).await {
            Ok(_) => secure.clone(),
            Err(ClientError::Connect { .. } | ClientError::Broken { .. }) => {
                // where nobody answers at all it is not known yet how one will
                if self.ask_once(&self.hello(&plain, domain)?, None).await.is_err() {
                    return Ok(plain);
                }
                plain
            }
            Err(error) => return Err(error),
        };
        let mut known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(secure).or_default().origin = Some(origin.clone());
        Ok(origin)
    }

    /// A request that does nothing.
    pub(super) fn hello(&self, origin: &Origin, domain: &str) -> Result<Ask, ClientError> {
        Ok(Ask {
            method: Method::GET,
            uri: origin.uri("/v2/")?,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            scope: String::new(),
            domain: domain.to_owned(),
            what: "the registry".to_owned(),
        })
    }

    async fn credential(&self, domain: &str) -> Result<Option<Credential>, ClientError> {
        let (credentials, wanted) = (std::sync::Arc::clone(&self.credentials), domain.to_owned());
        let got = tokio::task::spawn_blocking(move || credentials.get(&wanted)).await;
        got.unwrap_or_else(|error| {
            let (registry, from) = (domain.to_owned(), "a helper".to_owned());
            Err(ClientError::Credentials { registry, from, reason: error.to_string() })
        })
    }

    fn has_answered(&self, origin: &Origin) -> bool {
        let known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(origin).is_some_and(|known| known.answered)
    }

    fn note_answer(&self, origin: &Origin) {
        let mut known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get_mut(origin) {
            Some(known) => known.answered = true,
            None => drop(known.insert(origin.clone(), Known { answered: true, ..Known::default() })),
        }
    }

    /// The proof that the registry wanted last time.
    async fn known_proof(&self, origin: &Origin, ask: &Ask) -> Result<Option<String>, ClientError> {
        let challenge = {
            let known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(origin).and_then(|known| known.challenge.clone())
        };
        match challenge {
            Some(challenge) => self.proof(origin, ask, &challenge).await,
            None => Ok(None),
        }
    }

    /// The proof that a 401 asks for; nothing if there is none but the one that was refused.
    async fn better_proof(
        &self,
        origin: &Origin,
        ask: &Ask,
        headers: &HeaderMap,
        refused: Option<&str>,
    ) -> Result<Option<String>, ClientError> {
        let all = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let Some(mut challenge) = Challenge::parse(all) else { return Ok(None) };
        if let (Challenge::Bearer { realm, service, .. }, Some(_)) = (&challenge, refused) {
            // Revoked, or for something else.
            self.tokens.forget(&token_key(realm, service.as_deref(), &ask.scope));
        }
        let proof = self.proof(origin, ask, &challenge).await?;
        if let Challenge::Bearer { scope, .. } = &mut challenge {
            // Belongs to this request only.
            *scope = None;
        }
        let mut known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(origin.clone()).or_default().challenge = Some(challenge);
        Ok(proof.filter(|proof| Some(proof.as_str()) != refused))
    }

    async fn proof(&self, origin: &Origin, ask: &Ask, challenge: &Challenge) -> Result<Option<String>, ClientError> {
        match challenge {
            Challenge::Basic => Ok(match self.credential(&ask.domain).await? {
                Some(Credential::Password { name, password }) => Some(basic(&name, &password)),
                _ => None,
            }),
            Challenge::Bearer { realm, service, scope } => {
                let scope = if ask.scope.is_empty() { scope.as_deref().unwrap_or_default() } else { &ask.scope };
                let key = token_key(realm, service.as_deref(), scope);
                if let Some(token) = self.tokens.get(&key) {
                    return Ok(Some(format!("Bearer {token}")));
                }
                let credential = self.credential(&ask.domain).await?;
                if let Some(Credential::Bearer(token)) = credential {
                    return Ok(Some(format!("Bearer {token}")));
                }
                let (token, validity) = self.fetch_token(origin, realm, service.as_deref(), scope, credential).await?;
                self.tokens.keep(key, &token, validity);
                Ok(Some(format!("Bearer {token}")))
            }
        }
    }

    async fn fetch_token(
        &self,
        origin: &Origin,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credential: Option<Credential>,
    ) -> Result<(String, Duration), ClientError> {
        let mut uri = address::parse(realm)?;
        if origin.secure && !Origin::of(&uri)?.secure {
            let reason = format!("its token service {realm} has no HTTPS");
            return Err(ClientError::Protocol { host: origin.authority(), reason });
        }
        let mut ask = Ask {
            method: Method::GET,
            uri: uri.clone(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            scope: String::new(),
            domain: String::new(),
            what: "a token".to_owned(),
        };
        let mut proof = None;
        if let Some(Credential::Identity(token)) = &credential {
            let service = percent_encode(service.unwrap_or_default());
            let (scope, token) = (percent_encode(scope), percent_encode(token));
            let form = format!(
                "grant_type=refresh_token&client_id=insula&service={service}&scope={scope}&refresh_token={token}"
            );
            ask = Ask { method: Method::POST, body: form.into(), ..ask };
            ask = ask.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        } else {
            if let Some(service) = service {
                uri = address::with_parameter(&uri, "service", service)?;
            }
            for scope in scope.split(' ').filter(|scope| !scope.is_empty()) {
                uri = address::with_parameter(&uri, "scope", scope)?;
            }
            if let Some(Credential::Password { name, password }) = &credential {
                uri = address::with_parameter(&uri, "account", name)?;
                proof = Some(basic(name, password));
            }
            ask.uri = uri;
        }
        let response = self.send(&ask, &ask.uri, proof.as_deref(), whole(&ask.body)).await?;
        let answered = self.good(&ask, Answered { response, uri: ask.uri.clone() }).await?;
        let host = host_of(&ask.uri);
        let bytes = read_small(answered.response.into_body()).await.ok();
        let answer = bytes.and_then(|bytes| serde_json::from_slice::<Answer>(&bytes).ok());
        answer.and_then(Answer::into_token).ok_or_else(|| ClientError::Protocol {
            host,
            reason: "its token service answers without a token".to_owned(),
        })
    }

    /// Reads an answer that has to fit into memory.
    pub(super) async fn read_all(&self, answered: Answered, most: usize) -> Result<Bytes, ClientError> {
        let host = host_of(&answered.uri);
        if answered
            .header(CONTENT_LENGTH)
            .and_then(|text| text.parse().ok())
            .is_some_and(|length: u64| length > most as u64)
        {
            return Err(ClientError::Protocol { host, reason: format!("its answer has more than {most} bytes") });
        }
        let read =
            tokio::time::timeout(HEAD_PATIENCE, Limited::new(answered.response.into_body(), most).collect()).await;
        match read {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(source)) if source.is::<http_body_util::LengthLimitError>() => {
                Err(ClientError::Protocol { host, reason: format!("its answer has more than {most} bytes") })
            }
            Ok(Err(source)) => Err(ClientError::Broken { host, times: 1, source }),
            Err(late) => Err(ClientError::Broken { host, times: 1, source: late.into() }),
        }
    }
}

/// Whether a handshake failed because of the other's certificate.
fn is_distrust(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error's own content is not among its causes.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(_)) = inner.or_else(|| error.downcast_ref()) {
            return true;
        }
        next = error.source();
    }
    false
}

fn token_key(realm: &str, service: Option<&str>, scope: &str) -> String {
    format!("{realm} {} {scope}", service.unwrap_or_default())
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

fn whole(bytes: &Bytes) -> Body {
    if bytes.is_empty() { Body::empty() } else { Body::full(bytes.clone()) }
}

/// Whether the same request may be answered better in a moment.
pub(super) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// How long a registry wants us to wait: seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    let wait = date.timestamp().duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(wait).unwrap_or_default())
}

/// A quarter more at most, so that clients that were cut off together don't come back together.
pub(super) fn jittered(wait: Duration) -> Duration {
    let mut byte = [0];
    let _ = getrandom::fill(&mut byte);
    wait + wait * u32::from(byte[0]) / 1024
}

async fn read_small(body: Incoming) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    let read = tokio::time::timeout(HEAD_PATIENCE, Limited::new(body, MAX_WORDS).collect()).await??;
    Ok(read.to_bytes())
}

/// The registry's own words about an error.
fn words(bytes: &[u8], status: StatusCode) -> String {
    #[derive(Deserialize)]
    struct Words {
        #[serde(default)]
        errors: Vec<One>,
        #[serde(default)]
        details: String,
        #[serde(default)]
        error_description: String,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let usual = || status.canonical_reason().unwrap_or("no reason is given").to_lowercase();
    let Ok(words) = serde_json::from_slice::<Words>(bytes) else { return usual() };
    let all: Vec<&str> = words
        .errors
        .iter()
        .map(|one| if one.message.is_empty() { one.code.as_str() } else { one.message.as_str() })
        .chain([words.details.as_str(), words.error_description.as_str()])
        .filter(|text| !text.is_empty())
        .collect();
    // Control characters of a stranger don't belong on a terminal.
    let text: String = all.join(", ").chars().filter(|character| !character.is_control()).take(500).collect();
    if text.is_empty() { usual() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_words_are_shown() {
        let check = |text: &str, expect: &str| assert_eq!(words(text.as_bytes(), StatusCode::NOT_FOUND), expect);
        check(r#"{"errors":[{"code":"A","message":"b\u001b["},{"code":"C"}]}"#, "b[, C");
        check(r#"{"details":"bad token"}"#, "bad token");
        check("<html>", "not found");
        check("{}", "not found");
    }

    #[test]
    fn waits_are_read() {
        let wait = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            retry_after(&headers)
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
    }
}
