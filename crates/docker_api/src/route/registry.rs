//! Images and registries: pull, push, search, proof, what is elsewhere.

use crate::error::ApiError;
use crate::reply::{self, Result};
use crate::server::Call;
use crate::translate::progress;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use engine::{EngineError, ErrorClass, Progress, Proof, Pull};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use tokio::sync::mpsc;

/// Steps that wait for a slow client.
const WAITING: usize = 256;
/// Results of a search without a limit, and the most that may be asked for.
const FOUND: usize = 25;
const MOST_FOUND: usize = 100;

/// Somebody's proof, as docker's clients send it.
#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthConfig {
    username: String,
    password: String,
    auth: String,
    serveraddress: String,
    identitytoken: String,
    registrytoken: String,
}

/// Either alphabet, with or without padding: clients differ.
fn decode(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text = text.trim();
    let alphabet = if text.contains(['+', '/']) { alphabet::STANDARD } else { alphabet::URL_SAFE };
    GeneralPurpose::new(&alphabet, config).decode(text).ok()
}

impl AuthConfig {
    fn proof(mut self) -> Proof {
        if self.username.is_empty()
            && let Some(pair) = decode(&self.auth).and_then(|bytes| String::from_utf8(bytes).ok())
            && let Some((name, password)) = pair.split_once(':')
        {
            (self.username, self.password) = (name.to_owned(), password.to_owned());
        }
        if !self.registrytoken.is_empty() {
            Proof::Bearer(self.registrytoken)
        } else if !self.identitytoken.is_empty() {
            Proof::Identity(self.identitytoken)
        } else if !self.username.is_empty() {
            Proof::Password(self.username, self.password)
        } else {
            Proof::None
        }
    }
}

/// The proof in a request's head. As with Docker, a header that makes no sense is as if it were not there: there are clients that
/// send any word where they have none.
fn proof(call: &Call) -> Proof {
    let header = call.request.headers().get("x-registry-auth").and_then(|header| header.to_str().ok());
    let bytes = header.and_then(decode).unwrap_or_default();
    crate::fold::from_slice::<AuthConfig>(&bytes).map_or(Proof::None, AuthConfig::proof)
}

/// The proofs in a build's head, by the registries' names; as [`proof`] reads them.
pub(super) fn proofs(call: &Call) -> BTreeMap<String, Proof> {
    let header = call.request.headers().get("x-registry-config").and_then(|value| value.to_str().ok());
    let bytes = header.and_then(decode).unwrap_or_default();
    let all: BTreeMap<String, AuthConfig> = crate::fold::from_slice(&bytes).unwrap_or_default();
    all.into_iter().map(|(name, config)| (name, config.proof())).collect()
}

/// `POST /images/create?fromImage=`
pub(crate) async fn pull(call: Call) -> Result {
    let name = call.query.text("fromImage").unwrap_or_default();
    let (name, all_tags) = match call.query.text("tag") {
        Some(digest) if digest.contains(':') => {
            let parsed = name.parse::<oci::reference::Reference>();
            let repository = parsed.map_or_else(|_| name.to_owned(), |name| name.repository());
            (format!("{repository}@{digest}"), false)
        }
        Some(tag) => (super::image::with_tag(name, tag), false),
        None => {
            let parsed = name.parse::<oci::reference::Reference>();
            (name.to_owned(), parsed.is_ok_and(|parsed| parsed.tag().is_none() && parsed.digest().is_none()))
        }
    };
    let platform = call.query.text("platform").map(str::parse);
    let verify = call.query.text("verify").map(str::to_owned);
    let pull = Pull { name, all_tags, platform: platform.transpose()?, proof: proof(&call), verify, ..Pull::default() };
    let (sender, steps) = mpsc::channel(WAITING);
    let engine = call.engine().clone();
    told(async move { engine.pull(pull, sender).await }, steps).await
}

/// `POST /images/{name}/push`
pub(crate) async fn push(call: Call) -> Result {
    let name = match call.query.text("tag") {
        Some(tag) => super::image::with_tag(call.who(), tag),
        None => call.who().to_owned(),
    };
    let (proof, platform) = (proof(&call), super::image::wanted_platform(&call, 46)?);
    let (sender, steps) = mpsc::channel(WAITING);
    let engine = call.engine().clone();
    told(async move { engine.push(&name, platform.as_ref(), proof, sender).await }, steps).await
}

/// Does something that tells how far it is. What fails before the first word is an answer of its own; when the client goes, the
/// work ends.
async fn told(
    work: impl Future<Output = std::result::Result<(), EngineError>> + Send + 'static,
    mut steps: mpsc::Receiver<Progress>,
) -> Result {
    let mut work = Box::pin(work);
    let (first, mut outcome) = tokio::select! {
        biased;
        Some(step) = steps.recv() => (Some(step), None),
        outcome = &mut work => (None, Some(outcome)),
    };
    let first = match (first, &mut outcome) {
        (None, Some(Err(_))) if steps.is_empty() => {
            return Err(outcome
                .and_then(std::result::Result::err)
                .map_or_else(|| ApiError::internal("the work ended without a word"), ApiError::from));
        }
        (first, _) => first,
    };
    let (out, reply) = reply::stream("application/json");
    tokio::spawn(async move {
        if let Some(step) = first
            && send(&out, progress::lines(&step)).await.is_err()
        {
            return;
        }
        let mut outcome = outcome;
        while outcome.is_none() {
            tokio::select! {
                biased;
                Some(step) = steps.recv() => {
                    if send(&out, progress::lines(&step)).await.is_err() {
                        return;
                    }
                }
                ended = &mut work => outcome = Some(ended),
                () = out.closed() => return,
            }
        }
        while let Ok(step) = steps.try_recv() {
            if send(&out, progress::lines(&step)).await.is_err() {
                return;
            }
        }
        if let Some(Err(error)) = outcome {
            let _ = send(&out, vec![failure(&error.to_string())]).await;
        }
    });
    Ok(reply)
}

