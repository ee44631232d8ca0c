use std::net::IpAddr;

use proptest::prelude::*;

use super::wire::{Kind, Record};
use super::*;

fn question(name: &str, kind: u16, opt: Option<u16>) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(opt.is_some())];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    if let Some(size) = opt {
        bytes.extend_from_slice(&[0, 0, 41]);
        bytes.extend_from_slice(&size.to_be_bytes());
        bytes.extend_from_slice(&[0; 6]);
    }
    bytes
}

fn zone() -> (Zone, View) {
    let mut zone = Zone::default();
    let names = |names: &[&str], addresses: &[&str]| Names {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    };
    let network = NetworkNames { subnets: vec!["10.1.0.0/24".parse().unwrap()], ..NetworkNames::default() };
    zone.set_network("shop", network);
    zone.set_container("shop", "1", names(&["Web", "www"], &["10.1.0.2", "fd00::2"]));
    zone.set_container("shop", "2", names(&["web2", "www"], &["10.1.0.3"]));
    zone.set_container("other", "3", names(&["secret"], &["10.2.0.2"]));
    let mut view = View { networks: vec!["shop".to_owned()], ..View::default() };
    view.own.insert("db".to_owned(), vec!["10.9.9.9".parse().unwrap()]);
    (zone, view)
}

/// The code and the number of records, and the last bytes.
fn check(name: &str, kind: u16) -> Option<(u8, u8, Vec<u8>)> {
    let (zone, view) = zone();
    let query = Query::parse(&question(name, kind, None)).unwrap();
    let answer = zone.answer(&view, &query, Transport::Udp)?;
    assert!(query.is_answered_by(&answer));
    Some((answer[3] & 0x0f, answer[7], answer[answer.len() - 4..].to_vec()))
}

#[test]
fn names_and_aliases_are_found_in_the_own_networks_only() {
    assert_eq!(check("web", 1), Some((0, 1, vec![10, 1, 0, 2])));
    assert_eq!(check("WEB.", 1), Some((0, 1, vec![10, 1, 0, 2])));
    assert_eq!(check("web2.shop", 1), Some((0, 1, vec![10, 1, 0, 3])));
    assert_eq!(check("web", 28).map(|(code, count, _)| (code, count)), Some((0, 1)));
    assert_eq!(check("web2", 28).map(|(code, count, _)| (code, count)), Some((0, 0)), "the name is there, not IPv6");
    assert_eq!(check("www", 1).map(|(code, count, _)| (code, count)), Some((0, 2)));
    assert_eq!(check("db", 1), Some((0, 1, vec![10, 9, 9, 9])));
    assert_eq!(check("web", 15).map(|(code, count, _)| (code, count)), Some((0, 0)));
    assert_eq!(check("secret", 1), None);
    assert_eq!(check("example.org", 1), None);
    assert_eq!(check("2.0.1.10.in-addr.arpa", 12).map(|(code, count, _)| (code, count)), Some((0, 1)));
    assert_eq!(check("9.0.1.10.in-addr.arpa", 12).map(|(code, count, _)| (code, count)), Some((3, 0)));
    assert_eq!(check("1.1.1.1.in-addr.arpa", 12), None);
}

#[test]
fn what_goes_is_forgotten() {
    let (mut zone, view) = zone();
    let ask = |zone: &Zone, name: &str| {
        let query = Query::parse(&question(name, 1, None)).unwrap();
        zone.answer(&view, &query, Transport::Udp).map(|answer| answer[7])
    };
    zone.remove_container("shop", "1");
    assert_eq!((ask(&zone, "web"), ask(&zone, "www")), (None, Some(1)));
    zone.set_container("shop", "2", Names { names: vec!["new".to_owned()], addresses: Vec::new() });
    assert_eq!((ask(&zone, "www"), ask(&zone, "new")), (None, Some(0)));
    zone.remove_network("shop");
    assert_eq!(ask(&zone, "new"), None);
}

#[test]
fn long_answers_are_cut_over_udp_only() {
    let mut zone = Zone::default();
    let addresses = (0..100).map(|last| IpAddr::from([10, 0, 0, last])).collect();
    zone.set_container("n", "1", Names { names: vec!["many".to_owned()], addresses });
    let view = View { networks: vec!["n".to_owned()], ..View::default() };
    let ask = |opt, transport| {
        let query = Query::parse(&question("many", 1, opt)).unwrap();
        zone.answer(&view, &query, transport).unwrap()
    };
    let plain = ask(None, Transport::Udp);
    assert!(plain.len() <= 512 && plain[2] & 2 == 2 && plain[7] < 100);
    let large = ask(Some(4096), Transport::Udp);
    assert!(large.len() > 512 && large[2] & 2 == 0 && large[7] == 100 && large[11] == 1);
    assert_eq!(ask(None, Transport::Tcp)[7], 100);
}

#[test]
fn nonsense_gets_a_code_or_nothing() {
    assert_eq!(Query::parse(&[0; 11]), Err(None));
    let mut answer = question("a", 1, None);
    answer[2] |= 0x80;
    assert_eq!(Query::parse(&answer), Err(None));
    let mut update = question("a", 1, None);
    update[2] |= 0x28;
    assert_eq!(Query::parse(&update), Err(Some(Code::NotImplemented)));
    let mut two = question("a", 1, None);
    two[5] = 2;
    assert_eq!(Query::parse(&two), Err(Some(Code::Format)));
    let mut pointer = question("a", 1, None);
    pointer[12] = 0xc0;
    assert_eq!(Query::parse(&pointer), Err(Some(Code::Format)));
    assert_eq!(refusal(&two, Code::Format).unwrap()[..4], [0x12, 0x34, 0x80, 1]);
    let six = "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa";
    let query = Query::parse(&question(six, 12, None)).unwrap();
    assert_eq!(query.reversed(), Some("4321:0:1:2:3:4:567:89ab".parse().unwrap()));
}

proptest! {
    #[test]
    fn questions_survive_the_way(name in "[a-z0-9-]{1,20}(\\.[a-z0-9]{1,10}){0,3}", id: u16, kind in 1..300_u16) {
        let mut bytes = question(&name, kind, Some(1232));
        bytes[..2].copy_from_slice(&id.to_be_bytes());
        let query = Query::parse(&bytes).unwrap();
        prop_assert_eq!((&query.name, query.id, query.udp_size), (&name, id, 1232));
        let is_address = matches!(query.kind, Kind::A | Kind::Aaaa);
        prop_assert_eq!(is_address, kind == 1 || kind == 28);
        let answer = query.reply(Code::Good, &[Record::Name(name)], Transport::Udp, TTL);
        prop_assert!(query.is_answered_by(&answer) && answer.len() <= 1232);
    }
}
