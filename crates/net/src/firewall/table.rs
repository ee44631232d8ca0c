//! The fixed part of the table: sets, chains and rules. What networks and ports there are is in the sets' elements only.
//!
//! ```text
//! prerouting, before all  from a container's network to 127.0.0.0/8: drop
//!                         from elsewhere to a port published on 127.0.0.0/8: drop
//! prerouting and output   to a local address and a published port: to the container
//! forward                 of an established connection: accept
//!                         within a network without contact between containers: drop, unless to a published port
//!                         within a network: accept
//!                         from or to an internal network: drop
//!                         to a published port, of the host or of a routed container: accept
//!                         from a trusted link to a published port at the container's address: accept
//!                         ping to a routed network: accept
//!                         between two networks: drop
//!                         from outside to a closed network: drop
//! postrouting             back into the network it came from, to a published port: masquerade
//!                         from 127.0.0.0/8 into a network: masquerade
//!                         out of a network: an address of the host's that was named for it, else masquerade
//! ```

use super::wire::{Base, Chain, Expression, Field, Fit, Meta, R0, Set, Transaction, WIDE0};

/// The table's name, in family inet.
pub const TABLE: &str = "insula";

const BRIDGES: &str = "bridges";
const INTERNAL: &str = "internal";
const SAME: &str = "same";
const SEPARATE: &str = "separate";

use Field::{Name, Port, Protocol, V4, V6};

/// Every set, by name.
#[rustfmt::skip]
pub(super) const SETS: &[Set] = &[
    Set { name: "any4",     key: &[Protocol, Port],     data: &[V4, Port], ranges: false },
    Set { name: "any6",     key: &[Protocol, Port],     data: &[V6, Port], ranges: false },
    Set { name: "at4",      key: &[V4, Protocol, Port], data: &[V4, Port], ranges: false },
    Set { name: "at6",      key: &[V6, Protocol, Port], data: &[V6, Port], ranges: false },
    Set { name: BRIDGES,    key: &[Name],               data: &[],         ranges: false },
    Set { name: "closed4",  key: &[Name],               data: &[],         ranges: false },
    Set { name: "closed6",  key: &[Name],               data: &[],         ranges: false },
    Set { name: "direct4",  key: &[V4, Protocol, Port], data: &[],         ranges: false },
    Set { name: "direct6",  key: &[V6, Protocol, Port], data: &[],         ranges: false },
    Set { name: "hairpin4", key: &[V4, V4],             data: &[],         ranges: true },
    Set { name: "hairpin6", key: &[V6, V6],             data: &[],         ranges: true },
    Set { name: INTERNAL,   key: &[Name],               data: &[],         ranges: false },
    Set { name: "loop4",    key: &[V4, Protocol, Port], data: &[],         ranges: false },
    Set { name: "masq4",    key: &[V4, V4],             data: &[],         ranges: true },
    Set { name: "masq6",    key: &[V6, V6],             data: &[],         ranges: true },
    Set { name: "routed4",  key: &[Name],               data: &[],         ranges: false },
    Set { name: "routed6",  key: &[Name],               data: &[],         ranges: false },
    Set { name: SAME,       key: &[Name, Name],         data: &[],         ranges: false },
    Set { name: SEPARATE,   key: &[Name, Name],         data: &[],         ranges: false },
    Set { name: "snat4",    key: &[V4, V4],             data: &[V4],       ranges: true },
    Set { name: "snat6",    key: &[V6, V6],             data: &[V6],       ranges: true },
    Set { name: "trust4",   key: &[Name, V4, Protocol, Port], data: &[],   ranges: false },
    Set { name: "trust6",   key: &[Name, V6, Protocol, Port], data: &[],   ranges: false },
];

#[rustfmt::skip]
const CHAINS: &[Chain] = &[
    Chain { name: "forward",     kind: "filter", hook: 2, priority: 0 },
    Chain { name: "output",      kind: "nat",    hook: 3, priority: -100 },
    Chain { name: "postrouting", kind: "nat",    hook: 4, priority: 100 },
    Chain { name: "prerouting",  kind: "nat",    hook: 0, priority: -100 },
    Chain { name: "spoofed",     kind: "filter", hook: 0, priority: -300 },
];

/// `struct nft_rule`s of all chains; for whoever counts them.
pub(super) const RULES: usize = 2 + 2 * 4 + 7 + 2 * 4 + 7;

const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const STATUS_DNAT: u32 = 0x20;
const RTN_LOCAL: u32 = 2;

/// The version of IP, with where its addresses are in a packet.
struct Version {
    /// As nftables numbers it.
    family: u8,
    source: u32,
    destination: u32,
    length: u32,
    /// The protocol of pings.
    ping: u8,
}

const IPV4: Version = Version { family: 2, source: 12, destination: 16, length: 4, ping: 1 };
const IPV6: Version = Version { family: 10, source: 8, destination: 24, length: 16, ping: 58 };