/// An error in a stream of steps.
pub(super) fn failure(message: &str) -> Value {
    json!({ "errorDetail": { "message": message }, "error": message })
}

pub(super) async fn send(out: &mpsc::Sender<io::Result<Bytes>>, lines: Vec<Value>) -> std::result::Result<(), ()> {
    for line in lines {
        let bytes = format!("{line}\r\n").into_bytes();
        out.send(Ok(bytes.into())).await.map_err(|_| ())?;
    }
    Ok(())
}

/// `POST /auth`
pub(crate) async fn auth(mut call: Call) -> Result {
    let auth: AuthConfig = call.json().await?;
    let address = auth.serveraddress.trim_start_matches("https://").trim_start_matches("http://");
    let domain = match address.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => oci::reference::DEFAULT_DOMAIN.to_owned(),
        other => other.to_owned(),
    };
    match call.engine().log_in(&domain, auth.proof()).await {
        Ok(_) => reply::json(&json!({ "Status": "Login Succeeded", "IdentityToken": "" })),
        Err(error) if error.class() == ErrorClass::Denied => {
            Err(ApiError::new(StatusCode::UNAUTHORIZED, error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// `GET /images/search`
pub(crate) async fn search(call: Call) -> Result {
    let term = call.query.text("term").ok_or_else(|| ApiError::invalid("what to search for is missing: ?term="))?;
    let filters = call.query.filters(&["is-automated", "is-official", "stars"])?;
    let limit: usize = call.query.number("limit")?.filter(|limit| *limit > 0).unwrap_or(FOUND);
    if limit > MOST_FOUND {
        return Err(ApiError::invalid(format!("limit {limit} is outside the range of [1, {MOST_FOUND}]")));
    }
    let (official, automated) = (filters.flag("is-official")?, filters.flag("is-automated")?);
    let mut least_stars = 0;
    for stars in filters.values("stars").unwrap_or_default() {
        least_stars = stars.parse().map_err(|_| ApiError::invalid(format!("invalid filter 'stars={stars}'")))?;
    }
    let found = call.engine().search(term, limit, proof(&call)).await?;
    let shown = found.into_iter().filter(|one| {
        one.star_count >= least_stars
            && official.is_none_or(|official| official == one.is_official)
            && automated.is_none_or(|automated| automated == one.is_automated)
    });
    let show = |one: engine::SearchResult| {
        json!({
            "name": one.name, "description": one.description, "star_count": one.star_count,
            "is_official": one.is_official, "is_automated": one.is_automated,
        })
    };
    reply::json(&shown.map(show).collect::<Vec<_>>())
}

/// `GET /distribution/{name}/json`
pub(crate) async fn distribution(call: Call) -> Result {
    let found = call.engine().elsewhere(call.who(), proof(&call)).await?;
    let platform = |one: &oci::platform::Platform| {
        let mut words = json!({ "architecture": one.architecture, "os": one.os });
        if let Some(variant) = &one.variant {
            words["variant"] = json!(variant);
        }
        words
    };
    let descriptor = &found.descriptor;
    reply::json(&json!({
        "Descriptor": {
            "mediaType": descriptor.media_type, "digest": descriptor.digest.to_string(), "size": descriptor.size,
        },
        "Platforms": found.platforms.iter().map(platform).collect::<Vec<_>>(),
    }))
}

/// `GET /insula/manifest/{name}`: the manifest's very bytes.
pub(crate) async fn manifest(call: Call) -> Result {
    let found = call.engine().elsewhere(call.who(), proof(&call)).await?;
    Ok(reply::whole(StatusCode::OK, "application/json", found.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_in_every_form() {
        let proof = |json: &str| serde_json::from_str::<AuthConfig>(json).unwrap().proof();
        let password = Proof::Password("anna".into(), "a:b".into());
        assert_eq!(proof(r#"{"username":"anna","password":"a:b"}"#), password);
        assert_eq!(proof(r#"{"auth":"YW5uYTphOmI="}"#), password);
        assert_eq!(proof(r#"{"username":"x","identitytoken":"t"}"#), Proof::Identity("t".into()));
        assert_eq!(proof(r#"{"registrytoken":"t"}"#), Proof::Bearer("t".into()));
        assert_eq!(proof("{}"), Proof::None);
        assert_eq!(decode("e30=").unwrap(), b"{}");
        assert_eq!(decode("e30").unwrap(), b"{}");
        assert_eq!(decode("-_8").unwrap(), decode("+/8=").unwrap());
        assert!(decode("!").is_none());
    }
}
