//! Frames as bytes: what the guest's are about, and those that this network makes itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::{HEADER_BYTES, PLAIN_HEADER};
use super::{GATEWAY_MAC, Plan, dhcp};

const ETHERNET_BYTES: usize = 14;
const IPV4: [u8; 2] = [8, 0];
const IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const UDP_BYTES: usize = 8;
const TCP_BYTES: usize = 20;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
/// What neighbours say to each other comes from no farther away.
pub(super) const NEIGHBOUR_HOPS: u8 = 255;
/// The flag of a header that has a partial checksum in its frame.
const NEEDS_CHECKSUM: u8 = 1;
const SEGMENTED_TCP4: u8 = 1;

/// A datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Datagram<'f> {
    pub(super) source: SocketAddr,
    pub(super) target: SocketAddr,
    pub(super) data: &'f [u8],
}

/// What matters of a TCP segment here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) source: SocketAddr,
    pub(super) target: SocketAddr,
    /// It begins a stream: SYN without ACK.
    pub(super) begins: bool,
    /// Where its sender's stream stands behind it.
    pub(super) numbers: Numbers,
}

/// Sequence numbers of one end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Numbers {
    /// The next byte that it sends.
    next: u32,
    /// The next byte that it expects.
    expected: u32,
}

/// What an IP packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload<'f> {
    Udp(Datagram<'f>),
    Tcp(Segment),
    /// An ICMPv6 message, and how many hops its packet could still go.
    Icmpv6(&'f [u8], u8),
    Other,
}

/// A frame with an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parsed<'f> {
    pub(super) source_mac: [u8; 6],
    pub(super) source: IpAddr,
    pub(super) target: IpAddr,
    pub(super) payload: Payload<'f>,
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Looks into a frame; none if it has no whole IP packet.
pub(super) fn parse(frame: &[u8]) -> Option<Parsed<'_>> {
    let (ethernet, packet) = frame.split_at_checked(ETHERNET_BYTES)?;
    let source_mac = array(ethernet, 6)?;
    let (source, target, payload) = match (array(ethernet, 12)?, packet.first()? >> 4) {
        (IPV4, 4) => packet_v4(packet)?,
        (IPV6, 6) => packet_v6(packet)?,
        _ => return None,
    };
    Some(Parsed { source_mac, source, target, payload })
}

type Packet<'f> = (IpAddr, IpAddr, Payload<'f>);

/// RFC 791, 3.1. A fragment is something else than what it is a part of.
fn packet_v4(packet: &[u8]) -> Option<Packet<'_>> {
    let header = usize::from(packet.first()? & 15) * 4;
    let packet = packet.get(..usize::from(half(packet, 2)?))?;
    let payload = packet.get(header..).filter(|_| header >= IPV4_BYTES)?;
    let (source, target) = (array::<4>(packet, 12)?.into(), array::<4>(packet, 16)?.into());
    let whole = half(packet, 6)? & 0x3fff == 0;
    let payload = if whole { transport(packet[9], source, target, payload)? } else { Payload::Other };
    Some((source, target, payload))
}

/// RFC 8200, 3. What has extension headers is not looked into: neither streams nor datagrams of a guest have any.
fn packet_v6(packet: &[u8]) -> Option<Packet<'_>> {
    let payload = packet.get(IPV6_BYTES..)?.get(..usize::from(half(packet, 4)?))?;
    let (source, target) = (array::<16>(packet, 8)?.into(), array::<16>(packet, 24)?.into());
    let payload = match packet[6] {
        ICMPV6 => Payload::Icmpv6(payload, packet[7]),
        next => transport(next, source, target, payload)?,
    };
    Some((source, target, payload))
}

fn transport(next: u8, source: IpAddr, target: IpAddr, payload: &[u8]) -> Option<Payload<'_>> {
    let ends = || Some((SocketAddr::new(source, half(payload, 0)?), SocketAddr::new(target, half(payload, 2)?)));
    Some(match next {
        UDP => {
            let (source, target) = ends()?;
            let length = usize::from(half(payload, 4)?);
            Payload::Udp(Datagram { source, target, data: payload.get(UDP_BYTES..length)? })
        }
        TCP => {
            let (source, target) = ends()?;
            // SYN is bit 1, RST bit 2, ACK bit 4.
            let begins = payload.get(13)? & 0b1_0110 == 0b10;
            Payload::Tcp(Segment { source, target, begins, numbers: numbers(payload)? })
        }
        _ => Payload::Other,
    })
}