impl Version {
    fn only(&self) -> [Expression; 2] {
        [Expression::Meta(Meta::Family, R0), Expression::Compare(R0, Fit::Is, vec![self.family])]
    }

    fn source(&self, to: u32) -> Expression {
        Expression::Payload(Base::Network, self.source, self.length, to)
    }

    fn destination(&self, to: u32) -> Expression {
        Expression::Payload(Base::Network, self.destination, self.length, to)
    }

    /// The register after an address that was read into the first.
    fn after(&self) -> u32 {
        R0 + self.length / 4
    }

    fn set(&self, four: &'static str, six: &'static str) -> &'static str {
        if self.family == IPV4.family { four } else { six }
    }
}

/// Puts the whole fixed part into a transaction.
pub(super) fn write(transaction: &mut Transaction<'_>) {
    for (set, id) in SETS.iter().zip(1..) {
        transaction.add_set(set, id);
    }
    for chain in CHAINS {
        transaction.add_chain(chain);
    }
    spoofed(transaction);
    for chain in ["prerouting", "output"] {
        for version in [&IPV4, &IPV6] {
            published(transaction, chain, version);
        }
    }
    forward(transaction);
    for version in [&IPV4, &IPV6] {
        postrouting(transaction, version);
    }
}

fn in_set(name: Meta, set: &'static str, fit: Fit) -> [Expression; 2] {
    [Expression::Meta(name, WIDE0), Expression::Lookup(set, WIDE0, fit)]
}

/// ::1.
fn loopback_v6() -> Vec<u8> {
    let mut address = vec![0; 16];
    address[15] = 1;
    address
}

/// That the destination (or source) is of 127.0.0.0/8.
fn loopback(load: Expression) -> [Expression; 3] {
    [load, Expression::Mask(R0, vec![255, 0, 0, 0]), Expression::Compare(R0, Fit::Is, vec![127, 0, 0, 0])]
}

fn spoofed(transaction: &mut Transaction<'_>) {
    let mut rule = in_set(Meta::InName, BRIDGES, Fit::Is).to_vec();
    rule.extend(IPV4.only());
    rule.extend(loopback(IPV4.destination(R0)));
    rule.push(Expression::Drop);
    transaction.add_rule("spoofed", "no way from containers to the host's loopback", &rule);
    let mut name = b"lo".to_vec();
    name.resize(16, 0);
    let mut rule = vec![Expression::Meta(Meta::InName, WIDE0), Expression::Compare(WIDE0, Fit::Not, name)];
    rule.extend(IPV4.only());
    rule.extend([
        IPV4.destination(R0),
        Expression::Meta(Meta::Protocol, R0 + 1),
        Expression::Payload(Base::Transport, 2, 2, R0 + 2),
        Expression::Lookup("loop4", R0, Fit::Is),
        Expression::Drop,
    ]);
    transaction.add_rule("spoofed", "ports on the loopback are for this host", &rule);
}

fn published(transaction: &mut Transaction<'_>, chain: &str, version: &Version) {
    let local = [Expression::DestinationKind(R0), Expression::Compare(R0, Fit::Is, RTN_LOCAL.to_ne_bytes().to_vec())];
    let port = version.after();
    let mut head = version.only().to_vec();
    if version.length == 16 {
        // The kernel takes no answer for ::1 from another link. Left alone, the connection meets the helper's socket
        // (`netd::relay`), or is refused at once, and a program that was told localhost goes on to 127.0.0.1.
        head.extend([version.destination(WIDE0), Expression::Compare(WIDE0, Fit::Not, loopback_v6())]);
    }
    head.extend(local);
    let mut rule = head.clone();
    rule.extend([
        version.destination(if version.length == 4 { R0 } else { WIDE0 }),
        Expression::Meta(Meta::Protocol, port),
        Expression::Payload(Base::Transport, 2, 2, port + 1),
        Expression::Map(version.set("at4", "at6"), if version.length == 4 { R0 } else { WIDE0 }, WIDE0),
        Expression::Redirect(version.family, WIDE0, port),
    ]);
    transaction.add_rule(chain, "published on one address", &rule);
    let mut rule = head;
    rule.extend([
        Expression::Meta(Meta::Protocol, R0),
        Expression::Payload(Base::Transport, 2, 2, R0 + 1),
        Expression::Map(version.set("any4", "any6"), R0, WIDE0),
        Expression::Redirect(version.family, WIDE0, port),
    ]);
    transaction.add_rule(chain, "published on all addresses", &rule);
}

/// That the connection goes, or does not go, to a published port.
fn redirected(fit: Fit) -> [Expression; 3] {
    let zero = match fit {
        Fit::Is => Fit::Not,
        Fit::Not => Fit::Is,
    };
    [
        Expression::ConnectionStatus(R0),
        Expression::Mask(R0, STATUS_DNAT.to_ne_bytes().to_vec()),
        Expression::Compare(R0, zero, vec![0; 4]),
    ]
}

