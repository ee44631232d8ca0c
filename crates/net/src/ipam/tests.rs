use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn subnet(text: &str) -> Subnet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pools() -> Vec<Pool> {
    default_pools([1, 2, 3, 4, 5])
}

fn asked(text: &str) -> SubnetRequest {
    SubnetRequest { subnet: Some(subnet(text)), ..SubnetRequest::default() }
}

fn network(request: SubnetRequest) -> Result<State, IpamError> {
    add_network(State::default(), "n", &[request], &pools(), &[])
}

#[test]
fn networks_get_dockers_subnets_in_dockers_order() {
    let mut state = State::default();
    for name in ["a", "b"] {
        state = add_network(state, name, &[SubnetRequest::default()], &pools(), &[subnet("172.18.4.0/24")]).unwrap();
    }
    assert_eq!(state.networks["a"][0].subnet, subnet("172.17.0.0/16"));
    assert_eq!(state.networks["b"][0].subnet, subnet("172.19.0.0/16"), "the host's route is skipped");
    assert_eq!(state.networks["b"][0].gateway, ip("172.19.0.1"));
    let all: Vec<Subnet> = pools().iter().filter(|pool| !pool.base.is_v6()).flat_map(Pool::parts).collect();
    assert_eq!((all.len(), all[14], all[15]), (31, subnet("172.31.0.0/16"), subnet("192.168.0.0/20")));
    let v6 = SubnetRequest { v6: true, ..SubnetRequest::default() };
    let state = add_network(state, "c", &[SubnetRequest::default(), v6], &pools(), &[]).unwrap();
    assert_eq!(state.networks["c"][1].subnet, subnet("fd01:203:405::/64"));
    let used = [subnet("172.16.0.0/12"), subnet("192.168.0.0/16")];
    let full = add_network(State::default(), "d", &[SubnetRequest::default()], &pools(), &used);
    assert_eq!(full, Err(IpamError::Exhausted));
}

#[test]
fn addresses_follow_each_other_and_those_of_others_are_left_out() {
    let mut request = asked("10.1.0.0/24");
    request.auxiliary.insert("printer".to_owned(), ip("10.1.0.3"));
    let mut state = network(request).unwrap();
    let mut got = Vec::new();
    for owner in ["a", "b", "a"] {
        let (next, leases) = allocate(state, "n", owner, &[]).unwrap();
        state = next;
        got.push(leases[0].address.to_string());
    }
    assert_eq!(got, ["10.1.0.2/24", "10.1.0.4/24", "10.1.0.2/24"]);
    let taken = |address: &str| allocate(state.clone(), "n", "c", &[ip(address)]).map(|_| ()).unwrap_err().to_string();
    assert_eq!(taken("10.1.0.4"), "address 10.1.0.4 is in use by b");
    assert_eq!(taken("10.1.0.1"), "address 10.1.0.1 is in use by the gateway");
    assert_eq!(taken("10.1.0.3"), "address 10.1.0.3 is in use by printer");
    assert_eq!(taken("10.1.0.255"), "address 10.1.0.255 is in use by the subnet itself");
    assert_eq!(taken("10.2.0.1"), "address 10.2.0.1 belongs to no subnet of network n");
    let (state, _) = allocate(release(state, "n", "a"), "n", "c", &[]).unwrap();
    assert_eq!(state.networks["n"][0].leases[&ip("10.1.0.5")], "c", "an address that was given up rests");
}

