//! Daemons that share a network namespace.

use net::firewall::{Firewall, Owned, Rules, Watch};
use net::{BridgeSpec, NetError};
use testkit::{Island, is_root_or_skip};

use crate::hosts::{Host, bridge};

#[test]
fn each_daemon_has_a_table_of_its_own() {
    if !is_root_or_skip() {
        return;
    }
    let (island, host) = (Island::new(), Host::new());
    let (first, second) = (island.dir("first").join("netd.sock"), island.dir("second").join("netd.sock"));
    let claim = |socket| host.inside(|| Firewall::claim(socket).unwrap());
    let apply = |firewall: &mut Firewall| firewall.apply(&Rules::default()).unwrap();
    let tables = || {
        let tables = host.inside(|| Firewall::open().unwrap()).daemons().unwrap();
        tables.into_iter().map(|Owned { table, owner }| (table, owner)).collect::<Vec<_>>()
    };
    let watch = host.inside(|| Watch::open().unwrap());
    let (mut one, mut other) = (claim(&first), claim(&second));
    apply(&mut one);
    apply(&mut other);
    let owners = [&first, &second].map(|path| path.to_str().unwrap().to_owned());
    let own = tables().iter().map(|(table, _)| table.clone()).find(|table| table != "insula").unwrap();
    let (plain, named) = (("insula".to_owned(), owners[0].clone()), (own.clone(), owners[1].clone()));
    let both = |expected: &str| {
        let mut found = tables();
        found.sort();
        assert_eq!(found, [plain.clone(), named.clone()], "{expected}");
    };
    both("two that came one after the other");
    // what one does to its own table is no disturbance of the other's
    one.rebuild(&Rules::default()).unwrap();
    assert!(!watch.disturbed(&other));
    other.rebuild(&Rules::default()).unwrap();
    assert!(!watch.disturbed(&one));
    host.inside(|| Firewall::claim(&second).unwrap()).remove().unwrap();
    assert!(watch.disturbed(&other), "somebody else takes the second's away");
    other.rebuild(&Rules::default()).unwrap();
    // both gone: the second comes back before the first, and leaves it the plain name
    drop((one, other));
    let mut other = claim(&second);
    let mut one = claim(&first);
    apply(&mut other);
    apply(&mut one);
    both("in the other order");
    // the first has gone for good: who comes next has the plain name, and no other table
    drop((one, other));
    std::fs::remove_dir_all(first.parent().unwrap()).unwrap();
    apply(&mut claim(&second));
    assert_eq!(tables(), [("insula".to_owned(), owners[1].clone())]);
}

#[test]
fn a_bridge_of_another_daemon_is_left_alone() {
    if !is_root_or_skip() {
        return;
    }
    let (island, host) = (Island::new(), Host::new());
    let links = host.links();
    let of =
        |owner: &str, address: &str| BridgeSpec { owner: Some(island.path(owner)), ..bridge("insula0", &[address]) };
    let make = |spec: &BridgeSpec| host.inside(|| links.create_bridge(spec));
    let alias = || links.inspect("insula0").unwrap().unwrap().alias;
    let (one, other) = (island.dir("one"), island.dir("other"));
    for _ in 0..2 {
        make(&of("one", "10.74.0.1/24")).unwrap();
        assert_eq!(alias(), Some(format!("insula: {}", one.display())));
    }
    let refused = make(&of("other", "10.75.0.1/24")).unwrap_err();
    assert!(matches!(&refused, NetError::OwnedBridge { owner, .. } if *owner == one), "{refused}");
    let addresses: Vec<String> = links.addresses().unwrap().iter().map(|(_, address)| address.to_string()).collect();
    assert!(!addresses.contains(&"10.75.0.1/24".to_owned()), "{addresses:?}");
    // a daemon that is no more has no say
    std::fs::remove_dir(&one).unwrap();
    make(&of("other", "10.75.0.1/24")).unwrap();
    assert_eq!(alias(), Some(format!("insula: {}", other.display())));
    // what somebody else has made and named stays as it is
    host.run("ip", &["link", "add", "br-mine", "type", "bridge"]).unwrap();
    let found = BridgeSpec { name: "br-mine".to_owned(), ..of("other", "10.76.0.1/24") };
    make(&found).unwrap();
    assert_eq!(links.inspect("br-mine").unwrap().unwrap().alias, None);
}
