//! Which request is answered where: one sorted table.

mod archive;
mod build;
mod buildkit;
mod checkpoint;
mod container;
mod copy;
mod exec;
mod image;
mod insula;
mod logs;
mod network;
mod registry;
mod stats;
mod system;
mod volume;

pub(crate) use buildkit::Uploads;

use crate::query::percent_decode;
use crate::reply::Reply;
use crate::server::Call;
use hyper::Method;
use std::pin::Pin;

/// A version of the API, `major << 16 | minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32);

impl Version {
    /// Version 1.`minor`.
    pub(crate) const fn minor(minor: u16) -> Self {
        Self(1 << 16 | minor as u32)
    }
}

type Answer = Pin<Box<dyn Future<Output = crate::reply::Result<Reply>> + Send>>;
pub(crate) type Handler = fn(Call) -> Answer;

struct Route {
    /// `{x}` stands for one part of a path, `{x*}` for one or more.
    path: &'static str,
    method: Method,
    handler: Handler,
}

macro_rules! routes {
    ($($path:literal $method:ident $handler:path;)*) => {
        &[$(Route { path: $path, method: Method::$method, handler: |call| Box::pin($handler(call)) }),*]
    };
}

/// Sorted by path, then method.
static ROUTES: &[Route] = routes! {
    "/_ping" GET system::ping;
    "/_ping" HEAD system::ping;
    "/auth" POST registry::auth;
    "/build" POST build::classic;
    "/build/cancel" POST buildkit::cancel;
    "/build/prune" POST build::prune;
    "/commit" POST archive::commit;
    "/configs" GET system::no_swarm;
    "/configs/create" POST system::no_swarm;
    "/configs/{id}" DELETE system::no_swarm;
    "/configs/{id}" GET system::no_swarm;
    "/configs/{id}/update" POST system::no_swarm;
    "/containers/create" POST container::create;
    "/containers/json" GET container::list;
    "/containers/prune" POST container::prune;
    "/containers/{id}" DELETE container::remove;
    "/containers/{id}/archive" GET copy::get;
    "/containers/{id}/archive" HEAD copy::stat;
    "/containers/{id}/archive" PUT copy::put;
    "/containers/{id}/attach" POST container::attach;
    "/containers/{id}/attach/ws" GET container::attach_websocket;
    "/containers/{id}/changes" GET archive::diff;
    "/containers/{id}/checkpoints" GET checkpoint::list;
    "/containers/{id}/checkpoints" POST checkpoint::create;
    "/containers/{id}/checkpoints/{checkpoint}" DELETE checkpoint::remove;
    "/containers/{id}/exec" POST exec::create;
    "/containers/{id}/export" GET archive::export;
    "/containers/{id}/json" GET container::inspect;
    "/containers/{id}/kill" POST container::kill;
    "/containers/{id}/logs" GET logs::logs;
    "/containers/{id}/pause" POST container::pause;
    "/containers/{id}/rename" POST container::rename;
    "/containers/{id}/resize" POST container::resize;
    "/containers/{id}/restart" POST container::restart;
    "/containers/{id}/start" POST container::start;
    "/containers/{id}/stats" GET stats::stats;
    "/containers/{id}/stop" POST container::stop;
    "/containers/{id}/top" GET container::top;
    "/containers/{id}/unpause" POST container::unpause;
    "/containers/{id}/update" POST container::update;
    "/containers/{id}/wait" POST container::wait;
    "/containers/{id}/{alias}" DELETE container::remove_link;
    "/containers/{id}/{alias}/json" GET container::inspect;
    "/distribution/{name*}/json" GET registry::distribution;
    "/events" GET system::events;
    "/exec/{id}/json" GET exec::inspect;
    "/exec/{id}/resize" POST exec::resize;
    "/exec/{id}/start" POST exec::start;
    "/grpc" POST buildkit::grpc;
    "/images/create" POST image::create;
    "/images/get" GET archive::save;
    "/images/json" GET image::list;
    "/images/load" POST archive::load;
    "/images/prune" POST image::prune;
    "/images/search" GET registry::search;
    "/images/{name*}" DELETE image::remove;
    "/images/{name*}/get" GET archive::save;
    "/images/{name*}/history" GET image::history;
    "/images/{name*}/json" GET image::inspect;
    "/images/{name*}/push" POST registry::push;
    "/images/{name*}/tag" POST image::tag;
    "/info" GET system::info;
    "/insula/build" POST build::own;
    "/insula/doctor" GET insula::doctor;
    "/insula/explain/{id}" GET insula::explain;
    "/insula/images/bootstrap" POST insula::bootstrap;
    "/insula/images/check" GET archive::check;
    "/insula/manifest/{name*}" GET registry::manifest;
    "/insula/tree/{name*}" GET build::tree;
    "/insula/volumes/{name}/archive" GET volume::backup;
    "/insula/volumes/{name}/archive" POST volume::restore;
    "/metrics" GET system::metrics;
    "/networks" GET network::list;
    "/networks/create" POST network::create;
    "/networks/prune" POST network::prune;
    "/networks/{id}" DELETE network::remove;
    "/networks/{id}" GET network::inspect;
    "/networks/{id}/connect" POST network::connect;
    "/networks/{id}/disconnect" POST network::disconnect;
    "/nodes" GET system::no_swarm;
    "/nodes/{id}" DELETE system::no_swarm;
    "/nodes/{id}" GET system::no_swarm;
    "/nodes/{id}/update" POST system::no_swarm;
    "/plugins" GET system::plugins;
    "/plugins/create" POST system::no_plugins;
    "/plugins/privileges" GET system::no_plugins;
    "/plugins/pull" POST system::no_plugins;
    "/plugins/{name*}" DELETE system::no_plugin;
    "/plugins/{name*}/disable" POST system::no_plugin;
    "/plugins/{name*}/enable" POST system::no_plugin;
    "/plugins/{name*}/json" GET system::no_plugin;
    "/plugins/{name*}/push" POST system::no_plugin;
    "/plugins/{name*}/set" POST system::no_plugin;
    "/plugins/{name*}/upgrade" POST system::no_plugin;
    "/secrets" GET system::no_swarm;
    "/secrets/create" POST system::no_swarm;
    "/secrets/{id}" DELETE system::no_swarm;
    "/secrets/{id}" GET system::no_swarm;
    "/secrets/{id}/update" POST system::no_swarm;
    "/services" GET system::no_swarm;
    "/services/create" POST system::no_swarm;
    "/services/{id}" DELETE system::no_swarm;
    "/services/{id}" GET system::no_swarm;
    "/services/{id}/logs" GET system::no_swarm;
    "/services/{id}/update" POST system::no_swarm;
    "/session" POST buildkit::session;
    "/swarm" GET system::no_swarm;
    "/swarm/init" POST system::no_swarm_mode;
    "/swarm/join" POST system::no_swarm_mode;
    "/swarm/leave" POST system::no_swarm_to_leave;
    "/swarm/unlock" POST system::no_swarm;
    "/swarm/unlockkey" GET system::no_swarm;
    "/swarm/update" POST system::no_swarm;
    "/system/df" GET system::disk_usage;
    "/tasks" GET system::no_swarm;
    "/tasks/{id}" GET system::no_swarm;
    "/tasks/{id}/logs" GET system::no_swarm;
    "/version" GET system::version;
    "/volumes" GET volume::list;
    "/volumes/create" POST volume::create;
    "/volumes/prune" POST volume::prune;
    "/volumes/{name}" DELETE volume::remove;
    "/volumes/{name}" GET volume::inspect;
    "/volumes/{name}" PUT volume::update;
};

