use super::rules::elements;
use super::*;

fn publication(host: Option<&str>, port: u16, to: &str) -> Publication {
    Publication {
        host: host.map(|host| host.parse().unwrap()),
        protocol: Protocol::Tcp,
        port,
        to: to.parse().unwrap(),
        to_port: 80,
    }
}

#[test]
fn every_element_has_a_set_and_the_length_of_its_key() {
    let mut rules = Rules::default();
    let network = NetworkRules {
        subnets: vec!["10.0.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()],
        masquerade: true,
        separate: true,
        ..NetworkRules::default()
    };
    rules.networks.insert("br0".to_owned(), network.clone());
    rules.networks.insert("br1".to_owned(), NetworkRules { internal: true, open: true, ..network });
    for host in [None, Some("127.0.0.1"), Some("10.9.9.9"), Some("0.0.0.0"), Some("::1")] {
        rules.published.insert(publication(host, 80, "10.0.0.2"));
        rules.published.insert(publication(host, 81, "fd00::2"));
    }
    let all = elements(&rules);
    let length = |fields: &[wire::Field]| {
        let lengths = fields.iter().map(|field| match field {
            wire::Field::V6 | wire::Field::Name => 16,
            _ => 4,
        });
        lengths.sum::<usize>()
    };
    for (name, elements) in &all {
        let set = SETS.iter().find(|set| set.name == *name).unwrap();
        for element in elements {
            assert_eq!(element.key.len(), length(set.key), "{name}");
            assert_eq!(element.data.len(), length(set.data), "{name}");
            assert_eq!(element.end.len(), if set.ranges { element.key.len() } else { 0 }, "{name}");
        }
    }
    let count = |set: &str| all.get(set).map_or(0, BTreeSet::len);
    assert_eq!((count("bridges"), count("internal"), count("closed"), count("masq4")), (2, 1, 1, 1));
    assert_eq!((count("any4"), count("at4"), count("loop4"), count("any6"), count("at6")), (1, 2, 1, 1, 1));
    assert!(SETS.is_sorted_by_key(|set| set.name));
}

#[test]
fn only_what_changed_is_sent() {
    let mut rules = Rules::default();
    rules.published.insert(publication(None, 80, "10.0.0.2"));
    let before = elements(&rules);
    assert!(difference(TABLE, &before, &before).is_empty());
    rules.published.clear();
    rules.published.insert(publication(None, 80, "10.0.0.3"));
    let (batch, last) = difference(TABLE, &before, &elements(&rules)).finish();
    // Begin, delete, add, commit, end.
    assert_eq!((batch.len(), last), (5, 4));
    assert_eq!((batch.name(2), batch.name(3)), ("delete elements", "add elements"));
}

#[test]
fn publications_that_would_meet_are_told() {
    let (all, one) = (publication(None, 80, "10.0.0.2"), publication(Some("10.9.9.9"), 80, "10.0.0.3"));
    assert!(all.conflicts_with(&one) && one.conflicts_with(&all) && one.conflicts_with(&one));
    assert!(!one.conflicts_with(&publication(Some("10.9.9.8"), 80, "10.0.0.3")));
    assert!(!all.conflicts_with(&publication(None, 81, "10.0.0.2")));
    assert!(!all.conflicts_with(&publication(None, 80, "fd00::2")));
    assert!(publication(Some("0.0.0.0"), 80, "10.0.0.2").conflicts_with(&one));
    let both = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    assert_eq!(Publication::for_each(None, Protocol::Udp, 53, &both, 53).len(), 2);
    let four = Publication::for_each(Some("0.0.0.0".parse().unwrap()), Protocol::Udp, 53, &both, 53);
    assert_eq!(four.len(), 1);
    assert_eq!("SCTP".parse(), Ok(Protocol::Sctp));
    assert!("icmp".parse::<Protocol>().is_err());
}