fn numbers(segment: &[u8]) -> Option<Numbers> {
    let header = usize::from(segment.get(12)? >> 4) * 4;
    let length = u32::try_from(segment.len().checked_sub(header)?).ok()?;
    let word = |at| array(segment, at).map(u32::from_be_bytes);
    Some(Numbers { next: word(4)?.wrapping_add(length), expected: word(8)? })
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

/// The Ethernet header of a frame to the guest, with the one of virtio in front.
fn ethernet(mac: [u8; 6], kind: [u8; 2]) -> Vec<u8> {
    [&PLAIN_HEADER[..], &mac, &GATEWAY_MAC, &kind].concat()
}

/// An IPv4 header, and the sum of its part of the checksum of what follows.
fn header_v4(source: Ipv4Addr, target: Ipv4Addr, next: u8, length: usize) -> Option<(Vec<u8>, u32)> {
    let total = u16::try_from(IPV4_BYTES + length).ok()?;
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, next, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[12..16].copy_from_slice(&source.octets());
    ip[16..].copy_from_slice(&target.octets());
    let checksum = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    Some((ip.to_vec(), sum(&ip[12..])))
}

/// The same of IPv6.
fn header_v6(source: Ipv6Addr, target: Ipv6Addr, next: u8, hops: u8, length: usize) -> Option<(Vec<u8>, u32)> {
    let length = u16::try_from(length).ok()?;
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend(length.to_be_bytes());
    ip.extend([next, hops]);
    ip.extend(source.octets());
    ip.extend(target.octets());
    let pseudo = sum(&ip[8..]);
    Some((ip, pseudo))
}

/// The Ethernet and the IP header of a packet between two ends, which have to be of the same kind, and the sum for what follows.
fn headers(mac: [u8; 6], ends: (SocketAddr, SocketAddr), next: u8, length: usize) -> Option<(Vec<u8>, u32)> {
    let (kind, (ip, pseudo)) = match (ends.0.ip(), ends.1.ip()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => (IPV4, header_v4(source, target, next, length)?),
        (IpAddr::V6(source), IpAddr::V6(target)) => (IPV6, header_v6(source, target, next, 64, length)?),
        _ => return None,
    };
    let pseudo = pseudo + u32::from(next) + u32::try_from(length).ok()?;
    Some(([&ethernet(mac, kind)[..], &ip].concat(), pseudo))
}

/// A frame to the guest that has it say where its end of a stream stands: RFC 9293, 3.8.4.
pub(super) fn keep_alive(mac: [u8; 6], source: SocketAddr, target: SocketAddr, guest: Numbers) -> Option<Vec<u8>> {
    let mut tcp = [0; TCP_BYTES];
    let (headers, pseudo) = headers(mac, (source, target), TCP, tcp.len())?;
    tcp[..2].copy_from_slice(&source.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&target.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&guest.expected.wrapping_sub(1).to_be_bytes());
    tcp[8..12].copy_from_slice(&guest.next.to_be_bytes());
    // The header's length, and ACK.
    tcp[12..14].copy_from_slice(&[0x50, 0x10]);
    let checksum = !fold(pseudo + sum(&tcp));
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    Some([&headers[..], &tcp].concat())
}

/// A frame to the guest with a datagram, behind a virtio header. None if the datagram is too long for a packet, or its ends are of different kinds.
pub(super) fn datagram(mac: [u8; 6], source: SocketAddr, target: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
    let length = UDP_BYTES + data.len();
    let (headers, pseudo) = headers(mac, (source, target), UDP, length)?;
    let length = u16::try_from(length).ok()?;
    let mut udp = [0; UDP_BYTES];
    udp[..2].copy_from_slice(&source.port().to_be_bytes());
    udp[2..4].copy_from_slice(&target.port().to_be_bytes());
    udp[4..6].copy_from_slice(&length.to_be_bytes());
    // Zero would say that there is none.
    let checksum = match !fold(pseudo + sum(&udp) + sum(data)) {
        0 => u16::MAX,
        checksum => checksum,
    };
    udp[6..].copy_from_slice(&checksum.to_be_bytes());
    Some([&headers[..], &udp, data].concat())
}

/// A frame to the guest with an ICMPv6 message of a neighbour, whose checksum is still to be made.
pub(super) fn message(mac: [u8; 6], source: Ipv6Addr, target: Ipv6Addr, mut message: Vec<u8>) -> Option<Vec<u8>> {
    let (ip, pseudo) = header_v6(source, target, ICMPV6, NEIGHBOUR_HOPS, message.len())?;
    let length = u32::try_from(message.len()).ok()?;
    let checksum = !fold(pseudo + u32::from(ICMPV6) + length + sum(&message));
    message.get_mut(2..4)?.copy_from_slice(&checksum.to_be_bytes());
    Some([&ethernet(mac, IPV6)[..], &ip, &message].concat())
}

/// A frame with a DHCP server's answer, to whoever has no address yet.
pub(super) fn dhcp_answer(plan: &Plan, mac: [u8; 6], answer: &[u8]) -> Vec<u8> {
    let source = SocketAddr::new(plan.gateway().into(), dhcp::SERVER_PORT);
    let target = SocketAddr::new(Ipv4Addr::BROADCAST.into(), dhcp::CLIENT_PORT);
    datagram(mac, source, target, answer).unwrap_or_default()
}

/// Where TCP begins in a frame, and the sum of its addresses; none if it has no TCP.
fn tcp_of(ethernet: &[u8]) -> Option<(usize, u32)> {
    let ip = ETHERNET_BYTES;
    match array(ethernet, 12)? {
        IPV4 if ethernet.get(ip + 9) == Some(&TCP) => {
            let start = ip + usize::from(ethernet[ip] & 15) * 4;
            Some((start, sum(ethernet.get(ip + 12..ip + IPV4_BYTES)?)))
        }
        IPV6 if ethernet.get(ip + 6) == Some(&TCP) => {
            Some((ip + IPV6_BYTES, sum(ethernet.get(ip + 8..ip + IPV6_BYTES)?)))
        }
        _ => None,
    }
}

/// Completes a frame with room for a header in front that the driver takes without a TCP checksum, and perhaps in a large
/// segment.
pub(super) fn offload(frame: &mut [u8], segment: Option<u16>) {
    let (header, ethernet) = frame.split_at_mut(HEADER_BYTES);
    header.copy_from_slice(&PLAIN_HEADER);
    let Some((start, pseudo)) = tcp_of(ethernet).filter(|(start, _)| ethernet.len() >= start + 20) else {
        return;
    };
    let Ok(length) = u32::try_from(ethernet.len() - start) else { return };
    let partial = fold(pseudo + u32::from(TCP) + length);
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