fn forward(transaction: &mut Transaction<'_>) {
    let pair = [Expression::Meta(Meta::InName, WIDE0), Expression::Meta(Meta::OutName, WIDE0 + 1)];
    let mut add = |comment: &str, parts: &[&[Expression]]| {
        transaction.add_rule("forward", comment, &parts.concat());
    };
    let established = [
        Expression::ConnectionState(R0),
        Expression::Mask(R0, ESTABLISHED_OR_RELATED.to_ne_bytes().to_vec()),
        Expression::Compare(R0, Fit::Not, vec![0; 4]),
    ];
    let accept = [Expression::Accept];
    let refuse = [Expression::Drop];
    add("of a known connection", &[&established, &accept]);
    let separate = [Expression::Lookup(SEPARATE, WIDE0, Fit::Is)];
    add("containers that must not meet", &[&pair, &separate, &redirected(Fit::Not), &refuse]);
    add("within a network", &[&pair, &[Expression::Lookup(SAME, WIDE0, Fit::Is)], &accept]);
    add("out of an internal network", &[&in_set(Meta::InName, INTERNAL, Fit::Is), &refuse]);
    add("into an internal network", &[&in_set(Meta::OutName, INTERNAL, Fit::Is), &refuse]);
    add("to a published port", &[&in_set(Meta::OutName, BRIDGES, Fit::Is), &redirected(Fit::Is), &accept]);
    for version in [&IPV4, &IPV6] {
        let direct = version.set("direct4", "direct6");
        let first = if version.length == 4 { R0 } else { WIDE0 };
        let protocol = version.after();
        let service = [
            version.destination(first),
            Expression::Meta(Meta::Protocol, protocol),
            Expression::Payload(Base::Transport, 2, 2, protocol + 1),
            Expression::Lookup(direct, first, Fit::Is),
        ];
        add("to a published port at its own address", &[&version.only(), &service, &accept]);
        // after the link's name, which takes four registers
        let (address, protocol) = if version.length == 4 { (R0 + 4, R0 + 5) } else { (WIDE0 + 1, R0 + 8) };
        let from = [
            Expression::Meta(Meta::InName, WIDE0),
            version.destination(address),
            Expression::Meta(Meta::Protocol, protocol),
            Expression::Payload(Base::Transport, 2, 2, protocol + 1),
            Expression::Lookup(version.set("trust4", "trust6"), WIDE0, Fit::Is),
        ];
        add("from a trusted link to a published port", &[&version.only(), &from, &accept]);
        let ping = [Expression::Meta(Meta::Protocol, R0), Expression::Compare(R0, Fit::Is, vec![version.ping])];
        let routed = in_set(Meta::OutName, version.set("routed4", "routed6"), Fit::Is);
        add("ping to a routed network", &[&version.only(), &ping, &routed, &accept]);
    }
    // A closed network takes nothing from outside; an open one takes what comes from outside, but not from a network.
    let networks = [in_set(Meta::InName, BRIDGES, Fit::Is), in_set(Meta::OutName, BRIDGES, Fit::Is)].concat();
    add("between networks", &[&networks, &refuse]);
    for version in [&IPV4, &IPV6] {
        let closed = in_set(Meta::OutName, version.set("closed4", "closed6"), Fit::Is);
        add("to a port that is not published", &[&version.only(), &closed, &refuse]);
    }
}

fn postrouting(transaction: &mut Transaction<'_>, version: &Version) {
    let (first, second) = if version.length == 4 { (R0, R0 + 1) } else { (WIDE0, WIDE0 + 1) };
    let ends = [version.source(first), version.destination(second)];
    let mut add = |comment: &str, parts: &[&[Expression]]| {
        transaction.add_rule("postrouting", comment, &parts.concat());
    };
    let masquerade = [Expression::Masquerade];
    let hairpin = [Expression::Lookup(version.set("hairpin4", "hairpin6"), first, Fit::Is)];
    add("back into its own network", &[&version.only(), &redirected(Fit::Is), &ends, &hairpin, &masquerade]);
    if version.length == 4 {
        let from = [version.only().to_vec(), loopback(version.source(R0)).to_vec()].concat();
        add("from the host's loopback", &[&in_set(Meta::OutName, BRIDGES, Fit::Is), &from, &masquerade]);
    }
    let out = [Expression::Lookup(version.set("masq4", "masq6"), first, Fit::Is)];
    let outside = in_set(Meta::OutName, BRIDGES, Fit::Not);
    let named =
        [Expression::Map(version.set("snat4", "snat6"), first, WIDE0), Expression::Leave(version.family, WIDE0)];
    add("out of a network at an address of its own", &[&outside, &version.only(), &ends, &named]);
    add("out of a network", &[&outside, &version.only(), &ends, &out, &masquerade]);
}
