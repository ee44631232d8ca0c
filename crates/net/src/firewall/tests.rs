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
    rules.networks.insert(
        "br1".to_owned(),
        NetworkRules { internal: true, v4: Gateway::NatUnprotected, v6: Gateway::Routed, ..network.clone() },
    );
    let leave = NetworkRules { leave_v4: "10.9.9.9".parse().ok(), leave_v6: "fd99::9".parse().ok(), ..network.clone() };
    let trusted = ["eth0", "eth1"].map(str::to_owned).into();
    rules.networks.insert("br2".to_owned(), NetworkRules { v6: Gateway::Nat, trusted, ..leave });
    for host in [None, Some("127.0.0.1"), Some("10.9.9.9"), Some("0.0.0.0"), Some("::1")] {
        rules.published.insert(publication(host, 80, "10.0.0.2"));
        rules.published.insert(publication(host, 81, "fd00::2"));
    }
    rules.published.insert(publication(None, 0, "10.0.0.2"));
    rules.published.insert(publication(None, 0, "fd00::2"));
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
    assert_eq!((count("bridges"), count("internal"), count("closed4"), count("masq4")), (3, 1, 2, 1));
    assert_eq!((count("snat4"), count("snat6")), (1, 1));
    assert_eq!((count("closed6"), count("routed4"), count("routed6")), (3, 0, 1));
    assert_eq!((count("direct4"), count("direct6")), (1, 1));
    assert_eq!((count("any4"), count("at4"), count("loop4"), count("any6"), count("at6")), (1, 2, 1, 1, 1));
    assert_eq!((count("trust4"), count("trust6")), (2, 2), "one port of the container, from two links");
    assert!(SETS.is_sorted_by_key(|set| set.name));
}

#[test]
fn only_what_changed_is_sent() {
    let mut rules = Rules::default();
    rules.published.insert(publication(None, 80, "10.0.0.2"));
    let before = elements(&rules);
    let none = minus(&before, &before);
    assert!(difference(TABLE, &none, &none).is_empty());
    rules.published = Published::new();
    rules.published.insert(publication(None, 80, "10.0.0.3"));
    let after = elements(&rules);
    let (batch, last) = difference(TABLE, &minus(&before, &after), &minus(&after, &before)).finish();
    // Begin, delete, add, commit, end.
    assert_eq!((batch.len(), last), (5, 4));
    assert_eq!((batch.name(2), batch.name(3)), ("delete elements", "add elements"));
}

#[test]
fn a_few_ports_more_or_less_are_told_without_the_others() {
    let set = |ports: &[(u16, &str)]| -> Rules {
        let published = ports.iter().map(|(port, to)| publication(None, *port, to)).collect();
        Rules { published, ..Rules::default() }
    };
    let (old, new) = (set(&[(80, "10.0.0.2"), (81, "10.0.0.2")]), set(&[(80, "10.0.0.3"), (82, "10.0.0.2")]));
    let (gone, come) = few(&old, &new).unwrap();
    assert_eq!((&gone, &come), (&minus(&elements(&old), &elements(&new)), &minus(&elements(&new), &elements(&old))));
    assert_eq!((gone["any4"].len(), come["any4"].len()), (2, 2));
    // Two for one port: who counts can't be told from the change alone.
    let double = set(&[(80, "10.0.0.2"), (80, "10.0.0.3")]);
    assert!(few(&double, &set(&[(80, "10.0.0.3")])).is_none());
    assert!(few(&set(&[(80, "10.0.0.3")]), &double).is_none());
    // Behind two ports of the host is one of the container, which a trusted link reaches as long as there is either.
    let trusting = NetworkRules {
        subnets: vec!["10.0.0.0/24".parse().unwrap()],
        trusted: ["eth0".to_owned()].into(),
        ..NetworkRules::default()
    };
    let networks = || [("br0".to_owned(), trusting.clone())].into();
    let trusting = |ports: &[(u16, &str)]| Rules { networks: networks(), ..set(ports) };
    let both = trusting(&[(80, "10.0.0.2"), (81, "10.0.0.2")]);
    let (gone, come) = few(&both, &trusting(&[(81, "10.0.0.2"), (82, "10.0.0.3")])).unwrap();
    assert_eq!((gone.get("trust4"), come["trust4"].len(), gone["any4"].len()), (None, 1, 1));
    let (gone, come) = few(&both, &trusting(&[])).unwrap();
    assert_eq!((gone["trust4"].len(), gone["any4"].len(), come.len()), (1, 2, 0));
    let mut other = old.clone();
    other.networks.insert("br0".to_owned(), NetworkRules::default());
    assert!(few(&old, &other).is_none());
}

#[test]
fn publications_that_would_meet_are_told() {
    let (all, one) = (publication(None, 80, "10.0.0.2"), publication(Some("10.9.9.9"), 80, "10.0.0.3"));
    assert!(all.conflicts_with(&one) && one.conflicts_with(&all) && one.conflicts_with(&one));
    assert!(!one.conflicts_with(&publication(Some("10.9.9.8"), 80, "10.0.0.3")));
    assert!(!all.conflicts_with(&publication(None, 81, "10.0.0.2")));
    assert!(!all.conflicts_with(&publication(None, 80, "fd00::2")));
    assert!(publication(Some("0.0.0.0"), 80, "10.0.0.2").conflicts_with(&one));
    let carried = publication(Some("::"), 80, "10.0.0.2");
    assert!(!carried.conflicts_with(&all) && !carried.is_redirected() && carried.conflicts_with(&carried));
    assert!(port_elements(&[carried].into_iter().collect()).is_empty(), "no rule can do that");
    let both = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    assert_eq!(Publication::for_each(None, Protocol::Udp, 53, &both, 53).len(), 2);
    let four = Publication::for_each(Some("0.0.0.0".parse().unwrap()), Protocol::Udp, 53, &both, 53);
    assert_eq!(four.len(), 1);
    assert_eq!("SCTP".parse(), Ok(Protocol::Sctp));
    assert!("icmp".parse::<Protocol>().is_err());
}
