//! `GET /containers/json`: lines of `docker ps`, and the filters that choose them.

use super::time::{human, unix_seconds};
use super::{describe, network};
use crate::error::ApiError;
use crate::query::Filters;
use docker_wire::models::{
    ContainerSummary, ContainerSummaryHostConfig, ContainerSummaryNetworkSettings, ContainerSummaryStateEnum as State,
};
use engine::model::{Container, HealthStatus, NetworkMode, Phase};

/// The filters that a listing knows.
pub(crate) const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

fn word(container: &Container) -> &'static str {
    match describe::phase(container) {
        Phase::Exited if describe::is_restarting(container) => "restarting",
        Phase::Created | Phase::Starting => "created",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Exited => "exited",
        Phase::Removing => "removing",
    }
}

/// One line.
pub(crate) fn summary(container: &Container, now_ns: u64) -> ContainerSummary {
    ContainerSummary {
        id: Some(container.id.to_string()),
        names: Some(vec![format!("/{}", container.name)]),
        image: Some(container.spec.image.clone()),
        image_id: Some(container.image_id.clone()),
        command: Some(container.process.args.join(" ")),
        created: Some(unix_seconds(container.created_ns)),
        ports: Some(network::port_list(container)),
        labels: Some(container.spec.labels.clone().into_iter().collect()),
        state: word(container).parse::<State>().ok(),
        status: Some(status(container, now_ns)),
        host_config: Some(ContainerSummaryHostConfig {
            network_mode: Some(describe::network_mode(&container.spec.network)),
            annotations: None,
        }),
        network_settings: Some(ContainerSummaryNetworkSettings { networks: Some(network::endpoints(container)) }),
        mounts: Some(describe::mount_points(container)),
        ..Default::default()
    }
}

/// The state in words, with the time since it began: `Up 3 seconds`, `Exited (137) 1 second ago (OOM killed)`.
pub(crate) fn status(container: &Container, now_ns: u64) -> String {
    let ended = container.finished.as_ref();
    let since = |at_ns: u64| human(now_ns.saturating_sub(at_ns));
    let up = || container.runtime.as_ref().map_or_else(String::new, |run| since(run.started_ns));
    match describe::phase(container) {
        Phase::Created | Phase::Starting => "Created".to_owned(),
        Phase::Running => {
            let health = container.health.as_ref().map(|health| match health.status {
                HealthStatus::Starting => " (health: starting)".to_owned(),
                status => format!(" ({})", status.word()),
            });
            format!("Up {}{}", up(), health.unwrap_or_default())
        }
        Phase::Paused => format!("Up {} (Paused)", up()),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Exited => ended.map_or_else(
            || "Exited".to_owned(),
            |end| {
                if describe::is_restarting(container) {
                    return format!("Restarting ({}) {} ago", end.code, since(end.at_ns));
                }
                let why = if end.oom_killed { " (OOM killed)" } else { "" };
                format!("Exited ({}) {} ago{why}", end.code, since(end.at_ns))
            },
        ),
    }
}

/// Which containers a listing shows.
pub(crate) struct Choice {
    filters: Filters,
    all: bool,
    before_ns: Option<u64>,
    since_ns: Option<u64>,
    /// Ids that the `ancestor` filter's names stand for.
    ancestors: Vec<String>,
}

