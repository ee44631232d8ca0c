//! Frames as bytes: what the guest's are about, and those that this network makes itself.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::super::{HEADER_BYTES, PLAIN_HEADER};
use super::{GATEWAY_MAC, Plan, dhcp};

const ETHERNET_BYTES: usize = 14;
const IPV4: [u8; 2] = [8, 0];
const TCP: u8 = 6;
const UDP: u8 = 17;
const UDP_BYTES: usize = 8;
const IPV4_BYTES: usize = 20;
/// The flag of a header that has a partial checksum in its frame.
const NEEDS_CHECKSUM: u8 = 1;
const SEGMENTED_TCP4: u8 = 1;

/// A datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Datagram<'f> {
    pub(super) source: SocketAddrV4,
    pub(super) target: SocketAddrV4,
    pub(super) data: &'f [u8],
}

/// What matters of a TCP segment here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) source: SocketAddrV4,
    pub(super) target: SocketAddrV4,
    /// It begins a stream: SYN without ACK.
    pub(super) begins: bool,
}

/// What an IPv4 packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ipv4<'f> {
    Udp(Datagram<'f>),
    Tcp(Segment),
    Other,
}

/// A frame with an IPv4 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parsed<'f> {
    pub(super) source_mac: [u8; 6],
    pub(super) target: Ipv4Addr,
    pub(super) payload: Ipv4<'f>,
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

/// Looks into a frame; none if it has no whole IPv4 packet, or has only a fragment of one.
pub(super) fn parse(frame: &[u8]) -> Option<Parsed<'_>> {
    let (ethernet, packet) = frame.split_at_checked(ETHERNET_BYTES)?;
    let first = *packet.first()?;
    if ethernet[12..] != IPV4 || first >> 4 != 4 {
        return None;
    }
    let header = usize::from(first & 15) * 4;
    let total = usize::from(half(packet, 2)?);
    let packet = packet.get(..total)?;
    let payload = packet.get(header..).filter(|_| header >= IPV4_BYTES)?;
    let (source, target) = (address(packet, 12)?, address(packet, 16)?);
    let whole = half(packet, 6)? & 0x3fff == 0;
    let ends = || Some((SocketAddrV4::new(source, half(payload, 0)?), SocketAddrV4::new(target, half(payload, 2)?)));
    let payload = match packet[9] {
        UDP if whole => {
            let (source, target) = ends()?;
            let length = usize::from(half(payload, 4)?);
            Ipv4::Udp(Datagram { source, target, data: payload.get(UDP_BYTES..length)? })
        }
        TCP if whole => {
            let (source, target) = ends()?;
            // SYN is bit 1, RST bit 2, ACK bit 4.
            Ipv4::Tcp(Segment { source, target, begins: payload.get(13)? & 0b1_0110 == 0b10 })
        }
        _ => Ipv4::Other,
    };
    Some(Parsed { source_mac: ethernet[6..12].try_into().ok()?, target, payload })
}

/// The sum of RFC 1071 over bytes, not folded.
fn sum(bytes: &[u8]) -> u32 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |byte| u32::from(*byte) << 8);
    pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum::<u32>() + last
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// A frame to the guest with a datagram, behind a virtio header. None if the datagram is too long for a packet.
pub(super) fn datagram(mac: [u8; 6], source: SocketAddrV4, target: SocketAddrV4, data: &[u8]) -> Option<Vec<u8>> {
    let udp_length = u16::try_from(UDP_BYTES + data.len()).ok()?;
    let total = u16::try_from(IPV4_BYTES + UDP_BYTES + data.len()).ok()?;
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, UDP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[12..16].copy_from_slice(&source.ip().octets());
    ip[16..].copy_from_slice(&target.ip().octets());
    let checksum = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut udp = [0; UDP_BYTES];
    udp[..2].copy_from_slice(&source.port().to_be_bytes());
    udp[2..4].copy_from_slice(&target.port().to_be_bytes());
    udp[4..6].copy_from_slice(&udp_length.to_be_bytes());
    let pseudo = sum(&ip[12..]) + u32::from(UDP) + u32::from(udp_length);
    // Zero would say that there is none.
    let checksum = match !fold(pseudo + sum(&udp) + sum(data)) {
        0 => u16::MAX,
        checksum => checksum,
    };
    udp[6..].copy_from_slice(&checksum.to_be_bytes());
    Some([&PLAIN_HEADER[..], &mac, &GATEWAY_MAC, &IPV4, &ip, &udp, data].concat())
}

/// A frame with a DHCP server's answer, to whoever has no address yet.
pub(super) fn dhcp_answer(plan: &Plan, mac: [u8; 6], answer: &[u8]) -> Vec<u8> {
    let source = SocketAddrV4::new(plan.gateway(), dhcp::SERVER_PORT);
    let target = SocketAddrV4::new(Ipv4Addr::BROADCAST, dhcp::CLIENT_PORT);
    datagram(mac, source, target, answer).unwrap_or_default()
}

/// Completes a frame with room for a header in front that the driver takes without a TCP checksum, and perhaps in a large
/// segment.
pub(super) fn offload(frame: &mut [u8], segment: Option<u16>) {
    let (header, ethernet) = frame.split_at_mut(HEADER_BYTES);
    header.copy_from_slice(&PLAIN_HEADER);
    let ip = ETHERNET_BYTES;
    if ethernet.get(12..ip) != Some(&IPV4[..]) || ethernet.get(ip + 9) != Some(&TCP) {
        return;
    }
    let start = ip + usize::from(ethernet[ip] & 15) * 4;
    let Some(length) = u32::try_from(ethernet.len() - start).ok().filter(|_| ethernet.len() >= start + 20) else {
        return;
    };
    let partial = fold(sum(&ethernet[ip + 12..ip + 20]) + u32::from(TCP) + length);
    ethernet[start + 16..start + 18].copy_from_slice(&partial.to_be_bytes());
    let headers = start + usize::from(ethernet[start + 12] >> 4) * 4;
    let little = |value: usize| u16::try_from(value).unwrap_or_default().to_le_bytes();
    header[0] = NEEDS_CHECKSUM;
    header[6..8].copy_from_slice(&little(start));
    header[8..10].copy_from_slice(&little(16));
    if let Some(size) = segment {
        header[1] = SEGMENTED_TCP4;
        header[2..4].copy_from_slice(&little(headers));
        header[4..6].copy_from_slice(&size.to_le_bytes());
    }
}
