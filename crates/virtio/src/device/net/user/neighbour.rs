//! What neighbours tell each other in IPv6: who has an address, and which router and network there are.
//!
//! The guest makes its addresses of the prefix that is advertised to it. smoltcp asks for the guest's hardware address itself; it does not
//! answer for the gateway, as its answers do not say that this is a router, and Linux forgets its route then. Pings are answered here as well:
//! smoltcp would lose the first one while it asks who pings.
//!
//! # Source
//! RFC 4861 "Neighbor Discovery", 4; RFC 8106, 5.1 for the name server; RFC 4443, 4 for pings.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::frame::{self, NEIGHBOUR_HOPS};
use super::{GATEWAY_MAC, Plan};

/// How often the network is advertised without being asked.
pub(super) const INTERVAL: Duration = Duration::from_secs(1800);

const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;
const PREFIX: u8 = 3;
const MTU: u8 = 5;
const NAME_SERVERS: u8 = 25;

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// The prefix is this link's, and addresses may be made of it.
const ON_LINK_AND_OWN: u8 = 0xc0;
/// Seconds, five intervals: what is lost comes again in time.
const ROUTER_LIFETIME: u16 = 9000;
const VALID: u32 = 86_400;
const PREFERRED: u32 = 14_400;
const PACKET_BYTES: u32 = 1500;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// A neighbour that asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    pub(super) mac: [u8; 6],
    pub(super) address: Ipv6Addr,
}

/// Whether smoltcp has asked for this.
pub(super) fn is_answer(message: &[u8]) -> bool {
    message.first() == Some(&ADVERTISEMENT)
}

/// Answers a neighbour's message to `to`; none if there is nothing to say.
pub(super) fn answer(plan: &Plan, asker: Asker, to: Ipv6Addr, message: &[u8], hops: u8) -> Option<Vec<u8>> {
    match (*message.first()?, *message.get(1)?) {
        (ECHO_REQUEST, 0) if plan.is_here(to.into()) && message.len() >= 8 => {
            let mut said = message.to_vec();
            said[..4].copy_from_slice(&[ECHO_REPLY, 0, 0, 0]);
            frame::message(asker.mac, to, asker.address, said)
        }
        (kind, 0) if hops == NEIGHBOUR_HOPS => as_neighbour(plan, asker, kind, message),
        _ => None,
    }
}

fn as_neighbour(plan: &Plan, asker: Asker, kind: u8, message: &[u8]) -> Option<Vec<u8>> {
    match kind {
        ROUTER_SOLICITATION => advertisement(plan),
        SOLICITATION => {
            let octets: [u8; 16] = message.get(8..24)?.try_into().ok()?;
            let target = Ipv6Addr::from(octets);
            if !plan.is_here(target.into()) {
                return None;
            }
            // Whoever has no address yet asks whether he may take this one, and all shall hear that he may not.
            let nameless = asker.address.is_unspecified();
            let flags = ROUTER | OVERRIDE | if nameless { 0 } else { SOLICITED };
            let mut said = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
            said.extend(octets);
            said.extend([TARGET_ADDRESS, 1]);
            said.extend(GATEWAY_MAC);
            let (mac, to) = if nameless { (ALL_NODES_MAC, ALL_NODES) } else { (asker.mac, asker.address) };
            frame::message(mac, target, to, said)
        }
        _ => None,
    }
}

/// Tells all nodes of the router, the prefix and the name server.
pub(super) fn advertisement(plan: &Plan) -> Option<Vec<u8>> {
    let mut said = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0];
    said.extend(ROUTER_LIFETIME.to_be_bytes());
    said.extend([0; 8]);
    said.extend([SOURCE_ADDRESS, 1]);
    said.extend(GATEWAY_MAC);
    said.extend([MTU, 1, 0, 0]);
    said.extend(PACKET_BYTES.to_be_bytes());
    said.extend([PREFIX, 4, Plan::PREFIX_BITS, ON_LINK_AND_OWN]);
    said.extend(VALID.to_be_bytes());
    said.extend(PREFERRED.to_be_bytes());
    said.extend([0; 4]);
    said.extend(Plan::address6(0).octets());
    if plan.name_server.is_some() {
        said.extend([NAME_SERVERS, 3, 0, 0]);
        said.extend(u32::from(ROUTER_LIFETIME).to_be_bytes());
        said.extend(Plan::names6().octets());
    }
    frame::message(ALL_NODES_MAC, Plan::router(), ALL_NODES, said)
}
