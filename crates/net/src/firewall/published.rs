//! Published ports as runs: a range of a thousand ports is one entry, in memory, in a record and in a message.
//!
//! ```text
//! {"host":null,"protocol":"tcp","port":8000,"to":"10.0.0.2","to_port":80,"count":1000}
//! ```

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Protocol, Publication};

/// A set of published ports; they come in the order of their addresses, the host's first.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Published {
    /// In order; no two of a lane meet, or follow each other without a gap.
    runs: Vec<Run>,
}

/// Ports that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    lane: Lane,
    /// The container's first and last port.
    first: u16,
    last: u16,
}

/// What the ports of a run have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Lane {
    host: Option<IpAddr>,
    to: IpAddr,
    protocol: Protocol,
    /// The host's port less the container's; none where the host has none ([`Publication::is_direct`]).
    shift: Option<i32>,
}

impl Lane {
    fn of(one: &Publication) -> Self {
        let shift = (!one.is_direct()).then(|| i32::from(one.port) - i32::from(one.to_port));
        Self { host: one.host, to: one.to, protocol: one.protocol, shift }
    }

    fn at(self, to_port: u16) -> Publication {
        let Self { host, to, protocol, shift } = self;
        let port = shift.map_or(0, |shift| u16::try_from(i32::from(to_port) + shift).unwrap_or_default());
        Publication { host, protocol, port, to, to_port }
    }
}

impl Run {
    /// That many from this one on, or fewer where the ports of either side end.
    fn new(one: &Publication, count: u32) -> Self {
        let left = u16::MAX - one.port.max(one.to_port);
        let more = u16::try_from(count.saturating_sub(1)).unwrap_or(u16::MAX).min(left);
        Self { lane: Lane::of(one), first: one.to_port, last: one.to_port + more }
    }

    fn ports(self) -> impl DoubleEndedIterator<Item = Publication> {
        (self.first..=self.last).map(move |to_port| self.lane.at(to_port))
    }

    /// Whether it holds the port, or would without a gap.
    fn touches(&self, lane: Lane, to_port: u16) -> bool {
        self.lane == lane && self.first.saturating_sub(1) <= to_port && to_port <= self.last.saturating_add(1)
    }

    /// Whether one port of each would be one element of the packet filter.
    fn meets(&self, other: &Self) -> bool {
        let (one, two) = (self.lane.at(self.first), other.lane.at(other.first));
        // alike but for the ports, of which a place knows one
        let (from, to) = (one.place_port(), two.place_port());
        let (from_last, to_last) = (from + (self.last - self.first), to + (other.last - other.first));
        self.lane != other.lane
            && one.place().is_some_and(|place| two.place() == Some(place))
            && from <= to_last
            && to <= from_last
    }
}

impl Published {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Of runs in any order, which may meet.
    fn joined(mut runs: Vec<Run>) -> Self {
        runs.sort_unstable();
        runs.dedup_by(|next, run| {
            let joins = run.touches(next.lane, next.first);
            if joins {
                run.last = run.last.max(next.last);
            }
            joins
        });
        runs.shrink_to_fit();
        Self { runs }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.iter().map(|run| usize::from(run.last - run.first) + 1).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Publication> {
        self.runs.iter().flat_map(|run| run.ports())
    }

    /// Those with this protocol at this port of the host.
    pub fn at(&self, protocol: Protocol, port: u16) -> impl Iterator<Item = Publication> {
        self.runs.iter().filter(move |run| run.lane.protocol == protocol).filter_map(move |run| {
            let to_port = u16::try_from(i32::from(port) - run.lane.shift?).ok()?;
            (run.first..=run.last).contains(&to_port).then(|| run.lane.at(to_port))
        })
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn contains(&self, one: &Publication) -> bool {
        self.runs.get(self.place_of(one)).is_some_and(|run| run.lane == Lane::of(one) && run.first <= one.to_port)
    }

    /// The first run that does not end before this port.
    fn place_of(&self, one: &Publication) -> usize {
        let lane = Lane::of(one);
        self.runs.partition_point(|run| (run.lane, run.last) < (lane, one.to_port))
    }

    /// Adds one; false if it is there.
    pub fn insert(&mut self, one: Publication) -> bool {
        if self.contains(&one) {
            return false;
        }
        let (lane, at) = (Lane::of(&one), self.place_of(&one));
        let mut run = Run::new(&one, 1);
        // of the neighbours, those that it joins are taken in
        let before = at.checked_sub(1).filter(|before| self.runs[*before].touches(lane, one.to_port));
        let after = self.runs.get(at).filter(|after| after.touches(lane, one.to_port));
        if let Some(after) = after {
            run.last = after.last;
        }
        if let Some(before) = before {
            run.first = self.runs[before].first;
        }
        let replaced = before.unwrap_or(at)..at + usize::from(after.is_some());
        self.runs.splice(replaced, [run]);
        true
    }

    /// Takes one out; false if it is not there.
    pub fn remove(&mut self, one: &Publication) -> bool {
        if !self.contains(one) {
            return false;
        }
        let at = self.place_of(one);
        let run = self.runs[at];
        let below = (run.first < one.to_port).then(|| Run { last: one.to_port - 1, ..run });
        let above = (one.to_port < run.last).then(|| Run { first: one.to_port + 1, ..run });
        self.runs.splice(at..=at, below.into_iter().chain(above));
        true
    }

    /// Those that are not among others.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        let changed = self.runs.iter().filter(|run| others.runs.binary_search(run).is_err());
        changed.flat_map(|run| run.ports()).filter(|one| !others.contains(one)).collect()
    }

    /// The containers' ports behind them, each once.
    pub(super) fn at_containers(&self) -> Self {
        let lane = |lane: Lane| Lane { host: None, shift: None, ..lane };
        Self::joined(self.runs.iter().map(|run| Run { lane: lane(run.lane), ..*run }).collect())
    }

    /// Whether one of them would be the same element of the packet filter as another one of `all`.
    pub(super) fn meet(&self, all: &Self) -> bool {
        self.runs.iter().any(|run| all.runs.iter().any(|other| run.meets(other)))
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.runs.fmt(f)
    }
}

impl Extend<Publication> for Published {
    fn extend<T: IntoIterator<Item = Publication>>(&mut self, others: T) {
        for one in others {
            self.insert(one);
        }
    }
}

impl FromIterator<Publication> for Published {
    fn from_iter<T: IntoIterator<Item = Publication>>(all: T) -> Self {
        Self::joined(all.into_iter().map(|one| Run::new(&one, 1)).collect())
    }
}

/// A run as it is written.
#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    first: Publication,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    count: u32,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_one(count: &u32) -> bool {
    *count == 1
}

