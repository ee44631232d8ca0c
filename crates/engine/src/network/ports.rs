//! Which ports of the host are passed on to whom.

use super::book::Refusal;
use super::wiring::Targets;
use crate::error::EngineError;
use crate::model::{ContainerId, PublishRequest};
use net::firewall::{Protocol, Publication, Published};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// Where ports are taken from that nobody asked for by number: those that the kernel, too, gives to whoever asks for none.
const FIRST: u16 = 32_768;
const LAST: u16 = 60_999;

/// The ports that are passed on.
#[derive(Debug)]
pub(super) struct Taken {
    by_container: BTreeMap<ContainerId, Published>,
    /// How many are at a port: where there is none, no container has to be asked.
    by_port: BTreeMap<(Protocol, u16), u16>,
    /// Where the search for any port goes on.
    next: u16,
}

impl Default for Taken {
    fn default() -> Self {
        Self { by_container: BTreeMap::new(), by_port: BTreeMap::new(), next: FIRST }
    }
}

impl Taken {
    /// Finds a port of the host for each request, all or none, and takes them; where a container is reached at its own
    /// address there is none to find.
    pub(super) fn take(
        &mut self,
        container: &ContainerId,
        wanted: &[PublishRequest],
        to: &Targets,
        busy: &BTreeSet<Publication>,
    ) -> Result<Published, Refusal> {
        let mut taken = Published::new();
        for request in wanted {
            match self.find(request, to, busy) {
                Ok(found) => {
                    self.enter(container, found.iter().copied());
                    taken.extend(found);
                }
                Err(refusal) => {
                    self.release(container, &taken);
                    return Err(refusal);
                }
            }
        }
        Ok(taken)
    }

    /// As [`Self::take`] for a container that has `held`, and whose ways out are others now: it keeps its ports of the host
    /// where it has any. When one can't be had, it has what it had.
    pub(super) fn retake(
        &mut self,
        container: &ContainerId,
        wanted: &[PublishRequest],
        held: &Published,
        (to, busy): (&Targets, &BTreeSet<Publication>),
    ) -> Result<Published, Refusal> {
        self.release(container, held);
        let kept = kept(wanted, held);
        let mut taken = Published::new();
        for (request, kept) in wanted.iter().zip(kept) {
            let found = match kept {
                Some(port) => {
                    let mut found = at(request, port, to);
                    found.extend(direct(request, &to.direct));
                    Ok(found)
                }
                None => self.find(request, to, busy),
            };
            match found {
                Ok(found) => {
                    self.enter(container, found.iter().copied());
                    taken.extend(found);
                }
                Err(refusal) => {
                    self.release(container, &taken);
                    self.adopt(container, held);
                    return Err(refusal);
                }
            }
        }
        Ok(taken)
    }

    fn find(
        &mut self,
        request: &PublishRequest,
        to: &Targets,
        busy: &BTreeSet<Publication>,
    ) -> Result<Vec<Publication>, Refusal> {
        let free = |port: u16| {
            let found = at(request, port, to);
            found.iter().all(|one| !busy.contains(one) && !self.is_taken(one)).then_some(found)
        };
        let found = match request.host_ports {
            Some((first, last)) => (first..=last).find_map(free),
            None => {
                let start = self.next;
                (start..=LAST).chain(FIRST..start).find_map(free)
            }
        };
        let Some(mut found) = found else {
            let host = request.host.unwrap_or(IpAddr::from([0, 0, 0, 0]));
            let what = match request.host_ports {
                Some((first, last)) if first == last => format!("{}", std::net::SocketAddr::new(host, first)),
                Some((first, last)) => format!("{host}:{first}-{last}"),
                None => format!("{host}:{FIRST}-{LAST}"),
            };
            return Err(Refusal::Taken(EngineError::new(
                crate::error::ErrorClass::Internal,
                format!("Bind for {what} failed: port is already allocated"),
            )));
        };
        let ours = found.first().map(|one| one.port);
        found.extend(direct(request, &to.direct));
        if found.is_empty() {
            let host = request.host.map_or_else(|| "any address".to_owned(), |host| host.to_string());
            return Err(Refusal::Wrong(EngineError::invalid(format!(
                "cannot publish port {}/{} at {host}: the container has no address that it could be passed on to",
                request.port, request.protocol
            ))));
        }
        if request.host_ports.is_none()
            && let Some(port) = ours
        {
            self.next = if port == LAST { FIRST } else { port + 1 };
        }
        Ok(found)
    }

