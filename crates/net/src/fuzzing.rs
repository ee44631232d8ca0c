//! Entries for the fuzz targets and their replay.

use crate::dns::{Names, NetworkNames, Query, Transport, View, Zone};
use sys::netlink::{Attributes, Messages};

/// A question of a container: whatever it is, an answer fits the transport and repeats the question.
pub fn dns(bytes: &[u8]) {
    let Ok(query) = Query::parse(bytes) else { return };
    let mut zone = Zone::default();
    let addresses = (0..200).map(|last| [10, 0, 0, last].into()).collect();
    let network = NetworkNames { subnets: "10.0.0.0/24".parse().into_iter().collect(), ..NetworkNames::default() };
    zone.set_network("n", network);
    zone.set_container("n", "1", Names { names: vec![query.name.clone()], addresses });
    let view = View { networks: vec!["n".to_owned()], ..View::default() };
    if let Some(answer) = zone.answer(&view, &query, Transport::Udp) {
        assert!(answer.len() <= usize::from(query.udp_size), "longer than the client takes");
        assert!(query.is_answered_by(&answer), "not an answer to the question");
    }
    assert!(query.name.len() <= 255, "longer than a name");
}

/// What the kernel might say.
pub fn netlink(bytes: &[u8]) {
    for message in Messages(bytes) {
        for (_, value) in message.attributes(4) {
            assert!(Attributes(value).count() <= value.len(), "an attribute without end");
        }
        let _ = message.acknowledged();
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::{Target, disturb, replay};

    const TARGETS: &[Target] = &[("net_dns", super::dns), ("net_netlink", super::netlink)];

    #[test]
    fn seeds_replay() {
        replay(TARGETS);
    }

    #[test]
    fn noise_and_damaged_seeds_do_no_harm() {
        disturb(TARGETS);
    }
}