impl Serialize for Published {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entry =
            |run: &Run| Entry { first: run.lane.at(run.first), count: u32::from(run.last) - u32::from(run.first) + 1 };
        serializer.collect_seq(self.runs.iter().map(entry))
    }
}

impl<'de> Deserialize<'de> for Published {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = Vec::<Entry>::deserialize(deserializer)?;
        let some = entries.iter().filter(|entry| entry.count > 0);
        Ok(Self::joined(some.map(|entry| Run::new(&entry.first, entry.count)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn any_publication() -> impl Strategy<Value = Publication> {
        let port = prop_oneof![Just(0_u16), 1..8_u16, 65_530..=65_535_u16];
        let to_port = prop_oneof![1..8_u16, 65_533..=65_535_u16];
        (any::<bool>(), any::<bool>(), any::<bool>(), port, to_port).prop_map(|(host, udp, v6, port, to_port)| {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let to = if v6 { "fd00::2" } else { "10.0.0.2" }.parse().unwrap();
            Publication { host: host.then(|| "127.0.0.1".parse().unwrap()), protocol, port, to, to_port }
        })
    }

    fn some() -> impl Strategy<Value = BTreeSet<Publication>> {
        proptest::collection::btree_set(any_publication(), 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read(all in some()) {
            let published: Published = all.iter().copied().collect();
            let json = serde_json::to_string(&published).unwrap();
            prop_assert_eq!(serde_json::from_str::<Published>(&json).unwrap(), published);
        }

        #[test]
        fn it_is_a_set(first in some(), then in some(), gone in some()) {
            let mut set = first.clone();
            let mut published: Published = first.iter().copied().collect();
            for one in &then {
                prop_assert_eq!(published.insert(*one), set.insert(*one));
            }
            for one in &gone {
                prop_assert_eq!(published.remove(one), set.remove(one));
            }
            prop_assert_eq!(&published, &set.iter().copied().collect::<Published>(), "the same in whatever order");
            prop_assert_eq!(published.iter().collect::<BTreeSet<_>>(), set.clone());
            prop_assert_eq!((published.len(), published.is_empty()), (set.len(), set.is_empty()));
            let before: Published = first.iter().copied().collect();
            let lost: BTreeSet<Publication> = before.without(&published).iter().collect();
            prop_assert_eq!(lost, first.difference(&set).copied().collect::<BTreeSet<_>>());
            for port in [0, 1, 5, 65_535] {
                let at: BTreeSet<Publication> = published.at(Protocol::Tcp, port).collect();
                let meant = |one: &&Publication| !one.is_direct() && (one.protocol, one.port) == (Protocol::Tcp, port);
                prop_assert_eq!(at, set.iter().filter(meant).copied().collect::<BTreeSet<_>>());
            }
        }

        #[test]
        fn those_that_meet_are_known(all in some(), some in some()) {
            let some: BTreeSet<Publication> = all.intersection(&some).copied().collect();
            let key = |one: &Publication| one.place().map(|place| (place, one.place_port()));
            let same = |one: &Publication, other: &Publication| one != other && key(one).is_some() && key(one) == key(other);
            let meet = some.iter().any(|one| all.iter().any(|other| same(one, other)));
            let published = |set: &BTreeSet<Publication>| set.iter().copied().collect::<Published>();
            prop_assert_eq!(published(&some).meet(&published(&all)), meet);
        }
    }

    #[test]
    fn a_range_is_one_entry() {
        let to = "10.0.0.2".parse().unwrap();
        let one = |port: u16| Publication { host: None, protocol: Protocol::Tcp, port, to, to_port: port };
        let published: Published = (20_000..20_500).map(one).collect();
        assert_eq!(published.runs.len(), 1);
        let json = serde_json::to_string(&published).unwrap();
        assert!(json.contains("\"count\":500") && json.len() < 120, "{json}");
        let plain = r#"[{"host":null,"protocol":"tcp","port":1,"to":"10.0.0.2","to_port":2}]"#;
        assert_eq!(serde_json::from_str::<Published>(plain).unwrap().len(), 1);
        let long = plain.replace("}]", ",\"count\":65535}]");
        assert_eq!(serde_json::from_str::<Published>(&long).unwrap().len(), 65_534, "ports end");
        let none = plain.replace("}]", ",\"count\":0}]");
        assert!(serde_json::from_str::<Published>(&none).unwrap().is_empty());
        let all: Published = (0..=u16::MAX).map(|to_port| Publication { to_port, ..one(0) }).collect();
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Published>(&json).unwrap(), all);
    }
}