    fn is_taken(&self, wanted: &Publication) -> bool {
        let (protocol, port) = (wanted.protocol, wanted.port);
        let mut others = self.by_container.values().flat_map(|published| published.at(protocol, port));
        self.by_port.contains_key(&(protocol, port)) && others.any(|other| other.conflicts_with(wanted))
    }

    pub(super) fn adopt(&mut self, container: &ContainerId, published: &Published) {
        self.enter(container, published.iter());
    }

    fn enter(&mut self, container: &ContainerId, published: impl IntoIterator<Item = Publication>) {
        let mut published = published.into_iter().peekable();
        if published.peek().is_none() {
            return;
        }
        let held = self.by_container.entry(container.clone()).or_default();
        for one in published {
            if held.insert(one) {
                *self.by_port.entry((one.protocol, one.port)).or_default() += 1;
            }
        }
    }

    pub(super) fn release(&mut self, container: &ContainerId, published: &Published) {
        let Some(held) = self.by_container.get_mut(container) else { return };
        for one in published.iter().filter(|one| held.remove(one)) {
            let key = (one.protocol, one.port);
            match self.by_port.get_mut(&key) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(self.by_port.remove(&key)),
            }
        }
        if held.is_empty() {
            self.by_container.remove(container);
        }
    }
}

/// The port of the host that each request has of those that are held. Who named a port has it, and not who takes any.
fn kept(wanted: &[PublishRequest], held: &Published) -> Vec<Option<u16>> {
    let mut left: Vec<Publication> = held.iter().filter(|one| !one.is_direct()).collect();
    let mut kept = vec![None; wanted.len()];
    let mut choosy: Vec<(usize, &PublishRequest)> = wanted.iter().enumerate().collect();
    choosy.sort_by_key(|(_, request)| request.host_ports.map_or(u16::MAX, |(first, last)| last.saturating_sub(first)));
    for (at, request) in choosy {
        kept[at] = left.iter().find(|one| is_of(one, request)).map(|one| one.port);
        left.retain(|one| Some(one.port) != kept[at] || !is_of(one, request));
    }
    kept
}

/// Whether this is what a request may have become.
fn is_of(one: &Publication, request: &PublishRequest) -> bool {
    let any = |host: Option<IpAddr>| host.filter(|host| !host.is_unspecified());
    (one.protocol, one.to_port) == (request.protocol, request.port)
        && any(one.host) == any(request.host)
        && request.host_ports.is_none_or(|(first, last)| (first..=last).contains(&one.port))
}

/// What has to be passed on for a request at one port of the host. A host's IPv6 addresses answer for a container that
/// has IPv4 only, too.
fn at(request: &PublishRequest, port: u16, to: &Targets) -> Vec<Publication> {
    let v4 = to.passed.iter().find(|address| address.is_ipv4());
    let v6 = to.passed.iter().find(|address| address.is_ipv6());
    let has_v6 = v6.is_some() || to.direct.iter().any(IpAddr::is_ipv6);
    let one =
        |host, to: &IpAddr| Publication { host, protocol: request.protocol, port, to: *to, to_port: request.port };
    match request.host {
        None => {
            let first = v4.map(|to| one(None, to));
            let any6 = Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            let second = v6.map(|to| one(None, to)).or_else(|| v4.filter(|_| !has_v6).map(|to| one(any6, to)));
            first.into_iter().chain(second).collect()
        }
        Some(host) if host.is_ipv4() => v4.map(|to| one(Some(host), to)).into_iter().collect(),
        Some(host) => v6.or(v4.filter(|_| !has_v6)).map(|to| one(Some(host), to)).into_iter().collect(),
    }
}