#[test]
fn ranges_small_subnets_and_nonsense() {
    let ranged = SubnetRequest { range: Some(subnet("10.1.0.128/30")), ..asked("10.1.0.0/24") };
    let mut state = network(ranged).unwrap();
    assert_eq!(state.networks["n"][0].gateway, ip("10.1.0.129"));
    for owner in ["a", "b", "c"] {
        state = allocate(state, "n", owner, &[]).unwrap().0;
    }
    let full = allocate(state, "n", "d", &[]).unwrap_err();
    assert_eq!(full.to_string(), "network n has no free address left in 10.1.0.128/30");
    let pair = network(asked("10.1.0.0/31")).unwrap();
    assert_eq!(allocate(pair, "n", "a", &[]).unwrap().1[0].address, subnet("10.1.0.1/31"));
    assert!(matches!(network(asked("10.1.0.0/32")), Err(IpamError::TooSmall { .. })));
    let outside = SubnetRequest { range: Some(subnet("10.2.0.0/24")), ..asked("10.1.0.0/24") };
    assert!(matches!(network(outside), Err(IpamError::Range { .. })));
    let outside = SubnetRequest { gateway: Some(ip("10.2.0.1")), ..asked("10.1.0.0/24") };
    assert!(matches!(network(outside), Err(IpamError::Gateway { .. })));
    let mut outside = asked("10.1.0.0/24");
    outside.auxiliary.insert("x".to_owned(), ip("1.1.1.1"));
    assert!(matches!(network(outside), Err(IpamError::Auxiliary { .. })));
    let state = network(asked("10.1.0.0/16")).unwrap();
    let overlap = add_network(state.clone(), "m", &[asked("10.1.2.0/24")], &pools(), &[]).unwrap_err();
    assert!(overlap.to_string().starts_with("subnet 10.1.2.0/24 overlaps with 10.1.0.0/16 of network n"), "{overlap}");
    assert!(add_network(state.clone(), "n", &[], &pools(), &[]).is_err());
    assert_eq!(remove_network(state, "n"), State::default());
}

#[test]
fn one_address_of_each_version_wherever_it_is_asked_for() {
    let requests = ["10.1.0.0/30", "10.2.0.0/24", "fd00:9::/64"].map(asked);
    let state = add_network(State::default(), "n", &requests, &pools(), &[]).unwrap();
    let got = |state: &State, owner: &str, wanted: &[&str]| {
        let wanted: Vec<IpAddr> = wanted.iter().map(|text| ip(text)).collect();
        allocate_one_each(state.clone(), "n", owner, &wanted).map(|(state, leases)| {
            let texts: Vec<String> =
                leases.iter().map(|lease| format!("{} via {}", lease.address, lease.gateway)).collect();
            (state, texts)
        })
    };
    let (state, first) = got(&state, "a", &[]).unwrap();
    assert_eq!(first, ["10.1.0.2/30 via 10.1.0.1", "fd00:9::2/64 via fd00:9::1"]);
    assert_eq!(got(&state, "a", &[]).unwrap().1, first, "it has them still");
    // the first subnet is full, and who names an address is in its subnet
    let (state, second) = got(&state, "b", &[]).unwrap();
    assert_eq!(second[0], "10.2.0.2/24 via 10.2.0.1");
    let (state, third) = got(&state, "c", &["fd00:9::c", "10.2.0.9"]).unwrap();
    assert_eq!(third, ["10.2.0.9/24 via 10.2.0.1", "fd00:9::c/64 via fd00:9::1"]);
    assert!(matches!(got(&state, "d", &["10.2.0.9"]), Err(IpamError::Taken { .. })));
    assert!(matches!(got(&state, "d", &["10.3.0.9"]), Err(IpamError::Outside { .. })));
    let small = add_network(State::default(), "n", &[asked("10.1.0.0/30")], &pools(), &[]).unwrap();
    let (small, _) = got(&small, "a", &[]).unwrap();
    assert!(matches!(got(&small, "b", &[]), Err(IpamError::Full { .. })));
}