impl Choice {
    /// Checks the filters. `find` looks up the containers of `before` and `since`; `ancestors` are image ids.
    pub(crate) fn new(
        filters: Filters,
        all: bool,
        ancestors: Vec<String>,
        find: impl Fn(&str) -> Result<Container, ApiError>,
    ) -> Result<Self, ApiError> {
        for status in filters.values("status").unwrap_or_default() {
            if !["created", "restarting", "running", "removing", "paused", "exited", "dead"].contains(&status.as_str())
            {
                return Err(ApiError::invalid(format!("invalid filter 'status={status}'")));
            }
        }
        for code in filters.values("exited").unwrap_or_default() {
            if code.parse::<i32>().is_err() {
                return Err(ApiError::invalid(format!("invalid filter 'exited={code}': it is an exit code")));
            }
        }
        for port in ["expose", "publish"].into_iter().flat_map(|key| filters.values(key).unwrap_or_default()) {
            ports(port)
                .ok_or_else(|| ApiError::invalid(format!("invalid filter: {port:?} is no port or range of ports")))?;
        }
        for health in filters.values("health").unwrap_or_default() {
            if !["none", "starting", "healthy", "unhealthy"].contains(&health.as_str()) {
                return Err(ApiError::invalid(format!("invalid filter 'health={health}'")));
            }
        }
        filters.flag("is-task")?;
        let time = |key: &str, pick: fn(u64, u64) -> u64| -> Result<Option<u64>, ApiError> {
            let mut chosen: Option<u64> = None;
            for who in filters.values(key).unwrap_or_default() {
                let at = find(who)?.created_ns;
                chosen = Some(chosen.map_or(at, |other| pick(other, at)));
            }
            Ok(chosen)
        };
        let (before_ns, since_ns) = (time("before", u64::min)?, time("since", u64::max)?);
        let all = all || filters.values("status").is_some() || filters.values("exited").is_some();
        Ok(Self { filters, all, before_ns, since_ns, ancestors })
    }

    /// True if the listing shows the container.
    pub(crate) fn shows(&self, container: &Container) -> bool {
        let spec = &container.spec;
        let filters = &self.filters;
        let exited = |code: &str| {
            container.phase == Phase::Exited
                && container.finished.as_ref().is_some_and(|end| Ok(end.code) == code.parse())
        };
        let network = |wanted: &str| match &spec.network {
            NetworkMode::None => wanted == "none",
            NetworkMode::Host => wanted == "host",
            NetworkMode::Container(_) => false,
            NetworkMode::Networks(_) => {
                container.endpoints.contains_key(wanted)
                    || container.links().any(|(_, link)| link.network.as_str().starts_with(wanted))
            }
        };
        let published = |wanted: &str| {
            let (ports, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let range = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
            let asked = spec.publish.iter().filter(|one| one.protocol.to_string() == protocol).map(|one| one.port);
            let running = container.published.iter().filter(|one| one.protocol.to_string() == protocol);
            let mut all = asked.chain(running.flat_map(|one| [one.to_port, one.port]).filter(|port| *port > 0));
            range.is_some_and(|(first, last)| all.any(|port| (first..=last).contains(&port)))
        };
        let volume = |wanted: &str| {
            container.volumes.iter().any(|v| v.name == wanted || v.target == wanted)
                || spec.mounts.iter().any(|mount| mount.target == wanted)
        };
        (self.all || container.is_alive() || container.restarting)
            && self.before_ns.is_none_or(|at| container.created_ns < at)
            && self.since_ns.is_none_or(|at| container.created_ns > at)
            && filters.matches("id", |id| fits(id, container.id.as_str()))
            && filters
                .matches("name", |name| fits(name, &container.name) || fits(name, &format!("/{}", container.name)))
            && filters.matches("status", |status| word(container) == status)
            && filters.matches("exited", exited)
            && filters.matches("network", network)
            && filters.matches("volume", volume)
            && filters.matches("health", |health| {
                container.health.as_ref().map_or("none", |known| known.status.word()) == health
            })
            // the only one that Linux has
            && filters.matches("isolation", |wanted| matches!(wanted, "" | "default"))
            && filters.flag("is-task").ok().flatten() != Some(true)
            && filters.matches("expose", |port| spec.exposed_ports.iter().any(|have| has_port(port, have)))
            && filters.matches("publish", published)
            && filters.match_labels(|key| spec.labels.get(key).map(String::as_str))
            && filters.matches("ancestor", |image| spec.image == image || self.ancestors.contains(&container.image_id))
    }
}

/// Whether a pattern, a regular expression, is found in a text; what is none is taken as it is.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    regex_lite::Regex::new(pattern).map_or_else(|_| text.contains(pattern), |pattern| pattern.is_match(text))
}

/// `80`, `80/udp`, `8000-8010/tcp`: first and last port, and the protocol.
fn ports(text: &str) -> Option<(u16, u16, &str)> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last, protocol))
}

/// Whether ports have one of the wanted ones among them.
fn has_port(wanted: &str, have: &str) -> bool {
    match (ports(wanted), ports(have)) {
        (Some((first, last, protocol)), Some((from, to, other))) => protocol == other && first <= to && from <= last,
        _ => false,
    }
}