/// What is opened for a request at a container's own addresses. The port of the host does not matter, as with Docker's
/// daemon; an address of the host says which version of IP is meant.
fn direct(request: &PublishRequest, addresses: &[IpAddr]) -> Vec<Publication> {
    let meant = |address: &&IpAddr| request.host.is_none_or(|host| host.is_ipv6() == address.is_ipv6());
    let one =
        |to: &IpAddr| Publication { host: None, protocol: request.protocol, port: 0, to: *to, to_port: request.port };
    addresses.iter().filter(meant).map(one).collect()
}

/// The requests of a container: those made by hand, and one for each exposed port that has none where all are wanted.
pub(crate) fn requests(published: &[PublishRequest], all: bool, exposed: &[String]) -> Vec<PublishRequest> {
    let mut wanted = published.to_vec();
    if all {
        for (port, protocol) in exposed.iter().flat_map(|text| exposed_ports(text)) {
            if !published.iter().any(|one| one.port == port && one.protocol == protocol) {
                wanted.push(PublishRequest { port, protocol, host: None, host_ports: None });
            }
        }
    }
    wanted
}

/// The ports of `80/tcp`, `53/udp` or `8000-8010`; none for what is no port.
pub(crate) fn exposed_ports(text: &str) -> Vec<(u16, Protocol)> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (first.parse::<u16>(), last.parse::<u16>(), protocol.parse::<Protocol>()) {
        (Ok(first), Ok(last), Ok(protocol)) => (first..=last).map(|port| (port, protocol)).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 17, 0, 2));

    fn to(passed: &[IpAddr]) -> Targets {
        Targets { passed: passed.to_vec(), direct: Vec::new() }
    }

    fn request(host: Option<&str>, host_ports: Option<(u16, u16)>) -> PublishRequest {
        PublishRequest { port: 80, protocol: Protocol::Tcp, host: host.map(|host| host.parse().unwrap()), host_ports }
    }

    #[test]
    fn a_port_is_taken_once_at_each_address() {
        let mut taken = Taken::default();
        let (a, b) = (ContainerId::known("a"), ContainerId::known("b"));
        let none = BTreeSet::new();
        let first = taken.take(&a, &[request(None, Some((8080, 8080)))], &to(&[V4]), &none).unwrap();
        let shown: Vec<String> = first.iter().map(|one| one.host_address().to_string()).collect();
        assert_eq!(shown, ["0.0.0.0", "::"]);
        let local = request(Some("127.0.0.1"), Some((8080, 8080)));
        let Err(Refusal::Taken(error)) = taken.take(&b, std::slice::from_ref(&local), &to(&[V4]), &none) else {
            panic!()
        };
        assert_eq!(error.to_string(), "Bind for 127.0.0.1:8080 failed: port is already allocated");
        taken.release(&a, &first);
        assert_eq!(taken.take(&b, &[local], &to(&[V4]), &none).unwrap().len(), 1);
        let other = request(Some("127.0.0.2"), Some((8080, 8080)));
        assert!(taken.take(&a, &[other], &to(&[V4]), &none).is_ok(), "another address");
    }

    #[test]
    fn any_port_is_the_next_free_one() {
        let mut taken = Taken::default();
        let (a, none) = (ContainerId::known("a"), BTreeSet::new());
        let any = [request(None, None), request(None, None)];
        let ports: Vec<u16> = taken.take(&a, &any, &to(&[V4]), &none).unwrap().iter().map(|one| one.port).collect();
        assert_eq!(ports, [FIRST, FIRST + 1, FIRST, FIRST + 1]);
        let busy = at(&any[0], FIRST + 2, &to(&[V4])).into_iter().take(1).collect();
        assert_eq!(taken.take(&a, &any[..1], &to(&[V4]), &busy).unwrap().iter().next().unwrap().port, FIRST + 3);
        let range = [request(None, Some((FIRST, FIRST + 2)))];
        assert_eq!(taken.take(&a, &range, &to(&[V4]), &none).unwrap().iter().next().unwrap().port, FIRST + 2);
        assert!(matches!(taken.take(&a, &range, &to(&[V4]), &none), Err(Refusal::Taken(_))));
        let six = request(Some("127.0.0.1"), None);
        assert!(matches!(taken.take(&a, &[six], &to(&["fd00::2".parse().unwrap()]), &none), Err(Refusal::Wrong(_))));
    }

    #[test]
    fn a_routed_container_is_opened_and_takes_no_port() {
        let mut taken = Taken::default();
        let (a, b, none) = (ContainerId::known("a"), ContainerId::known("b"), BTreeSet::new());
        let six: IpAddr = "fd00::2".parse().unwrap();
        let mixed = Targets { passed: vec![V4], direct: vec![six] };
        let wanted = [request(None, Some((8080, 8080)))];
        let found = taken.take(&a, &wanted, &mixed, &none).unwrap();
        let shown: Vec<(u16, IpAddr)> = found.iter().map(|one| (one.port, one.to)).collect();
        assert_eq!(shown, [(8080, V4), (0, six)]);
        let routed = Targets { passed: Vec::new(), direct: vec![V4, six] };
        let found = taken.take(&b, &wanted, &routed, &none).unwrap();
        assert_eq!(found.iter().map(|one| one.port).collect::<Vec<_>>(), [0, 0], "the same port of the host");
        let four = taken.take(&b, &[request(Some("127.0.0.1"), None)], &routed, &none).unwrap();
        assert_eq!(four.iter().map(|one| one.to).collect::<Vec<_>>(), [V4]);
    }

    #[test]
    fn ports_stay_when_the_way_out_is_another() {
        let mut taken = Taken::default();
        let (a, b, none) = (ContainerId::known("a"), ContainerId::known("b"), BTreeSet::new());
        let (other, six): (IpAddr, IpAddr) = ("172.18.0.9".parse().unwrap(), "fd00::2".parse().unwrap());
        let wanted = [request(None, Some((8080, 8080))), request(None, None), request(None, None)];
        let held = taken.take(&a, &wanted, &to(&[V4]), &none).unwrap();
        let moved = taken.retake(&a, &wanted, &held, (&to(&[other]), &none)).unwrap();
        let ports = |list: &Published| list.iter().map(|one| one.port).collect::<Vec<_>>();
        assert_eq!(ports(&moved), ports(&held));
        assert!(moved.iter().all(|one| one.to == other));
        // no way out, and one again
        let gone = taken.retake(&a, &wanted, &moved, (&Targets::default(), &none));
        assert!(gone.is_ok_and(|gone| gone.is_empty()));
        let both = taken.retake(&a, &wanted, &Published::new(), (&to(&[other, six]), &none)).unwrap();
        assert_eq!((both.len(), both.at(Protocol::Tcp, 8080).filter(|one| one.to == six).count()), (6, 1));
        // the port that one asks for by number is not what another takes for any
        taken.release(&a, &both);
        let mixed = [request(None, None), request(None, Some((8080, 8080)))];
        let held = taken.take(&a, &mixed, &to(&[V4]), &none).unwrap();
        let moved = taken.retake(&a, &mixed, &held, (&to(&[other]), &none)).unwrap();
        assert_eq!(ports(&moved), ports(&held));
        // what somebody else has by then is refused, and nothing is lost
        let held = taken.take(&b, &[request(Some("127.0.0.1"), None)], &to(&[V4]), &none).unwrap();
        let refused = taken.retake(&b, &wanted[..1], &held, (&to(&[V4]), &none));
        assert!(matches!(refused, Err(Refusal::Taken(_))) && taken.is_taken(&held.iter().next().unwrap()));
    }

    #[test]
    fn exposed_ports_are_published_where_all_are() {
        let exposed = ["80/tcp".to_owned(), "7000-7001/udp".to_owned(), "x".to_owned()];
        let wanted = requests(&[request(None, None)], true, &exposed);
        let shown: Vec<(u16, Protocol)> = wanted.iter().map(|one| (one.port, one.protocol)).collect();
        assert_eq!(shown, [(80, Protocol::Tcp), (7000, Protocol::Udp), (7001, Protocol::Udp)]);
        assert_eq!(requests(&[], false, &exposed), []);
    }
}