#[test]
fn the_gateway_is_nobody_elses_address() {
    let beside = |list: &[(&str, &str)], gateway: Option<&str>| {
        let auxiliary = list.iter().map(|(name, address)| ((*name).to_owned(), ip(address))).collect();
        network(SubnetRequest { auxiliary, gateway: gateway.map(ip), ..asked("10.1.0.0/29") })
    };
    let state = beside(&[("a", "10.1.0.1"), ("b", "10.1.0.2")], None).unwrap();
    assert_eq!(state.networks["n"][0].gateway, ip("10.1.0.3"));
    for wrong in [beside(&[("a", "10.1.0.1")], Some("10.1.0.1")), beside(&[("a", "10.1.0.4"), ("b", "10.1.0.4")], None)]
    {
        assert!(matches!(wrong, Err(IpamError::AuxiliaryTaken { .. })));
    }
}

#[test]
fn the_state_is_plain_data() {
    let (state, _) = allocate(network(asked("fd00:9::/64")).unwrap(), "n", "a", &[]).unwrap();
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
}

/// What somebody may do.
#[derive(Debug, Clone)]
enum Step {
    Add(u8, u8),
    Remove(u8),
    Take(u8, u8, Option<u8>),
    Release(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u8, 0..6_u8).prop_map(|(network, kind)| Step::Add(network, kind)),
        (0..4_u8).prop_map(Step::Remove),
        (0..4_u8, 0..9_u8, proptest::option::of(any::<u8>())).prop_map(|(n, o, w)| Step::Take(n, o, w)),
        (0..4_u8, 0..9_u8).prop_map(|(network, owner)| Step::Release(network, owner)),
    ]
}

fn apply(state: &State, step: &Step) -> Result<State, IpamError> {
    let name = |number: u8| format!("n{number}");
    match *step {
        Step::Add(network, kind) => {
            let request = match kind {
                0 => asked("10.0.0.0/29"),
                1 => asked("10.0.0.8/30"),
                2 => asked("10.0.0.0/24"),
                3 => asked("fd00::/125"),
                _ => SubnetRequest::default(),
            };
            add_network(state.clone(), &name(network), &[request], &pools(), &[subnet("172.17.0.0/16")])
        }
        Step::Remove(network) => Ok(remove_network(state.clone(), &name(network))),
        Step::Take(network, owner, wanted) => {
            let wanted: Vec<IpAddr> = wanted.map(|last| IpAddr::from([10, 0, 0, last])).into_iter().collect();
            allocate(state.clone(), &name(network), &format!("o{owner}"), &wanted).map(|(state, _)| state)
        }
        Step::Release(network, owner) => Ok(release(state.clone(), &name(network), &format!("o{owner}"))),
    }
}

proptest! {
    #[test]
    fn no_address_has_two_owners_and_no_owner_two_addresses(steps in proptest::collection::vec(step(), 1..60)) {
        let mut state = State::default();
        for step in &steps {
            if let Ok(next) = apply(&state, step) {
                state = next;
            }
            let parts: Vec<&Allocation> = state.networks.values().flatten().collect();
            for (index, part) in parts.iter().enumerate() {
                prop_assert!(!parts[index + 1..].iter().any(|other| other.subnet.overlaps(part.subnet)));
                let owners: BTreeSet<&String> = part.leases.values().collect();
                prop_assert_eq!(owners.len(), part.leases.len());
                for address in part.leases.keys() {
                    prop_assert!(part.subnet.contains(*address) && *address != part.gateway);
                }
            }
        }
    }

    #[test]
    fn a_full_subnet_was_really_full(prefix in 24..31_u8, wanted in 1..300_usize) {
        let mut state = network(asked(&format!("10.0.0.0/{prefix}"))).unwrap();
        let room = (1_usize << (32 - prefix)) - 3;
        for owner in 0..wanted {
            match allocate(state.clone(), "n", &owner.to_string(), &[]) {
                Ok((next, _)) => state = next,
                Err(error) => {
                    prop_assert!(matches!(error, IpamError::Full { .. }), "unexpected {error}");
                    prop_assert_eq!(owner, room);
                    return Ok(());
                }
            }
        }
        prop_assert!(wanted <= room);
    }
}
