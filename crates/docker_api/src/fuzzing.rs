//! What the fuzz targets call. The seeds in `fuzz/corpus-seeds` go through the same functions in this crate's tests.

use docker_wire::models::ContainerCreateBody;

use crate::query::{Query, percent_decode};
use crate::translate::{create, describe, mounts, parse_bytes};

/// A request's query, with everything that handlers ask of it.
pub fn query(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    drop(percent_decode(text, false));
    let query = Query::parse(Some(text));
    for name in ["all", "force", "limit", "since", "tail", "until", "h"] {
        let _ = (query.flag(name), query.text(name), query.all(name).count());
        let _ = (query.number::<i64>(name), query.number::<u16>(name), query.time_ns(name));
    }
    if let Ok(filters) = query.filters(&["dangling", "label", "name", "status", "until"]) {
        let _ = (filters.flag("dangling"), filters.matches("name", |name| name.is_empty()));
        let _ = filters.match_labels(|key| (key.len() > 2).then_some("value"));
    }
}

/// The body of a request to create a container. What is understood can be shown.
pub fn create(bytes: &[u8]) {
    let Ok(body) = serde_json::from_slice::<ContainerCreateBody>(bytes) else { return };
    match create::spec(None, body) {
        Ok(spec) => drop(describe::host_config(&spec)),
        Err(error) => assert!(!error.message.is_empty(), "a refusal without a reason"),
    }
}

/// Words with a form of their own inside that body.
pub fn value(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = (parse_bytes(text), mounts::bind(text), mounts::tmpfs("/x", text), mounts::tmpfs(text, ""));
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::{Target, disturb, replay, seeds};

    const TARGETS: &[Target] =
        &[("api_query", super::query), ("api_create", super::create), ("api_value", super::value)];

    #[test]
    fn seeds_replay() {
        replay(TARGETS);
    }

    #[test]
    fn noise_and_damaged_seeds_do_no_harm() {
        disturb(TARGETS);
    }

    #[test]
    fn the_create_seeds_are_understood() {
        for seed in seeds("api_create") {
            let body = serde_json::from_slice(&seed).unwrap();
            assert!(crate::translate::create::spec(None, body).is_ok());
        }
    }
}