/// What answers a request.
pub(crate) struct Found {
    pub(crate) handler: Handler,
    /// What stands in the path for `{…}`, decoded.
    pub(crate) params: Vec<String>,
    /// The path as the table has it.
    pub(crate) path: &'static str,
}

/// The handler for a request. Literal paths go before patterns.
pub(crate) fn find(method: &Method, path: &str) -> Option<Found> {
    // Docker has this one of the lists with a slash behind it, too
    let path = if path == "/networks/" { "/networks" } else { path };
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let mut best: Option<(&Route, Vec<&str>)> = None;
    for route in ROUTES.iter().filter(|route| route.method == *method) {
        if let Some(params) = match_path(route.path, &parts)
            && best.as_ref().is_none_or(|(_, fewest)| params.len() < fewest.len())
        {
            best = Some((route, params));
        }
    }
    let (route, params) = best?;
    // what `{x*}` took is one parameter, whose parts are decoded one by one only for the sake of an escaped slash
    Some(Found { handler: route.handler, params: join(route.path, &params), path: route.path })
}

fn match_path<'p>(pattern: &str, parts: &[&'p str]) -> Option<Vec<&'p str>> {
    let mut wanted = pattern.split('/').skip(1);
    let count = wanted.clone().count();
    let spare = parts.len().checked_sub(count)?;
    let mut parts = parts.iter();
    let mut params = Vec::new();
    for want in wanted.by_ref() {
        let part = *parts.next()?;
        if want.ends_with("*}") {
            params.push(part);
            params.extend(parts.by_ref().take(spare));
        } else if want.starts_with('{') {
            if part.is_empty() {
                return None;
            }
            params.push(part);
        } else if want != part {
            return None;
        }
    }
    parts.next().is_none().then_some(params)
}

fn join(pattern: &str, params: &[&str]) -> Vec<String> {
    if params.is_empty() {
        return Vec::new();
    }
    if pattern.contains("*}") {
        return vec![percent_decode(&params.join("/"), false)];
    }
    params.iter().map(|param| percent_decode(param, false)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::compat::{Does, Table};

    #[test]
    fn table_is_sorted_and_has_no_twins() {
        let keys: Vec<_> = ROUTES.iter().map(|route| (route.path, route.method.as_str())).collect();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(keys, sorted);
    }

    /// Those of Docker's; what the table does not do need not be here.
    #[test]
    fn every_route_is_in_the_table_of_what_is_done() {
        let table = Table::of_this_repository();
        let ours = |path: &str| path.starts_with("/insula/") || path == "/metrics";
        let docker = ROUTES.iter().filter(|route| !ours(route.path));
        let here: Vec<String> =
            docker.map(|route| format!("{} {}", route.method, route.path.replace("*}", "}"))).collect();
        for route in &here {
            assert!(
                table.route.iter().any(|told| told.call == *route),
                "docs/compat/docker.toml does not tell of {route}"
            );
        }
        for told in table.route.iter().filter(|told| told.does != Does::No) {
            assert!(here.contains(&told.call), "docs/compat/docker.toml tells of {}, which is not here", told.call);
        }
    }

    #[test]
    fn paths_find_their_parameters() {
        let check = |method: Method, path: &str, expect: Option<&[&str]>| {
            let found = find(&method, path).map(|found| found.params);
            assert_eq!(
                found.as_deref(),
                expect.map(|e| e.iter().map(ToString::to_string).collect::<Vec<_>>()).as_deref(),
                "{path}"
            );
        };
        check(Method::GET, "/_ping", Some(&[]));
        check(Method::GET, "/containers/json", Some(&[]));
        check(Method::GET, "/containers/web/json", Some(&["web"]));
        check(Method::GET, "/images/docker.io/library/debian:12/json", Some(&["docker.io/library/debian:12"]));
        check(Method::GET, "/images/docker.io%2Flibrary%2Fdebian/json", Some(&["docker.io/library/debian"]));
        check(Method::DELETE, "/images/a/b", Some(&["a/b"]));
        check(Method::GET, "/images/json", Some(&[]));
        check(Method::GET, "/images/json/json", Some(&["json"]));
        check(Method::POST, "/containers/web/json", None);
        check(Method::GET, "/containers//json", None);
        check(Method::GET, "/", None);
        check(Method::GET, "", None);
        check(Method::GET, "/containers/a/b/json", Some(&["a", "b"]));
        check(Method::GET, "/containers/a/b/c/json", None);
        check(Method::GET, "/networks/", Some(&[]));
    }

    #[test]
    fn versions_are_split_off_and_checked() {
        let check = |path: &str, expect: Result<(u16, &str), &str>| {
            let found = Version::split(path).map_err(|error| error.message);
            match (found, expect) {
                (Ok((version, rest)), Ok((minor, expected))) => {
                    assert_eq!((version, rest), (Version::minor(minor), expected))
                }
                (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
                (found, _) => panic!("{path}: {found:?}"),
            }
        };
        check("/v1.41/info", Ok((41, "/info")));
        check("/info", Ok((51, "/info")));
        check("/volumes/x", Ok((51, "/volumes/x")));
        check("/v1.23/info", Err("too old"));
        check("/v1.99/info", Err("too new"));
        check("/v9/info", Err("invalid API version"));
        check("/v1.x/info", Err("invalid API version"));
    }
}
